"""What is SeqNeXt's own beside its numbers, which ``test_golden_seqnext`` holds."""

from __future__ import annotations

import pytest
import small_models
import torch
from torch import Tensor

from person_search.checkpoints.released_seqnext import convert, is_released, recognise, rename
from person_search.config import method_settings
from person_search.data.target import Target
from person_search.errors import CheckpointError
from person_search.models.backbones.stochastic_depth import StochasticDepth
from person_search.models.embedding import SingleRowBatchNorm
from person_search.models.seqnext import SeqNeXt
from person_search.models.sequential_oim_loss import SafeOIMLoss
from person_search.models.settings import SafeOimLossSettings


def small(**settings: object) -> SeqNeXt:
    open_wide = {"score_threshold": 0.0, "first_score_threshold": 0.0, "rpn_post_nms_test": 40}
    model = small_models.small("seqnext", **(open_wide | settings))
    assert isinstance(model, SeqNeXt)
    return model


@pytest.fixture
def images() -> list[Tensor]:
    draw = torch.Generator().manual_seed(1)
    return [torch.rand(3, 64, 96, generator=draw) for _ in range(2)]


def someone(seed: int | None = None) -> Target:
    return Target(torch.tensor([[5.0, 8, 20, 45]]), torch.tensor([0]), torch.zeros(0, 4), seed=seed)


def test_the_second_head_gives_the_score_and_the_first_chooses_the_boxes(images: list[Tensor]) -> None:
    model = small().eval()
    with torch.no_grad():
        model.refined_cls_score.weight.zero_()
        model.refined_cls_score.bias.fill_(1.0)
    for found in model(images):
        torch.testing.assert_close(found.scores, torch.full((len(found),), 1.0).sigmoid())
    with torch.no_grad():
        model.cls_score.weight.zero_()
        model.cls_score.bias.copy_(torch.tensor([0.0, 1.0]))
        model.refined_bbox_pred.weight.zero_()
        model.refined_bbox_pred.bias.copy_(torch.tensor([1.0, 0, 0, 0]))
        model.bbox_pred.weight.zero_()
        model.bbox_pred.bias.zero_()
    first = small_models.small("seqnext", first_score_threshold=0.8)
    first.load_state_dict(model.state_dict())
    assert [len(found) for found in first.eval()(images)] == [0, 0]


def test_with_a_resnet_all_normalisation_and_its_first_stage_are_frozen_too(images: list[Tensor]) -> None:
    model = small(freeze=True).train()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert not any("bn" in name or "downsample.1" in name for name in trained)
    assert not any(name.startswith(("trunk.conv1", "trunk.layer1")) for name in trained)
    assert {"trunk.layer2.0.conv1.weight", "top.layer4.0.conv1.weight"} <= trained
    before = {name: value.clone() for name, value in model.state_dict().items() if name.startswith(("trunk", "top"))}
    model(images, [someone(), someone()])
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    assert model.projection.levels["C5"][1].training


def test_of_a_convnext_the_stem_alone_is_frozen() -> None:
    model = small(backbone="convnext_tiny", freeze=True)
    still = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert {name.rsplit(".", 2)[0] for name in still} == {"trunk.features.0"}


def test_normalisation_of_a_single_row_is_that_of_evaluation_and_leaves_it_as_it_is() -> None:
    norm = SingleRowBatchNorm(3).train()
    norm(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)))
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    row = torch.tensor([[1.0, 2, 3]])
    found = norm(row)
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())
    assert norm.training
    torch.testing.assert_close(found, norm.eval()(row))


def test_one_person_alone_trains_re_id(images: list[Tensor]) -> None:
    """All else lies on a region to ignore."""
    alone = Target(torch.tensor([[5.0, 8, 20, 45]]), torch.tensor([2]), torch.tensor([[0.0, 0, 96, 64]]))
    model = small(roi_fg_iou=1.0).train()
    model(images[:1], [alone])
    assert bool(model.reid_loss.lut[2].any())


UNLIKE = torch.tensor([[-0.98, (1 - 0.98**2) ** 0.5]])
"""Nearly the opposite of (1, 0), so that empty rows have weight beside it."""


def loss_of(rows: dict[int, list[float]]) -> SafeOIMLoss:
    """Three identities and a queue of two, of two numbers; ``rows`` of the table are filled."""
    loss = SafeOIMLoss(2, 3, SafeOimLossSettings(queue=2))
    for row, value in rows.items():
        loss.lut[row] = torch.tensor(value)
    return loss


