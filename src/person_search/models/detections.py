"""What goes into a model beside the image, and what comes out."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Target:
    """The people of one training image.

    Attributes:
        boxes: (N, 4) float32 xyxy, pixels of the image as given.
        person_ids: (N,) int64, 0..num_identities-1, or -1 without identity.
        ignore: (K, 4) float32 regions that are no training target and whose RoIs are no negatives.
        seed: of the random choices made for this image; None: they come from torch's global random numbers.
    """

    boxes: Tensor
    person_ids: Tensor
    ignore: Tensor
    seed: int | None = None

    def to(self, device: torch.device | str) -> Target:
        """The same target on ``device``."""
        boxes, person_ids, ignore = (
            part.to(device, non_blocking=True) for part in (self.boxes, self.person_ids, self.ignore)
        )
        return replace(self, boxes=boxes, person_ids=person_ids, ignore=ignore)


@dataclass(frozen=True, eq=False)
class Detections:
    """The people found in one image, best score first.

    Attributes:
        boxes: (N, 4) float32 xyxy, pixels of the image as given.
        scores: (N,) float32 in 0..1.
        embeddings: (N, D) float32, of unit length (the baseline's: each of its levels).
    """

    boxes: Tensor
    scores: Tensor
    embeddings: Tensor

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, chosen: Tensor) -> Detections:
        """Those of ``chosen``: row numbers, or (N,) bool."""
        return Detections(self.boxes[chosen], self.scores[chosen], self.embeddings[chosen])

    def after(self, box: Tensor, embedding: Tensor) -> Detections:
        """A person of score 1 with this (4,) box and (D,) embedding, and then these."""
        return Detections(
            torch.cat([box[None], self.boxes]),
            torch.cat([self.scores.new_ones(1), self.scores]),
            torch.cat([embedding[None], self.embeddings]),
        )
