"""Where people and things stand in a picture: inside the street, apart from each other or, now and then, not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from person_search.synth.cameras import Camera

_TRIES = 24
_HEIGHT, _WIDTH = 1.71, 0.62
"""Metres of the average person, arms and stride included."""


@dataclass(frozen=True, slots=True)
class Place:
    """A foot point, pixels."""

    column: float
    row: float


class Placer:
    """Finds places one after the other, knowing those before. ``crowding`` (0..1) lets people hide each other."""

    def __init__(self, rng: np.random.Generator, camera: Camera, *, crowding: float, taken: list[Place] | None = None):
        self._rng = rng
        self._camera = camera
        self._crowding = crowding
        self._taken = list(taken or [])
        self._people: list[Place] = []

    def on_the_way(self) -> Place:
        """A place for a person."""
        tolerance = 0.12
        if self._rng.random() < 0.1 + 0.5 * self._crowding:
            tolerance = float(self._rng.uniform(0.2, 0.75))
        company = bool(self._people) and self._rng.random() < 0.1 + 0.6 * self._crowding
        place = self._best(tolerance, self._near_someone if company else self._anywhere)
        self._people.append(place)
        return place

    def beside_the_way(self) -> Place:
        """A place for a thing that is always there: far back, where it hides few people."""
        return self._best(0.1, self._far_back)

    def beside_people(self) -> Place:
        """A place for a thing of this scene, now and then in front of somebody."""
        tolerance = 0.5 if self._rng.random() < self._crowding else 0.15
        return self._best(tolerance, self._anywhere)

    def _best(self, tolerance: float, draw: Callable[[], Place]) -> Place:
        best, least = None, np.inf
        for _ in range(_TRIES):
            place = draw()
            overlap = self._overlap(place)
            if not self._inside_street(place):
                overlap += 2.0
            if overlap < least:
                best, least = place, overlap
            if overlap <= tolerance:
                break
        assert best is not None
        self._taken.append(best)
        return best

    def _anywhere(self) -> Place:
        camera = self._camera
        edge = 0.03 - 0.06 * self._crowding
        column = self._rng.uniform(edge, 1 - edge) * camera.width
        return Place(float(column), float(self._rng.uniform(camera.far_row, camera.near_row)))

    def _far_back(self) -> Place:
        camera = self._camera
        row = camera.far_row + self._rng.uniform(-0.1, 0.25) * (camera.near_row - camera.far_row)
        return Place(float(self._rng.uniform(0, camera.width)), float(max(row, camera.horizon + 2)))

    def _near_someone(self) -> Place:
        camera = self._camera
        other = self._people[int(self._rng.integers(len(self._people)))]
        metre = camera.scale(other.row)
        column = other.column + self._rng.choice([-1, 1]) * self._rng.uniform(0.25, 0.8) * metre
        row = other.row + self._rng.normal(0, 0.12) * metre
        return Place(float(np.clip(column, 0, camera.width)), float(np.clip(row, camera.far_row, camera.near_row)))

    def _inside_street(self, place: Place) -> bool:
        across, _ = self._camera.ground(place.column, place.row)
        return self._camera.left_wall + 0.3 < across < self._camera.right_wall - 0.3

    def _overlap(self, place: Place) -> float:
        """Largest share of a person-sized box, here or at a taken place, that the two have in common."""
        if not self._taken:
            return 0.0
        x1, y1, x2, y2 = self._outline(place)
        worst = 0.0
        for other in self._taken:
            a1, b1, a2, b2 = self._outline(other)
            common = max(0.0, min(x2, a2) - max(x1, a1)) * max(0.0, min(y2, b2) - max(y1, b1))
            worst = max(worst, common / min((x2 - x1) * (y2 - y1), (a2 - a1) * (b2 - b1)))
        return worst

    def _outline(self, place: Place) -> tuple[float, float, float, float]:
        metre = self._camera.scale(place.row)
        half = _WIDTH / 2 * metre
        return place.column - half, place.row - _HEIGHT * metre, place.column + half, place.row
