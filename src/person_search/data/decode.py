"""From an image file to pixels, or to an error that names the file."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from person_search.data.image_header import RefusedImageError, open_image, read_header
from person_search.data.unreadable import unreadable


def read_image(path: Path) -> Tensor:
    """The picture in ``path`` as a (3, H, W) uint8 RGB tensor, turned as its EXIF orientation says.

    Grey and CMYK become RGB, transparency is dropped, 16-bit samples keep their upper 8 bits, and a file of several
    pictures, such as an animation, gives its first. Raises UnreadableImageError for a file that is missing, cut short
    or not an image.
    """
    try:
        data = np.fromfile(path, dtype=np.uint8)
        return _decoded(data)
    except Exception as error:
        raise unreadable(path, error) from None


def _decoded(data: NDArray[np.uint8]) -> Tensor:
    header = read_header(io.BytesIO(data.data))
    if header.format in ("JPEG", "MPO"):
        # Three times as fast as Pillow, to the same numbers; for other formats there is little between them.
        pixels = decode_jpeg(torch.from_numpy(data), mode=ImageReadMode.RGB)
        return _turned(pixels, header.orientation)
    with open_image(io.BytesIO(data.data)) as image:
        image.load()
        if header.format == "TIFF":
            # Some versions of Pillow have turned the pixels by now, and some have not.
            return _planes(_rgb(ImageOps.exif_transpose(image)))
        return _turned(_planes(_rgb(image)), header.orientation)


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    """(H, W, 3) pixels of a loaded picture of any mode. Raises RefusedImageError for samples of over 16 bits."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        samples = np.asarray(image)
        if image.mode == "F" or samples.min() < 0 or samples.max() >= 2**16:
            raise RefusedImageError("its samples have more than 16 bits; convert it to 8 bits")
        grey = (samples >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def _planes(pixels: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _turned(image: Tensor, orientation: int) -> Tensor:
    """The stored (3, H, W) ``image`` as EXIF's ``orientation``, 1 to 8, says it is seen."""
    if orientation >= 5:
        image = image.transpose(1, 2)
    mirrored = {2: (2,), 3: (1, 2), 4: (1,), 6: (2,), 7: (1, 2), 8: (1,)}.get(orientation, ())
    return image.flip(mirrored) if mirrored else image
