"""Rules of the networks that whole outputs would show only as other numbers, each by a case worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from named_backbones import named_backbone
from small_models import METHODS, small
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from person_search.config import method_settings
from person_search.data.target import Target
from person_search.models.backbones.resnet import make_layer
from person_search.models.box_heads import LightHead, box_loss
from person_search.models.building import build_model
from person_search.models.embedding import Projection
from person_search.models.image_transform import ImageBatch
from person_search.models.roi_sampling import BACKGROUND, SampledRois
from person_search.models.rpn import RPN
from person_search.models.settings import RpnSettings
from person_search.models.two_stage import FeatureMaps, ScoredRois, TwoStageModel


def ramp(height: int, width: int) -> torch.Tensor:
    """(1, 1, H, W) whose value at a cell is its column number."""
    return torch.arange(width, dtype=torch.float32).expand(1, 1, height, width)


def maps(values: torch.Tensor) -> FeatureMaps:
    """``values`` as the trunk's output for one picture."""
    size = (16 * values.shape[2], 16 * values.shape[3])
    return FeatureMaps(values, ImageBatch(torch.zeros(1, 3, *size), [size], [size]))


def test_roi_align_puts_cell_centres_on_whole_numbers() -> None:
    """Without the half-pixel shift ("aligned") a box over cells 2 to 9 is averaged to 2 + (k + 0.5) in bin k of 7."""
    (bins,) = small().align(maps(ramp(20, 20)), [torch.tensor([[32.0, 32, 144, 256]])])[0]
    assert bins.shape == (14, 7)
    torch.testing.assert_close(bins[0], torch.tensor([2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 8.5]))


def test_roi_align_takes_as_many_samples_as_a_bin_has_cells() -> None:
    """A bin 4 cells wide is sampled at 4 places; of a single bright cell beside it each sees half or nothing."""
    features = torch.zeros(1, 1, 60, 60)
    features[0, 0, :, 1] = 1.0
    (bins,) = small().align(maps(features), [torch.tensor([[0.0, 0, 28 * 16, 56 * 16]])])[0]
    torch.testing.assert_close(bins[3, 0], torch.tensor((0.5 + 0.5) / 4))


def test_levels_are_pooled_by_their_greatest_value() -> None:
    model = small(levels=("C4", "C5")).eval()
    aligned = torch.rand(3, model.trunk.channels, 14, 7)
    with torch.no_grad():
        pooled = model.pool(aligned)
        top = model.top(aligned)
    torch.testing.assert_close(pooled["C4"], aligned.flatten(2).max(2).values)
    torch.testing.assert_close(pooled["C5"], top.flatten(2).max(2).values)


@pytest.mark.parametrize(("min_side", "left"), [(0.0, [0, 20, 40]), (1e-3, [0, 40]), (3.0, [40])])
def test_proposals_with_a_side_too_short_are_dropped_after_clipping(min_side: float, left: list[int]) -> None:
    rpn = RPN(8, RpnSettings(min_side=min_side)).eval()
    boxes = torch.tensor([[0.0, 0, 2, 9], [20, -5, 29, 5e-4], [40, 0, 49, 9]])[None]
    ((found,), (logits,)) = rpn.filter_proposals(boxes, torch.tensor([[3.0, 2, 1]]), [(64, 96)], [3])
    assert found[:, 0].tolist() == left
    assert len(logits) == len(left)


def test_box_deltas_of_rois_are_ten_and_five_times_and_of_anchors_plain() -> None:
    box, wanted = torch.tensor([[0.0, 0, 10, 20]]), torch.tensor([[1.0, 2, 21, 22]])
    plain = torch.tensor([[0.6, 0.1, math.log(2), 0.0]])
    model = small()
    torch.testing.assert_close(model.box_coder.encode_single(wanted, box), plain * torch.tensor([10.0, 10, 5, 5]))
    torch.testing.assert_close(model.rpn.box_coder.encode_single(wanted, box), plain)
    for coder in (model.box_coder, model.rpn.box_coder):
        torch.testing.assert_close(coder.decode_single(coder.encode_single(wanted, box), box), wanted)
        grown = coder.decode_single(torch.tensor([[0.0, 0, 100, 0]]), box)
        assert float(grown[0, 2] - grown[0, 0]) == pytest.approx(10 * 1000 / 16, rel=1e-4)


def rois_of(labels: torch.Tensor) -> SampledRois:
    """RoIs of these labels whose boxes and regression targets are all zero."""
    nothing = torch.zeros(len(labels), 4)
    return SampledRois(nothing, labels, torch.zeros(len(labels)), nothing, torch.full_like(labels, -1))


