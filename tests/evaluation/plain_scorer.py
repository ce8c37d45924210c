"""The metrics as their definitions read: plain loops, one pair at a time. Slow, and meant to be obviously right."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import permutations

import numpy as np
from sklearn.metrics import average_precision_score

from person_search.data.scene import Protocol, Split
from person_search.evaluation.predictions import Predictions


@dataclass
class PlainQuery:
    ap: float = math.nan
    recall: float = math.nan
    found: int = 0
    first_rank: int = 0
    top: list[tuple[int, float, bool]] = field(default_factory=list)
    camera_ap: dict[int, float] = field(default_factory=dict)


def overlap(a, b) -> float:
    ax1, ay1, ax2, ay2 = (float(v) for v in a)
    bx1, by1, bx2, by2 = (float(v) for v in b)
    shared = max(0.0, min(ax2, bx2) - max(ax1, bx1)) * max(0.0, min(ay2, by2) - max(ay1, by1))
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - shared
    return shared / union if union > 0 else 0.0


def similarity(a, b) -> float:
    """The dot product, rounded once: products of float32 values are exact in float64, and so is fsum."""
    return math.fsum(float(x) * float(y) for x, y in zip(a, b, strict=True))


def fits(box, truth) -> bool:
    w, h = float(truth[2]) - float(truth[0]), float(truth[3]) - float(truth[1])
    return overlap(truth, box) >= min(0.5, w * h / ((w + 10) * (h + 10)))


def precision_mean(right: list[bool], similar: list[float], holding: int) -> float:
    found = sum(right)
    return float(average_precision_score(right, similar)) * found / holding if found else 0.0


def plain_search(
    predictions: Predictions, split: Split, protocol: Protocol, cbgm: tuple[int, int] | None = None
) -> list[PlainQuery]:
    """Every query on its own; ``cbgm`` is (k1, k2)."""
    results = []
    for q in range(len(split.queries)):
        rows, scene_of = [], {}
        for scene in range(len(split.scenes)):
            if protocol.in_gallery[q, scene]:
                for row in range(predictions.offsets[scene], predictions.offsets[scene + 1]):
                    rows.append(row)
                    scene_of[row] = scene
        similar = {r: similarity(predictions.query_embeddings[q], predictions.embeddings[r]) for r in rows}
        if cbgm:
            similar.update(plain_cbgm(predictions, q, rows, scene_of, similar, *cbgm))
        truths, listed = {}, {}
        for t in range(protocol.truth_offsets[q], protocol.truth_offsets[q + 1]):
            scene = int(protocol.truth_scenes[t])
            truths[scene] = protocol.truth_boxes[t]
            listed[scene] = 1 if protocol.truth_counts is None else int(protocol.truth_counts[t])
        ranked = sorted(rows, key=lambda r: (-similar[r], r))
        right = set()
        for scene, box in truths.items():
            for r in ranked:
                if scene_of[r] == scene and fits(predictions.boxes[r], box):
                    right.add(r)
                    break
        results.append(plain_query(split, rows, scene_of, similar, ranked, right, listed))
    return results


def plain_query(split, rows, scene_of, similar, ranked, right, listed) -> PlainQuery:
    result = PlainQuery(found=len(right), top=[(r, similar[r], r in right) for r in ranked[:10]])
    if listed:
        result.ap = precision_mean([r in right for r in rows], [similar[r] for r in rows], sum(listed.values()))
        result.recall = len(right) / sum(listed.values())
        result.first_rank = next((place for place, r in enumerate(ranked, 1) if r in right), 0)
    for camera in {split.scenes[scene].camera for scene in listed}:
        here = [r for r in rows if split.scenes[scene_of[r]].camera == camera]
        holding = sum(times for scene, times in listed.items() if split.scenes[scene].camera == camera)
        result.camera_ap[camera] = precision_mean([r in right for r in here], [similar[r] for r in here], holding)
    return result


def plain_cbgm(predictions, q, rows, scene_of, similar, k1, k2) -> dict[int, float]:
    """New similarities, by trying every assignment; ties in the best total must not matter to the caller."""
    ranked = sorted(rows, key=lambda r: (-similar[r], r))
    start, end = predictions.query_offsets[q], predictions.query_offsets[q + 1]
    others = sorted(range(start + 1, end), key=lambda p: (-predictions.query_scores[p], p))[: k2 - 1]
    changed = {}
    for scene in {scene_of[r] for r in ranked[:k1]}:
        here = [r for r in rows if scene_of[r] == scene]
        weights = [[similar[r] for r in here]]
        weights += [[similarity(predictions.query_context[p], predictions.embeddings[r]) for r in here] for p in others]
        column, largest = best_assignment(weights)
        if column is not None:
            changed[here[column]] = largest
    return changed


def best_assignment(weights: list[list[float]]) -> tuple[int | None, float]:
    """Column of the first row, and the largest weight, in the assignment of largest sum."""
    height, width = len(weights), len(weights[0])
    best, choice = -math.inf, None
    if height <= width:
        options = [dict(zip(range(height), columns, strict=True)) for columns in permutations(range(width), height)]
    else:
        options = [dict(zip(rows, range(width), strict=True)) for rows in permutations(range(height), width)]
    for option in options:
        total = sum(weights[a][b] for a, b in option.items())
        if total > best + 1e-12:
            best, choice = total, option
    return choice.get(0), max(weights[a][b] for a, b in choice.items())


def plain_detection(predictions: Predictions, split: Split, threshold: float, labelled: bool) -> tuple[float, float]:
    """Recall and AP x recall."""
    right, scores, boxes_total = [], [], 0
    for number, scene in enumerate(split.scenes):
        truths = [b for b, p in zip(scene.boxes, scene.person_ids, strict=True) if not labelled or p >= 0]
        if labelled and not truths:
            continue
        boxes_total += len(truths)
        start, end = predictions.offsets[number], predictions.offsets[number + 1]
        rows = [r for r in range(start, end) if predictions.scores[r] >= np.float32(threshold)]
        table = [[overlap(t, predictions.boxes[r]) for t in truths] for r in rows]
        for k, r in enumerate(rows):
            best = int(np.argmax(table[k])) if truths else -1
            mutual = truths and int(np.argmax([row[best] for row in table])) == k and table[k][best] >= 0.5
            right.append(bool(mutual))
            scores.append(float(predictions.scores[r]))
    if not boxes_total:
        return math.nan, math.nan
    recall = sum(right) / boxes_total
    return recall, (float(average_precision_score(right, scores)) * recall if any(right) else 0.0)


def plain_ignored(predictions: Predictions, split: Split) -> list[bool]:
    ignored = []
    for number, scene in enumerate(split.scenes):
        for row in range(predictions.offsets[number], predictions.offsets[number + 1]):
            x1, y1, x2, y2 = (float(v) for v in predictions.boxes[row])
            own = (x2 - x1) * (y2 - y1)
            on_region = False
            for a1, b1, a2, b2 in scene.ignore.astype(float):
                shared = max(0.0, min(x2, a2) - max(x1, a1)) * max(0.0, min(y2, b2) - max(y1, b1))
                inside = own > 0 and shared / own >= 0.5
                on_region |= inside or overlap(predictions.boxes[row], (a1, b1, a2, b2)) >= 0.5
            on_person = any(overlap(predictions.boxes[row], box) >= 0.5 for box in scene.boxes)
            ignored.append(on_region and not on_person)
    return ignored
