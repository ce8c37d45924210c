"""What an evaluation leaves in its folder, beside the predictions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from person_search.errors import DataError
from person_search.evaluation.results import Results
from person_search.files import whole_file

EVALUATION = "evaluation"
"""Name of the folder, inside that of the run."""
PREDICTIONS, RESULTS, REFERENCES = "predictions.npz", "results.json", "references.json"


def write_references(folder: Path, rows: Sequence[tuple[str, Results]]) -> None:
    """Write the search metrics that the results are to be seen against. Raises DataError."""
    content = []
    for name, results in rows:
        search = asdict(results.search[0]) if results.search else {}
        content.append({"name": name, **{key: search.get(key) for key in ("map", "top1", "top5", "top10")}})
    with whole_file(folder / REFERENCES, "reference rows") as file:
        file.write(json.dumps(content, indent=1).encode())


def read_references(folder: Path) -> list[dict[str, Any]]:
    """The rows that ``write_references`` wrote; none where an evaluation had none. Raises DataError."""
    path = folder / REFERENCES
    if not path.exists():
        return []
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read '{path}': {error}; evaluate again with --references") from None
    return rows
