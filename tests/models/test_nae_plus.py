"""What is NAE+'s and NAE's release's own beside their numbers, which ``test_golden_nae4ps`` holds."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import small_models
import torch
from torch import Tensor
from torch.nn import functional as F

from person_search.checkpoints.checkpoint import Checkpoint, start_from
from person_search.checkpoints.released_nae4ps import UNUSED, convert, recognise, rename
from person_search.config import method_settings
from person_search.data.target import Target
from person_search.errors import CheckpointError
from person_search.models.nae_plus import NAEPlus, pixel_classification_loss
from person_search.models.oim_loss import IdentityTables, OIMLoss
from person_search.models.pixel_labels import pixel_labels
from person_search.models.roi_sampling import BACKGROUND, SampledRois
from person_search.models.sequential_oim_loss import SequentialOIMLoss
from person_search.models.settings import OimLossSettings, SequentialOimLossSettings


def by_hand(roi: list[float], person: list[float], size: tuple[int, int]) -> Tensor:
    """The labels of one RoI as the paper's code makes them: a mask of pixels, sliced, then resized."""
    height, width = math.ceil(roi[3] - roi[1]), math.ceil(roi[2] - roi[0])
    if height == 0 or width == 0:
        return torch.zeros(size)
    mask = torch.zeros(height, width)
    x1 = math.floor(max(roi[0], person[0]) - roi[0])
    y1 = math.floor(max(roi[1], person[1]) - roi[1])
    x2 = math.ceil(min(roi[2], person[2]) - roi[0])
    y2 = math.ceil(min(roi[3], person[3]) - roi[1])
    mask[y1 : y2 + 1, x1 : x2 + 1] = 1
    return F.interpolate(mask[None, None], size, mode="bilinear", align_corners=False)[0, 0]


@pytest.mark.parametrize("size", [(7, 7), (7, 4), (1, 1)])
def test_pixel_labels_are_the_loop_over_slices(size: tuple[int, int]) -> None:
    """Boxes within, over, beside and far from each other on every side, in halves of a pixel so that sums are exact."""
    draw = torch.Generator().manual_seed(0)
    corners = torch.randint(0, 120, (400, 2, 2), generator=draw) / 2
    sides = torch.randint(0, 70, (400, 2, 2), generator=draw) / 2
    rois, persons = torch.cat([corners, corners + sides], 2).unbind(1)
    rois[0], persons[0] = torch.tensor([[20.0, 20, 40, 60], [5, 5, 17, 17]])
    rois[1], persons[1] = torch.tensor([[20.0, 20, 40, 60], [20, 20, 40, 60]])
    found = pixel_labels(rois, persons, size)
    expected = torch.stack([by_hand(*pair, size) for pair in zip(rois.tolist(), persons.tolist(), strict=True)])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert found[0].any()
    assert (found[1] == 1).all()
    assert pixel_labels(rois[:0], persons[:0], size).shape == (0, *size)


def test_background_is_compared_with_the_first_person_and_nobody_with_none() -> None:
    roi, first, second = torch.tensor([[0.0, 0, 14, 14], [0, 0, 14, 6], [4, 4, 9, 9]]).unsqueeze(1)
    labels = torch.tensor([BACKGROUND, 3])
    rois = SampledRois(torch.cat([roi, roi]), labels, torch.zeros(2), torch.zeros(2, 4), torch.tensor([1, 1]))
    alone = SampledRois(roi, labels[:1], torch.zeros(1), torch.zeros(1, 4), torch.tensor([-1]))
    people = Target(torch.cat([first, second]), torch.tensor([0, 3]), torch.zeros(0, 4))
    nobody = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))
    logits = torch.randn(3, 7, 7, generator=torch.Generator().manual_seed(0))
    wanted = torch.cat([pixel_labels(roi, first, (7, 7)), pixel_labels(roi, second, (7, 7)), torch.zeros(1, 7, 7)])
    expected = F.binary_cross_entropy_with_logits(logits, wanted)
    torch.testing.assert_close(pixel_classification_loss(logits, [rois, alone], [people, nobody]), expected)


