"""Re-scorers: those that the settings ask for act, in order, and a new one needs nothing but its own entry."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_cbgm import companions

from person_search.config import EvaluationConfig
from person_search.data.scene import Split, with_truths
from person_search.errors import DataError
from person_search.evaluation import similarity
from person_search.evaluation.predictions import Predictions
from person_search.evaluation.rescoring import RESCORERS, Rescorer, rescore_as_asked
from person_search.evaluation.results import score
from person_search.evaluation.search import Rescore
from person_search.evaluation.similarity import Block

ALL = EvaluationConfig(search_threshold=0.0)
"""Settings that drop no detection."""


def filter_scenes(predictions: Predictions, split: Split, config: EvaluationConfig) -> Rescore:
    """As a gallery filter does: a score for each pair of query and scene, from what is known of either as a whole."""
    scenes, asked = predictions.arrays["scene_embeddings"], predictions.arrays["query_scene_embeddings"]
    scene_of = predictions.scene_of

    def rescore(block: Block) -> None:
        for number, values in enumerate(block.values):
            inside = values > -np.inf
            pair = scenes @ asked[block.first + number]
            values[inside] *= pair[scene_of[block.rows_of(number)[inside]]]

    return rescore


FILTER = Rescorer(
    name="the gallery filter",
    needs=("scene_embeddings", "query_scene_embeddings"),
    advice="predict with a model that has them",
    is_on=lambda config: True,
    make=filter_scenes,
)


def problem() -> tuple[Predictions, Split]:
    """``companions``, where the scene of the person is like the query's and the look-alike's is not; out of order."""
    predictions, split = companions()
    arrays = {
        "scene_embeddings": np.array([[0.25, 1], [1, 0], [0, 1]], np.float32),
        "query_scene_embeddings": np.array([[1, 0]], np.float32),
    }
    order = [1, 0, 2]
    shuffled = replace(
        predictions,
        scene_names=predictions.scene_names[order],
        offsets=np.array([0, 2, 3, 3]),
        boxes=predictions.boxes[[1, 2, 0]],
        scores=predictions.scores[[1, 2, 0]],
        embeddings=predictions.embeddings[[1, 2, 0]],
        arrays={**arrays, "scene_embeddings": arrays["scene_embeddings"][order]},
    )
    return shuffled, split


def found(config: EvaluationConfig, rescorers: tuple[Rescorer, ...]) -> list[tuple[str, float]]:
    predictions, split = problem()
    protocol = with_truths("all", split, np.array([[True, True, False]]))
    (query,) = score(predictions, split, [protocol], config, rescorers=rescorers).queries
    return [(match.scene, match.similarity) for match in query.top]


@pytest.mark.parametrize("share", [0.0, 2.0], ids=["dense", "picked"])
def test_a_new_one_acts_without_any_change_elsewhere(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similarity, "DENSE_SHARE", share)
    assert found(ALL, ()) == [("0.jpg", 0.75), ("1.jpg", 0.5), ("1.jpg", 0.0)]
    assert found(ALL, (FILTER,)) == [("1.jpg", 0.5), ("0.jpg", 0.1875), ("1.jpg", 0.0)]


def test_they_act_in_their_order() -> None:
    config = EvaluationConfig(search_threshold=0.0, cbgm=True, cbgm_k1=1, cbgm_k2=2)
    # Context matching looks at the scene of the most similar detection alone: which one that is, the filter decides.
    assert found(config, (FILTER, *RESCORERS))[0] == ("1.jpg", 0.875)
    assert found(config, (*RESCORERS, FILTER))[0] == ("1.jpg", 0.5)


def test_only_those_asked_for_act() -> None:
    off = replace(FILTER, is_on=lambda config: config.cws)
    assert found(ALL, (off,)) == found(ALL, ())
    predictions, split = problem()
    assert rescore_as_asked(predictions, split, ALL) is None
    assert rescore_as_asked(predictions, split, EvaluationConfig(cbgm=True)) is not None


def test_what_one_needs_and_does_not_find_is_named() -> None:
    predictions, split = problem()
    bare = replace(predictions, arrays={"scene_embeddings": predictions.arrays["scene_embeddings"]})
    message = "the gallery filter needs the array query_scene_embeddings, which is not there; predict with a model"
    with pytest.raises(DataError, match=message):
        rescore_as_asked(bare, split, ALL, (FILTER,))
    bare = replace(bare, query_offsets=None, query_boxes=None, query_scores=None, query_context=None)
    message = "CBGM needs the arrays query_offsets, query_boxes, query_scores and query_context, which are not there"
    with pytest.raises(DataError, match=message):
        rescore_as_asked(bare, split, EvaluationConfig(cbgm=True))


def test_its_arrays_go_through_a_file(tmp_path: Path) -> None:
    predictions, split = problem()
    predictions.save(tmp_path / "p.npz")
    protocol = with_truths("all", split, np.array([[True, True, False]]))
    kept, read = (
        score(each, split, [protocol], ALL, rescorers=(FILTER,)).queries[0].top
        for each in (predictions, Predictions.load(tmp_path / "p.npz"))
    )
    assert kept == read
