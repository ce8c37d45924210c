"""A model over a whole split: what scoring reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from person_search.config import Config, EvaluationConfig
from person_search.data.loading import scene_batches
from person_search.data.scene import Ints, Query, Scene, Split, as_boxes
from person_search.evaluation.overlaps import offsets_of
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
        config: ``eval_batch_size``, ``use_gt_boxes`` (the true boxes with score 1 instead of detections), ``cbgm``
            (the people beside every query too), ``workers`` and ``precision``.
        progress: called with the scenes done and their number.

    Raises DataError naming the path of an image that cannot be read: none is left out.
    """
    was_training = model.training
    model.eval()
    queries_of = _queries_by_scene(split)
    found: list[Detections] = []
    people_of: dict[int, Detections] = {}
    batches = scene_batches(
        split,
        batch_size=config.evaluation.eval_batch_size,
        workers=config.data.workers,
        pin=model.device.type == "cuda",
    )
    try:
        for images, scenes in batches:
            images = [image.to(model.device, non_blocking=True) for image in images]
            queries = [[split.queries[query] for query in queries_of[scene]] for scene in scenes]
            with autocast(model.device, config.training.precision):
                detections, people = _look(model, images, [split.scenes[s] for s in scenes], queries, config.evaluation)
            found.extend(map(_to_cpu, detections))
            for scene, beside in zip(scenes, people, strict=True):
                people_of.update(zip(queries_of[scene], map(_to_cpu, beside), strict=True))
            if progress:
                progress(len(found), len(split.scenes))
    finally:
        model.train(was_training)
    people_in_order = [people_of[query] for query in range(len(split.queries))]
    return _collect(split, found, people_in_order, with_context=config.evaluation.cbgm)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """The arithmetic of ``precision`` (32, bf16, 16) on ``device``."""
    half = torch.float16 if precision == "16" else torch.bfloat16
    return torch.autocast(device.type, dtype=half, enabled=precision != "32")


def _look(
    model: PersonSearchModel,
    images: list[Tensor],
    scenes: list[Scene],
    queries: list[list[Query]],
    settings: EvaluationConfig,
) -> tuple[list[Detections], list[list[Detections]]]:
    """Detections of every image and, per image and query, the query first and, for CBGM, the people beside it."""
    asked = [torch.tensor(as_boxes([query.box for query in own])) for own in queries]
    if settings.use_gt_boxes:
        return _true_boxes(model, images, scenes, queries, asked)
    if settings.cbgm:
        return model.detect_with_context(images, asked)
    detections, embeddings = model.detect_and_embed(images, asked)
    alone = [
        [_nobody(vector).after(box, vector) for box, vector in zip(boxes.to(model.device), vectors, strict=True)]
        for boxes, vectors in zip(asked, embeddings, strict=True)
    ]
    return detections, alone


def _true_boxes(
    model: PersonSearchModel,
    images: list[Tensor],
    scenes: list[Scene],
    queries: list[list[Query]],
    asked: list[Tensor],
) -> tuple[list[Detections], list[list[Detections]]]:
    """As ``_look``, with the annotated people as detections and, but for the query's person, beside the queries."""
    true = [torch.tensor(scene.boxes) for scene in scenes]
    embeddings = model.embed(images, [torch.cat(pair) for pair in zip(true, asked, strict=True)])
    detections, people = [], []
    for scene, own, boxes, given, vectors in zip(scenes, queries, true, asked, embeddings, strict=True):
        everyone = Detections(boxes.to(model.device), vectors.new_ones(len(boxes)), vectors[: len(boxes)])
        beside = [everyone.take(torch.from_numpy(scene.person_ids != query.person_id)) for query in own]
        wanted = zip(given.to(model.device), vectors[len(boxes) :], beside, strict=True)
        detections.append(everyone)
        people.append([others.after(box, vector) for box, vector, others in wanted])
    return detections, people


def _nobody(vector: Tensor) -> Detections:
    """No detections, with embeddings like ``vector``, (D,)."""
    return Detections(vector.new_zeros(0, 4), vector.new_zeros(0), vector.new_zeros(0, len(vector)))


def _queries_by_scene(split: Split) -> list[list[int]]:
    numbers: list[list[int]] = [[] for _ in split.scenes]
    for number, query in enumerate(split.queries):
        numbers[query.scene].append(number)
    return numbers


def _to_cpu(found: Detections) -> Detections:
    return Detections(found.boxes.float().cpu(), found.scores.float().cpu(), found.embeddings.float().cpu())


def _collect(split: Split, found: list[Detections], people: list[Detections], *, with_context: bool) -> Predictions:
    """``people``: per query, it and the people beside it."""
    width = found[0].embeddings.shape[1] if found else 0
    nobody = _nobody(torch.zeros(width))
    everyone, beside = _joined([nobody, *found]), _joined([nobody, *people])
    predictions = Predictions(
        scene_names=np.array([scene.name for scene in split.scenes], dtype=np.str_),
        offsets=_offsets(found),
        boxes=everyone.boxes.numpy(),
        scores=everyone.scores.numpy(),
        embeddings=everyone.embeddings.numpy(),
        query_embeddings=torch.cat([nobody.embeddings, *(own.embeddings[:1] for own in people)]).numpy(),
    )
    if not with_context:
        return predictions
    return replace(
        predictions,
        query_offsets=_offsets(people),
        query_boxes=beside.boxes.numpy(),
        query_scores=beside.scores.numpy(),
        query_context=beside.embeddings.numpy(),
    )


def _joined(parts: Sequence[Detections]) -> Detections:
    return Detections(
        torch.cat([part.boxes for part in parts]),
        torch.cat([part.scores for part in parts]),
        torch.cat([part.embeddings for part in parts]),
    )


def _offsets(parts: Sequence[Detections]) -> Ints:
    return offsets_of(np.array([len(part) for part in parts], dtype=np.int64))
