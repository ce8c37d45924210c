"""Person search: find a person in whole scene images, detection and re-identification in one network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from person_search.errors import CheckpointError, DataError, PersonSearchError, UsageError
from person_search.registry import register_backbone, register_dataset, register_loss, register_method

if TYPE_CHECKING:
    from person_search.checkpoints.loading import load_model
    from person_search.config import Config, load_config, with_settings
    from person_search.data.catalogue import open_dataset
    from person_search.data.target import Target
    from person_search.evaluation.evaluate import evaluate, load_for_test, predict_split
    from person_search.evaluation.predict import predict
    from person_search.evaluation.results import score
    from person_search.evaluation.task import protocols_of
    from person_search.models.detections import Detections
    from person_search.models.streaming import detections_of
    from person_search.training.trainer import train

__version__ = "0.3.0"

__all__ = [
    "CheckpointError",
    "Config",
    "DataError",
    "Detections",
    "PersonSearchError",
    "Target",
    "UsageError",
    "detections_of",
    "evaluate",
    "load_config",
    "load_for_test",
    "load_model",
    "open_dataset",
    "predict",
    "predict_split",
    "protocols_of",
    "register_backbone",
    "register_dataset",
    "register_loss",
    "register_method",
    "score",
    "train",
    "with_settings",
]

_LATE = {
    "Config": "person_search.config",
    "Detections": "person_search.models.detections",
    "Target": "person_search.data.target",
    "detections_of": "person_search.models.streaming",
    "evaluate": "person_search.evaluation.evaluate",
    "load_config": "person_search.config",
    "load_for_test": "person_search.evaluation.evaluate",
    "load_model": "person_search.checkpoints.loading",
    "open_dataset": "person_search.data.catalogue",
    "predict": "person_search.evaluation.predict",
    "predict_split": "person_search.evaluation.evaluate",
    "protocols_of": "person_search.evaluation.task",
    "score": "person_search.evaluation.results",
    "train": "person_search.training.trainer",
    "with_settings": "person_search.config",
}


def __dir__() -> list[str]:
    """What there is to import, so that completion finds it too."""
    return sorted({*__all__, "__version__"})


def __getattr__(name: str) -> Any:
    """Import what needs torch only when it is asked for, so that the command line starts at once."""
    if name in _LATE:
        import importlib

        return getattr(importlib.import_module(_LATE[name]), name)
    raise AttributeError(f"module 'person_search' has no attribute '{name}'")
