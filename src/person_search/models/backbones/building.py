"""From settings to a backbone."""

from __future__ import annotations

from person_search.models.backbones.backbone import Backbone, Cut
from person_search.models.settings import BackboneSettings
from person_search.registry import backbones


def build_backbone(settings: BackboneSettings, *, cut: Cut, load_weights: bool = True) -> Backbone:
    """The backbone that ``settings`` name; without ``load_weights`` at its random start.

    Raises UsageError for an unknown name, CheckpointError when weights cannot be had or are of another network.
    """
    family: type[Backbone] = backbones.get(settings.name)
    return family(settings if load_weights else settings.model_copy(update={"weights": "none"}), cut=cut)
