"""Which RoIs train what."""

from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import box_iou

from person_search.data.target import Target
from person_search.models.random_draws import Draw
from person_search.models.roi_sampling import BACKGROUND, DetectionSampler, on_ignored, pk_sample
from person_search.models.settings import RoiSettings

NOTHING = torch.zeros(0, 4)


def target(boxes, ids, ignore=NOTHING):
    return Target(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.tensor(ids, dtype=torch.int64), ignore)


def shifted(box, *offsets):
    return torch.tensor([[box[0] + d, box[1], box[2] + d, box[3]] for d in offsets], dtype=torch.float32)


def test_pk_takes_the_best_k_of_each_person_in_order():
    people = target([[0, 0, 10, 20], [100, 0, 110, 20]], [7, -1])
    proposals = torch.cat([shifted([100, 0, 110, 20], 1), shifted([0, 0, 10, 20], 3, 1, 2, 9)])
    rois = pk_sample(proposals, people, per_person=3)
    boxes, labels = rois.boxes, rois.labels
    assert labels.tolist() == [7, 7, 7, -1, -1]
    assert boxes[:, 0].tolist() == [0, 1, 2, 100, 101]


def test_pk_gives_a_proposal_to_the_person_it_overlaps_most():
    people = target([[0, 0, 10, 20], [3, 0, 13, 20]], [0, 1])
    proposals = shifted([0, 0, 10, 20], 2)
    rois = pk_sample(proposals, people, per_person=4)
    boxes, labels = rois.boxes, rois.labels
    assert labels.tolist() == [0, 1, 1]
    assert boxes[:, 0].tolist() == [0, 3, 2]


def test_pk_labelled_only_leaves_out_people_but_not_their_claims():
    people = target([[3, 0, 13, 20], [0, 0, 10, 20]], [-1, 0])
    rois = pk_sample(shifted([0, 0, 10, 20], 2), people, per_person=4, labelled_only=True)
    boxes, labels = rois.boxes, rois.labels
    assert labels.tolist() == [0]
    assert boxes[:, 0].tolist() == [0]


def test_pk_without_people_is_empty():
    rois = pk_sample(torch.rand(5, 4), target([], []), per_person=4)
    boxes, labels = rois.boxes, rois.labels
    assert boxes.shape == (0, 4)
    assert labels.shape == (0,)


coordinates = st.floats(0, 50, width=32)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(coordinates, coordinates), min_size=1, max_size=5, unique=True),
    st.lists(st.tuples(coordinates, coordinates), max_size=30),
    st.integers(1, 5),
)
def test_pk_properties(corners, others, k):
    def box(x, y):
        return [x, y, x + 10, y + 20]

    people = target([box(*c) for c in corners], list(range(len(corners))))
    proposals = torch.tensor([box(*c) for c in others], dtype=torch.float32).reshape(-1, 4)
    rois = pk_sample(proposals, people, per_person=k)
    boxes, labels = rois.boxes, rois.labels
    assert labels.tolist() == sorted(labels.tolist())
    for person in range(len(corners)):
        mine = boxes[labels == person]
        assert 1 <= len(mine) <= k
        overlap = box_iou(people.boxes[person : person + 1], mine)[0]
        torch.testing.assert_close(overlap, rois.overlaps[labels == person])
        assert overlap[0] == 1
        assert (overlap >= 0.5).all()
        assert (overlap.diff() <= 0).all()


def test_detection_sampling_labels_ground_truth_and_background():
    people = target([[0, 0, 10, 20], [100, 0, 110, 20]], [3, -1])
    proposals = torch.cat([shifted([0, 0, 10, 20], 2, 50), shifted([100, 0, 110, 20], 4)])
    sampler = DetectionSampler(RoiSettings(batch_per_image=1000), BoxCoder((10.0, 10.0, 5.0, 5.0)))
    (rois,) = sampler([proposals], [people])
    labels = dict(zip(rois.boxes[:, 0].tolist(), rois.labels.tolist(), strict=True))
    assert labels == {2.0: 3, 50.0: BACKGROUND, 104.0: BACKGROUND, 0.0: 3, 100.0: -1}
    own = rois.boxes[:, 0] == 0
    assert not rois.deltas[own].any()
    moved = rois.deltas[rois.boxes[:, 0] == 2][0]
    torch.testing.assert_close(moved, torch.tensor([-2.0, 0.0, 0.0, 0.0]))


