"""How well people are found, whoever they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from person_search.data.boxes import Floats
from person_search.data.scene import Bools, Split
from person_search.evaluation.average_precision import average_precision, precision_recall
from person_search.evaluation.overlaps import mutual_matches, scene_pairs
from person_search.evaluation.predictions import Predictions


@dataclass(frozen=True, eq=False)
class DetectionResult:
    """Detection metrics over one choice of people.

    Attributes:
        boxes: number of true boxes.
        recall: share of them matched; NaN without any.
        ap: average precision x recall; NaN without any true box.
        curve_precision, curve_recall: (K,) float64, at every distinct score, falling; recall counts true boxes.
    """

    boxes: int
    recall: float
    ap: float
    curve_precision: Floats
    curve_recall: Floats


def detection_metrics(predictions: Predictions, split: Split, *, threshold: float, labelled: bool) -> DetectionResult:
    """Match detections of at least ``threshold`` to the true boxes of their scene.

    A detection and a true box match when their IoU is at least 0.5 and each is the other's best (the first of equals).

    Args:
        predictions: in the split's scene order, without those on ignore regions.
        split: the true boxes.
        threshold: detections with a lower score do not count.
        labelled: only people with an identity are to be found, and scenes without any are skipped; a detection of
            another person then counts as wrong, as in the published numbers.
    """
    scored: Bools = predictions.scores >= np.float32(threshold)
    if labelled:
        scored &= np.array([scene.has_identity for scene in split.scenes], dtype=bool)[predictions.scene_of]
    kept = predictions.keep(scored)
    people = [scene.boxes[scene.person_ids >= 0] if labelled else scene.boxes for scene in split.scenes]
    correct = _matched(kept, people)
    total = sum(len(boxes) for boxes in people)
    if total == 0:
        return DetectionResult(0, float("nan"), float("nan"), np.zeros(0), np.zeros(0))
    recall = int(correct.sum()) / total
    precision, share = precision_recall(correct, kept.scores)
    return DetectionResult(total, recall, average_precision(correct, kept.scores) * recall, precision, share * recall)


def _matched(predictions: Predictions, people: list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]) -> Bools:
    """(M,) bool: the detections that match a true box."""
    correct: Bools = np.zeros(len(predictions), dtype=bool)
    if not people:
        return correct
    counts = np.array([len(boxes) for boxes in people], np.int64)
    truths = np.concatenate(people)
    truth, row = scene_pairs(np.repeat(np.arange(len(people), dtype=np.int64), counts), predictions.offsets)
    correct[row[mutual_matches(truths, predictions.boxes, truth, row)]] = True
    return correct
