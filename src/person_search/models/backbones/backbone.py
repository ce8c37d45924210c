"""What a method gets from a backbone, whatever network it is."""

from __future__ import annotations

import abc
import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from person_search.models.backbones.stochastic_depth import DrawnDepths, depths_as_drawn, drawn_depths
from person_search.models.proto_norm import Told, told, told_again
from person_search.models.settings import BackboneSettings

Cut = Literal["layer3-half", "layer3"]
"""Where a network ends in the trunk and goes on in the top. ``layer3`` is ResNet's word for what every network has,
the stage whose features have 16 pixels to a cell: all of it may be the trunk's, or the first half of its blocks."""


@dataclass(frozen=True)
class Normalisation:
    """How a network wants its pictures: colours of 0 to ``peak``, less ``mean``, divided by ``std``.

    Attributes:
        mean, std: per channel, in the order that the network reads them.
        peak: value of a full colour: 1 or 255.
        bgr: the network reads blue, green, red.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    peak: float = 1.0
    bgr: bool = False


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CAFFE = Normalisation((102.9801, 115.9465, 122.7717), (1.0, 1.0, 1.0), peak=255.0, bgr=True)


class Recomputable(nn.Module):
    """A heavy part of a network, of parts that it runs one after the other by ``run``.

    Attributes:
        recompute: inner activations are not kept for the gradient but computed again when it needs them (Chen et
            al., 2016): less memory for a third more work.
    """

    recompute = False

    def run(self, part: nn.Module, x: Tensor) -> Tensor:
        """``part`` of ``x``, recomputed for the gradient if that is asked for."""
        if not (self.recompute and torch.is_grad_enabled()):
            return part(x)
        return checkpoint(part, x, use_reentrant=False, context_fn=partial(_counted_once, part))


class FreezableNorms(nn.Module):
    """A part of a network whose batch normalisations can be kept as they are, in training too."""

    norms_frozen = False

    def freeze_norms(self) -> None:
        """Train no batch normalisation any more, nor move its statistics."""
        self.norms_frozen = True
        for norm in batch_norms(self):
            norm.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """As ``nn.Module.train``; frozen normalisations stay in evaluation mode."""
        super().train(mode)
        if self.norms_frozen:
            for norm in batch_norms(self):
                norm.eval()
        return self


class Trunk(Recomputable, FreezableNorms, abc.ABC):
    """The part that reads the whole picture: (B, 3, H, W) -> C4, (B, ``channels``, H / ``stride``, W / ``stride``).

    Attributes:
        channels: C of its output.
        stride: pixels of the picture per cell of its output.
    """

    channels: int
    stride = 16

    @abc.abstractmethod
    def stem_parts(self) -> list[nn.Module]:
        """What reads the pixels, its normalisation included."""

    def first_stage_parts(self) -> list[nn.Module]:
        """What follows the stem and is customarily frozen with it; in most networks nothing."""
        return []

    def freeze(self, *, norms: bool, first_stage: bool = False) -> None:
        """Train the stem no more; with ``norms``, no batch normalisation either, with ``first_stage`` not that."""
        for part in [*self.stem_parts(), *(self.first_stage_parts() if first_stage else [])]:
            part.requires_grad_(False)
        if norms:
            self.freeze_norms()


class Top(Recomputable, FreezableNorms, abc.ABC):
    """The part that reads each RoI: (R, C4, h, w) -> C5, (R, ``channels``, ceil(h / 2), ceil(w / 2)); R may be 0."""

    channels: int


class Backbone(abc.ABC):
    """A network cut in two. A subclass is a family of networks, made known by ``@register_backbone``.

    Args:
        settings: those of the family, of the class ``Settings``: ``name`` is the one asked for, ``weights`` are
            ``"imagenet"``, ``"none"`` or the path of a file; CheckpointError when they cannot be had or do not fit.
        cut: where the trunk ends.

    Attributes:
        trunk: for the whole picture.
        normalisation: of the pictures that it reads, whatever the weights.
    """

    Settings: ClassVar[type[BackboneSettings]] = BackboneSettings
    trunk: Trunk
    normalisation: Normalisation = IMAGENET
    top: Top

    @abc.abstractmethod
    def __init__(self, settings: BackboneSettings, *, cut: Cut):
        """Build the network and load its weights."""

    def make_top(self) -> Top:
        """A top of its own for each that asks; all start from the same weights."""
        return copy.deepcopy(self.top)


def batch_norms(module: nn.Module) -> list[_BatchNorm]:
    """Its batch normalisations."""
    return [part for part in module.modules() if isinstance(part, _BatchNorm)]


def _counted_once(part: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts of the first and the second computation of ``part``.

    Only the first moves running statistics; the second leaves out the blocks that the first did, whatever was drawn
    between them, and knows as much of its rows.
    """
    return nullcontext(), _once_more(part, drawn_depths(part), told(part))


@contextmanager
def _once_more(part: nn.Module, depths: DrawnDepths, before: Told) -> Iterator[None]:
    with statistics_kept(part), depths_as_drawn(depths), told_again(before):
        yield


@contextmanager
def statistics_kept(module: nn.Module) -> Iterator[None]:
    """Inside, batch normalisations use a batch's statistics as always, but their running ones do not move."""
    before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in batch_norms(module)]
    counts = [None if count is None else count.clone() for _, _, count in before]
    for norm, _, _ in before:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for (norm, momentum, count), noted in zip(before, counts, strict=True):
            norm.momentum = momentum
            if count is not None and noted is not None:
                count.copy_(noted)
