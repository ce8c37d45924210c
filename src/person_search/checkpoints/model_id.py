"""Which model it is: a name made from its weights and settings, the same wherever and however they are kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import torch
from torch import Tensor

from person_search.config import Config, MethodSettings
from person_search.config.sections import differences

LENGTH = 16
"""Hexadecimal digits of a model id: 64 bits, enough that no two models of a person's share one by chance."""


def model_id(config: MethodSettings, num_identities: int, state: Mapping[str, Tensor]) -> str:
    """Hexadecimal digest of a model's settings and of the names, types, shapes and values of its tensors.

    It depends neither on device, memory layout and order of ``state`` nor on what the training keeps beside the model.
    The backbone's ``weights`` do not count: where training began, perhaps a path, is no part of what came of it. A
    setting at its default does not either, so that a later version, which knows more of them, finds the same id.
    """
    settings = differences(Config(model=config), Config())
    settings.pop("weights", None)
    digest = hashlib.sha256(json.dumps([settings, num_identities], sort_keys=True).encode())
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"\0{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:LENGTH]
