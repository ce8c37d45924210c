"""Detection metrics and ignore regions, by hand and against the plain scorer."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import plain_scorer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_problems import problems

from person_search.data.scene import Protocol, Scene, Split, as_boxes
from person_search.evaluation.detection import detection_metrics
from person_search.evaluation.ignore import on_ignore_regions, without_ignored
from person_search.evaluation.overlaps import offsets_of
from person_search.evaluation.predictions import Predictions

PERSON, OTHER, NOBODY = (0, 0, 40, 80), (100, 0, 140, 80), (300, 0, 340, 80)


def make(
    scenes: list[tuple[list[tuple[int, ...]], list[int]]],
    detections: list[list[tuple[tuple[int, ...], float]]],
    ignore: list[tuple[int, ...]] | None = None,
) -> tuple[Predictions, Split]:
    regions = as_boxes(ignore or [])
    made = [
        Scene(f"{i}.jpg", as_boxes(b), np.array(ids, np.int64), ignore=regions) for i, (b, ids) in enumerate(scenes)
    ]
    rows = [row for scene in detections for row in scene]
    predictions = Predictions(
        scene_names=np.array([scene.name for scene in made], dtype=np.str_),
        offsets=offsets_of(np.array([len(scene) for scene in detections], np.int64)),
        boxes=as_boxes([box for box, _ in rows]),
        scores=np.array([score for _, score in rows], np.float32),
        embeddings=np.zeros((len(rows), 2), np.float32),
        query_embeddings=np.zeros((0, 2), np.float32),
    )
    return predictions, Split("synthetic", "test", Path("."), made, 5)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(problems(), st.sampled_from([0.0, 0.5, 0.625]), st.booleans())
def test_same_as_the_plain_scorer(
    problem: tuple[Predictions, Split, Protocol], threshold: float, labelled: bool
) -> None:
    predictions, split, _ = problem
    result = detection_metrics(predictions, split, threshold=threshold, labelled=labelled)
    recall, ap = plain_scorer.plain_detection(predictions, split, threshold, labelled)
    np.testing.assert_allclose([result.recall, result.ap], [recall, ap], rtol=0, atol=1e-12)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(problems())
def test_same_detections_ignored_as_by_the_plain_scorer(problem: tuple[Predictions, Split, Protocol]) -> None:
    predictions, split, _ = problem
    ignored = on_ignore_regions(predictions, split)
    assert ignored.tolist() == plain_scorer.plain_ignored(predictions, split)
    kept = without_ignored(predictions, split)
    kept.validate()
    np.testing.assert_array_equal(kept.boxes, predictions.boxes[~ignored])
    np.testing.assert_array_equal(kept.scene_of, predictions.scene_of[~ignored])


def test_average_precision_is_scaled_by_recall() -> None:
    predictions, split = make([([PERSON, OTHER], [0, -1])], [[(PERSON, 0.9), (NOBODY, 0.8)]])
    result = detection_metrics(predictions, split, threshold=0.5, labelled=False)
    assert (result.boxes, result.recall, result.ap) == (2, 0.5, 0.5)
    assert result.curve_precision.tolist() == [1.0, 0.5]
    assert result.curve_recall.tolist() == [0.5, 0.5]


def test_the_second_detection_of_a_person_is_wrong() -> None:
    predictions, split = make([([PERSON], [0])], [[((0, 0, 40, 78), 0.9), (PERSON, 0.8)]])
    result = detection_metrics(predictions, split, threshold=0.5, labelled=False)
    assert (result.recall, result.ap) == (1.0, 0.5)


def test_the_threshold_is_met_by_a_score_equal_to_it_as_float32() -> None:
    predictions, split = make([([PERSON], [0])], [[(PERSON, 0.01)]])
    assert detection_metrics(predictions, split, threshold=0.01, labelled=False).recall == 1
    assert detection_metrics(predictions, split, threshold=0.02, labelled=False).recall == 0


def test_labelled_people_alone_skip_scenes_without_any() -> None:
    scenes = [([PERSON, OTHER], [3, -1]), ([PERSON], [-1])]
    detections = [[(PERSON, 0.9), (OTHER, 0.95)], [(NOBODY, 1.0)]]
    result = detection_metrics(*make(scenes, detections), threshold=0.5, labelled=True)
    assert (result.boxes, result.recall, result.ap) == (1, 1.0, 0.5)


def test_without_people_there_is_no_mean() -> None:
    result = detection_metrics(*make([([], [])], [[(PERSON, 0.9)]]), threshold=0.5, labelled=False)
    assert result.boxes == 0
    assert math.isnan(result.recall)
    assert math.isnan(result.ap)


def test_without_scenes() -> None:
    assert detection_metrics(*make([], []), threshold=0.5, labelled=False).boxes == 0


@pytest.mark.parametrize(
    ("box", "ignored"),
    [
        ((200, 0, 240, 80), True),  # inside the large region
        ((180, 0, 220, 80), True),  # half of it inside
        ((170, 0, 210, 80), False),  # a quarter inside
        ((200, 0, 700, 500), True),  # larger than the region, but IoU 0.64
        (PERSON, False),  # on a region, but a true box
    ],
)
def test_what_an_ignore_region_takes(box: tuple[int, ...], ignored: bool) -> None:
    predictions, split = make([([PERSON], [0])], [[(box, 0.9)]], ignore=[(200, 0, 600, 400), (0, 0, 60, 90)])
    assert on_ignore_regions(predictions, split).tolist() == [ignored]
