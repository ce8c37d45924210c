"""Lightning Fabric as a run needs it: device, precision and processes."""

from __future__ import annotations

import atexit
import logging
import os
from inspect import signature
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision
from lightning_fabric.strategies import DDPStrategy
from torch.nn.parallel import DistributedDataParallel

from person_search.config import TrainingConfig
from person_search.runtime.launch import end_with_launcher, launch, leave_group
from person_search.runtime.processes import device_kind, process_counts, started_by_launcher

# Every process would tell of every process.
logging.getLogger("lightning_fabric").setLevel(logging.WARNING)

BUFFERS = next(
    name
    for name in ("forward_sync_buffers", "broadcast_buffers")
    if name in signature(DistributedDataParallel).parameters
)
"""What DDP calls whether every step sends the first process's buffers to all."""


def start_fabric(config: TrainingConfig) -> tuple[Any, torch.amp.GradScaler | None]:
    """A launched Fabric and the loss scaler of float16 (else None). Raises UsageError before any process starts.

    Where several processes are wanted and no launcher started this one, it becomes their launcher and does not return:
    they run this program from its beginning. See ``launch``.
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
        if "TORCHELASTIC_RUN_ID" in os.environ:
            end_with_launcher()
        elif not started_by_launcher() and "LOCAL_RANK" not in os.environ:
            launch(devices, nodes)
    fabric = Fabric(accelerator=kind, devices=devices, num_nodes=nodes, **options)
    fabric.launch()
    if devices * nodes > 1:
        atexit.register(leave_group)
    return fabric, scaler
