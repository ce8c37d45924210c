"""MATLAB files (``save -v7`` and older) as SciPy reads them, with errors that name the file."""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat

from person_search.errors import DataError

_loadmat: Any = loadmat  # its stubs know neither file objects nor all options
Value = NDArray[Any]
"""Numbers, text (one character an element), a cell array (of objects) or a struct array (with named fields)."""


def read_bytes(path: Path | str, layout: str = "") -> bytes:
    """Contents of ``path``. Raises DataError; where the file is missing, ``layout`` says what was expected."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except FileNotFoundError:
        raise DataError(f"missing file '{path}'{'; expected ' + layout if layout else ''}") from None
    except OSError as error:
        raise DataError(f"cannot read '{path}': {error.strerror or error}") from None


def damaged(path: Path | str, what: str) -> DataError:
    """An error that says what is wrong with the contents of ``path``."""
    return DataError(f"'{path}' is damaged: {what}; fetch or make it again")


def load(contents: bytes, path: Path | str, *names: str) -> Value:
    """The first of the variables ``names`` in the ``contents`` of the file ``path``.

    Raises DataError for contents that SciPy cannot read and when none of the variables is there.
    """
    if contents[:10] == b"MATLAB 7.3" or contents[:8] == b"\x89HDF\r\n\x1a\n":
        raise damaged(path, "it is a MATLAB 7.3 file; save it with -v7")
    try:
        with warnings.catch_warnings():
            # SciPy only warns of a variable that it cannot read, and puts a message in its place.
            warnings.simplefilter("error")
            # Text as characters: joining them here takes a fraction of the time that SciPy takes.
            found = _loadmat(BytesIO(contents), chars_as_strings=False, uint16_codec="utf-16-le")
    except Exception as error:  # whatever the bytes lead SciPy to: it promises no kind of error for damaged files
        raise damaged(path, f"SciPy cannot read it ({' '.join(str(error).split())})") from None
    for name in names:
        if name in found:
            return np.asarray(found[name])
    there = [name for name in found if not name.startswith("__")]
    raise damaged(path, f"expected the variable {' or '.join(names)}, found {', '.join(there) or 'none'}")


def text(value: Value, path: Path | str) -> str:
    """A char array of one row as ``str``."""
    if value.size == 0:
        return ""
    if value.dtype.kind != "U" or value.size != value.shape[-1]:
        raise damaged(path, "expected text, found another kind of value")
    return value.tobytes().decode("utf-32")


def numbers(value: Value, path: Path | str) -> NDArray[np.float64]:
    """A numeric array as float64 in its own shape; empty for an empty array of any kind."""
    if value.size == 0:
        return np.zeros(value.shape)
    if value.dtype.kind not in "iufb":
        raise damaged(path, "expected numbers, found another kind of value")
    return value.astype(np.float64)


def cells(value: Value, path: Path | str) -> list[Value]:
    """The values in a cell array."""
    if value.size and (value.dtype.kind != "O" or value.dtype.names is not None):
        raise damaged(path, "expected a cell array, found another kind of value")
    return value.ravel(order="F").tolist() if value.size else []


def columns(value: Value, path: Path | str, *fields: str) -> list[list[Value]]:
    """``fields`` of all elements of a struct array, or of a cell array that holds struct arrays: one list a field."""
    if value.size == 0:
        return [[] for _ in fields]
    if value.dtype.names is None:
        if value.dtype.kind != "O":
            raise damaged(path, "expected a struct array, found another kind of value")
        parts = [columns(cell, path, *fields) for cell in cells(value, path)]
        return [[item for part in parts for item in part[column]] for column in range(len(fields))]
    for field in fields:
        if field not in value.dtype.names:
            raise damaged(path, f"expected the field '{field}', found {', '.join(value.dtype.names)}")
    return [value[field].ravel(order="F").tolist() for field in fields]
