"""How a person stands or walks in one picture: joints of a small 3-D skeleton, seen from one side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from person_search.synth.appearance import Appearance

Arm = Literal["swing", "pocket", "phone", "strap", "carry"]

SHOULDER_HEIGHT = 0.812
HIP_HEIGHT = 0.525
_THIGH, _SHIN, _ANKLE_HEIGHT, _FOOT = 0.245, 0.235, 0.04, 0.105
_UPPER_ARM, _FOREARM = 0.168, 0.15

_ARM_ANGLES: dict[Arm, tuple[float, float, float, float]] = {
    # forward angle of the upper arm, bend of the elbow (radians), sideways lean of upper arm and of forearm
    "swing": (0.0, 0.35, 0.1, 0.02),
    "pocket": (-0.35, 0.95, 0.3, -0.3),
    "phone": (0.55, 2.2, 0.25, -0.35),
    "strap": (0.1, 2.1, 0.25, -0.4),
    "carry": (0.0, 0.08, 0.12, 0.05),
}


@dataclass(frozen=True, slots=True)
class Pose:
    """One moment of one person.

    Attributes:
        yaw: direction faced, radians; 0 faces the viewer, pi / 2 the right of the picture.
        phase: of the walking cycle, radians.
        stride: 0 stands, 1 walks fast.
        left_arm, right_arm: what each arm does.
        lean: forward lean of the trunk, body heights at the shoulders.
        elevation: how steeply the ground is seen: body heights down the picture per body height towards the viewer.
    """

    yaw: float
    phase: float
    stride: float
    left_arm: Arm
    right_arm: Arm
    lean: float
    elevation: float

    @property
    def towards(self) -> float:
        """1 when facing the viewer, -1 when facing away."""
        return float(np.cos(self.yaw))

    @property
    def sideways(self) -> float:
        """1 when facing the right of the picture, -1 the left."""
        return float(np.sin(self.yaw))


def draw_pose(rng: np.random.Generator, person: Appearance, elevation: float) -> Pose:
    """A random moment of ``person``: mostly walking, facing anywhere, hands where people have them."""
    walking = rng.random() < 0.75
    arms: list[Arm] = []
    for _ in range(2):
        arms.append("swing" if rng.random() < 0.7 else ("pocket", "phone")[int(rng.random() < 0.35)])
    left, right = arms
    if person.bag == "handbag":
        left, right = ("carry", right) if person.bag_left else (left, "carry")
    elif person.bag != "none" and rng.random() < 0.2:
        left = "strap"
    return Pose(
        yaw=float(rng.uniform(-np.pi, np.pi)),
        phase=float(rng.uniform(0, 2 * np.pi)),
        stride=float(rng.uniform(0.5, 1.0)) if walking else float(rng.uniform(0.0, 0.12)),
        left_arm=left,
        right_arm=right,
        lean=float(rng.normal(0.012 if walking else 0.0, 0.008)),
        elevation=elevation,
    )


class Skeleton:
    """Joints of ``person`` in ``pose``. Units are body heights; the origin is on the ground below the body."""

    def __init__(self, person: Appearance, pose: Pose):
        self.pose = pose
        shoulder, hip = 0.1 * person.build**0.6, 0.052 * person.build**0.5
        self._joints: dict[str, NDArray[np.float64]] = {}
        for side, sign in (("left", 1.0), ("right", -1.0)):
            self._leg(side, sign, hip)
            self._arm(side, sign, shoulder, pose.left_arm if side == "left" else pose.right_arm)
        self._joints["neck"] = np.array([0.0, 0.845, pose.lean])
        self._joints["head"] = np.array([0.0, 0.932, pose.lean * 1.2 + 0.012])
        lowest = min(self._joints[f"{side}_ankle"][1] for side in ("left", "right")) - _ANKLE_HEIGHT
        for joint in self._joints.values():
            joint[1] -= lowest

    def at(self, name: str) -> NDArray[np.float64]:
        """(2,) place of a joint in the picture, y down."""
        return self.project(self._joints[name])

    def nearness(self, *names: str) -> float:
        """Mean distance of joints towards the viewer from the body's axis."""
        return float(np.mean([self._towards(self._joints[name]) for name in names]))

    def project(self, point: NDArray[np.float64]) -> NDArray[np.float64]:
        """A body point (to its left, up, forward) as (2,) picture coordinates, y down."""
        across = point[0] * self.pose.towards + point[2] * self.pose.sideways
        return np.array([across, -point[1] + self.pose.elevation * self._towards(point)])

    def _towards(self, point: NDArray[np.float64]) -> float:
        return float(point[2] * self.pose.towards - point[0] * self.pose.sideways)

    def _leg(self, side: str, sign: float, hip: float) -> None:
        phase = self.pose.phase + (0.0 if sign > 0 else np.pi)
        swing = 0.48 * self.pose.stride * np.sin(phase)
        bend = 0.04 + 0.85 * self.pose.stride * max(0.0, np.cos(phase))
        knee = np.array([sign * hip * 0.95, HIP_HEIGHT - _THIGH * np.cos(swing), _THIGH * np.sin(swing)])
        shin = swing - bend
        ankle = knee + np.array([-sign * 0.008, -_SHIN * np.cos(shin), _SHIN * np.sin(shin)])
        pitch = shin * 0.6
        toe = ankle + np.array([sign * 0.012, -0.02 + _FOOT * np.sin(pitch), _FOOT * np.cos(pitch)])
        self._joints |= {
            f"{side}_hip": np.array([sign * hip, HIP_HEIGHT, 0.0]),
            f"{side}_knee": knee,
            f"{side}_ankle": ankle,
            f"{side}_toe": toe,
        }

    def _arm(self, side: str, sign: float, shoulder: float, kind: Arm) -> None:
        forward, bend, out, forearm_out = _ARM_ANGLES[kind]
        if kind == "swing":
            phase = self.pose.phase + (np.pi if sign > 0 else 0.0)
            forward += 0.5 * self.pose.stride * np.sin(phase)
            bend += 0.3 * self.pose.stride * max(0.0, np.sin(phase))
        top = np.array([sign * shoulder, SHOULDER_HEIGHT - 0.02, self.pose.lean])
        elbow = top + _UPPER_ARM * np.array([sign * out, -np.cos(forward), np.sin(forward)])
        angle = forward + bend
        hand = elbow + _FOREARM * np.array([sign * forearm_out, -np.cos(angle), np.sin(angle)])
        self._joints |= {f"{side}_shoulder": top, f"{side}_elbow": elbow, f"{side}_hand": hand}
