"""What a synthetic dataset is made of: every setting of ``person-search synth``, with units, ranges and defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from person_search.config import Share
from person_search.config.sections import UNKNOWN_KEY, Section
from person_search.errors import UsageError, nearest

Layout = Literal["coco", "mot", "cuhk-sysu", "prw"]

GENERATOR_VERSION = 1
"""Goes up whenever the same settings give other pictures, so that an older dataset is not taken for a current one."""

LEVELS = {"easy": 0.2, "normal": 0.5, "hard": 0.85}

MAX_PRW_CAMERAS = 9
"""The camera is a single digit in the frame names of the PRW layout."""


class SynthConfig(Section):
    """Settings of one synthetic dataset. The same settings give the same bytes, with any number of processes."""

    identities: Annotated[int, Field(ge=4, le=20000)] = Field(
        200, description="people with an identity, over train, val and test together"
    )
    scenes: Annotated[int, Field(ge=6, le=200000)] = Field(
        2000, description="pictures, over train, val and test together; at least as many as identities"
    )
    cameras: Annotated[int, Field(ge=1, le=64)] = Field(
        6, description="cameras, each with its own street, view and light"
    )
    width: Annotated[int, Field(ge=160, le=3840)] = Field(640, description="width of the pictures, pixels")
    height: Annotated[int, Field(ge=120, le=2160)] = Field(480, description="height of the pictures, pixels")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(0, description="seed of everything drawn")
    difficulty: Literal["easy", "normal", "hard"] | Share = Field(
        "normal",
        description="easy (0.2), normal (0.5), hard (0.85) or a number 0..1: how much occlusion, crowding, "
        "alike clothes, look-alike things, blur, and difference between cameras",
    )
    layout: Layout = Field("coco", description="folder layout to write: coco, mot, cuhk-sysu, prw")
    out: Path = Field(Path("data/synthetic"), description="folder to write")
    min_visibility: Share = Field(
        0.4, description="people of whose pixels less than this share can be seen become ignore regions"
    )
    train_share: Share = Field(0.7, description="share of identities and of scenes for training")
    val_share: Share = Field(
        0.1, description="share of identities and of scenes for validation; the rest is for testing"
    )

    def __init__(self, **settings: Any) -> None:
        """Validate ``settings``. Raises UsageError for an unknown name, a wrong type or a number out of range."""
        try:
            super().__init__(**settings)
        except ValidationError as error:
            raise UsageError(f"synth: {_describe(error)}") from None

    @model_validator(mode="after")
    def _fits(self) -> SynthConfig:
        if self.scenes < self.identities:
            raise ValueError(f"{self.identities} identities need at least as many scenes, found {self.scenes}")
        if self.train_share <= 0 or self.train_share + self.val_share >= 1:
            raise ValueError(
                "train_share must be above 0 and train_share + val_share below 1, "
                f"found {self.train_share} and {self.val_share}"
            )
        if self.layout == "prw" and self.cameras > MAX_PRW_CAMERAS:
            raise ValueError(f"layout prw holds at most {MAX_PRW_CAMERAS} cameras, found {self.cameras}")
        return self

    @property
    def level(self) -> float:
        """``difficulty`` as a number 0..1."""
        return LEVELS[self.difficulty] if isinstance(self.difficulty, str) else float(self.difficulty)

    def fingerprint(self) -> dict[str, Any]:
        """What the written bytes depend on: every setting but the folder, and the generator's version."""
        return {
            "generator": GENERATOR_VERSION,
            **self.model_dump(mode="json", exclude={"out", "difficulty"}),
            "level": self.level,
        }


def _describe(error: ValidationError) -> str:
    """The first problem in one line, naming the setting and what was found."""
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] == UNKNOWN_KEY:
        return f"unknown setting '{name}'.{nearest(name, SynthConfig.model_fields)}"
    message = first["msg"].removeprefix("Value error, ")
    if name == "difficulty":
        message = "expected easy, normal, hard or a number from 0 to 1"
    return f"{name}: {message}, found {first['input']!r}" if name else message
