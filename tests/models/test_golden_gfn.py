"""Agreement of the gallery filter network, on SeqNeXt, with what its author's code computed."""

from __future__ import annotations

import copy
import types

import numpy as np
import pytest
import torch
from golden_files import (
    SETTINGS,
    WHOLE,
    Golden,
    assert_gradients_agree,
    assert_losses_agree,
    assert_people_agree,
    assert_sampled,
    assert_statistics_agree,
    embeddings_of,
    formula,
    in_their_order,
    released_state,
)
from test_golden_seqnext import LOSSES

from person_search.checkpoints.loading import load_model
from person_search.checkpoints.released_seqnext import rename
from person_search.data.target import Target
from person_search.evaluation.gallery_filter import ARRAYS, scene_scores
from person_search.evaluation.predictions import Predictions
from person_search.models.two_stage import FeatureMaps

pytestmark = pytest.mark.slow

ALIASES = {
    "roi_heads.gfn.": "gfn.",
    "gfn.query_reid_head.": "roi_heads.reid_head.",
    "gfn.query_emb_head.": "roi_heads.embedding_head.",
    "gfn.reid_loss.": "roi_heads.reid_loss.",
    "roi_heads.box_head.": "roi_heads.reid_head.",
}
"""A tensor listed under a name on the left is drawn by the one on the right."""


def drawn_as(key):
    for alias, name in ALIASES.items():
        if key.startswith(alias):
            return drawn_as(key.replace(alias, name, 1))
    return key


def pictures():
    return [torch.from_numpy(formula().image(192, 320, number)) for number in range(4)]


def targets(golden, ids, *, first):
    """With scenes numbered from ``first``."""
    nothing = torch.zeros(0, 4)
    return [
        Target(torch.from_numpy(boxes), torch.from_numpy(own), nothing, scene=first + number)
        for number, (boxes, own) in enumerate(zip(golden["gt_boxes"], ids, strict=True))
    ]


def features_of(model, images, people):
    """What the trunk makes of the images; nothing here asks for its gradients."""
    batch = model.transform(images, people)
    with torch.no_grad():
        maps = model.trunk(batch.tensors)
    return FeatureMaps(maps, batch, model.transform.targets_to_batch(people, batch))


@pytest.fixture(scope="module")
def golden():
    return Golden("gfn")


@pytest.fixture(scope="module")
def model(golden, tmp_path_factory):
    path = tmp_path_factory.mktemp("released") / "epoch_29.pth"
    state = released_state("gfn", golden, queue_rows=0, drawn_as=drawn_as)
    torch.save({"model": state, "config": {"dataset": "cuhk"}, "epoch": 29}, path)
    model = load_model(
        path,
        **SETTINGS | {"rpn_post_nms_train": 20},
        first_score_threshold=0.0,
        max_detections=100,
        first_max_detections=100,
        rpn_post_nms_test=100,
        stochastic_depth=0.0,
        freeze=True,
        gfn_memory_positives=10,
        gfn_memory_negatives=10,
    )
    path.unlink()
    return model


@pytest.mark.skipif(not WHOLE.is_dir(), reason="the whole outputs are not beside this checkout")
def test_what_is_kept_is_a_sample_of_the_whole():
    assert_sampled("gfn", pictures(), left_out={"rgb", "lut"})


def test_a_released_checkpoint_is_recognised_by_its_contents(model):
    gfn = model.config.gfn
    assert (model.config.method, gfn.enabled, gfn.objective, gfn.fusion, gfn.query) == (
        "seqnext",
        True,
        "combined",
        "se",
        "batch",
    )
    assert (gfn.size, gfn.temperature, gfn.gate_temperature, gfn.weight) == (56, 0.1, 0.2, 1.0)
    assert model.scene_memory.scenes == {}


@pytest.fixture(scope="module")
def found(golden, model):
    """Pictures in one batch: each is to give what it gave by itself. Only in the first two is anybody detected."""
    boxes = [torch.from_numpy(own) for own in golden["gt_boxes"]]
    first, others = slice(0, 2), slice(2, 4)
    model.eval()
    return model.detect_and_embed(pictures()[first], boxes[first]) + model.embed_alone(
        pictures()[others], boxes[others]
    )


def test_detections_and_query_embeddings_agree(golden, found):
    for i, result in enumerate(found):
        assert golden.relative(f"query{i}_embeddings", embeddings_of(result)) < 1e-4
    for i, result in enumerate(found[:2]):
        assert_people_agree(golden, i, in_their_order(golden, i, result.detections), None, kept=8)


