"""The folder of an evaluation: predictions, results, reference rows and record, all of them or none."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from person_search.errors import DataError, UsageError
from person_search.evaluation.predictions import Predictions
from person_search.evaluation.record import RECORD, Record, read_record, record_text
from person_search.evaluation.results import Results, results_text
from person_search.runtime.files import atomic_folder, atomic_write, atomic_write_text

EVALUATION = "evaluation"
"""Folder inside that of the run; every evaluation has one of its own there."""
PREDICTIONS, RESULTS, REFERENCES = "predictions.npz", "results.json", "references.json"
EVALUATION_FILES = {PREDICTIONS, RESULTS, REFERENCES, RECORD}
_ROWS = TypeAdapter(list[dict[str, str | float | None]])


@dataclass(frozen=True)
class SavedEvaluation:
    """An evaluation on disk."""

    folder: Path
    record: Record


def refuse_others(folder: Path, record: Record) -> None:
    """Make sure, before hours of work, that ``folder`` can be written and holds nothing that would be lost.

    An earlier evaluation of the same identity may be there. Raises UsageError otherwise, DataError where nothing can
    be written.
    """
    target = folder.resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=target.parent).close()
        if not target.exists():
            return
        if not target.is_dir():
            raise UsageError(f"'{folder}' is a file, and an evaluation is a folder; choose another `out`")
        found = {entry.name for entry in target.iterdir()}
    except OSError as error:
        raise _unwritable(folder, error) from None
    if not found:
        return
    foreign = sorted(found - EVALUATION_FILES)
    if RECORD not in found or foreign:
        what = (
            f"'{foreign[0]}', which no evaluation wrote"
            if foreign
            else "files without the record that tells what they are of"
        )
        raise UsageError(f"'{folder}' holds {what}; nothing there is replaced, choose another `out`")
    other = read_record(target)
    if other.identity != record.identity:
        raise UsageError(f"'{folder}' holds another evaluation, {other}; it is not replaced, choose another `out`")


def write_evaluation(
    folder: Path, record: Record, predictions: Predictions, results: Results, references: Sequence[tuple[str, Results]]
) -> list[str]:
    """Write the whole folder, or leave what is there. Raises as ``refuse_others`` does.

    Reference rows that an earlier evaluation of the same identity had, and this one has not, are kept; returns what is
    to be said of them.
    """
    refuse_others(folder, record)
    target = folder.resolve()
    rows = _search_rows(references)
    kept, said = _rows_kept(target, rows)
    try:
        with atomic_folder(target) as new:
            with atomic_write(new / PREDICTIONS) as file:
                predictions.write(file)
            with atomic_write(new / RESULTS) as file:
                file.write(results_text(results))
            if rows or kept:
                atomic_write_text(new / REFERENCES, json.dumps([*kept, *rows], indent=1))
            with atomic_write(new / RECORD) as file:
                file.write(record_text(record))
    except OSError as error:
        raise _unwritable(folder, error) from None
    return said


def read_references(folder: Path) -> list[dict[str, Any]]:
    """The reference rows of an evaluation: ``name``, ``map``, ``top1``, ``top5``, ``top10``; none without them.

    Raises DataError.
    """
    path = folder / REFERENCES
    if not path.exists():
        return []
    try:
        return _ROWS.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else error.errors()[0]["msg"]
        raise DataError(f"cannot read '{path}': {reason}; evaluate again with `references`") from None


def evaluations_of(run_dir: Path) -> tuple[list[SavedEvaluation], list[str]]:
    """The evaluations below ``run_dir``, newest first, and what is wrong with those that cannot be read."""
    found, problems = [], []
    for folder in sorted((run_dir / EVALUATION).glob("*/")):
        if folder.name.startswith(".") or not (folder / RECORD).exists():
            continue
        try:
            found.append(SavedEvaluation(folder, read_record(folder)))
        except DataError as error:
            problems.append(str(error))
    return sorted(found, key=lambda each: each.record.date, reverse=True), problems


def choose_evaluation(run_dir: Path, wanted: Path | None) -> tuple[SavedEvaluation, list[str]]:
    """The evaluation of a run to report, and what is to be said of the choice.

    ``wanted`` is the name of a folder below the run, or the path of any evaluation of a checkpoint of this run; None
    takes the newest. Raises UsageError where there is no such evaluation.
    """
    evaluations, problems = evaluations_of(run_dir)
    if wanted is not None:
        return _wanted(run_dir, wanted, evaluations), problems
    if not evaluations:
        older = (run_dir / EVALUATION / RESULTS).exists()
        why = f"; {EVALUATION}/{RESULTS} does not say which checkpoint and data it is of" if older else ""
        raise UsageError(
            f"'{run_dir}' holds no evaluation{why}; run `person-search evaluate --checkpoint {run_dir}` first"
        )
    newest, *others = evaluations
    said = [f"the newest of {len(evaluations)} evaluations is reported; choose with `evaluation`"] if others else []
    return newest, [*problems, *said, *(f"not reported: {each.folder.name}" for each in others)]


def _wanted(run_dir: Path, wanted: Path, evaluations: Sequence[SavedEvaluation]) -> SavedEvaluation:
    named = next((each for each in evaluations if each.folder.name == str(wanted)), None)
    if named is not None:
        return named
    if not (wanted / RECORD).is_file():
        names = ", ".join(each.folder.name for each in evaluations) or "none"
        raise UsageError(f"`evaluation` {wanted}: no such evaluation; below '{run_dir}' are: {names}")
    record = read_record(wanted)
    own = {run_dir.resolve(), *(Path(each.record.checkpoint).parent for each in evaluations)}
    if Path(record.checkpoint).parent not in own:
        raise UsageError(
            f"`evaluation` {wanted} is of {record.checkpoint}, which is no checkpoint of '{run_dir}'; "
            f"give `run_dir` {Path(record.checkpoint).parent}"
        )
    return SavedEvaluation(wanted, record)


def _rows_kept(target: Path, made: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Reference rows of the evaluation at ``target`` that are not ``made`` anew, and what is to be said of them."""
    names = {row["name"] for row in made}
    try:
        kept = [row for row in read_references(target) if row.get("name") not in names]
    except DataError as error:
        # Hours of work are not given up for rows that can be made again.
        return [], [f"the reference rows of the evaluation before are dropped: {error}"]
    told = ", ".join(f"'{row.get('name')}'" for row in kept)
    return kept, [f"kept from the evaluation before, of the same model, data and settings: {told}"] if kept else []


def _search_rows(references: Sequence[tuple[str, Results]]) -> list[dict[str, Any]]:
    rows = []
    for name, results in references:
        search = asdict(results.search[0]) if results.search else {}
        rows.append({"name": name, **{key: search.get(key) for key in ("map", "top1", "top5", "top10")}})
    return rows


def _unwritable(folder: Path, error: OSError) -> DataError:
    return DataError(
        f"cannot write evaluation '{folder}': {error.strerror or error}; free space or choose another `out`"
    )
