"""Boxes and their labels on pictures, in colours that mean the same everywhere."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from person_search.data.scene import Boxes, as_boxes

Image = NDArray[np.uint8]
Color = tuple[int, int, int]

IDENTITY: Color = (34, 197, 94)
"""A true box whose person has an identity."""
NO_IDENTITY: Color = (59, 130, 246)
"""A true box whose person has no identity."""
BACKGROUND: Color = (239, 68, 68)
"""A box on no person at all."""
RIGHT: Color = IDENTITY
WRONG: Color = BACKGROUND
MISSED: Color = (251, 146, 60)
"""A true box that no detection found."""
IGNORED: Color = (168, 162, 158)
"""A box that counts neither for nor against."""
QUERY: Color = (250, 204, 21)

_Plate = tuple[int, int, int, int]
_INK: Color = (15, 23, 42)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def draw_boxes(
    image: Image,
    boxes: Boxes,
    colors: Color | Sequence[Color],
    labels: Sequence[str] | None = None,
    *,
    thickness: int | None = None,
    dashed: bool = False,
) -> Image:
    """A copy of ``image`` with ``boxes`` drawn on it.

    Every line has a dark rim and every label its own plate, so that both show on any background. Boxes are
    clipped to the picture; those without finite numbers, or wholly outside, are left out.

    Args:
        image: (H, W, 3) uint8, RGB.
        boxes: (N, 4) xyxy, pixels.
        colors: one colour for all boxes, or one for each.
        labels: N short texts, written above the boxes; an empty text draws none.
        thickness: width of the lines, pixels; None: by the picture's size.
        dashed: broken lines, for boxes that are expected rather than found.

    Raises ValueError for another kind of image, or when colours or labels are not as many as the boxes.
    """
    check_image(image)
    boxes = as_boxes(boxes)
    each = _color_of_each(colors, len(boxes))
    if labels is not None and len(labels) != len(boxes):
        raise ValueError(f"expected a label for each of {len(boxes)} boxes, found {len(labels)}")
    if thickness is None:
        thickness = max(1, round(min(image.shape[:2]) / 300))
    drawn = np.ascontiguousarray(image).copy()
    visible = [(number, box) for number, box in enumerate(boxes) if _shows(box, image)]
    for number, box in visible:
        _draw_box(drawn, box, each[number], thickness, dashed)
    plates: list[_Plate] = []
    for number, box in visible:
        if labels is not None and labels[number]:
            plates.append(_draw_label(drawn, labels[number], box, each[number], plates))
    return drawn


def check_image(image: Image) -> None:
    """Raise ValueError unless ``image`` is (H, W, 3) uint8 and not empty."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ValueError(f"expected an (H, W, 3) uint8 picture, found {image.shape} {image.dtype}")


def text_color_on(background: Color) -> Color:
    """Black or white, whichever has the higher contrast on ``background`` (WCAG 2.2 relative luminance)."""
    shares = [value / 255 for value in background]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shares]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if (luminance + 0.05) ** 2 > 1.05 * 0.05 else (255, 255, 255)


def draw_text(image: Image, text: str, left: int, baseline: int, color: Color, height: int) -> None:
    """Write ``text`` into ``image``, capitals about ``height`` pixels high, from ``left`` on ``baseline``."""
    cv2.putText(image, text, (left, baseline), _FONT, _font_scale(height), color, 1, cv2.LINE_AA)


def text_width(text: str, height: int) -> int:
    """Pixels that ``draw_text`` takes for ``text``."""
    return int(cv2.getTextSize(text, _FONT, _font_scale(height), 1)[0][0])


def shorten(text: str, width: int, height: int) -> str:
    """``text``, or as much of its end as fits into ``width`` pixels: names of files differ at their end."""
    if text_width(text, height) <= width:
        return text
    kept = next((n for n in range(len(text) - 1, 0, -1) if text_width(f"...{text[-n:]}", height) <= width), 0)
    return f"...{text[-kept:]}" if kept else ""