def test_box_loss_is_smooth_l1_with_its_bend_at_one() -> None:
    rois = rois_of(torch.tensor([0, -1, BACKGROUND, BACKGROUND]))
    deltas = torch.full((4, 8), 100.0)
    deltas[0, 4:] = torch.tensor([0.5, 0.0, 0.0, 0.0])
    deltas[1, 4:] = torch.tensor([0.0, 3.0, 0.0, 0.0])
    # Half the square below 1, the distance less a half above; two people, four RoIs.
    assert float(box_loss(deltas, [rois], 1.0)) == pytest.approx((0.125 + 2.5) / 4)
    assert float(box_loss(deltas, [rois], 10.0)) == pytest.approx(10 * (0.125 + 2.5) / 4)


@pytest.mark.parametrize(("beta", "loss"), [(0.0, 0.5 + 3.0), (0.25, 0.375 + 2.875), (1.0, 0.125 + 2.5)])
def test_anchor_loss_is_l1_over_all_that_were_sampled_and_smooth_where_asked(beta: float, loss: float) -> None:
    rpn = small(rpn_box_loss_beta=beta).rpn
    deltas, wanted = torch.zeros(4, 4), torch.zeros(4, 4)
    wanted[0, 0], wanted[1, 1] = 0.5, 3.0
    _, box = rpn.compute_loss(torch.zeros(4, 1), deltas, [torch.tensor([1.0, 1, 0, -1])], [wanted])
    assert float(box) == pytest.approx(loss / 3)
    assert method_settings("seqnet").rpn.box_loss_beta == 0


@pytest.mark.parametrize(("share", "number"), [(0.5, 256), (0.25, 40)])
def test_anchors_train_in_the_shares_and_numbers_set(share: float, number: int) -> None:
    rpn = RPN(8, RpnSettings(batch_per_image=number, positive_share=share))
    labels = [torch.tensor([1.0] * 500 + [0.0] * 500 + [-1.0] * 20)]
    rpn._sample(labels, [Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))])
    assert int((labels[0] == 1).sum()) == number * share
    assert int((labels[0] == 0).sum()) == number * (1 - share)


def test_published_shares_of_anchors_and_rois() -> None:
    config = method_settings("baseline")
    assert (config.rpn.batch_per_image, config.rpn.positive_share) == (256, 0.5)
    assert config.rois.positive_share == small().sample_rois.positive_share == 0.5


@pytest.mark.parametrize(("caffe", "strides"), [(True, (2, 1)), (False, (1, 2))])
def test_a_caffe_bottleneck_strides_on_its_first_convolution(caffe: bool, strides: tuple[int, int]) -> None:
    first, second = make_layer(Bottleneck, 8, 8, 2, stride=2, caffe=caffe)
    assert (first.conv1.stride[0], first.conv2.stride[0]) == strides
    assert (second.conv1.stride[0], second.conv2.stride[0]) == (1, 1)
    basic = make_layer(BasicBlock, 8, 8, 1, stride=2, caffe=caffe)[0]
    assert (basic.conv1.stride[0], basic.conv2.stride[0]) == (2, 1)


def test_caffe_pooling_starts_in_the_corner_and_torchvisions_one_before_it() -> None:
    """Of values 0..8 in a row, windows of three: [0-2, 2-4, 4-6, 6-8] against [0-1, 1-3, 3-5, 5-7, 7-8]."""

    def pooled(flavour: str, size: int) -> list[float]:
        trunk = named_backbone("resnet18", cut="layer3", width=0.125, flavour=flavour).trunk
        return trunk.maxpool(ramp(size, size))[0, 0, 0].tolist()

    assert pooled("caffe", 9) == [2, 4, 6, 8]
    assert pooled("torchvision", 9) == [1, 3, 5, 7, 8]
    assert pooled("caffe", 10) == [2, 4, 6, 8, 9]


@pytest.mark.parametrize("method", METHODS)
def test_only_methods_that_freeze_do_and_with_weights_unless_told_otherwise(method: str) -> None:
    def frozen(**settings: object) -> bool:
        torch.manual_seed(0)
        config = method_settings(method, backbone="resnet18", width=0.125, **settings)
        # The weights themselves come from elsewhere, as for a checkpoint.
        trunk = build_model(config, 5, load_weights=False).trunk
        return not all(parameter.requires_grad for parameter in trunk.parameters())

    assert frozen(weights="imagenet") == (method not in ("oim", "nae"))
    assert not frozen(weights="none")
    assert frozen(weights="none", freeze=True)
    assert not frozen(weights="imagenet", freeze=False)


