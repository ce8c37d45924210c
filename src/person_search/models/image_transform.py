"""From pictures of any size to one normalised batch, and boxes there and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from person_search.data.target import Target
from person_search.models.backbones.backbone import Normalisation
from person_search.models.random_draws import Draw, generator_of

STRIDE = 32
"""Batches are padded to a multiple of this."""


@dataclass(frozen=True, eq=False)
class ImageBatch:
    """Resized, normalised and padded images.

    Attributes:
        tensors: (B, 3, H, W) float32, H and W multiples of 32, zero where padded.
        sizes: (height, width) of each image in the batch, before padding.
        original_sizes: (height, width) of each image as given.
    """

    tensors: Tensor
    sizes: list[tuple[int, int]]
    original_sizes: list[tuple[int, int]]

    def to_batch(self, boxes: Tensor, index: int) -> Tensor:
        """(N, 4) boxes of image ``index`` as given -> pixels of the batch."""
        return boxes * self._ratios(boxes, index)

    def to_original(self, boxes: Tensor, index: int) -> Tensor:
        """(N, 4) boxes in pixels of the batch -> pixels of image ``index`` as given."""
        return boxes / self._ratios(boxes, index)

    def _ratios(self, boxes: Tensor, index: int) -> Tensor:
        (height, width), (old_height, old_width) = self.sizes[index], self.original_sizes[index]
        x, y = width / old_width, height / old_height
        return torch.tensor([x, y, x, y], dtype=torch.float32).to(boxes.device, non_blocking=True)


class ImageTransform(nn.Module):
    """Resize, normalise, pad (Ren et al., Faster R-CNN; sizes as in the person-search literature).

    Args:
        shorter_side: pixels; several: one is drawn per training image, the last is used in test.
        longer_side: pixels, at most.
        normalisation: what the backbone wants.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, *, shorter_side: Sequence[int], longer_side: int, normalisation: Normalisation):
        super().__init__()
        self.shorter_side = tuple(shorter_side)
        self.longer_side = longer_side
        self.normalisation = normalisation
        self.register_buffer("mean", torch.tensor(normalisation.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(normalisation.std).view(3, 1, 1), persistent=False)

    def output_size(self, height: int, width: int, shorter_side: int) -> tuple[int, int]:
        """(height, width) after resizing: both sides floored, at least one pixel."""
        scale = min(shorter_side / min(height, width), self.longer_side / max(height, width))
        # The rounding guards against a product such as 599.9999999 for an exact fit.
        return tuple(max(1, math.floor(round(side * scale, 6))) for side in (height, width))  # type: ignore[return-value]

    def forward(self, images: Sequence[Tensor], targets: Sequence[Target] | None = None) -> ImageBatch:
        """Batch a list of (3, H, W) RGB tensors, uint8 or float in 0..1. Raises ValueError for other shapes.

        ``targets`` say with which random numbers the sizes of training images are drawn.
        """
        device = self.mean.device
        resized, originals = [], []
        for number, image in enumerate(images):
            if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
                raise ValueError(f"expected a (3, H, W) RGB image, found shape {tuple(image.shape)}")
            originals.append((image.shape[1], image.shape[2]))
            pixels = image.to(device, non_blocking=True)
            pixels = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float()
            if self.normalisation.bgr:
                pixels = pixels.flip(0)
            pixels = (pixels * self.normalisation.peak - self.mean) / self.std
            size = self.output_size(*originals[-1], self._shorter_side(targets[number] if targets else None))
            if size != originals[-1]:
                pixels = F.interpolate(pixels[None], size=size, mode="bilinear", align_corners=False)[0]
            resized.append(pixels)
        sizes = [(image.shape[1], image.shape[2]) for image in resized]
        height, width = (math.ceil(max(side) / STRIDE) * STRIDE for side in zip(*sizes, strict=True))
        batch = torch.zeros((len(resized), 3, height, width), device=device)
        for row, image in zip(batch, resized, strict=True):
            row[:, : image.shape[1], : image.shape[2]] = image
        return ImageBatch(batch, sizes, originals)

    def _shorter_side(self, target: Target | None) -> int:
        if not self.training or len(self.shorter_side) == 1:
            return self.shorter_side[-1]
        generator = None if target is None else generator_of(target, Draw.SIZE, torch.device("cpu"))
        return self.shorter_side[int(torch.randint(len(self.shorter_side), (), generator=generator))]

    def targets_to_batch(self, targets: Sequence[Target], batch: ImageBatch) -> list[Target]:
        """Targets in pixels of the batch, on its device."""
        moved = [target.to(batch.tensors.device) for target in targets]
        return [
            replace(target, boxes=batch.to_batch(target.boxes, i), ignore=batch.to_batch(target.ignore, i))
            for i, target in enumerate(moved)
        ]
