"""Anti-aliased drawing of one object on a transparent canvas, with soft shading, cut out as a sprite."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from person_search.synth.appearance import Colour

Points = NDArray[np.float64]
Pixels = NDArray[np.uint8]

_SUBPIXEL_BITS = 4
_FULL_LIGHT = 200
_EDGE_LIGHT = 160
_TURN = np.linspace(0, 2 * np.pi, 24, endpoint=False)
_CIRCLE = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=1)
_HALF_TURN = np.linspace(np.pi / 2, 3 * np.pi / 2, 9)
_HALF_CIRCLE = np.stack([np.cos(_HALF_TURN), np.sin(_HALF_TURN)], axis=1)


@dataclass(frozen=True, eq=False, slots=True)
class Sprite:
    """A drawn object.

    Attributes:
        rgba: (H, W, 4) uint8; red, green and blue are already multiplied by the coverage in the fourth channel.
        foot: (x, y) pixels of ``rgba`` of the point that stands on the ground.
    """

    rgba: Pixels
    foot: tuple[float, float]

    def extent(self) -> tuple[int, int, int, int] | None:
        """``(x1, y1, x2, y2)``, the tight box of pixels covered at least half, or None if there are none."""
        solid = self.rgba[:, :, 3] >= 128
        columns, rows = np.flatnonzero(solid.any(axis=0)), np.flatnonzero(solid.any(axis=1))
        if not len(columns):
            return None
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


class Canvas:
    """A transparent picture drawn on in units of ``scale`` pixels, with the origin at pixel ``origin``.

    ``light`` is the sideways direction the light comes from, -1 (left) to 1 (right).
    """

    def __init__(self, width: int, height: int, *, origin: tuple[float, float], scale: float, light: float = 0.0):
        self.rgba: Pixels = np.zeros((height, width, 4), np.uint8)
        self.shade: Pixels = np.full((height, width), _EDGE_LIGHT, np.uint8)
        self.origin = np.array(origin, dtype=np.float64)
        self.scale = scale
        self.light = np.array([light, -0.5])

    def fill(self, points: Points, colour: Colour, *, brightness: float = 1.0) -> None:
        """Fill the polygon ``points`` ((N, 2), canvas units, y down), flat."""
        corners = self._pixels(points)
        cv2.fillPoly(self.rgba, [corners], (*colour, 255), lineType=cv2.LINE_AA, shift=_SUBPIXEL_BITS)
        self._light(corners, brightness)

    def solid(self, points: Points, colour: Colour, *, thickness: float, roundness: float = 0.25) -> None:
        """Fill a polygon that looks round: dark at its rim, lit from one side. ``thickness``: its half-width."""
        self.fill(points, colour, brightness=1 - roundness)
        middle = points.mean(axis=0)
        inner = middle + (points - middle) * 0.72 + self.light * thickness * 0.3
        self._light(self._pixels(inner), 1.04)

    def limb(self, start: Points, end: Points, start_radius: float, end_radius: float, colour: Colour) -> None:
        """A tapered round limb from ``start`` to ``end`` ((2,) canvas units)."""
        self.fill(capsule(start, end, start_radius, end_radius), colour, brightness=0.74)
        offset = self.light * min(start_radius, end_radius) * 0.3
        self._light(self._pixels(capsule(start + offset, end + offset, start_radius * 0.62, end_radius * 0.62)), 1.04)

    def band(self, points: Points, colour: Colour, axis: Points, period: float, duty: float, phase: float) -> None:
        """Recolour stripes inside the polygon, perpendicular to ``axis`` ((2,)), ``period`` canvas units apart."""
        corners = self._pixels(points)
        left, top = np.maximum((corners.min(axis=0) >> _SUBPIXEL_BITS), 0)
        right, bottom = (corners.max(axis=0) >> _SUBPIXEL_BITS) + 2
        region = self.rgba[top:bottom, left:right]
        if not region.size:
            return
        inside: Pixels = np.zeros(region.shape[:2], np.uint8)
        shift = np.array([left, top]) << _SUBPIXEL_BITS
        cv2.fillPoly(inside, [(corners - shift).astype(np.int32)], 255, lineType=cv2.LINE_AA, shift=_SUBPIXEL_BITS)
        xs = (np.arange(region.shape[1]) + left - self.origin[0]) / self.scale
        ys = (np.arange(region.shape[0]) + top - self.origin[1]) / self.scale
        wave = ((xs * axis[0])[None, :] + (ys * axis[1])[:, None] - phase) / period % 1.0
        chosen = (wave < duty) & (inside > 127)
        region[chosen, :3] = np.array(colour).astype(np.uint8)

    def sprite(self, reduce: int, softness: float) -> Sprite:
        """The drawing, cropped: shaded, smoothly over ``softness`` canvas units, and shrunk by ``reduce``."""
        left, top, columns, rows = cv2.boundingRect(cv2.extractChannel(self.rgba, 3))
        left, top = left // reduce, top // reduce
        size = (max(1, columns // reduce + 2), max(1, rows // reduce + 2))
        window = np.s_[top * reduce : (top + size[1]) * reduce, left * reduce : (left + size[0]) * reduce]
        size = (self.rgba[window].shape[1] // reduce, self.rgba[window].shape[0] // reduce)
        small = cv2.resize(self.rgba[window], size, interpolation=cv2.INTER_AREA)
        light = cv2.resize(self.shade[window], size, interpolation=cv2.INTER_AREA)
        light = cv2.GaussianBlur(light, (0, 0), max(softness * self.scale / reduce, 0.4))
        shaded = cv2.multiply(small, cv2.merge([light] * 3 + [np.full_like(light, _FULL_LIGHT)]), scale=1 / _FULL_LIGHT)
        return Sprite(shaded, (float(self.origin[0] / reduce) - left, float(self.origin[1] / reduce) - top))

    def _light(self, corners: NDArray[np.int32], brightness: float) -> None:
        cv2.fillPoly(self.shade, [corners], round(_FULL_LIGHT * brightness), shift=_SUBPIXEL_BITS)

    def _pixels(self, points: Points) -> NDArray[np.int32]:
        return np.rint((points * self.scale + self.origin) * (1 << _SUBPIXEL_BITS)).astype(np.int32)


def ellipse(centre: Points | tuple[float, float], radius_x: float, radius_y: float) -> Points:
    """(24, 2) points of an upright ellipse."""
    return _CIRCLE * (radius_x, radius_y) + (centre[0], centre[1])


def rectangle(left: float, top: float, right: float, bottom: float) -> Points:
    """(4, 2) corners."""
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], dtype=np.float64)


def capsule(start: Points, end: Points, start_radius: float, end_radius: float) -> Points:
    """(18, 2) outline of two discs and what lies between them."""
    along, across = float(end[0] - start[0]), float(end[1] - start[1])
    length = math.hypot(along, across) or 1.0
    cosine, sine = along / length, across / length
    back = _HALF_CIRCLE @ np.array([[cosine, sine], [-sine, cosine]])
    return np.concatenate([start + start_radius * back, end - end_radius * back])
