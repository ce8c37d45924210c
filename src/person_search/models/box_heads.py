"""Heads that say whether a RoI is a person and where exactly, their losses, and the final choice of boxes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import clip_boxes_to_image, nms

from person_search.models.roi_sampling import SampledRois
from person_search.models.settings import DetectionSettings
from person_search.runtime.distributed import mean_count


class LightHead(nn.Module):
    """The baseline's own small detection head: (R, C4, h, w) -> (R, 256), h and w being ``size``."""

    def __init__(self, channels: int, size: tuple[int, int], hidden: int = 256):
        super().__init__()
        self.conv = nn.Conv2d(channels, hidden, 1, stride=2)
        self.bn = nn.BatchNorm2d(hidden)
        self.fc = nn.Linear(hidden * ((size[0] + 1) // 2) * ((size[1] + 1) // 2), hidden)

    def forward(self, x: Tensor) -> Tensor:
        """(R, C4, h, w) -> (R, 256)."""
        return F.relu(self.fc(F.relu(self.bn(self.conv(x))).flatten(1)))


def normalised_box_layer(channels: int) -> nn.Sequential:
    """(n, channels) -> (n, 8) box deltas, with the batch normalisation and the start of NAE."""
    linear, norm = nn.Linear(channels, 8), nn.BatchNorm1d(8)
    for layer in (linear, norm):
        nn.init.normal_(layer.weight, std=0.01)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(linear, norm)


def box_loss(deltas: Tensor, sampled: list[SampledRois], weight: float) -> Tensor:
    """Smooth L1 (beta 1) of (n, 4 or 8) ``deltas``: sum over people / RoIs sampled, times ``weight``."""
    person = torch.cat([rois.is_person for rois in sampled])
    wanted = torch.cat([rois.deltas for rois in sampled])
    loss = F.smooth_l1_loss(deltas[person, -4:], wanted[person], beta=1.0, reduction="sum")
    return weight * loss / mean_count(person.new_tensor(person.numel(), dtype=torch.float32))


def softmax_classification_loss(logits: Tensor, sampled: list[SampledRois]) -> Tensor:
    """Cross-entropy of (n, 2) ``logits`` against background / person, mean over RoIs sampled."""
    person = torch.cat([rois.is_person for rois in sampled])
    loss = F.cross_entropy(logits, person.long(), reduction="sum")
    return loss / mean_count(person.new_tensor(person.numel(), dtype=torch.float32))


def binary_classification_loss(logits: Tensor, sampled: list[SampledRois]) -> Tensor:
    """Binary cross-entropy of (n,) ``logits`` against background / person, mean over RoIs sampled."""
    person = torch.cat([rois.is_person for rois in sampled])
    loss = F.binary_cross_entropy_with_logits(logits, person.float(), reduction="sum")
    return loss / mean_count(person.new_tensor(person.numel(), dtype=torch.float32))


def moved(boxes: Tensor, deltas: Tensor, size: tuple[int, int], box_coder: BoxCoder) -> Tensor:
    """(n, 4) ``boxes`` where the last 4 of ``deltas`` put a person, clipped to an image of ``size`` (height, width)."""
    return clip_boxes_to_image(box_coder.decode_single(deltas[:, -4:], boxes), size)


@dataclass(frozen=True, eq=False)
class KeptBoxes:
    """Boxes of one image, their scores, and ``rows`` (k,): which proposals they were regressed from."""

    boxes: Tensor
    scores: Tensor
    rows: Tensor

    def take(self, index: Tensor) -> KeptBoxes:
        """Those of ``index``, in its order."""
        return KeptBoxes(self.boxes[index], self.scores[index], self.rows[index])


def candidates(
    proposals: Tensor,
    scores: Tensor,
    deltas: Tensor,
    size: tuple[int, int],
    *,
    config: DetectionSettings,
    box_coder: BoxCoder,
    min_side: float,
) -> KeptBoxes:
    """Regress and clip; what is left, before NMS, without low scores and sides below ``min_side``.

    Args:
        proposals: (n, 4) in pixels of the batch.
        scores: (n,) in 0..1.
        deltas: (n, 4 or 8); the last four are the person's.
        size: (height, width) of the image in the batch.
    """
    boxes = moved(proposals, deltas, size, box_coder)
    sides = (boxes[:, 2:] - boxes[:, :2]).amin(1) if len(boxes) else boxes[:, 0]
    rows = torch.where((scores > config.score_threshold) & (sides >= min_side))[0]
    return KeptBoxes(boxes[rows], scores[rows], rows)


def keep_best(found: KeptBoxes, config: DetectionSettings) -> KeptBoxes:
    """What survives NMS, best first, at most ``max_detections``."""
    return found.take(nms(found.boxes, found.scores, config.nms_threshold)[: config.max_detections])


def keep_beside(given: Tensor, found: KeptBoxes, config: DetectionSettings) -> KeptBoxes:
    """What survives beside the box ``given``, (4,), when that takes part in NMS with score 1, best first.

    Nothing outdoes it, not even another score of 1, and it counts towards ``max_detections``.
    """
    boxes = torch.cat([given[None], found.boxes])
    scores = torch.cat([found.scores.new_full((1,), torch.inf), found.scores])
    return found.take(nms(boxes, scores, config.nms_threshold)[1 : config.max_detections] - 1)
