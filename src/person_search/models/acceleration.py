"""Settings that change how fast the network runs and how much memory it takes, and its numbers by rounding at most."""

from __future__ import annotations

import torch
from torch import nn

from person_search.config import TrainingConfig
from person_search.errors import UsageError
from person_search.models.person_search_model import PersonSearchModel
from person_search.runtime.distributed import world_size


def accelerate(model: PersonSearchModel, config: TrainingConfig) -> None:
    """Prepare ``model`` as ``channels_last``, ``checkpoint_...``, ``compile`` and ``sync_batch_norm`` say.

    The model itself says which parts are heavy. One that is recomputed is not compiled, for compiled code would keep
    what recomputing is to forget. Raises UsageError where ``checkpoint_trunk`` or ``checkpoint_heads`` finds nothing
    to recompute.
    """
    if config.sync_batch_norm and world_size() > 1:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    heavy = model.heavy_parts()
    if config.channels_last:
        for part in (*heavy.per_image, *heavy.uncompiled, *heavy.per_region):
            part.to(memory_format=torch.channels_last)
    _recompute(heavy.per_image, config.checkpoint_trunk, model.config.method, "checkpoint_trunk")
    _recompute(heavy.per_region, config.checkpoint_heads, model.config.method, "checkpoint_heads")
    if config.compile:
        for part in heavy.per_image:
            if not getattr(part, "recompute", False):
                part.compile()
        for part in heavy.per_region:
            if not getattr(part, "recompute", False):
                part.compile(dynamic=True)


def _recompute(parts: list[nn.Module], wanted: bool, method: str, setting: str) -> None:
    recomputable = [part for part in parts if hasattr(part, "recompute")]
    if wanted and not recomputable:
        raise UsageError(f"method '{method}' has no part that can be recomputed; leave `{setting}` out")
    for part in recomputable:
        part.recompute = wanted  # type: ignore[assignment]
