"""Pictures of what the sampler chose and of what validation found, for looking at while a training runs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from person_search.data.loading import Batch
from person_search.data.scene import Split
from person_search.data.target import Target
from person_search.evaluation.results import Results
from person_search.training.curves import Curves
from person_search.visualize.boxes import BACKGROUND, IDENTITY, NO_IDENTITY, Color, draw_boxes
from person_search.visualize.ranking import Hit, ranking_list
from person_search.visualize.report_scenes import spread

PICTURES = 2
"""Pictures of proposals that are shown of a batch."""
RANKINGS = 4
"""Validation queries whose ranking lists are shown."""


def show_proposals(curves: Curves, batch: Batch, samples: Sequence[tuple[Tensor, Tensor]], *, step: int) -> None:
    """Add pictures of the first images of ``batch`` with what was sampled in each: (N, 4) boxes and (N,) labels."""
    shown = batch.to("cpu")
    sampled = zip(shown.images, shown.targets, samples, strict=True)
    for number, (image, target, (boxes, labels)) in enumerate(islice(sampled, PICTURES), start=1):
        curves.add_picture(f"proposals/{number}", proposals_beside_truth(image, target, boxes, labels), step=step)


def show_rankings(curves: Curves, results: Results, split: Split, *, step: int) -> None:
    """Add the ranking lists of a few queries of ``split``, as ``results`` has them."""
    for number, picture in enumerate(validation_rankings(results, split, wanted=RANKINGS), start=1):
        curves.add_picture(f"ranking/{number}", picture, step=step)


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
