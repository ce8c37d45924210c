"""Agreement of OIMNet++ and OIMNet+++ with what their authors' code computed, on weights drawn from a formula."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from golden_files import (
    SAMPLES,
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
from person_search.checkpoints.released_oimnetpp import rename
from person_search.models.proto_norm import ProtoNorm

pytestmark = pytest.mark.slow

NAMES = ["oimnetpp", "oimnetppp"]
LOSSES = {
    "rpn_objectness": "loss_rpn_cls",
    "rpn_box": "loss_rpn_reg",
    "classification": "loss_proposal_cls",
    "box": "loss_proposal_reg",
    "reid": "loss_box_reid",
}


@pytest.fixture(scope="module", params=NAMES)
def golden(request):
    golden = Golden(request.param)
    golden.name = request.param
    return golden


@pytest.fixture(scope="module")
def model(golden, tmp_path_factory):
    path = tmp_path_factory.mktemp("released") / "epoch_19.pth"
    scheduler = {"milestones": Counter([16])}
    # The authors' tables are of half precision, which would round the expected numbers.
    torch.save(
        {"model": released_state("oimnetpp", golden), "optimizer": {}, "lr_scheduler": scheduler, "epoch": 19}, path
    )
    return load_model(
        path,
        **SETTINGS,
        freeze=True,
        # Nothing in a file says so.
        proto_norm_in_top=golden.name == "oimnetppp",
    )


@pytest.mark.skipif(not WHOLE.is_dir(), reason="the whole outputs are not beside this checkout")
@pytest.mark.parametrize("name", NAMES)
def test_what_is_kept_is_a_sample_of_the_whole(name):
    whole = np.load(WHOLE / f"{name}.npz")
    again = {key for key in whole if key.startswith(("det", "query")) and name == "oimnetppp"}
    assert_sampled(name, make_images(), left_out={"rgb", "lut", "cq_tail"} | again)
    assert (SAMPLES / "oimnetpp.layout.json").read_text() == (WHOLE / f"{name}.layout.json").read_text()


def test_a_released_checkpoint_is_recognised_by_its_contents(golden, model):
    config = model.config
    assert (config.method, config.embedding.norm, config.levels) == ("oimnet++", "proto", ("C5",))
    assert (config.loss.name, config.loss.queue, config.loss.weight) == ("loim", 500, 1.0)
    assert model.num_identities == 20
    assert model.reid_loss.queue_head == 0
    norms = sum(isinstance(part, ProtoNorm) for part in model.modules())
    assert norms == {"oimnetpp": 1, "oimnetppp": 1 + 10}[golden.name]


@pytest.mark.parametrize("golden", NAMES[:1], indirect=True)
def test_detections_and_query_embeddings_of_both_pictures_in_one_batch_agree(golden, model):
    """In test the two are the same, which ``test_oimnetpp`` holds."""
    boxes = [torch.from_numpy(box) for box in golden["gt_boxes"]]
    for i, result in enumerate(model.eval().detect_and_embed(make_images(), boxes)):
        assert_people_agree(golden, i, result.detections, embeddings_of(result), by_score=False)


@pytest.fixture(scope="module")
def step(golden, model):
    return training_step(model, golden, make_images())


def test_losses_of_a_training_step_agree(golden, step):
    assert_losses_agree(golden, step[0], LOSSES)


def test_gradients_of_a_training_step_agree(golden, step):
    """Conv1 and bn1 have none, and what lies unused in the file is no part of ours."""
    assert_gradients_agree(golden, step[1], rename, floor=1e-3)


def test_tables_and_running_statistics_after_a_training_step_agree(golden, step):
    assert_state_agrees(golden, step[2], rename)
