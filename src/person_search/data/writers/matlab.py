"""Values nested as MATLAB nests them, ready for ``scipy.io.savemat``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Nested = NDArray[Any]


def cell(values: Iterable[Any]) -> Nested:
    """A 1 x N cell array."""
    items = list(values)
    array = np.empty((1, len(items)), dtype=object)
    for number, value in enumerate(items):
        array[0, number] = value
    return array


def struct(rows: Sequence[Sequence[Any]], fields: Sequence[str]) -> Nested:
    """A 1 x N struct array, one row of field values each."""
    array = np.empty((1, len(rows)), dtype=[(field, object) for field in fields])
    for number, row in enumerate(rows):
        array[0, number] = tuple(row)
    return array


def row_vector(values: Iterable[float]) -> NDArray[np.float64]:
    """1 x N doubles; 1 x 0 when there are none, which is how the published files write a missing box."""
    return np.array([list(values)], dtype=np.float64)


def save(path: Path, variables: Mapping[str, Any]) -> None:
    """Write ``variables`` to ``path`` (MATLAB 5 format, compressed), making its folder. Raises OSError."""
    # SciPy takes a while to import, and other layouts do without.
    from scipy.io import savemat

    path.parent.mkdir(parents=True, exist_ok=True)
    # appendmat off: the names end in .mat already.
    savemat(str(path), dict(variables), appendmat=False, do_compression=True)
