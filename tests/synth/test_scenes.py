from __future__ import annotations

import cv2
import numpy as np
import pytest

from person_search.synth import scenes
from person_search.synth.appearance import draw_appearance, draw_identities
from person_search.synth.cameras import draw_camera
from person_search.synth.canvas import Sprite
from person_search.synth.figure import draw_person
from person_search.synth.placement import Place, Placer
from person_search.synth.plan import ScenePlan, make_plan
from person_search.synth.pose import draw_pose
from person_search.synth.props import LOOK_ALIKES, OBSTACLES
from person_search.synth.scenes import Studio, _annotate, _paste, _Standing
from person_search.synth.settings import SynthConfig

CONFIG = SynthConfig(identities=12, scenes=30, cameras=2, width=320, height=240, difficulty=0.6)


@pytest.fixture(scope="module")
def studio() -> Studio:
    return Studio(CONFIG, draw_identities(np.random.default_rng(0), CONFIG.identities, CONFIG.level))


def block(width: int, height: int) -> Sprite:
    """A solid white sprite, its foot at the middle of its lower edge."""
    return Sprite(np.full((height, width, 4), 255, np.uint8), (width / 2, float(height)))


def put(standing: list[_Standing], width: int = 100, height: int = 80) -> tuple[np.ndarray, np.ndarray]:
    picture = np.zeros((height, width, 3), np.uint8)
    owner = np.full((height, width), -1, np.int64)
    for number, thing in enumerate(standing):
        _paste(picture, owner, thing, number)
    return picture, owner


def test_visibility_counts_what_others_hide_and_what_is_outside() -> None:
    standing = [
        _Standing(block(20, 40), Place(30, 60), 5),
        _Standing(block(20, 40), Place(40, 70), -1),
        _Standing(block(10, 40), Place(40, 75), None),
        _Standing(block(20, 40), Place(95, 60), 7),
        _Standing(block(20, 40), Place(200, 60), 8),
    ]
    _, owner = put(standing)
    boxes, ids, visibility = _annotate(standing, owner)
    assert ids.tolist() == [5, -1, 7]
    assert boxes.tolist() == [[20, 20, 40, 60], [30, 30, 50, 70], [85, 20, 100, 60]]
    first = 1 - (10 * 30) / 800
    second = 1 - (10 * 35) / 800
    assert visibility.tolist() == pytest.approx([first, second, 15 / 20])


def test_box_is_the_tight_box_of_the_pixels_that_changed() -> None:
    rng = np.random.default_rng(3)
    for _ in range(8):
        person = draw_appearance(rng, 0.5)
        sprite = draw_person(person, draw_pose(rng, person, 0.2), float(rng.uniform(60, 150)), 0.3)
        standing = [_Standing(sprite, Place(110.3, 180.7), 0)]
        picture, owner = put(standing, 220, 200)
        boxes, _, visibility = _annotate(standing, owner)
        rows, columns = (np.flatnonzero((picture > 0).any(axis=axis)) for axis in ((1, 2), (0, 2)))
        assert boxes[0] == pytest.approx([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], abs=1)
        assert visibility[0] == 1.0


def test_half_covered_pixels_are_mixed() -> None:
    half = Sprite(np.full((4, 4, 4), 128, np.uint8), (2.0, 4.0))
    picture = np.full((8, 8, 3), 100, np.uint8)
    _paste(picture, np.full((8, 8), -1, np.int64), _Standing(half, Place(4, 6), 0), 0)
    assert picture[3, 4] == pytest.approx([178] * 3, abs=1)
    assert (picture[:2] == 100).all()


def test_scene_depends_on_its_plan_alone(studio: Studio) -> None:
    plans = make_plan(CONFIG)[:6]
    forwards = [studio.draw(plan) for plan in plans]
    fresh = Studio(CONFIG, studio.identities)
    for plan, drawn in reversed(list(zip(plans, forwards, strict=True))):
        again = fresh.draw(plan)
        assert again.jpeg == drawn.jpeg
        assert np.array_equal(again.boxes, drawn.boxes)
        assert np.array_equal(again.visibility, drawn.visibility)


def test_scene_shows_the_people_of_its_plan_inside_the_picture(studio: Studio) -> None:
    for plan in make_plan(CONFIG)[:12]:
        drawn = studio.draw(plan)
        image = cv2.imdecode(np.frombuffer(drawn.jpeg, np.uint8), cv2.IMREAD_COLOR)
        assert image.shape == (CONFIG.height, CONFIG.width, 3)
        assert set(drawn.person_ids.tolist()) <= {*plan.people, -1}
        assert len(drawn.person_ids) >= len(plan.people) + plan.strangers - 1
        assert (drawn.boxes[:, :2] >= 0).all()
        assert (drawn.boxes[:, 2:] <= [CONFIG.width, CONFIG.height]).all()
        assert (drawn.boxes[:, 2:] - drawn.boxes[:, :2] >= 2).all()
        assert ((drawn.visibility >= 0) & (drawn.visibility <= 1)).all()
        assert (drawn.visibility > 0.4).any()


def test_annotated_people_are_what_changes_the_picture(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenes.View, "record", lambda self, rng, picture: picture.tobytes())
    monkeypatch.setattr(scenes, "_cast_shadow", lambda *_: None)
    monkeypatch.setattr(Placer, "beside_people", lambda self: Place(-500.0, 300.0))
    plan = ScenePlan(number=3, split="train", camera=1, frame=1, people=(0, 4), strangers=1)
    with_people, empty = (
        np.frombuffer(drawn.jpeg, np.uint8).reshape(CONFIG.height, CONFIG.width, 3).astype(int)
        for drawn in (studio.draw(plan), studio.draw(ScenePlan(3, "train", 1, 1, (), 0)))
    )
    changed = np.abs(with_people - empty).max(axis=2) > 8
    annotated = np.zeros_like(changed)
    for x1, y1, x2, y2 in studio.draw(plan).boxes:
        annotated[max(y1 - 2, 0) : y2 + 2, max(x1 - 2, 0) : x2 + 2] = True
        assert changed[y1:y2, x1:x2].mean() > 0.2
    assert not (changed & ~annotated).any()


def test_cameras_see_different_streets(studio: Studio) -> None:
    first, second = studio.view(1).background, studio.view(2).background
    assert np.abs(first.astype(int) - second).mean() > 10
    assert first.std() > 20


def test_crowding_makes_people_hide_each_other() -> None:
    camera = draw_camera(np.random.default_rng(0), 640, 480, 0.5)
    overlap = []
    for crowding in (0.0, 1.0):
        total = 0.0
        for seed in range(60):
            placer = Placer(np.random.default_rng(seed), camera, crowding=crowding)
            places = [placer.on_the_way() for _ in range(4)]
            total += sum(
                abs(a.column - b.column) < 0.3 * camera.scale(a.row) for a in places for b in places if a is not b
            )
        overlap.append(total)
    assert overlap[1] > 2 * overlap[0]


@pytest.mark.parametrize("kind", [*LOOK_ALIKES, *OBSTACLES], ids=lambda kind: kind.__name__)
def test_things_stand_on_the_ground_and_have_the_size_of_things(kind: object) -> None:
    assert callable(kind)
    for seed in range(3):
        sprite = kind(np.random.default_rng(seed), 60.0, 0.5)
        box = sprite.extent()
        assert box is not None
        assert abs(box[3] - sprite.foot[1]) <= 12
        assert 0.5 * 60 < box[3] - box[1] < 5 * 60
