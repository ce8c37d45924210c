"""Drawing a person: body, clothes, hair and what they carry, from any side."""

from __future__ import annotations

import numpy as np

from person_search.synth.appearance import Appearance, Colour
from person_search.synth.canvas import Canvas, Points, Sprite, capsule, ellipse, rectangle
from person_search.synth.pose import HIP_HEIGHT, Pose, Skeleton

_MARGIN = 0.42
_HEADROOM, _FOOTROOM = 1.14, 0.16
_TALL_ENOUGH = 200.0
"""Figures of at least this many pixels are drawn at twice their size, smaller ones at three times."""

# Height above the ground, half-width seen from the front, half-depth seen from the side, in body heights.
_TRUNK = (
    (0.85, 0.036, 0.036),
    (0.833, 0.066, 0.045),
    (0.80, 0.1, 0.055),
    (0.72, 0.100, 0.070),
    (0.63, 0.085, 0.064),
    (0.55, 0.096, 0.074),
    (0.48, 0.098, 0.076),
)
_LOOSENESS = {"tshirt": 1.02, "sweater": 1.07, "jacket": 1.12, "coat": 1.12}


def draw_person(person: Appearance, pose: Pose, height: float, light: float, *, face: bool = True) -> Sprite:
    """``person`` in ``pose``, ``height`` pixels tall, lit from ``light`` (-1 left .. 1 right), as a sprite.

    Without ``face`` the head is a blank egg, as dummies and statues have it.
    """
    reduce = 2 if height >= _TALL_ENOUGH else 3
    scale = height * reduce
    width = int(np.ceil(height * 2 * _MARGIN)) * reduce
    rows = int(np.ceil(height * (_HEADROOM + _FOOTROOM))) * reduce
    canvas = Canvas(width, rows, origin=(width / 2, _HEADROOM * scale), scale=scale, light=light)
    _Figure(canvas, person, pose, face).draw()
    return canvas.sprite(reduce, softness=0.01)


def darker(colour: Colour, share: float) -> Colour:
    """``colour`` scaled by ``share``."""
    return colour[0] * share, colour[1] * share, colour[2] * share


