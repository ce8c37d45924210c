"""The settings that single datasets have beside those of all."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from person_search.config import DataConfig, Share


class CocoSettings(DataConfig):
    """COCO annotations."""

    person_id_key: str | None = Field(
        None,
        description="key of the person's id in an annotation or its attributes; None: person_id, else CVAT's track_id",
    )


class PrwSettings(DataConfig):
    """PRW (Zheng et al., CVPR 2017)."""

    queries: Literal["standard", "mini"] = Field(
        "standard", description="which query list; mini is PRW-mini (Munjal et al., 2019)"
    )


class MotSettings(DataConfig):
    """Sequences in the MOTChallenge layout."""

    mot_split: Literal["time", "sequence"] = Field(
        "time", description="train and test split within each sequence, or by sequence"
    )
    mot_train_share: Share = Field(
        0.5, description="first share of each sequence's length, or of the sequences, used for training"
    )
    mot_min_gap: Annotated[float, Field(ge=0)] = Field(
        5.0, description="seconds between a query and its gallery scenes, at least"
    )
