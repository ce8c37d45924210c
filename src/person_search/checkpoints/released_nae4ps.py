"""Checkpoints in the layout of NAE's and NAE+'s public code (Chen et al., CVPR 2020): their names, in ours."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from person_search.checkpoints.torchvision_names import NETWORK, Rules, ready, renamed, table_sizes
from person_search.errors import CheckpointError

RENAMES: Rules = (
    (r"^roi_heads\.box_head\.", "top."),
    (r"^roi_heads\.box_predictor\.bbox_pred\.", "bbox_pred."),
    *NETWORK,
)
UNUSED = "roi_heads.box_predictor.cls_score."
"""A classifier that the code makes and never asks."""
PROJECTOR = "roi_heads.embedding_head.projectors.feat_res{}.0.weight"


def rename(name: str) -> str:
    """Our name of a released tensor. Raises CheckpointError for a name that the layout does not have."""
    return renamed(name, RENAMES, "NAE")


def is_released(state: dict[str, Any]) -> bool:
    """Whether these are the tensor names of such a checkpoint."""
    return {"roi_heads.embedding_head.rescaler.weight", "roi_heads.reid_loss.cq"} <= state.keys() and not any(
        name.startswith("roi_heads.reid_head.") for name in state
    )


def recognise(state: dict[str, Tensor]) -> dict[str, Any]:
    """Model settings that a released state dict shows, and ``num_identities``.

    Raises CheckpointError where it shows none.
    """
    last = state.get(PROJECTOR.format(5))
    if last is None or last.ndim not in (2, 4):
        raise CheckpointError(
            f"it looks like NAE or NAE+, but '{PROJECTOR.format(5)}', which tells them apart, is "
            f"{'missing' if last is None else tuple(last.shape)}; expected 2 dimensions or 4"
        )
    method, title = ("nae4ps", "NAE") if last.ndim == 2 else ("nae-plus", "NAE+")
    levels = ("C4", "C5") if PROJECTOR.format(4) in state else ("C5",)
    return {"method": method, "levels": levels, **table_sizes(state, title)}


def convert(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A released state dict with our names. Its queue goes on from the start: where it was is in no such file."""
    return ready({rename(name): value for name, value in state.items() if not name.startswith(UNUSED)})
