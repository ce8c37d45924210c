"""Pictures of what the sampler chose, for looking at while a training runs."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from person_search.models.detections import Target
from person_search.visualize.boxes import BACKGROUND, IDENTITY, NO_IDENTITY, Color, draw_boxes


def proposals_beside_truth(image: Tensor, target: Target, boxes: Tensor, labels: Tensor) -> NDArray[np.uint8]:
    """Sampled proposals (left) and true boxes (right): identities green, other people blue, background red.

    Args:
        image: (3, H, W) uint8 RGB.
        target: the true boxes.
        boxes: (N, 4) xyxy, pixels of ``image``.
        labels: (N,) identity >= 0, -1 a person without identity, below: background.

    Returns:
        (H, 2 W, 3) uint8 RGB.
    """
    pixels = image.permute(1, 2, 0).cpu().numpy()
    # Background first, so that the few people are drawn over it.
    order = torch.argsort(labels, stable=True).cpu()
    sampled = draw_boxes(pixels, _boxes(boxes.cpu()[order]), _colors(labels.cpu()[order]), thickness=1)
    truth = draw_boxes(pixels, _boxes(target.boxes), _colors(target.person_ids))
    return np.concatenate([sampled, truth], axis=1)


def _boxes(boxes: Tensor) -> NDArray[np.float32]:
    return boxes.detach().cpu().float().numpy()


def _colors(labels: Tensor) -> list[Color]:
    return [IDENTITY if label >= 0 else NO_IDENTITY if label == -1 else BACKGROUND for label in labels.tolist()]
