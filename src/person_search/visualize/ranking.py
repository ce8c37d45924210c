"""A ranking list as one picture: the query on the left, the most similar people on the right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from person_search.data.scene import Boxes
from person_search.visualize.boxes import (
    BACKGROUND,
    IGNORED,
    QUERY,
    RIGHT,
    Color,
    Image,
    check_image,
    draw_boxes,
    draw_text,
    shorten,
    text_color_on,
)

_PAPER: Color = (255, 255, 255)
_INK: Color = (31, 41, 55)
_FAINT: Color = (75, 85, 99)
_GAP = 12
_TEXT = 10
_LINE = 18


@dataclass(frozen=True, eq=False, slots=True)
class Hit:
    """One person of a ranking list.

    Attributes:
        image: (H, W, 3) uint8, RGB, the whole scene.
        box: (4,) xyxy, pixels of ``image``.
        similarity: to the query.
        correct: whether it is the person asked for; None where nobody knows.
        name: of the scene.
    """

    image: Image
    box: Boxes
    similarity: float
    correct: bool | None = None
    name: str = ""


def ranking_list(
    query_image: Image,
    query_box: Boxes,
    hits: Sequence[Hit],
    *,
    query_name: str = "",
    whole_scenes: bool = False,
    height: int = 240,
    columns: int = 10,
) -> Image:
    """The query and its hits side by side, (H, W, 3) uint8 RGB.

    Right hits have a green frame and a tick, wrong ones a red frame and a cross, unjudged ones a grey frame;
    beneath stand rank, similarity and scene name.

    Args:
        query_image: (H, W, 3) uint8, RGB.
        query_box: (4,) xyxy, pixels of ``query_image``.
        hits: best first.
        query_name: scene name of the query.
        whole_scenes: show whole scenes with the box instead of the person cut out.
        height: of each picture, pixels.
        columns: hits in a row; more go on in the next row.

    Raises ValueError for a picture that is not (H, W, 3) uint8 or a height or number of columns below one.
    """
    if height < 1 or columns < 1:
        raise ValueError(f"expected height and columns of at least 1, found {height} and {columns}")
    shown = _picture(query_image, query_box, QUERY, whole_scenes, height)
    query = _tile(shown, QUERY, None, "query", query_name)
    tiles: list[Image] = []
    for rank, hit in enumerate(hits, start=1):
        color = frame_color(hit.correct)
        shown = _picture(hit.image, hit.box, color, whole_scenes, height)
        tiles.append(_tile(shown, color, hit.correct, f"{rank}.  {hit.similarity:.3f}", hit.name))
    rows = [_beside(tiles[start : start + columns]) for start in range(0, len(tiles), columns)]
    divider = _blank(query.shape[0], 2, (209, 213, 219))
    return _with_margin(_beside([query, divider, _stacked(rows)] if rows else [query]))


def crop_person(image: Image, box: Boxes, *, context: float = 0.15) -> tuple[Image, Boxes]:
    """The part of ``image`` around ``box``, clipped at its edge, and the box in pixels of that part.

    Args:
        image: (H, W, 3) uint8, RGB.
        box: (4,) xyxy, pixels; may reach beyond the picture.
        context: added on each side, as a share of the box's longer side.

    Returns a view of at least 2 x 2 pixels where the picture has them; of a box wholly outside, the nearest
    edge.
    Raises ValueError for a picture that is not (H, W, 3) uint8 or a box without four finite numbers.
    """
    check_image(image)
    corners = np.asarray(box, dtype=np.float64)
    if corners.shape != (4,) or not np.isfinite(corners).all():
        raise ValueError(f"expected a box of four finite numbers, found {corners.tolist()}")
    pad = context * max(corners[2] - corners[0], corners[3] - corners[1], 0.0)
    height, width = image.shape[:2]
    left, right = _span(corners[0] - pad, corners[2] + pad, width)
    top, bottom = _span(corners[1] - pad, corners[3] + pad, height)
    inside = (corners - [left, top, left, top]).astype(np.float32)
    return image[top:bottom, left:right], inside


def frame_color(correct: bool | None) -> Color:
    """Green for right, red for wrong, grey for unjudged."""
    if correct is None:
        return IGNORED
    return RIGHT if correct else BACKGROUND


def fit_height(image: Image, height: int) -> Image:
    """``image`` at another height, its aspect ratio kept."""
    scale = height / image.shape[0]
    width = max(1, round(image.shape[1] * scale))
    # Area averaging shrinks without moiré; cubic keeps enlarged people from looking like blocks.
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), dtype=np.uint8)


def _span(low: float, high: float, size: int) -> tuple[int, int]:
    start = int(np.clip(np.floor(low), 0, max(0, size - 2)))
    stop = int(np.clip(np.ceil(high), min(start + 2, size), size))
    return start, stop


def _picture(image: Image, box: Boxes, color: Color, whole_scene: bool, height: int) -> Image:
    check_image(image)
    shown, inside = (image, np.asarray(box, np.float32)) if whole_scene else crop_person(image, box)
    outline = inside * (height / shown.shape[0])
    resized = fit_height(shown, height)
    if not whole_scene:
        return draw_boxes(resized, outline, color, thickness=1)
    # People are small in whole scenes: a box around them, not on their edge, leaves something of them to see.
    return draw_boxes(resized, outline + np.array([-3, -3, 3, 3], np.float32), color, thickness=2)


def _tile(picture: Image, color: Color, correct: bool | None, title: str, name: str) -> Image:
    """A picture with its frame, mark and two lines of text beneath."""
    framed = cv2.copyMakeBorder(picture, 4, 4, 4, 4, cv2.BORDER_CONSTANT, value=color)
    width = max(framed.shape[1], 84)
    tile = _blank(framed.shape[0] + 2 * _LINE + 4, width, _PAPER)
    left = (width - framed.shape[1]) // 2
    tile[: framed.shape[0], left : left + framed.shape[1]] = framed
    if correct is not None:
        _draw_mark(tile, left, color, correct)
    baseline = framed.shape[0] + _LINE - 3
    draw_text(tile, shorten(title, width, _TEXT), left, baseline, _INK, _TEXT)
    draw_text(tile, shorten(name, width - left, _TEXT - 1), left, baseline + _LINE, _FAINT, _TEXT - 1)
    return tile


def _draw_mark(tile: Image, left: int, color: Color, correct: bool) -> None:
    """A tick or a cross on a plate in the picture's upper left corner: right and wrong without colour."""
    plate = 22
    cv2.rectangle(tile, (left, 0), (left + plate, plate), color, cv2.FILLED)
    ink = text_color_on(color)
    strokes = [[(5, 12), (9, 17), (17, 6)]] if correct else [[(6, 6), (16, 16)], [(16, 6), (6, 16)]]
    for stroke in strokes:
        points = np.array([(left + x, y) for x, y in stroke], np.int32)
        cv2.polylines(tile, [points], False, ink, 2, cv2.LINE_AA)


def _blank(height: int, width: int, color: Color) -> Image:
    return np.full((height, width, 3), color, np.uint8)


def _beside(parts: Sequence[Image]) -> Image:
    height = max(part.shape[0] for part in parts)
    columns: list[Image] = []
    for part in parts:
        if columns:
            columns.append(_blank(height, _GAP, _PAPER))
        columns.append(np.vstack([part, _blank(height - part.shape[0], part.shape[1], _PAPER)]))
    return np.hstack(columns)


def _stacked(rows: Sequence[Image]) -> Image:
    width = max(row.shape[1] for row in rows)
    return np.vstack([np.hstack([row, _blank(row.shape[0], width - row.shape[1], _PAPER)]) for row in rows])


def _with_margin(image: Image) -> Image:
    bordered = cv2.copyMakeBorder(image, _GAP, _GAP, _GAP, _GAP, cv2.BORDER_CONSTANT, value=_PAPER)
    return np.asarray(bordered, dtype=np.uint8)
