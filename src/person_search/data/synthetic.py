"""The embedded dataset: synthetic scenes made by ``person-search synth``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from person_search.config import DataConfig
from person_search.data.coco import CocoDataset
from person_search.data.scene import Split, SplitName
from person_search.errors import DataError

MARKER = "synth.json"
"""File in a dataset's folder that says which settings made it."""


def read_marker(folder: Path) -> dict[str, Any] | None:
    """The settings that made the synthetic dataset in ``folder``; None where there is none. Raises OSError."""
    try:
        settings = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return settings if isinstance(settings, dict) and "generator" in settings else None


class SyntheticDataset(CocoDataset):
    """What ``person-search synth --layout coco`` wrote: disjoint identities and scenes in train, val and test."""

    crowds_with_id_are_people = False
    summary = "written by `person-search synth --out ROOT`: {train,val,test}.json, images/, synth.json"

    def __init__(self, root: Path, config: DataConfig | None = None):
        super().__init__(root, config)
        self._checked = False

    def has_validation(self) -> bool:
        """Whether the dataset was made with a validation split. Raises DataError where there is no dataset."""
        self._check()
        return super().has_validation()

    def split(self, name: SplitName) -> Split:
        """One split. Raises DataError, with the command to make one, where there is no synthetic dataset."""
        self._check()
        return replace(super().split(name), dataset="synthetic")

    def _check(self) -> None:
        if self._checked:
            return
        try:
            settings = read_marker(self.root)
        except OSError as error:
            raise DataError(f"cannot read '{self.root / MARKER}': {error.strerror}") from None
        if settings is None:
            raise DataError(
                f"no synthetic dataset in '{self.root}' (no {MARKER}); "
                f"make one: person-search synth --layout coco --out '{self.root}'"
            )
        layout = settings.get("layout")
        if layout != "coco":
            raise DataError(
                f"the synthetic dataset in '{self.root}' has the layout {layout}; read it with `dataset` {layout}, "
                "or make one: person-search synth --layout coco --out DIR"
            )
        self._checked = True
