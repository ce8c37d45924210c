"""Example scenes of a report: what the detector found, missed and made up, and what it was proposed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from person_search.data.boxes import iou, share_inside
from person_search.data.scene import Boxes, Scene, Split, as_boxes
from person_search.evaluation.ignore import SHARE
from person_search.evaluation.overlaps import MATCH_IOU, mutual_matches
from person_search.visualize.boxes import BACKGROUND, IDENTITY, IGNORED, MISSED, NO_IDENTITY, RIGHT, WRONG
from person_search.visualize.report_pictures import Layer, Picture, Pictures

Scored = Mapping[str, tuple[Boxes, NDArray[np.float32]]]
"""Scene name -> boxes (N, 4) xyxy and scores (N,)."""

_PROPOSALS = 50


@dataclass(frozen=True, slots=True)
class ExampleScene:
    """One picture of the page and what is counted in it."""

    name: str
    camera: int | None
    picture: Picture
    counts: dict[str, int]


def spread(count: int, wanted: int) -> list[int]:
    """``wanted`` numbers out of 0..count-1, evenly spread, both ends included; all if there are no more."""
    return sorted({round(place) for place in np.linspace(0, count - 1, min(count, wanted))}) if count else []


def detection_scenes(
    split: Split, predictions: Scored, pictures: Pictures, *, threshold: float, wanted: int = 6
) -> list[ExampleScene]:
    """Scenes spread evenly over the split; detections of at least ``threshold`` are judged right or false."""
    known = [scene for scene in split.scenes if scene.name in predictions]
    return [
        _detection_scene(known[number], predictions, pictures, threshold, f"scene-{place}")
        for place, number in enumerate(spread(len(known), wanted))
    ]


def proposal_scenes(split: Split, proposals: Scored, pictures: Pictures, *, wanted: int = 4) -> list[ExampleScene]:
    """Scenes spread evenly over those with proposals: the 50 of highest score, coloured by what they are on."""
    known = [scene for scene in split.scenes if scene.name in proposals]
    return [
        _proposal_scene(known[number], proposals, pictures, f"proposals-{place}")
        for place, number in enumerate(spread(len(known), wanted))
    ]


def mutual_best(boxes: Boxes, truths: Boxes) -> NDArray[np.int64]:
    """The true box of each detection, or -1, (N,): IoU at least 0.5, each the other's best, as in the scores."""
    matched = np.full(len(boxes), -1, np.int64)
    truth, row = np.divmod(np.arange(len(truths) * len(boxes)), max(1, len(boxes)))
    pairs = mutual_matches(truths, boxes, truth, row)
    matched[row[pairs]] = truth[pairs]
    return matched


def pairwise_iou(a: Boxes, b: Boxes) -> NDArray[np.float64]:
    """(N, 4) and (M, 4) xyxy -> (N, M) intersection over union; 0 where both are empty."""
    return iou(np.repeat(a, len(b), axis=0), np.tile(b, (len(a), 1))).reshape(len(a), len(b))


def _on_ignored_region(boxes: Boxes, scene: Scene) -> NDArray[np.bool_]:
    """(N,) bool: at least half inside an ignore region, and on no person."""
    shape = len(boxes), len(scene.ignore)
    inside = share_inside(np.repeat(boxes, shape[1], axis=0), np.tile(scene.ignore, (shape[0], 1))).reshape(shape)
    on_region = (inside >= SHARE).any(axis=1)
    on_person = (pairwise_iou(boxes, scene.boxes) >= SHARE).any(axis=1)
    return np.asarray(on_region & ~on_person, bool)


def _detection_scene(
    scene: Scene, predictions: Scored, pictures: Pictures, threshold: float, stem: str
) -> ExampleScene:
    boxes, scores = _above(predictions[scene.name], threshold)
    matched = mutual_best(boxes, scene.boxes)
    right = matched >= 0
    ignored = _on_ignored_region(boxes, scene)
    false = ~right & ~ignored
    missed = np.setdiff1d(np.arange(len(scene.boxes)), matched[right])
    layers = [
        Layer(boxes[ignored], IGNORED, _labels(scores[ignored])),
        Layer(scene.boxes[missed], MISSED, ["missed"] * len(missed), dashed=True),
        Layer(boxes[right], RIGHT, _labels(scores[right])),
        Layer(boxes[false], WRONG, [f"x {score}" for score in _labels(scores[false])]),
    ]
    counts = {"right": int(right.sum()), "missed": len(missed), "false": int(false.sum())}
    return ExampleScene(scene.name, scene.camera, pictures.scene_with(stem, scene.name, layers), counts)


def _proposal_scene(scene: Scene, proposals: Scored, pictures: Pictures, stem: str) -> ExampleScene:
    boxes, scores = _above(proposals[scene.name], -np.inf)
    boxes = boxes[np.argsort(-scores, kind="stable")[:_PROPOSALS]]
    overlap = pairwise_iou(boxes, scene.boxes)
    on_person = overlap.max(1, initial=0) >= MATCH_IOU
    of = overlap.argmax(1) if len(scene.boxes) else np.zeros(len(boxes), np.int64)
    identity = on_person.copy()
    identity[on_person] = scene.person_ids[of[on_person]] >= 0
    kinds = [("background", ~on_person, BACKGROUND)]
    kinds += [("without identity", on_person & ~identity, NO_IDENTITY), ("with identity", identity, IDENTITY)]
    layers = [Layer(boxes[chosen], color, thickness=1) for _, chosen, color in kinds]
    counts = {name: int(chosen.sum()) for name, chosen, _ in kinds}
    return ExampleScene(scene.name, scene.camera, pictures.scene_with(stem, scene.name, layers), counts)


def _above(scored: tuple[Boxes, NDArray[np.float32]], threshold: float) -> tuple[Boxes, NDArray[np.float32]]:
    boxes, scores = as_boxes(scored[0]), np.asarray(scored[1], np.float32).reshape(-1)
    kept = scores >= threshold
    return boxes[kept], scores[kept]


def _labels(scores: Sequence[float] | NDArray[np.float32]) -> list[str]:
    return [f"{score:.2f}" for score in scores]
