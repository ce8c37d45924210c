"""What a model is to learn of one image."""

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
        scene: number of the scene in its split, the same for its mirror image; None where it is of none.
    """

    boxes: Tensor
    person_ids: Tensor
    ignore: Tensor
    seed: int | None = None
    scene: int | None = None

    def to(self, device: torch.device | str) -> Target:
        """The same target on ``device``."""
        boxes, person_ids, ignore = (
            part.to(device, non_blocking=True) for part in (self.boxes, self.person_ids, self.ignore)
        )
        return replace(self, boxes=boxes, person_ids=person_ids, ignore=ignore)
