"""A model of any method that is small enough for a test."""

from __future__ import annotations

import torch

from person_search.config import method_settings
from person_search.models.building import build_model
from person_search.models.two_stage import TwoStageModel

METHODS = ["baseline", "oim", "nae", "seqnet", "nae4ps", "nae-plus", "seqnext", "oimnet++", "oimnet+++", "coat"]
"""The methods that tests of what all have in common go through."""


def small(method: str = "baseline", **settings: object) -> TwoStageModel:
    """One of 5 identities for pictures of 64 x 96 pixels, its weights drawn from seed 0."""
    torch.manual_seed(0)
    defaults: dict[str, object] = {
        "backbone": "resnet18",
        "width": 0.125,
        "weights": "none",
        "shorter_side": (64,),
        "longer_side": 96,
        "anchor_sizes": (24.0,),
        "rpn_post_nms_train": 50,
    }
    model = build_model(method_settings(method, **(defaults | settings)), num_identities=5)
    assert isinstance(model, TwoStageModel)
    return model
