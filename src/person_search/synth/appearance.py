"""What stays the same about a person: body, hair, clothes and what they carry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

Kind = TypeVar("Kind", bound=str)

Colour = tuple[float, float, float]
"""Red, green, blue, 0..255."""

Pattern = Literal["plain", "stripes", "pinstripes", "checks", "logo", "block"]
Upper = Literal["tshirt", "sweater", "jacket", "coat"]
Lower = Literal["trousers", "shorts", "skirt"]
Hair = Literal["bald", "short", "bob", "long", "bun"]
Hat = Literal["none", "cap", "beanie", "brim"]
Bag = Literal["none", "backpack", "shoulder", "handbag"]

UPPER_KINDS: tuple[Upper, ...] = ("tshirt", "sweater", "jacket", "coat")
PATTERNS: tuple[Pattern, ...] = ("plain", "stripes", "pinstripes", "checks", "logo", "block")
LOWER_KINDS: tuple[Lower, ...] = ("trousers", "shorts", "skirt")
HAIR_KINDS: tuple[Hair, ...] = ("bald", "short", "bob", "long", "bun")
HATS: tuple[Hat, ...] = ("none", "cap", "beanie", "brim")
BAGS: tuple[Bag, ...] = ("none", "backpack", "shoulder", "handbag")

NEUTRALS: tuple[Colour, ...] = (
    (30, 30, 34), (62, 64, 70), (126, 128, 132), (190, 190, 188), (234, 234, 230), (32, 42, 84),
    (104, 76, 56), (196, 174, 140),
)  # fmt: skip
VIVID: tuple[Colour, ...] = (
    (44, 92, 176), (122, 174, 220), (28, 128, 132), (44, 128, 70), (104, 106, 52), (158, 186, 70),
    (232, 196, 62), (224, 116, 40),
    (190, 36, 44), (108, 28, 46), (226, 140, 166), (110, 66, 148),
)  # fmt: skip
LOWER_COLOURS: tuple[Colour, ...] = (
    (30, 30, 34), (66, 68, 74), (132, 134, 138), (34, 44, 82), (66, 92, 138), (132, 160, 194),
    (172, 152, 114), (100, 72, 52),
    (228, 226, 220), (88, 94, 56), (122, 36, 48), (206, 190, 160),
)  # fmt: skip
SKIN: tuple[Colour, ...] = (
    (242, 208, 184),
    (226, 184, 154),
    (202, 156, 122),
    (162, 114, 82),
    (118, 80, 58),
    (86, 58, 44),
)
HAIR_COLOURS: tuple[Colour, ...] = (
    (24, 20, 20),
    (54, 38, 28),
    (96, 64, 40),
    (150, 108, 64),
    (206, 170, 110),
    (146, 66, 38),
    (150, 148, 146),
)


@dataclass(frozen=True, slots=True)
class Appearance:
    """One person's looks. Lengths are relative to the body height; ``height`` is in metres."""

    height: float
    build: float
    waist: float
    skin: Colour
    hair: Hair
    hair_colour: Colour
    hat: Hat
    hat_colour: Colour
    upper: Upper
    upper_colour: Colour
    second_colour: Colour
    pattern: Pattern
    pattern_period: float
    lower: Lower
    lower_colour: Colour
    hem: float
    legs_colour: Colour
    shoe_colour: Colour
    bag: Bag
    bag_colour: Colour
    bag_left: bool


def draw_appearance(rng: np.random.Generator, level: float) -> Appearance:
    """A random person. ``level`` (0..1, difficulty) makes clothes more alike: darker, greyer, of common colours."""
    upper_colour = _clothing_colour(rng, level)
    skin = _jitter(rng, SKIN[rng.choice(len(SKIN), p=(0.24, 0.26, 0.18, 0.14, 0.1, 0.08))], 6)
    lower: Lower = _pick(rng, LOWER_KINDS, (0.66, 0.16, 0.18))
    tights = rng.random() < 0.3
    return Appearance(
        height=float(np.clip(rng.normal(1.71, 0.085), 1.5, 1.95)),
        build=float(np.clip(rng.normal(1.0, 0.13), 0.78, 1.35)),
        waist=float(rng.uniform(0.72, 1.0)),
        skin=skin,
        hair=_pick(rng, HAIR_KINDS, (0.07, 0.4, 0.18, 0.25, 0.1)),
        hair_colour=_jitter(rng, HAIR_COLOURS[rng.choice(len(HAIR_COLOURS))], 6),
        hat=_pick(rng, HATS, (0.72, 0.12, 0.1, 0.06)),
        hat_colour=_clothing_colour(rng, level),
        upper=_pick(rng, UPPER_KINDS, (0.34, 0.28, 0.22, 0.16)),
        upper_colour=upper_colour,
        second_colour=_contrasting(rng, upper_colour, level),
        pattern=_pick(rng, PATTERNS, (0.42, 0.16, 0.08, 0.12, 0.12, 0.1)),
        pattern_period=float(rng.uniform(0.045, 0.085)),
        lower=lower,
        lower_colour=_jitter(rng, LOWER_COLOURS[rng.choice(len(LOWER_COLOURS))], 12 - 6 * level),
        hem=float(rng.uniform(0.22, 0.4)),
        legs_colour=(44, 40, 44) if lower == "skirt" and tights else skin,
        shoe_colour=_jitter(rng, (NEUTRALS + VIVID)[rng.choice(20, p=[0.09] * 8 + [0.28 / 12] * 12)], 10),
        bag=_pick(rng, BAGS, (0.46, 0.22, 0.18, 0.14)),
        bag_colour=_clothing_colour(rng, level),
        bag_left=bool(rng.random() < 0.5),
    )


