"""Composing a picture: people and things on a camera's street, who hides whom, and what the camera makes of it."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from person_search.data.scene import UNLABELLED, Ints
from person_search.synth.appearance import Appearance, draw_appearance
from person_search.synth.backgrounds import draw_background
from person_search.synth.cameras import Camera, draw_camera
from person_search.synth.canvas import Pixels, Sprite
from person_search.synth.figure import draw_person
from person_search.synth.placement import Place, Placer
from person_search.synth.plan import STREAM_CAMERA, STREAM_SCENE, STREAM_STREET, ScenePlan
from person_search.synth.pose import draw_pose
from person_search.synth.props import LOOK_ALIKES, OBSTACLES, draw_thing
from person_search.synth.settings import SynthConfig

Shares = NDArray[np.float64]

_NOISE_MARGIN = 64


@dataclass(frozen=True, eq=False, slots=True)
class DrawnScene:
    """A finished picture.

    Attributes:
        jpeg: the encoded image.
        boxes: (N, 4) int64 ``(x1, y1, x2, y2)``: everything drawn of the person, hidden or not, inside the image.
        person_ids: (N,) int64, identity or -1.
        visibility: (N,) float64, share of the person's pixels that are in the image and not hidden.
    """

    jpeg: bytes
    boxes: Ints
    person_ids: Ints
    visibility: Shares


@dataclass(frozen=True, eq=False, slots=True)
class _Standing:
    """A sprite whose foot stands at ``place``; ``person`` is an identity, -1, or None for a thing."""

    sprite: Sprite
    place: Place
    person: int | None


class View:
    """What one camera always sees, and how it records: made once, used for each of its scenes."""

    def __init__(self, config: SynthConfig, number: int):
        self.camera = draw_camera(
            np.random.default_rng([config.seed, STREAM_CAMERA, number]), config.width, config.height, config.level
        )
        rng = np.random.default_rng([config.seed, STREAM_STREET, number])
        self.background = draw_background(rng, self.camera)
        placer = Placer(rng, self.camera, crowding=0.0)
        self.fixtures: list[_Standing] = []
        for _ in range(int(rng.integers(1, 4))):
            place = placer.beside_the_way()
            thing = draw_thing(rng, OBSTACLES, self.camera.scale(place.row), self.camera.sun)
            self.fixtures.append(_Standing(thing, place, None))
        rows, columns = config.height + _NOISE_MARGIN, config.width + _NOISE_MARGIN
        self.noise = np.clip(rng.normal(0, self.camera.noise, (rows, columns, 3)), -127, 127).astype(np.int8)
        self.vignette = self._vignette()

    def record(self, rng: np.random.Generator, picture: Pixels) -> bytes:
        """``picture`` (RGB) as this camera stores it: blurred, toned, noisy, as JPEG."""
        camera = self.camera
        if camera.blur > 0.3:
            picture = cv2.GaussianBlur(picture, (0, 0), camera.blur)
        picture = cv2.LUT(picture, self._tones(float(np.exp(rng.normal(0, 0.06)))))
        picture = cv2.multiply(picture, self.vignette, scale=1 / 255)
        y, x = rng.integers(0, _NOISE_MARGIN, 2)
        grain = self.noise[y : y + camera.height, x : x + camera.width]
        picture = cv2.add(picture, grain, dtype=cv2.CV_8U)
        quality = [cv2.IMWRITE_JPEG_QUALITY, camera.jpeg_quality]
        _, encoded = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), quality)
        return bytes(encoded)

    def _tones(self, exposure: float) -> Pixels:
        """(1, 256, 3) lookup table of gamma, contrast, exposure and colour cast."""
        levels = (np.arange(256) / 255.0) ** self.camera.gamma
        toned = 0.5 + (levels - 0.5) * self.camera.contrast
        table = 255 * exposure * toned[:, None] * np.array(self.camera.gains)
        return np.clip(np.rint(table), 0, 255).astype(np.uint8)[None]

    def _vignette(self) -> Pixels:
        y, x = np.mgrid[-1 : 1 : self.camera.height * 1j, -1 : 1 : self.camera.width * 1j]
        shade = 255 * (1 - self.camera.vignette * 0.5 * (x * x + y * y))
        return np.repeat(np.rint(shade).astype(np.uint8)[:, :, None], 3, axis=2)


class Studio:
    """Draws scenes of one dataset. Cameras are prepared when their first scene is drawn."""

    def __init__(self, config: SynthConfig, identities: list[Appearance]):
        self.config = config
        self.identities = identities
        self._views: dict[int, View] = {}

    def view(self, camera: int) -> View:
        """The view of ``camera`` (from 1)."""
        if camera not in self._views:
            self._views[camera] = View(self.config, camera)
        return self._views[camera]

    def draw(self, plan: ScenePlan) -> DrawnScene:
        """The picture of ``plan``; depends on nothing but the settings and the plan."""
        rng = np.random.default_rng([self.config.seed, STREAM_SCENE, plan.number])
        view = self.view(plan.camera)
        standing = [*view.fixtures, *self._people(rng, view, plan)]
        standing.sort(key=lambda thing: thing.place.row)
        picture = view.background.copy()
        for thing in standing:
            _cast_shadow(picture, thing, view.camera)
        owner: Ints = np.full(picture.shape[:2], -1, np.int64)
        for number, thing in enumerate(standing):
            _paste(picture, owner, thing, number)
        return DrawnScene(view.record(rng, picture), *_annotate(standing, owner))

    def _people(self, rng: np.random.Generator, view: View, plan: ScenePlan) -> list[_Standing]:
        """The scene's people, and the things that were put there for this scene alone."""
        camera, level = view.camera, self.config.level
        placer = Placer(rng, camera, crowding=level, taken=[thing.place for thing in view.fixtures])
        standing: list[_Standing] = []
        strangers = [(UNLABELLED, draw_appearance(rng, level)) for _ in range(plan.strangers)]
        for number, person in [*((n, self.identities[n]) for n in plan.people), *strangers]:
            place = placer.on_the_way()
            pose = draw_pose(rng, person, camera.slope(place.row))
            height = person.height * camera.scale(place.row)
            sprite = draw_person(person, pose, height, camera.sun)
            dim = rng.uniform(1 - 0.3 * level, 1.0)
            dimmed = Sprite(cv2.multiply(sprite.rgba, (dim, dim, dim, 1.0)), sprite.foot)
            standing.append(_Standing(dimmed, place, number))
        for _ in range(int(rng.integers(0, 2 + round(2.5 * level)))):
            place = placer.beside_people()
            thing = draw_thing(rng, LOOK_ALIKES, camera.scale(place.row), camera.sun)
            standing.append(_Standing(thing, place, None))
        return standing


