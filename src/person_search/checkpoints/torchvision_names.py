"""What checkpoints of NAE's and SeqNet's line of projects have in common: torchvision's names, with some of theirs."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from person_search.errors import CheckpointError

Rules = Sequence[tuple[str, str]]
"""Patterns of released names, and the beginning of ours that takes the place of what they match; the first counts."""

NETWORK: Rules = (
    (r"^backbone\.", "trunk."),
    # torchvision renamed this layer in version 0.13.
    (r"^rpn\.head\.conv\.(?:0\.0\.)?", "rpn.head.conv."),
    (r"^rpn\.head\.", "rpn.head."),
    (r"^roi_heads\.embedding_head\.projectors\.feat_res([45])\.", r"projection.levels.C\1."),
    (r"^roi_heads\.embedding_head\.rescaler\.", "rescaler."),
    (r"^roi_heads\.reid_loss\.cq$", "reid_loss.queue"),
    (r"^roi_heads\.reid_loss\.", "reid_loss."),
)


def renamed(name: str, rules: Rules, project: str) -> str:
    """Our name of a released tensor. Raises CheckpointError for a name that the layout of ``project`` does not have."""
    for pattern, replacement in rules:
        ours, hits = re.subn(pattern, replacement, name)
        if hits:
            return ours
    raise CheckpointError(f"tensor '{name}' is none of {project}'s")


def table_sizes(state: dict[str, Tensor], project: str, loss: str = "reid_loss") -> dict[str, int]:
    """``num_identities`` and ``oim_queue`` of the re-ID loss called ``loss``.

    Raises CheckpointError where a table is missing or has no rows.
    """
    sizes = {}
    for setting, name, what in (
        ("num_identities", f"roi_heads.{loss}.lut", "identity table"),
        ("oim_queue", f"roi_heads.{loss}.cq", "queue"),
    ):
        table = state.get(name)
        if table is None or table.ndim != 2 or len(table) == 0:
            raise CheckpointError(f"it looks like {project}, but holds no {what} '{name}'")
        sizes[setting] = len(table)
    return sizes


def ready(converted: dict[str, Tensor], losses: Sequence[str] = ("reid_loss",)) -> dict[str, Tensor]:
    """The tensors in float32, and where the queues of ``losses`` go on: at the start, for no such file says where."""
    whole = {name: value.float() if value.is_floating_point() else value for name, value in converted.items()}
    return whole | {f"{loss}.queue_head": torch.zeros((), dtype=torch.int64) for loss in losses}
