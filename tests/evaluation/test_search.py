"""Search scoring against the plain scorer, and by hand where the rules are easiest to get wrong."""

from __future__ import annotations

import math
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import plain_scorer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_problems import problems

from person_search.data.scene import Protocol, Query, Scene, Split, as_boxes, with_truths
from person_search.errors import DataError
from person_search.evaluation import search as search_module
from person_search.evaluation import similarity
from person_search.evaluation.cbgm import context_rescore
from person_search.evaluation.predictions import Predictions
from person_search.evaluation.search import SearchResult, search

PERSON = (0, 0, 40, 80)
OTHER_BOX = (200, 0, 240, 80)


def assert_same(result: SearchResult, plain: list[plain_scorer.PlainQuery], *, tolerance: float = 1e-12) -> None:
    assert len(result.ap) == len(plain)
    for q, wanted in enumerate(plain):
        np.testing.assert_allclose(result.ap[q], wanted.ap, rtol=0, atol=tolerance)
        np.testing.assert_allclose(result.recall[q], wanted.recall, rtol=0, atol=0)
        assert result.first_rank[q] == wanted.first_rank
        listed = result.top_rows[q] >= 0
        assert result.top_rows[q][listed].tolist() == [row for row, _, _ in wanted.top]
        np.testing.assert_allclose(result.top_similarities[q][listed], [s for _, s, _ in wanted.top], atol=tolerance)
        assert result.top_correct[q][listed].tolist() == [right for _, _, right in wanted.top]
        for column, camera in enumerate(result.cameras):
            expected = wanted.camera_ap.get(camera, math.nan)
            np.testing.assert_allclose(result.camera_ap[q, column], expected, rtol=0, atol=tolerance)


