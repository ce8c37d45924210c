"""The reference implementation's command line, mapped onto the settings of this package.

Option names are those of the public strong baseline for person search (``main.py`` there), so that its commands run
unchanged. What is left out keeps this package's default, which is the published setting but for the backbone's
weights (torchvision's; ``--flavour caffe --weights FILE`` for those of the published numbers) and ``--data_root``
(``data``, where the datasets' folders are looked for).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from person_search.config import Config, with_settings
from person_search.config.sections import differences, flat, nested
from person_search.errors import UsageError, nearest
from person_search.training.resuming import own_config

METHODS = {"bsl": "baseline", "oim": "oim", "nae": "nae"}
REID_LOSSES = {"oim": "oim", "sfm": "softmax"}
BENCHMARKS = {"ssm": "cuhk-sysu", "prw": "prw", "synthetic": "synthetic", "coco": "coco", "mot": "mot"}
QUERY_LISTS = {"origin": "standard", "mini": "mini"}
POLICIES = {"mlt_step": "multistep", "step": "step", "cosine": "cosine", "plateau": "plateau", "lambda": "lambda"}
GRADIENT_NORM = 20.0
"""Where the reference's ``--clip_grad`` clips."""
DATA_ROOT = Path("data")
SHOWN = "PERSON_SEARCH_GPU_IDS"
"""Environment variable with the ``--gpu_ids`` that CUDA_VISIBLE_DEVICES was made from."""


@dataclass(frozen=True)
class Option:
    """One option: the setting it sets, how its value is read, and what it becomes.

    ``kind`` None makes it a switch that sets ``value``; ``several`` takes one or more values.
    """

    names: tuple[str, ...]
    setting: str
    kind: type | None = None
    several: bool = False
    convert: dict[str, str] | Callable[[Any], Any] | None = None
    value: Any = True

    def settings(self, given: Any) -> Any:
        """The setting's value for what was given on the command line."""
        if self.kind is None:
            return self.value
        if isinstance(self.convert, dict):
            return self.convert[given]
        return self.convert(given) if self.convert else given


OPTIONS = (
    Option(("--benchmark",), "dataset", str, convert=BENCHMARKS),
    Option(("--backbone",), "method", str, convert=METHODS),
    Option(("--cls_type",), "reid_loss", str, convert=REID_LOSSES),
    Option(("--in_level",), "levels", str, several=True, convert=tuple),
    Option(("--data_root",), "data_root", Path),
    Option(("--n_worker",), "workers", int),
    Option(("--probe_type",), "queries", str, convert=QUERY_LISTS),
    Option(("--scales",), "shorter_side", int, several=True, convert=tuple),
    Option(("--max_size",), "longer_side", int),
    Option(("--rpn_positive_overlap",), "rpn_fg_iou", float),
    Option(("--rpn_negative_overlap",), "rpn_bg_iou", float),
    Option(("--rpn_fg_fraction",), "rpn_positive_share", float),
    Option(("--rpn_batch_size",), "rpn_batch_per_image", int),
    Option(("--rpn_nms_thresh",), "rpn_nms", float),
    Option(("--rpn_pre_nms_top_n",), "rpn_pre_nms_train", int),
    Option(("--rpn_pre_nms_top_n_eval",), "rpn_pre_nms_test", int),
    Option(("--rpn_post_nms_top_n",), "rpn_post_nms_train", int),
    Option(("--rpn_post_nms_top_n_eval",), "rpn_post_nms_test", int),
    Option(("--n_roi_per_img",), "roi_batch_per_image", int),
    Option(("--fg_fraction",), "roi_positive_share", float),
    Option(("--box_fg_iou_thresh",), "roi_fg_iou", float),
    Option(("--box_score_thresh",), "score_threshold", float),
    Option(("--box_nms_thresh",), "nms_threshold", float),
    Option(("--box_detections_per_img",), "max_detections", int),
    Option(("--cws",), "cws"),
    Option(("--batch_size",), "batch_size", int),
    Option(("--max_epoch",), "max_epochs", int),
    Option(("--lr",), "lr", float),
    Option(("--reid_lr",), "reid_lr", float),
    Option(("--weight_decay",), "weight_decay", float),
    Option(("--optim",), "optimizer", str, convert=str.lower),
    Option(("--uni_optim",), "uni_optim"),
    Option(("--double_bias",), "double_bias_lr"),
    Option(("--bias_decay",), "decay_biases"),
    Option(("--lr_policy",), "lr_policy", str, convert=POLICIES),
    Option(("-ldm", "--lr_decay_milestones"), "lr_decay_epochs", int, several=True, convert=tuple),
    Option(("--lr_decay_gamma",), "lr_decay_factor", float),
    Option(("--warmup_epochs",), "warmup_epochs", int, convert=lambda epochs: max(0, epochs)),
    Option(("--warmup_mode",), "warmup_mode", str),
    Option(("--alpha",), "warmup_factor", float),
    Option(("--clip_grad",), "clip_grad", value=GRADIENT_NORM),
    Option(("--no_flip",), "flip", value=False),
    Option(("--seed",), "seed", int),
    Option(("--n_instance",), "pk_per_person", int),
    Option(("-dis", "--display"), "display"),
    Option(("--display_freq",), "log_every", int),
    Option(("--eval_epoch",), "validate_epochs", int, several=True, convert=tuple),
    Option(("--eval_batch_size",), "eval_batch_size", int),
    Option(("--eval_gt",), "use_gt_boxes"),
    Option(("--det_thr",), "search_threshold", float),
    Option(("--gallery_size",), "gallery_size", int, several=True, convert=tuple),
    Option(("--weights",), "weights", str),
    Option(("--flavour",), "flavour", str),
)

