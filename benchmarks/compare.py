"""Methods and their parts compared: the same synthetic scenes, the same number of steps, one table.

    python benchmarks/compare.py                         # two CPU cores, under 3 minutes a training
    python benchmarks/compare.py --preset gpu --seeds 3  # ResNet-50 at 600 x 1000

Each training is a process and a run folder of its own. What is finished is kept: started again, it goes on where it
was stopped; changed settings make new folders. The numbers go to docs/results.json, the section made from them into
docs/results.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comparison_page import CHANCE, VARIANTS, Entry, comparison, put_section

from person_search.commandline.cli import run
from person_search.config import Config, load_config, with_settings
from person_search.config.sections import flat
from person_search.data.catalogue import open_dataset, open_split
from person_search.errors import PersonSearchError, UsageError
from person_search.evaluation.chance import random_ranking
from person_search.evaluation.results import Results, score
from person_search.evaluation.task import protocols_of
from person_search.runtime.files import atomic_write_text
from person_search.runtime.terminal import console
from person_search.synth.generate import generate
from person_search.synth.settings import SynthConfig

ROOT = Path(__file__).resolve().parents[1]
RESULT = "comparison.json"


@dataclass(frozen=True)
class Preset:
    """One budget: the scenes drawn, and the settings that all trainings share, over those of the demo."""

    scenes: dict[str, Any]
    settings: dict[str, Any]


PRESETS = {
    "cpu": Preset(
        scenes={"identities": 300, "scenes": 840, "cameras": 4, "train_share": 0.6, "val_share": 0.0},
        settings={
            "width": 0.375,
            "shorter_side": 192,
            "longer_side": 256,
            "anchor_sizes": (29, 45, 67),
            "rpn_post_nms_train": 200,
            "roi_batch_per_image": 24,
            "max_epochs": 3,
        },
    ),
    "gpu": Preset(
        scenes={"identities": 400, "scenes": 1200, "cameras": 6, "width": 1000, "height": 600},
        settings={
            "backbone": "resnet50",
            "width": 1.0,
            "shorter_side": 600,
            "longer_side": 1000,
            "anchor_sizes": (56, 88, 131),
            "rpn_post_nms_train": 2000,
            "rpn_post_nms_test": 300,
            "roi_batch_per_image": 64,
            "pk_per_person": 4,
            "batch_size": 5,
            "max_epochs": 7,
            "warmup_epochs": 1,
            "lr": 3e-4,
            "reid_lr": 3.5e-4,
            "workers": 8,
            "device": "cuda",
        },
    ),
    "tiny": Preset(
        scenes={"identities": 10, "scenes": 24, "cameras": 2, "width": 160, "height": 120},
        settings={
            "width": 0.125,
            "shorter_side": 96,
            "longer_side": 128,
            "anchor_sizes": (14, 22),
            "rpn_post_nms_train": 30,
            "batch_size": 4,
            "max_epochs": 1,
            "workers": 0,
            "device": "cpu",
        },
    ),
}


def config_of(preset: str, variant: str, seed: int, folder: Path) -> Config:
    """The settings of one training: the demo's, with OIM as published. Validation is off: nothing is chosen by it."""
    base = load_config(ROOT / "recipes" / "demo.yaml")
    shared = {"data_root": folder / "scenes", "reid_loss": "oim", "validate_every": 0, "seed": seed}
    shared |= PRESETS[preset].settings
    # In two steps: what the baseline alone has stays behind where the variant is another method.
    config = with_settings(with_settings(base, **shared), **VARIANTS[variant].settings)
    if config.model.rois.size == (14, 14):  # twice as many positions as the baseline's 14 x 7
        config = with_settings(config, roi_batch_per_image=config.model.rois.batch_per_image // 2)
    name = f"{variant}-seed{seed}-{fingerprint(preset, config)}"
    return with_settings(config, run_dir=folder / name)


def fingerprint(preset: str, config: Config) -> str:
    """Of all that a result depends on but the code and the machine: folders, processes and device are left out."""
    tree = config.model_dump(mode="json")
    for section, key in (("data", "data_root"), ("data", "workers"), ("training", "run_dir"), ("training", "device")):
        del tree[section][key]
    told = json.dumps([tree, PRESETS[preset].scenes], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:8]


def finished(preset: str, variant: str, seed: int, folder: Path) -> Entry | None:
    """The result of a training that is done with these settings."""
    kept = config_of(preset, variant, seed, folder).training.run_dir / RESULT
    return Entry(**json.loads(kept.read_text(encoding="utf-8"))) if kept.exists() else None


def train_one(preset: str, variant: str, seed: int, folder: Path) -> Entry:
    """Train and score, or go on with what was stopped, or return what is finished."""
    kept = finished(preset, variant, seed, folder)
    if kept is not None:
        return kept
    import torch

    from person_search.evaluation.evaluate import load_for_test, predict_split
    from person_search.training.run_folder import holds_run
    from person_search.training.trainer import train

    config = config_of(preset, variant, seed, folder)
    outcome = train(config, resume=holds_run(config.training.run_dir))
    on_gpu = torch.cuda.is_available() and config.training.device != "cpu"
    memory = torch.cuda.max_memory_allocated() if on_gpu else _peak_resident()
    dataset = open_dataset(config)
    split = open_split(dataset, "test")
    predictions = predict_split(load_for_test(outcome.last, config).model, split, config)
    assert predictions is not None, "this is the only process"
    results = score(predictions, split, protocols_of(dataset, split, config), config)
    images = outcome.step * config.training.batch_size
    entry = Entry(
        variant=variant,
        seed=seed,
        **_metrics(results),
        epoch_seconds=outcome.seconds / outcome.epoch,
        images_per_second=images / outcome.seconds,
        memory=memory / 2**20,
        steps=outcome.step,
        where=_where(torch.cuda.get_device_name() if on_gpu else None, torch.__version__, torch.get_num_threads()),
    )
    atomic_write_text(config.training.run_dir / RESULT, json.dumps(vars(entry)))
    return entry


def chance(config: Config) -> Entry:
    """What a random ranking of the true boxes scores."""
    dataset = open_dataset(config)
    split = open_split(dataset, "test")
    results = random_ranking(split, protocols_of(dataset, split, config), config)
    return Entry(variant=CHANCE, seed=0, **_metrics(results) | {"detection_ap": None})


def _metrics(results: Results) -> dict[str, float | None]:
    search = results.search[0]
    return {"map": search.map, "top1": search.top1, "detection_ap": results.detection.all.ap}


def _peak_resident() -> int:
    """Bytes; macOS counts in bytes, Linux in KiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _where(gpu: str | None, torch_version: str, threads: int) -> str:
    device = gpu or f"{threads} thread{'s' if threads > 1 else ''} of a {platform.machine()} CPU"
    return f"{device}, torch {torch_version}"


def compare(preset: str, variants: Sequence[str], seeds: int, folder: Path, page_file: Path) -> None:
    """Run what is missing, each in a process of its own, and write numbers and section after each."""
    generate(SynthConfig(out=folder / "scenes", **PRESETS[preset].scenes), replace=True)
    numbers = page_file.with_suffix(".json")
    by_chance = chance(config_of(preset, "baseline", 0, folder))
    for seed in range(seeds):
        for variant in variants:
            if finished(preset, variant, seed, folder) is None:
                console.rule(f"{VARIANTS[variant].label}, seed {seed}")
                command = [sys.executable, __file__, "--preset", preset, "--folder", str(folder.parent)]
                process = subprocess.run([*command, "--one", variant, str(seed)])
                if process.returncode:
                    raise PersonSearchError(f"the training of {variant}, seed {seed}, failed; run the command again")
            kept = [finished(preset, name, number, folder) for name in VARIANTS for number in range(seeds)]
            _publish(preset, [*filter(None, kept), by_chance], numbers, page_file)
    console.print(f"wrote {page_file}", soft_wrap=True)


def _publish(preset: str, entries: Sequence[Entry], numbers: Path, page_file: Path) -> None:
    """Put the entries beside those of the other presets, and make the section of all.

    Trainings of this preset that were made with another folder stay; ``--only`` adds rows to a page so.
    """
    known = json.loads(numbers.read_text(encoding="utf-8")) if numbers.exists() else {}
    own = {(entry.variant, entry.seed) for entry in entries}
    others = [row for row in known.get(preset, []) if (row["variant"], row["seed"]) not in own]
    known[preset] = [*others, *(vars(entry) for entry in entries)]
    numbers.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(numbers, json.dumps(known, indent=1) + "\n")
    of_presets = {name: [Entry(**entry) for entry in rows] for name, rows in known.items()}
    section = comparison(of_presets, {name: describe(name) for name in of_presets})
    text = page_file.read_text(encoding="utf-8") if page_file.exists() else ""
    atomic_write_text(page_file, put_section(text, section))


def describe(preset: str) -> str:
    """The setting of a preset in a sentence."""
    scenes = SynthConfig(**PRESETS[preset].scenes)
    config = config_of(preset, "baseline", 0, Path())
    model, training = flat(config.model), config.training
    width = f" of width {model['width']:g}" if model["width"] != 1 else ""
    epochs = f"{training.max_epochs} epoch{'s' if training.max_epochs > 1 else ''}"
    return (
        f"{scenes.scenes} synthetic scenes ({scenes.train_share:.0%} for training) with {scenes.identities} identities "
        f"and {scenes.cameras} cameras; {model['backbone']}{width} from random weights, {model['shorter_side'][-1]} x "
        f"{model['longer_side']} pixels, {epochs} in batches of {training.batch_size}, {training.optimizer}"
    )


def main(arguments: list[str]) -> None:
    """Run the comparison, or one training of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=list(PRESETS), default="cpu", help="tiny is a test of the machinery")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each variant")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), help="variants to train; default: all")
    parser.add_argument("--folder", type=Path, default=Path("runs/compare"), help="scenes and run folders go here")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "results.md", help="page with the section")
    parser.add_argument("--one", nargs=2, metavar=("VARIANT", "SEED"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.seeds < 1:
        raise UsageError(f"--seeds {options.seeds}: expected at least 1")
    folder = options.folder / options.preset
    if options.one:
        train_one(options.preset, options.one[0], int(options.one[1]), folder)
    else:
        variants = options.only or [name for name, v in VARIANTS.items() if options.preset == "gpu" or not v.gpu_only]
        compare(options.preset, variants, options.seeds, folder, options.page)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:], main))
