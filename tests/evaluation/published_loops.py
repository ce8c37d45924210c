"""AP the way the literature's scorers walk through their files: gallery lists, listing by listing, and annotations.

They know nothing of this package's protocols, so that loader and scorer together are held to them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from plain_scorer import overlap, similarity
from sklearn.metrics import average_precision_score

Detections = Mapping[str, Sequence[tuple[Sequence[float], Sequence[float]]]]
"""Box xyxy and embedding of every detection, by the image's name."""
Listing = tuple[str, Sequence[float] | None]
"""An image of a gallery list and the box x, y, w, h of the person there, None where they are not."""


def listed_ap(query: Sequence[float], gallery: Sequence[Listing], detections: Detections) -> tuple[float, float]:
    """AP x recall, and recall, of one query of a CUHK-SYSU list.

    The person's boxes are counted listing by listing; an image that was walked through before is passed over.
    """
    labels: list[int] = []
    similar: list[float] = []
    to_find = found = 0
    walked = set()
    for name, box in gallery:
        if box is not None:
            to_find += 1
        if name in walked:
            continue
        walked.add(name)
        truth = None if box is None else (box[0], box[1], box[0] + box[2], box[1] + box[3])
        here, values = walk(query, detections[name], truth)
        labels += here
        similar += values
        found += sum(here)
    return average(labels, similar, found, to_find)


def annotated_ap(
    query: Sequence[float],
    person: int,
    own_image: str,
    annotations: Mapping[str, tuple[Sequence[int], np.ndarray]],
    detections: Detections,
) -> tuple[float, float]:
    """AP x recall, and recall, of one query of PRW, whose gallery is every image (ids, boxes xyxy) but its own.

    All boxes of the person in an image are taken as one run of numbers; the first four of it are the true box.
    """
    labels: list[int] = []
    similar: list[float] = []
    to_find = found = 0
    for name, (ids, boxes) in annotations.items():
        if name == own_image:
            continue
        run = boxes[np.array(ids) == person].ravel()
        if len(run):
            to_find += 1
        here, values = walk(query, detections[name], tuple(run[:4]) if len(run) else None)
        labels += here
        similar += values
        found += sum(here)
    return average(labels, similar, found, to_find)


def walk(
    query: Sequence[float],
    detections: Sequence[tuple[Sequence[float], Sequence[float]]],
    truth: Sequence[float] | None,
) -> tuple[list[int], list[float]]:
    """Labels and similarities of one image's detections: the first of the most similar ones that fits is right."""
    values = [similarity(query, embedding) for _, embedding in detections]
    labels = [0] * len(values)
    if truth is not None:
        w, h = truth[2] - truth[0], truth[3] - truth[1]
        needed = min(0.5, w * h / ((w + 10) * (h + 10)))
        for k in sorted(range(len(values)), key=lambda k: -values[k]):
            if overlap(detections[k][0], truth) >= needed:
                labels[k] = 1
                break
    return labels, values


def average(labels: list[int], similar: list[float], found: int, to_find: int) -> tuple[float, float]:
    recall = found / to_find
    return (float(average_precision_score(labels, similar)) * recall if found else 0.0), recall
