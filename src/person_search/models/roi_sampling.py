"""Which proposals train the detection head, and which train re-ID."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import box_area, box_iou

from person_search.models.detections import Target
from person_search.models.random_draws import Draw, choose, generator_of
from person_search.models.settings import RoiSettings

BACKGROUND = -2
"""Label of a RoI without a person; -1 is a person without identity."""

BOX_CLAMP = math.log(1000 / 16)
"""Largest log of a width or height ratio that a box coder decodes."""


@dataclass(frozen=True, eq=False)
class SampledRois:
    """RoIs of one image for training the detection head.

    Attributes:
        boxes: (n, 4) pixels of the batch.
        labels: (n,) int64: identity >= 0, -1 person without identity, ``BACKGROUND``.
        deltas: (n, 4) regression targets; of meaning where ``labels`` is not ``BACKGROUND``.
    """

    boxes: Tensor
    labels: Tensor
    deltas: Tensor

    @property
    def is_person(self) -> Tensor:
        """(n,) bool."""
        return self.labels > BACKGROUND


def on_ignored(boxes: Tensor, ignore: Tensor) -> Tensor:
    """(n,) bool: boxes that a region of ``ignore`` (K, 4) covers by half their area, or matches with IoU >= 0.5."""
    if len(ignore) == 0 or len(boxes) == 0:
        return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    top_left = torch.maximum(boxes[:, None, :2], ignore[None, :, :2])
    bottom_right = torch.minimum(boxes[:, None, 2:], ignore[None, :, 2:])
    covered = (bottom_right - top_left).clamp(min=0).prod(2) / box_area(boxes).clamp(min=1e-6)[:, None]
    return ((covered >= 0.5) | (box_iou(boxes, ignore) >= 0.5)).any(1)


class DetectionSampler:
    """Foreground and background RoIs as in Fast R-CNN (Girshick, ICCV 2015), ground truth among the proposals."""

    def __init__(self, config: RoiSettings, box_coder: BoxCoder):
        self.fg_iou = config.fg_iou
        self.bg_iou = config.fg_iou if config.bg_iou is None else config.bg_iou
        self.number, self.positive_share = config.batch_per_image, config.positive_share
        self.box_coder = box_coder

    def __call__(self, proposals: list[Tensor], targets: list[Target]) -> list[SampledRois]:
        """Sample every image; boxes of ``proposals`` [(n, 4)] and ``targets`` in pixels of the batch."""
        return [self._sample(*image) for image in zip(proposals, targets, strict=True)]

    def _sample(self, proposals: Tensor, target: Target) -> SampledRois:
        boxes = torch.cat([proposals, target.boxes])
        if len(target.boxes) == 0:
            labels = torch.full((len(boxes),), BACKGROUND, device=boxes.device)
            matched, undecided = boxes, torch.zeros_like(labels, dtype=torch.bool)
        else:
            overlap, owner = box_iou(target.boxes, boxes).max(0)
            labels = torch.where(overlap >= self.fg_iou, target.person_ids[owner], BACKGROUND)
            matched, undecided = target.boxes[owner], (overlap < self.fg_iou) & (overlap >= self.bg_iou)
        kinds = (labels > BACKGROUND).long()
        kinds[(kinds == 0) & (undecided | on_ignored(boxes, target.ignore))] = -1
        generator = generator_of(target, Draw.ROIS, boxes.device)
        rows = torch.where(choose(kinds, self.number, self.positive_share, generator))[0]
        return SampledRois(boxes[rows], labels[rows], self.box_coder.encode_single(matched[rows], boxes[rows]))


def pk_sample(
    proposals: Tensor, target: Target, *, per_person: int, min_iou: float = 0.5, labelled_only: bool = False
) -> tuple[Tensor, Tensor]:
    """The ``per_person`` best RoIs of every person of one image: PK sampling for re-ID.

    Every proposal belongs to the true box it overlaps most; a true box belongs to itself.

    Args:
        proposals: (n, 4), all of the RPN's.
        target: in the same pixels.
        labelled_only: leave out people without identity.

    Returns:
        (m, 4) boxes and (m,) labels, by true box, then falling IoU.
    """
    boxes, ids = target.boxes, target.person_ids
    if labelled_only:
        boxes, ids = boxes[ids >= 0], ids[ids >= 0]
    if len(boxes) == 0:
        return boxes, ids
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
    kept = best[:, :per_person] >= 0
    return candidates[index[:, :per_person][kept]], ids[:, None].expand_as(kept)[kept]