def test_scenes_as_they_are_and_as_a_query_sees_them_agree(golden, model, found):
    scenes = torch.stack([result.arrays["scene_embeddings"] for result in found])
    assert golden.relative("scene_embeddings", scenes) < 1e-4
    queries = torch.stack([person.embedding for person in found[0].given])
    with torch.no_grad():
        assert golden.relative("fused", model.gallery_filter.fuse(queries[None], scenes[:, None])) < 1e-4


def test_scores_of_queries_and_scenes_agree(golden, found):
    """They differ by little, for the query alone changes little (and in whom these people are there is no reason)."""
    people = [person for result in found for person in result.given]
    arrays = {name: torch.stack([person.arrays[name] for person in people]).numpy() for name in ARRAYS[1:]}
    arrays[ARRAYS[0]] = torch.stack([result.arrays[ARRAYS[0]] for result in found]).numpy()
    predictions = Predictions(
        scene_names=np.array(["0", "1", "2", "3"]),
        offsets=np.zeros(5, np.int64),
        boxes=np.zeros((0, 4), np.float32),
        scores=np.zeros(0, np.float32),
        embeddings=np.zeros((0, 2048), np.float32),
        query_embeddings=torch.stack([person.embedding for person in people]).numpy(),
        arrays=arrays,
    )
    predictions.validate()
    assert np.ptp(golden["query_scene_scores"]) > 1e-3
    assert golden.difference("query_scene_scores", scene_scores(predictions)) < 1e-6


@pytest.fixture(scope="module")
def step(golden, model):
    """A training step, and what the filter network was given in it."""
    model, given = copy.deepcopy(model).train(), []
    loss = model.gallery_filter.loss
    model.gallery_filter.loss = lambda *args: given.append(args) or loss(*args)
    losses = model(pictures(), targets(golden, golden["pids"], first=0))
    sum(losses.values()).backward()
    norms = {key: p.grad.norm().item() for key, p in model.named_parameters() if p.grad is not None}
    values = {key: loss.item() for key, loss in losses.items()}
    return types.SimpleNamespace(
        losses=values, norms=norms, state=model.state_dict(), memory=model.scene_memory, given=given[0]
    )


def test_losses_of_a_training_step_agree(golden, step):
    assert_losses_agree(golden, step.losses, LOSSES | {"gallery_filter": "gfn_loss"})


def test_gradients_of_a_training_step_agree(golden, step):
    assert_gradients_agree(golden, step.norms, rename, floor=1e-6)


def test_tables_and_running_statistics_after_a_training_step_agree(golden, step):
    """The embedding layer has seen two batches then: the true boxes and, after them, the RoIs."""
    assert golden.difference("after/roi_heads.reid_loss.lut", step.state["reid_loss.lut"]) < 1e-5
    assert golden.difference("after/roi_heads.reid_loss.cq", step.state["reid_loss.queue"][:40]) < 1e-5
    assert_statistics_agree(golden, step.state, rename)


@pytest.mark.parametrize("name", ["combined_batch", "combined_oim", "separate_batch", "separate_oim"])
def test_every_objective_agrees(golden, model, step, name):
    objective, query = name.split("_")
    network = copy.deepcopy(model.gallery_filter).train()
    network.config = network.config.model_copy(update={"objective": objective, "query": query})
    scenes, queries, people, _ = step.given
    table = torch.from_numpy(formula().table(20, 2048))
    table[[5, 7]] = 0
    expected = golden["loss/gfn_loss" if name == "combined_batch" else f"other_loss/{name}"]
    with torch.no_grad():
        assert network.loss(scenes, queries, people, table).item() == pytest.approx(float(expected), rel=1e-4)


def test_a_second_step_with_the_scenes_that_the_first_one_left_agrees(golden, model, step):
    model = copy.deepcopy(model).train()
    model.scene_memory.scenes = dict(step.memory.scenes)
    features = features_of(
        model, [picture.flip(2) for picture in pictures()], targets(golden, golden["second_pids"], first=4)
    )
    (loss,) = model.gallery_filter.losses(model, features).values()
    assert loss.item() == pytest.approx(float(golden["second_loss/gfn_loss"]), rel=1e-4)
    loss.backward()
    norms = {key: p.grad.norm().item() for key, p in model.named_parameters() if p.grad is not None}
    assert_gradients_agree(golden, norms, rename, floor=1e-6, prefix="second_gradnorm/")
    assert list(model.scene_memory.scenes) == list(range(8))
