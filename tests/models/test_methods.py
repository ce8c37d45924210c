"""The methods as a user calls them, on small networks and pictures."""

from __future__ import annotations

import pytest
import torch
from small_models import METHODS

from person_search.config import method_settings
from person_search.data.target import Target
from person_search.models.box_heads import keep_best
from person_search.models.building import build_model
from person_search.models.softmax_loss import SoftmaxLoss
from person_search.models.two_stage import FeatureMaps
from person_search.registry import losses

TWO_HEADS = {"detection_classification", "detection_box", "classification", "box", "reid"}
HEAD_LOSSES = {
    "seqnet": TWO_HEADS,
    "seqnext": TWO_HEADS,
    "coat": {
        *("first_classification", "first_box"),
        *(f"{head}_{loss}" for head in ("second", "third") for loss in ("classification", "box", "reid", "softmax")),
    },
}
"""Names of the losses of methods that have others than most."""
EMBEDDING = {"baseline": (64, 1), "seqnext": (2048, 1), "coat": (512, 2)}
"""Numbers in an embedding, and how many of its parts are of unit length, of methods that differ from most."""

NOBODY = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4))


def small(method="baseline", **settings):
    torch.manual_seed(0)
    defaults = {
        "backbone": "resnet18",
        "width": 0.125,
        "weights": "none",
        "shorter_side": 64,
        "longer_side": 96,
        "anchor_sizes": (24.0,),
        "score_threshold": 0.0,
        "rpn_post_nms_train": 50,
        "rpn_post_nms_test": 40,
    }
    return build_model(method_settings(method, **(defaults | settings)), num_identities=5)


def make_images():
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, *size, generator=generator) for size in [(64, 96), (50, 60)]]


def people(*ids):
    boxes = torch.tensor([[5.0 + 20 * i, 8, 20 + 20 * i, 45] for i in range(len(ids))]).reshape(-1, 4)
    return Target(boxes, torch.tensor(ids, dtype=torch.int64), torch.zeros(0, 4))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("levels", [("C5",), ("C4", "C5")])
@pytest.mark.parametrize("reid_loss", ["oim", "softmax"])
def test_training_step_gives_finite_losses_and_gradients(method, levels, reid_loss):
    model = small(method, levels=levels, reid_loss=reid_loss).train()
    losses = model(make_images(), [people(0, -1), people(2)])
    assert set(losses) == {"rpn_objectness", "rpn_box"} | HEAD_LOSSES.get(method, {"classification", "box", "reid"})
    total = sum(losses.values())
    assert torch.isfinite(total)
    total.backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert {"identity_accuracy", "rois_foreground", "rois_background"} <= set(model.metrics)


@pytest.mark.parametrize("method", METHODS)
def test_detections_are_sorted_in_the_picture_and_of_unit_length(method):
    model = small(method).eval()
    for detections, picture in zip(model(make_images()), make_images(), strict=True):
        assert len(detections) > 0
        assert (detections.scores.diff() <= 0).all()
        assert (detections.boxes[:, :2] >= 0).all()
        limit = torch.tensor([picture.shape[2], picture.shape[1]]) + 1e-3
        assert (detections.boxes[:, 2:] <= limit).all()
        parts = detections.embeddings.unflatten(1, (EMBEDDING.get(method, (256, 1))[1], -1))
        torch.testing.assert_close(parts.norm(dim=2), torch.ones(parts.shape[:2]))


