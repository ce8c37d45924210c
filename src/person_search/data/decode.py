"""From an image file to pixels, or to an error that names the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image

from person_search.errors import DataError

SIGNATURES = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"RIFF": "WebP", b"GIF8": "GIF"}
"""First bytes of the formats that ``decode_image`` reads everywhere."""


class UnreadableImageError(DataError):
    """An image file that is missing, damaged or not an image, as opposed to a wrong annotation of a good one."""


def read_image(path: Path) -> Tensor:
    """The picture in ``path`` as a (3, H, W) uint8 RGB tensor, turned as its EXIF orientation says.

    Grey and CMYK become RGB, transparency is dropped, 16-bit samples keep their upper 8 bits, and an animation gives
    its first frame. Raises UnreadableImageError for a file that is missing, cut short or not an image.
    """
    try:
        data = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise UnreadableImageError(
            f"cannot read image '{path}': {error.strerror or error}; put the file there or remove it from the dataset"
        ) from None
    try:
        image = decode_image(torch.from_numpy(data), mode=ImageReadMode.RGB, apply_exif_orientation=True)
    except (RuntimeError, ValueError):
        raise UnreadableImageError(f"cannot read image '{path}': {_complaint(data[:16].tobytes())}") from None
    if image.ndim == 4:
        image = image[0]
    if image.dtype == torch.uint16:
        image = (image.to(torch.int32) >> 8).to(torch.uint8)
    return image


def _complaint(start: bytes) -> str:
    if not start:
        return "the file is empty; restore it or remove it from the dataset"
    for signature, name in SIGNATURES.items():
        if start.startswith(signature):
            return f"its {name} data is cut short or damaged; restore the file or remove it from the dataset"
    return f"expected {', '.join(SIGNATURES.values())} data, found something else; convert it or remove it"
