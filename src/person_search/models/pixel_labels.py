"""Which pixels of a RoI show its person (NAE+; Chen et al., CVPR 2020)."""

from __future__ import annotations

import torch
from torch import Tensor


def pixel_labels(rois: Tensor, persons: Tensor, size: tuple[int, int]) -> Tensor:
    """The share of each pixel that belongs to the RoI's person, as NAE+'s authors' code has it.

    A mask of whole pixels, 1 where the box of the person lies, is resized to ``size`` bilinearly. The mask is the
    product of one over its rows and one over its columns, and so is the resized one. Where a person lies to the left of
    the RoI or above it, the authors' slice ends before 0, which Python counts from the other end: such RoIs have
    pixels of 1 that nobody covers. The published model is trained on them.

    Args:
        rois: (R, 4) xyxy.
        persons: (R, 4), the true box that each RoI is compared with.
        size: (h, w) of the result.

    Returns:
        (R, h, w) in 0..1.
    """
    rows, columns = (
        _along(rois[:, start], rois[:, start + 2], persons[:, start], persons[:, start + 2], number)
        for start, number in ((1, size[0]), (0, size[1]))
    )
    return rows[:, :, None] * columns[:, None]


def _along(start: Tensor, end: Tensor, person_start: Tensor, person_end: Tensor, number: int) -> Tensor:
    """One axis: (R, number), how much of each of ``number`` cells over the RoI is the person's."""
    pixels = (end - start).ceil()[:, None]
    first = (torch.maximum(start, person_start) - start).floor()[:, None]
    stop = (torch.minimum(end, person_end) - start).ceil()[:, None] + 1
    stop = torch.where(stop < 0, stop + pixels, stop)
    # Bilinear resizing, not aligned to corners: where each cell's middle lies among the middles of the pixels.
    cells = torch.arange(number, device=start.device, dtype=start.dtype)
    place = ((cells + 0.5) * (pixels / number) - 0.5).clamp(min=0)
    left = place.floor()
    right = torch.minimum(left + 1, pixels - 1)
    share = place - left
    # A slice that ends behind the last pixel ends there: no cell reads further.
    covered = [((pixel >= first) & (pixel < stop)).to(start.dtype) for pixel in (left, right)]
    return torch.where(pixels > 0, (1 - share) * covered[0] + share * covered[1], 0.0)
