"""Scenarios of ``test_workers.py`` in which workers are killed: ``killed_workers.py FOLDER SCENARIO...``.

Each is a process of its own, forked from one that has imported what all need, and writes a line to a file in FOLDER.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

from test_workers import COUNT, make_split

from person_search.data.loading import TrainingOrder, scene_batches, training_batches, unreadable_scenes
from person_search.data.scene import Split
from person_search.data.workers import LostWorkerError, lost_workers_named


def kill_children(until: threading.Event) -> None:
    """Kill the workers of this process as soon as there are any, again and again."""
    while not until.wait(0.05):
        for child in multiprocessing.active_children():
            child.kill()


def without_end(path: Path) -> None:
    """Make reading ``path`` wait for ever."""
    path.unlink()
    os.mkfifo(path)


def waiting(split: Split, kind: str) -> str:
    """What is said when workers are killed that will never be done."""
    for number in range(COUNT):
        without_end(split.image_root / f"{number}.png")
    order = TrainingOrder(range(COUNT), flip=False, batch_size=2)
    waits = {
        "training": lambda: list(training_batches(split, order, workers=2, pin=False)),
        "scenes": lambda: list(scene_batches(split, batch_size=2, workers=2)),
        "unreadable": lambda: unreadable_scenes(split, range(COUNT), workers=2),
    }
    over = threading.Event()
    threading.Thread(target=kill_children, args=[over], daemon=True).start()
    try:
        waits[kind]()
    except LostWorkerError as error:
        return str(error)
    finally:
        over.set()
    return "nothing was lost"


def working(split: Split) -> str:
    """The same while the main process is at work on a batch."""
    without_end(split.image_root / "1.png")
    batches = scene_batches(split, batch_size=1, workers=1)
    try:
        with lost_workers_named():
            next(batches)
            for child in multiprocessing.active_children():
                child.kill()
            limit = time.monotonic() + 60
            while time.monotonic() < limit:
                time.sleep(0.01)
    except LostWorkerError as error:
        return str(error)
    return "nothing was lost"


def stopped(split: Split) -> str:
    """A stop as `timeout` and containers send it, to the whole group; a second one, to a worker alone, ends it."""
    batches = scene_batches(split, batch_size=1, workers=1)
    next(batches)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid or 0, signal.SIGTERM)
    others = len(list(batches))
    batches = scene_batches(split, batch_size=1, workers=1)
    next(batches)
    (worker,) = multiprocessing.active_children()
    for _ in range(600):
        # Signals sent in a row may arrive as one.
        with contextlib.suppress(RuntimeError):
            worker.terminate()
            worker.join(0.1)
            if worker.exitcode is not None:
                break
    return f"the others {others}, then {worker.exitcode}"


def run(scenario: str, folder: Path) -> None:
    pictures = folder / scenario
    pictures.mkdir()
    made = make_split(pictures)
    alone = {"working": working, "stopped": stopped}
    said = alone[scenario](made) if scenario in alone else waiting(made, scenario)
    (folder / f"{scenario}.txt").write_text(f"{said}\n")


if __name__ == "__main__":
    for name in sys.argv[2:]:
        if os.fork() == 0:
            try:
                run(name, Path(sys.argv[1]))
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            # Nothing is left to tidy up that was not killed.
            os._exit(0)
        assert os.wait()[1] == 0, name
