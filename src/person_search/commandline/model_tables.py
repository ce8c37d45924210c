"""How the models that have names are shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from rich.table import Table

from person_search.checkpoints.model_cache import check, read_note, state
from person_search.checkpoints.named_models import REMARK, NamedModel, Published
from person_search.errors import CheckpointError, DownloadError
from person_search.runtime.terminal import console, messages

UNKNOWN = "unknown"


def models_table(models: Sequence[NamedModel]) -> Table:
    """One row for each model."""
    table = Table(title="released models", box=None, padding=(0, 1, 0, 0))
    table.add_column("name", no_wrap=True)
    table.add_column("method", no_wrap=True)
    table.add_column("trained\non", no_wrap=True)
    table.add_column("published\nmAP/top-1", justify="right", no_wrap=True)
    table.add_column("code's\nlicence", overflow="fold", min_width=8)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("from", overflow="fold", min_width=6)
    table.add_column("here", no_wrap=True)
    for model in models:
        facts = model.facts
        table.add_row(
            model.name, facts.method, facts.training_set, _results(facts.published, "/"),
            facts.code_licence or UNKNOWN, _size(model), _server(model), state(model),
        )  # fmt: skip
    return table


def model_table(model: NamedModel) -> Table:
    """All that is known of one model, a line each."""
    facts, note = model.facts, read_note(model.file)
    rows = {
        "method": facts.method,
        "trained on": facts.training_set,
        "released by": facts.project or UNKNOWN,
        "mAP / top-1 as published": _results(facts.published),
        "the same with CBGM": _results(facts.published_cbgm) if facts.published_cbgm else None,
        "licence of the code": facts.code_licence or "not stated",
        "address": model.page,
        "size": _size(model),
        "SHA-256": facts.sha256 or (f"{note.sha256} (noted, not published)" if note else UNKNOWN),
        "identities": " or ".join(map(str, facts.identities)) or None,
        "listed in": str(model.listed_in) if model.listed_in else "this program",
        "in the cache": state(model),
        "its place there": f"{model.file}{' (an archive of several models)' if facts.archive else ''}",
    }
    table = Table(title=model.name, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for what, value in rows.items():
        if value is not None:
            table.add_row(what, value)
    return table


def models_to_dict(models: Sequence[NamedModel]) -> dict[str, Any]:
    """The list as JSON has it: what is not known is null."""
    return {
        "remark": REMARK,
        "models": [
            {
                "name": model.name,
                **model.facts.model_dump(),
                "page": model.page,
                "listed_in": str(model.listed_in) if model.listed_in else None,
                "file": str(model.file),
                "cached": state(model),
            }
            for model in models
        ],
    }


def check_files(models: Sequence[NamedModel]) -> None:
    """Compare the files in the cache with their digests, a line for each. Raises CheckpointError where one differs."""
    # An archive is the file of several models.
    files = {model.file: model for model in models if model.file.exists()}
    wrong = 0
    for file, model in files.items():
        try:
            console.print(f"{file.name}: {check(model)}", soft_wrap=True)
        except (DownloadError, OSError) as error:
            wrong += 1
            messages.print(f"{file.name}: {error}", soft_wrap=True)
    if not files:
        console.print("none of these models is in the cache")
    if wrong:
        raise CheckpointError(f"{wrong} of {len(files)} files are not as expected; remove them to fetch them again")


def _results(published: Published | None, between: str = " / ") -> str:
    return f"{published.mAP:.1f}{between}{published.top1:.1f}" if published else UNKNOWN


def _size(model: NamedModel) -> str:
    size = model.facts.size
    if size is None and state(model) == "yes":
        size = model.file.stat().st_size
    return f"{size / 1e6:.{0 if size > 1e7 else 1}f} MB" if size is not None else UNKNOWN


def _server(model: NamedModel) -> str:
    host = urlsplit(model.page).netloc
    return {"drive.google.com": "Drive", "github.com": "GitHub"}.get(host, host)
