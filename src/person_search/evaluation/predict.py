"""A model over a whole split: what scoring reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor

from person_search.config import Config
from person_search.data.loading import scene_batches
from person_search.data.scene import Boxes, Split, as_boxes
from person_search.evaluation.predictions import Predictions
from person_search.models.detections import Detections
from person_search.models.person_search_model import PersonSearchModel


@torch.no_grad()
def predict(
    model: PersonSearchModel,
    split: Split,
    config: Config,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Predictions:
    """Detections of every scene and embeddings of every query of ``split``, each scene read and passed once.

    Args:
        model: on the device to use; put back into the mode it was in.
        split: its queries lie in its scenes.
        config: ``eval_batch_size``, ``use_gt_boxes`` (the true boxes with score 1 instead of detections),
            ``workers`` and ``precision``.
        progress: called with the scenes done and their number.

    Raises DataError naming the path of an image that cannot be read: none is left out.
    """
    was_training = model.training
    model.eval()
    queries_of = _queries_by_scene(split)
    found: list[Detections] = []
    query_embeddings: list[Tensor | None] = [None] * len(split.queries)
    batches = scene_batches(
        split,
        batch_size=config.evaluation.eval_batch_size,
        workers=config.data.workers,
        pin=model.device.type == "cuda",
    )
    try:
        for images, scenes in batches:
            images = [image.to(model.device, non_blocking=True) for image in images]
            asked = [as_boxes([split.queries[query].box for query in queries_of[scene]]) for scene in scenes]
            with autocast(model.device, config.training.precision):
                if config.evaluation.use_gt_boxes:
                    detections, embeddings = _true_boxes(model, images, [split.scenes[s].boxes for s in scenes], asked)
                else:
                    detections, embeddings = model.detect_and_embed(images, _tensors(asked))
            found.extend(_to_cpu(detection) for detection in detections)
            for scene, vectors in zip(scenes, embeddings, strict=True):
                for query, vector in zip(queries_of[scene], vectors.float().cpu(), strict=True):
                    query_embeddings[query] = vector
            if progress:
                progress(len(found), len(split.scenes))
    finally:
        model.train(was_training)
    return _collect(split, found, [vector for vector in query_embeddings if vector is not None])


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """The arithmetic of ``precision`` (32, bf16, 16) on ``device``."""
    half = torch.float16 if precision == "16" else torch.bfloat16
    return torch.autocast(device.type, dtype=half, enabled=precision != "32")


def _true_boxes(
    model: PersonSearchModel, images: list[Tensor], true: list[Boxes], asked: list[Boxes]
) -> tuple[list[Detections], list[Tensor]]:
    """The true boxes as detections, and the embeddings of the boxes asked for, from one pass."""
    together = model.embed(images, _tensors([np.concatenate(pair) for pair in zip(true, asked, strict=True)]))
    detections, queries = [], []
    for boxes, vectors in zip(true, together, strict=True):
        scores = torch.ones(len(boxes))
        detections.append(Detections(torch.tensor(boxes), scores, vectors[: len(boxes)]))
        queries.append(vectors[len(boxes) :])
    return detections, queries


def _queries_by_scene(split: Split) -> list[list[int]]:
    numbers: list[list[int]] = [[] for _ in split.scenes]
    for number, query in enumerate(split.queries):
        numbers[query.scene].append(number)
    return numbers


def _tensors(boxes: Sequence[Boxes]) -> list[Tensor]:
    return [torch.tensor(box) for box in boxes]


def _to_cpu(found: Detections) -> Detections:
    return Detections(found.boxes.float().cpu(), found.scores.float().cpu(), found.embeddings.float().cpu())


def _collect(split: Split, found: list[Detections], queries: list[Tensor]) -> Predictions:
    width = found[0].embeddings.shape[1] if found else 0
    return Predictions(
        scene_names=np.array([scene.name for scene in split.scenes], dtype=np.str_),
        offsets=np.cumsum([0, *(len(detection) for detection in found)]).astype(np.int64),
        boxes=torch.cat([torch.zeros(0, 4), *(detection.boxes for detection in found)]).numpy(),
        scores=torch.cat([torch.zeros(0), *(detection.scores for detection in found)]).numpy(),
        embeddings=torch.cat([torch.zeros(0, width), *(detection.embeddings for detection in found)]).numpy(),
        query_embeddings=(torch.stack(queries) if queries else torch.zeros(0, width)).numpy(),
    )
