"""From pooled RoI features of one or two levels to the embedding that people are compared by."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from person_search.models.proto_norm import ProtoNorm
from person_search.models.settings import EmbeddingNorm


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
    """Linear + normalisation per level, ``size`` numbers in all (Chen et al., CVPR 2020); concatenated, C4 first.

    Args:
        channels: of the levels.
        norm: which normalisation; ``bn_std`` is the spread that the weights of a batch normalisation start with, None:
            all at 1.
    """

    batch_norm: ClassVar[type[nn.BatchNorm1d | nn.BatchNorm2d]] = nn.BatchNorm1d

    def __init__(
        self,
        channels: dict[str, int],
        *,
        size: int = 256,
        bias: bool,
        bn_std: float | None,
        norm: EmbeddingNorm = "batch",
    ):
        super().__init__()
        self.levels = nn.ModuleDict()
        share = size // len(channels)
        for level, inputs in channels.items():
            linear = self.layer(inputs, share, bias=bias)
            nn.init.normal_(linear.weight, std=0.01)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)
            parts: list[nn.Module] = [linear]
            if norm == "proto":
                parts.append(ProtoNorm(share, affine=False))
            elif norm == "batch":
                batch_norm = self.batch_norm(share)
                if bn_std is not None:
                    nn.init.normal_(batch_norm.weight, std=bn_std)
                parts.append(batch_norm)
            self.levels[level] = nn.Sequential(*parts)

    @staticmethod
    def layer(inputs: int, outputs: int, *, bias: bool) -> nn.Linear | nn.Conv2d:
        """What projects a level."""
        return nn.Linear(inputs, outputs, bias=bias)

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

    batch_norm = SingleRowBatchNorm


class MapProjection(Projection):
    """``Projection`` of every pixel (NAE+; Chen et al., CVPR 2020): the maps of all levels in the size of C5's."""

    batch_norm = nn.BatchNorm2d

    @staticmethod
    def layer(inputs: int, outputs: int, *, bias: bool) -> nn.Linear | nn.Conv2d:
        """What projects a level."""
        return nn.Conv2d(inputs, outputs, 1, bias=bias)

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
