"""Detections on ignore regions: they count neither for nor against."""

from __future__ import annotations

import numpy as np

from person_search.data.boxes import iou, share_inside
from person_search.data.scene import Bools, Split
from person_search.evaluation.overlaps import offsets_of, scene_pairs
from person_search.evaluation.predictions import Predictions

SHARE = 0.5
"""Share of a detection inside a region, and IoU with a true box, from which each counts."""


def on_ignore_regions(predictions: Predictions, split: Split) -> Bools:
    """(M,) bool: detections that fall on an ignore region of their scene and on none of its people.

    A detection falls on a region when at least half of its own area lies inside (which an IoU of 0.5 implies: the
    union is no smaller than the detection); it falls on a person when its IoU with the true box is at least 0.5.
    ``predictions`` are in the split's scene order.
    """
    ignored: Bools = np.zeros(len(predictions), dtype=bool)
    with_regions = [number for number, scene in enumerate(split.scenes) if len(scene.ignore)]
    if not with_regions:
        return ignored
    counts = np.array([len(split.scenes[number].ignore) for number in with_regions], np.int64)
    regions = np.concatenate([split.scenes[number].ignore for number in with_regions])
    items, rows = scene_pairs(np.repeat(np.array(with_regions, np.int64), counts), predictions.offsets)
    ignored[rows[share_inside(predictions.boxes[rows], regions[items]) >= SHARE]] = True

    people = np.concatenate([scene.boxes for scene in split.scenes])
    offsets = offsets_of(np.array([len(scene.boxes) for scene in split.scenes], np.int64))
    suspects = np.flatnonzero(ignored)
    items, rows = scene_pairs(predictions.scene_of[suspects], offsets)
    on_person = iou(predictions.boxes[suspects[items]], people[rows]) >= SHARE
    ignored[suspects[items[on_person]]] = False
    return ignored


def without_ignored(predictions: Predictions, split: Split) -> Predictions:
    """``predictions`` less the detections of :func:`on_ignore_regions`."""
    return predictions.keep(~on_ignore_regions(predictions, split))
