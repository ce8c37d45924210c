"""What the speed benchmarks share: made-up pictures, the devices' peaks, one row per setting, the table."""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torchvision.io import write_jpeg

from person_search.config import Config, with_settings
from person_search.data.scene import Query, Scene, Split, as_boxes
from person_search.registry import methods

PEAKS = {
    "H100": {"32": 494.7, "bf16": 989.4, "16": 989.4},
    "H200": {"32": 494.7, "bf16": 989.4, "16": 989.4},
    "A100": {"32": 156.0, "bf16": 312.0, "16": 312.0},
    "L40S": {"32": 183.0, "bf16": 362.0, "16": 362.0},
    "RTX 4090": {"32": 82.6, "bf16": 165.2, "16": 165.2},
    "RTX 3090": {"32": 35.6, "bf16": 71.0, "16": 71.0},
    "V100": {"32": 15.7, "16": 125.0},
    "T4": {"32": 8.1, "16": 65.0},
}
"""10^12 dense operations a second from the makers' data sheets; for 32 with TF32, where convolutions use it."""

PEOPLE, IDENTITIES = 5, 100
PLAIN = "plain"
"""The way of computing that the others are compared with: eager, nothing prepared or shared."""

T = TypeVar("T")
Measured = dict[str, Any]
"""Fields of a ``Row``."""


@dataclass(frozen=True)
class Row:
    """One setting and what was measured in it.

    Attributes:
        settings: of the run, by config name.
        way: how it was computed: ``PLAIN``, or what else.
        images, seconds, waiting: images shown, wall time for them, and the part of it spent waiting for data.
        operations: floating-point operations per image (convolutions and matrix products, gradient included).
        peak_mb: of the device's memory; on a CPU what the process grew by.
        peak_operations: the device's, per second.
        estimated_mb: the memory estimated beforehand, where it was.
    """

    settings: dict[str, Any]
    way: str
    images: int
    seconds: float
    waiting: float
    operations: float
    peak_mb: float
    peak_operations: float
    estimated_mb: float | None = None


class Stopwatch:
    """Times what is done with batches, and how much of it was waiting for the next one."""

    def __init__(self, device: str):
        self._device = device
        self._began = self._waited = 0.0

    def over(self, batches: Iterable[T], *, skip: int) -> Iterator[T]:
        """``batches``, timed once the first ``skip`` are done with."""
        source = iter(batches)
        yield from itertools.islice(source, skip)
        wait(self._device)
        self._began = time.perf_counter()
        while True:
            asked = time.perf_counter()
            batch = next(source, None)
            self._waited += time.perf_counter() - asked
            if batch is None:
                return
            yield batch

    def measured(self, way: str, images: int, operations: float) -> Measured:
        """Fields of a ``Row``, when all batches are done with."""
        wait(self._device)
        seconds = time.perf_counter() - self._began
        return {"way": way, "images": images, "seconds": seconds, "waiting": self._waited, "operations": operations}


def arguments_of(description: str) -> argparse.ArgumentParser:
    """The options that both benchmarks have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=methods.names())
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--width", type=float, default=1.0, help="multiplies the backbone's channels")
    parser.add_argument("--sizes", nargs="+", default=["600x1000", "900x1500"], help="shorter x longer side")
    parser.add_argument("--picture", default="1920x1080", help="width x height of the JPEG files")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[5])
    parser.add_argument("--precisions", nargs="+", default=["32"], choices=["32", "bf16", "16"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=2, help="processes that decode images")
    parser.add_argument("--batches", type=int, default=20, help="batches timed")
    parser.add_argument("--warm-up", type=int, default=5, help="batches before that")
    parser.add_argument("--peak", type=float, help="10^12 operations a second; else the data sheet's, else measured")
    parser.add_argument("--compile", action="store_true")
    return parser


def settings_of(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One dict of settings for every combination asked for."""
    every = itertools.product(options.methods, options.sizes, options.batch_sizes, options.precisions)
    return [
        {
            "method": method,
            "backbone": options.backbone,
            "width": options.width,
            "weights": "none",
            "freeze": method == "baseline",
            "shorter_side": int(size.split("x")[0]),
            "longer_side": int(size.split("x")[1]),
            "batch_size": batch,
            "eval_batch_size": batch,
            "precision": precision,
            "device": options.device,
            "workers": options.workers,
            "compile": options.compile,
            "checkpoint_trunk": getattr(options, "checkpoint_trunk", False),
            "checkpoint_heads": getattr(options, "checkpoint_heads", False),
        }
        for method, size, batch, precision in every
    ]


