"""How far boxes overlap, in arrays of numpy; what models compute on tensors is ``torchvision.ops.box_iou``."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from person_search.data.scene import Boxes

Floats = NDArray[np.float64]


def intersection(first: Boxes, second: Boxes) -> Floats:
    """(P,) shared areas of (P, 4) and (P, 4) or (1, 4) xyxy boxes, in float64 square pixels."""
    a, b = first.astype(np.float64), second.astype(np.float64)
    width = np.minimum(a[:, 2], b[:, 2]) - np.maximum(a[:, 0], b[:, 0])
    height = np.minimum(a[:, 3], b[:, 3]) - np.maximum(a[:, 1], b[:, 1])
    return np.maximum(width, 0.0) * np.maximum(height, 0.0)


def area(boxes: Boxes) -> Floats:
    """(N,) areas of (N, 4) xyxy boxes, in float64 square pixels."""
    wide = boxes.astype(np.float64)
    return (wide[:, 2] - wide[:, 0]) * (wide[:, 3] - wide[:, 1])


def iou(first: Boxes, second: Boxes) -> Floats:
    """(P,) intersection over union of (P, 4) and (P, 4) or (1, 4) xyxy boxes; 0 where both are empty."""
    shared = intersection(first, second)
    union = area(first) + area(second) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def share_inside(boxes: Boxes, regions: Boxes) -> Floats:
    """(P,) share of the area of (P, 4) ``boxes`` that lies inside (P, 4) ``regions``; 0 for boxes without area."""
    own = area(boxes)
    return np.divide(intersection(boxes, regions), own, out=np.zeros_like(own), where=own > 0)
