"""Random choices of training that belong to an image: the same in whichever process and batch it is shown."""

from __future__ import annotations

import enum

import torch
from torch import Tensor

from person_search.data.target import Target


class Draw(enum.IntEnum):
    """What is drawn; each has random numbers of its own."""

    SIZE = 0
    ANCHORS = 1
    ROIS = 2
    LATER_ROIS = 3
    CROP = 15
    TRUNK_DEPTH = 16
    TOP_DEPTH = 17
    """And the numbers after it, for one copy of the backbone's top each."""


def generator_of(target: Target, draw: int, device: torch.device) -> torch.Generator | None:
    """The random numbers of ``draw`` for the image of ``target``; None, torch's global ones, where it has no seed."""
    if target.seed is None:
        return None
    return torch.Generator(device).manual_seed(target.seed + draw)


def choose(kinds: Tensor, number: int, positive_share: float, generator: torch.Generator | None) -> Tensor:
    """A random choice of ``number`` candidates: positives up to their share, then negatives (Fast R-CNN, ICCV 2015).

    Nothing waits for the device: how many there are of each kind is never asked.

    Args:
        kinds: (n,) 1 positive, 0 negative, below: neither.
        number: candidates wanted; fewer when there are not enough negatives.
        positive_share: of ``number``, rounded down; at most this many positives.
        generator: on the device of ``kinds``.

    Returns:
        (n,) bool.
    """
    order = torch.randperm(len(kinds), generator=generator, device=kinds.device)
    shuffled = kinds[order]
    positive, negative = shuffled >= 1, shuffled == 0
    positive = positive & (positive.cumsum(0) <= int(number * positive_share))
    negative = negative & (negative.cumsum(0) <= number - positive.sum())
    chosen = torch.empty_like(positive)
    chosen[order] = positive | negative
    return chosen
