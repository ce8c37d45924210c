"""Which boxes share a scene, and which are each other's best: the ground of every matching rule in this package."""

from __future__ import annotations

import numpy as np

from person_search.data.boxes import Floats, iou
from person_search.data.scene import Bools, Boxes, Ints

MATCH_IOU = 0.5
"""IoU from which a detection matches a true box."""


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


def mutual_matches(truths: Boxes, boxes: Boxes, truth: Ints, row: Ints) -> Ints:
    """Positions of the pairs that overlap by ``MATCH_IOU`` or more and are each the other's best; first ones of equals.

    Args:
        truths: (T, 4) true boxes.
        boxes: (M, 4) detections.
        truth, row: (P,) which of each make a pair, as ``scene_pairs`` gives them.
    """
    overlap = iou(truths[truth], boxes[row])
    best_of_truth = first_best(truth, overlap)
    by_row = np.lexsort((truth, row))
    best_of_row = by_row[first_best(row[by_row], overlap[by_row])]
    mutual = np.intersect1d(best_of_truth, best_of_row, assume_unique=True)
    return mutual[overlap[mutual] >= MATCH_IOU]
