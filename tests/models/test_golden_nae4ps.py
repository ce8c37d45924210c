"""Agreement of NAE and NAE+ with what their authors' code computed, on weights drawn from a formula."""

from __future__ import annotations

import tarfile

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
    remembered_top,
    training_step,
)
from torch.nn import functional as F

from person_search.checkpoints.loading import load_model
from person_search.checkpoints.released_nae4ps import UNUSED, rename
from person_search.models.two_stage import FeatureMaps

pytestmark = pytest.mark.slow

LOSSES = {
    "rpn_objectness": "loss_objectness",
    "rpn_box": "loss_rpn_box_reg",
    "classification": "loss_detection",
    "box": "loss_box_reg",
    "reid": "loss_reid",
}
NAMES = {"nae4ps": ("nae4ps", ("C4", "C5")), "naeplus": ("nae-plus", ("C4", "C5")), "naeplus_c5": ("nae-plus", ("C5",))}
"""Name of the outputs: method and levels."""


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def golden(name):
    return Golden(name)


@pytest.fixture(scope="module")
def model(golden, name, tmp_path_factory):
    folder = tmp_path_factory.mktemp("released")
    path = folder / "checkpoint.pth"
    torch.save({"model": released_state(name, golden), "optimizer": {}, "lr_scheduler": {}, "epoch": 11}, path)
    if name == "nae4ps":
        path = archived(folder / "logs.tar.gz", path)
    return load_model(
        path,
        **SETTINGS,
        freeze=True,
    )


def archived(archive, path):
    """The checkpoint at ``path`` as its authors distribute it: among others, with its options beside it."""
    with tarfile.open(archive, "w:gz", compresslevel=0) as file:
        for folder in ("nae", "nae_plus"):
            options = tarfile.TarInfo(f"./logs/{folder}/args.json")
            file.addfile(options)
        file.add(path, "./logs/nae/checkpoint.pth")
    path.unlink()
    return archive / "logs/nae/checkpoint.pth"


@pytest.mark.skipif(not WHOLE.is_dir(), reason="the whole outputs are not beside this checkout")
def test_what_is_kept_is_a_sample_of_the_whole(name):
    assert_sampled(name, make_images(), left_out={"rgb", "lut", "cq_tail"})


def test_a_released_checkpoint_is_recognised_by_its_contents(model, name):
    config = model.config
    assert (config.method, config.levels) == NAMES[name]
    assert (config.backbone.flavour, config.rois.bg_iou) == ("torchvision", 0.1)
    assert (config.loss.name, config.loss.queue, config.loss.weight) == ("oim-sequential", 500, 1.0)
    assert model.num_identities == 20
    assert model.reid_loss.queue_head == 0


@pytest.fixture(scope="module")
def seen():
    """Outputs of the tops."""
    return {}


def test_detections_and_query_embeddings_agree(golden, model, seen):
    """Both pictures in one batch: each is to give what it gave by itself."""
    boxes = [torch.from_numpy(box) for box in golden["gt_boxes"]]
    with remembered_top(model.eval(), seen):
        found = model.detect_and_embed(make_images(), boxes)
    for i, result in enumerate(found):
        assert_people_agree(golden, i, result.detections, None)
        # NAE+'s authors leave queries as long as they are, which changes no ranking.
        expected = F.normalize(torch.from_numpy(golden[f"query{i}_embeddings"]), dim=1)
        torch.testing.assert_close(embeddings_of(result), expected, atol=2e-5, rtol=0)


def test_query_embeddings_agree_in_length_too(golden, model, name):
    batch = model.eval().transform(make_images())
    with torch.no_grad():
        features = FeatureMaps(model.trunk(batch.tensors), batch)
        pooled = model.pool(model.align(features, [torch.from_numpy(box) for box in golden["gt_boxes"]]))
        found = model.embed_pooled(pooled) if name == "nae4ps" else pooled["attended"]
    for i, own in enumerate(found.chunk(2)):
        assert golden.relative(f"query{i}_embeddings", own) < 1e-4


@pytest.fixture(scope="module")
def step(golden, model):
    return training_step(model, golden, make_images())


def test_losses_of_a_training_step_agree(golden, step):
    assert_losses_agree(golden, step[0], LOSSES)


def test_gradients_of_a_training_step_agree(golden, step):
    """Conv1 and bn1 have none, nor has the classifier that nobody asks."""
    assert not any(key.startswith(UNUSED) for key in golden.below("gradnorm/"))
    assert_gradients_agree(golden, step[1], rename, floor=1e-3)


def test_tables_and_running_statistics_after_a_training_step_agree(golden, step):
    assert_state_agrees(golden, step[2], rename)