def test_the_light_head_is_one_by_one_and_strides_by_two() -> None:
    head = LightHead(8, (14, 7))
    assert (head.conv.kernel_size, head.conv.stride, head.conv.padding) == ((1, 1), (2, 2), (0, 0))
    assert head.fc.in_features == 256 * 7 * 4
    with torch.no_grad():
        assert head(torch.rand(2, 8, 14, 7)).min() == 0


def people() -> list[Target]:
    return [Target(torch.tensor([[5.0, 8, 20, 45], [40, 5, 60, 50]]), torch.tensor([0, 2]), torch.zeros(0, 4), seed=4)]


def losses_of(model: TwoStageModel) -> dict[str, torch.Tensor]:
    """After one pass over one picture, the same for every model."""
    picture = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(1))
    losses = model.train()([picture], people())
    return {name: loss.detach() for name, loss in losses.items()}


def test_the_baselines_reid_loss_is_the_mean_over_levels_times_its_weight() -> None:
    model = small(levels=("C4", "C5"), reid_loss_weight=3.0)

    class Fixed(nn.Module):
        def __init__(self, value: float):
            super().__init__()
            self.value = value

        def forward(self, rows: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return rows.sum() * 0 + self.value, torch.tensor(self.value / 10)

    model.reid_loss = nn.ModuleDict({"C4": Fixed(1.0), "C5": Fixed(4.0)})
    assert float(losses_of(model)["reid"]) == pytest.approx(3.0 * (1 + 4) / 2)
    assert float(model.metrics["identity_accuracy"]) == pytest.approx(0.25)


@pytest.mark.parametrize(("method", "weight"), [("baseline", 1.0), ("oim", 1.0), ("nae", 10.0)])
def test_the_box_loss_has_its_methods_weight_unless_one_is_set(method: str, weight: float) -> None:
    own, set_to_one = (losses_of(small(method, **given))["box"] for given in ({}, {"box_loss_weight": 1.0}))
    assert float(own) == pytest.approx(weight * float(set_to_one), rel=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_scores_boxes_and_embeddings_of_a_test_are_of_full_precision_inside_autocast(method: str) -> None:
    """Under bfloat16 the network may round, but what is compared and regressed afterwards must not."""
    model = small(method, score_threshold=0.0).eval()
    picture = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16):
        (found,) = model([picture])
        batch = model.transform([picture])
        features = FeatureMaps(model.trunk(batch.tensors), batch)
        (logits,), (shifts,) = model.rpn.head([features.maps])
        scored = model.score_rois(features, [torch.tensor([[5.0, 8, 20, 45]])])
    assert features.maps.dtype == torch.bfloat16
    assert {logits.dtype, shifts.dtype, scored.scores.dtype, scored.deltas.dtype} == {torch.float32}
    assert len(found) > 0
    assert {found.boxes.dtype, found.scores.dtype, found.embeddings.dtype} == {torch.float32}
    lengths = found.embeddings.unflatten(1, (2 if method == "coat" else 1, -1)).norm(dim=2)
    torch.testing.assert_close(lengths, torch.ones_like(lengths), atol=1e-5, rtol=0)


def test_proposals_are_ranked_by_logits_that_a_sigmoid_would_make_equal() -> None:
    boxes = torch.tensor([[[0.0, 0, 40, 60], [1, 0, 41, 60]]])
    ((kept,), (scores,)) = small().rpn.filter_proposals(boxes, torch.tensor([[30.0, 40.0]]), [(64, 96)], [2])
    assert kept.tolist() == [[1, 0, 41, 60]]
    assert scores.tolist() == [40]


def test_a_projection_concatenates_c4_before_c5() -> None:
    projection = Projection({"C4": 3, "C5": 5}, bias=True, bn_std=None).eval()
    pooled = {"C5": torch.rand(2, 5), "C4": torch.rand(2, 3)}
    parts = [projection.levels[level](pooled[level]) for level in ("C4", "C5")]
    assert torch.equal(projection(pooled), torch.cat(parts, 1))


@pytest.mark.parametrize("method", METHODS)
def test_all_but_the_baseline_and_oimnetpp_drop_boxes_without_a_side_worth_the_name(method: str) -> None:
    model = small(method, score_threshold=0.0)
    boxes = [torch.tensor([[10.0, 10, 30, 50], [10, 10, 10.005, 50]])]
    scored = ScoredRois(boxes, torch.tensor([0.9, 0.8]), torch.zeros(2, 8))
    (found,) = model.candidates(maps(torch.zeros(1, 1, 4, 6)), scored, model.config.detections)
    assert len(found.scores) == (2 if method in ("baseline", "oimnet++", "oimnet+++") else 1)
