"""The processes that decode pictures: how their batches come over, and what is said when one of them is lost.

torch hands tensors over in files in /dev/shm, which is small in a container (Docker: 64 MB). When it is full, the error
is met by a thread of the worker that nobody listens to, and the batch is waited for without end. So batches come over
in memory that has no name and that only the memory of the machine limits, or else through the pipe.
"""

from __future__ import annotations

import contextlib
import io
import mmap
import multiprocessing
import os
import pickle
import signal
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.reduction import DupFd
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data import Dataset as TorchDataset

from person_search.errors import PersonSearchError

ALIGNMENT = 64
SMALL = 1 << 16
"""Bytes that a pipe takes in one go: less than that is not worth memory of its own."""


class LostWorkerError(PersonSearchError):
    """A process that decodes pictures could not be started, or ended before its work was done."""


class Batches:
    """What ``collate`` makes of the samples of ``dataset``, decoded by ``workers`` processes (0: by this one).

    Iterating raises LostWorkerError where a worker is lost. A worker's end is noticed whatever this process is at,
    so the caller's own work on a batch belongs inside ``lost_workers_named`` too.

    Args:
        pin: put batches into page-locked memory.
        batching: ``batch_size`` or ``batch_sampler``, as DataLoader takes them.
    """

    def __init__(
        self,
        dataset: TorchDataset[Any],
        collate: Callable[[list[Any]], Any],
        *,
        workers: int,
        pin: bool,
        **batching: Any,
    ):
        self._loader: DataLoader[Any] = DataLoader(
            dataset,
            num_workers=workers,
            collate_fn=_Sender(collate),
            pin_memory=pin,
            persistent_workers=workers > 0,
            worker_init_fn=_start_worker,
            # A generator of its own: the default draws a seed from the global one each epoch, and resuming in the
            # middle of an epoch would then not continue the same random numbers.
            generator=torch.Generator(),
            **batching,
        )

    def __iter__(self) -> Iterator[Any]:
        # Now and not at the first batch, which another thread may take: only the main thread is told of lost workers.
        return self._received(self._started())

    def _received(self, batches: Iterator[Any]) -> Iterator[Any]:
        with lost_workers_named():
            for batch in batches:
                if isinstance(batch, LostWorkerError):
                    raise batch
                yield batch

    def _started(self) -> Iterator[Any]:
        """The batches, with the workers at work. Raises LostWorkerError where they cannot be."""
        try:
            _try_channels(self._loader.num_workers)
            with lost_workers_named():
                return iter(self._loader)
        except OSError as error:
            raise LostWorkerError(
                f"cannot start processes that decode pictures: {error.strerror or error}; they need a little room in "
                "/dev/shm (Docker: --shm-size), memory, and leave to start processes; or use `workers` 0"
            ) from None


def _try_channels(workers: int) -> None:
    """Raise OSError where torch cannot make its own: failing half way, it complains once more as it tidies up."""
    context = multiprocessing.get_context()
    channels = [(context.Queue(), context.Event()) for _ in range(workers + 1)] if workers else []
    del channels


@contextlib.contextmanager
def lost_workers_named() -> Iterator[None]:
    """Within the block, what torch raises when a worker has ended is a LostWorkerError that says what to do."""
    try:
        yield
    except RuntimeError as error:
        # torch has no class for these.
        text = str(error)
        if not text.startswith(("DataLoader worker", "Pin memory thread exited")):
            raise
        raise _lost(text.splitlines()[0].split(". It is possible")[0].rstrip(". ")) from error


def _lost(what: str) -> LostWorkerError:
    return LostWorkerError(
        f"a process that decodes pictures is lost ({what}); the system kills processes where memory runs out: use "
        "fewer `workers` (0: none) or smaller batches, or give the machine or container more memory"
    )


class _Sender:
    """Collate and, in a worker, make ready for the way to the main process; what fails then is raised there."""

    def __init__(self, collate: Callable[[list[Any]], Any]):
        self.collate = collate

    def __call__(self, samples: list[Any]) -> Any:
        batch = self.collate(samples)
        # Elsewhere than on Linux torch's own way has no such limit.
        return batch if get_worker_info() is None or not hasattr(os, "memfd_create") else Parcel(batch)


class Parcel:
    """``contents`` on the way to another process, where unpickling gives them back. Tensors in it lie on the CPU."""

    def __init__(self, contents: Any):
        buffers: list[pickle.PickleBuffer] = []
        stream = io.BytesIO()
        _TensorPickler(stream, protocol=5, buffer_callback=buffers.append).dump(contents)
        self._way = _way_of(stream.getvalue(), [buffer.raw() for buffer in buffers])

    def __reduce__(self) -> tuple[Any, ...]:
        return self._way


def _way_of(stream: bytes, parts: Sequence[memoryview]) -> tuple[Any, ...]:
    """What unpickling calls, and with what: through memory of its own where that is worth it and possible."""
    if sum(len(part) for part in parts) > SMALL:
        with contextlib.suppress(OSError):
            return _fetch, (stream, _in_memory(parts), [len(part) for part in parts])
    return _unpack, (stream, [bytearray(part) for part in parts])


class _TensorPickler(pickle.Pickler):
    """Tensors as arrays, whose values protocol 5 leaves out of the stream."""

    def reducer_override(self, value: Any) -> Any:
        return (torch.from_numpy, (value.numpy(),)) if isinstance(value, Tensor) else NotImplemented


def _in_memory(parts: Sequence[memoryview]) -> Any:
    """A handle, for another process, to memory that holds ``parts``. Raises OSError."""
    with open(os.memfd_create("batch"), "wb") as file:
        for part in parts:
            file.write(part)
            file.write(bytes(-len(part) % ALIGNMENT))
        file.flush()
        return DupFd(file.fileno())


def _unpack(stream: bytes, parts: Sequence[bytearray | memoryview]) -> Any:
    return pickle.loads(stream, buffers=parts)


def _fetch(stream: bytes, memory: Any, sizes: Sequence[int]) -> Any:
    """The contents of a parcel, in the memory that they came in."""
    try:
        number = memory.detach()
    except (OSError, EOFError):
        return _lost("it ended before its batch was fetched")
    try:
        whole = memoryview(mmap.mmap(number, 0))
    finally:
        os.close(number)
    parts, start = [], 0
    for size in sizes:
        parts.append(whole[start : start + size])
        start += size + -size % ALIGNMENT
    return _unpack(stream, parts)


def _start_worker(number: int) -> None:
    """Leave stopping to the main process, which still wants its last batch, and let it end this one as usual.

    Ctrl-C goes to all processes of a terminal, and many a program that ends another, such as ``timeout`` or a
    container's, sends SIGTERM to all of its group. Only a second SIGTERM is meant for this process alone: the main
    process sends two to a worker that does not end by itself.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _wait_for_a_second)


def _wait_for_a_second(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