NO_MEANING = {
    "--aspect-ratio-group-factor": 1,
    "--bbox_reg_weights": 1,
    "--bg_aug": 0,
    "--box_bg_iou_thresh": 1,
    "--cache_dir": 1,
    "--conv5_stride": 1,
    "--device": 1,
    "--dist-url": 1,
    "--distributed": 0,
    "--div": 0,
    "--eps": 1,
    "--expr_dir": 1,
    "--freeze_top_bn": 0,
    "--id_sampler": 0,
    "--input_size": 2,
    "--logger": 1,
    "--lr_factor_teacher": 1,
    "--model_verbose": 0,
    "--n_batch_per_epoch": 1,
    "--num_class": 1,
    "--num_train_ids": 1,
    "--pixel_means": 3,
    "--pixel_stds": 3,
    "--RGB": 0,
    "--start_epoch": 1,
    "--transforms": 1,
    "--use_mask": 0,
    "--world-size": 1,
}
"""Options of the reference without a counterpart here, and how many values each takes."""


@dataclass(frozen=True)
class ReferenceCommand:
    """What a reference command line asks for.

    Attributes:
        config: the effective settings, as ``person-search train`` would have them; on continuing, what is not given
            is as in the run's own.
        test: evaluate ``checkpoint`` instead of training.
        checkpoint: ``--load_ckpt``; in training, weights to start from, or a file of the run to continue.
        resume: ``--continue_train``.
        overrides: in test, model settings given on the command line.
        ignored: options given that mean nothing here.
        gpus: numbers of the GPUs to run on, where they are given.
    """

    config: Config
    test: bool
    checkpoint: Path | None
    resume: bool
    overrides: dict[str, Any]
    ignored: list[str]
    gpus: tuple[int, ...] = ()


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"main.py: {message}")


def parser() -> argparse.ArgumentParser:
    """The reference's options."""
    made = _Parser(
        prog="main.py",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        description="The reference implementation's command line; `person-search --help` shows this package's own.",
    )
    made.add_argument("--is_test", action="store_true", default=False, help="evaluate --load_ckpt instead of training")
    made.add_argument("--load_ckpt", help="checkpoint to evaluate, or to start training from")
    made.add_argument("--continue_train", action="store_true", default=False, help="go on with the run in --ckpt_dir")
    made.add_argument("--ckpt_dir", type=Path, help="folder for runs")
    made.add_argument("--expr_name", help="name of the run's folder")
    made.add_argument("--suffix", help="added to the run's name")
    made.add_argument("--gpu_ids", help="GPU numbers, such as 0 or 0,1; -1: CPU")
    for option in OPTIONS:
        if option.kind is None:
            made.add_argument(*option.names, action="store_true", help=f"setting {option.setting}")
            continue
        choices = sorted(option.convert) if isinstance(option.convert, dict) else None
        made.add_argument(
            *option.names,
            type=option.kind,
            nargs="+" if option.several else None,
            choices=choices,
            help=f"setting {option.setting}",
        )
    for name, values in NO_MEANING.items():
        how: dict[str, Any] = {"nargs": "+" if values > 1 else None} if values else {"action": "store_true"}
        made.add_argument(name, help="no meaning here", **how)
    return made


