"""The folder of an evaluation: predictions, results, reference rows and record, all of them or none."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from person_search.errors import DataError, UsageError
from person_search.evaluation.predictions import Predictions
from person_search.evaluation.record import RECORD, Record, read_record, record_text
from person_search.evaluation.results import Results, write_results
from person_search.files import replacing_folder

EVALUATION = "evaluation"
"""Folder inside that of the run; every evaluation has one of its own there."""
PREDICTIONS, RESULTS, REFERENCES = "predictions.npz", "results.json", "references.json"
OURS = {PREDICTIONS, RESULTS, REFERENCES, RECORD}


@dataclass(frozen=True)
class Evaluation:
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
            raise UsageError(f"'{folder}' is a file, and an evaluation is a folder; choose another --out")
        found = {entry.name for entry in target.iterdir()}
    except OSError as error:
        raise _unwritable(folder, error) from None
    if not found:
        return
    foreign = sorted(found - OURS)
    if RECORD not in found or foreign:
        what = (
            f"'{foreign[0]}', which no evaluation wrote"
            if foreign
            else "files without the record that tells what they are of"
        )
        raise UsageError(f"'{folder}' holds {what}; nothing there is replaced, choose another --out")
    other = read_record(target)
    if other.identity != record.identity:
        raise UsageError(f"'{folder}' holds another evaluation, {other}; it is not replaced, choose another --out")


def write_evaluation(
    folder: Path, record: Record, predictions: Predictions, results: Results, references: Sequence[tuple[str, Results]]
) -> None:
    """Write the whole folder, or leave what is there. Raises as ``refuse_others`` does."""
    refuse_others(folder, record)
    try:
        with replacing_folder(folder.resolve()) as new:
            predictions.save(new / PREDICTIONS)
            write_results(results, new / RESULTS)
            if references:
                (new / REFERENCES).write_text(json.dumps(_search_rows(references), indent=1), encoding="utf-8")
            (new / RECORD).write_bytes(record_text(record))
    except OSError as error:
        raise _unwritable(folder, error) from None


def read_references(folder: Path) -> list[dict[str, Any]]:
    """The reference rows of an evaluation: ``name``, ``map``, ``top1``, ``top5``, ``top10``; none without them.

    Raises DataError.
    """
    path = folder / REFERENCES
    if not path.exists():
        return []
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read '{path}': {error}; evaluate again with --references") from None
    return rows


def evaluations_of(run_dir: Path) -> tuple[list[Evaluation], list[str]]:
    """The evaluations below ``run_dir``, newest first, and what is wrong with those that cannot be read."""
    found, problems = [], []
    for folder in sorted((run_dir / EVALUATION).glob("*/")):
        if folder.name.startswith(".") or not (folder / RECORD).exists():
            continue
        try:
            found.append(Evaluation(folder, read_record(folder)))
        except DataError as error:
            problems.append(str(error))
    return sorted(found, key=lambda each: each.record.date, reverse=True), problems


def choose_evaluation(run_dir: Path, wanted: Path | None) -> tuple[Evaluation, list[str]]:
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
    said = [f"the newest of {len(evaluations)} evaluations is reported; choose with --evaluation"] if others else []
    return newest, [*problems, *said, *(f"not reported: {each.folder.name}" for each in others)]


def _wanted(run_dir: Path, wanted: Path, evaluations: Sequence[Evaluation]) -> Evaluation:
    named = next((each for each in evaluations if each.folder.name == str(wanted)), None)
    if named is not None:
        return named
    if not (wanted / RECORD).is_file():
        names = ", ".join(each.folder.name for each in evaluations) or "none"
        raise UsageError(f"--evaluation {wanted}: no such evaluation; below '{run_dir}' are: {names}")
    record = read_record(wanted)
    own = {run_dir.resolve(), *(Path(each.record.checkpoint).parent for each in evaluations)}
    if Path(record.checkpoint).parent not in own:
        raise UsageError(
            f"--evaluation {wanted} is of {record.checkpoint}, which is no checkpoint of '{run_dir}'; "
            f"give --run-dir {Path(record.checkpoint).parent}"
        )
    return Evaluation(wanted, record)


def _search_rows(references: Sequence[tuple[str, Results]]) -> list[dict[str, Any]]:
    rows = []
    for name, results in references:
        search = asdict(results.search[0]) if results.search else {}
        rows.append({"name": name, **{key: search.get(key) for key in ("map", "top1", "top5", "top10")}})
    return rows


def _unwritable(folder: Path, error: OSError) -> DataError:
    return DataError(
        f"cannot write evaluation '{folder}': {error.strerror or error}; free space or choose another --out"
    )
