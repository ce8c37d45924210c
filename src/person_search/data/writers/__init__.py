"""Writing a dataset in the folder layouts that the loaders read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from person_search.data.scene import SplitName
from person_search.data.writers import coco, cuhk_sysu, mot, prw
from person_search.data.writers.records import SceneRecord


@dataclass(frozen=True, slots=True)
class Writer:
    """How one layout names its images and writes its annotations.

    Attributes:
        image_path: (number of the picture from 0, split, camera from 1, frame from 1 within the camera) -> path
            relative to the dataset's folder, with forward slashes.
        write: (folder, all pictures, least visibility that is annotated) -> writes everything but the images.
    """

    image_path: Callable[[int, SplitName, int, int], str]
    write: Callable[[Path, Sequence[SceneRecord], float], None]


WRITERS = {
    "coco": Writer(coco.image_path, coco.write),
    "mot": Writer(mot.image_path, mot.write),
    "cuhk-sysu": Writer(cuhk_sysu.image_path, cuhk_sysu.write),
    "prw": Writer(prw.image_path, prw.write),
}
"""Writers by layout name."""
