"""What is to be said of numbers that may mean something else than they seem to: one line each, none if all is well."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from person_search.config import EvaluationConfig
from person_search.data.boxes import Floats
from person_search.data.scene import Bools, Split
from person_search.evaluation.predictions import Float32s, Predictions

if TYPE_CHECKING:
    from person_search.evaluation.results import DetectionMetrics, SearchMetrics

FEW = 0.1
"""Detections for each true box below which hardly anything is scored."""
HARDLY_ANY = 0.02
"""Share of what could be matched below which boxes seem to be in other pixels."""
LENGTHS = 4.0
"""Longest embedding in shortest ones from which length, not direction, may make the ranking."""
SAME = 1.05
"""The same for what differs by rounding only."""


def doubts_about_detections(
    predictions: Predictions, given: Predictions, split: Split, config: EvaluationConfig, metrics: DetectionMetrics
) -> Iterator[str]:
    """Few detections, few that reach a threshold, none on a person.

    Args:
        predictions: as read.
        given: those that are not on ignore regions.
        split, config: what they are scored on, and how.
        metrics: what that gave.
    """
    boxes = metrics.all.boxes
    if len(predictions) == 0:
        yield f"{predictions.source}: there is no detection in any of the {len(split.scenes)} scenes"
        return
    if len(given) == 0:
        yield f"{predictions.source}: all {len(predictions)} detections lie on ignore regions, where nothing is scored"
        return
    thresholds: dict[float, list[str]] = {}
    for option, value in (
        ("`search_threshold`", config.search_threshold),
        ("`detection_threshold`", config.detection_threshold),
    ):
        thresholds.setdefault(value, []).append(f"{option} {value:g}")
    for value, options in thresholds.items():
        reach = int((given.scores >= np.float32(value)).sum())
        if reach == 0 or reach < FEW * boxes:
            yield (
                f"{given.source}: {reach} of {len(given)} detections reach {' and '.join(options)}, for {boxes} true "
                f"boxes; the highest score is {given.scores.max():.3g}"
            )
    kept = given.boxes[given.scores >= np.float32(metrics.threshold)]
    could = min(len(kept), boxes)
    matched = round((metrics.all.recall or 0.0) * boxes)
    if could and matched <= HARDLY_ANY * could:
        yield (
            f"{given.source}: {matched} of {len(kept)} detections are on one of the {boxes} true boxes (IoU 0.5); "
            "the model has learnt little yet, or boxes are not x1, y1, x2, y2 in pixels of the original image "
            f"(found {kept.min():.4g} to {kept.max():.4g})"
        )


def doubts_about_embeddings(searched: Predictions, split: Split, *, context: bool) -> Iterator[str]:
    """Lengths that make the ranking, and embeddings that tell nobody apart.

    Args:
        searched: the detections that are searched.
        split: whose queries they are.
        context: whether the other people of the queries' scenes are compared too (CBGM).
    """
    kinds = [("detections searched", searched.embeddings, searched.scores)]
    if context and searched.query_context is not None and searched.query_scores is not None:
        kinds.append(("people in the queries' scenes", searched.query_context, searched.query_scores))
    for what, embeddings, scores in kinds:
        if len(embeddings):
            yield from (f"{searched.source}: {line}" for line in _of_lengths(what, embeddings, scores))
    if len(searched) > 1 and _all_equal(searched.embeddings):
        yield (
            f"{searched.source}: all {len(searched)} detections searched have the same embedding; their ranks are "
            "their order in the file"
        )
    queries = searched.query_embeddings
    zero = int((_lengths(queries) == 0).sum())
    if zero:
        yield f"{searched.source}: {zero} of {len(queries)} query embeddings are all zeros: everybody is as similar"
    elif len({query.person_id for query in split.queries}) > 1 and _all_equal(queries):
        yield f"{searched.source}: all {len(queries)} query embeddings are the same, whomever they look for"


def doubts_about_search(searched: Predictions, split: Split, search: list[SearchMetrics]) -> Iterator[str]:
    """Searches that ask nothing or find nobody."""
    if search and not split.queries:
        yield f"{split.dataset} {split.name} has no queries: no search is scored"
        return
    for metrics in search:
        if metrics.queries == 0:
            yield (
                f"{split.dataset} {split.name}, {metrics.protocol}: none of the {metrics.left_out} queries' people is "
                "in its gallery: no search is scored"
            )
        elif metrics.recall == 0 and len(searched):
            yield (
                f"{searched.source}, {metrics.protocol}: in no gallery is a detection on the query's person "
                f"(queries: {metrics.queries}, detections searched: {len(searched)})"
            )


def _of_lengths(what: str, embeddings: Float32s, scores: Float32s) -> Iterator[str]:
    lengths = _lengths(embeddings)
    some = lengths > 0
    if not some.all():
        yield f"the embeddings of {int((~some).sum())} of {len(lengths)} {what} are all zeros: as similar to everybody"
    if not some.any():
        return
    shortest, longest = lengths[some].min(), lengths[some].max()
    if longest > LENGTHS * shortest and not _weighted(lengths, scores, some):
        yield (
            f"embedding lengths of the {len(lengths)} {what} vary from {shortest:.3g} to {longest:.3g}: similarities "
            "are dot products; normalise the embeddings unless their lengths are meant to count"
        )


def _weighted(lengths: Floats, scores: Float32s, some: Bools) -> bool:
    """Whether lengths are the scores times one number, as confidence-weighted similarity makes them."""
    scored = some & (scores > 0)
    if (some & ~scored).any():
        return False
    ratio = lengths[scored] / scores[scored]
    return bool(ratio.max() <= SAME * ratio.min())


def _lengths(embeddings: Float32s) -> Floats:
    """(N,) float64 lengths of (N, D) embeddings."""
    lengths: Floats = np.sqrt(np.einsum("nd,nd->n", embeddings, embeddings, dtype=np.float64))
    return lengths


def _all_equal(embeddings: Float32s) -> bool:
    return bool((embeddings == embeddings[:1]).all())
