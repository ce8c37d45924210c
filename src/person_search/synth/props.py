"""Things of the street: some hide people, some look like people. None of them is one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from person_search.synth.appearance import NEUTRALS, VIVID, Colour, draw_appearance
from person_search.synth.canvas import Canvas, Points, Sprite, capsule, ellipse, rectangle
from person_search.synth.figure import darker, draw_person
from person_search.synth.pose import Pose

Draw = Callable[[np.random.Generator, float, float], Sprite]
"""(rng, pixels per metre, light) -> the thing, standing on its foot point."""

_REDUCE = 2


def lamp_post(rng: np.random.Generator, scale: float, light: float) -> Sprite:
    """A post of 2.4 to 3.4 m, often with a traffic sign."""
    tall = rng.uniform(2.4, 3.4)
    canvas = _canvas(0.9, tall + 0.5, scale, light)
    metal = _any_of(rng, ((70, 74, 78), (150, 152, 150), (44, 60, 52)))
    canvas.limb(_at(0, -0.05), _at(0, -tall), 0.075, 0.045, metal)
    canvas.limb(_at(0, -0.02), _at(0, -0.3), 0.12, 0.1, metal)
    if rng.random() < 0.6:
        canvas.fill(ellipse((0, -tall + 0.3), 0.3, 0.3), (232, 232, 232))
        canvas.fill(ellipse((0, -tall + 0.3), 0.25, 0.25), _any_of(rng, ((196, 40, 44), (40, 84, 170), (230, 196, 50))))
    else:
        canvas.solid(ellipse((0, -tall), 0.16, 0.2), (236, 230, 200), thickness=0.1)
    return canvas.sprite(_REDUCE, 0.02)


def bollard(rng: np.random.Generator, scale: float, light: float) -> Sprite:
    """A post about as high as a child, with a head of another colour."""
    tall = rng.uniform(0.9, 1.4)
    canvas = _canvas(0.6, tall + 0.3, scale, light)
    canvas.limb(_at(0, -0.12), _at(0, -tall), 0.15, 0.12, _paint(rng))
    canvas.limb(_at(0, -tall * 0.72), _at(0, -tall * 0.62), 0.145, 0.145, _paint(rng))
    canvas.solid(ellipse((0, -tall - 0.02), 0.13, 0.14), _paint(rng), thickness=0.1)
    return canvas.sprite(_REDUCE, 0.02)


def dustbin(rng: np.random.Generator, scale: float, light: float) -> Sprite:
    """A bin of 0.9 to 1.4 m with a lid."""
    tall, half = rng.uniform(0.9, 1.4), rng.uniform(0.24, 0.34)
    canvas = _canvas(1.0, tall + 0.4, scale, light)
    colour = _paint(rng)
    body = np.array([[-half, -tall], [half, -tall], [half * 0.86, -0.04], [-half * 0.86, -0.04]])
    canvas.solid(body, colour, thickness=half)
    canvas.solid(ellipse((0, -tall), half * 1.1, 0.13), darker(colour, 0.8), thickness=half)
    if rng.random() < 0.5:
        canvas.fill(rectangle(-half * 0.5, -tall * 0.7, half * 0.5, -tall * 0.45), (230, 230, 224))
    return canvas.sprite(_REDUCE, 0.03)


def parking_meter(rng: np.random.Generator, scale: float, light: float) -> Sprite:
    """A slim body with a box for a head: the outline of a person seen from far."""
    canvas = _canvas(0.9, 2.0, scale, light)
    body, head = _paint(rng), _paint(rng)
    canvas.limb(_at(0, -0.05), _at(0, -0.75), 0.11, 0.11, darker(body, 0.7))
    canvas.solid(rectangle(-0.2, -1.4, 0.2, -0.72), body, thickness=0.2)
    canvas.solid(ellipse((0, -1.56), 0.13, 0.15), head, thickness=0.12)
    return canvas.sprite(_REDUCE, 0.02)


def advertising_board(rng: np.random.Generator, scale: float, light: float) -> Sprite:
    """A free-standing board with a nearly life-size picture of a person."""
    canvas = _canvas(1.3, 2.2, scale, light)
    colour = _paint(rng)
    for x in (-0.4, 0.4):
        canvas.limb(_at(x, -0.02), _at(x, -0.3), 0.03, 0.03, (60, 60, 62))
    canvas.fill(rectangle(-0.5, -1.98, 0.5, -0.2), darker(colour, 0.6))
    canvas.fill(rectangle(-0.46, -1.94, 0.46, -0.24), colour)
    canvas.fill(rectangle(-0.46, -0.5, 0.46, -0.24), (236, 236, 230))
    board = canvas.sprite(_REDUCE, 0.02)
    person = draw_appearance(rng, 0.3)
    figure = draw_person(person, _standing(rng), 1.42 * scale, light)
    return _onto(board, figure, 0.48 * scale)


def mannequin(rng: np.random.Generator, scale: float, light: float) -> Sprite:
    """A shop dummy in nothing but a top, without a face, on a round base."""
    dummy = _any_of(rng, ((236, 232, 226), (44, 44, 46), (200, 190, 176)))
    person = replace(
        draw_appearance(rng, 0.5),
        skin=dummy,
        legs_colour=dummy,
        lower="shorts",
        lower_colour=darker(dummy, 0.9),
        shoe_colour=dummy,
        hair="bald",
        hat="none",
        bag="none",
    )
    figure = draw_person(person, _standing(rng), 1.6 * scale, light, face=False)
    return _on_base(figure, scale, light, (120, 120, 122))


def statue(rng: np.random.Generator, scale: float, light: float) -> Sprite:
    """A life-size figure of stone or bronze."""
    stone = _any_of(rng, ((150, 150, 146), (84, 96, 84), (112, 84, 58), (196, 190, 178)))
    person = replace(
        draw_appearance(rng, 0.5),
        skin=stone,
        hair_colour=darker(stone, 0.8),
        hat="none",
        upper_colour=stone,
        second_colour=darker(stone, 0.85),
        pattern="plain",
        lower_colour=darker(stone, 0.9),
        legs_colour=stone,
        shoe_colour=darker(stone, 0.8),
        bag="none",
    )
    return _on_base(
        draw_person(person, _standing(rng), 1.7 * scale, light, face=False), scale, light, darker(stone, 0.8)
    )


def bush(rng: np.random.Generator, scale: float, light: float) -> Sprite:
    """A planter with leaves, 0.9 to 1.4 m high."""
    canvas = _canvas(1.8, 2.0, scale, light)
    canvas.solid(
        rectangle(-0.5, -0.45, 0.5, 0.0), _any_of(rng, ((150, 110, 84), (120, 120, 118), (92, 70, 54))), thickness=0.3
    )
    _leaves(rng, canvas, (0.0, -0.8), 0.42, 26)
    return canvas.sprite(_REDUCE, 0.02)


def tree(rng: np.random.Generator, scale: float, light: float) -> Sprite:
    """A tree of about 4 m."""
    canvas = _canvas(3.0, 5.0, scale, light)
    canvas.limb(_at(0, 0), _at(rng.normal(0, 0.1), -2.6), 0.17, 0.1, (92, 70, 54))
    _leaves(rng, canvas, (0.0, -3.4), 0.85, 60)
    return canvas.sprite(_REDUCE, 0.03)


def bench(rng: np.random.Generator, scale: float, light: float) -> Sprite:
    """A bench, 1.6 m wide."""
    canvas = _canvas(2.2, 1.2, scale, light)
    wood = _any_of(rng, ((140, 96, 60), (84, 108, 84), (110, 110, 112)))
    for x in (-0.65, 0.65):
        canvas.limb(_at(x, 0), _at(x, -0.8), 0.035, 0.035, (50, 50, 52))
    for top in (-0.86, -0.7, -0.48):
        canvas.solid(rectangle(-0.8, top, 0.8, top + 0.11), wood, thickness=0.05)
    return canvas.sprite(_REDUCE, 0.01)


def parked_car(rng: np.random.Generator, scale: float, light: float) -> Sprite:
    """A car from the side, 4.1 m long and 1.45 m high."""
    canvas = _canvas(5.0, 1.8, scale, light)
    colour, flip = _paint(rng), float(rng.choice([-1, 1]))

    def mirrored(points: list[tuple[float, float]]) -> Points:
        return np.array(points) * (flip, 1.0)

    cabin = [(-1.55, -0.85), (-1.15, -1.38), (0.45, -1.42), (1.05, -0.9)]
    canvas.solid(mirrored(cabin), colour, thickness=0.4)
    canvas.fill(mirrored([(-1.35, -0.88), (-1.05, -1.28), (-0.35, -1.31), (-0.35, -0.88)]), (58, 70, 82))
    canvas.fill(mirrored([(-0.26, -0.88), (-0.26, -1.31), (0.4, -1.32), (0.85, -0.9)]), (58, 70, 82))
    body = [
        (-2.05, -0.35),
        (-2.0, -0.82),
        (-1.5, -0.92),
        (1.1, -0.92),
        (1.9, -0.72),
        (2.05, -0.35),
        (1.95, -0.24),
        (-1.98, -0.24),
    ]
    canvas.solid(mirrored(body), colour, thickness=0.4)
    canvas.fill(mirrored([(1.82, -0.66), (2.0, -0.6), (2.0, -0.5), (1.84, -0.52)]), (240, 236, 210))
    for x in (-1.25, 1.25):
        canvas.fill(ellipse((x * flip, -0.32), 0.34, 0.33), (26, 26, 28))
        canvas.fill(ellipse((x * flip, -0.32), 0.19, 0.18), (150, 152, 154))
    return canvas.sprite(_REDUCE, 0.04)


LOOK_ALIKES: dict[Draw, float] = {
    lamp_post: 0.2,
    bollard: 0.18,
    dustbin: 0.2,
    parking_meter: 0.18,
    advertising_board: 0.1,
    mannequin: 0.07,
    statue: 0.07,
}
"""What a careless detector takes for a person, with its share."""

OBSTACLES: dict[Draw, float] = {
    lamp_post: 0.16,
    dustbin: 0.12,
    bush: 0.2,
    bench: 0.14,
    tree: 0.14,
    parked_car: 0.18,
    advertising_board: 0.06,
}
"""What always stands in a street, with its share."""


def draw_thing(rng: np.random.Generator, kinds: dict[Draw, float], scale: float, light: float) -> Sprite:
    """One of ``kinds``, chosen by its share."""
    draw = list(kinds)[int(rng.choice(len(kinds), p=list(kinds.values())))]
    return draw(rng, scale, light)


def _canvas(width: float, height: float, scale: float, light: float) -> Canvas:
    """Room for ``width`` x ``height`` metres above the foot point, and a little below."""
    pixels = scale * _REDUCE
    columns, rows = (int(np.ceil(metres * scale)) * _REDUCE for metres in (width, height + 0.1))
    return Canvas(columns, rows, origin=(columns / 2, height * pixels), scale=pixels, light=light)


def _at(x: float, y: float) -> Points:
    return np.array([x, y], dtype=np.float64)


def _any_of(rng: np.random.Generator, colours: tuple[Colour, ...]) -> Colour:
    return colours[int(rng.integers(len(colours)))]


def _paint(rng: np.random.Generator) -> Colour:
    return _any_of(rng, NEUTRALS + VIVID)


def _leaves(rng: np.random.Generator, canvas: Canvas, centre: tuple[float, float], spread: float, count: int) -> None:
    green = np.array(_any_of(rng, ((74, 112, 60), (98, 128, 66), (60, 96, 70), (128, 120, 60))))
    for _ in range(count):
        x, y = rng.normal(0, spread * 0.5, 2)
        tone = np.clip(green * rng.uniform(0.7, 1.25), 0, 255)
        size = spread * rng.uniform(0.16, 0.34)
        spot = ellipse((centre[0] + x, centre[1] + np.clip(y, -spread, spread)), size, size * 0.85)
        canvas.fill(spot, (tone[0], tone[1], tone[2]), brightness=rng.uniform(0.8, 1.05))


def _standing(rng: np.random.Generator) -> Pose:
    return Pose(
        float(rng.uniform(-1.2, 1.2)),
        float(rng.uniform(0, 6.2)),
        float(rng.uniform(0, 0.35)),
        "swing",
        "swing",
        0.0,
        0.08,
    )


def _on_base(figure: Sprite, scale: float, light: float, colour: Colour) -> Sprite:
    canvas = _canvas(1.0, 0.4, scale, light)
    canvas.solid(capsule(_at(-0.18, -0.06), _at(0.18, -0.06), 0.08, 0.08), colour, thickness=0.1)
    return _onto(canvas.sprite(_REDUCE, 0.02), figure, 0.1 * scale)


def _onto(below: Sprite, above: Sprite, raise_by: float) -> Sprite:
    """``above`` drawn over ``below``, its foot ``raise_by`` pixels higher, on a picture large enough for both."""
    left = round(max(below.foot[0], above.foot[0]))
    top = round(max(below.foot[1], above.foot[1] + raise_by))
    sizes = [
        (sprite.rgba.shape[1] - sprite.foot[0], sprite.rgba.shape[0] - sprite.foot[1] - lift)
        for sprite, lift in ((below, 0.0), (above, raise_by))
    ]
    width = left + int(np.ceil(max(size[0] for size in sizes))) + 1
    height = top + int(np.ceil(max(size[1] for size in sizes))) + 1
    joined = np.zeros((height, width, 4), np.float32)
    for sprite, lift in ((below, 0.0), (above, raise_by)):
        x, y = left - round(sprite.foot[0]), top - round(sprite.foot[1] + lift)
        part = sprite.rgba.astype(np.float32)
        target = joined[max(y, 0) : y + part.shape[0], max(x, 0) : x + part.shape[1]]
        part = part[max(-y, 0) :, max(-x, 0) :]
        target *= 1 - part[:, :, 3:] / 255
        target += part
    return Sprite(np.clip(joined, 0, 255).astype(np.uint8), (float(left), float(top)))
