"""Published datasets, found in the folder a user gave."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from person_search.data.scene import Dataset
from person_search.errors import DataError


class PublishedDataset(Dataset):
    """A dataset released as one folder of a fixed layout (``summary``).

    Attributes:
        folder_names: what people call the folder.
        entries: files and folders in it by which it is recognised.
    """

    folder_names: ClassVar[tuple[str, ...]]
    entries: ClassVar[tuple[str, ...]]

    @cached_property
    def folder(self) -> Path:
        """The folder that holds the set. Raises DataError."""
        return find_folder(self.root, self.folder_names, self.entries, self.summary)


def find_folder(root: Path, names: Sequence[str], entries: Sequence[str], layout: str) -> Path:
    """``root`` itself or its child of one of ``names``: whichever holds most of ``entries``, the earlier in a tie.

    A folder that holds only some of them is returned too, so that the error later names the missing file. Raises
    DataError, with ``layout``, when none of ``entries`` is anywhere.
    """
    if not root.is_dir():
        raise DataError(f"data root '{root}' is not a folder; expected {layout}")
    candidates = [root, *(root / name for name in names)]
    counts = [sum((folder / entry).exists() for entry in entries) for folder in candidates]
    best = counts.index(max(counts))
    if counts[best] == 0:
        raise DataError(
            f"no dataset in '{root}': expected {layout} there or in its folder {', '.join(names)}, "
            f"found none of them; set --data-root"
        )
    return candidates[best]