def test_empty_rows_are_everybodys_opposite() -> None:
    """Of five rows four are empty; one person, whose own row is filled."""
    loss = loss_of({0: [1.0, 0.0]})
    found, accuracy = loss(UNLIKE, torch.tensor([0]))
    logits = torch.tensor([-0.98, -1, -1, -1, -1]) * 30
    torch.testing.assert_close(found, -logits.log_softmax(0)[0])
    assert float(accuracy) == 1


def test_an_empty_row_of_ones_own_counts_as_a_likeness_of_one_and_teaches_nothing() -> None:
    loss = loss_of({1: [1.0, 0.0]})
    person = torch.tensor([[0.6, 0.8]], requires_grad=True)
    found, _ = loss(person, torch.tensor([0]))
    logits = torch.tensor([1, 0.6, -1, -1, -1]) * 30
    torch.testing.assert_close(found, -logits.log_softmax(0)[0])
    torch.testing.assert_close(loss.lut[0], torch.tensor([0.6, 0.8]))


def test_people_without_identity_count_in_the_divisor_and_background_does_not() -> None:
    people = torch.cat([UNLIKE, torch.tensor([[0.0, 1.0], [0.8, 0.6]])])
    one, _ = loss_of({0: [1.0, 0.0]})(people[:1], torch.tensor([0]))
    found, accuracy = loss_of({0: [1.0, 0.0]})(people, torch.tensor([0, -1, -2]))
    assert float(one) > 1
    torch.testing.assert_close(found, one / 2)
    assert float(accuracy) == 1
    nobody, _ = loss_of({})(people, torch.tensor([-2, -2, -2]))
    assert float(nobody) == 0


def test_the_tables_move_in_the_forward_pass_person_by_person() -> None:
    loss = loss_of({0: [1.0, 0.0]})
    with torch.no_grad():
        loss(torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.6, 0.8]]), torch.tensor([0, 0, -1]))
    once = torch.nn.functional.normalize(torch.tensor([1.0, 1.0]), dim=0)
    twice = torch.nn.functional.normalize(once + torch.tensor([0.0, 1.0]), dim=0)
    torch.testing.assert_close(loss.lut[0], twice)
    torch.testing.assert_close(loss.queue, torch.tensor([[0.6, 0.8], [0, 0]]))
    assert int(loss.queue_head) == 1


def test_what_a_block_adds_is_the_same_on_average() -> None:
    block = StochasticDepth(0.25).train()
    found = block(torch.ones(4000, 2, 1, 1))
    torch.testing.assert_close(found.unique(), torch.tensor([0, 1 / 0.75]))
    torch.testing.assert_close(found[:, 0], found[:, 1])
    assert float(found.mean()) == pytest.approx(1, abs=0.05)
    assert torch.equal(block.eval()(found), found)


def test_blocks_left_out_depend_on_the_image_alone(images: list[Tensor]) -> None:
    """Batch normalisation, which sees all images, stands still."""
    model = small(backbone="convnext_tiny", stochastic_depth=0.5).train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # A new network's blocks add next to nothing.
            if name.endswith("layer_scale"):
                parameter.fill_(0.5)
    for part in model.modules():
        if isinstance(part, torch.nn.modules.batchnorm._BatchNorm):
            part.eval()
    maps: list[Tensor] = []
    model.trunk.register_forward_hook(lambda part, given, output: maps.append(output))
    tops: list[Tensor] = []
    model.top.register_forward_hook(lambda part, given, output: tops.append(output))
    model(images, [someone(1), someone(2)])
    model(images[1:], [someone(2)])
    model(images[1:], [someone(3)])
    torch.testing.assert_close(maps[0][1:], maps[1])
    torch.testing.assert_close(tops[0][-len(tops[1]) :], tops[1])
    assert not torch.allclose(maps[1], maps[2])
    one, other = (model.eval()(images)[0].embeddings for _ in range(2))
    torch.testing.assert_close(one, other)


