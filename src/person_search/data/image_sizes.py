"""Sizes of images from their headers, without decoding them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from person_search.data.image_header import read_header
from person_search.data.scene import Split
from person_search.data.unreadable import unreadable


def read_size(path: Path) -> tuple[int, int]:
    """(width, height) in pixels of the picture that ``read_image`` gives, from the header of its file.

    Raises UnreadableImageError for a file that is missing or not an image.
    """
    try:
        with open(path, "rb") as file:
            return read_header(file).size
    except Exception as error:
        raise unreadable(path, error) from None


def aspect_ratios(split: Split, scenes: Sequence[int]) -> list[float]:
    """Width / height of the images of ``scenes``. Raises UnreadableImageError."""
    sizes = [split.read_size(split.scenes[number]) for number in scenes]
    return [width / height for width, height in sizes]
