"""What is COAT's own beside its numbers, which ``test_golden_coat`` holds."""

from __future__ import annotations

from dataclasses import replace

import pytest
import small_models
import torch
from torch import Tensor

from person_search.checkpoints.checkpoint import identity_names
from person_search.checkpoints.released_coat import convert, recognise, rename
from person_search.config import method_settings
from person_search.data.target import Target
from person_search.errors import CheckpointError, UsageError
from person_search.models.coat import COAT
from person_search.models.settings import LossSettings
from person_search.models.softmax_loss import NormalisedSoftmaxLoss

OPEN = {"score_threshold": 0.0, "first_score_threshold": 0.0, "second_score_threshold": 0.0, "rpn_post_nms_test": 40}


def small(**settings: object) -> COAT:
    model = small_models.small("coat", **(OPEN | settings))
    assert isinstance(model, COAT)
    return model


@pytest.fixture
def images() -> list[Tensor]:
    draw = torch.Generator().manual_seed(1)
    return [torch.rand(3, 64, 96, generator=draw) for _ in range(3)]


PEOPLE = Target(torch.tensor([[5.0, 8, 20, 45], [40, 2, 70, 60]]), torch.tensor([0, -1]), torch.zeros(0, 4), seed=3)


def test_a_batch_gives_what_single_images_give_though_some_hold_nobody(images: list[Tensor]) -> None:
    """The first head finds nobody in all images but one; the others neither lend it people nor take any."""
    best = torch.tensor([float(found.scores.max()) for found in small().eval()(images)])
    order = best.argsort(descending=True)
    model = small(first_score_threshold=float(best[order[:2]].mean())).eval()
    boxes = [torch.tensor([[5.0, 5, 30, 60]]), torch.zeros(0, 4), torch.tensor([[40.0, 2, 70, 60], [1, 1, 20, 50]])]
    together = model.detect_and_embed(images, boxes, context=True)
    assert [len(result.detections) > 0 for result in together] == [i == int(order[0]) for i in range(3)]
    for image, own, joint in zip(images, boxes, together, strict=True):
        (alone,) = model.detect_and_embed([image], [own], context=True)
        for one, other in (
            (alone.detections, joint.detections),
            *((p.beside, q.beside) for p, q in zip(alone.given, joint.given, strict=True)),
        ):
            torch.testing.assert_close(one.boxes, other.boxes, atol=1e-3, rtol=1e-4)
            torch.testing.assert_close(one.scores, other.scores, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(one.embeddings, other.embeddings, atol=1e-4, rtol=1e-3)
        for person, same in zip(alone.given, joint.given, strict=True):
            torch.testing.assert_close(person.embedding, same.embedding, atol=1e-4, rtol=1e-3)


def test_embeddings_may_be_those_of_one_head(images: list[Tensor]) -> None:
    """Those of the third are a half of both; those of the second are taken, with its NMS, where it looks."""
    given = [torch.tensor([[5.0, 5, 30, 60]])]
    both, second, third = (
        small(embedding_heads=heads).eval().detect_and_embed(images[:1], given)[0]
        for heads in ("both", "second", "third")
    )
    torch.testing.assert_close(third.detections.boxes, both.detections.boxes)
    torch.testing.assert_close(third.detections.embeddings, both.detections.embeddings[:, 256:])
    torch.testing.assert_close(third.given[0].embedding, both.given[0].embedding[256:])
    torch.testing.assert_close(second.given[0].embedding, both.given[0].embedding[:256])

    model = small(embedding_heads="second", second_nms_threshold=0.2, nms_threshold=1.0).eval()
    model.third = None  # type: ignore[assignment]
    looked_at: list[list[Tensor]] = []
    align = model.align
    model.align = lambda features, boxes: looked_at.append(boxes) or align(features, boxes)  # type: ignore[method-assign]
    (found,) = model(images[:1])
    assert 0 < len(found) < len(looked_at[1][0])
    own = torch.cat(list(model.embed(images[:1], looked_at[1])))
    distance = (found.embeddings[:, None] - own).abs().amax(2).min(1).values
    assert distance.max() < 1e-4


def test_the_score_is_the_first_heads_and_every_stage_asks_for_its_own(images: list[Tensor]) -> None:
    with torch.no_grad():
        model = small().eval()
        changed = small().eval()
        for head in (changed.second, changed.third):
            head.rescaler.weight.fill_(-9.0)
    for one, other in zip(model(images), changed(images), strict=True):
        torch.testing.assert_close(one.scores, other.scores)
    scores = torch.cat([found.scores for found in model(images)])
    bound = float(scores.median())
    for stage in ("first_", "second_", ""):
        kept = small(**{f"{stage}score_threshold": bound}).eval()(images)
        assert 0 < sum(len(found) for found in kept) < len(scores)
        assert all((found.scores > bound).all() for found in kept)


def test_every_head_trains_on_what_the_one_before_made_of_its_rois_and_asks_for_a_better_fit(
    images: list[Tensor],
) -> None:
    model = small(roi_batch_per_image=20).train()
    given: list[list[Tensor]] = []
    trained: list[list[Tensor]] = []
    for name in ("sample_second", "sample_third"):
        sample = getattr(model, name)

        def noted(boxes: list[Tensor], targets: list[Target], sample: object = sample) -> object:
            given.append(boxes)
            sampled = sample(boxes, targets)  # type: ignore[operator]
            trained.append([rois.boxes for rois in sampled])
            return sampled

        setattr(model, name, noted)
    model.keep_samples = True
    with torch.no_grad():
        for layer in (model.bbox_pred, model.second.bbox_pred[1]):
            layer.weight.zero_()
            layer.bias.copy_(torch.tensor([9.0, 9, 9, 9, 1, 0, 0, 0]))
    model(images, [replace(PEOPLE, seed=i) for i in range(3)])
    before = [boxes for boxes, _ in model.samples]
    for stage in range(2):
        for sampled, moved in zip(before, given[stage], strict=True):
            # By a tenth of the width to the right, and no further than the image.
            shift = (sampled[:, 2] - sampled[:, 0]) / 10
            expected = sampled + shift[:, None] * torch.tensor([1.0, 0, 1, 0])
            torch.testing.assert_close(
                moved, expected.clamp(max=torch.tensor([96.0, 64, 96, 64])), atol=1e-3, rtol=1e-4
            )
            assert not moved.requires_grad
        before = trained[stage]


def test_published_settings() -> None:
    config = method_settings("coat")
    assert (config.images.shorter_side, config.images.longer_side) == ((900,), 1500)
    assert (config.rois.size, config.rois.sampling_ratio, config.rois.batch_per_image) == ((14, 14), 2, 128)
    assert config.rois.positive_share == 0.25
    assert (config.rpn.anchor_ratios, config.rpn.min_side, config.rpn.box_loss_beta) == ((0.5, 1.0, 2.0), 1e-3, 1 / 9)
    choices = [
        (each.score_threshold, each.nms_threshold, each.max_detections)
        for each in (config.first, config.second, config.detections)
    ]
    assert choices == [(0.5, 0.4, 300), (0.5, 0.4, 300), (0.5, 0.5, 300)]
    assert (config.box_loss_weight, config.loss.weight, config.softmax_weight) == (10, 0.5, 0.1)
    model = small()
    assert [each.fg_iou for each in (model.sample_rois, model.sample_second, model.sample_third)] == [0.5, 0.6, 0.7]
    assert [each.bg_iou for each in (model.sample_rois, model.sample_second, model.sample_third)] == [0.5, 0.6, 0.7]


def test_background_cannot_begin_above_where_people_do() -> None:
    with pytest.raises(UsageError, match=r"roi_bg_iou 0\.5 exceeds third_fg_iou 0\.4"):
        method_settings("coat", roi_bg_iou=0.5, third_fg_iou=0.4)


def exchanges(model: COAT, images: list[Tensor], *seeds: int) -> list[tuple[bool, int, list[int]]]:
    """What the heads exchange in a training step: strip and partners, in their order."""
    drawn = []
    draw = model.exchanges

    def noted(*arguments: object) -> object:
        found = draw(*arguments)  # type: ignore[arg-type]
        drawn.extend((found[name].column, found[name].position, found[name].partners.tolist()) for name in found)
        return found

    model.exchanges = noted  # type: ignore[assignment, method-assign]
    model(images[: len(seeds)], [replace(PEOPLE, seed=seed) for seed in seeds])
    model.exchanges = draw  # type: ignore[method-assign]
    return drawn


def test_exchanges_are_drawn_anew_for_each_head_and_step_and_only_in_training(images: list[Tensor]) -> None:
    model = small(roi_batch_per_image=12).train()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    steps = [exchanges(model, images, seed, 100) for seed in range(10)]
    assert torch.equal(torch.get_rng_state(), before)
    again = exchanges(model, images, 4, 100)
    assert [strip[:2] for strip in again] == [strip[:2] for strip in steps[4]]
    for kind in range(4):
        assert len({step[kind][:2] for step in steps}) > 4
    assert all(len(step) == 4 for step in steps)
    assert all(sorted(partners) == list(range(len(partners))) for step in steps for *_, partners in step)
    assert not any(step[0][2] == step[1][2] for step in steps)
    assert exchanges(small(occluded_attention=False).train(), images, 1) == []
    model.exchanges = None  # type: ignore[assignment, method-assign]
    model.eval()(images)


def test_classifiers_see_people_without_identity_in_their_normalisation_and_no_background() -> None:
    torch.manual_seed(0)
    loss = NormalisedSoftmaxLoss(6, 4, LossSettings(name="softmax-bn")).train()
    rows, labels = torch.randn(5, 6), torch.tensor([2, -1, -2, 0, -1])
    people = rows[labels >= -1]
    normal = (people - people.mean(0)) / (people.var(0, unbiased=False) + 1e-5).sqrt()
    expected = torch.nn.functional.cross_entropy(normal[[0, 2]] @ loss.classifier.weight.t(), torch.tensor([2, 0]))
    torch.testing.assert_close(loss(rows, labels)[0], expected)
    for too_few in (slice(0, 1), slice(2, 3), slice(0)):
        nothing, accuracy = loss(rows[too_few], labels[too_few])
        assert (nothing.item(), accuracy.item()) == (0, 0)
        nothing.backward()
        assert loss.gain.grad is not None
    assert all(torch.isfinite(buffer).all() for buffer in loss.buffers())


def test_the_classifiers_are_left_out_where_they_weigh_nothing_and_belong_to_the_identities() -> None:
    model = small(softmax_weight=0.0)
    assert not any("softmax" in name for name, _ in model.named_parameters())
    assert model.unclipped_parameters() == []
    with_them = small()
    names = identity_names(with_them)
    assert {"second.softmax_loss.classifier.weight", "second.softmax_loss.gain", "third.reid_loss.lut"} <= names
    unclipped = {id(parameter) for parameter in with_them.unclipped_parameters()}
    assert {name for name, p in with_them.named_parameters() if id(p) in unclipped} == {
        f"{head}.softmax_loss.{name}" for head in ("second", "third") for name in ("gain", "classifier.weight")
    }


LUTS = {
    f"roi_heads.reid_loss_{head}.{name}": torch.zeros(rows, 256)
    for head in ("2nd", "3rd")
    for name, rows in (("lut", 20), ("cq", 500))
}


def test_both_names_of_a_tensor_are_read_and_have_to_agree() -> None:
    for one, other in (
        ("roi_heads.box_head.conv1.weight", "roi_heads.box_head_1st.conv1.weight"),
        ("roi_heads.box_predictor.bbox_pred.0.bias", "roi_heads.box_predictor_2nd.bbox_pred.0.bias"),
        (
            "roi_heads.box_head_3rd.transformer_encoder.blocks.scale2.0.transformer.0.ffn.conv.3.bias",
            "roi_heads.box_head_3rd.transformer_encoder.blocks.scale2.0.transblock.ffn.conv.3.bias",
        ),
    ):
        assert rename(one) == rename(other) is not None
        assert set(convert({one: torch.ones(2)})) == set(convert({other: torch.ones(2)}))
        with pytest.raises(CheckpointError, match=f"'{one}' and '{other}'"):
            convert({one: torch.ones(2), other: torch.zeros(2)})
    assert rename("rpn.head.conv.0.0.weight") == rename("rpn.head.conv.weight") == "rpn.head.conv.weight"


def test_what_the_layout_does_not_use_is_dropped_and_strangers_are_named() -> None:
    for name in ("box_head.conv0.weight", "box_head_2nd.transformer_encoder.output_linear.0.bias"):
        assert rename(f"roi_heads.{name}") is None
    with pytest.raises(CheckpointError, match=r"'roi_heads\.reid_head\.weight' is none of COAT's"):
        convert({"roi_heads.reid_head.weight": torch.zeros(1)})


def test_tables_that_are_missing_or_differ_are_named() -> None:
    assert recognise(LUTS)["num_identities"] == 20
    with pytest.raises(CheckpointError, match=r"COAT, but holds no identity table 'roi_heads\.reid_loss_3rd\.lut'"):
        recognise({name: value for name, value in LUTS.items() if name != "roi_heads.reid_loss_3rd.lut"})
    with pytest.raises(CheckpointError, match=r"a queue of 500, those of 'roi_heads\.reid_loss_3rd' 20 and 400"):
        recognise(LUTS | {"roi_heads.reid_loss_3rd.cq": torch.zeros(400, 256)})


@pytest.mark.parametrize("backbone", ["resnet34", "convnext_tiny"])
def test_transformers_take_their_widths_from_any_backbone(images: list[Tensor], backbone: str) -> None:
    model = small(backbone=backbone).train()
    channels = model.trunk.channels
    assert (model.first.channels, model.second.transformers.skip.out_channels) == (2 * channels, channels)
    sum(model(images[:1], [PEOPLE]).values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert len(model.eval()(images[:1])[0]) > 0
