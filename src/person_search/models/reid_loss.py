"""What a method tells a re-ID loss of the RoIs that train it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from person_search.models.oim_loss import IdentityTables
from person_search.models.roi_sampling import LabelledRois


def identify(loss: nn.Module, embeddings: Tensor, rois: Sequence[LabelledRois]) -> tuple[Tensor, Tensor]:
    """A re-ID loss and its top-1 accuracy over the RoIs of all images.

    Every loss is told the label of a RoI; one with ``uses_overlaps = True`` also, by the name of ``overlaps``, the (R,)
    IoU with the true box that the RoI overlaps most, for one that lies badly shows less of its person.

    Args:
        loss: see ``OIMLoss.forward``.
        embeddings: (R, D).
        rois: per image, R in all.
    """
    labels = torch.cat([each.labels for each in rois])
    more = {"overlaps": torch.cat([each.overlaps for each in rois])} if getattr(loss, "uses_overlaps", False) else {}
    result: tuple[Tensor, Tensor] = loss(embeddings, labels, **more)
    return result


def identity_table(loss: nn.Module) -> Tensor | None:
    """(N, D) one embedding per identity, where the loss keeps such a table; of several levels, one beside the other."""
    if isinstance(loss, nn.ModuleDict):
        tables = [identity_table(each) for each in loss.values()]
        return None if any(table is None for table in tables) else torch.cat([t for t in tables if t is not None], 1)
    return loss.lut if isinstance(loss, IdentityTables) else None
