"""The cameras: where each one stands, what it sees of its street, and what it does to colours and sharpness."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NEAREST = 0.6
"""Metres: nothing closer to a camera than this is drawn."""

_PERSON = 1.71


@dataclass(frozen=True, slots=True)
class Camera:
    """A pinhole camera that looks level, with its picture shifted down: upright things stay upright.

    Street coordinates: ``across`` the street (right positive), ``along`` it, ``up``; metres, the camera above (0, 0).

    Attributes:
        width, height: pixels of its pictures.
        focal: focal length, pixels.
        horizon: row of the horizon, pixels.
        elevation: height above the ground, metres.
        yaw: viewing direction to the right of the street's, radians.
        near_row, far_row: lowest and highest row people's feet are seen at, pixels.
        left_wall, right_wall: ``across`` of the house fronts.
        road: ``across`` of the road's left and right kerb.
        sun: sideways direction the light comes from, -1 (left) to 1 (right).
        shadow: darkness of shadows on the ground, 0..1.
        gains: red, green and blue gain.
        gamma, contrast: tone curve.
        vignette: darkening of the corners, 0..1.
        blur: standard deviation of its blur, pixels.
        noise: standard deviation of its noise, grey levels.
        jpeg_quality: 0..100.
    """

    width: int
    height: int
    focal: float
    horizon: float
    elevation: float
    yaw: float
    near_row: float
    far_row: float
    left_wall: float
    right_wall: float
    road: tuple[float, float]
    sun: float
    shadow: float
    gains: tuple[float, float, float]
    gamma: float
    contrast: float
    vignette: float
    blur: float
    noise: float
    jpeg_quality: int

    def scale(self, row: float) -> float:
        """Pixels per metre for things that stand on the ground at ``row``."""
        return (row - self.horizon) / self.elevation

    def slope(self, row: float) -> float:
        """Rows down the picture per upright row of the same length, moving towards the camera at ``row``."""
        return float(np.clip((row - self.horizon) / self.focal, 0.02, 0.3))

    def ground(self, column: float, row: float) -> tuple[float, float]:
        """``(across, along)`` of the ground seen at a pixel below the horizon."""
        depth = self.focal * self.elevation / (row - self.horizon)
        side = (column - self.width / 2) * depth / self.focal
        return (
            side * np.cos(self.yaw) + depth * np.sin(self.yaw),
            depth * np.cos(self.yaw) - side * np.sin(self.yaw),
        )

    def matrix(self) -> NDArray[np.float64]:
        """(3, 4) projection of ``(across, along, up, 1)`` to homogeneous pixels; the third is the depth, metres."""
        sine, cosine = np.sin(self.yaw), np.cos(self.yaw)
        side = np.array([cosine, -sine, 0.0, 0.0])
        depth = np.array([sine, cosine, 0.0, 0.0])
        drop = np.array([0.0, 0.0, -1.0, self.elevation])
        return np.stack([self.focal * side + self.width / 2 * depth, self.focal * drop + self.horizon * depth, depth])

    def visible_along(self, across: float, reach: float) -> tuple[float, float] | None:
        """Part of a wall at ``across``, -``reach`` to ``reach`` along, that lies before the camera; None if none."""
        start, end = -reach, reach
        sine, cosine = np.sin(self.yaw), np.cos(self.yaw)
        limit = (NEAREST - across * sine) / cosine
        start, end = (max(start, limit), end) if cosine > 0 else (start, min(end, limit))
        return (start, end) if end - start > 1 else None


def draw_camera(rng: np.random.Generator, width: int, height: int, level: float) -> Camera:
    """A random camera of ``width`` x ``height`` pixels. ``level`` (difficulty): how far its look is from neutral."""
    horizon = height * rng.uniform(0.08, 0.3)
    nearest_person = height * rng.uniform(0.5, 0.72)
    near_row = height * rng.uniform(0.96, 1.02)
    elevation = _PERSON * (near_row - horizon) / nearest_person
    furthest_person = height * rng.uniform(0.23, 0.3)
    far_row = horizon + furthest_person * elevation / _PERSON
    focal = width * rng.uniform(0.8, 1.25)
    yaw = float(rng.uniform(-1.0, 1.0))
    depth = focal * elevation / (far_row - horizon)
    room = depth * np.array([max(0.4, width / 2 / focal * np.cos(yaw) + s * np.sin(yaw)) for s in (-1, 1)])
    walls = np.clip(room * rng.uniform(0.95, 1.3, 2), 2.5, 14.0)
    road_left = float(rng.uniform(-0.8, 0.4) * walls[0])
    road = (road_left, road_left + float(rng.uniform(3.5, 6.5)))
    tint = rng.normal(0, 0.02 + 0.09 * level, 3)
    exposure = rng.normal(0, 0.03 + 0.12 * level)
    return Camera(
        width=width,
        height=height,
        focal=focal,
        horizon=horizon,
        elevation=elevation,
        yaw=yaw,
        near_row=near_row,
        far_row=far_row,
        left_wall=-float(walls[0]),
        right_wall=float(walls[1]),
        road=road,
        sun=float(rng.choice([-1, 1]) * rng.uniform(0.2, 1.0)),
        shadow=float(rng.uniform(0.15, 0.55)),
        gains=tuple(np.clip(1 + exposure + tint - tint.mean(), 0.6, 1.45).tolist()),
        gamma=float(np.exp(rng.normal(0, 0.05 + 0.2 * level))),
        contrast=float(rng.uniform(1 - 0.4 * level, 1 + 0.15 * level)),
        vignette=float(rng.uniform(0, 0.1 + 0.3 * level)),
        blur=float(rng.uniform(0.2, 0.4 + 1.0 * level) * height / 480),
        noise=float(rng.uniform(1.0, 2.0 + 7.0 * level)),
        jpeg_quality=int(rng.integers(round(92 - 45 * level), 96)),
    )
