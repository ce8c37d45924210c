"""Checkpoints in the layout of NAE's and NAE+'s public code (Chen et al., CVPR 2020): their names, in ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from person_search.checkpoints.torchvision_names import (
    NETWORK,
    NOTHING,
    Rules,
    anchor_sizes,
    ready,
    renamed,
    table_sizes,
    taken,
)
from person_search.errors import CheckpointError

PROJECT, PAPER = "NAE", "Chen et al., CVPR 2020, the authors' own code"
RENAMES: Rules = (
    (r"^roi_heads\.box_head\.", "top."),
    (r"^roi_heads\.box_predictor\.bbox_pred\.", "bbox_pred."),
    *NETWORK,
)
UNUSED = "roi_heads.box_predictor.cls_score."
"""A classifier that the code makes and never asks."""
PROJECTOR = "roi_heads.embedding_head.projectors.feat_res{}.0.weight"


def rename(name: str) -> str | None:
    """Our name of a released tensor; None for one that is not used.

    Raises CheckpointError for a name that the layout does not have.
    """
    return None if name.startswith(UNUSED) else renamed(name, RENAMES, PROJECT)


def names(state: dict[str, Tensor]) -> dict[str, str | None]:
    """``rename`` for all of a state dict."""
    return {name: rename(name) for name in state}


def is_released(state: Mapping[str, Any]) -> bool:
    """Whether these are the tensor names of such a checkpoint."""
    return {"roi_heads.embedding_head.rescaler.weight", "roi_heads.reid_loss.cq"} <= state.keys() and not any(
        name.startswith("roi_heads.reid_head.") for name in state
    )


def recognise(state: dict[str, Tensor], held: Mapping[str, Any] = NOTHING) -> dict[str, Any]:
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
    return {"method": method, "levels": levels, **anchor_sizes(state, 5, 3), **table_sizes(state, title)}


def convert(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A released state dict with our names. Its queue goes on from the start: where it was is in no such file."""
    return ready(taken(state, names(state), PROJECT))


def evaluation_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Embeddings count times their scores, and every picture is looked at by itself."""
    return {"cws": True, "same_size_batches": True}
