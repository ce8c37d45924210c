"""Settings that change how fast the network runs and how much memory it takes, and its numbers by rounding at most."""

from __future__ import annotations

import torch
from torch import nn

from person_search.config import TrainingConfig
from person_search.models.distributed import processes
from person_search.models.person_search_model import PersonSearchModel


def accelerate(model: PersonSearchModel, config: TrainingConfig) -> None:
    """Prepare ``model`` as ``channels_last``, ``checkpoint_trunk``, ``compile`` and ``sync_batch_norm`` say.

    Trunk and top are compiled, each by itself: between them are choices of boxes, whose numbers differ from image to
    image. A trunk that is recomputed is left as it is, for compiled code would keep what recomputing is to forget.
    """
    if config.sync_batch_norm and processes() > 1:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if config.channels_last:
        for part in (model.trunk, model.rpn, model.top):
            part.to(memory_format=torch.channels_last)
    model.trunk.recompute = config.checkpoint_trunk
    if config.compile:
        if not config.checkpoint_trunk:
            model.trunk.compile()
        model.top.compile(dynamic=True)
