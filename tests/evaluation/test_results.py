"""Results: from predictions to the numbers in results.json, tables and CSV."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import plain_scorer
import pytest
from hypothesis import given, settings
from rich.console import Console
from small_problems import build, gallery, predict, problems

from person_search.config import Config, EvaluationConfig
from person_search.data.scene import Protocol, Scene, Split
from person_search.errors import DataError
from person_search.evaluation.chance import random_predictions, random_ranking
from person_search.evaluation.ignore import without_ignored
from person_search.evaluation.predictions import Predictions
from person_search.evaluation.results import Results, read_results, score, write_results
from person_search.evaluation.tables import metrics_table, percent, write_per_query

CONFIG = EvaluationConfig()


def problem(seed: int = 5, cameras: int = 2) -> tuple[Predictions, Split, Protocol]:
    rng = np.random.default_rng(seed)
    split = build(rng, scenes=14, identities=4, queries=12, cameras=cameras)
    return predict(rng, split, 3, exact=True, copies=True), split, gallery(rng, split, 0.7)


def weighted(predictions: Predictions) -> Predictions:
    return replace(predictions, embeddings=predictions.embeddings * predictions.scores[:, None])


@pytest.mark.parametrize("changes", [{}, {"cbgm": True}])
def test_confidence_weighting_is_of_the_gallery_alone_and_not_of_what_is_stored(changes: dict[str, bool]) -> None:
    predictions, split, protocol = problem()
    config = CONFIG.model_copy(update={"search_threshold": 0.1, **changes})
    stored = predictions.embeddings.copy()
    found = score(predictions, split, [protocol], config.model_copy(update={"cws": True}))
    assert (predictions.embeddings == stored).all()
    expected = score(weighted(predictions), split, [protocol], config)
    assert replace(found, notes=[]) == replace(expected, notes=[])
    assert found.queries != score(predictions, split, [protocol], config).queries


def test_embeddings_that_have_the_scores_in_them_are_not_weighted_again() -> None:
    predictions, split, protocol = problem()
    config = CONFIG.model_copy(update={"cws": True})
    lengths = np.linalg.norm(predictions.embeddings, axis=1, keepdims=True)
    unit = replace(predictions, embeddings=(predictions.embeddings / np.where(lengths, lengths, 1)).astype(np.float32))
    unit = unit.keep(lengths[:, 0] > 0)
    score(unit, split, [protocol], config)
    with pytest.raises(DataError, match=r"weighted by the scores already.*leave `cws` out"):
        score(weighted(unit), split, [protocol], config)
    # On true boxes, all scores being 1, both are the same, and nothing is wrong.
    true = replace(unit, scores=np.ones_like(unit.scores))
    assert score(true, split, [protocol], config).search == score(true, split, [protocol], CONFIG).search


def mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


@settings(max_examples=60, deadline=None, derandomize=True)
@given(problems())
def test_means_are_those_of_the_plain_scorer(drawn: tuple[Predictions, Split, Protocol]) -> None:
    predictions, split, protocol = drawn
    results = score(predictions, split, [protocol], CONFIG)
    assert score(predictions, split, [protocol], Config(evaluation=CONFIG)) == results
    kept = without_ignored(predictions, split)
    kept = kept.keep(kept.scores >= 0.5)
    plain = plain_scorer.plain_search(kept, split, protocol)
    counted = [q for q in plain if not np.isnan(q.ap)]
    metrics = results.search[0]
    assert (metrics.queries, metrics.left_out) == (len(counted), len(plain) - len(counted))
    expected = [
        mean([q.ap for q in counted]),
        mean([q.first_rank == 1 for q in counted]),
        mean([0 < q.first_rank <= 5 for q in counted]),
        mean([0 < q.first_rank <= 10 for q in counted]),
        mean([q.recall for q in counted]),
    ]
    assert [metrics.map, metrics.top1, metrics.top5, metrics.top10, metrics.recall] == pytest.approx(expected)
    assert metrics.cmc == pytest.approx(
        [mean([0 < q.first_rank <= k for q in counted]) for k in range(1, 51) if counted]
    )
    known = [bool(split.seen_identities[query.person_id]) for query in split.queries]  # type: ignore[index]
    for subset, wanted in ((metrics.seen, True), (metrics.unseen, False)):
        own = [q for q, seen in zip(plain, known, strict=True) if seen is wanted and not np.isnan(q.ap)]
        assert subset is not None
        assert subset.queries == len(own)
        assert [subset.map, subset.top1] == pytest.approx(
            [mean([q.ap for q in own]), mean([q.first_rank == 1 for q in own])]
        )
    pairs: dict[tuple[int, int], list[float]] = {}
    for query, found in zip(split.queries, plain, strict=True):
        for camera, ap in found.camera_ap.items():
            if camera is not None:
                pairs.setdefault((split.scenes[query.scene].camera or 0, camera), []).append(ap)
    assert {(p.query, p.gallery): p.map for p in metrics.camera_pairs} == pytest.approx(
        {key: float(np.mean(values)) for key, values in pairs.items()}
    )
    assert {(p.query, p.gallery): p.queries for p in metrics.camera_pairs} == {k: len(v) for k, v in pairs.items()}


def test_queries_say_what_was_asked_and_found() -> None:
    predictions, split, protocol = problem()
    results = score(predictions, split, [protocol, replace(protocol, name="again")], CONFIG)
    assert [metrics.protocol for metrics in results.search] == ["drawn", "again"]
    assert len(results.queries) == len(split.queries) > 5
    kept = without_ignored(predictions, split)
    kept = kept.keep(kept.scores >= 0.5)
    plain = plain_scorer.plain_search(kept, split, protocol)
    for query, asked, wanted in zip(results.queries, split.queries, plain, strict=True):
        assert query.scene == split.scenes[asked.scene].name
        assert query.box == tuple(asked.box.tolist())
        assert query.person_id == asked.person_id
        assert query.rank_of_first == (wanted.first_rank or None)
        assert [(m.similarity, m.correct) for m in query.top] == [(s, c) for _, s, c in wanted.top]
        assert [m.box for m in query.top] == [tuple(kept.boxes[row].tolist()) for row, _, _ in wanted.top]
        assert [m.scene for m in query.top] == [f"{kept.scene_of[row]}.jpg" for row, _, _ in wanted.top]
        truths = range(protocol.truth_offsets[query.number], protocol.truth_offsets[query.number + 1])
        assert [t.scene for t in query.truths] == [split.scenes[protocol.truth_scenes[t]].name for t in truths]
        assert [t.box for t in query.truths] == [tuple(protocol.truth_boxes[t].tolist()) for t in truths]
        assert (query.truth_scenes, query.found_scenes) == (len(truths), wanted.found)


def test_true_boxes_of_a_query_are_kept_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    predictions, split, protocol = problem()
    every = score(predictions, split, [protocol], CONFIG).queries
    monkeypatch.setattr("person_search.evaluation.results.TRUTHS_KEPT", 2)
    few = score(predictions, split, [protocol], CONFIG).queries
    assert max(query.truth_scenes for query in every) > 2
    assert few == [replace(query, truths=query.truths[:2]) for query in every]


def test_scenes_in_another_order_score_the_same() -> None:
    predictions, split, protocol = problem()
    order = np.random.default_rng(0).permutation(len(split.scenes))
    rows = np.concatenate([np.arange(predictions.offsets[s], predictions.offsets[s + 1]) for s in order])
    other = replace(
        predictions,
        scene_names=predictions.scene_names[order],
        offsets=np.concatenate([[0], np.cumsum(predictions.counts[order])]),
        boxes=predictions.boxes[rows],
        scores=predictions.scores[rows],
        embeddings=predictions.embeddings[rows],
    )
    assert score(other, split, [protocol], CONFIG) == score(predictions, split, [protocol], CONFIG)


def test_thresholds_are_apart() -> None:
    predictions, split, protocol = problem()
    base = score(predictions, split, [protocol], CONFIG)
    search_all = score(predictions, split, [protocol], CONFIG.model_copy(update={"search_threshold": 0.0}))
    detect_all = score(predictions, split, [protocol], CONFIG.model_copy(update={"detection_threshold": 0.0}))
    assert base.detection == search_all.detection != detect_all.detection
    assert base.search == detect_all.search != search_all.search
    assert detect_all.detection.threshold == 0


def test_ignored_detections_take_no_part_anywhere() -> None:
    predictions, split, protocol = problem(seed=19)
    assert len(without_ignored(predictions, split)) < len(predictions)
    removed = score(without_ignored(predictions, split), split, [protocol], CONFIG)
    assert score(predictions, split, [protocol], CONFIG) == removed


def test_context_matching_uses_the_configured_neighbours() -> None:
    predictions, split, protocol = problem(seed=8)
    on = CONFIG.model_copy(update={"cbgm": True, "search_threshold": 0.0})
    default = score(predictions, split, [protocol], on)
    assert default.queries != score(predictions, split, [protocol], on.model_copy(update={"cbgm": False})).queries
    assert default == score(predictions, split, [protocol], on.model_copy(update={"cbgm_k1": 10, "cbgm_k2": 3}))
    assert default != score(predictions, split, [protocol], on.model_copy(update={"cbgm_k1": 1, "cbgm_k2": 1}))
    prw = score(predictions, replace(split, dataset="prw"), [protocol], on)
    chosen = score(predictions, split, [protocol], on.model_copy(update={"cbgm_k1": 30, "cbgm_k2": 4}))
    assert prw.queries == chosen.queries


def test_no_queries_and_no_protocols() -> None:
    predictions, split, _ = problem()
    silent = replace(split, queries=[])
    unasked = replace(predictions, query_embeddings=predictions.query_embeddings[:0])
    assert score(unasked, silent, [], CONFIG).search == []
    empty = gallery(np.random.default_rng(0), silent, 0.5)
    metrics = score(unasked, silent, [empty], CONFIG).search[0]
    assert (metrics.map, metrics.top1, metrics.queries, metrics.cmc) == (None, None, 0, [])


def test_curve_is_thinned_but_keeps_its_ends() -> None:
    rng = np.random.default_rng(0)
    split = build(rng, scenes=400, identities=4, queries=0, cameras=0)
    predictions = predict(rng, split, 2, exact=True, copies=False)
    predictions = replace(predictions, scores=rng.uniform(0.5, 1, len(predictions)).astype(np.float32))
    detection = score(predictions, split, [], CONFIG).detection
    assert len(detection.curve.recall) == len(detection.curve.precision) == 200
    assert detection.curve.recall[-1] == pytest.approx(detection.all.recall)
    assert detection.curve.recall == sorted(detection.curve.recall)


class TestFile:
    def test_comes_back_equal(self, tmp_path: Path) -> None:
        results = score(*problem()[:2], [problem()[2]], CONFIG)
        write_results(results, tmp_path / "run" / "results.json")
        assert read_results(tmp_path / "run" / "results.json") == results
        assert json.loads((tmp_path / "run" / "results.json").read_text()) == results.to_dict()

    def test_what_is_undefined_is_null(self, tmp_path: Path) -> None:
        predictions, split, protocol = problem()
        nobody = [replace_people(scene) for scene in split.scenes]
        nowhere = replace(
            protocol,
            truth_offsets=np.zeros_like(protocol.truth_offsets),
            truth_scenes=protocol.truth_scenes[:0],
            truth_boxes=protocol.truth_boxes[:0],
        )
        results = score(predictions, replace(split, scenes=nobody), [nowhere], CONFIG)
        write_results(results, tmp_path / "results.json")
        content = json.loads((tmp_path / "results.json").read_text())
        assert content["detection"]["all"] == {"recall": None, "ap": None, "boxes": 0}
        assert content["search"][0]["map"] is None
        assert content["search"][0]["left_out"] == len(split.queries)
        assert content["queries"][0]["ap"] is None
        assert read_results(tmp_path / "results.json") == results

    def test_damaged_or_missing(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="No such file"):
            read_results(tmp_path / "results.json")
        (tmp_path / "results.json").write_text("{")
        with pytest.raises(DataError, match=r"results '.*results.json': the file: Invalid JSON"):
            read_results(tmp_path / "results.json")
        (tmp_path / "results.json").write_text('{"dataset": 3}')
        with pytest.raises(DataError, match="dataset: Input should be a valid string"):
            read_results(tmp_path / "results.json")


def replace_people(scene: Scene) -> Scene:
    return Scene(scene.name, scene.boxes[:0], scene.person_ids[:0], camera=scene.camera, ignore=scene.ignore)


def shown(results: list[tuple[str, Results]]) -> str:
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(metrics_table(results))
    return console.export_text()


class TestTables:
    def test_percent(self) -> None:
        assert percent(0.12345) == "12.3"
        assert percent(1) == "100.0"
        assert percent(None) == "-"

    def test_every_protocol_has_a_row(self) -> None:
        predictions, split, protocol = problem()
        results = score(predictions, split, [protocol, replace(protocol, name="second")], CONFIG)
        text = shown([("ours", results), ("none asked", score(predictions, split, [], CONFIG))])
        lines = {re.split(r"\s{2,}", line.strip())[0]: line for line in text.splitlines() if line.strip()}
        assert percent(results.detection.all.ap) in lines["ours"]
        assert percent(results.search[0].map) in lines["drawn"]
        assert percent(results.search[1].top10) in lines["second"]
        assert results.search[0].seen is not None
        assert percent(results.search[0].seen.map) in lines["seen in training"]
        assert "none asked" in text

    def test_queries_left_out_are_shown(self) -> None:
        predictions, split, protocol = problem()
        results = score(predictions, split, [protocol], CONFIG)
        few = replace(results.search[0], queries=7, left_out=5)
        assert "7 (5 left out)" in shown([("ours", replace(results, search=[few]))])

    def test_per_query_file(self, tmp_path: Path) -> None:
        predictions, split, protocol = problem()
        results = score(predictions, split, [protocol], CONFIG)
        write_per_query(results, tmp_path / "q.csv")
        with (tmp_path / "q.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [int(row["number"]) for row in rows] == list(range(len(split.queries)))
        assert [float(row["ap"]) if row["ap"] else None for row in rows] == [query.ap for query in results.queries]
        assert [float(row["x2"]) for row in rows] == [query.box[2] for query in results.queries]


class TestChance:
    def test_true_boxes_by_chance_are_near_the_share_of_right_ones(self) -> None:
        rng = np.random.default_rng(1)
        split = build(rng, scenes=300, identities=20, queries=300, cameras=0)
        protocol = gallery(rng, split, 1.0)
        results = random_ranking(split, [protocol], CONFIG.model_copy(update={"cbgm": True}), seed=3)
        assert results.detection.all.recall is not None
        assert results.detection.all.recall > 0.8  # people at the very same place are found once
        share = np.mean(np.diff(protocol.truth_offsets)) / sum(len(scene.boxes) for scene in split.scenes)
        assert results.search[0].map == pytest.approx(share, rel=0.5)
        assert results.search[0].top1 == pytest.approx(share, abs=0.05)

    def test_same_seed_same_numbers(self) -> None:
        _, split, protocol = problem()
        assert random_ranking(split, [protocol], CONFIG, seed=1) == random_ranking(split, [protocol], CONFIG, seed=1)
        assert random_ranking(split, [protocol], CONFIG, seed=1) != random_ranking(split, [protocol], CONFIG, seed=2)

    def test_embeddings_are_directions(self) -> None:
        predictions = random_predictions(problem()[1])
        predictions.validate()
        np.testing.assert_allclose(np.linalg.norm(predictions.embeddings, axis=1), 1, atol=1e-6)