def _font_scale(height: int) -> float:
    # Hershey's simplex capitals are 22 pixels high at scale 1.
    return height / 22


def _color_of_each(colors: Color | Sequence[Color], count: int) -> list[Color]:
    if len(colors) == 3 and all(isinstance(c, int | np.integer) for c in colors):
        return [colors] * count  # type: ignore[list-item]
    if len(colors) != count:
        raise ValueError(f"expected one colour or {count}, found {len(colors)}")
    return list(colors)  # type: ignore[arg-type]


def _shows(box: Boxes, image: Image) -> bool:
    height, width = image.shape[:2]
    x1, y1, x2, y2 = box
    inside = x1 < width and y1 < height and x2 > 0 and y2 > 0
    return bool(np.isfinite(box).all() and inside and x1 < x2 and y1 < y2)


def _corners(box: Boxes, image: Image) -> tuple[int, int, int, int]:
    """Whole pixels of the box's outermost rows and columns inside the picture."""
    height, width = image.shape[:2]
    x1, y1 = max(0, math.floor(box[0])), max(0, math.floor(box[1]))
    x2, y2 = min(width, math.ceil(box[2])) - 1, min(height, math.ceil(box[3])) - 1
    return x1, y1, max(x1, x2), max(y1, y2)


def _draw_box(image: Image, box: Boxes, color: Color, thickness: int, dashed: bool) -> None:
    x1, y1, x2, y2 = _corners(box, image)
    ring = [((x1, y1), (x2, y1)), ((x2, y1), (x2, y2)), ((x2, y2), (x1, y2)), ((x1, y2), (x1, y1))]
    lines = [dash for start, end in ring for dash in _dashes(start, end, 5 * thickness)] if dashed else ring
    # A rim around one-pixel lines would be most of the line and hide what lies under crowded boxes.
    rim = [] if thickness == 1 and not dashed else [(_INK, thickness + 2)]
    for shade, width in [*rim, (color, thickness)]:
        for start, end in lines:
            cv2.line(image, start, end, shade, width)


def _dashes(start: tuple[int, int], end: tuple[int, int], length: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    distance = math.dist(start, end)
    count = max(1, round(distance / (2 * length)))
    steps = np.linspace(0, 1, 2 * count + 1)[: 2 * count].reshape(count, 2)
    first, last = np.array(start), np.array(end)
    points = np.rint(first + (last - first) * steps[..., None]).astype(int)
    return [((int(a[0]), int(a[1])), (int(b[0]), int(b[1]))) for a, b in points]


def _draw_label(image: Image, text: str, box: Boxes, color: Color, taken: Sequence[_Plate]) -> _Plate:
    size = max(9, round(min(image.shape[:2]) / 55))
    margin = max(2, size // 4)
    plate = _place_label(image, box, text_width(text, size) + 2 * margin, size + 2 * margin, taken)
    left, top, right, bottom = plate
    cv2.rectangle(image, (left, top), (right - 1, bottom - 1), color, cv2.FILLED)
    draw_text(image, text, left + margin, bottom - margin - 1, text_color_on(color), size)
    return plate


def _place_label(image: Image, box: Boxes, width: int, height: int, taken: Sequence[_Plate]) -> _Plate:
    """Above the box, else below, else inside at its top: the first in the picture that covers no label."""
    x1, y1, _, y2 = _corners(box, image)
    left = max(0, min(x1, image.shape[1] - width))
    places = [(left, top, left + width, top + height) for top in (y1 - height, y2 + 1, y1)]
    inside = [place for place in places if place[1] >= 0 and place[3] <= image.shape[0]]
    free = [place for place in inside if not any(_overlap(place, other) for other in taken)]
    return next(iter(free or inside), places[-1])


def _overlap(a: _Plate, b: _Plate) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