def measure_all(
    options: argparse.Namespace,
    measure: Callable[[str, Config, Split, argparse.Namespace], Measured],
    ways: Sequence[str],
) -> Iterator[Row]:
    """A row for each setting and way, each in a process of its own, so that its memory is its own."""
    width, height = map(int, options.picture.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        for settings in settings_of(options):
            count = (options.batches + options.warm_up + 2) * settings["batch_size"]
            split = image_split(Path(folder), min(count, 64), count, width, height)
            for way in ways:
                with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                    yield pool.submit(one_row, way, settings, split, options, measure).result()


def one_row(way: str, settings: dict[str, Any], split: Split, options: argparse.Namespace, measure: Any) -> Row:
    """Run ``measure`` on one setting, in one way."""
    config = with_settings(Config(), **settings)
    before = resident_mb()
    measured = measure(way, config, split, options)
    memory = torch.cuda.max_memory_allocated() / 2**20 if options.device == "cuda" else resident_mb() - before
    return Row(settings=settings, peak_mb=memory, peak_operations=peak_of(options, settings["precision"]), **measured)


def image_split(folder: Path, files: int, scenes: int, width: int, height: int) -> Split:
    """``scenes`` scenes over ``files`` JPEG files with a photograph's smoothness, and people in them."""
    draw = np.random.default_rng(0)
    made = []
    for number in range(scenes):
        name = f"{number % files}.jpg"
        if not (folder / name).exists():
            coarse = torch.from_numpy(draw.uniform(0, 255, (1, 3, height // 16, width // 16)).astype(np.float32))
            smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0]
            write_jpeg(smooth.clamp(0, 255).to(torch.uint8), str(folder / name), quality=90)
        corner = draw.uniform(0, [0.9 * width, 0.6 * height], (PEOPLE, 2))
        side = np.outer(draw.uniform(0.15, 0.4, PEOPLE), [0.4 * height, height])
        boxes = np.concatenate([corner, np.minimum(corner + side, [width, height])], 1)
        made.append(Scene(name, as_boxes(boxes), draw.integers(0, IDENTITIES, PEOPLE)))
    queries = [Query(number, scene.boxes[0], int(scene.person_ids[0])) for number, scene in enumerate(made)]
    return Split("made up", "train", folder, made, IDENTITIES, queries)


def resident_mb() -> float:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def peak_of(options: argparse.Namespace, precision: str) -> float:
    """Operations a second: as asked, from the data sheet, or those of a large matrix product here."""
    if options.peak:
        return float(options.peak) * 1e12
    if options.device == "cuda":
        name = torch.cuda.get_device_name()
        known = next((peaks for part, peaks in PEAKS.items() if part in name), {})
        if precision in known:
            return known[precision] * 1e12
    kind = {"32": torch.float32, "bf16": torch.bfloat16, "16": torch.float16}[precision]
    side = 8192 if options.device == "cuda" else 2048
    matrix = torch.rand(side, side, device=options.device).to(kind)
    best = float("inf")
    for _ in range(5):
        wait(options.device)
        start = time.perf_counter()
        matrix @ matrix
        wait(options.device)
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def wait(device: str) -> None:
    """Until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def show(title: str, rows: Iterator[Row]) -> None:
    """Print the table, and on which kind of machine it was measured."""
    table = Table(title=title)
    for name in ("method", "way"):
        table.add_column(name)
    numbers = (
        "size",
        "batch",
        "precision",
        "images/s",
        "times",
        "wait %",
        "GFLOP/image",
        "peak %",
        "MB",
        "est. MB",
    )
    for name in numbers:
        table.add_column(name, justify="right")
    console = Console(width=120)
    plain = 0.0
    for row in rows:
        rate = row.images / row.seconds
        plain = rate if row.way == PLAIN else plain
        table.add_row(
            row.settings["method"],
            row.way,
            f"{row.settings['shorter_side']}x{row.settings['longer_side']}",
            str(row.settings["batch_size"]),
            row.settings["precision"],
            f"{rate:.2f}",
            f"{rate / plain:.2f}",
            f"{100 * row.waiting / row.seconds:.1f}",
            f"{row.operations / 1e9:.0f}",
            f"{100 * rate * row.operations / row.peak_operations:.0f}",
            f"{row.peak_mb:.0f}",
            "" if row.estimated_mb is None else f"{row.estimated_mb:.0f}",
        )
        print(f"done: {row.settings['method']}, {row.way}", file=sys.stderr, flush=True)
    console.print(table)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    console.print(f"torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}, {device}")
