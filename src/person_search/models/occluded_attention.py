"""Occluded attention: RoIs that lend each other a strip of their features (Yu et al., COAT, CVPR 2022)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from person_search.runtime.distributed import all_gather_numbers, all_gather_rows_with_gradient, rank


@dataclass(frozen=True, eq=False)
class Exchange:
    """One strip, the same in every RoI, that each takes from another RoI: as if somebody else stood before it.

    Attributes:
        column: whether the strip is a column of the map, else it is a row; it is one cell wide.
        position: which.
        partners: (n,) int64: of each RoI, the number of the one that it takes the strip from, among those of all
            processes in rank order.
        lengths: RoIs of each process.
    """

    column: bool
    position: int
    partners: Tensor
    lengths: list[int]

    def __call__(self, features: Tensor) -> Tensor:
        """(n, C, h, w) -> the same with every strip exchanged; gradients go to the RoI that a strip is from."""
        dim = 3 if self.column else 2
        strips = all_gather_rows_with_gradient(features.select(dim, self.position), self.lengths)
        return features.select_scatter(strips[self.partners], dim, self.position)


def draw_exchange(number: int, size: tuple[int, int], generator: torch.Generator, device: torch.device) -> Exchange:
    """A random strip and a random permutation of the RoIs of all processes. All call this.

    The last row and column are never drawn, as in the authors' code.

    Args:
        number: n, RoIs of this process.
        size: (height, width) of their maps.
        generator: on the CPU, and in the same state in every process.
        device: where the RoIs are.
    """
    lengths = all_gather_numbers(number, device)
    column = bool(torch.randint(2, (), generator=generator))
    position = int(torch.randint(max(1, size[column] - 1), (), generator=generator))
    partners = torch.randperm(sum(lengths), generator=generator).split(lengths)[rank()]
    return Exchange(column, position, partners.to(device, non_blocking=True), lengths)
