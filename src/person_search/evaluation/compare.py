"""Two predictions files of one split: what differs, how sure that is, and on which queries."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

from person_search.config import Config, EvaluationConfig
from person_search.data.boxes import Floats
from person_search.data.scene import Protocol, Split
from person_search.evaluation.predictions import Predictions
from person_search.evaluation.results import Results, Share, score_with_rankings
from person_search.evaluation.search import SearchResult
from person_search.evaluation.tables import percent

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """One metric of both, second minus first, and the bootstrap interval of that difference where there is one."""

    scope: str
    metric: str
    first: Share
    second: Share
    difference: Share
    low: Share
    high: Share


@dataclass(frozen=True)
class ChangedQuery:
    """AP of one query under the first protocol in both."""

    number: int
    scene: str
    first: float
    second: float


@dataclass(frozen=True)
class Comparison:
    """Both results, their differences, and the queries that changed most, the largest change first."""

    first: Results
    second: Results
    differences: list[Difference]
    changed: list[ChangedQuery]

    def to_dict(self) -> dict[str, Any]:
        """Differences, changed queries and notes as plain dicts, lists, numbers and strings; shares in 0..1."""
        return {
            "differences": [dataclasses.asdict(difference) for difference in self.differences],
            "changed": [dataclasses.asdict(query) for query in self.changed],
            "notes": list(dict.fromkeys([*self.first.notes, *self.second.notes])),
        }


def compare(
    first: Predictions,
    second: Predictions,
    split: Split,
    protocols: Sequence[Protocol],
    config: Config | EvaluationConfig,
    *,
    seed: int = 0,
    samples: int = 2000,
    queries: int = 10,
) -> Comparison:
    """Score both and compare them query by query.

    Args:
        first, second: predictions on ``split``.
        split, protocols, config: as for :func:`person_search.evaluation.results.score`.
        seed, samples: of the bootstrap over queries that gives the 95 % intervals.
        queries: how many of the queries whose AP changed most to name.
    """
    results_a, rankings_a = score_with_rankings(first, split, protocols, config)
    results_b, rankings_b = score_with_rankings(second, split, protocols, config)
    differences = []
    for scope, a, b in (
        ("all people", results_a.detection.all, results_b.detection.all),
        ("labelled people", results_a.detection.labelled, results_b.detection.labelled),
    ):
        differences.append(_without_interval(scope, "detection recall", a.recall, b.recall))
        differences.append(_without_interval(scope, "detection AP", a.ap, b.ap))
    for ranking_a, ranking_b in zip(rankings_a, rankings_b, strict=True):
        for metric in ("mAP", "top-1", "top-5", "top-10", "recall"):
            values_a, values_b = _per_query(ranking_a, metric), _per_query(ranking_b, metric)
            differences.append(_with_interval(ranking_a.protocol, metric, values_a, values_b, seed, samples))
    changed = _changed(rankings_a[0], rankings_b[0], split, queries) if rankings_a else []
    return Comparison(results_a, results_b, differences, changed)


def paired_bootstrap(differences: Floats, *, seed: int, samples: int) -> tuple[float, float]:
    """95 % percentile interval of the mean of (N,) paired differences, N >= 1, over ``samples`` resamplings."""
    rng = np.random.default_rng(seed)
    means = np.array([differences[rng.integers(0, len(differences), len(differences))].mean() for _ in range(samples)])
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def comparison_table(comparison: Comparison, names: tuple[str, str]) -> Table:
    """The differences in per cent points."""
    table = Table(title="Comparison, per cent; 95 % intervals by paired bootstrap over queries")
    for heading in ("", "metric"):
        table.add_column(heading)
    for heading in (*names, "difference", "interval"):
        table.add_column(heading, justify="right")
    scope = None
    for row in comparison.differences:
        interval = "" if row.low is None or row.high is None else f"{100 * row.low:+.1f} .. {100 * row.high:+.1f}"
        change = "-" if row.difference is None else f"{100 * row.difference:+.1f}"
        shown = row.scope if row.scope != scope else ""
        table.add_row(shown, row.metric, percent(row.first), percent(row.second), change, interval)
        scope = row.scope
    return table


def changed_table(comparison: Comparison, names: tuple[str, str]) -> Table:
    """The queries whose AP changed most, in per cent."""
    table = Table(title="Queries that changed most, AP in per cent")
    for heading in ("query", "scene", *names, "difference"):
        table.add_column(heading, justify="left" if heading == "scene" else "right")
    for query in comparison.changed:
        change = f"{100 * (query.second - query.first):+.1f}"
        table.add_row(str(query.number), query.scene, percent(query.first), percent(query.second), change)
    return table


def _per_query(ranking: SearchResult, metric: str) -> Floats:
    """The (N,) values whose mean is the metric, over the queries that count."""
    if metric == "mAP":
        return ranking.ap[ranking.evaluated]
    if metric == "recall":
        return ranking.recall[ranking.evaluated]
    first = ranking.first_rank[ranking.evaluated]
    return ((first > 0) & (first <= int(metric.removeprefix("top-")))).astype(np.float64)


def _without_interval(scope: str, metric: str, first: Share, second: Share) -> Difference:
    difference = None if first is None or second is None else second - first
    return Difference(scope, metric, first, second, difference, None, None)


def _with_interval(scope: str, metric: str, first: Floats, second: Floats, seed: int, samples: int) -> Difference:
    if len(first) == 0:
        return Difference(scope, metric, None, None, None, None, None)
    low, high = paired_bootstrap(second - first, seed=seed, samples=samples)
    a, b = float(first.mean()), float(second.mean())
    return Difference(scope, metric, a, b, b - a, low, high)


def _changed(first: SearchResult, second: SearchResult, split: Split, count: int) -> list[ChangedQuery]:
    change = np.nan_to_num(np.abs(second.ap - first.ap))
    order = [number for number in np.argsort(-change, kind="stable")[:count].tolist() if change[number] > 0]
    return [
        ChangedQuery(n, split.scenes[split.queries[n].scene].name, float(first.ap[n]), float(second.ap[n]))
        for n in order
    ]
