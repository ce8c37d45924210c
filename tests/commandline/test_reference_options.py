"""The reference's command lines: the same settings as through this package's own, and the same commands behind them."""

from __future__ import annotations

import os
import runpy
import shlex
from pathlib import Path

import pytest
import yaml

from person_search.commandline import cli, commands
from person_search.commandline.reference_options import NO_MEANING, OPTIONS, read_reference_options, show_only
from person_search.config import Config, parse_config
from person_search.errors import UsageError

MAIN = Path(__file__).parents[2] / "main.py"
TRAINING = (
    "--benchmark ssm --batch_size 5 --backbone bsl --in_level C5 --cls_type oim --lr 0.003 --warmup_epochs 1 "
    '--max_epoch 7 --suffix ""'
)
"""The published experiment, as its authors start it."""
DEFAULT_OPTIONS = (
    "--dataset cuhk-sysu --data-root data --batch-size 5 --method baseline --levels C5 --reid-loss oim --lr 0.003 "
    "--warmup-epochs 1 --max-epochs 7 --run-dir checkpoints/cuhk-sysu_baseline_C5_oim"
)

PAIRS = {
    "--benchmark prw": "--dataset prw --data-root data --run-dir checkpoints/prw_baseline_C5_oim",
    "--benchmark prw --data_root /sets": "--dataset prw --data-root /sets --run-dir checkpoints/prw_baseline_C5_oim",
    "--backbone oim": "--method oim --run-dir checkpoints/synthetic_oim_C5_oim",
    "--backbone nae": "--method nae --run-dir checkpoints/synthetic_nae_C5_oim",
    "--in_level C4 C5": "--levels C4 C5 --run-dir checkpoints/synthetic_baseline_C4-C5_oim",
    "--cls_type sfm": "--reid-loss softmax --run-dir checkpoints/synthetic_baseline_C5_softmax",
    "--suffix again": "--run-dir checkpoints/synthetic_baseline_C5_oim_again",
    "--ckpt_dir out --expr_name first": "--run-dir out/first",
    "--gallery_size 50": "--gallery-size 50",
    "--gallery_size -1": "--gallery-size -1",
    "--benchmark prw --probe_type mini": "--dataset prw --data-root data --queries mini "
    "--run-dir checkpoints/prw_baseline_C5_oim",
    "--benchmark prw --probe_type origin": "--dataset prw --data-root data --queries standard "
    "--run-dir checkpoints/prw_baseline_C5_oim",
    "--eval_gt": "--use-gt-boxes",
    "--cws": "--cws",
    "--det_thr 0.3": "--search-threshold 0.3",
    "--scales 480 600": "--shorter-side 480 600",
    "--scales 900 --max_size 1500": "--shorter-side 900 --longer-side 1500",
    "--n_roi_per_img 128": "--roi-batch-per-image 128",
    "--uni_optim": "--uni-optim",
    "--reid_lr 1e-4": "--reid-lr 1e-4",
    "--lr_policy mlt_step": "--lr-policy multistep",
    "--lr_policy cosine": "--lr-policy cosine",
    "-ldm 3 5": "--lr-decay-epochs 3 5",
    "--clip_grad": "--clip-grad 20",
    "--no_flip": "--no-flip",
    "--warmup_mode constant": "--warmup-mode constant",
    "--warmup_epochs 0": "--warmup-epochs 0",
    "--eval_epoch 5 6": "--validate-epochs 5 6",
    "--gpu_ids -1": "--device cpu",
    "--gpu_ids 0,1": "--device cuda --devices 2",
    "--n_worker 4": "--workers 4",
    "--seed 3": "--seed 3",
    "-dis": "--display",
    "--display --display_freq 20": "--display --log-every 20",
    "--n_instance 2": "--pk-per-person 2",
    "--optim SGD": "--optimizer sgd",
    "--weight_decay 5e-4 --bias_decay --double_bias": "--weight-decay 5e-4 --decay-biases --double-bias-lr",
    "--lr_decay_gamma 0.5 --alpha 0.1": "--lr-decay-factor 0.5 --warmup-factor 0.1",
    "--eval_batch_size 2": "--eval-batch-size 2",
    "--rpn_positive_overlap 0.6 --rpn_negative_overlap 0.2": "--rpn-fg-iou 0.6 --rpn-bg-iou 0.2",
    "--rpn_fg_fraction 0.4 --rpn_batch_size 128": "--rpn-positive-share 0.4 --rpn-batch-per-image 128",
    "--rpn_nms_thresh 0.6": "--rpn-nms 0.6",
    "--rpn_pre_nms_top_n 11 --rpn_post_nms_top_n 12": "--rpn-pre-nms-train 11 --rpn-post-nms-train 12",
    "--rpn_pre_nms_top_n_eval 13 --rpn_post_nms_top_n_eval 14": "--rpn-pre-nms-test 13 --rpn-post-nms-test 14",
    "--fg_fraction 0.25 --box_fg_iou_thresh 0.6": "--roi-positive-share 0.25 --roi-fg-iou 0.6",
    "--box_score_thresh 0.1 --box_nms_thresh 0.3": "--score-threshold 0.1 --nms-threshold 0.3",
    "--box_detections_per_img 50": "--max-detections 50",
    "--flavour caffe --weights r50.pth": "--flavour caffe --weights r50.pth",
}
"""Options of the reference and, for each, what says the same here."""


