"""Agreement of COAT with what its authors' code computed, on weights drawn from a formula."""

from __future__ import annotations

import copy
import re
from contextlib import contextmanager

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
    make_images,
    released_state,
    targets_of,
    training_step,
)

from person_search.checkpoints.loading import load_model
from person_search.checkpoints.released_coat import rename
from person_search.config import override
from person_search.models.building import build_model
from person_search.models.coat import COAT
from person_search.models.occluded_attention import Exchange
from person_search.models.random_draws import Draw
from person_search.models.rpn import RPN

pytestmark = pytest.mark.slow

LOSSES = {
    "rpn_objectness": "loss_rpn_cls",
    "rpn_box": "loss_rpn_reg",
    "first_classification": "loss_rcnn_cls_1st",
    "first_box": "loss_rcnn_reg_1st",
    "second_classification": "loss_rcnn_cls_2nd",
    "second_box": "loss_rcnn_reg_2nd",
    "second_reid": "loss_rcnn_reid_2nd",
    "second_softmax": "loss_box_softmax_2nd",
    "third_classification": "loss_rcnn_cls_3rd",
    "third_box": "loss_rcnn_reg_3rd",
    "third_reid": "loss_rcnn_reid_3rd",
    "third_softmax": "loss_box_softmax_3rd",
}
STRIPS = {
    Draw.EXCHANGE: {"tokens": (True, 4), "skipped": (False, 9)},
    Draw.LATER_EXCHANGE: {"tokens": (False, 2), "skipped": (True, 12)},
}
"""Of each head: whether a column, and which."""
QUEUE_ROWS = 60
"""Rows of the queues that the golden outputs hold."""
TIED, FIRST_OF_TIED = 50, torch.tensor([84.8, 0.0, 175.2, 118.7])
"""Two proposals of the first image in training, this and the next, and which is first in the golden outputs."""
HEADS = {"2nd": "second", "3rd": "third"}


def drawn_under(key):
    """The name under which the tensor was drawn: of those of one tensor, the right-hand one of the sheet."""
    key = re.sub(r"^roi_heads\.box_head_1st\.", "roi_heads.box_head.", key)
    key = re.sub(r"^roi_heads\.box_predictor_2nd\.", "roi_heads.box_predictor.", key)
    return key.replace(".transformer.0.", ".transblock.")


def classifiers():
    """What is in no checkpoint, under our names."""
    shapes = {"gain": ("bottleneck.weight", (256,)), "classifier.weight": ("classifier.weight", (20, 256))}
    return {
        f"{ours}.softmax_loss.{name}": torch.from_numpy(formula().tensor(f"softmax_{theirs}.{key}", shape))
        for theirs, ours in HEADS.items()
        for name, (key, shape) in shapes.items()
    }


def ours(name):
    """Our name of a parameter, those of the classifiers included."""
    for theirs, head in HEADS.items():
        if name.startswith(f"softmax_{theirs}."):
            part = {"bottleneck.weight": "gain"}.get(name.split(".", 1)[1], "classifier.weight")
            return f"{head}.softmax_loss.{part}"
    return rename(name)


@pytest.fixture(scope="module")
def golden():
    return Golden("coat")


@pytest.fixture(scope="module")
def model(golden, tmp_path_factory):
    path = tmp_path_factory.mktemp("released") / "epoch_13.pth"
    torch.save(
        {
            "model": released_state("coat", golden, queue_rows=0, drawn_as=drawn_under),
            "optimizer": {},
            "lr_scheduler": {},
            "epoch": 13,
        },
        path,
    )
    return load_model(
        path,
        **SETTINGS,
        first_score_threshold=0.0,
        second_score_threshold=0.0,
        roi_positive_share=0.5,
        freeze=True,
    )


@pytest.fixture(scope="module")
def found(golden, model):
    """Both images in one batch: each is to give what it gave by itself."""
    boxes = [torch.from_numpy(box) for box in golden["gt_boxes"]]
    return model.eval().detect_and_embed(make_images(), boxes, context=True)


