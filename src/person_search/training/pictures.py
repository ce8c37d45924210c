"""Pictures of what the sampler chose and of what validation found, for looking at while a training runs."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from person_search.data.scene import Split
from person_search.data.target import Target
from person_search.evaluation.results import Results
from person_search.visualize.boxes import BACKGROUND, IDENTITY, NO_IDENTITY, Color, draw_boxes
from person_search.visualize.ranking import Hit, ranking_list
from person_search.visualize.report_scenes import spread


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


def validation_rankings(results: Results, split: Split, *, wanted: int, hits: int = 10) -> list[NDArray[np.uint8]]:
    """Ranking lists of some queries of ``split``, (H, W, 3) uint8 RGB: the same queries whatever the model found.

    Args:
        results: of ``split``, whose queries they are.
        split: where the pictures are.
        wanted: lists, at most; their queries are spread over those whose person is in a gallery.
        hits: people in a list.
    """
    asked = [query for query in results.queries if query.truths]
    scenes = {scene.name: scene for scene in split.scenes}

    @cache
    def scene(name: str) -> NDArray[np.uint8]:
        return split.read(scenes[name]).permute(1, 2, 0).numpy()

    return [
        ranking_list(
            scene(query.scene),
            np.array(query.box, np.float32),
            [
                Hit(scene(hit.scene), np.array(hit.box, np.float32), hit.similarity, hit.correct, hit.scene)
                for hit in query.top[:hits]
            ],
            query_name=query.scene,
            height=160,
        )
        for query in (asked[number] for number in spread(len(asked), wanted))
    ]


def _boxes(boxes: Tensor) -> NDArray[np.float32]:
    return boxes.detach().cpu().float().numpy()


def _colors(labels: Tensor) -> list[Color]:
    return [IDENTITY if label >= 0 else NO_IDENTITY if label == -1 else BACKGROUND for label in labels.tolist()]
