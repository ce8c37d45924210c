"""Commands that go on with a run: as printed, with the run's own settings, and what goes on top of them."""

from __future__ import annotations

import os
import runpy
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from conftest import tiny_config, write_coco
from person_search.checkpoints.checkpoint import read_checkpoint
from person_search.commandline import cli, commands, reference_options
from person_search.config import Config, load_config, to_yaml, with_settings
from person_search.training.step import TrainingStep
from person_search.training.trainer import train

MAIN = Path(__file__).parents[2] / "main.py"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of the test's own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tiny(run_dir: str, **settings: Any) -> Config:
    """Settings unlike the defaults, on the data in the folder ``data``."""
    return tiny_config(Path(run_dir), dataset="coco", data_root=Path("data"), lr=0.0007, max_epochs=3, **settings)


def interrupt_step(monkeypatch: pytest.MonkeyPatch, wanted: int) -> None:
    """Ctrl-C before step ``wanted``, counted from 1; later steps are as ever."""
    call, taken = TrainingStep.__call__, []

    def interrupted(self: TrainingStep, *arguments: Any, **options: Any) -> Any:
        taken.append(1)
        if len(taken) == wanted:
            os.kill(os.getpid(), signal.SIGINT)
        return call(self, *arguments, **options)

    monkeypatch.setattr(TrainingStep, "__call__", interrupted)


def printed_command(errors: str) -> str:
    (line,) = (line for line in errors.splitlines() if line.startswith("stopped after step"))
    return line.partition("continue with: ")[2]


def in_a_shell(command: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    return subprocess.run(command, shell=True, capture_output=True, text=True, env=environment, timeout=600)


def assert_same_model(one: str, other: str) -> None:
    first, second = (read_checkpoint(Path(run_dir) / "last.pt") for run_dir in (one, other))
    assert first.training is not None
    assert second.training is not None
    assert first.training["position"]["step"] == second.training["position"]["step"] == 12
    assert all(torch.equal(value, second.model[name]) for name, value in first.model.items())


def test_the_command_printed_after_ctrl_c_goes_on_as_printed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_coco(folder / "data")
    train(tiny("whole"), show_progress=False)
    (folder / "recipe.yaml").write_text(to_yaml(tiny("elsewhere")))
    interrupt_step(monkeypatch, 3)
    run_dir = "my runs/it's $HOME"
    assert cli.run(["train", "--config", "recipe.yaml", "--run-dir", run_dir], cli.dispatch) == 130
    ended = in_a_shell(printed_command(capsys.readouterr().err))
    assert ended.returncode == 0, ended.stderr
    assert "resuming with" not in ended.stderr
    assert_same_model("whole", run_dir)
    assert load_config(Path(run_dir) / "config.yaml") == tiny(run_dir)


def test_a_run_that_main_py_started_goes_on_with_the_command_printed_and_with_its_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_coco(folder / "data")
    train(tiny("whole"), show_progress=False)
    with monkeypatch.context() as patch:
        # The reference knows no option for a tiny network.
        patch.setattr(reference_options, "Config", lambda: with_settings(tiny("unused"), lr=0.5, max_epochs=1))
        interrupt_step(patch, 2)
        options = "--benchmark coco --lr 0.0007 --max_epoch 3 --ckpt_dir 'check points' --expr_name a"
        execute = runpy.run_path(str(MAIN))["execute"]
        assert cli.run(shlex.split(options), execute) == 130
        command = printed_command(capsys.readouterr().err)
        assert command == "person-search train --run-dir 'check points/a' --resume"
        interrupt_step(patch, 1)
        assert cli.run(shlex.split(command)[1:], cli.dispatch) == 130
        assert printed_command(capsys.readouterr().err) == command
    assert cli.run(["--continue_train", "--load_ckpt", "check points/a/last.pt"], execute) == 0
    assert_same_model("whole", "check points/a")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Config]:
    """The settings that ``person-search train ... --resume`` would train with."""

    def config_of(options: str) -> Config:
        called: list[Config] = []
        monkeypatch.setattr(commands, "run_training", lambda config, *, resume: called.append(config))
        assert cli.run(["train", *shlex.split(options), "--resume"], cli.dispatch) == 0
        return called[0]

    return config_of


def test_the_runs_own_settings_come_first_then_the_file_then_flags(
    folder: Path, asked: Callable[[str], Config]
) -> None:
    own = tiny("runs/own", batch_size=1)
    (folder / "runs/own").mkdir(parents=True)
    (folder / "runs/own/config.yaml").write_text(to_yaml(own))
    assert asked("--run-dir runs/own") == own
    assert asked("--run_dir=runs/own --lr 0.003") == with_settings(own, lr=0.003)
    changes = {"training": {"max_epochs": 9, "batch_size": 7, "run_dir": "runs/own"}, "data": {"workers": 1}}
    (folder / "changes.yaml").write_text(yaml.safe_dump(changes))
    merged = with_settings(own, max_epochs=9, batch_size=4, workers=1)
    assert asked("--config changes.yaml --batch-size 4") == merged
    (folder / "empty.yaml").write_text("")
    assert asked("--config empty.yaml --run-dir runs/own") == own


def test_a_recipe_for_a_run_that_has_not_begun_is_taken_as_without_resume(
    folder: Path, asked: Callable[[str], Config]
) -> None:
    (folder / "recipe.yaml").write_text(to_yaml(tiny("runs/new")))
    assert asked("--config recipe.yaml") == tiny("runs/new")


def test_the_silent_change_of_settings_is_gone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a run with settings of its own, none becomes a default by resuming; a flag that changes one is refused."""
    write_coco(folder / "data")
    train(tiny("run", max_steps=2), show_progress=False)
    assert cli.run(["train", "--run-dir", "run", "--resume"], cli.dispatch) == 0
    assert load_config(Path("run/config.yaml")) == tiny("run", max_steps=2)
    assert cli.run(["train", "--run-dir", "run", "--resume", "--lr", "0.003"], cli.dispatch) == 2
    assert "lr: 0.0007 -> 0.003" in capsys.readouterr().err
    execute = runpy.run_path(str(MAIN))["execute"]
    assert cli.run(["--continue_train", "--load_ckpt", "run/last.pt", "--optim", "adamw"], execute) == 2
    assert "optimizer: sgd -> adamw" in capsys.readouterr().err
    assert cli.run(["--continue_train", "--load_ckpt", "run/epoch-001.pt"], execute) == 0
    assert "the newest good checkpoint in 'run', whichever --load_ckpt names" in capsys.readouterr().err