def test_a_roi_that_overlaps_by_just_the_bound_is_a_person():
    people = target([[0, 0, 10, 20]], [3])
    sampler = DetectionSampler(RoiSettings(batch_per_image=1000), BoxCoder((10.0, 10.0, 5.0, 5.0)))
    (rois,) = sampler([torch.tensor([[0.0, 0, 10, 10]])], [people])
    assert rois.labels.tolist() == [3, 3]


def test_detection_sampling_keeps_the_share_of_positives():
    people = target([[0, 0, 10, 20]], [0])
    proposals = torch.cat([shifted([0, 0, 10, 20], *([1] * 50)), shifted([200, 0, 210, 20], *range(50))])
    sampler = DetectionSampler(RoiSettings(batch_per_image=20, positive_share=0.25), BoxCoder((1, 1, 1, 1)))
    (rois,) = sampler([proposals], [people])
    assert len(rois.labels) == 20
    assert int(rois.is_person.sum()) == 5


def test_sampled_rois_know_whose_they_are_and_how_well_they_lie_on_them():
    people = target([[0, 0, 10, 20], [100, 0, 110, 20]], [3, -1])
    proposals = shifted([0, 0, 10, 20], 2, 98)
    (rois,) = DetectionSampler(RoiSettings(batch_per_image=1000), BoxCoder((1, 1, 1, 1)))([proposals], [people])
    assert rois.owners.tolist() == [0, 1, 0, 1]
    torch.testing.assert_close(rois.overlaps, torch.tensor([8 / 12, 8 / 12, 1, 1]))
    (rois,) = DetectionSampler(RoiSettings(), BoxCoder((1, 1, 1, 1)))([proposals], [target([], [])])
    assert (rois.owners.tolist(), rois.overlaps.tolist()) == ([-1, -1], [0, 0])


def test_rois_between_background_and_person_train_nothing():
    people = target([[0, 0, 10, 20]], [3])
    proposals = shifted([0, 0, 10, 20], 2, 5, 9, 50)
    (rois,) = DetectionSampler(RoiSettings(bg_iou=0.1), BoxCoder((1, 1, 1, 1)))([proposals], [people])
    assert dict(zip(rois.boxes[:, 0].tolist(), rois.labels.tolist(), strict=True)) == {
        2: 3, 9: BACKGROUND, 50: BACKGROUND, 0: 3,
    }  # fmt: skip


def test_a_later_choice_draws_random_numbers_of_its_own():
    people = replace(target([[0, 0, 10, 20]], [0]), seed=4)
    proposals = shifted([200, 0, 210, 20], *range(50))
    settings = RoiSettings(batch_per_image=20)
    first, again, later = (
        DetectionSampler(settings, BoxCoder((1, 1, 1, 1)), draw)([proposals], [people])[0].boxes[:, 0].tolist()
        for draw in (Draw.ROIS, Draw.ROIS, Draw.LATER_ROIS)
    )
    assert first == again != later


def test_rois_on_ignored_regions_are_no_negatives():
    ignore = torch.tensor([[0.0, 0, 40, 40]])
    people = target([[100, 0, 110, 20]], [0], ignore)
    proposals = torch.tensor([[5.0, 5, 15, 25], [60, 0, 70, 20]])
    (rois,) = DetectionSampler(RoiSettings(), BoxCoder((1, 1, 1, 1)))([proposals], [people])
    assert sorted(rois.boxes[:, 0].tolist()) == [60, 100]


def test_on_ignored_by_cover_or_iou():
    ignore = torch.tensor([[0.0, 0, 20, 40]])
    boxes = torch.tensor([[0.0, 0, 10, 10], [-4, 0, 24, 44], [10, 0, 40, 40], [100, 0, 110, 20]])
    assert on_ignored(boxes, ignore).tolist() == [True, True, False, False]
    assert on_ignored(boxes, NOTHING).tolist() == [False] * 4
