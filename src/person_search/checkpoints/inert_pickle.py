"""Read tensors out of a pickled checkpoint without running anything that it names.

Released checkpoints hold objects (settings, a learning-rate scheduler) beside their tensors. torch's own reader of
tensors, ``weights_only``, refuses the first name that it does not know; here every such name is given a stand-in that
does nothing, one after the other, until the file is read or refused.
"""

from __future__ import annotations

import pickle
import re
import sys
from _compat_pickle import IMPORT_MAPPING
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from person_search.checkpoints.torch_files import check_torch_file
from person_search.errors import CheckpointError, first_line

HARMLESS_LIBRARY = {
    "_codecs", "argparse", "builtins", "collections", "copyreg", "dataclasses", "datetime", "decimal", "enum",
    "fractions", "functools", "numbers", "operator", "pathlib", "typing", "uuid",
}  # fmt: skip
"""Of the standard library, what objects in a training state are made of. A file that names more wants more."""
REFUSED_BUILTINS = {"eval", "exec", "compile", "open", "__import__", "input", "breakpoint", "setattr", "delattr"}
MAX_NAMES = 500
"""A file that names more classes than this is refused: it is read once more for each."""


class _LikeCounter(type):
    """The type of ``Inert``: equal to ``Counter``, for the reader sets items of dict, OrderedDict and Counter alone.

    Every file may name ``Counter``, so that nothing else is permitted by this.
    """

    def __eq__(cls, other: object) -> bool:
        return cls is other or other is Counter

    def __hash__(cls) -> int:
        return id(cls)


class Inert(list[Any], metaclass=_LikeCounter):
    """Stands for any object that a file names: takes whatever it is given and keeps nothing.

    It is a list, for the reader appends to nothing else.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__()

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        """Take part in unpickling a list subclass."""

    def extend(self, values: Any) -> None:
        """Take part in unpickling a list subclass."""


def load_inert(path: Path) -> Any:
    """The contents of a ``torch.save``d file, objects that are no tensors or plain values replaced by ``Inert``.

    Raises CheckpointError when the file is damaged or asks for something that no training state needs.
    """
    check_torch_file(path)
    names: set[str] = set()
    while len(names) <= MAX_NAMES:
        try:
            with torch.serialization.safe_globals([(Inert, name) for name in names]):
                return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            # Files from before torch 1.6 cannot be asked for their names; the reader tells the first it does not know.
            reason = str(error)
            found = re.search(r"GLOBAL (\S+) (?:was not an allowed|whose module)", reason)
            name = found[1] if found else ""
            # Of builtins the reader leaves out the module.
            name = name if "." in name else f"builtins.{name}"
            if found and _is_code(name):
                reason = f"it contains pickled code ({name})"
            elif found and name not in names:
                names.add(name)
                continue
            else:
                reason = f"torch's reader of weights does not take it ({_gist(error)})"
            raise CheckpointError(f"checkpoint '{path}' is refused: {reason}; nothing of it was executed") from None
        except Exception as error:  # whatever the bytes lead the reader to: it promises no kind of error for them
            raise CheckpointError(f"checkpoint '{path}' is cut short or damaged: {_gist(error)}") from None
    raise CheckpointError(
        f"checkpoint '{path}' is refused: it names more than {MAX_NAMES} classes, as no file of weights does; "
        "nothing of it was executed"
    )


def _is_code(name: str) -> bool:
    """Whether ``name``, with its module, is a part of the standard library that no training state needs."""
    module, _, part = name.rpartition(".")
    # torch writes pickles of protocol 2, which call modules of the standard library as Python 2 did.
    root = IMPORT_MAPPING.get(module, module).partition(".")[0]
    if root == "builtins":
        return part in REFUSED_BUILTINS
    return root in sys.stdlib_module_names and root not in HARMLESS_LIBRARY


def _gist(error: Exception) -> str:
    """One line of an error of torch's: what its reader said, without the advice around it."""
    inner = re.search(r"WeightsUnpickler error:\s*(.+)", str(error))
    return inner[1] if inner else first_line(error)
