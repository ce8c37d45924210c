"""A model over a whole split: what scoring reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from person_search.config import Config
from person_search.data.loading import scene_batches
from person_search.data.scene import Boxes, Ints, Query, Scene, Split, as_boxes
from person_search.data.workers import lost_workers_named
from person_search.errors import CheckpointError, DataError
from person_search.evaluation.optional_arrays import declared
from person_search.evaluation.overlaps import offsets_of
from person_search.evaluation.predictions import Float32s, Predictions
from person_search.models.detections import Detections, GivenPerson, ImageResult
from person_search.models.person_search_model import PersonSearchModel
from person_search.models.streaming import ResultStream, boxes_outside, detections_of
from person_search.runtime.distributed import errors_on_all_ranks, gather_object, rank, world_size


def predict(
    model: PersonSearchModel,
    split: Split,
    config: Config,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Predictions | None:
    """Detections of every scene and embeddings of every query of ``split``, each scene read and passed once.

    Processes that work together share the batches. All call this; the first gets what a single one would have got,
    the others None.

    Args:
        model: on the device to use; put back into the mode it was in.
        split: its queries lie in its scenes.
        config: ``eval_batch_size``, ``use_gt_boxes`` (the true boxes with score 1 instead of detections), ``cbgm``
            (the people beside every query too), ``same_size_batches``, ``workers`` and ``precision``.
        progress: called with the scenes done and their number, by the first process alone.

    Raises DataError naming the path of an image that cannot be read, none being left out, or the image that a box lies
    outside of; LostWorkerError when a process that decodes them is lost.
    """
    was_training = model.training
    model.eval()
    found: dict[int, ImageResult] = {}
    people: dict[int, GivenPerson] = {}
    try:
        share = _share(len(split.scenes), config.evaluation.eval_batch_size)
        queries_of = _queries_by_scene(split)
        with errors_on_all_ranks(), lost_workers_named(), _stream(model, split, share, queries_of, config) as results:
            for scene, result in zip(share, results, strict=True):
                if config.evaluation.use_gt_boxes:
                    queries = [split.queries[query] for query in queries_of[scene]]
                    result = _with_true_boxes(split.scenes[scene], queries, result)
                _check_finite(result, model)
                found[scene] = replace(result, given=[])
                people.update(zip(queries_of[scene], result.given, strict=True))
                whole = len(found) % config.evaluation.eval_batch_size == 0 or len(found) == len(share)
                if progress and whole and rank() == 0:
                    progress(min(len(found) * world_size(), len(split.scenes)), len(split.scenes))
    finally:
        model.train(was_training)
    shares = gather_object((found, people))
    if shares is None:
        return None
    for others_found, others_people in shares[1:]:
        found |= others_found
        people |= others_people
    return _collect(
        split,
        [found[scene] for scene in range(len(split.scenes))],
        [people[query] for query in range(len(split.queries))],
        with_context=config.evaluation.cbgm,
    )


def _stream(
    model: PersonSearchModel, split: Split, share: Sequence[int], queries_of: list[list[int]], config: Config
) -> ResultStream:
    """What is found in each scene of ``share`` and, as ``given``, its queries, with the people beside them for CBGM.

    Where the true boxes stand for detections nothing is detected, and they are given before the queries.
    """
    settings = config.evaluation
    boxes = [as_boxes([split.queries[query].box for query in queries_of[scene]]) for scene in share]
    if settings.use_gt_boxes:
        boxes = [np.concatenate([split.scenes[s].boxes, own]) for s, own in zip(share, boxes, strict=True)]
    batches = scene_batches(split, batch_size=settings.eval_batch_size, workers=config.data.workers, scenes=share)
    return detections_of(
        model,
        _images(split, batches, boxes),
        batch_size=settings.eval_batch_size,
        with_boxes=map(torch.from_numpy, boxes),
        context=settings.cbgm and not settings.use_gt_boxes,
        detect=not settings.use_gt_boxes,
        same_size_batches=settings.same_size_batches,
        precision=config.training.precision,
    )


def _images(
    split: Split, batches: Iterator[tuple[list[Tensor], list[int]]], boxes: Sequence[Boxes]
) -> Iterator[Tensor]:
    """The images one by one. Raises DataError where one of the ``boxes``, (n, 4) per image, lies outside it."""
    wanted = iter(boxes)
    for images, scenes in batches:
        for image, scene, own in zip(images, scenes, wanted, strict=False):
            outside = boxes_outside(torch.from_numpy(own), image)
            if bool(outside.any()):
                raise DataError(
                    f"image '{split.scenes[scene].name}' is {image.shape[2]} x {image.shape[1]} pixels, but the box "
                    f"{own[outside.numpy()][0].tolist()} lies outside; correct the annotation"
                )
            yield image


def _with_true_boxes(scene: Scene, queries: list[Query], result: ImageResult) -> ImageResult:
    """``result`` as if the true boxes, which were given before the queries', had been detected.

    Beside a query is everybody annotated but its own person.
    """
    number = len(scene.boxes)
    # Nobody was detected, but the width of an embedding is there also where nobody is annotated.
    embeddings = [result.detections.embeddings, *(person.embedding[None] for person in result.given[:number])]
    everyone = Detections(torch.from_numpy(scene.boxes), torch.ones(number), torch.cat(embeddings))
    others = [everyone.take(torch.from_numpy(scene.person_ids != query.person_id)) for query in queries]
    asked = zip(result.given[number:], others, strict=True)
    return replace(result, detections=everyone, given=[replace(person, beside=beside) for person, beside in asked])


def _check_finite(result: ImageResult, model: PersonSearchModel) -> None:
    """Raise CheckpointError when what a model found is not finite: its weights are, or no error came so far."""
    people = result.given
    found = [result.detections, *(person.beside for person in people if person.beside is not None)]
    tensors = [value for each in found for value in (each.boxes, each.embeddings)] + [*result.arrays.values()]
    if all(bool(torch.isfinite(value).all()) for value in (*tensors, *(p.embedding for p in people))):
        return
    sizes = {name: float(value.abs().max()) for name, value in model.state_dict().items() if value.numel()}
    name = max(sizes, key=lambda each: sizes[each])
    raise CheckpointError(
        f"the model's weights are broken: what it computes is NaN or infinite, and '{name}' reaches {sizes[name]:.3g}; "
        "its training was lost: use a checkpoint from before (or, with precision 16, try 32)"
    )


def _share(scenes: int, batch_size: int) -> list[int]:
    """This process's scenes: whole batches of one process, for how far a batch is padded changes its numbers a bit."""
    starts = range(rank() * batch_size, scenes, world_size() * batch_size)
    return [scene for start in starts for scene in range(start, min(start + batch_size, scenes))]


