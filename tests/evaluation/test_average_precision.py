"""Average precision against scikit-learn, ties included."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from person_search.evaluation.average_precision import average_precision, precision_of_hits, precision_recall

rows = st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=40)


@settings(deadline=None, derandomize=True)
@given(rows.filter(lambda drawn: any(right for right, _ in drawn)))
def test_same_as_scikit_learn(drawn: list[tuple[bool, int]]) -> None:
    right, scores = np.array([r for r, _ in drawn]), np.array([s / 4 for _, s in drawn], np.float32)
    assert average_precision(right, scores) == pytest.approx(average_precision_score(right, scores), abs=1e-12)


@settings(deadline=None, derandomize=True)
@given(st.lists(rows, min_size=1, max_size=5))
def test_mean_over_hits_is_each_rankings_average_precision(rankings: list[list[tuple[bool, int]]]) -> None:
    group, similarity, at_least = [], [], []
    for number, drawn in enumerate(rankings):
        for right, score in drawn:
            if right:
                group.append(number)
                similarity.append(float(score))
                at_least.append(sum(other >= score for _, other in drawn))
    precision = precision_of_hits(np.array(group, np.int64), np.array(similarity), np.array(at_least, np.int64))
    for number, drawn in enumerate(rankings):
        own = precision[np.array(group, np.int64) == number]
        right, scores = [r for r, _ in drawn], [s for _, s in drawn]
        if any(right):
            assert own.mean() == pytest.approx(average_precision_score(right, scores), abs=1e-12)
        else:
            assert len(own) == 0


def test_nothing_right_and_nothing_at_all() -> None:
    assert average_precision(np.zeros(3, dtype=bool), np.ones(3)) == 0
    assert average_precision(np.zeros(0, dtype=bool), np.zeros(0)) == 0


def test_equal_scores_are_one_point_of_the_curve() -> None:
    precision, recall = precision_recall(np.array([True, False, True]), np.array([0.5, 0.5, 0.9]))
    assert precision.tolist() == [1.0, 2 / 3]
    assert recall.tolist() == [0.5, 1.0]
