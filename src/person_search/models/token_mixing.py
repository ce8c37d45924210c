"""RoI features as tokens that attend to each other, at several scales (Yu et al., COAT, CVPR 2022)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from person_search.models.backbones.backbone import Recomputable
from person_search.models.backbones.resnet import scaled
from person_search.models.occluded_attention import Exchange


class Attention(nn.Module):
    """Self-attention of several heads (Vaswani et al., NeurIPS 2017) without dropout."""

    def __init__(self, channels: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(n, T, C) -> (n, T, C)."""
        query, key, value = (
            part(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.output(attended.transpose(1, 2).flatten(2))


class TransformerBlock(Recomputable):
    """Self-attention and a small network for every token, each beside a residual connection.

    Unlike in the usual block the residual starts from the normalised tokens: what came in is not added.

    Args:
        channels: of a token, a multiple of ``heads``.
        heads: of the attention.
        expansion: width of the hidden layer over ``channels``.
    """

    def __init__(self, channels: int, *, heads: int = 8, expansion: int = 4):
        super().__init__()
        hidden = expansion * channels
        self.norm1 = nn.LayerNorm(channels)
        self.attention = Attention(channels, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.ffn = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, T, C) -> (n, T, C), for n sets of T tokens."""
        x = self.norm1(tokens)
        x = x + self.run(self.attention, x)
        return x + self.run(self.ffn, self.norm2(x))


class TokenMixer(nn.Module):
    """One scale: every cell, with its neighbours, becomes a token; tokens attend; each is put back where it was from.

    Args:
        channels: of the features.
        token_channels: of a token.
        kernel: cells that a token is made of and put back to, per side; odd.
    """

    def __init__(self, channels: int, token_channels: int, kernel: int):
        super().__init__()
        self.channels, self.kernel = channels, kernel
        self.patch2vec = nn.Conv2d(channels, token_channels, kernel, padding=kernel // 2)
        self.block = TransformerBlock(token_channels)
        self.vec2patch = nn.Linear(token_channels, channels * kernel**2)

    def forward(self, x: Tensor, exchange: Exchange | None = None) -> Tensor:
        """(n, C, h, w) -> (n, C, h, w): ``x`` and what its tokens say of it, ``exchange`` in between."""
        tokens = self.patch2vec(x)
        if exchange is not None:
            tokens = exchange(tokens)
        mixed = self.block(tokens.flatten(2).transpose(1, 2))
        return x + self._put_back(mixed.transpose(1, 2).unflatten(2, x.shape[2:]))

    def _put_back(self, tokens: Tensor) -> Tensor:
        """(n, T, h, w) -> (n, C, h, w); where patches overlap they are summed.

        This is ``vec2patch`` of each token and ``F.fold``, as one transposed convolution: the patches themselves would
        be kernel x kernel times as large as the map.
        """
        kernel, size = self.kernel, tokens.shape[2:]
        weight = self.vec2patch.weight.view(self.channels, kernel, kernel, -1).permute(3, 0, 1, 2)
        bias = self.vec2patch.bias.view(1, -1, 1).expand(1, -1, size[0] * size[1])
        return F.conv_transpose2d(tokens, weight, padding=kernel // 2) + F.fold(bias, size, kernel, padding=kernel // 2)


class TransformerHead(nn.Module):
    """In the place of a backbone's last stage: RoI features -> what they were, and what their tokens make of them.

    Half of the channels are cut into as many parts as there are scales.

    Args:
        channels: C of the RoI features.
        skip: whether the features are also handed on beside the transformers, through a 1x1 convolution.
        kernels: of the scales.

    Attributes:
        channels: of the output, 2 C.
    """

    def __init__(self, channels: int, *, skip: bool, kernels: Sequence[int] = (1, 3)):
        super().__init__()
        inner = scaled(channels, 1 / 2)
        self.channels = 2 * channels
        self.skip = nn.Conv2d(channels, channels, 1, bias=False) if skip else None
        self.reduce = nn.Conv2d(channels, inner, 1, bias=False)
        self.parts = [inner // len(kernels) + (i < inner % len(kernels)) for i in range(len(kernels))]
        self.scales = nn.ModuleList(
            TokenMixer(part, scaled(channels, 1 / 8), kernel) for part, kernel in zip(self.parts, kernels, strict=True)
        )
        self.expand = nn.Conv2d(inner, self.channels, 1, bias=False)

    def forward(
        self, x: Tensor, *, tokens: Exchange | None = None, skipped: Exchange | None = None
    ) -> dict[str, Tensor]:
        """(n, C, h, w) -> {"C4": (n, C), if there is a skip, "C5": (n, 2 C)}, max-pooled.

        Args:
            tokens: what the tokens of all scales exchange.
            skipped: what the features beside the transformers exchange.
        """
        z = self.reduce(x)
        mixed = [scale(part, tokens) for scale, part in zip(self.scales, z.split(self.parts, dim=1), strict=True)]
        pooled = {"C5": self.expand(z + torch.cat(mixed, dim=1)).amax((2, 3))}
        if self.skip is not None:
            beside = self.skip(x)
            pooled["C4"] = (beside if skipped is None else skipped(beside)).amax((2, 3))
        return pooled
