"""The benchmarks' estimate of a training step's memory, against what autograd keeps, counted by hand."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from person_search.config import Config, with_settings
from person_search.models.backbones.backbone import Recomputable

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


class Two(Recomputable):
    """A convolution and its ReLU, twice: each convolution keeps what it reads, each ReLU what it gives."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(4, 2, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self.second, self.run(self.first, x))


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield
    sys.modules.pop("activations", None)


@pytest.mark.usefixtures("benchmarks")
def test_what_is_kept_is_counted_once_and_what_is_recomputed_is_not() -> None:
    from activations import kept_of

    part, x = Two().to("meta"), torch.empty(5, 3, 8, 8, device="meta")
    pixel = 5 * 8 * 8 * 4
    # The first ReLU's output is the second convolution's input: one storage.
    assert kept_of(part, x, recompute=False) == ((4 + 2) * pixel, 0)
    # The inputs of both are kept, and the first is the larger to compute again.
    assert kept_of(part, x, recompute=True) == ((3 + 4) * pixel, 4 * pixel)


@pytest.mark.usefixtures("benchmarks")
def test_the_estimate_follows_batch_optimiser_and_recomputing() -> None:
    from activations import training_memory

    def memory(**settings: object) -> float:
        small = {"method": "seqnet", "backbone": "resnet18", "width": 0.25, "weights": "none", "batch_size": 2}
        sizes = {"shorter_side": 192, "longer_side": 320}
        return training_memory(with_settings(Config(), **(small | sizes | settings)), 10)

    assert memory() < memory(batch_size=4) < 2 * memory()
    assert memory(checkpoint_trunk=True, checkpoint_heads=True) < min(
        memory(checkpoint_trunk=True), memory(checkpoint_heads=True)
    )
    assert memory() < memory(optimizer="adam")
