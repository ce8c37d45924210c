"""Whether images have the size that their annotations give them: boxes of other images train and score nonsense."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from person_search.data.image_header import read_header
from person_search.data.scene import Scene, Split
from person_search.data.unreadable import UnreadableImageError
from person_search.errors import DataError

SAMPLE = 200
"""Pictures of a split whose headers are looked at beforehand; the others are compared when they are decoded."""


@dataclass(frozen=True)
class SizeCheck:
    """What the headers of some pictures of a split say.

    Attributes:
        looked_at: how many pictures.
        missing: names of those whose file is not there.
        contradiction: the first picture of another size than declared, or None; says how many there are.
    """

    looked_at: int
    missing: tuple[str, ...]
    contradiction: DataError | None


def compare_sizes(split: Split) -> SizeCheck:
    """Look at up to ``SAMPLE`` pictures, spread over ``split``; raises nothing, also for unreadable ones."""
    count = len(split.scenes)
    numbers = np.unique(np.linspace(0, count - 1, min(count, SAMPLE)).round().astype(np.int64))
    missing: list[str] = []
    contradictions: list[tuple[Path, Scene, tuple[int, int]]] = []
    for scene in (split.scenes[number] for number in numbers):
        path = split.path(scene)
        # Unlike Path.exists, this takes a name that no file can have for a file that is not there.
        there = os.path.exists(path)
        if scene.size is None and there:
            continue
        try:
            seen = split.read_size(scene)
        except UnreadableImageError:
            # One that is there is left to who decodes it, and may be told to leave such pictures out.
            if not there:
                missing.append(scene.name)
            continue
        if scene.size not in (None, seen):
            contradictions.append((path, scene, seen))
    error = None
    if contradictions:
        error = DataError(
            f"{_contradiction(*contradictions[0])} ({len(contradictions)} of the {len(numbers)} {split.name} pictures "
            "looked at have another size than declared)"
        )
    return SizeCheck(len(numbers), tuple(missing), error)


def check_sizes(split: Split) -> None:
    """Raise DataError when one of up to ``SAMPLE`` pictures of ``split`` has another size than its scene says."""
    if (error := compare_sizes(split).contradiction) is not None:
        raise error


def check_decoded(path: Path, scene: Scene, width: int, height: int) -> None:
    """Raise DataError when ``scene`` says another size than that of its picture in ``path`` as decoded, in pixels."""
    if scene.size is not None and scene.size != (width, height):
        raise DataError(_contradiction(path, scene, (width, height)))


def _contradiction(path: Path, scene: Scene, seen: tuple[int, int]) -> str:
    """``scene`` has a size, other than the picture's, which is (width, height) as it is ``seen``."""
    declared = scene.size or seen
    text = (
        f"image '{path}' is {seen[0]} x {seen[1]} pixels as it is seen, but its annotations say "
        f"{declared[0]} x {declared[1]}: "
    )
    header = None
    # A picture may lie in something else than a picture file, such as a video; then it has no rotation either.
    with contextlib.suppress(Exception), path.open("rb") as file:
        header = read_header(file)
    if header is not None and header.orientation >= 5 and header.stored_size == declared:
        return (
            f"{text}the boxes seem to be in stored pixels, before the EXIF rotation that the picture is seen with; "
            "turn the boxes, or store the picture turned and annotate that"
        )
    return f"{text}its boxes are those of another picture or of another size of it; correct the sizes and the boxes"
