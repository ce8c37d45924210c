"""The people beside a query: by hand for the choice of boxes, against separate passes for whole models."""

from __future__ import annotations

import pytest
import torch
from small_models import METHODS
from torch import Tensor
from torchvision.ops import nms

from person_search.config import method_settings
from person_search.models.box_heads import KeptBoxes, keep_beside, keep_best
from person_search.models.building import build_model
from person_search.models.settings import DetectionSettings
from person_search.models.two_stage import FeatureMaps, TwoStageModel


def column(left: float) -> list[float]:
    """A box 100 wide and high: two that are 25 apart have an IoU of 0.6, two that are 50 apart of a third."""
    return [left, 0.0, left + 100, 100.0]


FOUND = KeptBoxes(
    torch.tensor([column(left) for left in (25, 50, 300, 320)]),
    torch.tensor([1.0, 0.8, 0.3, 0.4]),
    torch.tensor([7, 3, 5, 9]),
)


def test_the_query_takes_the_place_of_what_overlaps_it_and_frees_what_that_would_have_suppressed() -> None:
    settings = DetectionSettings(nms_threshold=0.4)
    assert keep_best(FOUND, settings).rows.tolist() == [7, 9]
    # The query at 0 suppresses row 7, for all its score of 1; row 3 is then free. Rows 5 and 9 are among themselves.
    beside = keep_beside(torch.tensor(column(0)), FOUND, settings)
    assert beside.rows.tolist() == [3, 9]
    assert beside.boxes[:, 0].tolist() == [50, 320]
    assert beside.scores.tolist() == pytest.approx([0.8, 0.4])


def test_the_query_counts_among_the_most_that_are_kept() -> None:
    apart = torch.tensor(column(1000))
    assert keep_beside(apart, FOUND, DetectionSettings(max_detections=2)).rows.tolist() == [7]
    assert keep_beside(apart, FOUND, DetectionSettings(max_detections=1)).rows.tolist() == []


def test_beside_nobody() -> None:
    nobody = FOUND.take(torch.zeros(0, dtype=torch.int64))
    assert keep_beside(torch.tensor(column(0)), nobody, DetectionSettings()).boxes.shape == (0, 4)


def small(method: str) -> TwoStageModel:
    torch.manual_seed(0)
    config = method_settings(
        method,
        backbone="resnet18",
        width=0.125,
        weights="none",
        shorter_side=(64,),
        longer_side=96,
        anchor_sizes=(24.0,),
        score_threshold=0.0,
        nms_threshold=0.3,
        rpn_post_nms_test=40,
    )
    return build_model(config, num_identities=5).eval()


@pytest.fixture
def images() -> list[Tensor]:
    draw = torch.Generator().manual_seed(1)
    return [torch.rand(3, *size, generator=draw) for size in [(64, 96), (50, 60), (64, 96)]]


@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_people_beside_queries_are_those_of_a_pass_of_their_own(method: str, images: list[Tensor]) -> None:
    model = small(method)
    asked = [torch.tensor([[5.0, 8, 20, 45], [40, 2, 70, 60]]), torch.zeros(0, 4), torch.tensor([[10.0, 10, 30, 60]])]
    passes = []
    model.trunk.register_forward_hook(lambda *_: passes.append(1))
    results = model.detect_and_embed(images, asked, context=True)
    assert len(passes) == 1
    alone = model.detect_and_embed(images, asked)
    for one, other in zip(results, alone, strict=True):
        torch.testing.assert_close(one.detections.boxes, other.detections.boxes)
        torch.testing.assert_close(one.detections.embeddings, other.detections.embeddings, atol=1e-5, rtol=1e-4)
    assert [len(result.given) for result in results] == [2, 0, 1]
    assert all(person.beside is None for result in alone for person in result.given)

    batch = model.transform(images)
    features = FeatureMaps(model.trunk(batch.tensors), batch)
    proposals = model.rpn.propose(batch, features.maps)[0]
    scored = model.score_rois(features, proposals)
    found = model.candidates(features, scored, model.config.detections)
    sizes = []
    for i, boxes in enumerate(asked):
        for box, query, person in zip(boxes, alone[i].given, results[i].given, strict=True):
            people = person.beside
            assert people is not None
            every = torch.cat([batch.to_batch(box[None], i), found[i].boxes])
            kept = nms(every, torch.cat([torch.ones(1), found[i].scores]), 0.3)
            assert kept[0] == 0
            rows = found[i].rows[kept[1:] - 1]
            torch.testing.assert_close(person.box, box)
            torch.testing.assert_close(people.boxes, batch.to_original(every[kept[1:]], i))
            torch.testing.assert_close(people.scores, found[i].scores[kept[1:] - 1])
            torch.testing.assert_close(person.embedding, query.embedding, atol=1e-5, rtol=1e-4)
            # Each is the embedding at the box that its own was moved from.
            where = [scored.boxes[n][rows] if n == i else scored.boxes[n][:0] for n in range(len(images))]
            expected = model.embed_pooled(model.pool(model.align(features, where)))
            torch.testing.assert_close(people.embeddings, expected, atol=1e-5, rtol=1e-4)
            sizes.append(len(people))
    assert min(sizes) > 0


def test_no_picture_has_a_query(images: list[Tensor]) -> None:
    results = small("baseline").detect_and_embed(images, [torch.zeros(0, 4)] * 3, context=True)
    assert [result.given for result in results] == [[], [], []]
    assert all(len(result.detections) for result in results)
