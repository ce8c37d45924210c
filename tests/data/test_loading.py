"""The order of training images, their targets, and what comes out of worker processes."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torchvision.io import write_png

from person_search.data.image_sizes import aspect_ratios
from person_search.data.loading import (
    Item,
    TrainingOrder,
    clip,
    has_area,
    mirror,
    raise_errors,
    scene_batches,
    training_batches,
    training_target,
    unreadable_scenes,
)
from person_search.data.scene import Scene, Split, as_boxes
from person_search.data.size_checks import check_sizes, compare_sizes
from person_search.errors import DataError, UsageError

sizes = st.integers(1, 5)


def make_split(root: Path, count: int) -> Split:
    """Scenes of growing width; scene n has a white person of identity n on black."""
    scenes = []
    for number in range(count):
        picture = torch.zeros(3, 20, 30 + number, dtype=torch.uint8)
        picture[:, 5:15, 3:9] = 255
        write_png(picture, str(root / f"{number}.png"))
        scenes.append(Scene(f"{number}.png", as_boxes([[3, 5, 8, 14]]), np.array([number])))
    return Split("tiny", "train", root, scenes, count)


# The order.


def test_an_epoch_shows_every_scene_twice_once_mirrored() -> None:
    order = TrainingOrder([3, 5, 8], flip=True, batch_size=2)
    shown = [item[:2] for batch in order for item in batch]
    assert sorted(shown) == [(s, m) for s in (3, 5, 8) for m in (False, True)]


def test_without_flip_every_scene_is_shown_once() -> None:
    shown = [item[:2] for batch in TrainingOrder([3, 5, 8], flip=False, batch_size=1) for item in batch]
    assert sorted(shown) == [(3, False), (5, False), (8, False)]


def test_flipping_at_random_shows_every_scene_once_and_about_half_of_them_mirrored() -> None:
    order = TrainingOrder(range(400), flip=True, flip_at_random=True, batch_size=4)
    epochs = []
    for epoch in (0, 0, 1):
        order.start_at(epoch)
        epochs.append(sorted(item[:2] for batch in order for item in batch))
    assert epochs[0] == epochs[1] != epochs[2]
    for shown in epochs:
        assert [scene for scene, _ in shown] == list(range(400))
        assert 160 < sum(mirrored for _, mirrored in shown) < 240


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    def batches(seed: int, epoch: int) -> list:
        order = TrainingOrder(range(20), flip=True, batch_size=4, seed=seed)
        order.start_at(epoch)
        return list(order)

    assert batches(0, 0) == batches(0, 0)
    assert batches(0, 0) != batches(0, 1)
    assert batches(0, 0) != batches(1, 0)
    assert batches(0, 1) != batches(1, 0)
    # The scenes too, not the random numbers of each alone.
    first, second = ([item[:2] for batch in batches(0, epoch) for item in batch] for epoch in (0, 1))
    assert first != second


@settings(deadline=None, derandomize=True)
@given(scenes=st.integers(1, 40), batch=sizes, processes=sizes, accumulate=sizes, epoch=st.integers(0, 3))
def test_processes_together_show_what_one_big_batch_shows(
    scenes: int, batch: int, processes: int, accumulate: int, epoch: int
) -> None:
    per_step = batch * processes * accumulate
    if 2 * scenes < per_step:
        return
    one = TrainingOrder(range(scenes), flip=True, batch_size=per_step, seed=7)
    many = [
        TrainingOrder(
            range(scenes), flip=True, batch_size=batch, accumulate=accumulate, seed=7, rank=rank, processes=processes
        )
        for rank in range(processes)
    ]
    for order in (one, *many):
        order.start_at(epoch)
    together = [list(chain(*parts)) for parts in zip(*many, strict=True)]
    steps = [list(chain(*together[i : i + accumulate])) for i in range(0, len(together), accumulate)]
    assert steps == list(one)
    assert all(order.steps == one.steps == 2 * scenes // per_step for order in many)


@settings(deadline=None, derandomize=True)
@given(first=st.integers(0, 6), accumulate=st.integers(1, 2))
def test_starting_inside_an_epoch_gives_the_rest_of_it(first: int, accumulate: int) -> None:
    order = TrainingOrder(range(20), flip=True, batch_size=3, accumulate=accumulate)
    order.start_at(2)
    whole = list(order)
    order.start_at(2, first * order.images_per_step)
    assert list(order) == whole[first * accumulate :]
    assert len(order) == len(whole[first * accumulate :])


Work = tuple[int, int, int]
"""Images per process and batch, processes, batches per step."""

works = st.tuples(sizes, sizes, sizes)


def shown_in(scenes: int, works: list[tuple[Work, int]], *, ratios: list[float] | None = None) -> list[list[Item]]:
    """Images of every step of epoch 1, whose work is shared otherwise after so many steps (the last: to the end)."""
    steps: list[list[Item]] = []
    images, parts = 0, []
    for (batch, processes, accumulate), wanted in works:
        orders = [
            TrainingOrder(
                range(scenes), flip=True, batch_size=batch, accumulate=accumulate, rank=rank, processes=processes,
                aspect_ratios=ratios,
            )
            for rank in range(processes)
        ]  # fmt: skip
        for order in orders:
            order.start_at(1, images, parts)
        batches = [iter(order) for order in orders]
        for size in orders[0].step_sizes[:wanted]:
            step = [next(own) for _ in range(orders[0].batches_in(size)) for own in batches]
            assert all(1 <= len(own) <= batch for own in step)
            steps.append(list(chain(*step)))
            assert len(steps[-1]) == size
        taken = sum(orders[0].step_sizes[:wanted])
        parts, images = [*parts, (orders[0].images_per_step, taken)], images + taken
    return steps


@settings(deadline=None, derandomize=True)
@given(
    scenes=st.integers(1, 60), before=works, after=works, third=works, first=st.integers(1, 4), grouped=st.booleans()
)
def test_an_epoch_shared_otherwise_half_way_shows_every_image_once(
    scenes: int, before: Work, after: Work, third: Work, first: int, grouped: bool
) -> None:
    assume(2 * scenes >= max(map(np.prod, (after, third))))
    assume(2 * scenes >= np.prod(before) * (first + 1))
    ratios = list(np.random.default_rng(0).choice([0.5, 1.0, 2.0], scenes)) if grouped else None
    steps = shown_in(scenes, [(before, first), (after, 1), (third, 10**6)], ratios=ratios)
    assert steps[:first] == shown_in(scenes, [(before, first)], ratios=ratios)
    shown = [item[:2] for item in chain(*steps)]
    assert len(set(shown)) == len(shown)
    # Fewer images than processes cannot be shared.
    assert len(shown) > 2 * scenes - third[1]


def test_a_smaller_last_step_shows_what_is_left() -> None:
    assert [len(step) for step in shown_in(9, [((2, 1, 1), 1), ((4, 1, 1), 99)])] == [2, 4, 4, 4, 4]
    assert [len(step) for step in shown_in(9, [((2, 1, 1), 2), ((4, 1, 1), 99)])] == [2, 2, 4, 4, 4, 2]
    # One image is too few for two processes, so the step before takes it too, in batches of at most two.
    assert [len(step) for step in shown_in(9, [((1, 1, 1), 1), ((2, 2, 1), 99)])] == [1, 4, 4, 4, 5]


def test_too_few_images_for_one_step_is_refused() -> None:
    with pytest.raises(UsageError, match=r"takes 8 images.*only 6"):
        TrainingOrder(range(3), flip=True, batch_size=4, accumulate=2)


# Targets.


def test_mirrored_boxes_lie_on_the_same_pixels(tmp_path: Path) -> None:
    split = make_split(tmp_path, 1)
    order = TrainingOrder([0], flip=True, batch_size=1)
    for loaded in training_batches(split, order, workers=0, pin=False):
        batch = loaded.to("cpu")
        x1, y1, x2, y2 = batch.targets[0].boxes[0].int().tolist()
        image = batch.images[0]
        assert bool((image[:, y1 : y2 + 1, x1 : x2 + 1] == 255).all())
        assert int((image == 255).sum()) == 3 * (y2 - y1 + 1) * (x2 - x1 + 1)
        assert batch.targets[0].person_ids.tolist() == [0]


@settings(deadline=None, derandomize=True)
@given(x=st.floats(0, 50, width=32), width=st.floats(1, 50, width=32))
def test_mirroring_is_the_published_formula_and_undoes_itself(x: float, width: float) -> None:
    boxes = as_boxes([[x, 3, x + width, 9]])
    mirrored = mirror(boxes, 120)
    np.testing.assert_allclose(mirrored, [[119 - x - width, 3, 119 - x, 9]], atol=1e-4)
    np.testing.assert_allclose(mirror(mirrored, 120), boxes, atol=1e-4)


def test_boxes_and_ignored_regions_are_clipped_and_mirrored() -> None:
    scene = Scene(
        "a.jpg",
        as_boxes([[-5, -2, 10, 30], [25, 0, 50, 10]]),
        np.array([4, -1]),
        ignore=as_boxes([[10, 10, 90, 90], [60, 60, 70, 70]]),
    )
    target = training_target(scene, 40, 20, mirrored=False)
    assert target.boxes.tolist() == [[0, 0, 10, 20], [25, 0, 40, 10]]
    assert target.ignore.tolist() == [[10, 10, 40, 20]]
    assert target.person_ids.tolist() == [4, -1]
    mirrored = training_target(scene, 40, 20, mirrored=True)
    assert mirrored.boxes.tolist() == [[29, 0, 39, 20], [-1, 0, 14, 10]]
    assert mirrored.ignore.tolist() == [[-1, 10, 29, 20]]


def test_a_scene_without_people_has_an_empty_target() -> None:
    target = training_target(Scene("a.jpg", as_boxes([]), np.zeros(0, np.int64)), 40, 20, mirrored=True)
    assert target.boxes.shape == (0, 4)


@pytest.mark.parametrize("box", [[50, 2, 60, 9], [5, 5, 5, 9], [5, 9, 8, 9], [-9, 2, 0, 9], [8, 2, 5, 9]])
def test_a_box_without_area_in_the_image_is_an_error_that_names_both(box: list[float]) -> None:
    scene = Scene("street/7.jpg", as_boxes([[1, 1, 5, 5], box]), np.array([0, 1]))
    with pytest.raises(DataError, match=r"street/7\.jpg.*40 x 20.*box 2"):
        training_target(scene, 40, 20, mirrored=False)


@settings(deadline=None, derandomize=True)
@given(values=st.lists(st.floats(-50, 150, width=32), min_size=4, max_size=4))
def test_clipped_boxes_lie_in_the_image(values: list[float]) -> None:
    x1, y1, x2, y2 = clip(as_boxes([values]), 40, 20)[0]
    assert {x1, x2} == {min(max(x, 0), 40) for x in values[::2]}
    assert {y1, y2} == {min(max(y, 0), 20) for y in values[1::2]}
    assert bool(has_area(as_boxes([[x1, y1, x2, y2]]))[0]) == (x1 < x2 and y1 < y2)


# Loading.


def test_workers_load_what_the_main_process_loads(tmp_path: Path) -> None:
    split = make_split(tmp_path, 6)
    loaded = []
    for workers in (0, 2):
        order = TrainingOrder(range(6), flip=True, batch_size=3, seed=1)
        loader = training_batches(split, order, workers=workers, pin=False)
        for epoch in (0, 1):
            order.start_at(epoch)
            loaded.append([(b.scenes, [i.sum().item() for i in b.images], b.targets[0].boxes) for b in loader])
    for ours, theirs in zip(loaded[:2], loaded[2:], strict=True):
        for (scenes, sums, boxes), (other_scenes, other_sums, other_boxes) in zip(ours, theirs, strict=True):
            assert (scenes, sums) == (other_scenes, other_sums)
            assert torch.equal(boxes, other_boxes)


@pytest.mark.parametrize("workers", [0, 1])
def test_loading_leaves_the_random_numbers_of_training_alone(tmp_path: Path, workers: int) -> None:
    split = make_split(tmp_path, 4)
    before = torch.get_rng_state()
    list(training_batches(split, TrainingOrder(range(4), flip=True, batch_size=2), workers=workers, pin=False))
    list(scene_batches(split, batch_size=2, workers=workers))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_comes_out_of_a_worker_as_one_line(tmp_path: Path, workers: int) -> None:
    split = make_split(tmp_path, 4)
    (tmp_path / "2.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"2\.png") as caught:
        list(scene_batches(split, batch_size=3, workers=workers))
    assert "\n" not in str(caught.value)
    order = TrainingOrder([2], flip=True, batch_size=1)
    for batch in training_batches(split, order, workers=workers, pin=False):
        assert isinstance(batch, DataError)
        assert "2.png" in str(batch)


def test_whole_scenes_come_in_order_and_all(tmp_path: Path) -> None:
    split = make_split(tmp_path, 5)
    batches = list(scene_batches(split, batch_size=2, workers=0))
    assert [numbers for _, numbers in batches] == [[0, 1], [2, 3], [4]]
    assert [image.shape[2] for images, _ in batches for image in images] == [30, 31, 32, 33, 34]
    some = list(scene_batches(split, batch_size=2, workers=0, scenes=[4, 1]))
    assert some[0][1] == [4, 1]


def test_unreadable_scenes_are_found_with_their_paths(tmp_path: Path) -> None:
    split = make_split(tmp_path, 5)
    (tmp_path / "1.png").unlink()
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:40])
    seen: list[int] = []
    bad = unreadable_scenes(split, [0, 1, 3, 4], workers=1, progress=lambda done, total: seen.append(done))
    assert sorted(bad) == [1, 3]
    assert str(tmp_path / "1.png") in str(bad[1])
    assert seen[-1] == 4


class Drawn(Split):
    """A split whose pictures lie in no file."""

    def read(self, scene: Scene) -> torch.Tensor:
        return torch.full((3, 20, 30), int(scene.name), dtype=torch.uint8)

    def read_size(self, scene: Scene) -> tuple[int, int]:
        return 30, 20


def test_a_split_may_take_its_pictures_from_elsewhere() -> None:
    scenes = [Scene(str(number), as_boxes([[1, 1, 9, 15]]), np.array([0]), size=(30, 20)) for number in range(4)]
    split = Drawn("drawn", "train", Path("nowhere"), scenes, 1)
    assert [int(image[0, 0, 0]) for images, _ in scene_batches(split, batch_size=3, workers=0) for image in images] == [
        0, 1, 2, 3,
    ]  # fmt: skip
    order = TrainingOrder(range(4), flip=False, batch_size=4)
    (batch,) = raise_errors(training_batches(split, order, workers=0, pin=False))
    assert sorted(int(image.amax()) for image in batch.images) == [0, 1, 2, 3]
    assert unreadable_scenes(split, range(4), workers=0) == {}
    assert aspect_ratios(split, range(4)) == [1.5] * 4
    assert compare_sizes(split).missing == ()
    other = replace(split, scenes=[replace(scenes[0], size=(31, 20))])
    with pytest.raises(DataError, match=r"nowhere/0' is 30 x 20 pixels as it is seen, but its annotations say 31 x 20"):
        check_sizes(other)
    with pytest.raises(DataError, match="30 x 20 pixels as it is seen"):
        list(scene_batches(other, batch_size=1, workers=0))
