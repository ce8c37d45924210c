"""Where a run happens: its device, its processes, its random numbers, and what is refused before any work."""

from __future__ import annotations

import os

import torch

from person_search.config import TrainingConfig
from person_search.errors import UsageError


def device_kind(config: TrainingConfig) -> str:
    """``"cuda"`` or ``"cpu"``. Raises UsageError for what this machine cannot do."""
    available = torch.cuda.is_available()
    if config.device == "cuda" and not available:
        raise UsageError("device 'cuda' was asked for, but torch finds no usable GPU; use `device` cpu")
    kind = "cuda" if available and config.device != "cpu" else "cpu"
    if kind == "cpu" and config.precision == "16":
        raise UsageError("precision '16' (float16) needs a GPU; use `precision` bf16 or 32 on the CPU")
    if kind == "cpu" and config.sync_batch_norm:
        raise UsageError("`sync_batch_norm` needs GPUs; leave it out on the CPU")
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


def usable_device(device: str | torch.device) -> torch.device:
    """``device`` as a torch.device. Raises UsageError for one that torch or this machine does not have."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    count = 0 if accelerator is None else torch.accelerator.device_count()
    try:
        found = torch.device(device)
    except RuntimeError:
        found = None
    if found is not None and found.type in ("cpu", "meta"):
        return found
    if found is not None and accelerator is not None and found.type == accelerator.type and (found.index or 0) < count:
        return found
    known = ["cpu", *(f"{accelerator.type}:{number}" for number in range(count) if accelerator is not None)]
    raise UsageError(f"device '{device}' was asked for; this machine has {', '.join(known)}")


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def started_by_launcher() -> bool:
    """Whether torchrun, SLURM, LSF or MPI started this process, and the others too."""
    # What one process does alone needs none of this.
    from lightning_fabric.plugins import environments as known

    launchers = (known.TorchElasticEnvironment, known.SLURMEnvironment, known.LSFEnvironment, known.MPIEnvironment)
    return any(launcher.detect() for launcher in launchers)


def process_counts(config: TrainingConfig) -> tuple[int, int]:
    """Processes per machine, and machines; under ``torchrun`` they are torchrun's."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return config.devices, config.nodes
    devices = int(os.environ["LOCAL_WORLD_SIZE"])
    return devices, int(os.environ["WORLD_SIZE"]) // devices


def start_for_test(config: TrainingConfig) -> torch.device:
    """Where this process is to run a trained model; the others, where several are asked for, are started."""
    devices, nodes = process_counts(config)
    if devices * nodes == 1:
        return torch.device(device_kind(config))
    from person_search.runtime.fabric import start_fabric

    return start_fabric(config)[0].device


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
