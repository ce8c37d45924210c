"""What is SeqNet's own beside its numbers, which ``test_golden_seqnet`` holds."""

from __future__ import annotations

import pytest
import small_models
import torch
from torch import Tensor

from person_search.checkpoints.released_seqnet import convert, rename
from person_search.config import method_settings
from person_search.data.target import Target
from person_search.errors import CheckpointError
from person_search.models.seqnet import SeqNet


def small(**settings: object) -> SeqNet:
    open_wide = {"score_threshold": 0.0, "first_score_threshold": 0.0, "rpn_post_nms_test": 40}
    model = small_models.small("seqnet", **(open_wide | settings))
    assert isinstance(model, SeqNet)
    return model


@pytest.fixture
def images() -> list[Tensor]:
    draw = torch.Generator().manual_seed(1)
    return [torch.rand(3, 64, 96, generator=draw) for _ in range(3)]


def test_a_batch_gives_what_single_pictures_give_though_some_hold_nobody(images: list[Tensor]) -> None:
    """The first head finds nobody in all pictures but one; the others neither lend it people nor take any."""
    best = torch.tensor([float(found.scores.max()) for found in small().eval()(images)])
    order = best.argsort(descending=True)
    between = float(best[order[:2]].mean())
    model = small(first_score_threshold=between).eval()
    boxes = [torch.tensor([[5.0, 5, 30, 60]]), torch.zeros(0, 4), torch.tensor([[40.0, 2, 70, 60], [1, 1, 20, 50]])]
    together = model.detect_and_embed(images, boxes, context=True)
    found = [len(result.detections) for result in together]
    assert [number > 0 for number in found] == [i == int(order[0]) for i in range(3)]
    for picture, own, joint in zip(images, boxes, together, strict=True):
        (alone,) = model.detect_and_embed([picture], [own], context=True)
        for one, other in (
            (alone.detections, joint.detections),
            *((p.beside, q.beside) for p, q in zip(alone.given, joint.given, strict=True)),
        ):
            torch.testing.assert_close(one.boxes, other.boxes, atol=1e-3, rtol=1e-4)
            torch.testing.assert_close(one.scores, other.scores, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(one.embeddings, other.embeddings, atol=1e-4, rtol=1e-3)
        for person, same in zip(alone.given, joint.given, strict=True):
            torch.testing.assert_close(person.embedding, same.embedding, atol=1e-4, rtol=1e-3)


def test_the_second_head_trains_on_what_the_first_made_of_its_rois(images: list[Tensor]) -> None:
    model = small(roi_batch_per_image=20).train()
    given: list[list[Tensor]] = []
    choose = model.sample_detections.__call__
    model.sample_detections = lambda boxes, targets: given.append(boxes) or choose(boxes, targets)
    model.keep_samples = True
    people = [
        Target(torch.tensor([[5.0, 8, 20, 45]]), torch.tensor([i]), torch.zeros(0, 4), seed=i)
        for i in range(len(images))
    ]
    with torch.no_grad():
        model.bbox_pred.weight.zero_()
        model.bbox_pred.bias.copy_(torch.tensor([9.0, 9, 9, 9, 1, 0, 0, 0]))
    model(images, people)
    for (sampled, _), moved in zip(model.samples, given[0], strict=True):
        # By a tenth of the width to the right, and no further than the picture.
        shift = (sampled[:, 2] - sampled[:, 0]) / 10
        expected = sampled + shift[:, None] * torch.tensor([1.0, 0, 1, 0])
        torch.testing.assert_close(moved, expected.clamp(max=torch.tensor([96.0, 64, 96, 64])), atol=1e-3, rtol=1e-4)
        assert not moved.requires_grad


def test_its_stem_alone_is_frozen_and_normalises_by_the_batch(images: list[Tensor]) -> None:
    model = small(freeze=True).train()
    still = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert still == {"trunk.conv1.weight", "trunk.bn1.weight", "trunk.bn1.bias"}
    before = model.trunk.bn1.running_mean.clone()
    model(images[:1], [Target(torch.tensor([[5.0, 8, 20, 45]]), torch.tensor([0]), torch.zeros(0, 4))])
    assert not torch.equal(model.trunk.bn1.running_mean, before)


def test_both_heads_start_from_the_same_weights_and_go_their_own_ways() -> None:
    model = small()
    first, second = model.detection_top.state_dict(), model.top.state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert all(value.data_ptr() != second[name].data_ptr() for name, value in first.items())


def test_published_settings() -> None:
    config = method_settings("seqnet")
    assert (config.images.shorter_side, config.images.longer_side) == ((900,), 1500)
    assert (config.rois.size, config.rois.sampling_ratio, config.rois.batch_per_image) == ((14, 14), 2, 128)
    assert (config.rpn.anchor_ratios, config.rpn.min_side) == ((0.5, 1.0, 2.0), 1e-3)
    heads = [
        (each.score_threshold, each.nms_threshold, each.max_detections) for each in (config.first, config.detections)
    ]
    assert heads == [(0.5, 0.4, 300), (0.5, 0.5, 300)]
    assert (config.box_loss_weight, config.refined_box_loss_weight, config.loss.weight) == (10, 1, 1)


def test_layouts_of_newer_torchvision_are_read_and_strangers_named() -> None:
    assert rename("rpn.head.conv.0.0.weight") == rename("rpn.head.conv.weight") == "rpn.head.conv.weight"
    with pytest.raises(CheckpointError, match=r"'gfn\.fuser\.norm\.weight' is none of SeqNet's"):
        convert({"gfn.fuser.norm.weight": torch.zeros(1)})
