"""Stochastic depth (Huang et al., ECCV 2016): blocks that training leaves out at random."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from person_search.data.target import Target
from person_search.models.random_draws import generator_of


class StochasticDepth(nn.Module):
    """What a residual block adds, left out in training for a random choice of the rows of a batch.

    As torchvision's of mode ``row``, but for the random numbers, which can be given.

    Args:
        p: probability that a row is left out.

    Attributes:
        draws: (n,) numbers in 0..1 that decide for a batch of n rows; None, or for another number of rows: torch's
            global random numbers.
    """

    def __init__(self, p: float):
        super().__init__()
        self.p = p
        self.draws: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(n, ...) -> (n, ...): rows are zero, or scaled so that the mean over the choices is ``x``."""
        if not self.training or self.p == 0:
            return x
        draws = self.draws
        if draws is None or len(draws) != len(x):
            draws = torch.rand(len(x), device=x.device)
        kept = (draws >= self.p).to(x.dtype) / (1 - self.p)
        return x * kept.reshape(-1, *[1] * (x.ndim - 1))

    def extra_repr(self) -> str:
        """The probability."""
        return f"{self.p}"


def draw_depths(part: nn.Module, rows: Sequence[int], targets: Sequence[Target], draw: int) -> None:
    """Draw which blocks of ``part`` the next batch leaves out, with the random numbers of its images.

    Args:
        rows: how many rows of the batch belong to each image; they are in the order of the images.
        targets: of the images.
        draw: which of their random numbers; see ``Draw``.
    """
    blocks = [block for block, _ in drawn_depths(part) if block.p > 0]
    if not blocks:
        return
    # On the CPU, so that a GPU leaves out the same ones.
    cpu = torch.device("cpu")
    drawn = [
        torch.rand(len(blocks), number, generator=generator_of(target, draw, cpu))
        for number, target in zip(rows, targets, strict=True)
    ]
    device = next(part.parameters()).device
    for block, draws in zip(blocks, torch.cat(drawn, 1).to(device, non_blocking=True), strict=True):
        block.draws = draws


DrawnDepths = list[tuple[StochasticDepth, Tensor | None]]
"""Blocks and their ``draws``."""


def drawn_depths(part: nn.Module) -> DrawnDepths:
    """What is drawn for the blocks of ``part`` at present."""
    return [(block, block.draws) for block in part.modules() if isinstance(block, StochasticDepth)]


@contextmanager
def depths_as_drawn(depths: DrawnDepths) -> Iterator[None]:
    """Inside, the blocks have the draws that they had once."""
    present = [block.draws for block, _ in depths]
    for block, draws in depths:
        block.draws = draws
    try:
        yield
    finally:
        for (block, _), draws in zip(depths, present, strict=True):
            block.draws = draws
