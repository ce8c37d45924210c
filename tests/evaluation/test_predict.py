"""From a model and a split to predictions: every scene, every query, in order."""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.io import write_png

from person_search.config import Config, method_settings, with_settings
from person_search.data.decode import read_image
from person_search.data.scene import Query, Scene, Split, as_boxes
from person_search.data.workers import LostWorkerError
from person_search.errors import DataError
from person_search.evaluation.optional_arrays import OPTIONAL_ARRAYS, OptionalArray
from person_search.evaluation.predict import predict
from person_search.models.building import build_model

BOXES = ([[5, 5, 25, 45]], [], [[40, 10, 60, 50], [10, 5, 30, 60]], [[1, 2, 20, 40]])
SIZES = ((64, 96), (64, 80), (80, 64), (64, 96))

QUERIES = ((2, 1), (0, 0), (2, 0))


@pytest.fixture
def split(tmp_path: Path) -> Split:
    """Scenes of several sizes, one without people; two of three queries in one scene, not in scene order."""
    draw = torch.Generator().manual_seed(0)
    scenes = []
    for number, (boxes, size) in enumerate(zip(BOXES, SIZES, strict=True)):
        write_png(torch.randint(0, 256, (3, *size), generator=draw, dtype=torch.uint8), str(tmp_path / f"{number}.png"))
        scenes.append(Scene(f"{number}.png", as_boxes(boxes), np.arange(len(boxes))))
    queries = [Query(scene, scenes[scene].boxes[box], box) for scene, box in QUERIES]
    return Split("tiny", "test", tmp_path, scenes, 2, queries)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = method_settings(
        "baseline",
        backbone="resnet18",
        width=0.125,
        weights="none",
        shorter_side=(64,),
        longer_side=96,
        score_threshold=0.0,
    )
    return build_model(config, 3).eval()


def config(**settings: object) -> Config:
    return with_settings(Config(), **{"workers": 0, "eval_batch_size": 3, **settings})


def test_predictions_are_what_the_model_says_of_each_scene(model, split: Split) -> None:
    found = predict(model, split, config(eval_batch_size=1))
    found.validate()
    assert found.scene_names.tolist() == ["0.png", "1.png", "2.png", "3.png"]
    assert len(found) > 0
    for number, scene in enumerate(split.scenes):
        (alone,) = model([read_image(split.image_root / scene.name)])
        rows = slice(found.offsets[number], found.offsets[number + 1])
        assert len(alone) == rows.stop - rows.start
        np.testing.assert_allclose(found.scores[rows], alone.scores.numpy(), atol=1e-5)
        np.testing.assert_allclose(found.boxes[rows], alone.boxes.numpy(), atol=1e-3)
        np.testing.assert_allclose(found.embeddings[rows], alone.embeddings.numpy(), atol=1e-4)
    for number, (scene, box) in enumerate(QUERIES):
        image = read_image(split.image_root / f"{scene}.png")
        (expected,) = model.embed([image], [torch.from_numpy(split.scenes[scene].boxes[box : box + 1])])
        np.testing.assert_allclose(found.query_embeddings[number], expected[0].numpy(), atol=1e-4)


def test_batch_size_and_workers_do_not_matter(model, split: Split) -> None:
    """Among scenes of one size: how far a batch is padded does change a network's view of the border a little."""
    scenes = [split.scenes[0], split.scenes[3]] * 2
    named = [Scene(scene.name, scene.boxes, scene.person_ids) for scene in scenes]
    queries = [Query(3, named[3].boxes[0], 0), Query(0, named[0].boxes[0], 0)]
    even = Split("tiny", "test", split.image_root, named, 2, queries)
    seen: list[tuple[int, int]] = []
    one = predict(model, even, config(eval_batch_size=1))
    many = predict(model, even, config(workers=2), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(3, 4), (4, 4)]
    np.testing.assert_array_equal(one.offsets, many.offsets)
    np.testing.assert_allclose(one.scores, many.scores, atol=1e-5)
    np.testing.assert_allclose(one.query_embeddings, many.query_embeddings, atol=1e-4)


