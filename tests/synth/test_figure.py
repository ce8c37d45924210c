from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from person_search.synth.appearance import Appearance, draw_appearance
from person_search.synth.canvas import Canvas, Sprite, rectangle
from person_search.synth.figure import draw_person
from person_search.synth.pose import Pose

STANDING = Pose(0.0, 0.0, 0.0, "swing", "swing", 0.0, 0.05)
PLAIN = replace(
    draw_appearance(np.random.default_rng(0), 0.5),
    build=1.0,
    skin=(226.0, 184.0, 154.0),
    hat="none",
    hair="short",
    hair_colour=(20.0, 20.0, 20.0),
    upper="sweater",
    upper_colour=(200.0, 30.0, 30.0),
    pattern="plain",
    lower="trousers",
    lower_colour=(30.0, 60.0, 200.0),
    bag="none",
)


def band_colour(sprite: Sprite, top: float, bottom: float) -> np.ndarray:
    """Mean colour of the solid pixels between two shares of the figure's height."""
    box = sprite.extent()
    assert box is not None
    tall = box[3] - box[1]
    rows = sprite.rgba[box[1] + int(top * tall) : box[1] + int(bottom * tall)]
    return rows[rows[:, :, 3] > 250][:, :3].mean(axis=0)


@pytest.mark.parametrize("height", [40.0, 90.0, 199.0, 200.0, 333.0])
def test_figure_is_as_tall_as_asked_and_stands_on_its_foot(height: float) -> None:
    sprite = draw_person(PLAIN, STANDING, height, 0.5)
    box = sprite.extent()
    assert box is not None
    assert box[3] - box[1] == pytest.approx(height, rel=0.05, abs=2)
    assert box[3] - sprite.foot[1] == pytest.approx(0, abs=0.03 * height + 1)
    assert (box[0] + box[2]) / 2 == pytest.approx(sprite.foot[0], abs=0.03 * height + 1)
    assert 0.2 < (box[2] - box[0]) / height < 0.45


@pytest.mark.parametrize("yaw", np.linspace(-np.pi, np.pi, 7))
def test_clothes_keep_their_colours_from_every_side(yaw: float) -> None:
    sprite = draw_person(PLAIN, replace(STANDING, yaw=yaw), 240.0, 0.5)
    red, green, blue = band_colour(sprite, 0.25, 0.4)
    assert red > 2 * max(green, blue)
    red, green, blue = band_colour(sprite, 0.6, 0.85)
    assert blue > 2 * max(red, green)


def test_face_is_seen_from_the_front_only() -> None:
    front, back = (
        band_colour(draw_person(PLAIN, replace(STANDING, yaw=yaw), 240.0, 0.0), 0.03, 0.09).mean()
        for yaw in (0.0, np.pi)
    )
    assert front > back + 30


def test_backpack_is_seen_from_behind() -> None:
    bagged = replace(PLAIN, bag="backpack", bag_colour=(20.0, 220.0, 20.0))
    front, back = (
        int((rgb[:, :, 1] > 1.5 * np.maximum(rgb[:, :, 0], rgb[:, :, 2])).sum())
        for yaw in (0.0, np.pi)
        for rgb in [draw_person(bagged, replace(STANDING, yaw=yaw), 240.0, 0.0).rgba[:, :, :3].astype(float)]
    )
    assert back > 4 * max(front, 1)
    assert back > 1000


@pytest.mark.parametrize("pattern", ["stripes", "pinstripes", "checks", "block", "logo"])
def test_patterns_show_the_second_colour(pattern: str) -> None:
    person = replace(PLAIN, second_colour=(240.0, 240.0, 240.0))
    plain, patterned = (
        band_colour(draw_person(replace(person, pattern=kind), STANDING, 240.0, 0.0), 0.2, 0.5)[2]
        for kind in ("plain", pattern)
    )
    assert patterned > plain + 8


def test_walking_is_wider_than_standing() -> None:
    side = replace(STANDING, yaw=np.pi / 2)
    still, walking = (
        draw_person(PLAIN, pose, 240.0, 0.0).extent() for pose in (side, replace(side, stride=1.0, phase=np.pi / 2))
    )
    assert still is not None
    assert walking is not None
    assert walking[2] - walking[0] > 1.5 * (still[2] - still[0])


def test_colours_never_exceed_their_coverage() -> None:
    rng = np.random.default_rng(5)
    for _ in range(10):
        person: Appearance = draw_appearance(rng, 0.5)
        rgba = draw_person(person, STANDING, 120.0, 1.0).rgba.astype(int)
        assert (rgba[:, :, :3] <= rgba[:, :, 3:] * 1.05 + 2).all()


def test_sprite_is_cropped_and_keeps_its_foot() -> None:
    canvas = Canvas(400, 300, origin=(200.0, 240.0), scale=100.0)
    canvas.fill(rectangle(-0.5, -1.0, 0.5, 0.0), (255.0, 0.0, 0.0))
    sprite = canvas.sprite(2, 0.01)
    box = sprite.extent()
    assert box is not None
    offsets = [box[0] - sprite.foot[0], box[1] - sprite.foot[1], box[2] - sprite.foot[0], box[3] - sprite.foot[1]]
    assert offsets == pytest.approx([-25, -50, 25, 0], abs=1)
    assert sprite.rgba.shape[0] < 60
    assert sprite.rgba.shape[1] < 60


def test_nothing_drawn_has_no_extent() -> None:
    assert Canvas(40, 40, origin=(20.0, 20.0), scale=10.0).sprite(2, 0.1).extent() is None