def small(**settings: object) -> NAEPlus:
    model = small_models.small("nae-plus", **({"score_threshold": 0.0, "rpn_post_nms_test": 40} | settings))
    assert isinstance(model, NAEPlus)
    return model


def test_the_best_score_of_every_picture_is_1() -> None:
    """Whatever is in the pictures beside it, and though the best proposal may lose its box afterwards."""
    draw = torch.Generator().manual_seed(1)
    bright, dark = torch.rand(3, 64, 96, generator=draw), torch.rand(3, 64, 96, generator=draw) / 9
    model = small().eval()
    together = model([bright, dark])
    for picture, joint in zip((bright, dark), together, strict=True):
        (alone,) = model([picture])
        assert float(joint.scores[0]) == 1
        assert float(joint.scores[-1]) < 1
        torch.testing.assert_close(joint.scores, alone.scores, atol=1e-5, rtol=0)


def test_an_embedding_is_the_mean_of_directions_by_attention() -> None:
    model = small().eval()
    aligned = torch.rand(3, model.trunk.channels, 14, 14, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        c5 = model.top(aligned)
        parts = [model.projection.levels["C4"](aligned), model.projection.levels["C5"](c5)]
        maps = torch.cat([F.avg_pool2d(parts[0], 2), parts[1]], 1)
        length = maps.norm(dim=1, keepdim=True)
        attention = model.rescaler(length).sigmoid()
        expected = (attention * maps / length).mean((2, 3))
        torch.testing.assert_close(model.pool(aligned)["attended"], expected)
        torch.testing.assert_close(model._look(aligned).scores, attention.mean((1, 2, 3)))
        torch.testing.assert_close(model._look(aligned).deltas, model.bbox_pred(c5.mean((2, 3))))


LOSSES = [(OIMLoss, OimLossSettings), (SequentialOIMLoss, SequentialOimLossSettings)]


@pytest.mark.parametrize(("loss", "settings"), LOSSES)
def test_without_normalisation_lengths_count_and_are_kept_in_the_queue(
    loss: type[IdentityTables], settings: type[OimLossSettings]
) -> None:
    """Rows of the table are of unit length all the same."""
    tables = loss(4, 2, settings(queue=3, normalise=False, scale=2.0))
    with torch.no_grad():
        tables.lut.copy_(torch.eye(4)[:2])
    x = torch.tensor([[0.5, 0, 0, 0], [0, 0, 0.25, 0]], requires_grad=True)
    found, _ = tables(x, torch.tensor([1, -1]))
    found.backward()
    similarities = [1.0, 0.0] + [0.0] * (3 if loss is SequentialOIMLoss else 1)
    assert found.item() == pytest.approx(math.log(sum(map(math.exp, similarities))))
    assert [0, 0, 0.25, 0] in tables.queue.tolist()
    torch.testing.assert_close(tables.lut[1], F.normalize(torch.tensor([0.25, 0.5, 0, 0]), dim=0))


def test_it_trains_oim_on_embeddings_as_long_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Tensor] = []
    model = small().train()
    compare = model.reid_loss.compare
    monkeypatch.setattr(model.reid_loss, "compare", lambda x, *rest: given.append(x) or compare(x, *rest))
    people = Target(torch.tensor([[5.0, 8, 20, 45]]), torch.tensor([0]), torch.zeros(0, 4))
    model([torch.rand(3, 64, 96)], [people])
    assert given[0].norm(dim=1).max().item() < 0.99


@pytest.mark.parametrize("method", ["nae4ps", "nae-plus"])
def test_published_settings(method: str) -> None:
    config = method_settings(method)
    assert (config.images.shorter_side, config.images.longer_side) == ((900,), 1500)
    assert (config.rois.size, config.rois.sampling_ratio, config.rois.batch_per_image) == ((14, 14), 2, 128)
    assert (config.rois.fg_iou, config.rois.bg_iou) == (0.5, 0.1)
    assert (config.rpn.anchor_ratios, config.rpn.anchor_sizes) == ((0.5, 1, 2), (32, 64, 128, 256, 512))
    detections = config.detections
    assert (detections.score_threshold, detections.nms_threshold, detections.max_detections) == (0.5, 0.4, 300)
    assert (config.levels, config.box_loss_weight, config.loss.weight) == (("C4", "C5"), 10, 1)
    assert config.loss.normalise == (method == "nae4ps")


