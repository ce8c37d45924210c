"""How much memory a training step takes, estimated from the network alone: nothing is computed.

Trunk and heads run on tensors without data. What they keep for the gradient is counted once each; beside it are the
weights, their gradients and the optimiser's memory, and the RoI features that the heads read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from person_search.config import Config
from person_search.models.backbones.backbone import Recomputable
from person_search.models.building import build_model
from person_search.models.proto_norm import ProtoNorm
from person_search.models.two_stage import TwoStageModel

MB = 2**20


def training_memory(config: Config, identities: int) -> float:
    """Megabytes of a training step of ``config`` at its image size and batch, in float32.

    Every image is taken to be as large as images get, every sampler to be filled. Raises ValueError for a method that
    is no two-stage one.
    """
    with torch.device("meta"):
        model = build_model(config.model, identities, load_weights=False).train()
    if not isinstance(model, TwoStageModel):
        raise ValueError(f"method '{config.model.method}' is no two-stage one: what it keeps is not known")
    for norm in model.modules():
        if isinstance(norm, ProtoNorm):
            # It keeps as much as in training, and asks for no labels.
            norm.eval()
    settings, batch = model.config, config.training.batch_size
    short, long = settings.images.shorter_side[-1], settings.images.longer_side
    image = torch.empty(batch, 3, -(-short // 32) * 32, -(-long // 32) * 32, device="meta")
    rois = batch * settings.rois.batch_per_image
    aligned = torch.empty(rois, model.trunk.channels, *settings.rois.size, device="meta")
    heads = [getattr(model, name) for name in model.tops]
    # A method without tops keeps what it has instead beside the RPN.
    heads = heads or [part for part in model.heavy_parts().uncompiled if part is not model.rpn]
    kept, largest = 0, 0
    for part, x, recompute in (
        (model.trunk, image, config.training.checkpoint_trunk),
        *((head, aligned, config.training.checkpoint_heads) for head in heads),
    ):
        own, inner = kept_of(part, x, recompute=recompute)
        kept, largest = kept + own + x.nbytes, max(largest, inner)
    weights = sum(p.nbytes for p in model.parameters())
    # A weight, its gradient, and one or two moments.
    copies = 4 if config.training.optimizer in ("adam", "adamw") else 3
    return (kept + largest + copies * weights) / MB


def kept_of(part: nn.Module, x: Tensor, *, recompute: bool) -> tuple[int, int]:
    """Bytes that ``part`` keeps of ``x`` for the gradient, and the most that it computes again at once.

    Args:
        part: on the meta device.
        x: what it reads, on the meta device.
        recompute: whether what it ``run``s is computed again instead of kept.
    """
    if not recompute:
        return _saved(part, x), 0
    inputs, inner = [0], [0]

    def run(self: Recomputable, inside: nn.Module, given: Tensor) -> Tensor:
        inputs.append(given.nbytes)
        inner.append(_saved(inside, given))
        with torch.no_grad():
            return inside(given).requires_grad_()

    with mock.patch.object(Recomputable, "run", run):
        outside = _saved(part, x)
    return outside + sum(inputs), max(inner)


def _saved(part: nn.Module, x: Tensor) -> int:
    """Bytes that are kept for the gradient of ``part``, each storage once, weights and ``x`` apart."""
    known = {_storage(value) for value in (x, *part.parameters(), *part.buffers())}
    with _noting() as saved:
        part(x.requires_grad_())
    found = {_storage(value): value.untyped_storage().nbytes() for value in saved}
    return sum(size for storage, size in found.items() if storage not in known)


@contextmanager
def _noting() -> Iterator[list[Tensor]]:
    saved: list[Tensor] = []

    def note(value: Tensor) -> Any:
        # Held, so that no later storage is taken for it.
        saved.append(value)
        return value

    with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        yield saved


def _storage(value: Tensor) -> int:
    return int(value.untyped_storage()._cdata)
