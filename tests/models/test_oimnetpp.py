"""What is OIMNet++'s own beside its numbers, which ``test_golden_oimnetpp`` holds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_models import small
from torch import Tensor

from person_search.checkpoints.loading import load_model, open_checkpoint
from person_search.checkpoints.released_oimnetpp import rename
from person_search.config import method_settings
from person_search.errors import CheckpointError, UsageError
from person_search.models.proto_norm import ProtoNorm

THEIRS = {
    "trunk.": "backbone.",
    "top.": "roi_heads.reid_head.",
    "cls_score.": "roi_heads.box_predictor.bbox_cls.",
    "bbox_pred.": "roi_heads.box_predictor.bbox_pred.",
    "projection.levels.C5.": "roi_heads.embedding_head.projectors.feat_res5.",
    "reid_loss.queue": "roi_heads.reid_loss.cq",
    "reid_loss.lut": "roi_heads.reid_loss.lut",
    "rpn.head.": "rpn.head.",
}
SETTINGS = {"backbone": "resnet18", "width": 0.125, "anchor_sizes": (24.0,)}


def released(model: torch.nn.Module) -> dict[str, Tensor]:
    """The state of ``model`` as the authors' code would save it: tables of half precision, parts without use."""
    state = {}
    for name, value in model.state_dict().items():
        ours = next((prefix for prefix in THEIRS if name.startswith(prefix)), None)
        if ours is not None and name != "reid_loss.queue_head":
            state[THEIRS[ours] + name.removeprefix(ours)] = value.half() if "reid_loss" in name else value
    unused = {"roi_heads.box_head.layer4.0.conv1.weight": 9, "roi_heads.faster_rcnn_predictor.cls_score.weight": 2}
    return state | {name: torch.full((2, 2), float(value)) for name, value in unused.items()}


def test_published_settings() -> None:
    config = method_settings("oimnet++")
    assert (config.images.shorter_side, config.images.longer_side) == ((900,), 1500)
    assert (config.rois.size, config.rois.sampling_ratio, config.rois.batch_per_image) == ((14, 14), 2, 128)
    rpn = config.rpn
    assert (rpn.anchor_sizes, rpn.anchor_ratios, rpn.min_side) == ((8.0, 16.0, 32.0), (0.5, 1.0, 2.0), 1e-3)
    assert rpn.box_loss_beta == pytest.approx(1 / 9)
    test = config.detections
    assert (test.score_threshold, test.nms_threshold, test.max_detections) == (0.5, 0.4, 300)
    loss = config.loss
    assert (loss.name, loss.weight, loss.scale, loss.min_step, loss.max_step) == ("loim", 1, 30, 0.7, 0.9)
    assert (config.levels, config.embedding.norm, config.box_loss_weight) == (("C5",), "proto", 10)
    assert not config.proto_norm_in_top
    assert method_settings("oimnet+++").proto_norm_in_top


def test_the_two_differ_in_the_tops_norms_alone_and_not_at_all_in_test() -> None:
    plain, plus = small("oimnet++", score_threshold=0.0), small("oimnet+++", score_threshold=0.0)
    inside = [name for name, part in plus.named_modules() if isinstance(part, ProtoNorm)]
    assert {name.split(".")[0] for name in inside} == {"top", "projection"}
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in plus.top.modules())
    assert {n: v.shape for n, v in plain.state_dict().items()} == {n: v.shape for n, v in plus.state_dict().items()}
    plus.load_state_dict(plain.state_dict())
    picture = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(1))
    (one,), (other,) = plain.eval()([picture]), plus.eval()([picture])
    assert len(one) > 0
    torch.testing.assert_close(other.boxes, one.boxes)
    torch.testing.assert_close(other.embeddings, one.embeddings)


@pytest.mark.parametrize("method", ["oimnet++", "oimnet+++"])
def test_a_backbone_without_batch_normalisation_takes_no_proto_norm(method: str) -> None:
    with pytest.raises(UsageError, match=r"convnext_tiny has no batch normalisation.*leave it out"):
        method_settings(method, backbone="convnext_tiny", proto_norm_in_top=True)
    assert method_settings("oimnet++", backbone="convnext_tiny").embedding.norm == "proto"


def test_tables_of_half_precision_are_read_and_unused_parts_dropped(tmp_path: Path) -> None:
    model = small("oimnet++", rpn_box_loss_beta=0.0)
    torch.nn.init.uniform_(model.reid_loss.lut)
    torch.save({"model": released(model), "epoch": 19}, tmp_path / "a.pth")
    stored = open_checkpoint(tmp_path / "a.pth").model
    assert {value.dtype for value in stored.values()} == {torch.float32, torch.int64}
    read = load_model(tmp_path / "a.pth", **SETTINGS)
    for name, value in model.state_dict().items():
        found = read.state_dict()[name]
        assert found.dtype == value.dtype, name
        torch.testing.assert_close(found, value, atol=1e-3 if "lut" in name else 0, rtol=0)


def test_without_a_norm_it_is_the_strong_oim(tmp_path: Path) -> None:
    model = small("oimnet++", embedding_norm="none", reid_loss="oim-sequential", reid_loss_weight=1.0)
    torch.save(released(model), tmp_path / "a.pth")
    config = open_checkpoint(tmp_path / "a.pth").model_config
    assert (config.method, config.embedding.norm, config.loss.name) == ("oimnet++", "none", "oim-sequential")
    assert config.loss.weight == 1.0
    load_model(tmp_path / "a.pth", **SETTINGS)


def test_files_that_lack_or_have_something_else_are_told_apart(tmp_path: Path) -> None:
    state = released(small("oimnet++"))
    norm = "roi_heads.embedding_head.projectors.feat_res5.1."
    lut, mean = "roi_heads.reid_loss.lut", norm + "running_mean"
    for wrong, message in (
        ({k: v for k, v in state.items() if k != lut}, r"looks like OIMNet\+\+, but holds no identity table"),
        (
            state | {norm + "weight": torch.ones(256)},
            r"looks like OIMNet\+\+, but the norm of its projection has a weig",
        ),
        (state | {"gfn.weight": torch.ones(1)}, r"'gfn\.weight' is none of OIMNet\+\+'s"),
        (
            state | {mean: torch.ones(255)},
            r"projectors\.feat_res5\.1\.running_mean' \(here 'projection\.levels\.C5\.1\.running_mean'\) is \(255,\), "
            r"the model wants \(256",
        ),
        ({k: v for k, v in state.items() if "bbox_pred.bias" not in k}, r"it lacks '(rpn|roi)\S*bbox_pred\.bias'"),
    ):
        torch.save(wrong, tmp_path / "a.pth")
        with pytest.raises(CheckpointError, match=message):
            load_model(tmp_path / "a.pth", **SETTINGS)
    assert rename("rpn.head.conv.0.0.weight") == rename("rpn.head.conv.weight") == "rpn.head.conv.weight"
