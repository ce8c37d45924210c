"""Making a whole dataset: worker processes draw, one process annotates, and the folder appears when it is complete."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from person_search.data.synthetic import MARKER, read_marker
from person_search.data.writers import WRITERS
from person_search.data.writers.records import SceneRecord
from person_search.errors import DataError, UsageError
from person_search.runtime.files import atomic_folder
from person_search.synth.appearance import Appearance, draw_identities
from person_search.synth.contents import FILES, contents, is_complete, strangers
from person_search.synth.plan import STREAM_IDENTITIES, ScenePlan, make_plan
from person_search.synth.scenes import Studio
from person_search.synth.settings import SynthConfig

_SCENES_WORTH_A_PROCESS = 40

_studio: Studio | None = None
_folder = Path()


def generate(
    config: SynthConfig,
    *,
    replace: bool = False,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
) -> bool:
    """Write the dataset of ``config`` to ``config.out``; False when it was there already and was kept.

    ``replace`` allows a dataset that was made with other settings to be replaced. ``progress`` is called with the
    number of scenes drawn and of all. ``workers`` processes draw (default: one per core; scripts that call this need
    the usual ``if __name__ == "__main__"``); the files do not depend on it. The dataset is written beside its place and
    moved there when complete.

    Raises UsageError when ``config.out`` holds a dataset made with other settings that is not to be replaced, or
    anything that was not made here or was changed since, or ``workers`` is below 1, DataError when it cannot be
    written.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"workers: expected 1 or more, found {workers}")
    out = config.out.resolve()
    if _is_current(out, config, replace):
        return False
    try:
        with atomic_folder(out) as folder:
            _write(config, folder, progress, workers)
            # Somebody may have put something there while the scenes were drawn.
            _is_current(out, config, replace)
    except OSError as error:
        raise DataError(
            f"cannot write the dataset to '{config.out}': {error.strerror or error}; make room or choose another `out`"
        ) from None
    except BrokenProcessPool:
        raise DataError("a process that draws scenes ended unexpectedly (out of memory?); try fewer workers") from None
    return True


def _is_current(out: Path, config: SynthConfig, replace: bool) -> bool:
    """Whether ``out`` already holds this very dataset.

    False where there is none, where pictures of it are missing, or where ``replace`` allows another to be replaced.
    Raises UsageError when it holds anything else.
    """
    try:
        if not out.exists() or (out.is_dir() and not any(out.iterdir())):
            return False
        if not out.is_dir():
            raise UsageError(f"`out` '{config.out}' is a file; expected a folder")
        marker = read_marker(out)
        if marker is None:
            raise UsageError(
                f"`out` '{config.out}' is not empty and holds no synthetic dataset (no {MARKER}); "
                "choose another folder or empty it"
            )
        differing = _differences(marker, config)
        current = not differing and is_complete(out, marker)
        found = strangers(out, marker, unchanged=not current)
    except OSError as error:
        raise DataError(f"cannot read '{config.out}': {error.strerror}; choose another `out`") from None
    if found:
        raise UsageError(
            f"`out` '{config.out}' holds more than the synthetic dataset that was made there: {found}; nothing "
            "there is replaced, choose another folder or empty it"
        )
    if differing and not replace:
        raise UsageError(
            f"`out` '{config.out}' holds a synthetic dataset that was made with other settings: "
            f"{', '.join(differing)}; choose another folder, or give `replace` to have it drawn anew with these"
        )
    return current


def _differences(marker: dict[str, Any], config: SynthConfig) -> list[str]:
    """The settings in which the dataset with ``marker`` is another than the one asked for, with both values."""
    there, wanted = {key: value for key, value in marker.items() if key != FILES}, config.fingerprint()
    names = {"level": "difficulty", "generator": "version of the generator"}
    return [
        f"{names.get(key, key)} {there.get(key)} there, {wanted.get(key)} here"
        for key in dict.fromkeys([*wanted, *there])
        if there.get(key) != wanted.get(key)
    ]


def _write(config: SynthConfig, folder: Path, progress: Callable[[int, int], None] | None, workers: int | None) -> None:
    plans = make_plan(config)
    writer = WRITERS[config.layout]
    paths = [writer.image_path(plan.number, plan.split, plan.camera, plan.frame) for plan in plans]
    for parent in {(folder / path).parent for path in paths}:
        parent.mkdir(parents=True, exist_ok=True)
    records = []
    for record in _draw_all(config, folder, list(zip(plans, paths, strict=True)), workers):
        records.append(record)
        if progress is not None:
            progress(len(records), len(plans))
    writer.write(folder, records, config.min_visibility)
    marker = config.fingerprint() | {FILES: contents(folder)}
    (folder / MARKER).write_text(_one_line_each(marker), encoding="utf-8")


def _one_line_each(marker: dict[str, Any]) -> str:
    """The marker as JSON that a person can read: one setting, or one file, a line."""
    settings = "".join(f'  "{key}": {json.dumps(value)},\n' for key, value in marker.items() if key != FILES)
    files = ",\n".join(f"    {json.dumps(name)}: {json.dumps(file)}" for name, file in marker[FILES].items())
    return f'{{\n{settings}  "{FILES}": {{\n{files}\n  }}\n}}\n'


def _draw_all(
    config: SynthConfig, folder: Path, jobs: list[tuple[ScenePlan, str]], workers: int | None
) -> Iterator[SceneRecord]:
    """Draw and store all scenes, in order, in this process or in several."""
    identities = draw_identities(
        np.random.default_rng([config.seed, STREAM_IDENTITIES]), config.identities, config.level
    )
    wanted = workers if workers is not None else _cores()
    count = min(wanted, max(1, len(jobs) // _SCENES_WORTH_A_PROCESS))
    if count == 1:
        threads = cv2.getNumThreads()
        _prepare(config, identities, folder)
        try:
            yield from map(_draw_one, jobs)
        finally:
            cv2.setNumThreads(threads)
        return
    # Spawned, not forked: a forked child of a process with threads (torch, a progress bar) can hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, context, initializer=_start_worker, initargs=(config, identities, folder))
    try:
        yield from pool.map(_draw_one, jobs, chunksize=8)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start_worker(config: SynthConfig, identities: list[Appearance], folder: Path) -> None:
    # Ctrl-C reaches the whole process group; the parent alone answers it and ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _prepare(config, identities, folder)


def _prepare(config: SynthConfig, identities: list[Appearance], folder: Path) -> None:
    global _studio, _folder
    # One thread per process: the processes already use every core.
    cv2.setNumThreads(1)
    _studio, _folder = Studio(config, identities), folder


def _draw_one(job: tuple[ScenePlan, str]) -> SceneRecord:
    assert _studio is not None
    plan, path = job
    drawn = _studio.draw(plan)
    (_folder / path).write_bytes(drawn.jpeg)
    size = (_studio.config.width, _studio.config.height)
    return SceneRecord(
        plan.split, plan.camera, plan.frame, path, *size, drawn.boxes, drawn.person_ids, drawn.visibility
    )
