"""Checkpoints in the layout of OIMNet++'s public code (Lee et al., ECCV 2022): their names, in ours."""

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

PROJECT, PAPER = "OIMNet++", "Lee et al., ECCV 2022"
RENAMES: Rules = (
    (r"^roi_heads\.reid_head\.", "top."),
    (r"^roi_heads\.box_predictor\.bbox_cls\.", "cls_score."),
    (r"^roi_heads\.box_predictor\.bbox_pred\.", "bbox_pred."),
    *NETWORK,
)
UNUSED = ("roi_heads.box_head.", "roi_heads.faster_rcnn_predictor.")
"""Parts that lie in such files though no embedding or box was ever computed with them."""

NORM = "roi_heads.embedding_head.projectors.feat_res5.1."


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
    wanted = ("roi_heads.reid_head.", "roi_heads.box_predictor.bbox_cls.", "roi_heads.embedding_head.projectors.")
    return not any(name.startswith("roi_heads.embedding_head.rescaler.") for name in state) and all(
        any(name.startswith(part) for name in state) for part in wanted
    )


def recognise(state: dict[str, Tensor], held: Mapping[str, Any] = NOTHING) -> dict[str, Any]:
    """Model settings that a released state dict shows, and ``num_identities``.

    Without a norm behind the projection it is the strong OIM of the same code. OIMNet+++ leaves the same tensors as
    OIMNet++, and in test computes the same. Raises CheckpointError where tables are missing.
    """
    sizes = {**anchor_sizes(state, 3, 3), **table_sizes(state, PROJECT)}
    if NORM + "weight" in state:
        raise CheckpointError(f"it looks like {PROJECT}, but the norm of its projection has a weight '{NORM}weight'")
    if NORM + "running_mean" in state:
        return {"method": "oimnet++", **sizes}
    return {"method": "oimnet++", "embedding_norm": "none", "reid_loss": "oim-sequential", **sizes}


def convert(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A released state dict with our names, its half-precision tables in float32."""
    return ready(taken(state, names(state), PROJECT))


def evaluation_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Every picture is looked at by itself."""
    return {"same_size_batches": True}