def _corner(thing: _Standing) -> tuple[int, int]:
    """Left and top of the sprite in the picture, pixels."""
    return round(thing.place.column - thing.sprite.foot[0]), round(thing.place.row - thing.sprite.foot[1])


def _box_in_image(thing: _Standing, width: int, height: int) -> tuple[int, int, int, int] | None:
    extent = thing.sprite.extent()
    if extent is None:
        return None
    left, top = _corner(thing)
    x1, y1 = max(extent[0] + left, 0), max(extent[1] + top, 0)
    x2, y2 = min(extent[2] + left, width), min(extent[3] + top, height)
    return (x1, y1, x2, y2) if x2 - x1 >= 2 and y2 - y1 >= 2 else None


def _annotate(standing: list[_Standing], owner: Ints) -> tuple[Ints, Ints, Shares]:
    """Boxes, person ids and visibility of the people of ``standing``, given which of them ``owner`` shows where."""
    visible = np.bincount(owner.ravel() + 1, minlength=len(standing) + 1)[1:]
    boxes, ids, shares = [], [], []
    for number, thing in enumerate(standing):
        if thing.person is None:
            continue
        box = _box_in_image(thing, owner.shape[1], owner.shape[0])
        if box is not None:
            boxes.append(box)
            ids.append(thing.person)
            shares.append(visible[number] / np.count_nonzero(thing.sprite.rgba[:, :, 3] >= 128))
    return (
        np.array(boxes, dtype=np.int64).reshape(-1, 4),
        np.array(ids, dtype=np.int64),
        np.array(shares, dtype=np.float64),
    )


def _paste(picture: Pixels, owner: Ints, thing: _Standing, number: int) -> None:
    """Draw ``thing`` over ``picture`` and note it as the ``owner`` of the pixels it covers at least half."""
    left, top = _corner(thing)
    rows, columns = thing.sprite.rgba.shape[:2]
    y1, y2 = max(top, 0), min(top + rows, picture.shape[0])
    x1, x2 = max(left, 0), min(left + columns, picture.shape[1])
    if y1 >= y2 or x1 >= x2:
        return
    part = thing.sprite.rgba[y1 - top : y2 - top, x1 - left : x2 - left]
    below = picture[y1:y2, x1:x2]
    cover = cv2.extractChannel(part, 3)
    through = cv2.cvtColor(255 - cover, cv2.COLOR_GRAY2RGB)
    below[:] = cv2.add(cv2.multiply(below, through, scale=1 / 255), cv2.cvtColor(part, cv2.COLOR_RGBA2RGB))
    owner[y1:y2, x1:x2][cover >= 128] = number


def _cast_shadow(picture: Pixels, thing: _Standing, camera: Camera) -> None:
    """Darken the ground beside the foot of ``thing``, away from the light."""
    metre = camera.scale(thing.place.row)
    wide, flat = 0.75 * metre, max(0.16 * metre, 2.0)
    x, y = thing.place.column - camera.sun * 0.5 * metre, thing.place.row
    x1, x2 = max(int(x - wide), 0), min(int(x + wide) + 1, picture.shape[1])
    y1, y2 = max(int(y - flat), 0), min(int(y + flat) + 1, picture.shape[0])
    if x1 >= x2 or y1 >= y2:
        return
    distance = ((np.arange(x1, x2) - x) / wide)[None, :] ** 2 + ((np.arange(y1, y2) - y) / flat)[:, None] ** 2
    light = 1 - camera.shadow * np.clip(1.5 * (1 - distance), 0, 1)
    ground = picture[y1:y2, x1:x2]
    ground[:] = (ground * light[:, :, None]).astype(np.uint8)