@pytest.fixture(params=["dense", "picked"])
def layout(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to multiply, whatever the galleries, in blocks of a few queries."""
    monkeypatch.setattr(similarity, "DENSE_SHARE", 0.0 if request.param == "dense" else 2.0)
    monkeypatch.setattr(similarity, "CELLS", 60)
    monkeypatch.setattr(similarity, "GALLERY_ROWS", 7)
    monkeypatch.setattr(search_module, "PAIRS", 5)
    return str(request.param)


def compare_on(problem: tuple[Predictions, Split, Protocol]) -> None:
    predictions, split, protocol = problem
    assert_same(search(predictions, split, protocol), plain_scorer.plain_search(predictions, split, protocol))


for_this_test_only = settings(max_examples=120, deadline=None, derandomize=True)


class TestAgainstPlainScorer:
    @pytest.mark.parametrize(
        ("narrow_from", "sort_from"),
        [(1, 1), (1, 10**9), (10**9, 10**9)],
        ids=["sorted", "narrowed", "counted"],
    )
    @pytest.mark.parametrize("share", [0.0, 2.0], ids=["dense", "picked"])
    def test_ties_misses_and_empty_scenes(self, share: float, narrow_from: int, sort_from: int) -> None:
        @for_this_test_only
        @given(problems(exact=True))
        def run(problem: tuple[Predictions, Split, Protocol]) -> None:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(similarity, "DENSE_SHARE", share)
                patch.setattr(similarity, "CELLS", 60)
                patch.setattr(similarity, "GALLERY_ROWS", 7)
                patch.setattr(search_module, "NARROW_FROM", narrow_from)
                patch.setattr(search_module, "SORT_FROM", sort_from)
                patch.setattr(search_module, "PAIRS", 5)
                compare_on(problem)

        run()

    @pytest.mark.parametrize("share", [0.0, 2.0], ids=["dense", "picked"])
    def test_equal_embeddings_tie_whatever_the_matrix_product_rounds(self, share: float) -> None:
        @for_this_test_only
        @given(problems(exact=False))
        def run(problem: tuple[Predictions, Split, Protocol]) -> None:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(similarity, "DENSE_SHARE", share)
                patch.setattr(similarity, "GALLERY_ROWS", 7)
                compare_on(problem)

        run()

    @pytest.mark.parametrize("share", [0.0, 2.0], ids=["dense", "picked"])
    def test_context_matching(self, share: float) -> None:
        @settings(max_examples=80, deadline=None, derandomize=True)
        @given(problems(exact=False, copies=False), st.integers(1, 12), st.integers(1, 4))
        def run(problem: tuple[Predictions, Split, Protocol], k1: int, k2: int) -> None:
            predictions, split, protocol = problem
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(similarity, "DENSE_SHARE", share)
                patch.setattr(similarity, "CELLS", 60)
                result = search(predictions, split, protocol, rescore=context_rescore(predictions, k1=k1, k2=k2))
            assert_same(result, plain_scorer.plain_search(predictions, split, protocol, cbgm=(k1, k2)), tolerance=1e-9)

        run()

    def test_many_detections_use_chunks_for_the_best_matches(self, layout: str) -> None:
        rng = np.random.default_rng(3)
        scenes = [Scene(f"{i}.jpg", as_boxes([PERSON]), np.array([i % 3])) for i in range(150)]
        queries = [Query(k, scenes[k].boxes[0], k) for k in range(3)]
        split = Split("synthetic", "test", Path("."), scenes, 3, queries)
        boxes = np.tile(as_boxes([PERSON, OTHER_BOX, OTHER_BOX, OTHER_BOX, OTHER_BOX]), (150, 1))
        predictions = Predictions(
            scene_names=np.array([scene.name for scene in scenes]),
            offsets=np.arange(151) * 5,
            boxes=boxes,
            scores=np.ones(750, np.float32),
            embeddings=rng.integers(-3, 4, (750, 4)).astype(np.float32),
            query_embeddings=rng.integers(-3, 4, (3, 4)).astype(np.float32),
        )
        compare_on((predictions, split, with_truths("all", split, np.ones((3, 150), dtype=bool))))


@pytest.mark.parametrize("wide", [0, 700, 1999])
@pytest.mark.parametrize("copies", [False, True])
def test_memory_is_bounded_by_the_widest_gallery_of_a_block(
    monkeypatch: pytest.MonkeyPatch, wide: int, copies: bool
) -> None:
    """2,000 queries search 10 scenes each, every 100th, from ``wide`` on, searches 900."""
    cells, scenes = 100_000, 1000
    monkeypatch.setattr(similarity, "CELLS", cells)
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((10 * scenes, 4)).astype(np.float32)
    embeddings[::2] = embeddings[0] if copies else embeddings[::2]
    predictions = Predictions(
        scene_names=np.array([f"{number}.jpg" for number in range(scenes)]),
        offsets=np.arange(scenes + 1) * 10,
        boxes=as_boxes([PERSON] * len(embeddings)),
        scores=np.ones(len(embeddings), np.float32),
        embeddings=embeddings,
        query_embeddings=rng.standard_normal((2000, 4)).astype(np.float32),
    )
    in_gallery = np.zeros((2000, scenes), dtype=bool)
    in_gallery[:, 50:60] = True
    in_gallery[wide::100, :900] = True
    asked = 0
    tracemalloc.start()
    try:
        for block in similarity.similarity_blocks(predictions, in_gallery):
            assert block.values.size <= cells
            assert not block.dense
            asked += len(block.values)
            del block
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert asked == 2000
    fixed = 3 * embeddings.nbytes + 10 * 8 * len(embeddings)
    assert peak < 2 * 8 * cells * 1.25 + fixed


def one_query(rows: list[tuple[int, tuple[int, ...], float]], truths: list[list[tuple[int, ...]]]) -> SearchResult:
    """A query with embedding (1), detections (scene, box, similarity), and the person's boxes per gallery scene.

    The query's own scene comes last and is in no gallery.
    """
    scenes = [Scene(f"{i}.jpg", as_boxes(boxes), np.zeros(len(boxes), np.int64)) for i, boxes in enumerate(truths)]
    scenes.append(Scene("query.jpg", as_boxes([PERSON]), np.zeros(1, np.int64)))
    split = Split("synthetic", "test", Path("."), scenes, 1, [Query(len(truths), as_boxes([PERSON])[0], 0)])
    in_gallery = np.array([[True] * len(truths) + [False]])
    rows = sorted(rows, key=lambda row: row[0])
    predictions = Predictions(
        scene_names=np.array([scene.name for scene in scenes]),
        offsets=np.searchsorted([row[0] for row in rows], np.arange(len(scenes) + 1)).astype(np.int64),
        boxes=as_boxes([row[1] for row in rows]),
        scores=np.ones(len(rows), np.float32),
        embeddings=np.array([[row[2]] for row in rows], np.float32).reshape(-1, 1),
        query_embeddings=np.ones((1, 1), np.float32),
    )
    return search(predictions, split, with_truths("by hand", split, in_gallery))


class TestByHand:
    def test_average_precision_times_recall(self) -> None:
        rows = [(0, PERSON, 0.9), (1, OTHER_BOX, 0.8), (1, PERSON, 0.7)]
        result = one_query(rows, [[PERSON], [PERSON], [PERSON]])
        assert result.ap[0] == pytest.approx((1 + 2 / 3) / 2 * 2 / 3, abs=1e-15)
        assert result.recall[0] == pytest.approx(2 / 3)
        assert result.first_rank[0] == 1

    def test_one_right_detection_per_scene_even_if_two_fit(self) -> None:
        result = one_query([(0, PERSON, 0.9), (0, PERSON, 0.8), (1, PERSON, 0.5)], [[PERSON], [PERSON]])
        assert result.top_correct[0][:3].tolist() == [True, False, True]
        assert result.ap[0] == pytest.approx((1 + 2 / 3) / 2, abs=1e-15)

    def test_where_a_scene_holds_the_person_twice_the_first_annotated_box_is_the_true_one(self) -> None:
        assert one_query([(0, OTHER_BOX, 0.9)], [[PERSON, OTHER_BOX]]).ap[0] == 0
        result = one_query([(0, OTHER_BOX, 0.9), (0, PERSON, 0.8)], [[PERSON, OTHER_BOX]])
        assert (result.ap[0], result.recall[0]) == (0.5, 1)
        assert one_query([(0, OTHER_BOX, 0.9)], [[OTHER_BOX, PERSON]]).ap[0] == 1

    def test_small_people_need_less_overlap(self) -> None:
        small, shifted = (0, 0, 10, 20), (0, 7, 10, 27)  # IoU 13/27 = 0.48, needed 200/600
        assert one_query([(0, shifted, 0.9)], [[small]]).ap[0] == 1
        large, moved = (0, 0, 100, 200), (0, 70, 100, 270)  # the same IoU, needed 0.5
        assert one_query([(0, moved, 0.9)], [[large]]).ap[0] == 0

    def test_a_true_box_without_area_needs_no_overlap(self) -> None:
        assert one_query([(0, OTHER_BOX, 0.9)], [[(5, 5, 5, 25)]]).ap[0] == 1

    def test_overlap_of_exactly_one_half_is_enough(self) -> None:
        assert one_query([(0, (0, 0, 40, 40), 0.9)], [[(0, 0, 40, 80)]]).ap[0] == 1

    def test_equal_similarities_share_one_precision_but_the_lower_row_ranks_first(self) -> None:
        rows = [(0, OTHER_BOX, 0.5), (0, OTHER_BOX, 0.5), (1, PERSON, 0.5)]
        result = one_query(rows, [[PERSON], [PERSON]])
        assert result.ap[0] == pytest.approx(1 / 3 * 1 / 2, abs=1e-15)
        assert result.first_rank[0] == 3

    def test_among_equally_similar_fitting_detections_the_lower_row_is_right(self) -> None:
        result = one_query([(0, PERSON, 0.5), (0, PERSON, 0.5)], [[PERSON]])
        assert result.top_correct[0][:2].tolist() == [True, False]

    def test_a_person_never_detected_scores_zero(self) -> None:
        result = one_query([(0, OTHER_BOX, 0.9)], [[PERSON]])
        assert (result.ap[0], result.recall[0], result.first_rank[0]) == (0, 0, 0)

    def test_no_detections_at_all(self) -> None:
        result = one_query([], [[PERSON]])
        assert (result.ap[0], result.first_rank[0]) == (0, 0)
        assert (result.top_rows == -1).all()

    def test_a_person_in_no_gallery_scene_is_left_out(self) -> None:
        result = one_query([(0, PERSON, 0.9)], [[]])
        assert math.isnan(result.ap[0])
        assert math.isnan(result.recall[0])
        assert not result.evaluated.any()


class TestRefusals:
    @pytest.fixture
    def problem(self) -> tuple[Predictions, Split, Protocol]:
        scenes = [Scene(f"{i}.jpg", as_boxes([PERSON]), np.zeros(1, np.int64)) for i in range(2)]
        split = Split("synthetic", "test", Path("."), scenes, 1, [Query(0, as_boxes([PERSON])[0], 0)])
        predictions = Predictions(
            scene_names=np.array(["0.jpg", "1.jpg"]),
            offsets=np.array([0, 1, 2]),
            boxes=as_boxes([PERSON, PERSON]),
            scores=np.ones(2, np.float32),
            embeddings=np.ones((2, 2), np.float32),
            query_embeddings=np.ones((1, 2), np.float32),
        )
        return predictions, split, with_truths("all", split, np.array([[False, True]]))

    def test_empty_gallery(self, problem: tuple[Predictions, Split, Protocol]) -> None:
        predictions, split, _ = problem
        empty = with_truths("all", split, np.zeros((1, 2), dtype=bool))
        with pytest.raises(DataError, match=r"gallery of query 0 \(scene '0.jpg'\) is empty"):
            search(predictions, split, empty)

    def test_truth_outside_the_gallery(self, problem: tuple[Predictions, Split, Protocol]) -> None:
        predictions, split, protocol = problem
        with pytest.raises(DataError, match=r"scene '1.jpg' holds the person of query 0 but is not in its gallery"):
            search(predictions, split, replace(protocol, in_gallery=np.array([[True, False]])))

    def test_two_true_boxes_in_one_scene(self, problem: tuple[Predictions, Split, Protocol]) -> None:
        predictions, split, protocol = problem
        twice = replace(
            protocol,
            truth_offsets=np.array([0, 2]),
            truth_scenes=np.array([1, 1]),
            truth_boxes=as_boxes([PERSON, OTHER_BOX]),
        )
        with pytest.raises(DataError, match=r"query 0 has two true boxes in scene '1.jpg'"):
            search(predictions, split, twice)

    @pytest.mark.parametrize("counts", [[0], [1, 1]])
    def test_counts_that_count_nothing(self, problem: tuple[Predictions, Split, Protocol], counts: list[int]) -> None:
        predictions, split, protocol = problem
        with pytest.raises(DataError, match=r"truth_counts of shape .* expected \(1,\), one number from 1"):
            search(predictions, split, replace(protocol, truth_counts=np.array(counts)))

    def test_galleries_of_another_split(self, problem: tuple[Predictions, Split, Protocol]) -> None:
        predictions, split, protocol = problem
        with pytest.raises(DataError, match=r"galleries of shape \(1, 3\).*2 scenes"):
            search(predictions, split, replace(protocol, in_gallery=np.ones((1, 3), dtype=bool)))
