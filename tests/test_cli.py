"""The command line: options, errors and exit codes; what the commands do is tested where it is done."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from person_search import cli, commands
from person_search.config import Config, load_config, to_yaml, with_settings
from person_search.errors import DataError, UsageError
from person_search.training import trainer
from person_search.training.trainer import TrainingOutcome


def printed(capsys, *arguments):
    code = cli.run(arguments, cli.dispatch)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_help_of_every_command_names_its_options_without_importing_torch(name):
    code = (
        "import sys; from person_search import cli\n"
        "try: cli.dispatch([sys.argv[1], '--help'])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "assert 'torch' not in sys.modules, 'slow start'\n"
    )
    found = subprocess.run([sys.executable, "-c", code, name], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert "--help" in found.stdout
    assert "default:" in found.stdout


def test_every_setting_has_a_meaning_in_the_help():
    for section in Config.model_fields.values():
        for key, field in section.annotation.model_fields.items():
            assert field.description, key


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no command given"),
        (["trian"], "unknown command 'trian'. Did you mean 'train'?"),
        (["train", "--lrr", "1"], "unknown option '--lrr'. Did you mean '--lr'?"),
        (["train", "--lr", "fast"], "Error parsing --lr"),
        (["train", "--lr", "-1"], "training.lr: Input should be greater than 0, found -1.0"),
        (["train", "--backbone", "resnet5"], "invalid choice 'resnet5'"),
        (["train", "--levels", "C4"], "levels are C5, or C4 C5"),
        (["train", "--shorter-side", "2000"], "shorter_side 2000 exceeds longer_side 1000"),
        (["train", "--config", "nowhere.yaml"], "cannot read config 'nowhere.yaml'"),
        (["train", "--config"], "--config needs a value"),
        (["score"], "--predictions is needed"),
        (["predict"], "--checkpoint is needed"),
        (["report"], "--run-dir is needed"),
        (["convert"], "convert wants a checkpoint first"),
        (["convert", "model.pt"], "--out is needed"),
        (["info", "--plugins", "nowhere_to_be_found"], "cannot import plug-in 'nowhere_to_be_found'"),
        (["synth", "--cameras", "0"], "cameras: Input should be greater than or equal to 1"),
        (["train", "--dataset", "cuhk"], "unknown dataset 'cuhk'"),
        (["train", "--precision", "16", "--device", "cpu"], "float16"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(capsys, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, errors = printed(capsys, *arguments)
    assert code == 2
    assert message in errors
    assert len(errors.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_run_time_errors_are_one_line_and_exit_code_1_and_debug_shows_the_traceback(capsys):
    def fail(arguments):
        raise DataError("the file is gone")

    assert cli.run(["--x"], fail) == 1
    assert capsys.readouterr().err == "error: the file is gone\n"
    assert cli.run(["--debug"], fail) == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_unforeseen_error_is_one_line_too_but_raised_in_debug(capsys):
    def fail(arguments):
        raise RuntimeError("first\nsecond")

    assert cli.run([], fail) == 1
    assert capsys.readouterr().err == "error: RuntimeError: first (--debug shows where)\n"
    with pytest.raises(RuntimeError):
        cli.run(["--debug"], fail)


def test_flags_go_on_top_of_the_config_file(capsys, tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("training:\n  lr: 0.5\n  batch_size: 3\n")
    code, out, _ = printed(capsys, "train", "--config", str(path), "--batch_size", "7", "--no-flip", "--print-config")
    assert code == 0
    tree = yaml.safe_load(out)
    assert tree["training"]["lr"] == 0.5
    assert tree["training"]["batch_size"] == 7
    assert tree["training"]["flip"] is False


def test_the_printed_config_reads_back_equal(tmp_path):
    config = with_settings(Config(), lr=0.01, levels=("C4", "C5"), anchor_sizes=(30.0, 60.0), clip_grad=20.0)
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config))
    assert load_config(path) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model:\n  shorter_sid: 3\n", "unknown key 'model.shorter_sid'. Did you mean 'shorter_side'?"),
        ("lr: 3\n", "unknown key 'lr'. (it belongs under 'training:')"),
        ("modle: {}\n", "unknown key 'modle'. Did you mean 'model'?"),
        ("model:\n  width: wide\n", "model.width: Input should be a valid number"),
        ("- 1\n", "expected sections data, model, training, evaluation, found list"),
        ("model: [\n", "not valid YAML at line 2"),
    ],
)
def test_a_wrong_config_file_is_named_with_the_key(tmp_path, text, message):
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as raised:
        load_config(path)
    assert message in str(raised.value)
    assert str(path) in str(raised.value)


def test_an_empty_config_file_is_the_defaults(tmp_path):
    path = tmp_path / "empty.yaml"
    path.write_text("")
    assert load_config(path) == Config()


def test_recipes_are_valid():
    from pathlib import Path

    recipes = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))
    assert recipes
    for recipe in recipes:
        load_config(recipe)


@pytest.mark.parametrize(
    ("result", "shown"), [(0.0, " (validation 0.0 %)"), (0.25, " (validation 25.0 %)"), (None, "")]
)
def test_a_validation_result_of_nothing_is_a_result(monkeypatch, capsys, result, shown):
    left = TrainingOutcome(
        Path("last.pt"), Path("best.pt"), step=3, epoch=1, skipped=0, best_result=result, seconds=1.0
    )
    monkeypatch.setattr(trainer, "train", lambda config, *, resume: left)
    commands.run_training(Config(), resume=False)
    assert f"best checkpoint best.pt{shown}\n" in capsys.readouterr().out
