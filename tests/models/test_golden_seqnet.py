"""Agreement of SeqNet with what its authors' code computed, on weights drawn from a formula."""

from __future__ import annotations

from collections import Counter

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
    assert_state_agrees,
    embeddings_of,
    make_images,
    released_state,
    training_step,
)

from person_search.checkpoints.loading import load_model
from person_search.checkpoints.released_seqnet import rename
from person_search.evaluation.cbgm import context_rescore
from person_search.evaluation.predictions import Predictions
from person_search.evaluation.similarity import similarity_blocks

pytestmark = pytest.mark.slow

LOSSES = {
    "rpn_objectness": "loss_rpn_cls",
    "rpn_box": "loss_rpn_reg",
    "detection_classification": "loss_proposal_cls",
    "detection_box": "loss_proposal_reg",
    "classification": "loss_box_cls",
    "box": "loss_box_reg",
    "reid": "loss_box_reid",
}


@pytest.fixture(scope="module")
def golden():
    return Golden("seqnet")


@pytest.fixture(scope="module")
def model(golden, tmp_path_factory):
    path = tmp_path_factory.mktemp("released") / "epoch_19.pth"
    scheduler = {"milestones": Counter([16])}
    torch.save(
        {"model": released_state("seqnet", golden), "optimizer": {}, "lr_scheduler": scheduler, "epoch": 19}, path
    )
    return load_model(
        path,
        **SETTINGS,
        first_score_threshold=0.0,
        freeze=True,
    )


@pytest.fixture(scope="module")
def found(golden, model):
    """Both pictures in one batch: each is to give what it gave by itself."""
    boxes = [torch.from_numpy(box) for box in golden["gt_boxes"]]
    return model.eval().detect_and_embed(make_images(), boxes, context=True)


@pytest.mark.skipif(not WHOLE.is_dir(), reason="the whole outputs are not beside this checkout")
def test_what_is_kept_is_a_sample_of_the_whole():
    assert_sampled("seqnet", make_images(), left_out={"rgb", "lut", "cq_tail"})


def test_a_released_checkpoint_is_recognised_by_its_contents(model):
    config = model.config
    assert (config.method, config.backbone.flavour, config.levels) == ("seqnet", "torchvision", ("C4", "C5"))
    assert (config.loss.name, config.loss.queue, config.loss.weight) == ("oim-sequential", 500, 1.0)
    assert model.num_identities == 20
    assert model.reid_loss.queue_head == 0


def test_detections_and_query_embeddings_agree(golden, found):
    for i, result in enumerate(found):
        assert_people_agree(golden, i, result.detections, embeddings_of(result))


def test_the_people_beside_a_query_agree(golden, found):
    for i, result in enumerate(found):
        person = result.given[0]
        assert golden.relative(f"context{i}_boxes", torch.cat([person.box[None], person.beside.boxes])) < 1e-4
        scores = torch.cat([torch.ones(1), person.beside.scores])
        assert golden.difference(f"context{i}_scores", scores) < 1e-5
        embeddings = torch.cat([person.embedding[None], person.beside.embeddings])
        assert golden.relative(f"context{i}_embeddings", embeddings) < 1e-4


@pytest.mark.parametrize("k2", [3, 4])
def test_matching_with_the_people_beside_a_query_agrees(golden, found, k2):
    gallery, query = found[1].detections, found[0].given[0]
    predictions = Predictions(
        scene_names=np.array(["1"]),
        offsets=np.array([0, len(gallery)]),
        boxes=gallery.boxes.numpy(),
        scores=gallery.scores.numpy(),
        embeddings=gallery.embeddings.numpy(),
        query_embeddings=query.embedding[None].numpy(),
        query_offsets=np.array([0, 1 + len(query.beside)]),
        query_boxes=torch.cat([query.box[None], query.beside.boxes]).numpy(),
        query_scores=torch.cat([torch.ones(1), query.beside.scores]).numpy(),
        query_context=torch.cat([query.embedding[None], query.beside.embeddings]).numpy(),
    ).weighted_by_score()
    (block,) = similarity_blocks(predictions, np.ones((1, 1), np.bool_))
    assert golden.difference("cbgm_before", block.values[0]) < 1e-5
    context_rescore(predictions, k1=10, k2=k2)(block)
    assert golden.difference(f"cbgm_after_k2_{k2}", block.values[0]) < 1e-5
    # The third neighbour is the first to make a difference.
    assert np.array_equal(golden["cbgm_before"], golden[f"cbgm_after_k2_{k2}"]) == (k2 == 3)


@pytest.fixture(scope="module")
def step(golden, model):
    return training_step(model, golden, make_images())


def test_losses_of_a_training_step_agree(golden, step):
    assert_losses_agree(golden, step[0], LOSSES)


def test_gradients_of_a_training_step_agree(golden, step):
    """Conv1 and bn1 have none: that is what SeqNet freezes."""
    assert_gradients_agree(golden, step[1], rename, floor=1e-3)


def test_tables_and_running_statistics_after_a_training_step_agree(golden, step):
    assert_state_agrees(golden, step[2], rename)
