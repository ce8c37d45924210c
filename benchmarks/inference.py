"""Speed, memory and use of the device in test, per method, batch and size, on made-up pictures, in two ways.

    python benchmarks/inference.py          the published setting, on a GPU if there is one
    python benchmarks/inference.py --device cpu --backbone resnet18 --width 0.5 --sizes 240x320 --batch-sizes 1 4
    python benchmarks/inference.py --precisions 32 bf16 --batch-sizes 1 5 16

What is timed is ``predict``: decoding, the detections and a query of every picture, results in memory. *plain* is the
model as it was trained, float32, with a pass for the detections and another for the query; *prepared* is what the
program does: one pass for both, normalisation folded into convolutions, activations channels last, ``--precisions``.
*times* is the rate over that of the plain row before it. The weights are random, so every picture has as many
detections at each stage as are kept at most: ``--detections``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from speed import PLAIN, Measured, Stopwatch, arguments_of, measure_all, show
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from person_search.config import Config, with_settings
from person_search.data import loading
from person_search.data.scene import Query, Split
from person_search.data.target import Target
from person_search.evaluation import predict as predicting
from person_search.models.acceleration import accelerate
from person_search.models.backbones.backbone import batch_norms
from person_search.models.building import build_model
from person_search.models.detections import GivenPerson, ImageResult
from person_search.models.person_search_model import PersonSearchModel


def first(split: Split, count: int) -> Split:
    """The first ``count`` scenes and their queries."""
    queries = [Query(query.scene, query.box, query.person_id) for query in split.queries if query.scene < count]
    return replace(split, scenes=split.scenes[:count], queries=queries)


class Unshared(PersonSearchModel):
    """A method computed the plain way: detections and given boxes in a pass each, by the model as it was trained."""

    def __init__(self, model: PersonSearchModel):
        super().__init__(model.config, model.num_identities)
        self.model = model

    def losses(self, images: Sequence[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        """None are measured."""
        raise NotImplementedError

    def detect_and_embed(
        self, images: Sequence[Tensor], boxes: Sequence[Tensor] | None = None, *, context: bool = False
    ) -> list[ImageResult]:
        """As the model, in two passes."""
        found = self.model.detect_and_embed(images)
        own = boxes or []
        people = [
            [GivenPerson(*person) for person in zip(box.to(self.device), embeddings, strict=True)]
            for box, embeddings in zip(own, self.embed(images, own), strict=True)
        ]
        return [replace(result, given=given) for result, given in zip(found, people, strict=True)]

    def embed(self, images: Sequence[Tensor], boxes: Sequence[Tensor]) -> list[Tensor]:
        """As the model."""
        return self.model.embed(images, boxes)


def measure(way: str, config: Config, split: Split, options: argparse.Namespace) -> Measured:
    """Time ``--batches`` batches after ``--warm-up`` others and one that the decoding processes start with."""
    config = as_many(config, options.detections)
    torch.manual_seed(0)
    model = build_model(config.model, split.num_identities, load_weights=False).eval().to(options.device)
    settle(model)
    if way == PLAIN:
        config = with_settings(config, precision="32")
        model = Unshared(model).eval()
    else:
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
    return clock.measured(way, options.batches * batch_size, counter.get_total_flops() / batch_size)


@torch.no_grad()
def settle(model: PersonSearchModel) -> None:
    """Keep random weights from scoring regions exactly 0, which no threshold lets pass.

    Normalisations get the statistics of an image of noise, and what the linear layers say is made small.
    """
    for norm in batch_norms(model):
        norm.momentum = 1.0
    draw = torch.Generator().manual_seed(0)
    image = torch.rand(3, 270, 450, generator=draw).to(model.device)
    boxes = torch.tensor([[20.0, 20, 120, 220], [200, 40, 300, 250]], device=model.device)
    model.train().losses([image], [Target(boxes, torch.tensor([0, 1], device=model.device), boxes[:0])])
    model.eval()
    for part in model.modules():
        if isinstance(part, nn.Linear):
            part.weight.mul_(0.01)


def as_many(config: Config, detections: int) -> Config:
    """So that every picture has ``detections`` detections at each stage, though the weights are random."""
    stages = {"": "detections", "first_": "first", "second_": "second"}
    own = [prefix for prefix, section in stages.items() if hasattr(config.model, section)]
    bounds = {f"{prefix}max_detections": detections for prefix in own}
    return with_settings(config, **bounds, **{f"{prefix}score_threshold": 0.0 for prefix in own})


if __name__ == "__main__":
    parser = arguments_of(__doc__ or "")
    parser.add_argument("--detections", type=int, default=10, help="detections kept per picture at each stage")
    show("Inference", measure_all(parser.parse_args(), measure, [PLAIN, "prepared"]))