def _context_of(person: GivenPerson) -> Detections:
    """The person, with a score of 1, and the people beside, in the order that a predictions file has them in."""
    given = Detections(person.box[None], person.box.new_ones(1), person.embedding[None])
    return given if person.beside is None else _joined([given, person.beside])


def _queries_by_scene(split: Split) -> list[list[int]]:
    numbers: list[list[int]] = [[] for _ in split.scenes]
    for number, query in enumerate(split.queries):
        numbers[query.scene].append(number)
    return numbers


def _collect(split: Split, found: list[ImageResult], people: list[GivenPerson], *, with_context: bool) -> Predictions:
    """``found``: per scene; ``people``: per query."""
    width = found[0].detections.embeddings.shape[1] if found else 0
    nobody = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, width))
    detections = [result.detections for result in found]
    everyone = _joined([nobody, *detections])
    predictions = Predictions(
        scene_names=np.array([scene.name for scene in split.scenes], dtype=np.str_),
        offsets=_offsets(detections),
        boxes=everyone.boxes.numpy(),
        scores=everyone.scores.numpy(),
        embeddings=everyone.embeddings.numpy(),
        query_embeddings=torch.cat([nobody.embeddings, *(person.embedding[None] for person in people)]).numpy(),
        arrays={**_arrays([result.arrays for result in found]), **_arrays([person.arrays for person in people])},
    )
    if not with_context:
        return predictions
    context = [_context_of(person) for person in people]
    beside = _joined([nobody, *context])
    return replace(
        predictions,
        query_offsets=_offsets(context),
        query_boxes=beside.boxes.numpy(),
        query_scores=beside.scores.numpy(),
        query_context=beside.embeddings.numpy(),
    )


def _arrays(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Float32s]:
    """What the method says beside, by name, of each scene or each query, as the arrays of a predictions file."""
    arrays = {}
    for name in parts[0] if parts else ():
        per_detection = declared(name).shape[0] == "M"
        arrays[name] = (torch.cat if per_detection else torch.stack)([part[name] for part in parts]).numpy()
    return arrays


def _joined(parts: Sequence[Detections]) -> Detections:
    return Detections(
        torch.cat([part.boxes for part in parts]),
        torch.cat([part.scores for part in parts]),
        torch.cat([part.embeddings for part in parts]),
    )


def _offsets(parts: Sequence[Detections]) -> Ints:
    return offsets_of(np.array([len(part) for part in parts], dtype=np.int64))
