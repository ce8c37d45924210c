"""Read tensors out of a pickled checkpoint without running anything that it names.

``torch.load(weights_only=True)`` refuses files that hold pickled objects. The reference's checkpoints hold one (a
learning-rate scheduler) beside their tensors, so they are read with an unpickler that knows the tensor machinery
and turns every other name into a placeholder that does nothing.
"""

from __future__ import annotations

import pickle
import types
import zipfile
from pathlib import Path
from typing import Any

import torch

from person_search.errors import CheckpointError

TENSOR_MACHINERY = {
    "collections": {"OrderedDict"},
    "torch": {"Size", "device"},
    "torch._utils": {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter"},
    "torch.nn.parameter": {"Parameter"},
    "torch.serialization": {"_get_layout"},
    "torch.storage": {"UntypedStorage", "TypedStorage"},
}
# Names that no training state needs: a file that asks for them wants something else.
REFUSED_MODULES = {
    "os", "posix", "nt", "subprocess", "sys", "shutil", "socket", "runpy", "importlib", "ctypes", "pty", "pickle",
    "webbrowser", "code", "multiprocessing", "threading", "signal", "urllib", "http", "ftplib", "tempfile", "pathlib",
}  # fmt: skip
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


class InertUnpickler(pickle.Unpickler):
    """An unpickler that resolves names of the tensor machinery only; every other one is ``Inert``."""

    def find_class(self, module: str, name: str) -> Any:
        """The named part of the tensor machinery, or ``Inert``. Raises CheckpointError for names of attacks."""
        if name in TENSOR_MACHINERY.get(module, ()) or (module == "torch" and name.endswith(("Storage", "Tensor"))):
            return super().find_class(module, name)
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        root = module.split(".")[0]
        if root in REFUSED_MODULES or (root in {"builtins", "__builtin__"} and name in REFUSED_BUILTINS):
            raise CheckpointError(f"it contains pickled code ({module}.{name}); nothing of it was executed")
        return Inert


def _load(file: Any, **options: Any) -> Any:
    return InertUnpickler(file, **options).load()


_MODULE = types.ModuleType("inert_pickle")
_MODULE.__dict__.update(Unpickler=InertUnpickler, load=_load, UnpicklingError=pickle.UnpicklingError)


def load_inert(path: Path) -> Any:
    """The contents of a ``torch.save``d file, objects outside the tensor machinery replaced by ``Inert``.

    Raises CheckpointError when the file is damaged or asks for something that no training state needs.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                    raise CheckpointError("it is a TorchScript program; nothing of it was executed")
        return torch.load(path, map_location="cpu", weights_only=False, pickle_module=_MODULE)
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint '{path}' is refused: {error}") from None
    except Exception as error:
        message = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"checkpoint '{path}' is damaged or no checkpoint: {message}") from None