class _Figure:
    def __init__(self, canvas: Canvas, person: Appearance, pose: Pose, face: bool):
        self.canvas = canvas
        self.person = person
        self.pose = pose
        self.has_face = face
        self.body = Skeleton(person, pose)
        self.rise = float(self.body.at("neck")[1] + 0.845)

    def draw(self) -> None:
        """Paint back to front."""
        facing_away = self.pose.towards < 0
        arms = sorted(("left", "right"), key=lambda side: self.body.nearness(f"{side}_elbow", f"{side}_hand"))
        legs = sorted(("left", "right"), key=lambda side: self.body.nearness(f"{side}_knee", f"{side}_ankle"))
        behind = [side for side in arms if self.body.nearness(f"{side}_elbow", f"{side}_hand") < -0.02]
        if not facing_away:
            self._backpack()
            self._long_hair()
        for side in behind:
            self._arm(side)
        for side in legs:
            self._leg(side)
        if self.person.lower != "trousers":
            self._skirt_or_shorts_seat()
        self._neck()
        self._trunk()
        if self.person.bag == "shoulder":
            self._shoulder_bag()
        if facing_away:
            self._backpack()
        for side in arms:
            if side not in behind:
                self._arm(side)
        self._head()
        if facing_away:
            self._long_hair()

    def _leg(self, side: str) -> None:
        person, body, canvas = self.person, self.body, self.canvas
        hip, knee, ankle, toe = (body.at(f"{side}_{joint}") for joint in ("hip", "knee", "ankle", "toe"))
        size = person.build**0.7
        heel = ankle + np.array([0.0, 0.018])
        canvas.limb(heel, toe + np.array([0.0, 0.004]), 0.026, 0.019, person.shoe_colour)
        far = 0.86 if body.nearness(f"{side}_knee") < -0.01 else 1.0
        legs = darker(person.legs_colour if person.lower != "trousers" else person.lower_colour, far)
        loose = 1.0 if person.lower != "trousers" else 1.22
        canvas.limb(knee, ankle, 0.036 * size * loose**0.5, 0.022 * loose * size**0.5, legs)
        if person.lower == "shorts":
            canvas.limb(hip, knee, 0.05 * size, 0.037 * size, legs)
            end = hip + (knee - hip) * 0.85
            canvas.limb(hip, end, 0.06 * size, 0.054 * size, darker(person.lower_colour, far))
        else:
            canvas.limb(hip, knee, 0.057 * size, 0.038 * size * loose**0.5, legs)

    def _skirt_or_shorts_seat(self) -> None:
        person = self.person
        top, hips = self._half_width(0.6), self._half_width(0.52) * 1.04
        seat = 0.46 if person.lower == "shorts" else person.hem
        knees = [self.body.at(f"{side}_knee")[0] for side in ("left", "right")]
        if person.lower == "shorts":
            self.canvas.solid(
                self._slice([(0.6, top), (0.5, hips), (seat, hips * 0.9)]), person.lower_colour, thickness=top
            )
            return
        spread = max(hips * 1.12, 0.05 + max(abs(knees[0]), abs(knees[1])))
        self.canvas.solid(self._slice([(0.6, top), (0.52, hips), (seat, spread)]), person.lower_colour, thickness=top)

    def _neck(self) -> None:
        neck, head = self.body.at("neck"), self.body.at("head")
        self.canvas.limb(neck + np.array([0.0, 0.02]), head, 0.032, 0.032, darker(self.person.skin, 0.88))

    def _trunk(self) -> None:
        person, canvas = self.person, self.canvas
        hem = {"coat": person.hem + 0.08, "jacket": 0.47, "sweater": 0.49, "tshirt": 0.5}[person.upper]
        rows = [(y, self._half_width(y)) for y, _, _ in _TRUNK if y > hem]
        flare = 1.12 if person.upper == "coat" else 1.0
        rows.append((hem, self._half_width(max(hem, 0.48)) * flare))
        outline = self._slice(rows)
        canvas.solid(outline, person.upper_colour, thickness=self._half_width(0.6))
        self._pattern(outline, hem)
        if person.upper in ("jacket", "coat") and self.pose.towards > 0.15:
            self._open_front(hem)

    def _pattern(self, outline: Points, hem: float) -> None:
        person, canvas = self.person, self.canvas
        down, across = np.array([0.0, 1.0]), np.array([1.0, 0.0])
        period = person.pattern_period
        turned = self.pose.sideways * 0.07
        if person.pattern in ("stripes", "checks"):
            canvas.band(outline, person.second_colour, down, period, 0.45, self.rise)
        if person.pattern == "checks":
            mixed = tuple((a + b) / 2 for a, b in zip(person.upper_colour, person.second_colour, strict=True))
            canvas.band(outline, (mixed[0], mixed[1], mixed[2]), across, period, 0.4, turned)
        elif person.pattern == "pinstripes":
            canvas.band(outline, person.second_colour, across, period * 0.7, 0.35, turned)
        elif person.pattern == "block":
            middle = 0.5 * (0.76 + max(hem, 0.48))
            rows = [
                (middle, self._half_width(middle)),
                (0.55, self._half_width(0.55)),
                (hem, self._half_width(max(hem, 0.48))),
            ]
            canvas.solid(self._slice(rows), person.second_colour, thickness=self._half_width(0.6))
        elif person.pattern == "logo" and self.pose.towards > 0.2:
            centre = np.array([self.pose.sideways * 0.07, -0.71 + self.rise])
            canvas.fill(ellipse(centre, 0.05 * self.pose.towards, 0.042), person.second_colour)

    def _open_front(self, hem: float) -> None:
        width = 0.03 * self.pose.towards
        middle = self.pose.sideways * 0.065
        top, low = -0.835 + self.rise, -max(hem, 0.5) + self.rise
        shirt = np.array(
            [[middle - width * 0.9, top], [middle + width * 0.9, top], [middle + width, low], [middle - width, low]]
        )
        self.canvas.fill(shirt, self.person.second_colour, brightness=0.92)

    def _arm(self, side: str) -> None:
        person, body, canvas = self.person, self.body, self.canvas
        shoulder, elbow, hand = (body.at(f"{side}_{joint}") for joint in ("shoulder", "elbow", "hand"))
        size = person.build**0.5 * _LOOSENESS[person.upper]
        far = 0.84 if body.nearness(f"{side}_elbow") < -0.03 else 1.0
        sleeve = darker(person.upper_colour, far)
        if person.bag == "handbag" and (side == "left") == person.bag_left:
            self._handbag(hand)
        canvas.limb(hand, hand + (hand - elbow) * 0.16, 0.02, 0.016, person.skin)
        if person.upper == "tshirt":
            canvas.limb(elbow, hand, 0.024 * size, 0.018 * size, darker(person.skin, far))
            canvas.limb(shoulder, elbow, 0.028 * size, 0.025 * size, darker(person.skin, far))
            end = shoulder + (elbow - shoulder) * 0.62
        else:
            canvas.limb(elbow, hand, 0.028 * size, 0.023 * size, sleeve)
            end = elbow
        canvas.limb(shoulder, end, 0.033 * size, 0.03 * size, sleeve)
        if person.pattern in ("stripes", "checks"):
            along = (end - shoulder) / max(float(np.linalg.norm(end - shoulder)), 1e-6)
            canvas.band(
                capsule(shoulder, end, 0.033 * size, 0.03 * size),
                darker(person.second_colour, far),
                along,
                person.pattern_period,
                0.45,
                float(shoulder @ along),
            )

    def _head(self) -> None:
        person, canvas = self.person, self.canvas
        centre = self.body.at("head")
        towards, sideways = self.pose.towards, self.pose.sideways
        wide = 0.047 + 0.008 * abs(sideways)
        if person.hair == "bald":
            canvas.solid(ellipse(centre, wide, 0.066), person.skin, thickness=wide)
        else:
            hair = ellipse(centre + np.array([-0.006 * sideways, -0.008]), wide * 1.08, 0.07)
            canvas.solid(hair, person.hair_colour, thickness=wide)
            if person.hair == "bun":
                bun = centre + np.array([-0.05 * sideways, -0.062])
                canvas.solid(ellipse(bun, 0.026, 0.024), person.hair_colour, thickness=0.02)
        if towards > -0.35 and self.has_face:
            self._face(centre, wide)
        self._hat(centre, wide)

    def _face(self, centre: Points, wide: float) -> None:
        towards, sideways = self.pose.towards, self.pose.sideways
        share = float(np.clip(0.45 + 0.5 * towards, 0.25, 0.9))
        face = centre + np.array([sideways * wide * (1 - share), 0.016])
        self.canvas.solid(ellipse(face, wide * share, 0.052), self.person.skin, thickness=wide * share)
        if towards < 0.1:
            return
        dark = darker(self.person.skin, 0.35)
        for side in (-1, 1):
            x = face[0] + sideways * wide * 0.25 + side * 0.019 * towards
            self.canvas.fill(ellipse((x, face[1] - 0.012), 0.0055 * max(towards, 0.5), 0.0045), dark)
        mouth = np.array([face[0] + sideways * wide * 0.3, face[1] + 0.026])
        self.canvas.fill(ellipse(mouth, 0.013 * max(towards, 0.4), 0.0035), darker(self.person.skin, 0.62))

    def _hat(self, centre: Points, wide: float) -> None:
        person, sideways, towards = self.person, self.pose.sideways, self.pose.towards
        if person.hat == "none":
            return
        turn = np.linspace(np.pi, 2 * np.pi, 13)
        brow = -0.018 if person.hat != "beanie" else -0.01
        crown = np.stack([wide * 1.14 * np.cos(turn), brow + 0.066 * np.sin(turn)], axis=1) + centre
        if person.hat == "brim":
            rim = ellipse(centre + np.array([0.0, brow]), wide * 1.75, 0.014 + 0.012 * self.pose.elevation)
            self.canvas.solid(rim, darker(person.hat_colour, 0.85), thickness=0.02)
        elif person.hat == "cap" and towards > -0.6:
            peak = centre + np.array([sideways * wide * 1.25, brow + 0.004])
            self.canvas.fill(ellipse(peak, wide * (0.75 + 0.2 * abs(towards)), 0.012), darker(person.hat_colour, 0.75))
        self.canvas.solid(crown, person.hat_colour, thickness=wide)

    def _long_hair(self) -> None:
        person = self.person
        if person.hair not in ("long", "bob"):
            return
        length = 0.15 if person.hair == "long" else 0.075
        centre = self.body.at("head")
        back = -self.pose.sideways * 0.018
        top, low = centre[1] - 0.01, centre[1] + length
        wide = 0.052
        strand = np.array(
            [
                [centre[0] - wide + back * 0.5, top],
                [centre[0] + wide + back * 0.5, top],
                [centre[0] + wide * 1.08 + back, low - 0.02],
                [centre[0] + wide * 0.7 + back, low],
                [centre[0] - wide * 0.7 + back, low],
                [centre[0] - wide * 1.08 + back, low - 0.02],
            ]
        )
        self.canvas.solid(strand, person.hair_colour, thickness=wide)

    def _backpack(self) -> None:
        person, towards, sideways = self.person, self.pose.towards, self.pose.sideways
        if person.bag != "backpack":
            return
        middle = -sideways * 0.105
        half = 0.082 * abs(towards) + 0.06 * abs(sideways)
        top, low = -0.83 + self.rise, -0.56 + self.rise
        outline = np.array(
            [
                [middle - half * 0.7, top],
                [middle + half * 0.7, top],
                [middle + half, top + 0.05],
                [middle + half, low - 0.02],
                [middle + half * 0.8, low],
                [middle - half * 0.8, low],
                [middle - half, low - 0.02],
                [middle - half, top + 0.05],
            ]
        )
        self.canvas.solid(outline, person.bag_colour, thickness=half)
        if towards < -0.3:
            pocket = rectangle(middle - half * 0.62, low - 0.115, middle + half * 0.62, low - 0.03)
            self.canvas.fill(pocket, darker(person.bag_colour, 0.78))

    def _shoulder_bag(self) -> None:
        person, towards, sideways = self.person, self.pose.towards, self.pose.sideways
        sign = 1.0 if person.bag_left else -1.0
        hip = np.array([sign * towards * 0.115, -0.52 + self.rise])
        shoulder = np.array([-sign * towards * 0.06, -0.825 + self.rise])
        self.canvas.fill(capsule(shoulder, hip, 0.009, 0.009), darker(person.bag_colour, 0.7))
        if sign * sideways < 0.5:
            outline = rectangle(hip[0] - 0.062, hip[1] - 0.035, hip[0] + 0.062, hip[1] + 0.06)
            self.canvas.solid(outline, person.bag_colour, thickness=0.05)

    def _handbag(self, hand: Points) -> None:
        low = hand[1] + 0.155
        outline = np.array(
            [
                [hand[0] - 0.04, hand[1] + 0.05],
                [hand[0] + 0.04, hand[1] + 0.05],
                [hand[0] + 0.065, low],
                [hand[0] - 0.065, low],
            ]
        )
        self.canvas.fill(capsule(hand, hand + np.array([0.0, 0.06]), 0.014, 0.02), darker(self.person.bag_colour, 0.7))
        self.canvas.solid(outline, self.person.bag_colour, thickness=0.05)

    def _half_width(self, height: float) -> float:
        """Half of what the clothed trunk measures across the picture at ``height``."""
        ys = [row[0] for row in reversed(_TRUNK)]
        front = float(np.interp(height, ys, [row[1] for row in reversed(_TRUNK)]))
        side = float(np.interp(height, ys, [row[2] for row in reversed(_TRUNK)]))
        if 0.56 < height < 0.72:
            front *= self.person.waist**0.6
        stout = self.person.build if height < 0.78 else self.person.build**0.5
        loose = _LOOSENESS[self.person.upper]
        return float(np.hypot(front * self.pose.towards, side * stout * self.pose.sideways)) * stout**0.7 * loose

    def _slice(self, rows: list[tuple[float, float]]) -> Points:
        """Outline through ``rows`` of (height, half-width), top first, following the body's lean."""
        lean = self.body.at("neck")[0]
        shift = [
            lean * (height - HIP_HEIGHT) / (0.845 - HIP_HEIGHT) if height > HIP_HEIGHT else 0.0 for height, _ in rows
        ]
        right = [(shift[i] + half, self.rise - height) for i, (height, half) in enumerate(rows)]
        left = [(shift[i] - half, self.rise - height) for i, (height, half) in enumerate(rows)]
        return np.array(left + right[::-1])
