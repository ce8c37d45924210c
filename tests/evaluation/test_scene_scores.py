"""Scores of whole scenes: how they change similarities, and what is told of them."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from test_cbgm import companions
from torchvision.io import write_png

from person_search.config import Config, EvaluationConfig, with_settings
from person_search.data.scene import Protocol, Query, Scene, Split, as_boxes, with_truths
from person_search.errors import DataError, UsageError
from person_search.evaluation import evaluate as evaluating
from person_search.evaluation import similarity
from person_search.evaluation.gallery_filter import ARRAYS, filter_metrics, scene_scores
from person_search.evaluation.predict import predict
from person_search.evaluation.predictions import Predictions
from person_search.evaluation.rescoring import RESCORERS, refuse_what_is_not_predicted
from person_search.evaluation.results import read_results, score, write_results
from person_search.evaluation.tables import metrics_table
from person_search.models.building import build_model

FILTERED = EvaluationConfig(search_threshold=0.0, gfn_scores=True)
PLAIN = EvaluationConfig(search_threshold=0.0)
SMALL = {
    "backbone": "resnet18",
    "width": 0.125,
    "weights": "none",
    "shorter_side": 64,
    "longer_side": 96,
    "score_threshold": 0.0,
    "workers": 0,
    "device": "cpu",
}


def with_scenes(predictions: Predictions, scenes: list[list[float]], own: list[float]) -> Predictions:
    """The query sees scenes as they are."""
    asked = np.array([own], np.float32)
    arrays = {
        "scene_embeddings": np.array(scenes, np.float32),
        "query_scene_embeddings": asked,
        "query_scene_gates": np.ones_like(asked),
        "query_scene_offsets": np.zeros_like(asked),
    }
    return replace(predictions, arrays=arrays)


def sigmoid(value: float) -> float:
    return float(1 / (1 + np.exp(-value)))


def test_a_score_is_how_alike_two_scenes_are_to_the_query() -> None:
    draw = np.random.default_rng(0)
    scenes, own, gates, offsets = (draw.standard_normal((rows, 5)).astype(np.float32) for rows in (2000, 3, 3, 3))
    predictions = replace(companions()[0], arrays=dict(zip(ARRAYS, (scenes, own, gates, offsets), strict=True)))
    found = scene_scores(predictions)
    for query in range(3):
        mine = gates[query] * own[query] + offsets[query]
        for scene in (0, 1, 1023, 1024, 1999):
            other = gates[query] * scenes[scene] + offsets[query]
            cosine = mine @ other / np.linalg.norm(mine) / np.linalg.norm(other)
            assert found[query, scene] == pytest.approx(sigmoid(cosine), abs=1e-6)
    assert scene_scores(predictions) is found


@pytest.mark.parametrize("share", [0.0, 2.0], ids=["dense", "picked"])
def test_similarities_in_a_scene_are_times_its_score(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similarity, "DENSE_SHARE", share)
    predictions, split = companions()
    predictions = with_scenes(predictions, [[0, 1], [1, 0], [1, 1]], [1, 0])
    protocol = with_truths("all", split, np.array([[True, True, False]]))
    plain, filtered = (score(predictions, split, [protocol], config).queries[0].top for config in (PLAIN, FILTERED))
    before, after = ({(match.scene, match.box): match.similarity for match in top} for top in (plain, filtered))
    factor = {"0.jpg": sigmoid(0), "1.jpg": sigmoid(1)}
    assert after == pytest.approx({key: value * factor[key[0]] for key, value in before.items()})
    assert filtered[0].scene == "0.jpg"


def test_it_acts_after_the_people_beside() -> None:
    """What CBGM gives the person, 0.875, is times the scene's score too."""
    predictions, split = companions()
    predictions = with_scenes(predictions, [[0, 1], [1, 0], [1, 1]], [1, 0])
    protocol = with_truths("all", split, np.array([[True, True, False]]))
    config = FILTERED.model_copy(update={"cbgm": True, "cbgm_k1": 3, "cbgm_k2": 2})
    (query,) = score(predictions, split, [protocol], config).queries
    assert (query.top[0].scene, query.top[0].similarity) == ("1.jpg", pytest.approx(0.875 * sigmoid(1)))


