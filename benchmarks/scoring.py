"""Time and memory of search scoring at the published sizes, beside a plain loop, and how both grow.

    python benchmarks/scoring.py                 the published sizes, the loop on 20 queries, extrapolated
    python benchmarks/scoring.py --full-loop     the whole loop too (minutes)

Scenes, boxes and embeddings are made up; only their numbers are those of the datasets. The loop is a lean one: it
multiplies a scene's detections at once, and only AP comes out of it. Public implementations take several times longer.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from person_search.data.scene import Protocol, Query, Scene, Split, with_truths
from person_search.evaluation.cbgm import context_rescore, defaults
from person_search.evaluation.predictions import Predictions
from person_search.evaluation.search import SearchResult, search


@dataclass(frozen=True)
class Size:
    """How much of everything; ``sightings`` are labelled boxes per identity, ``gallery`` scenes per query (-1: all)."""

    name: str
    dataset: str
    scenes: int
    detections: int
    queries: int
    identities: int
    sightings: int
    cameras: int
    gallery: int
    dimensions: int = 256


PRW = Size("PRW", "prw", 6112, 32_000, 2057, 450, 42, 6, -1)
CUHK = Size("CUHK-SYSU, gallery 100", "cuhk-sysu", 6978, 40_000, 2900, 2900, 3, 0, 100)
WHOLE = replace(CUHK, name="CUHK-SYSU, whole set", gallery=-1)


def unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)


def make(size: Size, seed: int = 0) -> tuple[Predictions, Split, Protocol]:
    """A split, its protocol, and predictions of a middling model: 9 of 10 people found, embeddings noisy."""
    rng = np.random.default_rng(seed)
    labelled = size.identities * size.sightings
    boxes_total = max(int(1.05 * size.detections), labelled)
    ids = np.full(boxes_total, -1)
    ids[:labelled] = np.repeat(np.arange(size.identities), size.sightings)
    places = np.concatenate([rng.choice(size.scenes, size.sightings, replace=False) for _ in range(size.identities)])
    scene_of = np.concatenate([places, rng.integers(0, size.scenes, boxes_total - labelled)])
    order = np.argsort(scene_of, kind="stable")
    ids, scene_of = ids[order], scene_of[order]
    corner = rng.uniform(0, 1500, (boxes_total, 2))
    side = rng.uniform([20, 50], [120, 300], (boxes_total, 2))
    boxes = np.concatenate([corner, corner + side], axis=1).astype(np.float32)

    centres = rng.standard_normal((size.identities, size.dimensions))
    looks = np.where(ids[:, None] >= 0, centres[ids], rng.standard_normal((boxes_total, size.dimensions)))
    cut = np.searchsorted(scene_of, np.arange(size.scenes + 1))
    scenes = [
        Scene(f"{i:05d}.jpg", boxes[a:b], ids[a:b], camera=i % size.cameras if size.cameras else None)
        for i, (a, b) in enumerate(itertools.pairwise(cut))
    ]
    chosen = np.sort(rng.permutation(np.flatnonzero(ids >= 0))[: size.queries])
    if size.queries == size.identities:
        chosen = np.sort(np.unique(ids, return_index=True)[1][1:])
    queries = [Query(int(scene_of[k]), boxes[k], int(ids[k])) for k in chosen]
    split = Split(size.dataset, "test", Path("."), scenes, size.identities, queries)

    found = np.sort(rng.permutation(boxes_total)[: int(0.9 * size.detections)])
    false = size.detections - len(found)
    row_scene = np.concatenate([scene_of[found], rng.integers(0, size.scenes, false)])
    jitter = rng.normal(0, 3, (len(found), 4)).astype(np.float32)
    row_boxes = np.concatenate([boxes[found] + jitter, boxes[rng.integers(0, boxes_total, false)]])
    noise = rng.standard_normal((len(found), size.dimensions)) * 2
    row_looks = np.concatenate([looks[found] + noise, rng.standard_normal((false, size.dimensions))])
    by_scene = np.argsort(row_scene, kind="stable")
    predictions = Predictions(
        scene_names=np.array([scene.name for scene in scenes]),
        offsets=np.searchsorted(row_scene[by_scene], np.arange(size.scenes + 1)).astype(np.int64),
        boxes=row_boxes[by_scene].astype(np.float32),
        scores=np.ones(size.detections, np.float32),
        embeddings=unit(row_looks[by_scene]),
        query_embeddings=unit(looks[chosen] + 2 * rng.standard_normal((len(chosen), size.dimensions))),
    )
    return predictions, split, galleries(size, split, rng)


def galleries(size: Size, split: Split, rng: np.random.Generator) -> Protocol:
    """All scenes but the query's, or for a gallery size those with the person and random others."""
    in_gallery = np.ones((len(split.queries), len(split.scenes)), dtype=bool)
    if size.gallery > 0:
        holding: list[list[int]] = [[] for _ in range(split.num_identities)]
        for number, scene in enumerate(split.scenes):
            for person in scene.person_ids[scene.person_ids >= 0]:
                holding[person].append(number)
        in_gallery[:] = False
        for q, query in enumerate(split.queries):
            others = rng.permutation(len(split.scenes))[: size.gallery - len(holding[query.person_id])]
            in_gallery[q, others] = True
            in_gallery[q, holding[query.person_id]] = True
    in_gallery[np.arange(len(split.queries)), [query.scene for query in split.queries]] = False
    return with_truths(size.name, split, in_gallery)


