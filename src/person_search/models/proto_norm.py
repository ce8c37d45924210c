"""ProtoNorm: normalisation by people, not by RoIs (Lee et al., OIMNet++, ECCV 2022)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _NormBase

from person_search.errors import UsageError
from person_search.runtime.distributed import add_over_ranks, all_gather_rows


@dataclass(frozen=True, eq=False)
class PrototypeShares:
    """What the RoIs of this process add to the statistics of all.

    Attributes:
        mean: (R,) share of each RoI in the mean over prototypes; over all processes they add up to 1.
        variance: (R,) its share in the variance, one by the number of RoIs.
        number: () RoIs of all processes.
    """

    mean: Tensor
    variance: Tensor
    number: Tensor


def prototype_shares(labels: Tensor) -> PrototypeShares:
    """The shares of RoIs of these (R,) ``labels``, given those of all other processes.

    Everybody has one prototype, the mean of their RoIs. Background is one of them; a RoI of a person without identity,
    labelled -1, is one by itself.
    """
    every = all_gather_rows(labels)
    own, others = (
        torch.where(some == -1, 1, (some[:, None] == every).sum(1)).clamp(min=1).float() for some in (labels, every)
    )
    prototypes = (1 / others).sum().round().clamp(min=1)
    number = torch.full_like(prototypes, len(every))
    return PrototypeShares(1 / (own * prototypes), torch.ones_like(own) / number.clamp(min=1), number)


class ProtoNorm(_NormBase):
    """Batch normalisation about the mean of prototypes, so that who has many RoIs counts as much as who has few.

    The variance is that of all RoIs about this mean. In a 4-D input every pixel of a RoI counts alike. The RoIs of all
    processes are normalised together, exactly. Arguments, buffers and evaluation are those of ``nn.BatchNorm2d``; in
    training it has to be told whom its rows show, by ``prototypes``.
    """

    shares: PrototypeShares | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(R, C) or (R, C, h, w) -> the same. Raises RuntimeError in training outside ``prototypes``."""
        if not self.training:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        if self.shares is None:
            raise RuntimeError("ProtoNorm in training wants to know whom its rows show; call it inside prototypes()")
        with torch.autocast(x.device.type, enabled=False):
            return self._normalise(x.float(), self.shares).to(x.dtype)

    def _normalise(self, x: Tensor, shares: PrototypeShares) -> Tensor:
        # A top that cannot run on no RoIs runs on one that nobody sees: it counts for nothing.
        unseen = len(x) - len(shares.mean)
        mean = add_over_ranks(F.pad(shares.mean, (0, unseen)) @ _over_pixels(x))
        shape = (1, -1) + (1,) * (x.ndim - 2)
        centred = x - mean.view(shape)
        variance = add_over_ranks(F.pad(shares.variance, (0, unseen)) @ _over_pixels(centred.square()))
        self._follow(mean, variance, shares.number * math.prod(x.shape[2:]))
        factor = (variance + self.eps).rsqrt()
        if not self.affine:
            return centred * factor.view(shape)
        return torch.addcmul(self.bias.view(shape), centred, (factor * self.weight).view(shape))

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, number: Tensor) -> None:
        """Move the running statistics; a single value says nothing about a variance."""
        if self.momentum == 0:
            return
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        enough = number > 1
        share = self.momentum * enough
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance * number / (number - 1).clamp(min=1), share)
        self.num_batches_tracked.add_(enough)


def _over_pixels(x: Tensor) -> Tensor:
    """(R, C, ...) -> (R, C), the mean."""
    return x.flatten(2).mean(2) if x.ndim > 2 else x


@contextmanager
def prototypes(module: nn.Module, labels: Sequence[Tensor]) -> Iterator[None]:
    """Inside, the norms of ``module`` that train know whom the rows show that run through it.

    All processes call this, for it tells them of each other's RoIs.

    Args:
        module: may hold ``ProtoNorm``s, at any depth, or none.
        labels: of the rows, in pieces: identity, -1 a person without identity, below: background.
    """
    norms = [part for part in module.modules() if isinstance(part, ProtoNorm) and part.training]
    shares = prototype_shares(torch.cat([*labels])) if norms else None
    for norm in norms:
        norm.shares = shares
    try:
        yield
    finally:
        for norm in norms:
            norm.shares = None


Told = list[tuple[ProtoNorm, PrototypeShares | None]]


def told(module: nn.Module) -> Told:
    """What the norms of ``module`` know now of the rows, for ``told_again``."""
    return [(part, part.shares) for part in module.modules() if isinstance(part, ProtoNorm)]


@contextmanager
def told_again(before: Told) -> Iterator[None]:
    """Inside, norms know what they knew ``before``, to compute once more what they did; statistics do not move."""
    now = [(norm, norm.shares, norm.momentum) for norm, _ in before]
    for norm, shares in before:
        norm.shares, norm.momentum = shares, 0.0
    try:
        yield
    finally:
        for norm, shares, momentum in now:
            norm.shares, norm.momentum = shares, momentum


def replace_batch_norms(module: nn.Module, *, of: str) -> None:
    """Put a ``ProtoNorm`` in the place of every ``nn.BatchNorm2d`` in ``module``, with its weights and statistics.

    Raises UsageError where there is none, or one that does more than normalise; ``of`` names whose they are.
    """
    norms = {name: part for name, part in module.named_modules() if isinstance(part, nn.BatchNorm2d)}
    kinds = {type(part) for part in norms.values()}
    if kinds != {nn.BatchNorm2d}:
        found = ", ".join(sorted(kind.__name__ for kind in kinds - {nn.BatchNorm2d})) or "none"
        raise UsageError(
            f"ProtoNorm takes the place of plain batch normalisation (BatchNorm2d), of which {of} has {found}; choose "
            "another backbone, such as resnet50, or leave --proto-norm-in-top out"
        )
    for name, norm in norms.items():
        assert norm.momentum is not None
        replacement = ProtoNorm(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        replacement.load_state_dict(norm.state_dict())
        module.set_submodule(name, replacement)
