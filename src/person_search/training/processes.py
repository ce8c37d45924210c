"""Device, precision and processes of a run, through Lightning Fabric, and what is refused before any work."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision
from lightning_fabric.strategies import DDPStrategy

from person_search.config import TrainingConfig
from person_search.errors import PersonSearchError, UsageError


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
    devices, _ = process_counts(config)
    if kind == "cuda" and devices > torch.cuda.device_count():
        raise UsageError(f"{devices} devices were asked for, this machine has {torch.cuda.device_count()}; use fewer")
    return kind


def process_counts(config: TrainingConfig) -> tuple[int, int]:
    """Processes per machine, and machines; under ``torchrun`` they are torchrun's."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return config.devices, config.nodes
    devices = int(os.environ["LOCAL_WORLD_SIZE"])
    return devices, int(os.environ["WORLD_SIZE"]) // devices


def start_fabric(config: TrainingConfig) -> tuple[Any, torch.amp.GradScaler | None]:
    """A launched Fabric and the loss scaler of float16 (else None). Raises UsageError before any process starts."""
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
        # A process whose images hold nobody with an identity has no gradient for some parameters.
        options["strategy"] = DDPStrategy(find_unused_parameters=True)
    fabric = Fabric(accelerator=kind, devices=devices, num_nodes=nodes, **options)
    fabric.launch()
    return fabric, scaler


class StopRequest:
    """Whether Ctrl-C or SIGTERM came. The first asks to stop after the step; a second one stops at once."""

    def __init__(self) -> None:
        self.wanted = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Signal handler."""
        if self.wanted:
            raise KeyboardInterrupt
        self.wanted = True


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


def everyones(fabric: Any, own: Any) -> list[Any]:
    """The objects of all processes, in rank order."""
    if fabric.world_size == 1:
        return [own]
    gathered: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(gathered, own)
    return gathered
