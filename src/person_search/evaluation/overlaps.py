"""Which boxes share a scene, and how far they overlap: the ground of every matching rule in this package."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from person_search.data.scene import Bools, Boxes, Ints

Floats = NDArray[np.float64]


def offsets_of(counts: Ints) -> Ints:
    """(N,) counts as (N + 1,) int64 offsets: group i is rows ``offsets[i]:offsets[i + 1]``."""
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def scene_pairs(scenes: Ints, offsets: Ints) -> tuple[Ints, Ints]:
    """Every item paired with every row of its scene.

    Args:
        scenes: (N,) scene number of each item.
        offsets: (S + 1,) rows of scene s are ``offsets[s]:offsets[s + 1]``.

    Returns:
        Two (P,) int64 arrays, item numbers (rising) and, per item, its scene's rows (rising).
    """
    counts = (offsets[1:] - offsets[:-1])[scenes]
    items = np.repeat(np.arange(len(scenes), dtype=np.int64), counts)
    starts = offsets[:-1][scenes] - offsets_of(counts)[:-1]
    return items, np.repeat(starts, counts) + np.arange(len(items), dtype=np.int64)


def intersection(first: Boxes, second: Boxes) -> Floats:
    """(P,) shared areas of (P, 4) and (P, 4) xyxy boxes, in float64 square pixels."""
    a, b = first.astype(np.float64), second.astype(np.float64)
    width = np.minimum(a[:, 2], b[:, 2]) - np.maximum(a[:, 0], b[:, 0])
    height = np.minimum(a[:, 3], b[:, 3]) - np.maximum(a[:, 1], b[:, 1])
    return np.maximum(width, 0.0) * np.maximum(height, 0.0)


def area(boxes: Boxes) -> Floats:
    """(N,) areas of (N, 4) xyxy boxes, in float64 square pixels."""
    wide = boxes.astype(np.float64)
    return (wide[:, 2] - wide[:, 0]) * (wide[:, 3] - wide[:, 1])


def iou(first: Boxes, second: Boxes) -> Floats:
    """(P,) intersection over union of (P, 4) and (P, 4) xyxy boxes; 0 where both are empty."""
    shared = intersection(first, second)
    union = area(first) + area(second) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def first_best(groups: Ints, values: Floats) -> Ints:
    """Position of the first largest value of every group.

    Args:
        groups: (N,) group keys, equal ones adjacent.
        values: (N,) what to compare.

    Returns:
        (G,) int64 positions, one per group, in the groups' order.
    """
    if len(groups) == 0:
        return np.zeros(0, np.int64)
    starts = np.concatenate([[0], np.flatnonzero(groups[1:] != groups[:-1]) + 1])
    lengths = np.diff(np.concatenate([starts, [len(groups)]]))
    largest = np.flatnonzero(values == np.repeat(np.maximum.reduceat(values, starts), lengths))
    first: Bools = np.ones(len(largest), dtype=bool)
    first[1:] = groups[largest[1:]] != groups[largest[:-1]]
    return largest[first].astype(np.int64)
