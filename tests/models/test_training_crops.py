"""What training cuts out of images, on cases small enough to work out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from person_search.config import method_settings
from person_search.data.target import Target
from person_search.models.backbones.backbone import IMAGENET
from person_search.models.image_transform import ImageTransform
from person_search.models.settings import CropSettings
from person_search.models.training_crops import (
    Window,
    cut_out,
    draw_window,
    focused_window,
    left_of_boxes,
    safe_window,
)

NOBODY = torch.zeros(0, 4)


def seeds(number: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in range(number)]


def corners(boxes: list[list[float]], *, size: tuple[int, int] = (40, 60), side: int = 20, grow: bool = False):
    """The left and top edges that 400 focused crops have, and their sides."""
    windows = [focused_window(size, torch.tensor(boxes).reshape(-1, 4), side, grow, draw) for draw in seeds(400)]
    assert all(window.width == window.height for window in windows)
    return {w.left for w in windows}, {w.top for w in windows}, {w.width for w in windows}


@pytest.mark.parametrize(
    ("box", "lefts", "tops"),
    [
        # In the middle: from where its far edge is just inside to where its near edge is.
        ([30.5, 20.0, 38.5, 30.0], range(18, 31), range(10, 21)),
        # At the edges of the image, which the window does not leave.
        ([2.0, 1.0, 8.0, 9.0], range(3), range(2)),
        ([50.0, 30.0, 60.0, 40.0], [40], [20]),
        # Wider than the window: from its left edge on.
        ([10.0, 20.0, 35.0, 30.0], [10], range(10, 21)),
    ],
)
def test_a_focused_crop_lies_anywhere_around_its_person(box: list[float], lefts, tops) -> None:
    assert corners([box]) == (set(lefts), set(tops), {20})


def test_a_focused_crop_chooses_among_all_people_and_without_any_lies_anywhere() -> None:
    left, _, _ = corners([[0.0, 0, 20, 20], [40.0, 0, 60, 20]])
    assert left == {0, 40}
    assert corners([]) == (set(range(41)), set(range(21)), {20})


def test_a_focused_crop_grows_with_a_person_larger_than_it() -> None:
    box = [10.0, 5.0, 35.7, 25.0]
    # A square of 25 pixels, which is high enough for 20 of them.
    assert corners([box], grow=True) == ({10}, set(range(6)), {25})
    assert corners([[10.0, 5.0, 15.0, 15.0]], grow=True)[2] == {20}


@pytest.mark.parametrize("erosion", [0.0, 0.1])
def test_a_safe_crop_holds_all_people_but_their_eroded_edges(erosion: float) -> None:
    boxes = torch.tensor([[20.0, 10, 30, 30], [35.0, 15, 45, 20]])
    margin = erosion * torch.tensor([10.0, 20])
    windows = [safe_window((40, 60), boxes, erosion, draw) for draw in seeds(400)]
    for window in windows:
        assert 0 <= window.left <= 20 + margin[0]
        assert 0 <= window.top <= 10 + margin[1]
        # Edges are cut to whole pixels.
        assert 45 - margin[0] - 2 <= window.left + window.width <= 60
        assert 30 - margin[1] - 2 <= window.top + window.height <= 40
    assert len({window.width for window in windows}) > 20
    assert {window.left for window in windows} >= set(range(1, 18))
    assert max(window.left for window in windows) == (21 if erosion else 20)


def test_a_safe_crop_of_nobody_is_nearly_the_whole_image() -> None:
    windows = [safe_window((40, 60), NOBODY, 0.1, draw) for draw in seeds(100)]
    assert {window.height for window in windows} == {36, 37, 38, 39, 40}
    assert all(window.width == int(window.height * 1.5) for window in windows)


def test_of_crops_some_are_focused_on_people_with_identity() -> None:
    """On a canvas of 60 x 80, in the middle of which the image lies; the window counts from the image's edges."""
    boxes = torch.tensor([[0.0, 0, 20, 20], [60.0, 0, 80, 20]])
    known = torch.tensor([False, True])

    def windows(**settings: float) -> list[Window]:
        config = CropSettings(side=20, canvas=3, **settings)
        return [draw_window((40, 80), boxes, known, config, draw) for draw in seeds(60)]

    assert set(windows(focused=1.0)) == {Window(60, 0, 20, 20)}
    anywhere = CropSettings(side=20, canvas=3, focused=1.0)
    tops = {draw_window((40, 80), NOBODY, NOBODY[:, 0] > 0, anywhere, draw).top for draw in seeds(400)}
    assert tops == set(range(-10, 31))
    safe = windows(focused=0.0)
    assert all(window.width > 70 for window in safe)
    assert min(window.top for window in safe) < 0
    assert 15 < sum(window == Window(60, 0, 20, 20) for window in windows()) < 45


def test_what_is_cut_out_is_surrounded_by_the_padding() -> None:
    pixels = torch.arange(3 * 4 * 5, dtype=torch.float32).view(3, 4, 5)
    fill = torch.tensor([-1.0, -2, -3]).view(3, 1, 1)
    cut = cut_out(pixels, Window(-1, 2, 3, 3), 3, fill)
    torch.testing.assert_close(cut[:, :2, 1:], pixels[:, 2:4, :2])
    torch.testing.assert_close(cut[:, :, 0], fill[:, 0].expand(3, 3))
    torch.testing.assert_close(cut[:, 2], fill[:, 0].expand(3, 3))
    assert torch.equal(cut_out(pixels, Window(9, 9, 3, 3), 3, fill), fill.expand(3, 3, 3))


