"""What was evaluated, how and when: the record that lies beside the results of every evaluation."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from person_search import __version__
from person_search.config import Config, EvaluationConfig, MethodSettings, parse_config, with_settings
from person_search.config.sections import Section, flat
from person_search.data.fingerprint import fingerprint
from person_search.data.scene import Split
from person_search.errors import DataError

RECORD = "record.json"
RUNNING = ("seed", "precision", "device", "devices", "nodes", "channels_last", "compile")
"""Settings of the training section that act in test too."""
WITHOUT_EFFECT = {"data_root", "workers", "skip_unreadable", "eval_batch_size", *RUNNING} - {"seed", "precision"}
"""Settings that change how fast it goes, or that the record names elsewhere, and no number."""
IMPLIED_BY_SPLIT = {"dataset", "plugins", "validation_share"}
"""Settings that say nothing more in a name that has dataset and split."""
LONGEST_NAME = 60
"""Characters, of up to four bytes each: with what is put around it still a name for every file system."""


@dataclass(frozen=True)
class Record:
    """One evaluation.

    Attributes:
        checkpoint: the file, as an absolute path.
        model_id: of the model in it, as stored.
        dataset, data_root, fingerprint, split: what it was tested on; the root is an absolute path.
        settings: of all sections, those that act in test, as they were in effect; a tree, as in ``config.yaml``.
        changed: which of the settings differ from those of the checkpoint and from the defaults, in words.
        version: of this program.
        date: ISO 8601, UTC.
    """

    checkpoint: str
    model_id: str
    dataset: str
    data_root: str
    fingerprint: str
    split: str
    settings: dict[str, dict[str, Any]]
    changed: tuple[str, ...]
    version: str
    date: str

    @cached_property
    def identity(self) -> str:
        """Hexadecimal digest of all that the results depend on: two evaluations of one identity are the same."""
        settings = {
            f"{section}.{key}": value
            for section, values in self.settings.items()
            for key, value in values.items()
            if key not in WITHOUT_EFFECT and not (key == "validation_share" and self.split != "val")
        }
        what = [Path(self.checkpoint).name, self.model_id, self.dataset, self.data_root, self.fingerprint, self.split]
        return hashlib.sha256(json.dumps([what, settings], sort_keys=True).encode()).hexdigest()[:8]

    @property
    def name(self) -> str:
        """A folder name that tells a person which evaluation it is, and no other one has."""
        root = Path(self.data_root).name
        words = [Path(self.checkpoint).stem, self.dataset, *([root] if root != self.dataset else []), self.split]
        told = re.sub(r"[^\w.]+", "-", "-".join([*words, *self.changed]))[:LONGEST_NAME].strip("-.")
        return f"{told}-{self.identity}"

    @property
    def config(self) -> Config:
        """The settings in effect, over the defaults. Raises UsageError where this version does not know them."""
        config = parse_config(self.settings, f"the record of {self.name}")
        return config.model_copy(update={"data": config.data.model_copy(update={"data_root": Path(self.data_root)})})

    def __str__(self) -> str:
        changed = f" with {', '.join(self.changed)}" if self.changed else ""
        return (
            f"{self.checkpoint} (model id {self.model_id}) on {self.split} of {self.dataset} '{self.data_root}'"
            f"{changed}, {self.date}"
        )


_ADAPTER = TypeAdapter(Record)


def make_record(*, checkpoint: Path, model_id: str, stored: MethodSettings, split: Split, config: Config) -> Record:
    """The record of an evaluation that begins now.

    Args:
        checkpoint, model_id, stored: the file, the model in it, and the settings it has there.
        split: what is tested.
        config: all settings in effect, those of the model included.
    """
    tree = config.model_dump(mode="json")
    tree["training"] = {key: tree["training"][key] for key in RUNNING}
    return Record(
        checkpoint=str(checkpoint.resolve()),
        model_id=model_id,
        dataset=split.dataset,
        data_root=str(config.data.data_root.resolve()),
        fingerprint=fingerprint(split),
        split=split.name,
        settings=tree,
        changed=(
            *_differences(config.data, with_settings(Config(), dataset=config.data.dataset).data),
            *_differences(config.model, stored),
            *_differences(config.evaluation, EvaluationConfig()),
        ),
        version=__version__,
        date=datetime.now(UTC).isoformat(timespec="milliseconds"),
    )


def record_text(record: Record) -> bytes:
    """Content of ``record.json``."""
    return _ADAPTER.dump_json(record, indent=1)


def read_record(folder: Path) -> Record:
    """The record of the evaluation in ``folder``. Raises DataError for one that is missing or damaged."""
    path = folder / RECORD
    try:
        return _ADAPTER.validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read record '{path}': {error.strerror}; evaluate again to write it") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise DataError(f"record '{path}': {where}: {first['msg']}; evaluate again to another folder") from None


def _differences(ours: Section, others: Section) -> list[str]:
    told = []
    theirs = flat(others)
    for key, value in flat(ours).items():
        if key not in WITHOUT_EFFECT | IMPLIED_BY_SPLIT and value != theirs.get(key):
            told.append(key if value is True else f"{key} {_words(value)}")
    return [words.replace("_", "-") for words in told]


def _words(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " ".join(map(_words, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
