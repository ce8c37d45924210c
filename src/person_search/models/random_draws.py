"""Random choices of training that belong to an image or a batch: the same in whichever process it is shown."""

from __future__ import annotations

import enum
from collections.abc import Sequence

import torch
from torch import Tensor

from person_search.data.target import Target
from person_search.runtime.distributed import all_gather_numbers


class Draw(enum.IntEnum):
    """What is drawn; each has random numbers of its own."""

    SIZE = 0
    ANCHORS = 1
    ROIS = 2
    LATER_ROIS = 3
    LAST_ROIS = 4
    EXCHANGE = 5
    LATER_EXCHANGE = 6
    STORED_SCENES = 13
    SCENE_DEPTH = 14
    CROP = 15
    TRUNK_DEPTH = 16
    TOP_DEPTH = 17
    """And the numbers after it, for one copy of the backbone's top each."""


def generator_of(target: Target, draw: int, device: torch.device) -> torch.Generator | None:
    """The random numbers of ``draw`` for the image of ``target``; None, torch's global ones, where it has no seed."""
    if target.seed is None:
        return None
    return torch.Generator(device).manual_seed(target.seed + draw)


def seed_of_batch(targets: Sequence[Target], device: torch.device) -> int:
    """The seed of random choices made for a whole batch, that of all processes together. All call this.

    It is the seed of the batch's first image, or from torch's global random numbers where that has none.
    """
    own = targets[0].seed
    return all_gather_numbers(int(torch.randint(2**62, ())) if own is None else own, device)[0]


def generator_of_batch(seed: int, draw: Draw) -> torch.Generator:
    """The random numbers of ``draw`` for a batch of ``seed_of_batch``; on the CPU."""
    return torch.Generator().manual_seed(seed + draw)


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
