"""Average precision as scikit-learn's ``average_precision_score`` defines it: equal scores are one threshold."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from person_search.data.boxes import Floats
from person_search.data.scene import Bools, Ints


def precision_recall(correct: Bools, scores: NDArray[np.floating]) -> tuple[Floats, Floats]:
    """Precision and share of the correct ones found, at every distinct score, falling.

    Args:
        correct: (N,) bool.
        scores: (N,) in any order.

    Returns:
        Two (K,) float64 arrays, K the number of distinct scores; the share is 0 throughout when none is correct.
    """
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True)) if len(ordered) else np.zeros(0, np.int64)
    found = np.cumsum(correct[order])[ends]
    return found / (ends + 1.0), found / max(int(correct.sum()), 1)


def average_precision(correct: Bools, scores: NDArray[np.floating]) -> float:
    """Sum over distinct scores of precision times the gain in recall; 0 when none of the (N,) is correct."""
    precision, recall = precision_recall(correct, scores)
    return float(np.sum(precision * np.diff(recall, prepend=0.0)))


def precision_of_hits(groups: Ints, similarities: Floats, at_least: Ints) -> Floats:
    """Precision at the similarity of every correct row of many rankings at once.

    The mean of these over one ranking's correct rows is its average precision, equal scores being one threshold.

    Args:
        groups: (N,) ranking that each correct row belongs to.
        similarities: (N,) its similarity there.
        at_least: (N,) how many rows of its ranking, right or wrong, are at least as similar.

    Returns:
        (N,) float64 in 0..1.
    """
    order = np.lexsort((-similarities, groups))
    group, value = groups[order], similarities[order]
    new_group = np.append(True, group[1:] != group[:-1])[: len(group)]
    new_value = new_group | np.append(True, value[1:] != value[:-1])[: len(group)]
    position = np.arange(len(group))
    in_group = position - position[new_group][np.cumsum(new_group) - 1]
    starts = np.flatnonzero(new_value)
    ends = np.append(starts[1:], len(group))[: len(starts)] - 1
    found: Floats = np.empty(len(group))
    found[order] = (in_group[ends] + 1)[np.cumsum(new_value) - 1]
    return found / at_least