def draw_identities(rng: np.random.Generator, count: int, level: float) -> list[Appearance]:
    """``count`` people of whom no two look the same: one too like an earlier one is drawn again (up to 12 times)."""
    people: list[Appearance] = []
    known = np.zeros((count, len(descriptor(draw_appearance(np.random.default_rng(0), level)))))
    apart = 1.35 - 0.7 * level
    for number in range(count):
        best, best_gap = None, -1.0
        for _ in range(12):
            candidate = draw_appearance(rng, level)
            gaps = np.linalg.norm(known[:number] - descriptor(candidate), axis=1)
            gap = float(gaps.min()) if number else np.inf
            if gap > best_gap:
                best, best_gap = candidate, gap
            if gap >= apart:
                break
        assert best is not None
        people.append(best)
        known[number] = descriptor(best)
    return people


def descriptor(person: Appearance) -> NDArray[np.float64]:
    """Looks as a vector whose distances say how easily two people are told apart; about 1 is clearly different."""
    colours = np.concatenate(
        [
            1.3 * np.array(person.upper_colour),
            1.1 * np.array(person.lower_colour),
            (0.6 if person.pattern != "plain" else 0.0) * np.array(person.second_colour),
            0.4 * np.array(person.hair_colour),
            (0.5 if person.bag != "none" else 0.0) * np.array(person.bag_colour),
        ]
    )
    kinds = [
        *(0.45 * (person.upper == kind) for kind in UPPER_KINDS),
        *(0.5 * (person.pattern == kind) for kind in PATTERNS),
        *(0.5 * (person.lower == kind) for kind in LOWER_KINDS),
        *(0.35 * (person.hair == kind) for kind in HAIR_KINDS),
        *(0.35 * (person.hat == kind) for kind in HATS),
        *(0.4 * (person.bag == kind) for kind in BAGS),
    ]
    return np.concatenate([colours / 160.0, kinds])


def _pick(rng: np.random.Generator, options: tuple[Kind, ...], shares: tuple[float, ...]) -> Kind:
    return options[int(rng.choice(len(options), p=shares))]


def _clothing_colour(rng: np.random.Generator, level: float) -> Colour:
    pool = NEUTRALS if rng.random() < 0.3 + 0.35 * level else VIVID
    commonness = np.where(np.mean(pool, axis=1) < 90, 1 + 3 * level, 1.0)
    colour = np.array(_jitter(rng, pool[rng.choice(len(pool), p=commonness / commonness.sum())], 16 - 8 * level))
    washed_out = 0.4 * max(level - 0.4, 0.0)
    return _as_colour(colour * (1 - washed_out) + colour.mean() * washed_out)


def _contrasting(rng: np.random.Generator, base: Colour, level: float) -> Colour:
    """A second colour for patterns that can be seen on ``base``, less so when ``level`` is high."""
    enough = 150 - 60 * level
    for _ in range(20):
        colour = _clothing_colour(rng, level)
        if np.abs(np.subtract(colour, base)).sum() > enough:
            return colour
    return (236, 236, 232) if sum(base) < 380 else (30, 30, 34)


def _jitter(rng: np.random.Generator, colour: Colour, spread: float) -> Colour:
    return _as_colour(np.array(colour) + rng.normal(0, spread / 2, 3) + rng.normal(0, spread / 2))


def _as_colour(values: NDArray[np.float64]) -> Colour:
    red, green, blue = (float(value) for value in np.clip(values, 12, 245))
    return red, green, blue
