"""Speed, memory and use of the device in test, per method, batch and size, on made-up pictures.

    python benchmarks/inference.py          the published setting, on a GPU if there is one
    python benchmarks/inference.py --device cpu --backbone resnet18 --width 0.5 --sizes 240x320 --batch-sizes 1 4
    python benchmarks/inference.py --precisions 32 bf16 --channels-last --batch-sizes 1 5 16

What is timed is ``predict``: decoding, one pass for the detections and a query of every picture, results in memory.
The weights are random, so every picture has as many detections as are kept at most: ``--detections``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from speed import Stopwatch, arguments_of, measure_all, show
from torch.utils.flop_counter import FlopCounterMode

from person_search.config import Config, with_settings
from person_search.data import loading
from person_search.data.scene import Query, Split
from person_search.evaluation import predict as predicting
from person_search.models.acceleration import accelerate
from person_search.models.building import build_model


def first(split: Split, count: int) -> Split:
    """The first ``count`` scenes and their queries."""
    queries = [Query(query.scene, query.box, query.person_id) for query in split.queries if query.scene < count]
    return replace(split, scenes=split.scenes[:count], queries=queries)


def measure(config: Config, split: Split, options: argparse.Namespace) -> dict[str, float]:
    """Time ``--batches`` batches after ``--warm-up`` others and one that the decoding processes start with."""
    config = with_settings(config, max_detections=options.detections)
    torch.manual_seed(0)
    model = build_model(config.model, split.num_identities, load_weights=False).eval().to(options.device)
    accelerate(model, config.training)
    batch_size = config.evaluation.eval_batch_size
    with FlopCounterMode(display=False) as counter:
        predicting.predict(model, first(split, batch_size), config)
    predicting.predict(model, first(split, options.warm_up * batch_size), config)
    clock = Stopwatch(options.device)

    def timed(*arguments: Any, **named: Any) -> Iterator[Any]:
        return clock.over(loading.scene_batches(*arguments, **named), skip=1)

    with mock.patch.object(predicting, "scene_batches", timed):
        predicting.predict(model, first(split, (options.batches + 1) * batch_size), config)
    return clock.measured(options.batches * batch_size, counter.get_total_flops() / batch_size)


if __name__ == "__main__":
    parser = arguments_of(__doc__ or "")
    parser.add_argument("--detections", type=int, default=10, help="detections kept per picture")
    show("Inference", measure_all(parser.parse_args(), measure))
