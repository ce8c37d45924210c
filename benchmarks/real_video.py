"""From synthetic scenes to real video: fine-tune on the first part of a MOTChallenge sequence, test on the rest.

    python benchmarks/real_video.py FOLDER --start runs/demo --out runs/real-video

FOLDER is a sequence in MOTChallenge layout (img1/, gt/gt.txt, seqinfo.ini), or holds several. ``--start`` is a run or
checkpoint trained on synthetic scenes, such as ``make demo`` leaves. Prints detection and search metrics before and
after fine-tuning, and the minutes it took; the report page is written into the run folder.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from person_search.checkpoints.loading import find_checkpoint, open_checkpoint
from person_search.commandline.cli import run
from person_search.config import Config, load_config, with_settings
from person_search.config.sections import flat
from person_search.data.catalogue import open_dataset, open_split
from person_search.evaluation.evaluate import evaluate, load_for_test, predict_split
from person_search.evaluation.results import Results, score
from person_search.evaluation.tables import metrics_table
from person_search.evaluation.task import protocols_of
from person_search.runtime.terminal import console
from person_search.training.trainer import train
from person_search.visualize.run_report import report_run


def settings(options: argparse.Namespace) -> Config:
    """The start's model on the sequence's own scale, fine-tuned gently."""
    start = find_checkpoint(options.start)
    base = load_config(options.config) if options.config else Config()
    model = base.model_copy(update={"model": open_checkpoint(start).model_config})
    return with_settings(
        model,
        dataset="mot",
        data_root=options.folder,
        mot_train_share=options.train_share,
        validation_share=0.0,
        run_dir=options.out,
        init_from=start,
        weights="none",
        freeze=False,
        shorter_side=(options.shorter_side,),
        longer_side=options.shorter_side * 2,
        anchor_sizes=tuple(options.anchor_sizes),
        max_epochs=options.epochs,
        batch_size=options.batch_size,
        optimizer="adamw",
        lr=options.lr,
        reid_lr=options.lr,
        lr_policy="cosine",
        warmup_epochs=1.0,
        clip_grad=20.0,
        rpn_post_nms_train=500,
        rpn_post_nms_test=200,
        detection_threshold=0.5,
        seed=options.seed,
        workers=1,
        device=options.device,
    )


def evaluated(checkpoint: Path, config: Config, **overrides: object) -> Results:
    """Results of ``checkpoint`` on the sequence's test part."""
    dataset = open_dataset(config)
    split = open_split(dataset, "test")
    predictions = predict_split(load_for_test(checkpoint, config, **overrides).model, split, config)
    assert predictions is not None, "this is the only process"
    return score(predictions, split, protocols_of(dataset, split, config), config)


def main(arguments: list[str]) -> None:
    """Run the experiment and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="MOTChallenge sequence, or a folder of them")
    parser.add_argument("--start", type=Path, required=True, help="run or checkpoint trained on synthetic scenes")
    parser.add_argument("--out", type=Path, default=Path("runs/real-video"), help="run folder to write")
    parser.add_argument("--config", type=Path, help="YAML settings to begin with")
    parser.add_argument("--train-share", type=float, default=0.5032, help="first share of the frames trained on")
    parser.add_argument("--shorter-side", type=int, default=480, help="images are resized to this, pixels")
    parser.add_argument("--anchor-sizes", type=float, nargs="+", default=[32, 40, 52], help="pixels after resizing")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    options = parser.parse_args(arguments)
    config = settings(options)
    scale = {key: flat(config.model)[key] for key in ("shorter_side", "longer_side")}
    before = evaluated(options.start, config, **scale)
    started = time.perf_counter()
    train(config)
    minutes = (time.perf_counter() - started) / 60
    after = evaluate(options.out, config, references=True)
    assert after is not None, "this is the only process"
    rows = [("synthetic only", before), ("fine-tuned", after.results)]
    console.print(metrics_table(rows, title=f"{options.folder.name}, per cent"))
    page = report_run(options.out, options.out / "report", max_queries=24).page
    console.print(f"fine-tuning took {minutes:.1f} minutes; report: {page}", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:], main))
