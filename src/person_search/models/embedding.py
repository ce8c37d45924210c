"""From pooled RoI features of one or two levels to the embedding that people are compared by."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm


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
            linear, norm = self.layers(inputs, size // len(channels), bias=bias)
            nn.init.normal_(linear.weight, std=0.01)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)
            if bn_std is not None:
                nn.init.normal_(norm.weight, std=bn_std)
            self.levels[level] = nn.Sequential(linear, norm)

    @staticmethod
    def layers(inputs: int, outputs: int, *, bias: bool) -> tuple[nn.Linear | nn.Conv2d, _BatchNorm]:
        """The two layers of a level."""
        return nn.Linear(inputs, outputs, bias=bias), nn.BatchNorm1d(outputs)

    def forward(self, pooled: dict[str, Tensor]) -> Tensor:
        """{level: (n, C)} -> (n, size) float32, not normalised."""
        return torch.cat([part(pooled[level]).float() for level, part in self.levels.items()], dim=1)


class SingleRowBatchNorm(nn.BatchNorm1d):
    """Batch normalisation that also trains on a single row, by its running statistics, which then stay as they are."""

    trains_on_one = True

    def forward(self, x: Tensor) -> Tensor:
        """(n, C) -> (n, C)."""
        if self.training and len(x) == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        return super().forward(x)


class SingleRowProjection(Projection):
    """``Projection`` that also trains on a single row."""

    @staticmethod
    def layers(inputs: int, outputs: int, *, bias: bool) -> tuple[nn.Linear | nn.Conv2d, _BatchNorm]:
        """The two layers of a level."""
        return nn.Linear(inputs, outputs, bias=bias), SingleRowBatchNorm(outputs)


class MapProjection(Projection):
    """``Projection`` of every pixel (NAE+; Chen et al., CVPR 2020): the maps of all levels in the size of C5's."""

    @staticmethod
    def layers(inputs: int, outputs: int, *, bias: bool) -> tuple[nn.Linear | nn.Conv2d, _BatchNorm]:
        """The two layers of a level."""
        return nn.Conv2d(inputs, outputs, 1, bias=bias), nn.BatchNorm2d(outputs)

    def forward(self, maps: dict[str, Tensor]) -> Tensor:
        """{level: (n, C, its h, its w)} -> (n, size, h, w of C5) float32, not normalised."""
        size = maps["C5"].shape[2:]
        projected = [part(maps[level]).float() for level, part in self.levels.items()]
        resized = [x if x.shape[2:] == size else F.interpolate(x, size, mode="bilinear") for x in projected]
        return torch.cat(resized, dim=1)


def norm_aware(embedding: Tensor, rescaler: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """The two things that an embedding says (NAE; Chen et al., CVPR 2020).

    Args:
        embedding: (n, D) or, of every pixel, (n, D, h, w); not normalised.
        rescaler: batch normalisation of lengths.

    Returns:
        Directions of that shape, who it is, and (n,) or (n, h, w) logits, whether it is a person at all.
    """
    length = embedding.norm(dim=1, keepdim=True)
    return embedding / length.clamp(min=1e-12), rescaler(length)[:, 0]