@pytest.mark.parametrize("method", METHODS)
def test_batching_changes_nothing(method):
    model = small(method).eval()
    one, other = make_images()
    square = [one, one.flip(2)]
    together = model(square)
    for apart, joint in zip([model([p])[0] for p in square], together, strict=True):
        torch.testing.assert_close(apart.boxes, joint.boxes, atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(apart.embeddings, joint.embeddings, atol=1e-4, rtol=1e-4)
    assert len(model([one, other])) == 2


def test_embedding_only_surviving_boxes_gives_the_numbers_of_embedding_every_proposal():
    model = small("baseline", score_threshold=0.3).eval()
    images = make_images()
    batch = model.transform(images)
    features = FeatureMaps(model.trunk(batch.tensors), batch)
    proposals, _, _ = model.rpn.propose(batch, features.maps)
    embedded = []
    run_top = model.top.forward
    model.top.forward = lambda x: embedded.append(len(x)) or run_top(x)
    detections = model(images)
    with torch.no_grad():
        every = model.embed_pooled(model.pool(model.align(features, proposals))).split([len(p) for p in proposals])
        scored = model.score_rois(features, proposals)
        kept = [
            keep_best(found, model.config.detections)
            for found in model.candidates(features, scored, model.config.detections)
        ]
    for found, vectors, rows in zip(detections, every, kept, strict=True):
        assert 0 < len(found) < len(vectors)
        torch.testing.assert_close(found.embeddings, vectors[rows.rows], atol=1e-5, rtol=1e-5)
    assert embedded[0] == sum(len(d) for d in detections)


@pytest.mark.parametrize("method", METHODS)
def test_nothing_found_is_an_empty_result(method):
    model = small(method, score_threshold=1.0).eval()
    for detections in model(make_images()):
        assert detections.boxes.shape == (0, 4)
        assert detections.embeddings.shape[0] == 0
        assert detections.embeddings.shape[1] == EMBEDDING.get(method, (256, 1))[0]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("reid_loss", ["oim", "softmax"])
@pytest.mark.parametrize("ids", [[(), ()], [(-1,), ()], [(-1, -1), (-1,)], [(3,), ()]])
def test_batches_without_people_or_identities_train(method, reid_loss, ids):
    model = small(method, reid_loss=reid_loss).train()
    losses = model(make_images(), [people(*who) for who in ids])
    total = sum(losses.values())
    assert torch.isfinite(total)
    total.backward()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("ids", [(), (0,)])
def test_a_batch_with_one_roi_or_none_trains_and_leaves_finite_statistics(method, ids):
    """All else lies on regions to ignore; batch normalisation can do nothing with a single row."""
    there = people(*ids)
    ignoring = Target(there.boxes, there.person_ids, torch.tensor([[0.0, 0, 96, 64]]))
    model = small(method, roi_fg_iou=1.0).train()
    total = sum(model(make_images()[:1], [ignoring]).values())
    total.backward()
    assert torch.isfinite(total)
    assert all(torch.isfinite(value).all() for value in model.buffers())


@pytest.mark.parametrize("method", METHODS)
def test_query_embeddings_come_from_the_same_pass_and_equal_embed(method):
    model = small(method).eval()
    boxes = [torch.tensor([[5.0, 5, 30, 60]]), torch.zeros(0, 4)]
    first, second = model.detect_and_embed(make_images(), boxes)
    apart = model.embed(make_images(), boxes)
    (person,) = first.given
    assert second.given == []
    assert len(apart[1]) == 0
    torch.testing.assert_close(person.box, boxes[0][0])
    torch.testing.assert_close(person.embedding, apart[0][0])


def test_a_frozen_trunk_keeps_its_statistics_and_weights():
    model = small("baseline", freeze=True).train()
    before = {k: v.clone() for k, v in model.trunk.state_dict().items() if "bn" in k or "running" in k}
    sum(model(make_images(), [people(0), people(1)]).values()).backward()
    assert model.trunk.conv1.weight.grad is None
    assert model.trunk.layer1[0].bn1.weight.grad is None
    assert model.trunk.layer1[0].conv1.weight.grad is not None
    assert all(torch.equal(v, model.trunk.state_dict()[k]) for k, v in before.items())
    assert model.top.layer4[0].bn1.training


@pytest.mark.parametrize(("says", "expected"), [(False, {2, 3}), (True, {-1, 2, 3}), (None, {-1, 2, 3})])
def test_a_plug_ins_loss_says_itself_whether_people_without_identity_train_it(says, expected, monkeypatch):
    """By what it is, not by its name: a softmax of one's own trains on the rows of the one built in."""
    seen = []

    class Mine(SoftmaxLoss):
        def forward(self, embeddings, labels):
            seen.append(labels)
            return super().forward(embeddings, labels)

    class Silent(torch.nn.Module):
        def __init__(self, features, identities, config):
            super().__init__()
            self.inner = Mine(features, identities, config)

        def forward(self, embeddings, labels):
            return self.inner(embeddings, labels)

    if says is not None:
        Mine.uses_unlabelled = says
    monkeypatch.setitem(losses._registered, "mine", Silent if says is None else Mine)
    model = small(reid_loss="mine").train()
    model(make_images(), [people(2, -1), people(3, -1)])
    assert set(seen[0].tolist()) == expected
    if says is False:
        built_in = small(reid_loss="softmax").train()
        built_in(make_images(), [people(2, -1), people(3, -1)])
        assert built_in.metrics["reid_rois"] == model.metrics["reid_rois"]


@pytest.mark.parametrize("method", METHODS)
def test_a_loss_that_asks_for_it_is_told_how_well_every_roi_lies_on_its_person(method, monkeypatch):
    told = []

    class Told(SoftmaxLoss):
        uses_overlaps = True

        def forward(self, embeddings, labels, *, overlaps):
            told.append((labels, overlaps))
            return super().forward(embeddings, labels)

    monkeypatch.setitem(losses._registered, "told", Told)
    model = small(method, reid_loss="told").train()
    model(make_images(), [people(0, 3), people()])
    bounds = [0.6, 0.7] if method == "coat" else [0.5]
    for (labels, overlaps), bound in zip(told, bounds, strict=True):
        assert labels.shape == overlaps.shape
        assert (overlaps[labels >= 0] >= bound).all()
        assert (overlaps[labels < 0] < bound).all()
        assert int((overlaps == 1).sum()) == 2
        assert (0 in overlaps) == (method != "baseline")


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_frozen_without_weights(method):
    assert all(p.requires_grad for p in small(method).parameters())


def test_reid_parameters_are_the_reid_head_of_the_baseline_and_nothing_of_the_others():
    model = small("baseline")
    mine = {id(p) for p in model.reid_parameters()}
    names = {name.split(".")[0] for name, p in model.named_parameters() if id(p) in mine}
    assert names == {"top", "neck"}
    assert small("oim").reid_parameters() == []
    assert len(small("nae", reid_loss="softmax").reid_parameters()) == 1


def test_sampled_rois_are_kept_for_display_on_request():
    model = small("baseline").train()
    model.keep_samples = True
    model(make_images(), [people(0, -1), people()])
    (boxes, labels), (_, other) = model.samples
    assert boxes.shape == (len(labels), 4)
    assert {0, -1, -2} == set(labels.tolist())
    assert set(other.tolist()) == {-2}


@pytest.mark.parametrize("method", METHODS)
def test_features_that_are_not_finite_end_as_a_loss_that_is_not(method):
    model = small(method).train()
    with torch.no_grad():
        model.trunk.bn1.weight.fill_(torch.nan)
    assert not torch.isfinite(sum(model(make_images(), [people(0), people(1)]).values()))


def test_training_without_targets_is_refused():
    with pytest.raises(ValueError, match="target"):
        small().train()(make_images())


@pytest.mark.parametrize("backbone", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_every_backbone_is_cut_in_the_middle_of_layer3(backbone):
    model = small(backbone=backbone)
    blocks = {"resnet18": (1, 1), "resnet34": (3, 3), "resnet50": (3, 3), "resnet101": (11, 12)}[backbone]
    assert (len(model.trunk.layer3), len(model.top.layer3)) == blocks
    assert model.trunk(torch.zeros(1, 3, 64, 96)).shape == (1, model.trunk.channels, 4, 6)
    assert model.top(torch.zeros(1, model.trunk.channels, 14, 7)).shape == (1, model.top.channels, 7, 4)


def test_adding_nobody_to_ignore_changes_nothing_but_regions_do():
    ignoring = Target(NOBODY.boxes, NOBODY.person_ids, torch.tensor([[0.0, 0, 96, 64]]))
    model = small("baseline").train()
    model.keep_samples = True
    model(make_images()[:1], [NOBODY])
    assert len(model.samples[0][1]) > 0
    model(make_images()[:1], [ignoring])
    assert len(model.samples[0][1]) == 0