def test_recomputed_heads_leave_out_the_same_blocks_again(images: list[Tensor]) -> None:
    """The first head's draws are overwritten before its activations are computed again."""

    def gradients(*, recompute: bool) -> list[Tensor]:
        model = small(backbone="convnext_tiny", stochastic_depth=0.5).train()
        model.trunk.recompute = model.detection_top.recompute = model.top.recompute = recompute
        sum(model(images, [someone(1), someone(2)]).values()).backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    for kept, again in zip(gradients(recompute=False), gradients(recompute=True), strict=True):
        torch.testing.assert_close(kept, again)


def released(**more: Tensor) -> dict[str, Tensor]:
    """A checkpoint of the ResNet-50 variant as far as its names tell."""
    state = {
        "backbone.body.conv1.weight": torch.zeros(64, 3, 7, 7),
        "backbone.body.bn1.running_var": torch.ones(64),
        "roi_heads.prop_head.head.0.conv1.weight": torch.zeros(512, 1024, 1, 1),
        "roi_heads.score_predictor.cls_score.weight": torch.zeros(1, 2048),
        "roi_heads.reid_loss.lut": torch.zeros(7, 2048).half(),
        "roi_heads.reid_loss.cq": torch.zeros(9, 2048),
    }
    return state | more


def test_the_resnet_variant_is_recognised_and_its_normalisations_get_their_counters() -> None:
    state = released()
    assert is_released(state)
    assert recognise(state) == {
        "method": "seqnext",
        "backbone": "resnet50",
        "embedding_size": 2048,
        "num_identities": 7,
        "oim_queue": 9,
    }
    converted = convert(state)
    assert converted["trunk.bn1.num_batches_tracked"] == 0
    assert "detection_top.layer4.0.conv1.weight" in converted
    assert converted["reid_loss.lut"].dtype == torch.float32


def test_files_of_other_or_damaged_layouts_are_refused_with_the_reason() -> None:
    assert not is_released({"roi_heads.score_predictor.cls_score.weight": torch.zeros(1)})
    assert rename("rpn.head.conv.0.0.weight") == rename("rpn.head.conv.weight") == "rpn.head.conv.weight"
    with pytest.raises(CheckpointError, match=r"'roi_heads\.other' is none of SeqNeXt's"):
        convert(released(**{"roi_heads.other": torch.zeros(1)}))
    without = released()
    del without["roi_heads.reid_loss.lut"]
    with pytest.raises(CheckpointError, match=r"looks like SeqNeXt, but holds no .*'roi_heads\.reid_loss\.lut'"):
        recognise(without)
    del (homeless := released())["backbone.body.conv1.weight"]
    with pytest.raises(CheckpointError, match="holds no backbone"):
        recognise(homeless)
    with pytest.raises(CheckpointError, match="77 channels"):
        recognise(released(**{"backbone.body.0.0.weight": torch.zeros(77, 3, 4, 4)}))


@pytest.mark.parametrize(
    ("name", "channels", "depth"),
    [("convnext_tiny", 96, 9), ("convnext_small", 96, 27), ("convnext_base", 128, 27), ("convnext_large", 192, 27)],
)
def test_sizes_of_convnext_are_told_apart(name: str, channels: int, depth: int) -> None:
    third = {f"backbone.body.5.{i}.layer_scale": torch.zeros(4 * channels, 1, 1) for i in range(depth)}
    state = released(**{"backbone.body.0.0.weight": torch.zeros(channels, 3, 4, 4)}, **third)
    assert recognise(state)["backbone"] == name
    assert f"trunk.features.5.{depth - 1}.layer_scale" in convert(state)


def test_published_settings() -> None:
    config = method_settings("seqnext")
    assert (config.backbone.name, config.backbone.stochastic_depth) == ("convnext_base", None)
    assert (config.images.shorter_side, config.images.longer_side) == ((900,), 1500)
    assert (config.rois.size, config.rois.sampling_ratio, config.rois.batch_per_image) == ((14, 14), 2, 128)
    assert (config.rpn.anchor_ratios, config.rpn.min_side) == ((0.5, 1.0, 2.0), 1e-3)
    assert config.rpn.box_loss_beta == pytest.approx(1 / 9)
    heads = [
        (each.score_threshold, each.nms_threshold, each.max_detections) for each in (config.first, config.detections)
    ]
    assert heads == [(0.5, 0.4, 300), (0.5, 0.5, 300)]
    assert (config.box_loss_weight, config.refined_box_loss_weight, config.loss.weight) == (10, 1, 1)
    assert (config.loss.name, config.loss.momentum, config.loss.scale) == ("oim-safe", 0.5, 30)
