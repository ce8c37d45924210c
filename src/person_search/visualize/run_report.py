"""The report page of a run folder, from what evaluation left in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from person_search.config import load_config
from person_search.data.catalogue import open_dataset, open_split
from person_search.data.decode import read_image
from person_search.data.scene import Boxes, Split
from person_search.errors import UsageError
from person_search.evaluation.files import EVALUATION, PREDICTIONS, RESULTS, read_references
from person_search.evaluation.predictions import Predictions, align
from person_search.evaluation.results import read_results
from person_search.models.loading import load_model
from person_search.training.checkpoints import BEST, LAST
from person_search.visualize.report import write_report

PROPOSAL_SCENES = 4


def report_run(run_dir: Path, out: Path, *, max_queries: int) -> Path:
    """Write the report of ``run_dir`` into ``out`` and return its page.

    Raises UsageError when the run was not evaluated, DataError when something it needs cannot be read.
    """
    folder = run_dir / EVALUATION
    if not (folder / RESULTS).is_file():
        raise UsageError(
            f"'{run_dir}' holds no {EVALUATION}/{RESULTS}; run `person-search evaluate --checkpoint {run_dir}` first"
        )
    config = load_config(folder / "config.yaml")
    results = read_results(folder / RESULTS)
    dataset = open_dataset(config.data.dataset, config.data.data_root, config.data)
    split = open_split(dataset, "val" if results.split == "val" else "test")
    predictions = align(Predictions.load(folder / PREDICTIONS), split)
    return write_report(
        run_dir,
        out,
        split=split,
        results=results.to_dict(),
        predictions=detections_by_scene(predictions),
        proposals=proposals_by_scene(run_dir, split),
        reference_rows=read_references(folder),
        read_image=lambda path: read_image(path).permute(1, 2, 0).numpy(),
        max_queries=max_queries,
    )


def detections_by_scene(predictions: Predictions) -> dict[str, tuple[Boxes, Boxes]]:
    """Scene name -> (n, 4) boxes and (n,) scores."""
    offsets = predictions.offsets
    return {
        str(name): (predictions.boxes[start:end], predictions.scores[start:end])
        for name, start, end in zip(predictions.scene_names, offsets[:-1], offsets[1:], strict=True)
    }


def proposals_by_scene(run_dir: Path, split: Split) -> dict[str, tuple[Boxes, Boxes]] | None:
    """Proposals of the run's model for a few scenes spread over the split: (n, 4) boxes and (n,) logits.

    None where the folder holds no run's checkpoint: that of somebody else was evaluated in it.
    """
    if not any((run_dir / name).exists() for name in (BEST, LAST)):
        return None
    model = load_model(run_dir)
    chosen = np.unique(np.linspace(0, len(split.scenes) - 1, PROPOSAL_SCENES).round().astype(int))
    found = {}
    for scene in (split.scenes[number] for number in chosen):
        ((boxes, logits),) = model.propose([read_image(split.image_root / scene.name)])
        found[scene.name] = (boxes.numpy(), logits.numpy())
    return found
