"""What a loss needs to know of the other processes, so that R processes of batch B equal one of batch R x B."""

from __future__ import annotations

import torch
from torch import Tensor, distributed


def processes() -> int:
    """Number of processes that train together; 1 when not distributed."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def mean_count(count: Tensor) -> Tensor:
    """The mean of ``count`` over processes, at least 1 / processes.

    A sum of losses divided by it, averaged over processes as DDP averages gradients, is the sum over all processes
    divided by the count over all processes.
    """
    total = count.detach().float()
    world = processes()
    if world > 1:
        distributed.all_reduce(total)
    return total.clamp(min=1) / world


def gather_rows(rows: Tensor) -> Tensor:
    """(n, ...) tensors of all processes, n differing, concatenated in rank order. No gradient flows through."""
    rows = rows.detach()
    world = processes()
    if world == 1:
        return rows
    lengths = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(world)]
    distributed.all_gather(lengths, torch.tensor([len(rows)], device=rows.device))
    longest = max(int(length) for length in lengths)
    padded = rows.new_zeros((longest, *rows.shape[1:]))
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in range(world)]
    distributed.all_gather(parts, padded)
    return torch.cat([part[: int(length)] for part, length in zip(parts, lengths, strict=True)])
