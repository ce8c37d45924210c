"""Context bipartite graph matching (SeqNet, Li and Miao, AAAI 2021): who else is in the picture tells who this is."""

from __future__ import annotations

import numpy as np

from person_search.data.boxes import Floats
from person_search.data.scene import Ints
from person_search.evaluation.optional_arrays import CONTEXT
from person_search.evaluation.predictions import Predictions
from person_search.evaluation.search import Rescore, most_similar
from person_search.evaluation.similarity import Block

DEFAULTS = {"prw": (30, 4)}
"""k1 and k2 by dataset; every other one takes those of CUHK-SYSU, (10, 3)."""
ADVICE = "predict again with `cbgm`, or score without it"


def defaults(dataset: str) -> tuple[int, int]:
    """Published k1 and k2 of a dataset by its registered name."""
    return DEFAULTS.get(dataset, (10, 3))


def context_rescore(predictions: Predictions, *, k1: int, k2: int) -> Rescore:
    """What :func:`person_search.evaluation.search.search` needs to re-score by context.

    Every scene among a query's ``k1`` most similar detections is re-scored: the query and the ``k2 - 1`` most
    confident other people of its picture are assigned to the people of that scene so that the sum of similarities is
    largest, negative ones included, until the smaller side is used up. The detection assigned to the query takes the
    largest similarity of the assignment as its own; if the query is left over, nothing changes.

    Args:
        predictions: as given to ``search``, with the people of the queries' pictures.
        k1: detections whose scenes are re-scored.
        k2: people of the query's picture, the query included.

    Raises:
        DataError: the predictions do not hold the people of the queries' pictures.
    """
    predictions.require(CONTEXT, by="CBGM", advice=ADVICE)
    assert predictions.query_offsets is not None
    assert predictions.query_scores is not None
    assert predictions.query_context is not None
    others = _others(predictions.query_offsets, predictions.query_scores, k2)
    context, scene_of = predictions.query_context, predictions.scene_of

    def rescore(block: Block) -> None:
        query, _, row, _ = most_similar(block, k1)
        pairs = np.unique(query * len(predictions.scene_names) + scene_of[row])
        number, scene = np.divmod(pairs, max(len(predictions.scene_names), 1))
        low, high = predictions.offsets[scene], predictions.offsets[scene + 1]
        start = block.columns(number, low)
        changes: list[tuple[int, int, float]] = []
        for q, a, b, column in zip(number.tolist(), low.tolist(), high.tolist(), start.tolist(), strict=True):
            people = context[others[block.first + q]].astype(np.float64)
            gallery = predictions.embeddings[a:b].astype(np.float64)
            own = block.values[q, column : column + b - a]
            matched = assigned(np.vstack([own, people @ gallery.T]))
            if matched is not None:
                changes.append((q, column + matched[0], matched[1]))
        for q, column, value in changes:
            block.values[q, column] = value

    return rescore


def assigned(weights: Floats) -> tuple[int, float] | None:
    """Column assigned to the first row of (A, B) ``weights`` and the largest weight assigned; None if left over."""
    # SciPy takes a while to import, and without CBGM nothing here needs it.
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(weights, maximize=True)
    first = np.flatnonzero(rows == 0)
    if len(first) == 0:
        return None
    return int(columns[first[0]]), float(weights[rows, columns].max())


def _others(offsets: Ints, scores: np.ndarray[tuple[int, ...], np.dtype[np.float32]], k2: int) -> list[Ints]:
    """Per query the rows of the ``k2 - 1`` most confident people beside it, the lower row first among equals."""
    rows = []
    for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        best = np.argsort(-scores[start + 1 : end], kind="stable")[: k2 - 1]
        rows.append(best.astype(np.int64) + start + 1)
    return rows