@pytest.mark.parametrize("method", ["nae4ps", "nae-plus"])
def test_the_trunk_takes_all_of_layer3_and_its_stem_alone_is_frozen(method: str) -> None:
    model = small_models.small(method, freeze=True).train()
    assert len(model.trunk.layer3) == 2
    still = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert still == {"trunk.conv1.weight", "trunk.bn1.weight", "trunk.bn1.bias"}
    assert model.trunk.bn1.training


def test_it_starts_from_nae_of_its_authors_alone() -> None:
    """A 1x1 convolution computes at every pixel what the linear layer of the same weights does."""
    nae, model = small_models.small("nae4ps"), small()
    with torch.no_grad():
        for parameter in nae.parameters():
            parameter.add_(0.25)
    start_from(model, Checkpoint(method_settings("nae4ps"), 9, nae.state_dict()), Path("nae.pt"))
    maps = {"C4": torch.rand(3, model.trunk.channels, 14, 14), "C5": torch.rand(3, model.top.channels, 7, 7)}
    for level, part in model.eval().projection.levels.items():
        pixel = part(maps[level])[:, :, 5, 2]
        torch.testing.assert_close(pixel, nae.eval().projection.levels[level](maps[level][:, :, 5, 2]))
    for name in ("trunk.conv1.weight", "top.layer4.0.conv1.weight", "bbox_pred.1.weight", "rescaler.weight"):
        assert torch.equal(model.state_dict()[name], nae.state_dict()[name])
    for method in ("nae", "seqnet"):
        other = Checkpoint(method_settings(method), 9, small_models.small(method).state_dict())
        with pytest.raises(CheckpointError, match=f"it is of the method '{method}', the model of 'nae-plus'"):
            start_from(model, other, Path("other.pt"))


def released(dimensions: int = 2, **changed: Tensor) -> dict[str, Tensor]:
    """A few tensors with the names of a released checkpoint."""
    return {
        "rpn.head.conv.0.0.weight": torch.zeros(1),
        "roi_heads.box_predictor.bbox_pred.0.weight": torch.zeros(8, 4),
        "roi_heads.embedding_head.projectors.feat_res5.0.weight": torch.zeros([3, 4, 1, 1][:dimensions]),
        "roi_heads.embedding_head.rescaler.weight": torch.ones(1),
        "roi_heads.reid_loss.lut": torch.zeros(7, 3, dtype=torch.float16),
        "roi_heads.reid_loss.cq": torch.zeros(5, 3, dtype=torch.float16),
        f"{UNUSED}weight": torch.zeros(2, 4),
        **changed,
    }


def test_the_shape_of_a_projector_tells_nae_from_nae_plus() -> None:
    sizes = {"levels": ("C5",), "num_identities": 7, "oim_queue": 5}
    assert recognise(released(2)) == {"method": "nae4ps", **sizes}
    assert recognise(released(4)) == {"method": "nae-plus", **sizes}
    with pytest.raises(CheckpointError, match=r"NAE or NAE\+, but '.*feat_res5\.0\.weight'.* is \(3, 4, 1\); expected"):
        recognise(released(3))
    with pytest.raises(CheckpointError, match=r"like NAE\+, but holds no identity table 'roi_heads\.reid_loss\.lut'"):
        recognise(released(4, **{"roi_heads.reid_loss.lut": torch.zeros(0, 3)}))


def test_unused_parts_are_left_out_tables_widened_and_strangers_named() -> None:
    converted = convert(released())
    assert "rpn.head.conv.weight" in converted
    assert not any("cls_score" in name for name in converted)
    assert converted["reid_loss.queue"].dtype == converted["reid_loss.lut"].dtype == torch.float32
    assert int(converted["reid_loss.queue_head"]) == 0
    with pytest.raises(CheckpointError, match=r"'gfn\.fuser\.norm\.weight' is none of NAE's"):
        rename("gfn.fuser.norm.weight")