def pairs(scores: list[list[float]], holds: list[list[bool]], inside: list[list[bool]]) -> tuple[Predictions, Protocol]:
    """Scenes in a plane, whose angle to the query's decides the score; queries and who is where."""
    cosines = np.array(scores)
    queries = len(cosines)
    scenes = np.stack([cosines[0], np.sqrt(1 - cosines[0] ** 2)], 1).astype(np.float32)
    boxes = as_boxes([(0, 0, 10, 10)])
    who = np.where(np.array(holds).T, np.arange(queries), -1)
    people = [Scene(f"{i}.jpg", np.repeat(boxes, queries, 0), ids) for i, ids in enumerate(who)]
    split = Split("synthetic", "test", Path("."), people, queries, [Query(0, boxes[0], q) for q in range(queries)])
    own = np.repeat([[1.0, 0]], queries, 0).astype(np.float32)
    arrays = dict(zip(ARRAYS, (scenes, own, np.ones_like(own), np.zeros_like(own)), strict=True))
    predictions = replace(companions()[0], arrays=arrays)
    return predictions, with_truths("some", split, np.array(inside))


def test_the_threshold_keeps_what_is_to_be_kept_and_others_below_it_are_counted() -> None:
    """One query in 100 scenes with its person and 4 without, of which one is as good as the worst kept."""
    cosines = [i / 101 for i in range(1, 101)] + [2 / 101, 1 / 101, 0.5 / 101, 0.9]
    predictions, protocol = pairs([cosines], [[True] * 100 + [False] * 4], [[True] * 104])
    found = filter_metrics(predictions, protocol)
    # Number int(0.99 * 100) of 100 in falling order, from 0: the last.
    assert found.threshold == pytest.approx(sigmoid(1 / 101), abs=1e-6)
    assert (found.kept, found.pairs, found.others) == (1.0, 100, 4)
    assert found.filtered == 0.25
    # Of 101 number 99 is the last but one; that it is as good as a pair without the person leaves that one in.
    predictions, protocol = pairs([[*cosines, 0.95]], [[True] * 100 + [False] * 4 + [True]], [[True] * 105])
    found = filter_metrics(predictions, protocol)
    assert found.threshold == pytest.approx(sigmoid(2 / 101), abs=1e-6)
    assert (found.kept, found.pairs, found.others) == (100 / 101, 101, 4)
    assert found.filtered == 0.5


def test_pairs_outside_the_gallery_do_not_count() -> None:
    cosines, holds = [[0.5, 0.1, 0.0, 0.7]] * 2, [[True, False, False, False], [False, False, True, True]]
    predictions, protocol = pairs(cosines, holds, [[True, True, False, True], [True, True, False, True]])
    found = filter_metrics(predictions, protocol)
    assert (found.pairs, found.others) == (2, 4)
    assert found.threshold == pytest.approx(sigmoid(0.5), abs=1e-6)
    assert found.filtered == 0.5
    nobody = pairs([[0.5, 0.1]], [[False, False]], [[True, True]])
    assert filter_metrics(*nobody) is None
    everywhere = filter_metrics(*pairs([[0.5, 0.1]], [[True, True]], [[True, True]]))
    assert (everywhere.filtered, everywhere.others) == (None, 0)


def test_results_and_table_say_what_a_filter_would_leave_out(tmp_path: Path) -> None:
    predictions, split = companions()
    predictions = with_scenes(predictions, [[0, 1], [1, 0], [1, 1]], [1, 0])
    protocol = with_truths("all", split, np.array([[True, True, False]]))
    results = score(predictions, split, [protocol], FILTERED)
    found = results.search[0].gallery_filter
    assert (found.kept, found.filtered, found.pairs, found.others) == (1.0, 1.0, 1, 1)
    write_results(results, tmp_path / "results.json")
    assert read_results(tmp_path / "results.json") == results
    assert score(predictions, split, [protocol], PLAIN).search[0].gallery_filter is None
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(metrics_table([("trained", results)]))
    text = " ".join(console.export_text().split())
    assert "trained (all): scores below 0.7311 have 100.0 % of scenes without the person, 0.0 % of those with" in text


