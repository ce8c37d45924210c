"""Names for methods, datasets, re-ID losses and backbones, and the decorators that add to them.

A new one is one registered class, in this package or in anybody's: packages that
declare an entry point in the group ``person_search.plugins`` are imported before a name is looked up, and so are
modules that the setting ``plugins`` names.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from person_search.errors import UsageError, nearest

Registered = TypeVar("Registered", bound=type)

PLUGIN_GROUP = "person_search.plugins"


class Registry:
    """Classes by name. Built-in ones are given as ``"module:Class"`` and imported only when asked for.

    A class says by its attribute ``Settings`` what settings there are where it is chosen.

    Args:
        kind: what is registered, in words.
        builtin: name -> class.
        settings: name -> settings class of built-in ones, so that they can be read without importing these.
        usual_settings: the settings class of what says nothing.
    """

    def __init__(self, kind: str, builtin: dict[str, str], *, settings: dict[str, str], usual_settings: str):
        self.kind = kind
        self._builtin = builtin
        self._settings = settings
        self._usual_settings = usual_settings
        self._registered: dict[str, type] = {}

    def register(self, name: str) -> Callable[[Registered], Registered]:
        """Class decorator: make the class known as ``name``. Raises ValueError when the name is taken."""

        def add(cls: Registered) -> Registered:
            taken = self._registered.get(name)
            if taken is not None and taken is not cls:
                raise ValueError(f"{self.kind} '{name}' is already registered as {taken.__qualname__}")
            if (
                self._builtin.get(name, f"{cls.__module__}:{cls.__qualname__}")
                != f"{cls.__module__}:{cls.__qualname__}"
            ):
                raise ValueError(f"{self.kind} '{name}' is built in; choose another name")
            self._registered[name] = cls
            return cls

        return add

    def names(self) -> list[str]:
        """All known names, sorted."""
        load_plugins()
        return sorted({*self._builtin, *self._registered})

    def knows(self, name: str) -> bool:
        """Whether ``get`` finds a class."""
        return not {name, _family(name)}.isdisjoint(self.names())

    def get(self, name: str) -> Any:
        """The class known as ``name`` or, of a family such as ``timm:NAME``, for all names that begin like it.

        Raises UsageError, with the nearest known name, when there is none.
        """
        load_plugins()
        for key in (name, _family(name)):
            if key in self._registered:
                return self._registered[key]
            if key in self._builtin:
                return _imported(self._builtin[key])
        known = self.names()
        hint = nearest(name, known) or " One of your own is known once its module is imported: `plugins` MODULE."
        raise UsageError(f"unknown {self.kind} '{name}'; known: {', '.join(known)}.{hint}")

    def settings(self, name: str) -> Any:
        """The settings class of what is known as ``name``. Raises UsageError as ``get`` does."""
        load_plugins()
        for key in (name, _family(name)):
            if key in self._builtin and key not in self._registered:
                return _imported(self._settings.get(key, self._usual_settings))
        return getattr(self.get(name), "Settings", None) or _imported(self._usual_settings)


def _imported(place: str) -> Any:
    """The attribute of a module that ``"module:attribute"`` names."""
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _family(name: str) -> str:
    """``timm:NAME`` for ``timm:swin``; the name itself where it has no colon."""
    prefix, colon, _ = name.partition(":")
    return f"{prefix}:NAME" if colon else name


@functools.cache
def load_plugins() -> None:
    """Import every installed plug-in once; what they register is then known."""
    for entry_point in importlib.metadata.entry_points(group=PLUGIN_GROUP):
        try:
            entry_point.load()
        except Exception as error:
            raise UsageError(
                f"the installed plug-in '{entry_point.name}' ({entry_point.value}) fails with "
                f"{type(error).__name__}: {error}; repair or uninstall it"
            ) from error


def import_modules(names: Iterable[str]) -> None:
    """Import modules that register something. Raises UsageError for one that is not there."""
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UsageError(
                f"cannot import plug-in '{name}': {error}; install its package, or name its folder in PYTHONPATH"
            ) from error


methods = Registry(
    "method",
    {
        "baseline": "person_search.models.baseline:Baseline",
        "oim": "person_search.models.oim:OIM",
        "nae": "person_search.models.nae:NAE",
        "nae4ps": "person_search.models.nae4ps:NAE4PS",
        "nae-plus": "person_search.models.nae_plus:NAEPlus",
        "seqnet": "person_search.models.seqnet:SeqNet",
        "seqnext": "person_search.models.seqnext:SeqNeXt",
        "oimnet++": "person_search.models.oimnetpp:OIMNetPlusPlus",
        "oimnet+++": "person_search.models.oimnetpp:OIMNetPlusPlusPlus",
        "coat": "person_search.models.coat:COAT",
    },
    settings={
        "baseline": "person_search.models.method_settings:BaselineSettings",
        "oim": "person_search.models.method_settings:OimSettings",
        "nae": "person_search.models.method_settings:NaeSettings",
        "nae4ps": "person_search.models.method_settings:Nae4psSettings",
        "nae-plus": "person_search.models.method_settings:NaePlusSettings",
        "seqnet": "person_search.models.method_settings:SeqNetSettings",
        "seqnext": "person_search.models.method_settings:SeqNeXtSettings",
        "oimnet++": "person_search.models.method_settings:OimNetPlusPlusSettings",
        "oimnet+++": "person_search.models.method_settings:OimNetPlusPlusPlusSettings",
        "coat": "person_search.models.method_settings:CoatSettings",
    },
    usual_settings="person_search.config:MethodSettings",
)
datasets = Registry(
    "dataset",
    {
        "synthetic": "person_search.data.synthetic:SyntheticDataset",
        "coco": "person_search.data.coco:CocoDataset",
        "mot": "person_search.data.mot:MotDataset",
        "cuhk-sysu": "person_search.data.cuhk_sysu:CuhkSysuDataset",
        "ssm": "person_search.data.cuhk_sysu:CuhkSysuDataset",
        "prw": "person_search.data.prw:PrwDataset",
    },
    settings={
        "synthetic": "person_search.data.settings:CocoSettings",
        "coco": "person_search.data.settings:CocoSettings",
        "mot": "person_search.data.settings:MotSettings",
        "prw": "person_search.data.settings:PrwSettings",
    },
    usual_settings="person_search.config:DataConfig",
)
losses = Registry(
    "re-ID loss",
    {
        "oim": "person_search.models.oim_loss:OIMLoss",
        "oim-sequential": "person_search.models.sequential_oim_loss:SequentialOIMLoss",
        "oim-safe": "person_search.models.sequential_oim_loss:SafeOIMLoss",
        "loim": "person_search.models.loim_loss:LOIMLoss",
        "softmax": "person_search.models.softmax_loss:SoftmaxLoss",
        "softmax-bn": "person_search.models.softmax_loss:NormalisedSoftmaxLoss",
    },
    settings={
        "oim": "person_search.models.settings:OimLossSettings",
        "oim-sequential": "person_search.models.settings:SequentialOimLossSettings",
        "oim-safe": "person_search.models.settings:SafeOimLossSettings",
        "loim": "person_search.models.settings:LoimLossSettings",
        "softmax": "person_search.models.settings:LossSettings",
        "softmax-bn": "person_search.models.settings:LossSettings",
    },
    usual_settings="person_search.models.settings:LossSettings",
)

backbones = Registry(
    "backbone",
    {
        "resnet18": "person_search.models.backbones.resnet:ResNet",
        "resnet34": "person_search.models.backbones.resnet:ResNet",
        "resnet50": "person_search.models.backbones.resnet:ResNet",
        "resnet101": "person_search.models.backbones.resnet:ResNet",
        "convnext_tiny": "person_search.models.backbones.convnext:ConvNeXtBackbone",
        "convnext_small": "person_search.models.backbones.convnext:ConvNeXtBackbone",
        "convnext_base": "person_search.models.backbones.convnext:ConvNeXtBackbone",
        "convnext_large": "person_search.models.backbones.convnext:ConvNeXtBackbone",
        "timm:NAME": "person_search.models.backbones.timm_network:TimmNetwork",
    },
    settings={
        **dict.fromkeys(
            ("resnet18", "resnet34", "resnet50", "resnet101"), "person_search.models.settings:ResNetSettings"
        ),
        **dict.fromkeys(
            ("convnext_tiny", "convnext_small", "convnext_base", "convnext_large"),
            "person_search.models.settings:ConvNeXtSettings",
        ),
    },
    usual_settings="person_search.models.settings:BackboneSettings",
)

register_method = methods.register
register_dataset = datasets.register
register_loss = losses.register
register_backbone = backbones.register
