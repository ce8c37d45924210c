"""Backbones by name, without weights where none are asked for."""

from __future__ import annotations

from typing import Any

from person_search.config import method_settings
from person_search.models.backbones.backbone import Backbone, Cut
from person_search.models.backbones.building import build_backbone


def named_backbone(name: str, *, cut: Cut, weights: str = "none", **settings: Any) -> Backbone:
    """The backbone ``name`` with settings of its own. Raises UsageError."""
    return build_backbone(method_settings("oim", backbone=name, weights=weights, **settings).backbone, cut=cut)
