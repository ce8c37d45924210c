"""Batches out of worker processes: where shared memory is small, where none can start, and where one is killed."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from torchvision.io import write_png

from person_search.data.loading import Batch, TrainingOrder, scene_batches, training_batches, unreadable_scenes
from person_search.data.scene import Scene, Split, as_boxes
from person_search.data.target import Target
from person_search.data.workers import SMALL, LostWorkerError, Parcel, lost_workers_named

WIDTH, HEIGHT, COUNT = 240, 160, 6


def make_split(root: Path) -> Split:
    """Noise, so that no picture can be taken for another; the last one without people."""
    generator = torch.Generator().manual_seed(0)
    scenes = []
    for number in range(COUNT):
        picture = torch.randint(0, 256, (3, HEIGHT, WIDTH + number), generator=generator, dtype=torch.uint8)
        write_png(picture, str(root / f"{number}.png"), compression_level=0)
        boxes = [[3, 5, 80, 140]] if number < COUNT - 1 else []
        scenes.append(Scene(f"{number}.png", as_boxes(boxes), np.array([number] * len(boxes), np.int64)))
    return Split("tiny", "train", root, scenes, COUNT)


@pytest.fixture
def split(tmp_path: Path) -> Split:
    return make_split(tmp_path)


def everything(split: Split, *, workers: int) -> list[torch.Tensor]:
    """All that training and test get to see of ``split``, in order."""
    order = TrainingOrder(range(COUNT), flip=True, batch_size=3, seed=1)
    batches = list(training_batches(split, order, workers=workers, pin=False))
    whole = [image for images, _ in scene_batches(split, batch_size=4, workers=workers) for image in images]
    shown = [part for b in batches for i, t in zip(b.images, b.targets, strict=True) for part in (i, t.boxes, t.ignore)]
    return [*shown, *whole]


def refuse(*arguments: Any, **options: Any) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("way", ["memory", "pipe"])
def test_batches_need_no_room_in_shared_memory(split: Split, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    assert 3 * WIDTH * HEIGHT > SMALL
    wanted = everything(split, workers=0)
    monkeypatch.setattr(torch.UntypedStorage, "_share_fd_cpu_", refuse)
    monkeypatch.setattr(torch.UntypedStorage, "_share_filename_cpu_", refuse)
    if way == "pipe":
        monkeypatch.setattr(os, "memfd_create", refuse, raising=False)
    found = everything(split, workers=2)
    assert len(found) == len(wanted) == 3 * 2 * COUNT + COUNT
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
    assert unreadable_scenes(split, range(COUNT), workers=1) == {}


@pytest.mark.parametrize("size", [1, 400])
def test_a_parcel_gives_back_what_was_put_in_and_lets_it_be_changed(size: int) -> None:
    image = torch.arange(3 * size * size, dtype=torch.int64).to(torch.uint8).reshape(3, size, size)
    turned = image.transpose(1, 2)
    target = Target(torch.rand(2, 4), torch.tensor([0, -1]), torch.zeros(0, 4))
    there = pickle.loads(pickle.dumps(Parcel(Batch([image, turned], [target], [7], [True, False]))))
    assert torch.equal(there.images[0], image)
    assert torch.equal(there.images[1], turned)
    assert (there.scenes, there.mirror) == ([7], [True, False])
    assert torch.equal(there.targets[0].boxes, target.boxes)
    assert there.targets[0].ignore.shape == (0, 4)
    there.images[0] += 1
    assert torch.equal(there.images[0], image + 1)


SMALL_MEMORY = """
    import sys
    sys.path.insert(0, {tests!r})
    from pathlib import Path
    from test_workers import everything, make_split
    from person_search.data.workers import LostWorkerError

    made = make_split(Path({folder!r}))
    print(len(everything(made, workers=2)))
    try:
        with open("/dev/shm/full", "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
    except OSError:
        pass
    try:
        everything(made, workers=2)
    except LostWorkerError as error:
        print(error)
"""


def test_a_small_shared_memory_is_no_hindrance_and_a_full_one_is_named(tmp_path: Path) -> None:
    small = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=512k tmpfs /dev/shm && exec "$@"', "sh"]
    if shutil.which("unshare") is None or subprocess.run([*small, "true"], capture_output=True).returncode:
        pytest.skip("a shared memory of one's own cannot be mounted here")
    script = textwrap.dedent(SMALL_MEMORY).format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    done = subprocess.run([*small, sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.stderr == ""
    count, said = done.stdout.splitlines()
    assert int(count) == 3 * 2 * COUNT + COUNT
    assert all(part in said for part in ("No space left on device", "/dev/shm", "`workers` 0"))


def test_workers_that_cannot_start_are_an_error_that_says_so(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing.Process, "start", refuse)
    with pytest.raises(LostWorkerError, match=r"cannot start.*No space left.*/dev/shm.*`workers` 0"):
        list(scene_batches(split, batch_size=2, workers=1))


KILLED = Path(__file__).with_name("killed_workers.py")


SCENARIOS = ["training", "scenes", "unreadable", "working", "stopped"]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what the scenarios print, a file each."""
    folder = tmp_path_factory.mktemp("killed")
    command = [sys.executable, str(KILLED), str(folder), *SCENARIOS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize(
    ("scenario", "said"),
    [
        ("training", r"lost \(DataLoader worker \(pid.*memory.*`workers`"),
        ("scenes", r"lost \(DataLoader worker \(pid.*memory.*`workers`"),
        ("unreadable", r"lost \(DataLoader worker \(pid.*memory.*`workers`"),
        ("working", "Killed"),
        ("stopped", f"the others {COUNT - 1}, then -15"),
    ],
)
def test_a_worker_that_ends_is_named_and_ends_the_wait_for_it(scenario: str, said: str, outputs: Path) -> None:
    """In a process of its own: torch tells of a worker's end by an error at any place, also in what runs next."""
    found = (outputs / f"{scenario}.txt").read_text()
    assert re.search(said, found)
    assert found.count("\n") == 1


def test_other_errors_keep_their_names() -> None:
    with pytest.raises(RuntimeError, match="out of memory"), lost_workers_named():
        raise RuntimeError("CUDA out of memory")