@pytest.mark.skipif(not WHOLE.is_dir(), reason="the whole outputs are not beside this checkout")
def test_what_is_kept_is_a_sample_of_the_whole():
    assert_sampled("coat", make_images(), left_out={"rgb", "lut"})


def test_a_released_checkpoint_is_recognised_by_its_contents(model):
    config = model.config
    assert (config.method, config.backbone.name, config.levels) == ("coat", "resnet50", ("C4", "C5"))
    assert (config.loss.name, config.loss.queue, config.softmax_weight) == ("oim-sequential", 500, 0)
    assert model.num_identities == 20


def test_detections_and_query_embeddings_agree(golden, found):
    for i, result in enumerate(found):
        people = in_their_order(golden, i, result.detections)
        assert_people_agree(golden, i, people, embeddings_of(result))


def test_proposals_agree(golden, model):
    for i, picture in enumerate(make_images()):
        ((boxes, _),) = model.eval().propose([picture])
        assert golden.relative(f"rpn{i}_boxes", boxes[:20]) < 1e-4


def test_the_people_beside_a_query_agree(golden, found):
    person = found[0].given[0]
    boxes = torch.cat([person.box[None], person.beside.boxes])[:20]
    assert golden.relative("context_boxes", boxes) < 1e-4
    assert golden.difference("context_scores", torch.cat([torch.ones(1), person.beside.scores])[:20]) < 1e-5
    embeddings = torch.cat([person.embedding[None], person.beside.embeddings])[:20]
    assert golden.relative("context_embeddings", embeddings) < 1e-4


@contextmanager
def fixed(shift):
    """Strips as in the golden outputs; RoI i takes them from RoI i + ``shift``.

    That makes the order of RoIs count, and two proposals have logits so close that rounding decides which comes first.
    """
    filter_proposals = RPN.filter_proposals

    def in_their_order(self, *arguments):
        boxes, logits = filter_proposals(self, *arguments)
        rows = torch.arange(len(boxes[0]))
        if self.training and (boxes[0][TIED] - FIRST_OF_TIED).abs().max() > 1:
            rows[TIED], rows[TIED + 1] = TIED + 1, TIED
        return [boxes[0][rows], *boxes[1:]], [logits[0][rows], *logits[1:]]

    def exchanges(self, rois, targets, draw):
        partners = (torch.arange(rois) + shift) % rois
        return {name: Exchange(*strip, partners, [rois]) for name, strip in STRIPS[draw].items()}

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(RPN, "filter_proposals", in_their_order)
        patched.setattr(COAT, "exchanges", exchanges)
        yield


@pytest.fixture(scope="module")
def trainable(model):
    """With the classifiers, which are in no checkpoint."""
    whole = build_model(override(model.config, {"softmax_weight": 0.5}), 20, load_weights=False)
    missing, strange = whole.load_state_dict(model.state_dict() | classifiers(), strict=False)
    assert strange == []
    assert all(".softmax_loss.norm." in name for name in missing)
    return whole


@pytest.fixture(scope="module")
def step(golden, trainable):
    with fixed(shift=1):
        return training_step(trainable, golden, make_images())


def test_losses_of_a_training_step_agree(golden, step):
    assert_losses_agree(golden, step[0], LOSSES)


def test_gradients_of_a_training_step_agree(golden, step):
    """Conv1 and bn1 have none: that is what COAT freezes."""
    assert_gradients_agree(golden, step[1], ours, floor=1e-6)


def test_tables_and_running_statistics_after_a_training_step_agree(golden, step):
    """Batch normalisation in the whole trunk amplifies float32's rounding: two threads differ from one by 1e-5."""
    _, _, state = step
    assert_statistics_agree(golden, state, rename)
    for key in golden.below("after/"):
        assert golden.difference(f"after/{key}", state[rename(key)][:QUEUE_ROWS]) < 1e-4, key


def test_losses_without_exchange_agree(golden, trainable):
    with fixed(shift=0), torch.no_grad():
        losses = copy.deepcopy(trainable).train()(make_images(), targets_of(golden))
    assert_losses_agree(Golden("coat", "plain_"), {name: float(loss) for name, loss in losses.items()}, LOSSES)
