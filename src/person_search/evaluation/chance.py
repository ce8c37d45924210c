"""What a ranking by chance scores, so that a table shows what its numbers are worth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from person_search.config import EvaluationConfig
from person_search.data.scene import Boxes, Protocol, Split
from person_search.evaluation.overlaps import offsets_of
from person_search.evaluation.predictions import Float32s, Predictions
from person_search.evaluation.results import Results, score

DIMENSIONS = 64


def random_predictions(split: Split, *, seed: int = 0) -> Predictions:
    """Every true box of ``split`` with score 1 and a random embedding of unit length, as for the queries."""
    rng = np.random.default_rng(seed)
    none: Boxes = np.zeros((0, 4), np.float32)
    boxes = np.concatenate([none, *(scene.boxes for scene in split.scenes)])
    return Predictions(
        scene_names=np.array([scene.name for scene in split.scenes], dtype=np.str_),
        offsets=offsets_of(np.array([len(scene.boxes) for scene in split.scenes], np.int64)),
        boxes=boxes,
        scores=np.ones(len(boxes), np.float32),
        embeddings=_directions(rng, len(boxes)),
        query_embeddings=_directions(rng, len(split.queries)),
    )


def random_ranking(split: Split, protocols: Sequence[Protocol], config: EvaluationConfig, *, seed: int = 0) -> Results:
    """The metrics of ranking the true boxes by chance."""
    chance = config.model_copy(update={"cbgm": False, "gfn_scores": False})
    return score(random_predictions(split, seed=seed), split, protocols, chance)


def _directions(rng: np.random.Generator, count: int) -> Float32s:
    values = rng.standard_normal((count, DIMENSIONS))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)
