"""Squares cut out of training images around people (Jaffe and Zakhor, WACV 2023)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from person_search.models.settings import CropSettings


@dataclass(frozen=True)
class Window:
    """What is cut out of an image: pixels from its left and top edge, beyond which it may reach, and how many."""

    left: int
    top: int
    width: int
    height: int


def draw_window(
    size: tuple[int, int], boxes: Tensor, known: Tensor, config: CropSettings, generator: torch.Generator | None
) -> Window:
    """Where to crop an image: around one person, or so that all are seen, as chance has it.

    Args:
        size: (height, width) of the image.
        boxes: (n, 4) of all its people.
        known: (n,) bool, the people with an identity.
        config: ``side`` is no None.
        generator: on the CPU; None: torch's global random numbers.
    """
    assert config.side is not None
    height, width = (max(length, config.canvas * config.side) for length in size)
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    padded = boxes.cpu().double() + torch.tensor([left, top, left, top])
    if _number(generator) < config.focused:
        window = focused_window((height, width), padded[known.cpu()], config.side, config.grow, generator)
    else:
        window = safe_window((height, width), padded, config.erosion, generator)
    return Window(window.left - left, window.top - top, window.width, window.height)


def focused_window(
    size: tuple[int, int], boxes: Tensor, side: int, grow: bool, generator: torch.Generator | None
) -> Window:
    """A square of ``side`` that holds one of ``boxes``, (n, 4), anywhere in it; without boxes a square anywhere.

    A box that is larger is seen from its left or top edge on or, with ``grow``, is the reason for a larger square. A
    square leaves the image of ``size``, (height, width), only where that is smaller or the box touches its edge.
    """
    height, width = size
    if len(boxes) == 0:
        left, top = (_whole_number(0, max(0, length - side), generator) for length in (width, height))
        return Window(left, top, side, side)
    x1, y1, x2, y2 = boxes[_whole_number(0, len(boxes) - 1, generator)].tolist()
    if grow:
        side = math.floor(max(x2 - x1, y2 - y1, side))
    left, top = (
        _whole_number(*_range(start, end, side, length), generator)
        for start, end, length in ((x1, x2, width), (y1, y2, height))
    )
    return Window(left, top, side, side)


def safe_window(size: tuple[int, int], boxes: Tensor, erosion: float, generator: torch.Generator | None) -> Window:
    """A rectangle of any shape that holds all ``boxes``, (n, 4), each without ``erosion`` of it on every side.

    The rule is that of albumentations' ``RandomSizedBBoxSafeCrop`` (Buslaev et al., Information 2020).
    """
    height, width = size
    if len(boxes) == 0:
        tall = _whole_number(int(height * (1 - erosion)), height, generator)
        across, down = _number(generator), _number(generator)
        return _placed(size, tall, int(tall * width / height), down, across)
    margin = erosion * (boxes[:, 2:] - boxes[:, :2])
    x1, y1 = (boxes[:, :2] + margin).amin(0).tolist()
    x2, y2 = (boxes[:, 2:] - margin).amax(0).tolist()
    down, share_of_height = _stretched(y1 / height, y2 / height, generator)
    across, share_of_width = _stretched(x1 / width, x2 / width, generator)
    return _placed(size, int(height * share_of_height), int(width * share_of_width), down, across)


def cut_out(pixels: Tensor, window: Window, side: int, fill: Tensor) -> Tensor:
    """(3, h, w) -> (3, side, side): ``window`` of it, resized bilinearly; ``fill`` (3, 1, 1) surrounds the image."""
    height, width = pixels.shape[1:]
    square = fill.to(pixels).expand(3, window.height, window.width).clone()
    top, left = max(0, window.top), max(0, window.left)
    bottom, right = min(height, window.top + window.height), min(width, window.left + window.width)
    if top < bottom and left < right:
        inside = square[:, top - window.top : bottom - window.top, left - window.left : right - window.left]
        inside.copy_(pixels[:, top:bottom, left:right])
    if (window.height, window.width) != (side, side):
        square = F.interpolate(square[None], size=(side, side), mode="bilinear", align_corners=False)[0]
    return square


def left_of_boxes(boxes: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """(n, 4) ``boxes`` cut to a square image of ``side``, and (n,) the share of their area that is left."""
    clipped = boxes.clamp(0, side)
    before, after = ((box[:, 2:] - box[:, :2]).clamp(min=0).prod(1) for box in (boxes, clipped))
    return clipped, after / before.clamp(min=1e-12)


def _range(start: float, end: float, side: int, length: int) -> tuple[int, int]:
    """Smallest and largest edge of a window of ``side`` on an image of ``length`` that shows ``start`` to ``end``."""
    lowest = min(math.floor(start), math.floor(max(0.0, end - side)))
    return lowest, max(lowest, math.floor(min(length - side, start)))


def _stretched(start: float, end: float, generator: torch.Generator | None) -> tuple[float, float]:
    """A longer piece of 0..1 around ``start`` to ``end``: its place, 0 at one end to 1 at the other, and its length."""
    start = start * _number(generator)
    end = end + (1 - end) * _number(generator)
    length = end - start
    return (0.0, 1.0) if length >= 1 else (min(max(start / (1 - length), 0.0), 1.0), length)


def _placed(size: tuple[int, int], height: int, width: int, down: float, across: float) -> Window:
    height, width = max(1, height), max(1, width)
    return Window(int((size[1] - width) * across), int((size[0] - height) * down), width, height)


def _number(generator: torch.Generator | None) -> float:
    return float(torch.rand((), generator=generator, dtype=torch.float64))


def _whole_number(lowest: int, highest: int, generator: torch.Generator | None) -> int:
    """One of the integers from ``lowest`` to ``highest``, both included."""
    return int(torch.randint(lowest, highest + 1, (), generator=generator))
