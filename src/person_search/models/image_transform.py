"""From pictures of any size to one normalised batch, and boxes there and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from person_search.data.target import Target
from person_search.models.backbones.backbone import Normalisation
from person_search.models.random_draws import Draw, generator_of
from person_search.models.settings import CropSettings
from person_search.models.training_crops import Window, cut_out, draw_window, left_of_boxes

STRIDE = 32
"""Batches are padded to a multiple of this."""

WHOLE = CropSettings()
"""No crop at all."""


@dataclass(frozen=True, eq=False)
class ImageBatch:
    """Resized, normalised and padded images, or crops of them.

    Attributes:
        tensors: (B, 3, H, W) float32, H and W multiples of 32, zero where padded.
        sizes: (height, width) of each image in the batch, before padding.
        original_sizes: (height, width) of each image as given.
        crops: of each image its (height, width) when it was resized, and what was then cut out of it and brought to the
            size in ``sizes``; none where images are whole.
    """

    tensors: Tensor
    sizes: list[tuple[int, int]]
    original_sizes: list[tuple[int, int]]
    crops: list[tuple[tuple[int, int], Window]] = field(default_factory=list)

    def to_batch(self, boxes: Tensor, index: int) -> Tensor:
        """(N, 4) boxes of image ``index`` as given -> pixels of the batch, of a crop also those beyond its edges."""
        ratios, shifts = self._ratios_and_shifts(boxes, index)
        return boxes * ratios - shifts

    def to_original(self, boxes: Tensor, index: int) -> Tensor:
        """(N, 4) boxes in pixels of the batch -> pixels of image ``index`` as given."""
        ratios, shifts = self._ratios_and_shifts(boxes, index)
        return (boxes + shifts) / ratios

    def _ratios_and_shifts(self, boxes: Tensor, index: int) -> Tensor:
        """(2, 4)."""
        (height, width), (old_height, old_width) = self.sizes[index], self.original_sizes[index]
        x, y, left, top = width / old_width, height / old_height, 0.0, 0.0
        if self.crops:
            (resized_height, resized_width), window = self.crops[index]
            across, down = width / window.width, height / window.height
            x, y = across * resized_width / old_width, down * resized_height / old_height
            left, top = across * window.left, down * window.top
        both = torch.tensor([[x, y, x, y], [left, top, left, top]], dtype=torch.float32)
        return both.to(boxes.device, non_blocking=True)


class ImageTransform(nn.Module):
    """Resize, normalise, pad (Ren et al., Faster R-CNN; sizes as in the person-search literature).

    Args:
        shorter_side: pixels; several: one is drawn per training image, the last is used in test.
        longer_side: pixels, at most.
        normalisation: what the backbone wants.
        rounding: of both sides, ``down`` or ``nearest``.
        crop: what is cut out of training images that come with targets.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        shorter_side: Sequence[int],
        longer_side: int,
        normalisation: Normalisation,
        rounding: Literal["down", "nearest"] = "down",
        crop: CropSettings = WHOLE,
    ):
        super().__init__()
        self.rounding, self.crop = rounding, crop
        self.shorter_side = tuple(shorter_side)
        self.longer_side = longer_side
        self.normalisation = normalisation
        self.register_buffer("mean", torch.tensor(normalisation.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(normalisation.std).view(3, 1, 1), persistent=False)

    def output_size(self, height: int, width: int, shorter_side: int) -> tuple[int, int]:
        """(height, width) after resizing: both sides in whole pixels, at least one."""
        scale = min(shorter_side / min(height, width), self.longer_side / max(height, width))
        whole = math.floor if self.rounding == "down" else round
        # The rounding guards against a product such as 599.9999999 for an exact fit.
        return tuple(max(1, whole(round(side * scale, 6))) for side in (height, width))  # type: ignore[return-value]

    def forward(self, images: Sequence[Tensor], targets: Sequence[Target] | None = None) -> ImageBatch:
        """Batch a list of (3, H, W) RGB tensors, uint8 or float in 0..1. Raises ValueError for other shapes.

        ``targets`` say with which random numbers the sizes of training images are drawn, and whom crops are to show.
        """
        device = self.mean.device
        resized: list[Tensor] = []
        originals: list[tuple[int, int]] = []
        crops: list[tuple[tuple[int, int], Window]] = []
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
            if self.training and targets is not None and self.crop.side is not None:
                crops.append((size, self._draw_window(originals[-1], size, targets[number])))
                pixels = cut_out(pixels, crops[-1][1], self.crop.side, self._padding())
            resized.append(pixels)
        sizes = [(image.shape[1], image.shape[2]) for image in resized]
        height, width = (math.ceil(max(side) / STRIDE) * STRIDE for side in zip(*sizes, strict=True))
        batch = torch.zeros((len(resized), 3, height, width), device=device)
        for row, image in zip(batch, resized, strict=True):
            row[:, : image.shape[1], : image.shape[2]] = image
        return ImageBatch(batch, sizes, originals, crops)

    def _draw_window(self, original: tuple[int, int], size: tuple[int, int], target: Target) -> Window:
        """Where an image of ``size``, once ``original``, is cropped."""
        boxes = ImageBatch(self.mean, [size], [original]).to_batch(target.boxes, 0)
        generator = generator_of(target, Draw.CROP, torch.device("cpu"))
        return draw_window(size, boxes, target.person_ids >= 0, self.crop, generator)

    def _padding(self) -> Tensor:
        return torch.zeros_like(self.mean) if self.crop.padding == "mean" else -self.mean / self.std

    def _shorter_side(self, target: Target | None) -> int:
        if not self.training or len(self.shorter_side) == 1:
            return self.shorter_side[-1]
        generator = None if target is None else generator_of(target, Draw.SIZE, torch.device("cpu"))
        return self.shorter_side[int(torch.randint(len(self.shorter_side), (), generator=generator))]

    def targets_to_batch(self, targets: Sequence[Target], batch: ImageBatch) -> list[Target]:
        """Targets in pixels of the batch, on its device; of a crop without people that it shows too little of."""
        moved = [target.to(batch.tensors.device) for target in targets]
        moved = [
            replace(target, boxes=batch.to_batch(target.boxes, i), ignore=batch.to_batch(target.ignore, i))
            for i, target in enumerate(moved)
        ]
        if not batch.crops:
            return moved
        return [self._cropped(target, size[0]) for target, size in zip(moved, batch.sizes, strict=True)]

    def _cropped(self, target: Target, side: int) -> Target:
        boxes, left = left_of_boxes(target.boxes, side)
        ignore, of_region = left_of_boxes(target.ignore, side)
        # The smallest share keeps those out of which nothing is left.
        kept = (left > 0) & (left >= self.crop.min_area)
        return replace(target, boxes=boxes[kept], person_ids=target.person_ids[kept], ignore=ignore[of_region > 0])
