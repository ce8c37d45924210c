"""Read tensors out of a pickled checkpoint without running anything that it names.

``torch.load(weights_only=True)`` refuses files that hold pickled objects. The reference's checkpoints hold one (a
learning-rate scheduler) beside their tensors, so they are read with an unpickler that knows the tensor machinery
and turns every other name into a placeholder that does nothing.
"""

from __future__ import annotations

import pickle
import sys
import types
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from pathlib import Path
from typing import Any

import torch

from person_search.checkpoints.torch_files import torch_file
from person_search.errors import CheckpointError

TENSOR_MACHINERY = {
    "collections": {"OrderedDict"},
    "torch": {"Size", "device"},
    "torch._utils": {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter"},
    "torch.serialization": {"_get_layout"},
}
"""Names that files of tensors need; ``torch.load`` itself resolves those of storages."""
HARMLESS_LIBRARY = {
    "_codecs", "argparse", "builtins", "collections", "copyreg", "dataclasses", "datetime", "decimal", "enum",
    "fractions", "functools", "numbers", "operator", "typing", "uuid",
}  # fmt: skip
"""Of the standard library, what objects in a training state are made of. A file that names more wants more."""
REFUSED_BUILTINS = {"eval", "exec", "compile", "open", "__import__", "input", "breakpoint", "setattr", "delattr"}


class Inert:
    """Stands for any object that a file names: takes whatever it is given and keeps nothing."""

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> Inert:
        return self

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        """Take part in unpickling a list subclass."""

    def extend(self, values: Any) -> None:
        """Take part in unpickling a list subclass."""


class Allowed:
    """A part of the tensor machinery as unpickling sees it: it can be called, and nothing else."""

    __slots__ = ("_part",)

    def __init__(self, part: Any):
        self._part = part

    def __call__(self, *args: Any) -> Any:
        return self._part(*args)

    def __setstate__(self, state: Any) -> None:
        # A pickle may set attributes of whatever it has at hand; those of torch's own functions stay as they are.
        pass


class InertUnpickler(pickle.Unpickler):
    """An unpickler that resolves names of the tensor machinery only; every other one is ``Inert``."""

    def find_class(self, module: str, name: str) -> Any:
        """The named part of the tensor machinery, or ``Inert``. Raises CheckpointError for names of attacks."""
        if name in TENSOR_MACHINERY.get(module, ()):
            return Allowed(super().find_class(module, name))
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if _is_code(module, name):
            raise CheckpointError(f"it contains pickled code ({module}.{name}); nothing of it was executed")
        return Inert


def _is_code(module: str, name: str) -> bool:
    """Whether ``module.name`` is a part of the standard library that no training state needs."""
    # Pickles of protocol 2, torch's own, call the standard library by its names in Python 2.
    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    root = module.split(".")[0]
    if root == "builtins":
        return name in REFUSED_BUILTINS
    return root in sys.stdlib_module_names and root not in HARMLESS_LIBRARY


def _load(file: Any, **options: Any) -> Any:
    return InertUnpickler(file, **options).load()


_MODULE = types.ModuleType("inert_pickle")
_MODULE.__dict__.update(Unpickler=InertUnpickler, load=_load, UnpicklingError=pickle.UnpicklingError)


def load_inert(path: Path) -> Any:
    """The contents of a ``torch.save``d file, objects outside the tensor machinery replaced by ``Inert``.

    Raises CheckpointError when the file is damaged or asks for something that no training state needs.
    """
    source = torch_file(path)
    try:
        return torch.load(source, map_location="cpu", weights_only=False, pickle_module=_MODULE)
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint '{path}' is refused: {error}") from None
    except Exception as error:
        message = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"checkpoint '{path}' is cut short or damaged: {message}") from None
