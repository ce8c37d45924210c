"""A model over a whole split: what scoring reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from person_search.config import Config, EvaluationConfig
from person_search.data.loading import scene_batches
from person_search.data.scene import Ints, Query, Scene, Split, as_boxes
from person_search.data.workers import lost_workers_named
from person_search.errors import CheckpointError
from person_search.evaluation.overlaps import offsets_of
from person_search.evaluation.predictions import Predictions
from person_search.models.detections import Detections, GivenPerson, ImageResult
from person_search.models.person_search_model import PersonSearchModel
from person_search.runtime.distributed import at_first, processes, rank, together


@torch.no_grad()
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
            (the people beside every query too), ``workers`` and ``precision``.
        progress: called with the scenes done and their number, by the first process alone.

    Raises DataError naming the path of an image that cannot be read: none is left out; LostWorkerError when a process
    that decodes them is lost.
    """
    was_training = model.training
    model.eval()
    found: dict[int, Detections] = {}
    people: dict[int, GivenPerson] = {}
    try:
        with together(), lost_workers_named():
            for scenes, queries, looked in _looks(model, split, config):
                # By now the next batch is on its way, and the device need not wait for this one's results to be kept.
                kept = looked.wait()
                _check_finite(kept, model)
                found.update(zip(scenes, (result.detections for result in kept), strict=True))
                people.update(zip(queries, (person for result in kept for person in result.given), strict=True))
                if progress and rank() == 0:
                    progress(min(len(found) * processes(), len(split.scenes)), len(split.scenes))
    finally:
        model.train(was_training)
    shares = at_first((found, people))
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


def _looks(model: PersonSearchModel, split: Split, config: Config) -> Iterator[tuple[list[int], list[int], CopyToHost]]:
    """Scene numbers, query numbers, and what was found in the former and given by the latter, of this process's share.

    Each batch comes out when the next one has been given to the device.
    """
    queries_of = _queries_by_scene(split)
    batches = scene_batches(
        split,
        batch_size=config.evaluation.eval_batch_size,
        workers=config.data.workers,
        pin=model.device.type == "cuda",
        scenes=_share(len(split.scenes), config.evaluation.eval_batch_size),
    )
    before = None
    for images, scenes in batches:
        moved = [image.to(model.device, non_blocking=True) for image in images]
        queries = [[split.queries[query] for query in queries_of[scene]] for scene in scenes]
        with autocast(model.device, config.training.precision):
            results = _look(model, moved, [split.scenes[s] for s in scenes], queries, config.evaluation)
        looked = CopyToHost(results)
        if before is not None:
            yield before
        before = scenes, [query for scene in scenes for query in queries_of[scene]], looked
    if before is not None:
        yield before


def _check_finite(results: Sequence[ImageResult], model: PersonSearchModel) -> None:
    """Raise CheckpointError when what a model found is not finite: its weights are, or no error came so far."""
    people = [person for result in results for person in result.given]
    found = [result.detections for result in results] + [p.beside for p in people if p.beside is not None]
    tensors = [value for each in found for value in (each.boxes, each.embeddings)]
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
    starts = range(rank() * batch_size, scenes, processes() * batch_size)
    return [scene for start in starts for scene in range(start, min(start + batch_size, scenes))]


class CopyToHost:
    """A copy of results to ordinary memory, float32, that the device makes while it is given other work."""

    def __init__(self, results: Sequence[ImageResult]):
        self._copies = [result.map(lambda value: value.float().to("cpu", non_blocking=True)) for result in results]
        self._done = torch.cuda.Event() if results and results[0].detections.scores.is_cuda else None
        if self._done is not None:
            self._done.record()

    def wait(self) -> list[ImageResult]:
        """The copies, once they are made."""
        if self._done is None:
            return self._copies
        self._done.synchronize()
        # They are in page-locked memory, of which a whole split's would be too much.
        return [result.map(torch.clone) for result in self._copies]


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
) -> list[ImageResult]:
    """What is found in every image, and its queries, with the people beside them for CBGM."""
    asked = [torch.tensor(as_boxes([query.box for query in own])) for own in queries]
    if settings.use_gt_boxes:
        return _true_boxes(model, images, scenes, queries, asked)
    return model.detect_and_embed(images, asked, context=settings.cbgm)


def _true_boxes(
    model: PersonSearchModel,
    images: list[Tensor],
    scenes: list[Scene],
    queries: list[list[Query]],
    asked: list[Tensor],
) -> list[ImageResult]:
    """As ``_look``, with the annotated people as detections and, but for the query's person, beside the queries."""
    true = [torch.tensor(scene.boxes) for scene in scenes]
    embeddings = model.embed(images, [torch.cat(pair) for pair in zip(true, asked, strict=True)])
    results = []
    for scene, own, boxes, given, vectors in zip(scenes, queries, true, asked, embeddings, strict=True):
        everyone = Detections(boxes.to(model.device), vectors.new_ones(len(boxes)), vectors[: len(boxes)])
        beside = [everyone.take(torch.from_numpy(scene.person_ids != query.person_id)) for query in own]
        wanted = zip(given.to(model.device), vectors[len(boxes) :], beside, strict=True)
        results.append(ImageResult(everyone, [GivenPerson(*person) for person in wanted]))
    return results


def _context_of(person: GivenPerson) -> Detections:
    """The person, with a score of 1, and the people beside, in the order that a predictions file has them in."""
    given = Detections(person.box[None], person.box.new_ones(1), person.embedding[None])
    return given if person.beside is None else _joined([given, person.beside])


def _queries_by_scene(split: Split) -> list[list[int]]:
    numbers: list[list[int]] = [[] for _ in split.scenes]
    for number, query in enumerate(split.queries):
        numbers[query.scene].append(number)
    return numbers


def _collect(split: Split, found: list[Detections], people: list[GivenPerson], *, with_context: bool) -> Predictions:
    """``people``: per query."""
    width = found[0].embeddings.shape[1] if found else 0
    nobody = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, width))
    everyone = _joined([nobody, *found])
    predictions = Predictions(
        scene_names=np.array([scene.name for scene in split.scenes], dtype=np.str_),
        offsets=_offsets(found),
        boxes=everyone.boxes.numpy(),
        scores=everyone.scores.numpy(),
        embeddings=everyone.embeddings.numpy(),
        query_embeddings=torch.cat([nobody.embeddings, *(person.embedding[None] for person in people)]).numpy(),
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


def _joined(parts: Sequence[Detections]) -> Detections:
    return Detections(
        torch.cat([part.boxes for part in parts]),
        torch.cat([part.scores for part in parts]),
        torch.cat([part.embeddings for part in parts]),
    )


def _offsets(parts: Sequence[Detections]) -> Ints:
    return offsets_of(np.array([len(part) for part in parts], dtype=np.int64))