def read_reference_options(arguments: Sequence[str]) -> ReferenceCommand:
    """Map a reference command line. Raises UsageError for unknown options, naming the nearest, and wrong values."""
    reader = parser()
    found, unknown = reader.parse_known_args(list(arguments))
    if unknown:
        names = [name for action in reader._actions for name in action.option_strings]
        hint = nearest(unknown[0].partition("=")[0], names) or " See --help."
        raise UsageError(f"main.py: unknown option '{unknown[0]}'.{hint}")
    given = vars(found)
    settings = {option.setting: option.settings(given[_key(option)]) for option in OPTIONS if _key(option) in given}
    checkpoint = Path(given["load_ckpt"]) if given.get("load_ckpt") else None
    run_dir, own = _run_dir(given, settings), None
    if given["continue_train"] and not given["is_test"]:
        if checkpoint is not None:
            run_dir = checkpoint if checkpoint.is_dir() else checkpoint.parent
        own = own_config(run_dir)
    if own is None and settings.get("dataset", "synthetic") != "synthetic":
        settings.setdefault("data_root", DATA_ROOT)
    gpus = _gpus(given.get("gpu_ids"))
    base = own or Config()
    _, meant = nested(differences(base, Config()) | settings, Config())
    unused = settings.keys() - meant
    settings = {key: value for key, value in settings.items() if key in meant}
    config = with_settings(base, **settings, **_gpu_settings(gpus), run_dir=run_dir)
    return ReferenceCommand(
        config=config,
        test=given["is_test"],
        checkpoint=checkpoint,
        resume=given["continue_train"],
        overrides={key: value for key, value in settings.items() if key in flat(config.model)},
        ignored=[
            *(name for name in NO_MEANING if _destination(name) in given),
            *(option.names[-1] for option in OPTIONS if option.setting in unused),
        ],
        gpus=gpus or (),
    )


def _key(option: Option) -> str:
    return _destination(option.names[-1])


def _destination(name: str) -> str:
    """Where argparse keeps the value of the option ``name``."""
    return name.lstrip("-").replace("-", "_")


def _gpus(gpu_ids: str | None) -> tuple[int, ...] | None:
    """The GPUs of ``--gpu_ids``; none of them for ``-1``, the CPU; None where it is not given."""
    if gpu_ids is None:
        return None
    expected = f"main.py: --gpu_ids {gpu_ids}: expected numbers such as 0 or 0,1, or -1 for the CPU"
    try:
        numbers = [int(number) for number in gpu_ids.split(",")]
    except ValueError:
        raise UsageError(expected) from None
    if numbers == [-1]:
        return ()
    if min(numbers) < 0 or len(set(numbers)) < len(numbers):
        raise UsageError(f"{expected}, each once")
    return tuple(numbers)


def _gpu_settings(gpus: tuple[int, ...] | None) -> dict[str, Any]:
    if gpus is None:
        return {}
    return {"device": "cuda", "devices": len(gpus)} if gpus else {"device": "cpu"}


def show_only(gpus: Sequence[int], environment: MutableMapping[str, str]) -> None:
    """Let CUDA see these GPUs alone, numbered among those that ``environment`` shows already.

    To be called before CUDA starts. A process that was started by one that did so sees them as that one does. Raises
    UsageError for a number that is not among them.
    """
    asked = ",".join(map(str, gpus))
    if environment.get(SHOWN) == asked:
        return
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    shown = [name.strip() for name in visible.split(",")] if visible is not None else None
    if shown is not None and max(gpus) >= len(shown):
        raise UsageError(f"main.py: --gpu_ids {asked}: CUDA_VISIBLE_DEVICES={visible} shows {len(shown)} GPUs, from 0")
    environment["CUDA_VISIBLE_DEVICES"] = asked if shown is None else ",".join(shown[gpu] for gpu in gpus)
    environment[SHOWN] = asked


def _run_dir(given: dict[str, Any], settings: dict[str, Any]) -> Path:
    """``--ckpt_dir``/NAME, the name from dataset, method and re-ID loss as the reference does, plus ``--suffix``."""
    defaults = flat(Config())
    parts = [
        settings.get("dataset", "synthetic"),
        settings.get("method", defaults["method"]),
        "-".join(settings.get("levels", defaults["levels"])),
        settings.get("reid_loss", defaults["reid_loss"]),
        *([given["suffix"]] if given.get("suffix") else []),
    ]
    return Path(given.get("ckpt_dir", "checkpoints")) / (given.get("expr_name") or "_".join(parts))
