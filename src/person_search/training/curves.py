"""The curves of a run: rows in ``metrics.jsonl``, scalars and pictures in TensorBoard."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter

from person_search.errors import PersonSearchError
from person_search.runtime.files import atomic_write_text

METRICS = "metrics.jsonl"


class Curves:
    """Writes the curves of the run in ``run_dir``.

    A resumed run continues from step ``from_step``: what was written after it, and a last line that was cut short,
    goes, so that no step is there twice.
    """

    def __init__(self, run_dir: Path, *, from_step: int = 0):
        self._path = run_dir / METRICS
        try:
            atomic_write_text(self._path, "".join(f"{json.dumps(row)}\n" for row in rows_until(self._path, from_step)))
            self._writer: Any = SummaryWriter(str(run_dir / "tensorboard"), purge_step=from_step + 1)
        except OSError as error:
            raise self._failure(error) from None

    def add(self, *, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """One row; values that are not finite are left out of it."""
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, "epoch": epoch} | finite) + "\n")
            for name, value in finite.items():
                self._writer.add_scalar(name, value, step)
        except OSError as error:
            raise self._failure(error) from None

    def add_picture(self, name: str, picture: NDArray[np.uint8], *, step: int) -> None:
        """A (H, W, 3) uint8 RGB picture for TensorBoard."""
        self._writer.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        """Write what is still in memory."""
        try:
            self._writer.close()
        except OSError as error:
            raise self._failure(error) from None

    def _failure(self, error: OSError) -> PersonSearchError:
        return PersonSearchError(
            f"cannot write the curves in '{self._path.parent}': {error.strerror}; make room or check its permissions, "
            "then resume"
        )


def rows_until(path: Path, step: int) -> list[dict[str, Any]]:
    """The rows of a metrics file up to ``step``; lines that are not whole rows are left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and row.get("step", math.inf) <= step:
            rows.append(row)
    return rows


class RunningMeans:
    """Means of named values over the steps since they were last taken."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: Mapping[str, float]) -> None:
        """Note the values of one step."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + 1

    def take(self) -> dict[str, float]:
        """The means, and start anew."""
        means = {name: total / self._counts[name] for name, total in self._sums.items()}
        self.__init__()  # type: ignore[misc]
        return means