def with_context(predictions: Predictions, split: Split, people: int = 5) -> Predictions:
    """``predictions`` with made-up other people in every query's picture."""
    rng = np.random.default_rng(1)
    queries, dimensions = predictions.query_embeddings.shape
    context = unit(rng.standard_normal((queries, people, dimensions)))
    context[:, 0] = predictions.query_embeddings
    boxes = np.repeat(np.array([query.box for query in split.queries]), people, axis=0)
    return replace(
        predictions,
        query_offsets=np.arange(queries + 1, dtype=np.int64) * people,
        query_boxes=boxes,
        query_scores=np.ones(queries * people, np.float32),
        query_context=context.reshape(-1, dimensions),
    )


def plain_loop(predictions: Predictions, protocol: Protocol, queries: range) -> list[float]:
    """AP of some queries the way it is usually written: a loop over scenes and detections, everything sorted."""
    values = []
    for q in queries:
        embedding = predictions.query_embeddings[q].astype(np.float64)
        rows = slice(protocol.truth_offsets[q], protocol.truth_offsets[q + 1])
        truths: dict[int, np.ndarray] = dict(
            zip(protocol.truth_scenes[rows].tolist(), protocol.truth_boxes[rows].astype(np.float64), strict=True)
        )
        right: list[int] = []
        similar: list[float] = []
        found = 0
        for scene in np.flatnonzero(protocol.in_gallery[q]).tolist():
            start, end = predictions.offsets[scene], predictions.offsets[scene + 1]
            if start == end:
                continue
            values_here = predictions.embeddings[start:end].astype(np.float64) @ embedding
            right_here = [0] * len(values_here)
            if scene in truths:
                x1, y1, x2, y2 = truths[scene]
                needed = min(0.5, (x2 - x1) * (y2 - y1) / ((x2 - x1 + 10) * (y2 - y1 + 10)))
                for k in np.argsort(-values_here, kind="stable"):
                    a1, b1, a2, b2 = predictions.boxes[start + k].astype(np.float64)
                    shared = max(0.0, min(x2, a2) - max(x1, a1)) * max(0.0, min(y2, b2) - max(y1, b1))
                    union = (x2 - x1) * (y2 - y1) + (a2 - a1) * (b2 - b1) - shared
                    if shared / union >= needed:
                        right_here[k] = 1
                        found += 1
                        break
            right.extend(right_here)
            similar.extend(values_here.tolist())
        order = np.argsort(-np.array(similar), kind="stable")
        correct = np.array(right)[order]
        precision = np.cumsum(correct) / np.arange(1, len(correct) + 1)
        ap = float(precision[correct > 0].sum()) / found if found else 0.0
        values.append(ap * found / len(truths) if truths else float("nan"))
    return values


