"""Person search: find a person in whole scene images, detection and re-identification in one network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from person_search.errors import CheckpointError, DataError, PersonSearchError, UsageError
from person_search.registry import register_backbone, register_dataset, register_loss, register_method

if TYPE_CHECKING:
    from person_search.models.detections import Detections, Target
    from person_search.models.loading import load_model

__version__ = "0.2.0"

__all__ = [
    "CheckpointError",
    "DataError",
    "Detections",
    "PersonSearchError",
    "Target",
    "UsageError",
    "load_model",
    "register_backbone",
    "register_dataset",
    "register_loss",
    "register_method",
]

_LATE = {
    "Detections": "person_search.models.detections",
    "Target": "person_search.models.detections",
    "load_model": "person_search.models.loading",
}


def __getattr__(name: str) -> Any:
    """Import what needs torch only when it is asked for, so that the command line starts at once."""
    if name in _LATE:
        import importlib

        return getattr(importlib.import_module(_LATE[name]), name)
    raise AttributeError(f"module 'person_search' has no attribute '{name}'")