def test_the_precision_asked_for_is_the_one_used(model, split: Split) -> None:
    exact, half = (predict(model, split, config(precision=name)).query_embeddings for name in ("32", "bf16"))
    assert not np.array_equal(exact, half)
    assert (exact * half).sum(1).min() > 0.9


def test_true_boxes_stand_for_detections(model, split: Split) -> None:
    found = predict(model, split, config(use_gt_boxes=True))
    found.validate()
    assert np.diff(found.offsets).tolist() == [1, 0, 2, 1]
    np.testing.assert_array_equal(found.boxes, np.concatenate([scene.boxes for scene in split.scenes]))
    assert set(found.scores.tolist()) == {1.0}
    # A query is one of the true boxes here: the same box has the same embedding.
    for number, (scene, box) in enumerate(QUERIES):
        np.testing.assert_allclose(
            found.query_embeddings[number], found.embeddings[found.offsets[scene] + box], atol=1e-5
        )


def test_context_matching_gets_the_people_beside_every_query(model, split: Split) -> None:
    plain, found = (predict(model, split, config(eval_batch_size=1, cbgm=on)) for on in (False, True))
    assert plain.query_offsets is None
    found.validate()
    for name in ("offsets", "boxes", "scores", "embeddings", "query_embeddings"):
        np.testing.assert_allclose(getattr(found, name), getattr(plain, name), atol=1e-4)
    assert found.query_offsets is not None
    assert found.query_boxes is not None
    assert found.query_scores is not None
    assert found.query_context is not None
    firsts = found.query_offsets[:-1]
    np.testing.assert_array_equal(found.query_boxes[firsts], np.array([query.box for query in split.queries]))
    np.testing.assert_array_equal(found.query_context[firsts], found.query_embeddings)
    assert found.query_scores[firsts].tolist() == [1, 1, 1]
    for number, query in enumerate(split.queries):
        image = read_image(split.image_root / split.scenes[query.scene].name)
        (result,) = model.detect_and_embed([image], [torch.from_numpy(query.box[None])], context=True)
        people = result.given[0].beside
        rows = slice(found.query_offsets[number] + 1, found.query_offsets[number + 1])
        assert len(people) == rows.stop - rows.start > 0
        np.testing.assert_allclose(found.query_boxes[rows], people.boxes.numpy(), atol=1e-3)
        np.testing.assert_allclose(found.query_context[rows], people.embeddings.numpy(), atol=1e-4)


def test_true_boxes_beside_a_query_are_those_of_other_people(model, split: Split) -> None:
    found = predict(model, split, config(use_gt_boxes=True, cbgm=True))
    found.validate()
    assert found.query_offsets is not None
    assert found.query_boxes is not None
    assert found.query_context is not None
    assert np.diff(found.query_offsets).tolist() == [2, 1, 2]
    first, second = split.scenes[2].boxes
    np.testing.assert_array_equal(found.query_boxes, [second, first, split.scenes[0].boxes[0], first, second])
    rows = found.offsets[2] + np.array([1, 0])
    np.testing.assert_allclose(found.query_context[:2], found.embeddings[rows], atol=1e-5)


def test_an_unreadable_image_is_an_error_with_its_path(model, split: Split) -> None:
    (split.image_root / "1.png").unlink()
    with pytest.raises(DataError, match=r"1\.png"):
        predict(model, split, config())


def test_the_model_is_left_in_its_mode(model, split: Split) -> None:
    model.train()
    predict(model, split, config())
    assert model.training
    model.eval()


def test_a_split_without_queries(model, split: Split) -> None:
    bare = Split("tiny", "test", split.image_root, split.scenes, 2)
    found = predict(model, bare, config())
    assert found.query_embeddings.shape == (0, found.embeddings.shape[1])


