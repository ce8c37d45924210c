"""Random small searches, drawn so that ties, misses, empty scenes and doubled people are common."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from person_search.data.scene import Protocol, Query, Scene, Split, with_truths
from person_search.evaluation.overlaps import offsets_of
from person_search.evaluation.predictions import Predictions

# A coarse grid of boxes: IoUs of exactly 0.5 and boxes small enough for the lowered threshold both occur.
CORNERS = [(0, 0), (0, 4), (4, 0), (40, 40), (40, 50), (100, 0)]
SIDES = [(8, 8), (8, 16), (16, 8), (20, 40), (40, 40)]


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    boxes = np.zeros((count, 4), np.float32)
    for row in range(count):
        corner, side = CORNERS[rng.integers(len(CORNERS))], SIDES[rng.integers(len(SIDES))]
        boxes[row] = (*corner, corner[0] + side[0], corner[1] + side[1])
    return boxes


def build(rng: np.random.Generator, scenes: int, identities: int, queries: int, cameras: int) -> Split:
    """Scenes of 0 to 4 people, a person possibly twice in one, and queries for people that exist."""
    made = []
    for number in range(scenes):
        count = int(rng.integers(0, 5))
        ignore = random_boxes(rng, int(rng.integers(0, 2)))
        camera = int(rng.integers(cameras)) * 3 + 1 if cameras else None
        ids = rng.integers(-1, identities, count)
        made.append(Scene(f"{number}.jpg", random_boxes(rng, count), ids, camera=camera, ignore=ignore))
    sightings = [(s, k) for s, scene in enumerate(made) for k in np.flatnonzero(scene.person_ids >= 0)]
    asked = []
    for _ in range(queries if sightings else 0):
        s, k = sightings[rng.integers(len(sightings))]
        asked.append(Query(s, made[s].boxes[k], int(made[s].person_ids[k])))
    seen = rng.integers(0, 2, identities).astype(bool)
    return Split("synthetic", "test", Path("."), made, identities, asked, seen_identities=seen)


def predict(rng: np.random.Generator, split: Split, dimensions: int, *, exact: bool, copies: bool) -> Predictions:
    """Detections near people and elsewhere; ``exact`` embeddings are small integers, so that dot products tie.

    With ``copies``, three in ten detections have another's embedding.
    """
    boxes, counts = [np.zeros((0, 4), np.float32)], []
    for scene in split.scenes:
        near = scene.boxes[rng.random(len(scene.boxes)) < 0.7]
        other = random_boxes(rng, int(rng.integers(0, 4)))
        boxes.append(rng.permutation(np.concatenate([near, near[:1], other])))
        counts.append(len(boxes[-1]))
    stacked = np.concatenate(boxes)

    def embeddings(count: int) -> np.ndarray:
        if exact:
            return rng.integers(-2, 3, (count, dimensions)).astype(np.float32)
        return rng.standard_normal((count, dimensions)).astype(np.float32)

    own = embeddings(len(stacked))
    if copies and len(own):
        copied = rng.random(len(own)) < 0.3
        own[copied] = own[rng.integers(0, len(own), int(copied.sum()))]
    people = rng.integers(1, 5, len(split.queries))
    query_embeddings, total = embeddings(len(split.queries)), int(people.sum())
    context, offsets = embeddings(total), offsets_of(people)
    context[offsets[:-1]] = query_embeddings
    return Predictions(
        scene_names=np.array([scene.name for scene in split.scenes], dtype=np.str_),
        offsets=offsets_of(np.array(counts, np.int64)),
        boxes=stacked,
        scores=(rng.integers(0, 9, len(stacked)) / 8).astype(np.float32),
        embeddings=own,
        query_embeddings=query_embeddings,
        query_offsets=offsets,
        query_boxes=random_boxes(rng, total),
        query_scores=(rng.integers(0, 5, total) / 4).astype(np.float32),
        query_context=context,
    )


def gallery(rng: np.random.Generator, split: Split, share: float) -> Protocol:
    """Every query searches this share of the scenes, at least one; in every other drawing truths count up to thrice."""
    in_gallery = rng.random((len(split.queries), len(split.scenes))) < share
    for row in in_gallery:
        row[rng.integers(len(row))] = True
    protocol = with_truths("drawn", split, in_gallery)
    if rng.random() < 0.5:
        return protocol
    return replace(protocol, truth_counts=rng.integers(1, 4, len(protocol.truth_scenes)))


def shuffled(rng: np.random.Generator, protocol: Protocol) -> Protocol:
    """The same truths, each query's in another order."""
    order = np.arange(len(protocol.truth_scenes))
    for start, end in zip(protocol.truth_offsets[:-1], protocol.truth_offsets[1:], strict=True):
        order[start:end] = rng.permutation(order[start:end])
    return replace(
        protocol,
        truth_scenes=protocol.truth_scenes[order],
        truth_boxes=protocol.truth_boxes[order],
        truth_counts=None if protocol.truth_counts is None else protocol.truth_counts[order],
    )


@st.composite
def problems(draw: st.DrawFn, *, exact: bool = True, copies: bool = True) -> tuple[Predictions, Split, Protocol]:
    """Predictions, the split they are for, and galleries: hypothesis chooses sizes and the seed of the rest."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    split = build(
        rng,
        scenes=draw(st.integers(1, 12)),
        identities=draw(st.integers(1, 4)),
        queries=draw(st.integers(0, 6)),
        cameras=draw(st.integers(0, 3)),
    )
    predictions = predict(
        rng, split, draw(st.sampled_from([1, 3] if exact else [3, 37, 130])), exact=exact, copies=copies
    )
    return predictions, split, shuffled(rng, gallery(rng, split, draw(st.sampled_from([0.1, 0.5, 1.0]))))
