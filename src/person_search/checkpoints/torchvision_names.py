"""What checkpoints of NAE's and SeqNet's line of projects have in common: torchvision's names, with some of theirs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from person_search.errors import CheckpointError

Rules = Sequence[tuple[str, str]]
"""Patterns of released names, and the beginning of ours that takes the place of what they match; the first counts."""

NOTHING: Mapping[str, Any] = MappingProxyType({})
"""The settings beside the tensors of a file that has none."""
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


def taken(state: dict[str, Tensor], names: Mapping[str, str | None], project: str) -> dict[str, Tensor]:
    """The tensors by our names, as ``names`` gives them for those in the file, those that are not used left out.

    Raises CheckpointError for two names of one tensor that hold different ones.
    """
    found: dict[str, Tensor] = {}
    first: dict[str, str] = {}
    for theirs, ours in names.items():
        if ours is None:
            continue
        if ours in found and not _same(found[ours], state[theirs]):
            raise CheckpointError(
                f"it looks like {project}, but '{first[ours]}' and '{theirs}', one tensor, differ; its project writes "
                "the same under both names"
            )
        found[ours] = state[theirs]
        first.setdefault(ours, theirs)
    return found


def _same(one: Tensor, other: Tensor) -> bool:
    # A file that holds one tensor under two names mostly holds it once.
    return one.is_set_to(other) or (
        one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
    )


ANCHOR_SIZES: dict[int, tuple[float, ...]] = {3: (8.0, 16.0, 32.0), 5: (32.0, 64.0, 128.0, 256.0, 512.0)}
"""Sizes that these projects use, by how many there are: the sizes themselves are in no file."""


def anchor_sizes(state: dict[str, Tensor], usual: int, ratios: int) -> dict[str, Any]:
    """``anchor_sizes`` where the file has another known number of them, for each of ``ratios``, than is ``usual``."""
    scores = state.get("rpn.head.cls_logits.weight", state.get("RPN.head.cls_logits.weight"))
    # What is missing or of a strange shape is named where all tensors are compared.
    number, rest = (0, 0) if scores is None or scores.ndim == 0 else divmod(len(scores), ratios)
    return {"anchor_sizes": ANCHOR_SIZES[number]} if rest == 0 and number in ANCHOR_SIZES and number != usual else {}
