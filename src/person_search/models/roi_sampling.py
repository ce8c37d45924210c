"""Which proposals train the detection head, and which train re-ID."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Self, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import box_area, box_iou

from person_search.data.target import Target
from person_search.models.proto_norm import ProtoNorm
from person_search.models.random_draws import Draw, choose, generator_of
from person_search.models.settings import RoiSettings
from person_search.runtime.distributed import sum_over_ranks

BACKGROUND = -2
"""Label of a RoI without a person; -1 is a person without identity."""

BOX_CLAMP = math.log(1000 / 16)
"""Largest log of a width or height ratio that a box coder decodes."""


@dataclass(frozen=True, eq=False)
class LabelledRois:
    """RoIs of one image and whom they show.

    Attributes:
        boxes: (n, 4) pixels of the batch.
        labels: (n,) int64: identity >= 0, -1 person without identity, ``BACKGROUND``.
        overlaps: (n,) IoU with the true box that each overlaps most; 0 where the image has none.
    """

    boxes: Tensor
    labels: Tensor
    overlaps: Tensor

    @property
    def is_person(self) -> Tensor:
        """(n,) bool."""
        return self.labels > BACKGROUND

    def take(self, chosen: Tensor | slice) -> Self:
        """Those of ``chosen``: row numbers, a slice, or (n,) bool."""
        return type(self)(*(getattr(self, field.name)[chosen] for field in fields(self)))


@dataclass(frozen=True, eq=False)
class SampledRois(LabelledRois):
    """RoIs of one image for training a stage's heads.

    Attributes:
        deltas: (n, 4) regression targets; of meaning where ``labels`` is not ``BACKGROUND``.
        owners: (n,) int64, the true box that each overlaps most; -1 where the image has none.
    """

    deltas: Tensor
    owners: Tensor


Rois = TypeVar("Rois", bound=LabelledRois)


def enough_to_normalise(rois: list[Rois], *heads: nn.Module) -> list[Rois]:
    """The RoIs of all images, or none of them where batch normalisation in ``heads`` cannot train on so few.

    It trains on two rows at least, but for a kind with ``trains_on_one``. With none the same path is gone, for the
    other processes' sake: they wait for this one's gradients and normalisation, and it needs their embeddings in its
    tables.
    """
    number = sum(len(each.labels) for each in rois)
    enough = can_normalise(number, rois[0].labels.device, *heads)
    return rois if enough else [each.take(slice(0)) for each in rois]


def can_normalise(rows: int, device: torch.device, *heads: nn.Module) -> bool:
    """Whether batch normalisation in ``heads`` can train on this many rows; see ``enough_to_normalise``."""
    parts = [part for head in heads for part in head.modules()]
    norms = [
        part
        for part in parts
        if isinstance(part, _BatchNorm | ProtoNorm) and part.training and not getattr(part, "trains_on_one", False)
    ]
    if norms and all(isinstance(norm, nn.SyncBatchNorm | ProtoNorm) for norm in norms):
        rows = sum_over_ranks(rows, device)
    return rows > 1 or not norms


def on_ignored(boxes: Tensor, ignore: Tensor) -> Tensor:
    """(n,) bool: boxes that a region of ``ignore`` (K, 4) covers by half their area, or matches with IoU >= 0.5."""
    if len(ignore) == 0 or len(boxes) == 0:
        return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    top_left = torch.maximum(boxes[:, None, :2], ignore[None, :, :2])
    bottom_right = torch.minimum(boxes[:, None, 2:], ignore[None, :, 2:])
    covered = (bottom_right - top_left).clamp(min=0).prod(2) / box_area(boxes).clamp(min=1e-6)[:, None]
    return ((covered >= 0.5) | (box_iou(boxes, ignore) >= 0.5)).any(1)


class DetectionSampler:
    """Foreground and background RoIs as in Fast R-CNN (Girshick, ICCV 2015), ground truth among the proposals.

    Args:
        config: thresholds and numbers.
        box_coder: for the regression targets.
        draw: which random numbers of an image it uses; a method that samples twice draws twice.
    """

    def __init__(self, config: RoiSettings, box_coder: BoxCoder, draw: Draw = Draw.ROIS):
        self.fg_iou = config.fg_iou
        self.bg_iou = config.fg_iou if config.bg_iou is None else config.bg_iou
        self.number, self.positive_share = config.batch_per_image, config.positive_share
        self.box_coder = box_coder
        self.draw = draw

    def __call__(self, proposals: list[Tensor], targets: list[Target]) -> list[SampledRois]:
        """Sample every image; boxes of ``proposals`` [(n, 4)] and ``targets`` in pixels of the batch."""
        return [self._sample(*image) for image in zip(proposals, targets, strict=True)]

    def _sample(self, proposals: Tensor, target: Target) -> SampledRois:
        boxes = torch.cat([proposals, target.boxes])
        if len(target.boxes) == 0:
            labels, owner = (torch.full((len(boxes),), value, device=boxes.device) for value in (BACKGROUND, -1))
            overlap, matched = boxes.new_zeros(len(boxes)), boxes
        else:
            overlap, owner = box_iou(target.boxes, boxes).max(0)
            labels = torch.where(overlap >= self.fg_iou, target.person_ids[owner], BACKGROUND)
            matched = target.boxes[owner]
        kinds = (labels > BACKGROUND).long()
        kinds[(kinds == 0) & ((overlap >= self.bg_iou) | on_ignored(boxes, target.ignore))] = -1
        generator = generator_of(target, self.draw, boxes.device)
        rows = torch.where(choose(kinds, self.number, self.positive_share, generator))[0]
        deltas = self.box_coder.encode_single(matched[rows], boxes[rows])
        return SampledRois(boxes[rows], labels[rows], overlap[rows], deltas, owner[rows])


def pk_sample(
    proposals: Tensor, target: Target, *, per_person: int, min_iou: float = 0.5, labelled_only: bool = False
) -> LabelledRois:
    """The ``per_person`` best RoIs of every person of one image: PK sampling for re-ID.

    Every proposal belongs to the true box it overlaps most; a true box belongs to itself.

    Args:
        proposals: (n, 4), all of the RPN's.
        target: in the same pixels.
        labelled_only: leave out people without identity.

    Returns:
        m RoIs by true box, then falling IoU.
    """
    boxes, ids = target.boxes, target.person_ids
    if labelled_only:
        boxes, ids = boxes[ids >= 0], ids[ids >= 0]
    if len(boxes) == 0:
        return LabelledRois(boxes, ids, boxes[:, 0])
    # Ownership is decided among all people, so that a neighbour's proposals do not change hands when it is left out.
    candidates = torch.cat([boxes, proposals])
    owner = box_iou(target.boxes, candidates).argmax(0)
    overlap = box_iou(boxes, candidates)
    rows = torch.arange(len(target.boxes), device=boxes.device)
    if labelled_only:
        rows = rows[target.person_ids >= 0]
    owner[: len(boxes)] = rows
    mine = (owner[None] == rows[:, None]) & (overlap >= min_iou)
    best, index = torch.where(mine, overlap, -1.0).sort(dim=1, descending=True, stable=True)
    best, index = best[:, :per_person], index[:, :per_person]
    kept = best >= 0
    return LabelledRois(candidates[index[kept]], ids[:, None].expand_as(kept)[kept], best[kept])