def timed(run: Callable[[], SearchResult], repeats: int) -> tuple[float, float, SearchResult]:
    """Shortest wall time and least processor time, in seconds, of ``repeats`` runs, and the result.

    Processor time, of all threads together, is what other programs on the machine disturb least.
    """
    best = busy = float("inf")
    for _ in range(repeats):
        start, start_busy = time.perf_counter(), time.process_time()
        result = run()
        best, busy = min(best, time.perf_counter() - start), min(busy, time.process_time() - start_busy)
    return best, busy, result


def peak_mb() -> float:
    """Largest resident memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def published(arguments: argparse.Namespace) -> Table:
    """Times at the published sizes beside the plain loop."""
    table = Table(title=f"Search scoring, best of {arguments.repeats}")
    for column in (
        "set",
        "queries",
        "detections",
        "search s",
        "processor s",
        "with CBGM s",
        "peak MB",
        "loop, processor s",
        "ratio",
        "AP differs by",
    ):
        table.add_column(column, justify="left" if column == "set" else "right")
    for size in (PRW, CUHK, WHOLE):
        predictions, split, protocol = make(size)
        seconds, busy, result = timed(partial(search, predictions, split, protocol), arguments.repeats)
        memory = peak_mb()
        asked = range(size.queries) if arguments.full_loop else range(min(arguments.loop_queries, size.queries))
        start = time.process_time()
        loop = plain_loop(predictions, protocol, asked)
        loop_seconds = (time.process_time() - start) * size.queries / len(asked)
        gap = float(np.nanmax(np.abs(np.array(loop) - result.ap[: len(asked)])))
        rich = with_context(predictions, split)
        k1, k2 = defaults(size.dataset)
        rescore = context_rescore(rich, k1=k1, k2=k2)
        again, _, _ = timed(partial(search, rich, split, protocol, rescore=rescore), 1)
        how = "" if arguments.full_loop else f" (from {len(asked)} queries)"
        table.add_row(
            size.name, f"{size.queries:,}", f"{size.detections:,}", f"{seconds:.2f}", f"{busy:.2f}", f"{again:.2f}",
            f"{memory:.0f}", f"{loop_seconds:.1f}{how}", f"{loop_seconds / busy:.0f}", f"{gap:.1e}",
        )  # fmt: skip
    return table


def growth(arguments: argparse.Namespace) -> Table:
    """How time grows with detections and with queries."""
    table = Table(title="Growth, PRW-like")
    for column in ("detections", "queries", "search s", "processor s", "ns per query and detection"):
        table.add_column(column, justify="right")
    sizes = [replace(PRW, detections=n) for n in (8_000, 16_000, 32_000, 64_000)]
    sizes += [replace(PRW, queries=n) for n in (500, 1000, 2000, 4000)]
    for size in sizes:
        predictions, split, protocol = make(size)
        seconds, busy, _ = timed(partial(search, predictions, split, protocol), arguments.repeats)
        each = busy / size.detections / size.queries * 1e9
        table.add_row(f"{size.detections:,}", f"{size.queries:,}", f"{seconds:.2f}", f"{busy:.2f}", f"{each:.1f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="runs per size; the shortest is printed")
    parser.add_argument("--loop-queries", type=int, default=20, help="queries the plain loop is timed on")
    parser.add_argument("--full-loop", action="store_true", help="time the plain loop on every query")
    parser.add_argument("--no-growth", action="store_true", help="leave the growth table out")
    arguments = parser.parse_args()
    console = Console(width=150)
    console.print(published(arguments))
    if not arguments.no_growth:
        console.print(growth(arguments))


if __name__ == "__main__":
    main()
