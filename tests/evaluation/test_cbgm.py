"""Context matching by hand; test_search.py tries it against every assignment on random problems."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from person_search.data.scene import Query, Scene, Split, as_boxes, with_truths
from person_search.errors import DataError
from person_search.evaluation.cbgm import assigned, context_rescore, defaults
from person_search.evaluation.predictions import Predictions
from person_search.evaluation.search import search

BOX = (0, 0, 40, 80)


def companions() -> tuple[Predictions, Split]:
    """A query seen with a friend; scene 0 holds a look-alike, scene 1 the person less alike but with the friend.

    Axis 0 is the query's look, axis 1 the friend's, axis 2 a stranger's.
    """
    scenes = [Scene(f"{i}.jpg", as_boxes([BOX]), np.array([i - 1])) for i in range(2)]
    scenes.append(Scene("query.jpg", as_boxes([BOX]), np.array([0])))
    split = Split("cuhk-sysu", "test", Path("."), scenes, 1, [Query(2, as_boxes([BOX])[0], 0)])
    predictions = Predictions(
        scene_names=np.array([scene.name for scene in scenes]),
        offsets=np.array([0, 1, 3, 3]),
        boxes=as_boxes([BOX, BOX, (200, 0, 240, 80)]),
        scores=np.ones(3, np.float32),
        embeddings=np.array([[0.75, 0, 0], [0.5, 0, 0], [0, 0.875, 0.25]], np.float32),
        query_embeddings=np.array([[1, 0, 0]], np.float32),
        query_offsets=np.array([0, 3]),
        query_boxes=as_boxes([BOX] * 3),
        query_scores=np.array([1, 0.25, 0.5], np.float32),
        query_context=np.array([[1, 0, 0], [0, 0, 1], [0, 1, 0]], np.float32),
    )
    return predictions, split


def similarities(k1: int, k2: int) -> dict[int, float]:
    predictions, split = companions()
    protocol = with_truths("all", split, np.array([[True, True, False]]))
    result = search(predictions, split, protocol, rescore=context_rescore(predictions, k1=k1, k2=k2))
    return dict(zip(result.top_rows[0][:3].tolist(), result.top_similarities[0][:3].tolist(), strict=True))


def test_the_friend_lifts_the_person_above_the_look_alike() -> None:
    assert similarities(k1=3, k2=2) == {0: 0.75, 1: 0.875, 2: 0.0}


def test_only_scenes_of_the_k1_most_similar_are_rescored() -> None:
    assert similarities(k1=1, k2=2) == {0: 0.75, 1: 0.5, 2: 0.0}


def test_k2_counts_the_query_and_takes_the_most_confident() -> None:
    assert similarities(k1=3, k2=1) == {0: 0.75, 1: 0.5, 2: 0.0}
    predictions, split = companions()
    stranger_first = replace(predictions, query_scores=np.array([1, 0.75, 0.5], np.float32))
    protocol = with_truths("all", split, np.array([[True, True, False]]))
    result = search(predictions, split, protocol, rescore=context_rescore(stranger_first, k1=3, k2=2))
    assert result.top_similarities[0][:3].tolist() == [0.75, 0.5, 0.0]


def test_the_smaller_side_is_used_up_even_at_negative_weight() -> None:
    assert assigned(np.array([[-1.0, -2.0]])) == (0, -1.0)
    assert assigned(np.array([[-1.0, -5.0], [-2.0, -3.0]])) == (0, -1.0)


def test_a_query_left_over_is_not_assigned() -> None:
    assert assigned(np.array([[0.1], [0.9]])) is None


def test_a_tie_between_assignments_still_assigns_the_query_once() -> None:
    assert assigned(np.full((2, 2), 0.5)) in {(0, 0.5), (1, 0.5)}


def test_published_numbers_of_neighbours() -> None:
    assert defaults("prw") == (30, 4)
    assert defaults("cuhk-sysu") == (10, 3)


def test_without_the_people_of_the_query_scenes() -> None:
    predictions = replace(companions()[0], query_offsets=None, query_boxes=None, query_scores=None, query_context=None)
    with pytest.raises(DataError, match="CBGM needs the arrays query_offsets"):
        context_rescore(predictions, k1=3, k2=2)
