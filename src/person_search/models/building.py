"""From settings to a model."""

from __future__ import annotations

from person_search.config import MethodSettings
from person_search.models.person_search_model import PersonSearchModel
from person_search.models.two_stage import TwoStageModel
from person_search.registry import methods


def build_model(config: MethodSettings, num_identities: int, *, load_weights: bool = True) -> PersonSearchModel:
    """A new model of ``config.method`` for ``num_identities`` training identities.

    ``load_weights=False`` leaves the backbone at its random start, for when a checkpoint follows.
    Raises UsageError for an unknown method, CheckpointError when backbone weights cannot be had.
    """
    model: PersonSearchModel = methods.get(config.method)(config, num_identities, load_weights=load_weights)
    if isinstance(model, TwoStageModel) and model.config.gfn.enabled:
        model.add_gallery_filter()
    return model
