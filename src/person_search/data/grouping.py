"""Images of like shape together, so that little of a batch is padding."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

GROUPS_PER_DOUBLING = 3
"""Shapes told apart between a square and twice as wide as high; 4:3 and 16:9 are."""


def aspect_group(ratio: float) -> int:
    """The group of images with width / height near ``ratio``; 0 is square, negative is upright."""
    return round(math.log2(ratio) * GROUPS_PER_DOUBLING)


def in_groups(order: Iterable[int], groups: Sequence[int], size: int) -> NDArray[np.int64]:
    """``order`` rearranged so that every ``size`` in a row share a group as far as possible.

    Steps come in the order in which their last image does. What does not fill a step of its own group follows, by
    group, less the last of ``order`` that do not fill a step at all.

    Args:
        order: (n,) numbers, shuffled.
        groups: the group of every number.
        size: images of a step, all processes together.

    Returns:
        (n // size * size,) numbers.
    """
    waiting: dict[int, list[int]] = defaultdict(list)
    arranged: list[int] = []
    place = {}
    for position, number in enumerate(order):
        place[number] = position
        group = waiting[groups[number]]
        group.append(number)
        if len(group) == size:
            arranged += group
            group.clear()
    rest = sorted((number for group in waiting.values() for number in group), key=place.__getitem__)
    rest = rest[: len(rest) // size * size]
    return np.array([*arranged, *sorted(rest, key=lambda number: groups[number])], dtype=np.int64)
