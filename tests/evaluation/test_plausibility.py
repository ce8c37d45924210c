"""Numbers that may mean something else than they seem to come with a note, and others do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from person_search.config import EvaluationConfig
from person_search.data.scene import Query, Scene, Split, as_boxes, every_other_scene
from person_search.evaluation.predictions import Predictions
from person_search.evaluation.results import read_results, score, write_results

CONFIG = EvaluationConfig()
SCENES, PEOPLE = 12, 4


@pytest.fixture
def split() -> Split:
    """Four people in every scene; the first two of every scene are asked for."""
    boxes = as_boxes([[100 * k, 20, 100 * k + 40, 110] for k in range(PEOPLE)])
    scenes = [Scene(f"{number}.jpg", boxes, np.arange(PEOPLE)) for number in range(SCENES)]
    queries = [Query(number, boxes[person], person) for number in range(SCENES) for person in range(2)]
    return Split("synthetic", "test", Path("."), scenes, PEOPLE, queries)


@pytest.fixture
def predictions(split: Split) -> Predictions:
    rng = np.random.default_rng(0)
    total = SCENES * PEOPLE

    def directions(count: int) -> np.ndarray:
        values = rng.standard_normal((count, 8))
        return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)

    return Predictions(
        scene_names=np.array([scene.name for scene in split.scenes]),
        offsets=np.arange(SCENES + 1) * PEOPLE,
        boxes=np.concatenate([scene.boxes for scene in split.scenes]),
        scores=rng.uniform(0.6, 1, total).astype(np.float32),
        embeddings=directions(total),
        query_embeddings=directions(len(split.queries)),
        source="theirs",
    )


def notes(predictions: Predictions, split: Split, **settings: object) -> list[str]:
    config = CONFIG.model_copy(update=settings)
    return score(predictions, split, [every_other_scene(split)], config).notes


def scaled(predictions: Predictions, factors: np.ndarray) -> Predictions:
    return replace(predictions, embeddings=(predictions.embeddings * factors[:, None]).astype(np.float32))


def test_good_predictions_come_without_notes(predictions: Predictions, split: Split) -> None:
    assert notes(predictions, split) == []


def test_as_lengths_up_to_four_times_do(predictions: Predictions, split: Split) -> None:
    factors = np.ones(len(predictions))
    factors[3] = 3.99
    assert notes(scaled(predictions, factors), split) == []
    factors[3] = 4.01
    (note,) = notes(scaled(predictions, factors), split)
    assert "theirs: embedding lengths of the 48 detections searched vary from 1 to 4.01: similarities are dot" in note
    assert "normalise" in note


def test_lengths_below_the_threshold_do_not_matter(predictions: Predictions, split: Split) -> None:
    factors = np.ones(len(predictions))
    factors[3] = 100
    scores = predictions.scores.copy()
    scores[3] = 0.4
    low = replace(scaled(predictions, factors), scores=scores)
    assert notes(low, split) == []
    assert "vary from 1 to 100" in notes(low, split, search_threshold=0.3)[0]


def test_embeddings_weighted_by_their_scores_are_meant_so(predictions: Predictions, split: Split) -> None:
    scores = np.linspace(0.02, 1, len(predictions)).astype(np.float32)
    weighted = replace(scaled(predictions, scores), scores=scores)
    assert notes(weighted, split, search_threshold=0.0) == []
    assert "vary" in notes(scaled(predictions, scores), split, search_threshold=0.0)[0]
    uneven = scores * np.where(np.arange(len(scores)) == 3, 1.1, 1).astype(np.float32)
    assert "vary" in notes(replace(scaled(predictions, uneven), scores=scores), split, search_threshold=0.0)[0]


def test_no_or_hardly_any_detection_reaches_the_threshold(predictions: Predictions, split: Split) -> None:
    low = replace(predictions, scores=predictions.scores / 4)
    (note,) = notes(low, split)
    assert "0 of 48 detections reach `search_threshold` 0.5 and `detection_threshold` 0.5, for 48 true boxes" in note
    assert f"the highest score is {low.scores.max():.3g}" in note
    scores = low.scores.copy()
    scores[[5, 6, 7, 8]] = 0.9
    few = replace(low, scores=scores)
    assert "4 of 48 detections reach `search_threshold` 0.5 and" in notes(few, split)[0]
    (only,) = notes(few, split, detection_threshold=0.01)
    assert "4 of 48 detections reach `search_threshold` 0.5, for 48" in only
    scores[9] = 0.9
    assert notes(replace(low, scores=scores), split) == []


def test_no_detections(predictions: Predictions, split: Split) -> None:
    nothing = predictions.keep(np.zeros(len(predictions), dtype=bool))
    assert notes(nothing, split) == ["theirs: there is no detection in any of the 12 scenes"]


def test_all_on_ignore_regions(predictions: Predictions, split: Split) -> None:
    region = as_boxes([[0, 0, 1000, 1000]])
    crowds = [replace(scene, ignore=region, boxes=scene.boxes + 2000) for scene in split.scenes]
    assert notes(predictions, replace(split, scenes=crowds)) == [
        "theirs: all 48 detections lie on ignore regions, where nothing is scored"
    ]


def test_boxes_in_other_pixels(predictions: Predictions, split: Split) -> None:
    shares = replace(predictions, boxes=predictions.boxes / 400)
    found = notes(shares, split)
    assert "theirs: 0 of 48 detections are on one of the 48 true boxes (IoU 0.5)" in found[0]
    assert "found 0 to 0.85" in found[0]
    assert "theirs, all scenes: in no gallery is a detection on the query's person" in found[1]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda p: replace(p, embeddings=np.ones_like(p.embeddings)), "all 48 detections searched have the same"),
        (lambda p: scaled(p, np.arange(48) > 1), "the embeddings of 2 of 48 detections searched are all zeros"),
        (lambda p: scaled(p, np.zeros(48)), "the embeddings of 48 of 48 detections searched are all zeros"),
        (lambda p: replace(p, query_embeddings=p.query_embeddings * 0), "24 of 24 query embeddings are all zeros"),
        (
            lambda p: replace(p, query_embeddings=np.ones_like(p.query_embeddings)),
            "all 24 query embeddings are the same, whomever they look for",
        ),
        (
            lambda p: replace(p, embeddings=p.embeddings[:, :0], query_embeddings=p.query_embeddings[:, :0]),
            "24 of 24 query embeddings are all zeros",
        ),
    ],
)
def test_embeddings_that_tell_nobody_apart(
    predictions: Predictions, split: Split, change: Callable[[Predictions], Predictions], expected: str
) -> None:
    assert any(expected in note for note in notes(change(predictions), split))


def test_lengths_of_the_people_around_the_query_matter_with_context_matching(
    predictions: Predictions, split: Split
) -> None:
    queries = len(split.queries)
    rich = replace(
        predictions,
        query_offsets=np.arange(queries + 1) * 2,
        query_boxes=np.tile(split.scenes[0].boxes[:1], (2 * queries, 1)),
        query_scores=np.ones(2 * queries, np.float32),
        query_context=np.stack([predictions.query_embeddings, 9 * predictions.query_embeddings], 1).reshape(-1, 8),
    )
    assert notes(rich, split) == []
    (note,) = notes(rich, split, cbgm=True)
    assert "embedding lengths of the 48 people in the queries' scenes vary from 1 to 9" in note


def test_nobody_to_be_found(predictions: Predictions, split: Split) -> None:
    alone = [replace(scene, person_ids=np.full(PEOPLE, -1)) for scene in split.scenes]
    assert notes(predictions, replace(split, scenes=alone)) == [
        "synthetic test, all scenes: none of the 24 queries' people is in its gallery: no search is scored"
    ]
    unasked = replace(predictions, query_embeddings=predictions.query_embeddings[:0])
    assert notes(unasked, replace(split, queries=[])) == ["synthetic test has no queries: no search is scored"]


def test_people_found_but_never_the_one_asked_for(predictions: Predictions, split: Split) -> None:
    others = np.tile(np.arange(PEOPLE) >= 2, SCENES)
    (note,) = notes(predictions.keep(others), split)
    assert "theirs, all scenes: in no gallery is a detection on the query's person" in note


def test_notes_of_the_galleries_come_first_and_everything_is_kept(
    predictions: Predictions, split: Split, tmp_path: Path
) -> None:
    protocol = replace(every_other_scene(split), notes=("'TestG50.mat': 4 gallery scenes are listed twice",))
    results = score(scaled(predictions, np.arange(48) + 1.0), split, [protocol, protocol], CONFIG)
    assert results.notes[0] == protocol.notes[0]
    assert len(results.notes) == 2
    write_results(results, tmp_path / "results.json")
    assert read_results(tmp_path / "results.json") == results
