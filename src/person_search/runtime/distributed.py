"""What processes that work together tell each other: counts, embeddings, results and errors.

R processes of batch B are to equal one of batch R x B; with one process everything here is the identity.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from person_search.errors import PersonSearchError


def world_size() -> int:
    """Number of processes that work together; 1 when not distributed."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return distributed.get_rank() if world_size() > 1 else 0


def mean_count(count: Tensor) -> Tensor:
    """The mean of ``count`` over processes, at least 1 / processes.

    A sum of losses divided by it, averaged over processes as DDP averages gradients, is the sum over all processes
    divided by the count over all processes.
    """
    total = count.detach().float()
    world = world_size()
    if world > 1:
        distributed.all_reduce(total)
    return total.clamp(min=1) / world


def count_over_ranks(count: Tensor) -> Tensor:
    """``count`` as a metric: the mean over processes of what this returns is the sum of their counts."""
    return count.detach().float() * world_size()


def sum_over_ranks(number: int, device: torch.device) -> int:
    """The sum of ``number`` over processes. Waits for the device when there are several."""
    if world_size() == 1:
        return number
    total = torch.tensor(number, device=device)
    distributed.all_reduce(total)
    return int(total)


class _Sum(torch.autograd.Function):
    """The sum over processes; the gradient of every process's share is the sum of what all make of it."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _sum(values: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(values)
    return total


def add_over_ranks(values: Tensor) -> Tensor:
    """The sum of ``values`` over processes, with gradient. All call this, and all go back through it.

    A process's gradient is then that of the sum of all losses, as DDP, which averages, wants it.
    """
    return values if world_size() == 1 else _sum(values)


def all_gather_numbers(number: int, device: torch.device) -> list[int]:
    """The whole numbers of all processes, in rank order. All call this; waits for the device when there are several."""
    world = world_size()
    if world == 1:
        return [number]
    numbers = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(world)]
    distributed.all_gather(numbers, torch.tensor([number], device=device))
    return [int(each) for each in numbers]


def all_gather_rows(rows: Tensor) -> Tensor:
    """(n, ...) tensors of all processes, n differing, concatenated in rank order. No gradient flows through."""
    rows = rows.detach()
    return rows if world_size() == 1 else _all_gather(rows, all_gather_numbers(len(rows), rows.device))


def all_gather_rows_with_gradient(rows: Tensor, lengths: list[int]) -> Tensor:
    """``all_gather_rows`` whose gradient flows back to the process that a row is from.

    It is the sum of what all processes make of the row: averaged over processes, as DDP does, gradients are then those
    of the mean of their losses.

    Args:
        rows: (n, ...).
        lengths: n of every process.
    """
    return rows if world_size() == 1 else _AllGather.apply(rows, lengths)


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, lengths: list[int]) -> Tensor:
        ctx.lengths = lengths
        return _all_gather(rows, lengths)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        distributed.all_reduce(total)
        return total.split(ctx.lengths)[rank()].to(gradients[0].dtype), None


def _all_gather(rows: Tensor, lengths: list[int]) -> Tensor:
    padded = rows.new_zeros((max(lengths), *rows.shape[1:]))
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in lengths]
    distributed.all_gather(parts, padded)
    return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])


def all_gather_object(own: Any) -> list[Any]:
    """The objects of all processes, in rank order. All call this."""
    world = world_size()
    if world == 1:
        return [own]
    gathered: list[Any] = [None] * world
    distributed.all_gather_object(gathered, own)
    return gathered


def gather_object(own: Any) -> list[Any] | None:
    """``all_gather_object`` for the first process alone, None in the others. All call this."""
    world = world_size()
    if world == 1:
        return [own]
    gathered: list[Any] | None = [None] * world if rank() == 0 else None
    distributed.gather_object(own, gathered)
    return gathered


def raise_on_all_ranks(error: PersonSearchError | None) -> None:
    """Raise in every process when any has an error, so that none waits for one that gave up. All call this.

    What is raised is the first one in rank order; only the first process is left to show it.
    """
    first = next((each for each in all_gather_object(error) if each is not None), None)
    if first is not None:
        first.agreed, first.shown_elsewhere = True, rank() > 0
        raise first


@contextmanager
def errors_on_all_ranks() -> Iterator[None]:
    """Within the block a PersonSearchError in any process is raised at its end in all: see ``raise_on_all_ranks``."""
    problem: PersonSearchError | None = None
    try:
        yield
    except PersonSearchError as error:
        problem = error
    raise_on_all_ranks(problem)


@torch.no_grad()
def average_statistics(model: nn.Module) -> None:
    """Make the running statistics of batch normalisation the mean over processes. All call this.

    Each process has followed its own batches. The running mean is linear in what it followed, so it does not matter
    when, or how often, this is done.
    """
    norms = [part for part in model.modules() if isinstance(part, _BatchNorm) and part.training]
    statistics = [value for norm in norms for value in (norm.running_mean, norm.running_var) if value is not None]
    world = world_size()
    if world == 1 or not statistics:
        return
    flat = torch.cat(statistics)
    distributed.all_reduce(flat)
    torch._foreach_copy_(statistics, list((flat / world).split([len(value) for value in statistics])))
