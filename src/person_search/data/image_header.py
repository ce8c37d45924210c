"""What a picture's file says before its pixels are decoded: format, size, and how a viewer turns it."""

from __future__ import annotations

import io
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}
"""Formats that are read, by Pillow's names, and the endings of their files."""

IMAGE_SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)
"""Endings, in lower case, of files that are taken for pictures wherever pictures are looked for by name."""

MAX_PIXELS = 10**9
"""Pictures with more are refused: their pixels alone would take 3 GB, mostly because a header is damaged."""

ORIENTATION = 0x0112
"""Number of the tag, in EXIF data and in TIFF files, that says how a picture is to be turned."""

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class RefusedImageError(ValueError):
    """A picture that could be decoded but is not; the message says why and what to do."""


@dataclass(frozen=True)
class Header:
    """Of a picture's file.

    Attributes:
        format: a key of ``FORMATS``, or MPO: several JPEG pictures in one file.
        stored_size: (width, height) in pixels as stored.
        orientation: EXIF's, 1 to 8; 1 where there is none, from 5 on width and height change places.
    """

    format: str
    stored_size: tuple[int, int]
    orientation: int

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels of the picture as it is seen."""
        width, height = self.stored_size
        return (height, width) if self.orientation >= 5 else (width, height)


def read_header(file: BinaryIO) -> Header:
    """The header of the picture in ``file``.

    Raises RefusedImageError for more than ``MAX_PIXELS``, and whatever Pillow raises for data that is no picture.
    """
    with open_image(file) as image:
        # Newer versions of Pillow turn the size of a TIFF file, and older ones do not.
        stored = (image.tag_v2[256], image.tag_v2[257]) if isinstance(image, TiffImageFile) else image.size
        header = Header(str(image.format), stored, _orientation(image, file))
    width, height = stored
    if width * height > MAX_PIXELS:
        raise RefusedImageError(
            f"it has {width} x {height} pixels, and at most {MAX_PIXELS:,} are read; make it smaller or remove it"
        )
    return header


@contextmanager
def open_image(file: BinaryIO) -> Iterator[Image.Image]:
    """Open the image in ``file`` with Pillow, whatever its size; ``MAX_PIXELS`` is the limit here."""
    with _LIMIT, Image.open(file, formats=tuple(FORMATS)) as image:
        yield image


class _NoPixelLimit:
    """Suspends Pillow's limit of pixels, which is a global variable, while any thread is inside."""

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._limit: int | None = None

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                Image.MAX_IMAGE_PIXELS = self._limit


_LIMIT = _NoPixelLimit()


def _orientation(image: Image.Image, file: BinaryIO) -> int:
    """EXIF orientation of the picture opened from ``file``; a viewer shows one whose EXIF data is damaged unturned."""
    try:
        if image.format == "PNG":
            file.seek(0)
            with Image.open(io.BytesIO(_without_pixels(file)), formats=("PNG",)) as image:
                # A PNG's own getexif decodes all pixels first, for what may come after them; here that is known.
                orientation = Image.Image.getexif(image).get(ORIENTATION, 1)
        else:
            orientation = image.getexif().get(ORIENTATION, 1)
    except Exception:
        return 1
    return orientation if orientation in range(1, 9) else 1


def _without_pixels(file: BinaryIO) -> bytes:
    """A PNG file's header and every chunk that may say how to turn it, wherever in the file, and no pixels."""
    kept = [file.read(len(PNG_SIGNATURE))]
    while len(start := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", start)
        if kind == b"IEND":
            break
        if kind in (b"IHDR", b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
            kept.append(start + file.read(length + 4))
        else:
            file.seek(length + 4, io.SEEK_CUR)
    return b"".join([*kept, struct.pack(">I4sI", 0, b"IDAT", zlib.crc32(b"IDAT"))])
