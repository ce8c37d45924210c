"""Why a picture cannot be read, in words. Without PyTorch, which scoring does not need."""

from __future__ import annotations

import re
from pathlib import Path

from PIL import UnidentifiedImageError

from person_search.data.image_header import RefusedImageError
from person_search.errors import DataError, first_line

SIGNATURES = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG",
    "WebP": rb"RIFF....WEBP",
    "GIF": rb"GIF8",
    "BMP": rb"BM",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "AVIF": rb"....ftypavi",
    "PPM": rb"P[1-6]\s",
}
"""Regular expressions of the first bytes of formats that are read."""

HEIC = rb"....ftyp(heic|heix|heim|heis|hevc|mif1|msf1)"
"""Likewise of what many telephones write and nothing here reads."""


class UnreadableImageError(DataError):
    """An image file that is missing, damaged or not an image, as opposed to a wrong annotation of a good one."""


def unreadable(path: Path, error: Exception) -> UnreadableImageError:
    """The error that names ``path`` when reading it has failed with ``error``: decoders raise every kind."""
    return UnreadableImageError(f"cannot read image '{path}': {_reason(path, error)}")


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}; put the file there or remove it from the dataset"
    if isinstance(error, RefusedImageError):
        return str(error)
    if isinstance(error, MemoryError):
        return "there is not enough memory for it; make it smaller or remove it"
    with open(path, "rb") as file:
        start = file.read(16)
    if not start:
        return "the file is empty; restore it or remove it from the dataset"
    if re.match(HEIC, start, re.DOTALL):
        return "it is a HEIC picture, which is not read here, whatever its name; convert it to JPEG"
    for name, signature in SIGNATURES.items():
        if re.match(signature, start, re.DOTALL):
            # torchvision says in which line of its source it failed.
            reason = re.sub(r"^\w+, \S+:\d+, ", "", first_line(error))
            why = "" if isinstance(error, UnidentifiedImageError) else f" ({reason})"
            return f"its {name} data is cut short or damaged{why}; restore the file or remove it from the dataset"
    return f"expected {', '.join(SIGNATURES)} data, found something else; convert it or remove it"