def test_a_worker_killed_at_any_time_is_an_error_that_says_so(model, split: Split) -> None:
    def kill(done: int, total: int) -> None:
        for child in multiprocessing.active_children():
            child.kill()
            child.join()

    # The last scene of all cannot be read before somebody writes into it, so that the worker is still needed.
    (split.image_root / "3.png").unlink()
    os.mkfifo(split.image_root / "3.png")
    with pytest.raises(LostWorkerError, match=r"is lost.*`workers`"):
        predict(model, split, config(workers=1, eval_batch_size=1), progress=kill)


def test_among_scenes_of_one_size_predictions_are_those_of_single_images(model, split: Split) -> None:
    """Up to the rounding of sums, which a network over one image does in another order than over three."""
    alone = predict(model, split, config(eval_batch_size=1, cbgm=True))
    same, mixed = (
        predict(model, split, config(eval_batch_size=4, cbgm=True, same_size_batches=on)) for on in (True, False)
    )
    np.testing.assert_array_equal(same.offsets, alone.offsets)
    np.testing.assert_array_equal(same.query_offsets, alone.query_offsets)
    for name in ("scores", "embeddings", "query_embeddings", "query_scores", "query_context"):
        np.testing.assert_allclose(getattr(same, name), getattr(alone, name), atol=2e-6, rtol=0)
    for name in ("boxes", "query_boxes"):
        np.testing.assert_allclose(getattr(same, name), getattr(alone, name), atol=1e-4, rtol=0)
    assert np.abs(mixed.query_embeddings - alone.query_embeddings).max() > 1e-3


@pytest.mark.parametrize("use_gt_boxes", [False, True])
def test_a_box_outside_its_image_is_an_error_with_its_scene(model, split: Split, use_gt_boxes: bool) -> None:
    beyond = as_boxes([[96, 10, 120, 40]])
    if use_gt_boxes:
        scene = split.scenes[3]
        split.scenes[3] = Scene(scene.name, np.concatenate([scene.boxes, beyond]), np.array([3, 4]))
    else:
        split.queries.append(Query(3, beyond[0], 3))
    with pytest.raises(DataError, match=r"'3.png' is 96 x 64 pixels, but the box \[96.0, 10.0, .* lies outside"):
        predict(model, split, config(use_gt_boxes=use_gt_boxes))


def test_what_a_method_knows_beside_is_kept_by_name(model, split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of scenes and their detections, and of queries, whatever their order."""
    monkeypatch.setitem(OPTIONAL_ARRAYS, "doubled", OptionalArray("doubled", ("M",)))
    detect = model.detect_and_embed

    def knowing(images, boxes=None, *, context=False):
        return [
            replace(
                result,
                given=[replace(p, arrays={"query_scene_embeddings": p.embedding[:2] * 3}) for p in result.given],
                arrays={"scene_embeddings": image.float().mean((1, 2))[:2], "doubled": result.detections.scores * 2},
            )
            for image, result in zip(images, detect(images, boxes, context=context), strict=True)
        ]

    monkeypatch.setattr(model, "detect_and_embed", knowing)
    found = predict(model, split, config())
    found.validate()
    means = [read_image(split.image_root / scene.name).float().mean((1, 2))[:2] for scene in split.scenes]
    np.testing.assert_array_equal(found.arrays["scene_embeddings"], torch.stack(means).numpy())
    np.testing.assert_array_equal(found.arrays["doubled"], found.scores * 2)
    np.testing.assert_array_equal(found.arrays["query_scene_embeddings"], found.query_embeddings[:, :2] * 3)


def test_what_nobody_declared_is_refused(model, split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    detect = model.detect_and_embed
    monkeypatch.setattr(
        model,
        "detect_and_embed",
        lambda *a, **k: [replace(result, arrays={"mood": torch.zeros(1)}) for result in detect(*a, **k)],
    )
    with pytest.raises(DataError, match="no optional array 'mood'"):
        predict(model, split, config())
