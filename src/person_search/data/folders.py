"""Published datasets, found in the folder a user gave."""

from __future__ import annotations

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
        """``root`` itself or its child of a known name: whichever holds most of ``entries``, the earlier in a tie.

        A folder that holds only some of them will do, so that the error later names the missing file. Raises
        DataError when none of them is anywhere.
        """
        if not self.root.is_dir():
            raise DataError(f"data root '{self.root}' is not a folder; expected {self.summary}")
        candidates = [self.root, *(self.root / name for name in self.folder_names)]
        counts = [sum((folder / entry).exists() for entry in self.entries) for folder in candidates]
        best = counts.index(max(counts))
        if counts[best] == 0:
            raise DataError(
                f"no dataset in '{self.root}': expected {self.summary} there or in its folder "
                f"{', '.join(self.folder_names)}, found none of them; set `data_root`"
            )
        return candidates[best]
