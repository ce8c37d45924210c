"""Device, precision and processes of a run, through Lightning Fabric, and what is refused before any work."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from types import FrameType
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import (
    LSFEnvironment,
    MPIEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning_fabric.plugins.precision import MixedPrecision
from lightning_fabric.strategies import DDPStrategy
from torch.nn.parallel import DistributedDataParallel

from person_search.config import TrainingConfig
from person_search.errors import PersonSearchError, UsageError
from person_search.training.companions import leave_group, start_companions

# Every process would tell of every process.
logging.getLogger("lightning_fabric").setLevel(logging.WARNING)

SAME_WISH = 2.0
"""Seconds within which a second signal repeats the first: torchrun passes on the Ctrl-C that its processes had too."""

BUFFERS = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")
    if name in signature(DistributedDataParallel).parameters
)
"""What DDP calls whether every step sends the first process's buffers to all."""

LAUNCHERS = (TorchElasticEnvironment, SLURMEnvironment, LSFEnvironment, MPIEnvironment)


class InterruptedRunError(PersonSearchError):
    """The run was asked to stop, wrote a checkpoint and stopped."""

    exit_code = 130


def device_kind(config: TrainingConfig) -> str:
    """``"cuda"`` or ``"cpu"``. Raises UsageError for what this machine cannot do."""
    available = torch.cuda.is_available()
    if config.device == "cuda" and not available:
        raise UsageError("device 'cuda' was asked for, but torch finds no usable GPU; use --device cpu")
    kind = "cuda" if available and config.device != "cpu" else "cpu"
    if kind == "cpu" and config.precision == "16":
        raise UsageError("precision '16' (float16) needs a GPU; use --precision bf16 or 32 on the CPU")
    if kind == "cpu" and config.sync_batch_norm:
        raise UsageError("--sync-batch-norm needs GPUs; leave it out on the CPU")
    devices, nodes = process_counts(config)
    there = torch.cuda.device_count() if kind == "cuda" else cores()
    if devices > there and (kind == "cuda" or not started_by_launcher()):
        what = ("GPU" if kind == "cuda" else "CPU core") + ("" if there == 1 else "s")
        raise UsageError(f"{devices} devices were asked for, this machine has {there} {what}; use fewer")
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK") if name not in os.environ]
    if nodes > 1 and missing and not started_by_launcher():
        raise UsageError(
            f"{nodes} nodes were asked for, but {', '.join(missing)} is not set; start with torchrun or SLURM, or set "
            "the first machine's address, a free port on it, and each machine's own number from 0"
        )
    return kind


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def started_by_launcher() -> bool:
    """Whether torchrun, SLURM, LSF or MPI started this process, and the others too."""
    return any(launcher.detect() for launcher in LAUNCHERS)


def process_counts(config: TrainingConfig) -> tuple[int, int]:
    """Processes per machine, and machines; under ``torchrun`` they are torchrun's."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return config.devices, config.nodes
    devices = int(os.environ["LOCAL_WORLD_SIZE"])
    return devices, int(os.environ["WORLD_SIZE"]) // devices


def start_fabric(config: TrainingConfig) -> tuple[Any, torch.amp.GradScaler | None]:
    """A launched Fabric and the loss scaler of float16 (else None). Raises UsageError before any process starts.

    Other processes of this machine are started unless a launcher did; they run this program from its beginning.
    """
    kind = device_kind(config)
    devices, nodes = process_counts(config)
    scaler = None
    options: dict[str, Any] = {"precision": "32-true"}
    if config.precision == "16":
        scaler = torch.amp.GradScaler(kind)
        options = {"plugins": [MixedPrecision("16-mixed", kind, scaler)]}
    elif config.precision == "bf16":
        options = {"precision": "bf16-mixed"}
    if devices * nodes > 1:
        # Every parameter gets a gradient in every step, if only zeros, so DDP need not search for those that do not.
        # Tables are the same everywhere and running statistics are averaged where they are used: none is broadcast.
        options["strategy"] = DDPStrategy(**{BUFFERS: False})
        if not started_by_launcher():
            start_companions(devices, nodes)
    fabric = Fabric(accelerator=kind, devices=devices, num_nodes=nodes, **options)
    fabric.launch()
    if devices * nodes > 1:
        atexit.register(leave_group)
    return fabric, scaler


def start_for_test(config: TrainingConfig) -> torch.device:
    """Where this process is to run a trained model; the others, where several are asked for, are started."""
    devices, nodes = process_counts(config)
    return torch.device(device_kind(config)) if devices * nodes == 1 else start_fabric(config)[0].device


class StoppedWaitingError(Exception):
    """A wish to stop came while this process waited for data."""


class StopRequest:
    """Whether Ctrl-C or SIGTERM came. The first asks to stop after the step; a second one stops at once."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._waiting = False

    @contextmanager
    def waiting(self, alone: bool) -> Iterator[None]:
        """Within the block, which changes nothing, a process that is ``alone`` is stopped by the first signal.

        Raises StoppedWaitingError. With others it goes on: they count on its part of the step.
        """
        if alone and self.wanted:
            raise StoppedWaitingError
        self._waiting = alone
        try:
            yield
        finally:
            self._waiting = False

    @property
    def wanted(self) -> bool:
        """Whether to stop after the step."""
        return self._since is not None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Signal handler."""
        now = time.monotonic()
        if self._since is None:
            self._since = now
            if self._waiting:
                raise StoppedWaitingError
        elif now - self._since > SAME_WISH or not started_by_launcher():
            raise KeyboardInterrupt


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Within the block SIGINT and SIGTERM only set ``wanted``. Outside the main thread signals stay as they are."""
    request = StopRequest()
    before: dict[int, Any] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, request)
    except ValueError:
        before.clear()
    try:
        yield request
    finally:
        for signal_number, handler in before.items():
            signal.signal(signal_number, handler)


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """The state of the random numbers of this process: all parts draw from torch alone."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, torch.Tensor], device: torch.device) -> None:
    """Continue the random numbers of ``random_state``."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