def test_without_its_arrays_it_is_refused() -> None:
    predictions, split = companions()
    protocol = with_truths("all", split, np.array([[True, True, False]]))
    message = "the gallery filter needs the arrays scene_embeddings, .* and query_scene_offsets, .* trained with `gfn`"
    with pytest.raises(DataError, match=message):
        score(predictions, split, [protocol], FILTERED)
    half = with_scenes(predictions, [[0, 1], [1, 0], [1, 1]], [1, 0])
    half = replace(half, arrays={name: half.arrays[name] for name in ARRAYS if name != "query_scene_embeddings"})
    with pytest.raises(DataError, match="needs the array query_scene_embeddings, which is not there"):
        score(half, split, [protocol], FILTERED)


def test_a_model_without_it_is_refused_before_any_picture_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from person_search.checkpoints.checkpoint import Checkpoint, save_checkpoint

    config = with_settings(Config(), **SMALL, gfn_scores=True)
    save_checkpoint(tmp_path / "m.pt", Checkpoint(config.model, 3, build_model(config.model, 3).state_dict()))
    monkeypatch.setattr(evaluating, "open_dataset", lambda *_: pytest.fail("data was opened"))
    with pytest.raises(
        UsageError, match=r"m\.pt' predicts no scene_embeddings, which the gallery filter needs; predict"
    ):
        evaluating.evaluate(tmp_path / "m.pt", config)
    refuse_what_is_not_predicted(config.evaluation, ARRAYS, "the model")
    refuse_what_is_not_predicted(EvaluationConfig(cbgm=True), (), "the model")
    assert [rescorer.name for rescorer in RESCORERS] == ["CBGM", "the gallery filter"]


@pytest.fixture
def split(tmp_path: Path) -> Split:
    scenes = []
    for number, ids in enumerate(([0, 1], [], [1, 0], [2])):
        write_png(torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8), str(tmp_path / f"{number}.png"))
        boxes = as_boxes([(5 + 20 * i, 5, 20 + 20 * i, 45) for i in range(len(ids))])
        scenes.append(Scene(f"{number}.png", boxes, np.array(ids, np.int64)))
    queries = [Query(2, scenes[2].boxes[1], 0), Query(0, scenes[0].boxes[1], 1)]
    return Split("tiny", "test", tmp_path, scenes, 3, queries)


@pytest.mark.parametrize("use_gt_boxes", [False, True])
@pytest.mark.parametrize("method", ["oim", "seqnet"])
def test_predictions_of_a_model_that_has_one_can_be_scored_with_it(
    split: Split, use_gt_boxes: bool, method: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    settings = SMALL | {"method": method, "gfn": True, "use_gt_boxes": use_gt_boxes, "eval_batch_size": 3}
    config = with_settings(Config(), **settings, gfn_scores=True)
    model = build_model(config.model, 3).eval()
    found = predict(model, split, config)
    found.save(tmp_path / "p.npz")
    found = Predictions.load(tmp_path / "p.npz")
    assert {name: len(value) for name, value in found.arrays.items()} == dict(zip(ARRAYS, (4, 2, 2, 2), strict=True))
    own = found.arrays["scene_embeddings"][[2, 0]]
    np.testing.assert_allclose(found.arrays["query_scene_embeddings"], own, atol=1e-5)
    protocol = with_truths("all", split, np.ones((2, 4), np.bool_))
    results = score(found, split, [protocol], config)
    assert results.search[0].gallery_filter.pairs == 4
    nobody_asked = predict(model, replace(split, queries=[]), config)
    assert nobody_asked.arrays["scene_embeddings"].shape == own[:1].repeat(4, 0).shape


def test_its_arrays_follow_the_order_of_scenes() -> None:
    predictions, split = companions()
    predictions = with_scenes(predictions, [[0, 1], [1, 0], [1, 1]], [1, 0])
    order = [2, 1, 0]
    shuffled = replace(
        predictions,
        scene_names=predictions.scene_names[order],
        offsets=np.array([0, 0, 2, 3]),
        boxes=predictions.boxes[[1, 2, 0]],
        scores=predictions.scores[[1, 2, 0]],
        embeddings=predictions.embeddings[[1, 2, 0]],
        arrays=predictions.arrays | {"scene_embeddings": predictions.arrays["scene_embeddings"][order]},
    )
    protocol = with_truths("all", split, np.array([[True, True, False]]))
    one, other = (score(each, split, [protocol], FILTERED) for each in (predictions, shuffled))
    assert one.search == other.search
    assert one.queries == other.queries
