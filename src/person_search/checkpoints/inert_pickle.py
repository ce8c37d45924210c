"""Read tensors out of a pickled checkpoint without running anything that it names.

Released checkpoints hold objects (settings, a learning-rate scheduler) beside their tensors. torch's own reader of
tensors, ``weights_only``, refuses the first name that it does not know; here every such name is given a stand-in that
does nothing, one after the other, until the file is read or refused.
"""

from __future__ import annotations

import re
import sys
from _compat_pickle import IMPORT_MAPPING
from collections import OrderedDict
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from person_search.checkpoints.torch_files import torch_file
from person_search.errors import CheckpointError, first_line

MOST_NAMES = 500
"""A file that names more classes than this is no checkpoint."""
HARMLESS_LIBRARY = {
    "_codecs", "argparse", "builtins", "collections", "copyreg", "dataclasses", "datetime", "decimal", "enum",
    "fractions", "functools", "numbers", "operator", "pathlib", "typing", "uuid",
}  # fmt: skip
"""Of the standard library, what objects in a training state are made of. A file that names more wants more."""
REFUSED_BUILTINS = {"eval", "exec", "compile", "open", "__import__", "input", "breakpoint", "setattr", "delattr"}
# What the reader says. In the file, its format before torch 1.6 included, names can be found in no other way.
_UNKNOWN = re.compile(r"GLOBAL (.*) was not an allowed global by default")
_BLOCKED = re.compile(r"unsupported GLOBAL (.*) whose module .* is blocked")
_NO_DICT = re.compile(r"Can only SETITEMS? for dict.* but got <class 'inert:(.*)'>")
_NO_LIST = re.compile(r"Can only append to lists, but got <class 'inert:(.*)'>")


class Inert:
    """Stands for any object that a file names: takes whatever it is given and keeps nothing."""

    def __new__(cls, *args: Any) -> Inert:
        """Whatever the class of the file wants to be made with."""
        return super().__new__(cls)

    def __init__(self, *args: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class InertDict:
    """Stands for a class whose objects the file fills like a dict: the reader fills no other kind than these two."""

    def __new__(cls, *args: Any) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        """An empty one, whatever the class of the file wants to be made with."""
        return OrderedDict()


class InertList:
    """The same for one whose objects are filled like a list."""

    def __new__(cls, *args: Any) -> list[Any]:  # type: ignore[misc]
        """An empty one, whatever the class of the file wants to be made with."""
        return []


def load_inert(path: Path) -> Any:
    """The contents of a ``torch.save``d file; of objects that are no tensors and plain values nothing is left.

    Raises CheckpointError when the file is damaged or names what no training state needs.
    """
    stand_ins: dict[str, type] = {}
    for _ in range(MOST_NAMES):
        source = torch_file(path)
        allowed: list[Any] = [(kind, name) for name, kind in stand_ins.items()]
        try:
            with torch.serialization.safe_globals(allowed):
                return torch.load(source, map_location="cpu", weights_only=True)
        except UnpicklingError as error:
            name, kind = _wanted(str(error))
            if name and (kind is None or _is_code(name)):
                raise CheckpointError(
                    f"checkpoint '{path}' is refused: it contains pickled code ({name}); nothing of it was executed"
                ) from None
            if kind is None or stand_ins.get(name) is kind:
                raise _damaged(path, error) from None
            stand_ins[name] = kind
        except Exception as error:  # whatever damaged bytes lead the reader to
            raise _damaged(path, error) from None
    raise CheckpointError(f"checkpoint '{path}' is refused: it names more than {MOST_NAMES} classes")


def _damaged(path: Path, error: Exception) -> CheckpointError:
    # What torch advises its own users would be no advice here: it can run what is in the file.
    said = first_line(error) if "weights_only" not in str(error) else "torch's reader of tensors cannot follow it"
    return CheckpointError(f"checkpoint '{path}' is cut short or damaged: {said}")


def _wanted(said: str) -> tuple[str, type | None]:
    """The name that the reader stopped at, ``"module.name"``, and what may stand for it; None: nothing may."""
    if found := _BLOCKED.search(said):
        return found[1], None
    if found := _UNKNOWN.search(said):
        # The reader leaves out which module the built-in functions are in.
        name = found[1] if "." in found[1] else f"builtins.{found[1]}"
        return name, type(f"inert:{name}", (Inert,), {"__module__": "builtins"})
    if found := _NO_DICT.search(said):
        return found[1], InertDict
    if found := _NO_LIST.search(said):
        return found[1], InertList
    return "", None


def _is_code(name: str) -> bool:
    """Whether ``name`` is a part of the standard library that no training state needs."""
    module, _, rest = name.partition(".")
    # Pickles of protocol 2, torch's own, call the standard library by its names in Python 2.
    root = IMPORT_MAPPING.get(module, module).split(".")[0]
    if root == "builtins":
        return rest in REFUSED_BUILTINS
    return root in sys.stdlib_module_names and root not in HARMLESS_LIBRARY
