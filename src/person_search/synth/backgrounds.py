"""The empty street a camera looks at: sky, house fronts, pavement and road, drawn flat and put in perspective."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from person_search.synth.appearance import Colour, draw_appearance
from person_search.synth.cameras import NEAREST, Camera
from person_search.synth.canvas import Pixels
from person_search.synth.figure import draw_person
from person_search.synth.pose import draw_pose

_GROUND_SCALE = 28
_WALL_SCALE = 40
_REACH = 34.0
_WALL_HEIGHT = 9.0
_HOUSES: tuple[Colour, ...] = (
    (176, 120, 96), (206, 188, 156), (150, 148, 146), (190, 164, 120), (226, 220, 206), (128, 92, 78),
    (164, 176, 180), (206, 150, 110), (112, 116, 122),
)  # fmt: skip


def draw_background(rng: np.random.Generator, camera: Camera) -> Pixels:
    """(H, W, 3) uint8 RGB picture of the street without people."""
    oversized = 2
    size = (camera.width * oversized, camera.height * oversized)
    zoom = np.diag([oversized, oversized, 1.0])
    projection = zoom @ camera.matrix()
    picture = _sky(rng, size, camera.horizon * oversized)
    _end_of_street(rng, picture, camera, oversized)
    _lay_ground(rng, picture, camera, projection)
    walls = [camera.left_wall, camera.right_wall]
    for across in sorted(walls, key=lambda wall: -abs(wall)):
        _put_wall(rng, picture, camera, projection, across)
    small = cv2.resize(picture, (camera.width, camera.height), interpolation=cv2.INTER_AREA)
    grain = (
        rng.normal(0, 3, (camera.height, camera.width, 1))
        + cv2.resize(rng.normal(0, 5, (camera.height // 16, camera.width // 16)), (camera.width, camera.height))[
            :, :, None
        ]
    )
    return np.clip(small + grain, 0, 255).astype(np.uint8)


def _sky(rng: np.random.Generator, size: tuple[int, int], horizon: float) -> Pixels:
    top = np.array(
        [(120, 170, 230), (186, 196, 206), (150, 186, 220), (206, 206, 204)][rng.integers(4)], dtype=np.float64
    )
    low = top * 0.35 + np.array([235, 235, 232]) * 0.65
    blend = np.clip(np.arange(size[1]) / max(horizon, 1.0), 0, 1)[:, None]
    rows = top * (1 - blend) + low * blend
    return np.repeat(rows[:, None, :], size[0], axis=1).astype(np.uint8)


def _end_of_street(rng: np.random.Generator, picture: Pixels, camera: Camera, zoom: int) -> None:
    """Far blocks and trees that stand on the horizon."""
    base = round(camera.horizon * zoom + 0.02 * camera.height * zoom)
    left = 0
    while left < picture.shape[1]:
        wide = int(rng.uniform(0.06, 0.2) * picture.shape[1])
        tall = int(rng.uniform(0.05, 0.3) * camera.height * zoom)
        colour = np.array(_HOUSES[rng.integers(len(_HOUSES))]) * 0.5 + np.array([190, 200, 206]) * 0.5
        if rng.random() < 0.35:
            green = np.array([96, 124, 84]) + rng.normal(0, 12, 3)
            cv2.ellipse(
                picture, (left + wide // 2, base), (wide // 2 + 8, tall // 2 + 6), 0, 180, 360, green.tolist(), -1
            )
        else:
            cv2.rectangle(picture, (left, base - tall), (left + wide, base), colour.tolist(), -1)
            for row in range(base - tall + 8, base - 8, 18):
                for column in range(left + 6, left + wide - 8, 16):
                    cv2.rectangle(picture, (column, row), (column + 7, row + 9), (colour * 0.75).tolist(), -1)
        left += wide


def _lay_ground(rng: np.random.Generator, picture: Pixels, camera: Camera, projection: NDArray[np.float64]) -> None:
    """Pavement, kerb, road and its markings: drawn from above, then seen from the camera."""
    half = int(_REACH * _GROUND_SCALE)
    pavement = np.array(
        [(168, 164, 158), (150, 146, 142), (184, 172, 152), (136, 138, 142), (172, 142, 124)][rng.integers(5)]
    )
    flat = np.empty((2 * half, 2 * half, 3), np.uint8)
    flat[:] = pavement
    _tiles(rng, flat, pavement)
    left, right = (int(edge * _GROUND_SCALE) + half for edge in camera.road)
    asphalt = int(rng.integers(78, 118))
    cv2.rectangle(flat, (left, 0), (right, 2 * half), (asphalt, asphalt, asphalt + 3), -1)
    for edge in (left, right):
        cv2.rectangle(flat, (edge - 5, 0), (edge + 5, 2 * half), (196, 194, 188), -1)
    middle = (left + right) // 2
    for start in range(0, 2 * half, 5 * _GROUND_SCALE):
        cv2.rectangle(flat, (middle - 2, start), (middle + 2, start + 2 * _GROUND_SCALE), (214, 214, 206), -1)
    if rng.random() < 0.5:
        crossing = half + int(rng.uniform(3, 9) * _GROUND_SCALE)
        for stripe in range(left + 10, right - 10, 32):
            cv2.rectangle(flat, (stripe, crossing), (stripe + 16, crossing + 3 * _GROUND_SCALE), (222, 222, 216), -1)
    for _ in range(60):
        spot = tuple(int(value) for value in rng.integers(0, 2 * half, 2))
        axes = tuple(int(value) for value in rng.integers(4, 26, 2))
        shade = (flat[spot[1], spot[0]] * rng.uniform(0.75, 0.95)).tolist()
        cv2.ellipse(flat, spot, axes, float(rng.uniform(0, 180)), 0, 360, shade, -1, lineType=cv2.LINE_AA)
    flat = _speckled(rng, flat, 4)
    to_street = np.array([[1 / _GROUND_SCALE, 0, -_REACH], [0, 1 / _GROUND_SCALE, -_REACH], [0, 0, 0], [0, 0, 1]])
    seen = cv2.warpPerspective(
        flat, projection @ to_street, picture.shape[1::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    first = round(projection[1] @ np.array([0, 1e6, 0, 1]) / 1e6 / projection[2, 1]) + 3
    picture[first:] = seen[first:]


def _tiles(rng: np.random.Generator, flat: Pixels, colour: NDArray[np.int64]) -> None:
    step = int(rng.uniform(0.5, 1.6) * _GROUND_SCALE)
    joint = (colour * 0.82).tolist()
    for place in range(0, flat.shape[0], step):
        cv2.line(flat, (place, 0), (place, flat.shape[0]), joint, 1)
        cv2.line(flat, (0, place), (flat.shape[1], place), joint, 1)
    for _ in range(400):
        x, y = (int(value) * step for value in rng.integers(0, flat.shape[0] // step, 2))
        tone = (colour * rng.uniform(0.9, 1.06)).clip(0, 255).tolist()
        cv2.rectangle(flat, (x + 1, y + 1), (x + step - 1, y + step - 1), tone, -1)


def _put_wall(
    rng: np.random.Generator, picture: Pixels, camera: Camera, projection: NDArray[np.float64], across: float
) -> None:
    """A row of houses along the street at ``across``."""
    flat = _house_fronts(rng, camera.sun * np.sign(across))
    part = camera.visible_along(across, _REACH)
    if part is None:
        return
    # Pixel (i, j) of the flat picture is i / scale along the street and (rows - j) / scale above the ground.
    to_street = np.array(
        [[0, 0, across], [1 / _WALL_SCALE, 0, -_REACH], [0, -1 / _WALL_SCALE, _WALL_HEIGHT], [0, 0, 1]]
    )
    corners = np.array(
        [
            [across, along, up, 1]
            for along, up in ((part[0], 0), (part[1], 0), (part[1], _WALL_HEIGHT), (part[0], _WALL_HEIGHT))
        ]
    )
    seen = corners @ projection.T
    assert (seen[:, 2] >= NEAREST * 0.9).all()
    outline = seen[:, :2] / seen[:, 2:]
    mask: Pixels = np.zeros(picture.shape[:2], np.uint8)
    cv2.fillConvexPoly(mask, np.rint(outline).astype(np.int32), 255)
    warped = cv2.warpPerspective(
        flat, projection @ to_street, picture.shape[1::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    np.copyto(picture, warped, where=(mask > 0)[:, :, None])


def _house_fronts(rng: np.random.Generator, lit: float) -> Pixels:
    columns, rows = int(2 * _REACH * _WALL_SCALE), int(_WALL_HEIGHT * _WALL_SCALE)
    flat: Pixels = np.empty((rows, columns, 3), np.uint8)
    left = 0
    while left < columns:
        right = min(columns, left + int(rng.uniform(4, 9) * _WALL_SCALE))
        _house(rng, flat[:, left:right])
        left = right
    return _speckled(rng, cv2.convertScaleAbs(flat, alpha=0.92 + 0.1 * lit), 4)


def _speckled(rng: np.random.Generator, flat: Pixels, spread: float) -> Pixels:
    """``flat`` with grey noise two pixels wide, of standard deviation ``spread``."""
    rows, columns = flat.shape[:2]
    coarse = rng.normal(0, spread, (rows // 2, columns // 2)).astype(np.float32)
    grain = cv2.resize(coarse, (columns, rows))
    speckled: Pixels = cv2.add(flat, cv2.cvtColor(grain, cv2.COLOR_GRAY2RGB), dtype=cv2.CV_8U)
    return speckled


def _house(rng: np.random.Generator, front: Pixels) -> None:
    """Paint one house over ``front``: shop or door below, windows above."""
    rows, columns = front.shape[:2]
    colour = np.clip(np.array(_HOUSES[rng.integers(len(_HOUSES))]) + rng.normal(0, 10, 3), 40, 240)
    front[:] = colour.astype(np.uint8)
    if rng.random() < 0.4:
        for row in range(0, rows, 6):
            front[row] = (colour * 0.9).astype(np.uint8)
    storey = int(3.1 * _WALL_SCALE)
    glass = np.array([(64, 78, 92), (90, 104, 116), (48, 54, 62), (120, 134, 144)][rng.integers(4)], dtype=np.float64)
    frame = (colour * 0.55).tolist() if rng.random() < 0.5 else (228, 226, 220)
    wide, gap = int(rng.uniform(0.8, 1.4) * _WALL_SCALE), int(rng.uniform(0.5, 1.1) * _WALL_SCALE)
    for level in range(1, 3):
        top = rows - (level + 1) * storey + int(0.6 * _WALL_SCALE)
        for x in range(gap, columns - wide - 4, wide + gap):
            _pane(front, (x, top, x + wide, top + int(1.7 * _WALL_SCALE)), glass, frame)
    cv2.rectangle(front, (0, rows - storey - 8), (columns, rows - storey), (colour * 0.75).tolist(), -1)
    if rng.random() < 0.6:
        _shop(rng, front, glass)
    else:
        _door_and_windows(rng, front, glass, frame)
    cv2.rectangle(front, (0, rows - 10), (columns, rows), (colour * 0.6).tolist(), -1)


def _pane(
    front: Pixels, box: tuple[int, int, int, int], glass: NDArray[np.float64], frame: tuple[int, ...] | list[float]
) -> None:
    left, top, right, bottom = box
    cv2.rectangle(front, (left - 3, top - 3), (right + 3, bottom + 3), frame, -1)
    cv2.rectangle(front, (left, top), (right, bottom), glass.tolist(), -1)
    shine = np.array(
        [[left, top + (bottom - top) // 2], [left + (right - left) // 2, top], [right, top], [left, bottom]]
    )
    cv2.fillPoly(front, [shine.astype(np.int32)], (glass * 0.75 + 50).tolist())
    cv2.line(front, ((left + right) // 2, top), ((left + right) // 2, bottom), frame, 2)


def _shop(rng: np.random.Generator, front: Pixels, glass: NDArray[np.float64]) -> None:
    """A shop window with a sign, an awning now and then, and posters of people, some of them life-size."""
    rows, columns = front.shape[:2]
    top, low = rows - int(2.6 * _WALL_SCALE), rows - int(0.35 * _WALL_SCALE)
    sign = rng.uniform(30, 225, 3)
    cv2.rectangle(front, (8, top), (columns - 8, low), (glass * 0.8).tolist(), -1)
    for x in range(8, columns, int(1.9 * _WALL_SCALE)):
        cv2.line(front, (x, top), (x, low), (46, 46, 48), 4)
        reflection = np.array([[x + 10, low], [x + 40, top], [x + 58, top], [x + 28, low]], dtype=np.int32)
        cv2.fillPoly(front, [reflection], (glass * 0.8 + 14).tolist())
    cv2.rectangle(front, (4, top - 26), (columns - 4, top - 2), sign.tolist(), -1)
    for x in range(20, columns - 30, 18):
        if rng.random() < 0.7:
            cv2.rectangle(front, (x, top - 20), (x + 9, top - 9), (255 - sign).tolist(), -1)
    if rng.random() < 0.4:
        for number, x in enumerate(range(4, columns - 12, 14)):
            tone = sign.tolist() if number % 2 else (236, 234, 228)
            cv2.rectangle(front, (x, top - 2), (x + 13, top + 22), tone, -1)
    if rng.random() < 0.6 and columns > 120:
        paste_poster(rng, front, int(rng.integers(16, columns - 70)), low - 6, rng.uniform(0.9, 1.9) * _WALL_SCALE)


def _door_and_windows(
    rng: np.random.Generator, front: Pixels, glass: NDArray[np.float64], frame: tuple[int, ...] | list[float]
) -> None:
    rows, columns = front.shape[:2]
    low = rows - 8
    door = int(rng.integers(10, max(11, columns - 60)))
    tone = np.array([(90, 50, 40), (40, 70, 60), (60, 60, 70), (120, 90, 60), (130, 36, 40)][rng.integers(5)])
    cv2.rectangle(front, (door - 4, low - 88), (door + 44, low), frame, -1)
    cv2.rectangle(front, (door, low - 84), (door + 40, low), tone.tolist(), -1)
    cv2.rectangle(front, (door + 7, low - 74), (door + 33, low - 44), (tone * 0.7).tolist(), -1)
    for x in range(14, columns - 50, 90):
        if abs(x - door) > 60:
            _pane(front, (x, low - 84, x + 44, low - 30), glass, frame)


def paste_poster(rng: np.random.Generator, front: Pixels, left: int, bottom: int, tall: float) -> None:
    """A flat picture of a person in a frame, its lower left corner at ``(left, bottom)``, ``tall`` pixels high."""
    person = draw_appearance(rng, 0.3)
    figure = draw_person(person, draw_pose(rng, person, 0.05), tall * 0.86, 0.0).rgba
    wide = int(tall * 0.52)
    board = np.empty((int(tall), wide, 3), np.uint8)
    board[:] = rng.uniform(90, 245, 3)
    centre = figure[:, max(0, (figure.shape[1] - wide) // 2) :][: int(tall), :wide].astype(np.float64)
    patch = board[-centre.shape[0] :, : centre.shape[1]]
    patch[:] = np.clip(patch * (1 - centre[:, :, 3:] / 255) + centre[:, :, :3], 0, 255)
    cv2.rectangle(board, (0, 0), (wide - 1, int(tall) - 1), (40, 40, 44), 2)
    top = max(0, bottom - int(tall))
    target = front[top:bottom, left : left + wide]
    target[:] = board[: target.shape[0], : target.shape[1]]
