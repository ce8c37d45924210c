"""Sizes of images from their headers, without decoding them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from person_search.data.decode import UnreadableImageError
from person_search.data.scene import Split

ORIENTATION = 0x0112
"""EXIF tag; values from 5 on swap width and height."""


def read_size(path: Path) -> tuple[int, int]:
    """(width, height) in pixels of the picture in ``path``, as seen: EXIF orientation applied.

    Raises UnreadableImageError for a file that is missing or not an image.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.getexif().get(ORIENTATION, 1) >= 5
    except UnidentifiedImageError:
        raise UnreadableImageError(f"cannot read image '{path}': found no picture in it; restore the file") from None
    except (OSError, ValueError, SyntaxError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UnreadableImageError(f"cannot read image '{path}': {reason}; restore the file") from None
    return (height, width) if turned else (width, height)


def aspect_ratios(split: Split, scenes: Sequence[int]) -> list[float]:
    """Width / height of the images of ``scenes``. Raises UnreadableImageError."""
    sizes = [read_size(split.image_root / split.scenes[number].name) for number in scenes]
    return [width / height for width, height in sizes]
