"""Comparison of two predictions files, query by query."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from small_problems import build, gallery, predict

from person_search.config import EvaluationConfig
from person_search.data.scene import Protocol, Split
from person_search.evaluation.compare import (
    Comparison,
    changed_table,
    compare,
    comparison_table,
    paired_bootstrap,
)
from person_search.evaluation.predictions import Predictions
from person_search.evaluation.results import score

CONFIG = EvaluationConfig(search_threshold=0.0)


@pytest.fixture(scope="module")
def two() -> tuple[Predictions, Predictions, Split, Protocol]:
    rng = np.random.default_rng(2)
    split = build(rng, scenes=20, identities=4, queries=25, cameras=0)
    first = predict(rng, split, 3, exact=True, copies=False)
    embeddings = first.query_embeddings.copy()
    embeddings[:8] = -embeddings[:8]
    return first, replace(first, query_embeddings=embeddings), split, gallery(rng, split, 0.8)


@pytest.fixture(scope="module")
def comparison(two: tuple[Predictions, Predictions, Split, Protocol]) -> Comparison:
    first, second, split, protocol = two
    return compare(first, second, split, [protocol], CONFIG, queries=5, samples=500)


def test_differences_are_second_minus_first(
    comparison: Comparison, two: tuple[Predictions, Predictions, Split, Protocol]
) -> None:
    first, second, split, protocol = two
    a, b = (score(p, split, [protocol], CONFIG).search[0] for p in (first, second))
    row = next(d for d in comparison.differences if d.metric == "mAP")
    assert [row.first, row.second] == pytest.approx([a.map, b.map])
    assert row.difference == pytest.approx(b.map - a.map)  # type: ignore[operator]
    assert row.low is not None
    assert row.high is not None
    assert row.low < row.difference < row.high  # type: ignore[operator]
    by_metric = {d.metric: d.second for d in comparison.differences if d.scope == "drawn"}
    wanted = {"mAP": b.map, "top-1": b.top1, "top-5": b.top5, "top-10": b.top10, "recall": b.recall}
    assert by_metric == pytest.approx(wanted)


def test_detections_are_the_same_so_their_differences_are_zero(comparison: Comparison) -> None:
    rows = [d for d in comparison.differences if d.metric.startswith("detection")]
    assert len(rows) == 4
    assert all(d.difference == 0 and d.low is None for d in rows)


def test_changed_queries_are_the_largest_changes(comparison: Comparison) -> None:
    aps = [
        {query.number: query.ap for query in results.queries if query.ap is not None}
        for results in (comparison.first, comparison.second)
    ]
    changes = sorted((abs(aps[1][n] - aps[0][n]) for n in aps[0]), reverse=True)
    named = [abs(query.second - query.first) for query in comparison.changed]
    assert named == changes[:5]
    assert all(query.number < 8 for query in comparison.changed)
    assert [comparison.first.queries[q.number].ap for q in comparison.changed] == [q.first for q in comparison.changed]


def test_the_same_predictions_do_not_differ(two: tuple[Predictions, Predictions, Split, Protocol]) -> None:
    first, _, split, protocol = two
    same = compare(first, first, split, [protocol], CONFIG, samples=20)
    assert all(d.difference == 0 for d in same.differences)
    assert same.changed == []


def test_seeded(two: tuple[Predictions, Predictions, Split, Protocol]) -> None:
    first, second, split, protocol = two
    runs = [compare(first, second, split, [protocol], CONFIG, seed=s, samples=50).differences for s in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_interval_is_that_of_the_mean() -> None:
    differences = np.random.default_rng(0).normal(0.1, 0.5, 400)
    low, high = paired_bootstrap(differences, seed=0, samples=4000)
    error = 1.96 * differences.std() / np.sqrt(len(differences))
    assert [low, high] == pytest.approx([differences.mean() - error, differences.mean() + error], abs=0.005)


def test_no_query_counts(two: tuple[Predictions, Predictions, Split, Protocol]) -> None:
    first, second, split, protocol = two
    nowhere = replace(
        protocol,
        truth_offsets=np.zeros_like(protocol.truth_offsets),
        truth_scenes=protocol.truth_scenes[:0],
        truth_boxes=protocol.truth_boxes[:0],
    )
    result = compare(first, second, split, [nowhere], CONFIG, samples=20)
    assert next(d for d in result.differences if d.metric == "mAP").difference is None
    assert result.changed == []


def test_tables_show_both_and_the_difference(comparison: Comparison) -> None:
    console = Console(width=160, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(comparison_table(comparison, ("A.npz", "B.npz")))
    console.print(changed_table(comparison, ("A.npz", "B.npz")))
    text = console.export_text()
    row = next(d for d in comparison.differences if d.metric == "mAP")
    line = next(line for line in text.splitlines() if " mAP " in line)
    assert f"{100 * row.difference:+.1f}" in line  # type: ignore[operator]
    assert f"{100 * row.low:+.1f} .. {100 * row.high:+.1f}" in line  # type: ignore[operator]
    assert all(query.scene in text for query in comparison.changed)
    assert set(comparison.to_dict()) == {"differences", "changed", "notes"}
