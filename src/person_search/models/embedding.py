"""From pooled RoI features of one or two levels to the embedding that people are compared by."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Neck(nn.Module):
    """The baseline's BN neck: every level keeps its length and is normalised on its own (Luo et al., CVPRW 2019)."""

    def __init__(self, channels: dict[str, int]):
        super().__init__()
        self.levels = nn.ModuleDict({level: nn.BatchNorm1d(size) for level, size in channels.items()})
        self.sizes = dict(channels)

    def forward(self, pooled: dict[str, Tensor]) -> dict[str, Tensor]:
        """{level: (n, C)} -> {level: (n, C)} float32, not normalised."""
        return {level: neck(pooled[level].float()) for level, neck in self.levels.items()}

    def embed(self, pooled: dict[str, Tensor]) -> Tensor:
        """(n, D) embeddings: the levels, each of unit length, concatenated."""
        return torch.cat([F.normalize(x, dim=1) for x in self(pooled).values()], dim=1)


class Projection(nn.Module):
    """Linear + BN per level, ``size`` numbers in all (Chen et al., CVPR 2020); concatenated, C4 first."""

    def __init__(self, channels: dict[str, int], *, size: int = 256, bias: bool, bn_std: float | None):
        super().__init__()
        self.levels = nn.ModuleDict()
        for level, inputs in channels.items():
            linear, norm = (
                nn.Linear(inputs, size // len(channels), bias=bias),
                nn.BatchNorm1d(size // len(channels)),
            )
            nn.init.normal_(linear.weight, std=0.01)
            if bias:
                nn.init.zeros_(linear.bias)
            if bn_std is not None:
                nn.init.normal_(norm.weight, std=bn_std)
            self.levels[level] = nn.Sequential(linear, norm)

    def forward(self, pooled: dict[str, Tensor]) -> Tensor:
        """{level: (n, C)} -> (n, size) float32, not normalised."""
        return torch.cat([part(pooled[level]).float() for level, part in self.levels.items()], dim=1)


def norm_aware(embedding: Tensor, rescaler: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """The two things that an embedding says (NAE; Chen et al., CVPR 2020).

    Args:
        embedding: (n, D), not normalised.
        rescaler: batch normalisation of lengths.

    Returns:
        (n, D) directions, who it is, and (n,) logits, whether it is a person at all.
    """
    length = embedding.norm(dim=1, keepdim=True)
    return embedding / length.clamp(min=1e-12), rescaler(length)[:, 0]