def test_a_window_of_another_size_is_resized_without_keeping_its_shape() -> None:
    pixels = torch.zeros(3, 4, 8)
    pixels[:, :, 4:] = 1
    cut = cut_out(pixels, Window(0, 0, 8, 4), 2, torch.zeros(3, 1, 1))
    torch.testing.assert_close(cut, torch.tensor([0.0, 1]).expand(3, 2, 2))


def test_the_share_of_a_box_that_is_left() -> None:
    boxes = torch.tensor([[-5.0, 0, 5, 10], [2, 2, 8, 8], [9, 9, 19, 19], [10, 0, 20, 10]])
    clipped, left = left_of_boxes(boxes, 10)
    torch.testing.assert_close(left, torch.tensor([0.5, 1, 0.01, 0]))
    torch.testing.assert_close(clipped[0], torch.tensor([0.0, 0, 5, 10]))


def transform(**crop: object) -> ImageTransform:
    settings = CropSettings(**({"side": 32} | crop))
    return ImageTransform(shorter_side=(64,), longer_side=200, normalisation=IMAGENET, crop=settings)


def target(boxes: list[list[float]], seed: int | None = 7, ids: list[int] | None = None) -> Target:
    numbers = torch.tensor(ids or list(range(len(boxes))))
    return Target(torch.tensor(boxes).reshape(-1, 4), numbers, NOBODY, seed=seed)


@pytest.fixture
def image() -> Tensor:
    """Of 32 x 48 pixels, so that resizing doubles it."""
    return torch.rand(3, 32, 48, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("focused", [0.0, 1.0])
def test_boxes_follow_their_pixels(image: Tensor, focused: float) -> None:
    """A red rectangle on black lies in the crop where its box says."""
    image.zero_()
    image[0, 10:20, 12:18] = 1
    people = target([[12.0, 10, 18, 20]])
    model = transform(focused=focused, erosion=0.0).train()
    batch = model([image], [people])
    assert (batch.tensors.shape, batch.sizes) == ((1, 3, 32, 32), [(32, 32)])
    (moved,) = model.targets_to_batch([people], batch)
    left, top, right, bottom = moved.boxes[0].tolist()
    red = batch.tensors[0, 0] > 0
    ys, xs = red.nonzero(as_tuple=True)
    assert (xs.min(), ys.min()) == pytest.approx((left, top), abs=1)
    assert (xs.max() + 1, ys.max() + 1) == pytest.approx((right, bottom), abs=1)
    torch.testing.assert_close(batch.to_original(moved.boxes, 0), people.boxes, atol=1e-4, rtol=0)


def test_people_of_whom_too_little_is_left_are_dropped_with_their_identity(image: Tensor) -> None:
    """Beside the focused one, whose box fills the crop, lies one to half and one to a tenth."""
    people = Target(
        torch.tensor([[16.0, 8, 32, 24], [24.0, 8, 40, 24], [30.4, 8, 46.4, 24], [0, 0, 4, 4]]),
        torch.tensor([2, -1, -1, -1]),
        torch.tensor([[0.0, 0, 4, 4], [28, 8, 48, 32]]),
        seed=1,
    )
    for least, left in ((0.4, [2, -1]), (0.6, [2]), (0.0, [2, -1, -1])):
        model = transform(focused=1.0, min_area=least).train()
        batch = model([image], [people])
        (moved,) = model.targets_to_batch([people], batch)
        assert moved.person_ids.tolist() == left
        torch.testing.assert_close(moved.boxes[0], torch.tensor([0.0, 0, 32, 32]))
        torch.testing.assert_close(moved.ignore, torch.tensor([[24.0, 0, 32, 32]]))


def test_an_image_of_which_nobody_is_left_is_one_without_people(image: Tensor) -> None:
    people = target([[0.0, 0, 48, 32]])
    model = transform(focused=1.0, min_area=0.9).train()
    (moved,) = model.targets_to_batch([people], model([image], [people]))
    assert (moved.boxes.shape, moved.person_ids.shape) == ((0, 4), (0,))


@pytest.mark.parametrize(
    ("padding", "value"), [("mean", (0, 0, 0)), ("black", (-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225))]
)
def test_the_padding_is_the_mean_colour_or_black(image: Tensor, padding: str, value: tuple[float, ...]) -> None:
    model = transform(side=128, padding=padding, focused=1.0).train()
    batch = model([image], [target([[0.0, 0, 4, 4]])])
    assert batch.sizes == [(128, 128)]
    torch.testing.assert_close(batch.tensors[0, :, 0, 0], torch.tensor(value, dtype=torch.float32))


def test_the_crop_depends_on_the_images_seed_alone_and_in_test_there_is_none(image: Tensor) -> None:
    model = transform().train()

    def crop(seed: int) -> Tensor:
        return model([image], [target([[0.0, 0, 4, 4]], seed=seed)]).tensors

    torch.testing.assert_close(crop(3), crop(3))
    assert not torch.equal(crop(3), crop(4))
    assert model.eval()([image], [target([])]).sizes == [(64, 96)]
    assert model.train()([image]).sizes == [(64, 96)]


def test_sides_are_rounded_to_the_nearest_pixel_where_that_is_asked() -> None:
    config = method_settings("seqnext").images
    model = ImageTransform(
        shorter_side=config.shorter_side,
        longer_side=config.longer_side,
        rounding=config.rounding,
        normalisation=IMAGENET,
    )
    assert model.output_size(1080, 1920, 900) == (844, 1500)
    assert transform().output_size(1080, 1920, 200) == (112, 200)
