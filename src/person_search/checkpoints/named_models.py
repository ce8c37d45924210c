"""The models of the field by name: which there are, what is known of each, and where its file comes from.

The list is data, ``models.yaml`` beside this module. A list of the user's own adds to it, or takes the place of what it
says of a name. Nothing is fetched here; see ``model_cache``.
"""

from __future__ import annotations

import functools
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator

from person_search.config import read_yaml
from person_search.config.reading import describe
from person_search.config.sections import Section
from person_search.errors import CheckpointError, UsageError, nearest
from person_search.runtime import google_drive
from person_search.runtime.files import cache_folder

log = logging.getLogger(__name__)

PACKAGED = Path(__file__).with_name("models.yaml")
USERS_LIST = "PERSON_SEARCH_MODELS"
"""Environment variable: a file that adds to the lists."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+-]*")
"""What a name looks like. Anything with a separator of folders or a dot, and so with a suffix, is a path."""
REMARK = (
    "mAP and top-1, in %, are those that the authors published; they were not measured here. A licence of code is not "
    "always one of weights, and the data sets are for research only: ask the authors before any other use."
)
"""Stands beside every list of models."""

SAME_TENSORS = {"oimnet+++": "oimnet++"}
"""Methods that leave the checkpoints of another one."""

PositiveBytes = Annotated[int, Field(gt=0)]
Percent = Annotated[float, Field(ge=0, le=100)]


class Published(Section):
    """Search results that the authors published, in %."""

    mAP: Percent = Field(description="mean average precision")
    top1: Percent = Field(description="top-1")


class ModelFacts(Section):
    """What a list says of one model."""

    method: str = Field(description="as --method knows it")
    training_set: str = Field(description="the data that it was trained on")
    url: str | None = Field(None, description="address of the file, https or http")
    drive: str | None = Field(None, description="id of the file on Google Drive, instead of url")
    project: str = Field("", description="whose files these are")
    published: Published | None = Field(None, description="results of the authors; None: unknown")
    published_cbgm: Published | None = Field(None, description="the same with context bipartite graph matching")
    code_licence: str | None = Field(None, description="licence of the authors' code; None: not stated")
    size: PositiveBytes | None = Field(None, description="bytes of the file; None: unknown")
    sha256: str | None = Field(None, description="SHA-256 of the file, hexadecimal; None: unknown")
    suffix: str = Field(".pth", description="what the file's name in the cache ends with")
    archive: str | None = Field(None, description="name in the cache of an archive that several models share")
    identities: tuple[int, ...] = Field(
        (), description="how many identities the model may have, which tells it from others in an archive"
    )

    @field_validator("drive")
    @classmethod
    def _is_an_id(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[\w-]+", value):
            raise ValueError("expected the id of a file on Google Drive, letters, digits, - and _")
        return value

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, value: str | None) -> str | None:
        if value is not None and (urlsplit(value).scheme not in ("https", "http") or not urlsplit(value).hostname):
            raise ValueError("expected an address that begins with https:// or http://")
        return value

    @field_validator("sha256")
    @classmethod
    def _is_a_digest(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", value):
            raise ValueError("expected 64 hexadecimal digits")
        return value and value.lower()

    @field_validator("suffix")
    @classmethod
    def _is_a_suffix(cls, value: str) -> str:
        if not re.fullmatch(r"(\.[A-Za-z0-9]+)+", value) or value in (".json", ".part", ".lock", ".refused"):
            raise ValueError("expected a suffix such as .pth")
        return value

    @field_validator("archive")
    @classmethod
    def _is_a_name(cls, value: str | None) -> str | None:
        if value is not None and not NAME.fullmatch(value):
            raise ValueError("expected a name of letters, digits, - and _")
        return value

    @model_validator(mode="after")
    def _has_one_place(self) -> ModelFacts:
        if (self.url is None) == (self.drive is None):
            raise ValueError("expected either url or drive")
        return self


@dataclass(frozen=True)
class NamedModel:
    """A model of a list: its name, what is known of it, and the file of the list, None for this program's own."""

    name: str
    facts: ModelFacts
    listed_in: Path | None = None

    @property
    def address(self) -> str:
        """Where the file is fetched from."""
        return self.facts.url or google_drive.DOWNLOAD.format(self.facts.drive)

    @property
    def page(self) -> str:
        """Where a person fetches the file by hand."""
        return self.facts.url or google_drive.PAGE.format(self.facts.drive)

    def is_model(self, method: str, identities: int) -> bool:
        """Whether a checkpoint of this method and number of identities can be this model, maybe in an archive."""
        same = SAME_TENSORS.get(method, method) == SAME_TENSORS.get(self.facts.method, self.facts.method)
        return same and identities in (self.facts.identities or (identities,))

    @property
    def file(self) -> Path:
        """Where the file lies in the cache, whether it is there or not: the archive, for a model in one.

        The name is made of the model's name alone, whatever a server calls the file. Raises CheckpointError where there
        is no place for a cache.
        """
        return models_folder() / f"{self.facts.archive or self.name}{self.facts.suffix}"


def models_folder() -> Path:
    """The folder of fetched models. Raises CheckpointError where the user has no home folder."""
    return _home() / "models"


def _home() -> Path:
    try:
        return cache_folder()
    except RuntimeError:
        raise CheckpointError("there is no home folder; set PERSON_SEARCH_HOME to a folder for models") from None


def known_models(asked: str | None = None) -> dict[str, NamedModel]:
    """All models by name: this program's list, then ``models.yaml`` in the cache, then that of PERSON_SEARCH_MODELS.

    A later list wins; that it does is said once, where one name is ``asked`` for, of that one alone. Raises UsageError
    that names the file and what is wrong with it.
    """
    models = _read_list(PACKAGED, None)
    users = [_home() / "models.yaml"]
    users = [path for path in users if path.exists()]
    if given := os.environ.get(USERS_LIST):
        users.append(Path(given).expanduser())
    for path in users:
        for name, model in _read_list(path, path).items():
            if name in models and asked in (None, name):
                _say_replaced(name, path, models[name].listed_in)
            models[name] = model
    return models


@functools.cache
def _say_replaced(name: str, by: Path, before: Path | None) -> None:
    log.warning("the model '%s' is that of '%s', not that of %s", name, by, f"'{before}'" if before else "this program")


def _read_list(path: Path, listed_in: Path | None) -> dict[str, NamedModel]:
    what = f"list of models '{path}'"
    tree: Any = read_yaml(path, what)
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UsageError(f"{what}: expected names of models with their facts, found {type(tree).__name__}")
    models = {}
    for name, facts in tree.items():
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise UsageError(f"{what}: '{name}' is no name of a model; use letters, digits, - and _")
        try:
            models[name] = NamedModel(name, ModelFacts.model_validate(facts), listed_in)
        except ValidationError as error:
            raise UsageError(f"{what}: {name}: {describe(error)}") from None
    return models


def is_name(text: str | Path) -> bool:
    """Whether ``text`` is the name of a model and no path: it looks like one, and there is no such file or folder."""
    return NAME.fullmatch(str(text)) is not None and not Path(text).exists()


def named_model(name: str) -> NamedModel:
    """The model ``name``. Raises CheckpointError with the nearest name for one that no list has, and UsageError."""
    models = known_models(name)
    if name not in models:
        hint = nearest(name, models) or " person-search models lists the names."
        raise CheckpointError(f"there is no file, folder or model '{name}'.{hint}")
    return models[name]