@pytest.fixture
def train_config(capsys):
    """The effective settings of ``person-search train``, as it prints them."""

    def read(options: str) -> Config:
        assert cli.run(["train", *shlex.split(options), "--print-config"], cli.dispatch) == 0
        return parse_config(yaml.safe_load(capsys.readouterr().out), "printed")

    return read


@pytest.fixture
def called(monkeypatch):
    """What main.py would run: (name, positional, keywords) of every command called."""
    calls = []
    for name in ("run_training", "run_evaluation"):
        monkeypatch.setattr(commands, name, lambda *a, _name=name, **k: calls.append((_name, a, k)))
    return calls


def main(options: str) -> int:
    return cli.run(shlex.split(options), runpy.run_path(str(MAIN))["execute"])


@pytest.mark.parametrize("reference", PAIRS)
def test_an_option_gives_the_settings_of_its_counterpart(train_config, reference):
    ours = PAIRS[reference]
    if "--run-dir" not in ours:
        ours += " --run-dir checkpoints/synthetic_baseline_C5_oim"
    assert read_reference_options(shlex.split(reference)).config == train_config(ours)


def test_every_option_is_compared():
    compared = {word for reference in PAIRS for word in reference.split()} | set(TRAINING.split())
    assert [option.names for option in OPTIONS if not compared & set(option.names)] == []


@pytest.mark.parametrize(("display", "ours"), [("", ""), (" -dis", " --display")])
def test_the_published_training_command(called, train_config, display, ours):
    assert main(TRAINING + display) == 0
    assert called == [("run_training", (train_config(DEFAULT_OPTIONS + ours),), {"resume": False})]


def test_the_published_test_command(called, train_config):
    assert main(f"--is_test {TRAINING} --load_ckpt best.pth") == 0
    ((name, (checkpoint, config), options),) = called
    assert (name, checkpoint, config) == ("run_evaluation", Path("best.pth"), train_config(DEFAULT_OPTIONS))
    assert options["overrides"] == {"method": "baseline", "levels": ("C5",), "reid_loss": "oim"}
    assert options["out"] is None
    assert options["home"] == Path("checkpoints/cuhk-sysu_baseline_C5_oim")
    assert options["split_name"] == "test"


def test_a_checkpoint_starts_or_continues_training(called):
    assert main("--load_ckpt runs/old/last.pt") == 0
    assert main("--continue_train") == 0
    assert main("--continue_train --load_ckpt runs/old/last.pt") == 0
    started, continued, named = [(config.training, options["resume"]) for _, (config,), options in called]
    assert (started[0].init_from, started[1]) == (Path("runs/old/last.pt"), False)
    assert (continued[0].run_dir, continued[1]) == (Path("checkpoints/synthetic_baseline_C5_oim"), True)
    assert (named[0].run_dir, named[0].init_from, named[1]) == (Path("runs/old"), None, True)


def test_options_without_meaning_are_accepted_in_one_line(called, capsys):
    given = [f"{name} {' '.join(['1'] * values)}" for name, values in NO_MEANING.items()]
    assert main(" ".join(given) + " --lr 0.1") == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"no meaning here, ignored: {' '.join(NO_MEANING)}"
    ((_, (config,), _),) = called
    assert config.training.lr == 0.1


def test_nothing_is_said_when_every_option_means_something(called, capsys):
    assert main(TRAINING) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--batchsize 5", "unknown option '--batchsize'. Did you mean '--batch_size'?"),
        ("--galery_size=50", "unknown option '--galery_size=50'. Did you mean '--gallery_size'?"),
        ("-ldn 4", "unknown option '-ldn'. Did you mean '-ldm'?"),
        ("--backbone resnet50", "argument --backbone: invalid choice: 'resnet50'"),
        ("--lr fast", "argument --lr: invalid float value: 'fast'"),
        ("--lr -1", "training.lr: Input should be greater than 0"),
        ("--in_level C4", "levels are C5, or C4 C5"),
        ("--gpu_ids gpu0", "--gpu_ids gpu0: expected numbers such as 0 or 0,1, or -1 for the CPU"),
        ("--is_test", "--is_test needs --load_ckpt FILE"),
        ("--lr", "argument --lr: expected one argument"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(called, capsys, options, message):
    assert main(options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert called == []


def test_abbreviations_are_refused():
    with pytest.raises(UsageError, match="unknown option '--max_ep'"):
        read_reference_options(["--max_ep", "3"])


def test_numbers_of_gpus_choose_these_gpus(called, monkeypatch):
    monkeypatch.setattr(os, "environ", {})
    assert main("--gpu_ids 2,3") == 0
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,3"
    ((_, (config,), _),) = called
    assert (config.training.device, config.training.devices) == ("cuda", 2)


@pytest.mark.parametrize(("visible", "shown"), [("4,5,6,7", "7,5"), ("a, b,c,d", "d,b")])
def test_gpus_are_numbered_among_those_that_can_be_seen_and_once_for_all_processes(visible, shown):
    environment = {"CUDA_VISIBLE_DEVICES": visible}
    show_only((3, 1), environment)
    show_only((3, 1), environment)
    assert environment["CUDA_VISIBLE_DEVICES"] == shown
    with pytest.raises(UsageError, match="shows 2 GPUs"):
        show_only((2,), environment)


@pytest.mark.parametrize("given", ["-1,0", "2,2", "-2"])
def test_gpus_that_contradict_themselves_are_refused(given):
    with pytest.raises(UsageError, match="each once"):
        read_reference_options([f"--gpu_ids={given}"])
