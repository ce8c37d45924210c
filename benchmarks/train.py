"""Speed, memory and use of the device in training, per method, batch and size, on made-up pictures, in two ways.

    python benchmarks/train.py          the published setting, on a GPU if there is one
    python benchmarks/train.py --device cpu --backbone resnet18 --width 0.5 --sizes 240x320 --batch-sizes 4
    python benchmarks/train.py --precisions 32 bf16 --compile --batch-sizes 5 16

*plain* keeps activations as torch does by default, *channels last* as ``--channels-last`` says; *times* is the rate
over that of the plain row before it. A step is what training does: decoding, the losses, their gradient, the update.
Floating-point operations are those of convolutions and matrix products, forward and backward. Waiting is the time in
which the next batch was not there yet. *estimated* is the memory as ``activations.py`` works it out without computing.
"""

from __future__ import annotations

import argparse
from itertools import islice

import torch
from activations import training_memory
from speed import PLAIN, Measured, Stopwatch, arguments_of, measure_all, show
from torch.utils.flop_counter import FlopCounterMode

from person_search.config import Config, with_settings
from person_search.data.loading import TrainingOrder, training_batches
from person_search.data.scene import Split
from person_search.models.acceleration import accelerate
from person_search.models.building import build_model
from person_search.runtime.fabric import start_fabric
from person_search.training.optimizers import build_optimizers
from person_search.training.step import TrainingStep


def measure(way: str, config: Config, split: Split, options: argparse.Namespace) -> Measured:
    """Time ``--batches`` steps after ``--warm-up`` others."""
    config = with_settings(config, channels_last=way != PLAIN)
    fabric, scaler = start_fabric(config.training)
    torch.manual_seed(0)
    model = build_model(config.model, split.num_identities, load_weights=False).train()
    accelerate(model, config.training)
    optimizers = list(build_optimizers(model, config.training).values())
    step = TrainingStep(fabric, model, optimizers, clip_grad=20, scaler=scaler)
    batch_size = config.training.batch_size
    order = TrainingOrder(range(len(split.scenes)), flip=True, batch_size=batch_size)
    loader = training_batches(split, order, workers=config.data.workers, pin=options.device == "cuda")
    clock = Stopwatch(options.device)
    warm_up = 1 + options.warm_up
    batches = clock.over(islice(loader, warm_up + options.batches), skip=warm_up)
    with FlopCounterMode(display=False) as counter:
        step([next(batches)])
    for batch in batches:
        # The step itself waits for the device: whether to skip it is known on the host.
        step([batch])
    measured = clock.measured(way, options.batches * batch_size, counter.get_total_flops() / batch_size)
    return measured | {"estimated_mb": training_memory(config, split.num_identities)}


if __name__ == "__main__":
    parser = arguments_of(__doc__ or "")
    parser.add_argument("--checkpoint-trunk", action="store_true", help="recompute the trunk instead of keeping it")
    parser.add_argument("--checkpoint-heads", action="store_true", help="the same for the heads")
    show("Training", measure_all(parser.parse_args(), measure, [PLAIN, "channels last"]))
