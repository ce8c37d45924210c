"""Agreement of SeqNeXt with what its author's code computed, on weights drawn from a formula."""

from __future__ import annotations

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
    in_their_order,
    make_images,
    released_state,
    training_step,
)

from person_search.checkpoints.loading import load_model
from person_search.checkpoints.released_seqnext import rename

pytestmark = pytest.mark.slow

LOSSES = {
    "rpn_objectness": "loss_rpn_cls",
    "rpn_box": "loss_rpn_reg",
    "detection_classification": "loss_proposal_cls",
    "detection_box": "loss_proposal_reg",
    "classification": "loss_box_cls",
    "box": "loss_box_reg",
    "reid": "sim_loss",
}


def drawn_as(key):
    """The name by which a tensor was drawn."""
    return key.replace("roi_heads.box_head.", "roi_heads.reid_head.")


@pytest.fixture(scope="module")
def golden():
    return Golden("seqnext")


@pytest.fixture(scope="module")
def model(golden, tmp_path_factory):
    path = tmp_path_factory.mktemp("released") / "epoch_29.pth"
    state = released_state("seqnext", golden, queue_rows=0, drawn_as=drawn_as)
    torch.save({"model": state, "config": {"dataset": "cuhk"}, "epoch": 29}, path)
    model = load_model(
        path,
        **SETTINGS | {"rpn_post_nms_train": 40},
        first_score_threshold=0.0,
        max_detections=100,
        first_max_detections=100,
        rpn_post_nms_test=100,
        stochastic_depth=0.0,
        freeze=True,
    )
    path.unlink()
    return model


@pytest.fixture(scope="module")
def found(golden, model):
    """Both images in one batch: each is to give what it gave by itself."""
    boxes = [torch.from_numpy(box) for box in golden["gt_boxes"]]
    return model.eval().detect_and_embed(make_images(), boxes)


@pytest.mark.skipif(not WHOLE.is_dir(), reason="the whole outputs are not beside this checkout")
def test_what_is_kept_is_a_sample_of_the_whole():
    assert_sampled("seqnext", make_images(), left_out={"rgb", "lut"})


def test_a_released_checkpoint_is_recognised_by_its_contents(model):
    config = model.config
    assert (config.method, config.backbone.name, config.embedding_size) == ("seqnext", "convnext_base", 2048)
    assert (config.loss.name, config.loss.queue, config.loss.weight) == ("oim-safe", 500, 1.0)
    assert model.num_identities == 20
    assert model.reid_loss.queue_head == 0


def test_proposals_agree(golden, model):
    for i, (boxes, _) in enumerate(model.eval().propose(make_images())):
        assert golden.relative(f"rpn{i}_boxes", boxes[:20]) < 1e-4


def test_detections_and_query_embeddings_agree(golden, found):
    for i, result in enumerate(found):
        people = in_their_order(golden, i, result.detections)
        assert_people_agree(golden, i, people, embeddings_of(result))


@pytest.fixture(scope="module")
def step(golden, model):
    return training_step(model, golden, make_images())


def test_losses_of_a_training_step_agree(golden, step):
    assert_losses_agree(golden, step[0], LOSSES)


def test_gradients_of_a_training_step_agree(golden, step):
    """The stem has none: that is what SeqNeXt freezes of a ConvNeXt."""
    assert_gradients_agree(golden, step[1], rename, floor=1e-6)


def test_tables_and_running_statistics_after_a_training_step_agree(golden, step):
    _, _, state = step
    assert golden.difference("after/roi_heads.reid_loss.lut", state["reid_loss.lut"]) < 1e-5
    assert golden.difference("after/roi_heads.reid_loss.cq", state["reid_loss.queue"][:40]) < 1e-5
    assert_statistics_agree(golden, state, rename)
