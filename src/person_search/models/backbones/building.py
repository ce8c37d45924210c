"""From a name and settings to a backbone."""

from __future__ import annotations

from person_search.errors import UsageError, nearest
from person_search.models.backbones.backbone import Backbone, Cut
from person_search.registry import backbones


def build_backbone(
    name: str, *, cut: Cut, width: float = 1.0, flavour: str = "torchvision", weights: str = "none"
) -> Backbone:
    """The backbone known as ``name``; see ``Backbone`` for the settings.

    Raises UsageError for an unknown name or a setting that it does not have, CheckpointError when weights cannot be
    had or are of another network.
    """
    if not backbones.knows(name):
        import timm

        known = backbones.names()
        hint = nearest(name, [*known, *(f"timm:{model}" for model in timm.list_models())])
        raise UsageError(
            f"unknown backbone '{name}'; known: {', '.join(known)} (any of timm's networks that has stages), and those "
            f"of modules given by --plugins.{hint}"
        )
    family: type[Backbone] = backbones.get(name)
    return family(name, cut=cut, width=width, flavour=flavour, weights=weights)
