"""Scores of whole scenes by a gallery filter network (Jaffe and Zakhor, WACV 2023): which may hold a query's person."""

from __future__ import annotations

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np

from person_search.data.boxes import Floats
from person_search.data.scene import Protocol
from person_search.evaluation.predictions import Float32s, Predictions
from person_search.evaluation.search import Rescore
from person_search.evaluation.similarity import Block

ARRAYS = ("scene_embeddings", "query_scene_embeddings", "query_scene_gates", "query_scene_offsets")
"""The optional arrays that it needs."""
ADVICE = "predict with a model that was trained with `gfn`, or score without `gfn_scores`"
KEPT = 0.99
"""Share of matching pairs that a threshold is to keep."""
SCENES = 1024
"""Scenes that are compared at once."""
_SCORES: WeakKeyDictionary[Predictions, Float32s] = WeakKeyDictionary()


@dataclass(frozen=True)
class FilterMetrics:
    """What leaving out scenes of low scores would do to the galleries of one protocol.

    Attributes:
        threshold: a score that 99 % of the pairs of a query and a gallery scene with its person reach.
        kept: share of those pairs that reach it.
        filtered: share of the other pairs that do not; None where there is no other.
        pairs: of a query and a gallery scene with its person.
        others: of a query and a gallery scene without.
    """

    threshold: float
    kept: float
    filtered: float | None
    pairs: int
    others: int


def scene_scores(predictions: Predictions) -> Float32s:
    """(Q, S) scores in 0..1 of every query with every scene; computed once for the same predictions.

    A query's score with the scene z is sigmoid(cos(g * y + o, g * z + o)), where y, g and o are its rows of
    ``query_scene_embeddings``, ``query_scene_gates`` and ``query_scene_offsets``.

    Raises:
        DataError: the predictions do not hold these arrays.
    """
    if predictions not in _SCORES:
        predictions.require(ARRAYS, by="the gallery filter", advice=ADVICE)
        _SCORES[predictions] = _scene_scores(*(predictions.arrays[name] for name in ARRAYS))
    return _SCORES[predictions]


def _scene_scores(scenes: Float32s, own: Float32s, gates: Float32s, offsets: Float32s) -> Float32s:
    gate, offset = gates.astype(np.float64), offsets.astype(np.float64)
    target = _unit(gate * own + offset)
    # Of the sum g * z + o: its product with the target, and its square, each as products with z and with z squared.
    straight, constant = target * gate, (target * offset).sum(1)[:, None]
    square, mixed, rest = gate**2, 2 * gate * offset, (offset**2).sum(1)[:, None]
    scores = np.empty((len(own), len(scenes)), np.float32)
    for start in range(0, len(scenes), SCENES):
        part = scenes[start : start + SCENES].astype(np.float64).T
        length = np.sqrt(np.maximum(square @ part**2 + mixed @ part + rest, 0))
        cosines = (straight @ part + constant) / np.maximum(length, 1e-12)
        scores[:, start : start + SCENES] = 1 / (1 + np.exp(-cosines))
    return scores


def _unit(rows: Floats) -> Floats:
    """(N, D) rows of length 1."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def filter_rescore(predictions: Predictions) -> Rescore:
    """What multiplies the similarity of every detection by the score of its scene. Raises DataError."""
    scores, scene_of = scene_scores(predictions), predictions.scene_of

    def rescore(block: Block) -> None:
        for number, values in enumerate(block.values):
            inside = values > -np.inf
            rows = block.rows_of(number)[inside]
            values[inside] *= scores[block.first + number][scene_of[rows]]

    return rescore


def filter_metrics(predictions: Predictions, protocol: Protocol) -> FilterMetrics | None:
    """How well the scores tell scenes with a query's person from others; None where no gallery scene holds anyone's.

    The threshold is as published: of the scores of all pairs with the person, in falling order, number int(0.99 P),
    counted from 0, of P.
    """
    scores = scene_scores(predictions)
    query = np.repeat(np.arange(len(scores)), np.diff(protocol.truth_offsets))
    positives = np.sort(scores[query, protocol.truth_scenes])[::-1]
    if len(positives) == 0:
        return None
    threshold = positives[int(KEPT * len(positives))]
    others = np.count_nonzero(protocol.in_gallery) - len(positives)
    galleries = zip(scores, protocol.in_gallery, strict=True)
    below = sum(np.count_nonzero(row[inside] < threshold) for row, inside in galleries)
    below -= np.count_nonzero(positives < threshold)
    return FilterMetrics(
        threshold=float(threshold),
        kept=float((positives >= threshold).mean()),
        filtered=below / others if others else None,
        pairs=len(positives),
        others=int(others),
    )
