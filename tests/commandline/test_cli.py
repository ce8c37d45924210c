"""The command line: options, errors and exit codes; what the commands do is tested where it is done."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path, PureWindowsPath

import pytest
import yaml

from person_search.commandline import cli, commands
from person_search.config import Config, load_config, to_builtins, to_yaml, with_settings
from person_search.errors import DataError, UsageError
from person_search.training import trainer
from person_search.training.run import TrainingOutcome


def printed(capsys, *arguments):
    code = cli.run(arguments, cli.dispatch)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_help_of_every_command_names_its_options_without_importing_torch(tmp_path):
    code = (
        "import contextlib, sys; from person_search.commandline import cli\n"
        "for name in cli.COMMANDS:\n"
        "    with open(name, 'w') as file, contextlib.redirect_stdout(file):\n"
        "        try: cli.dispatch([name, '--help'])\n"
        "        except SystemExit as stop: assert not stop.code\n"
        "    assert 'torch' not in sys.modules, f'slow start of {name}'\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    for name in cli.COMMANDS:
        said = (tmp_path / name).read_text()
        assert "--help" in said, name
        assert "default:" in said, name


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
        (["train", "--lr", "fast"], "--lr: expected a number, found 'fast'"),
        (["train", "--batch-size", "2.5"], "--batch-size: expected a whole number, found '2.5'"),
        (["train", "--shorter-side", "small"], "--shorter-side: expected a whole number, found 'small'"),
        (["train", "--clip-grad=much"], "--clip-grad: expected a number or None, found 'much'"),
        (["train", "--lr", "-1"], "training.lr: Input should be greater than 0, found -1.0"),
        (["train", "--flavour", "cafe"], "invalid choice 'cafe'"),
        (["train", "--levels", "C4"], "levels are C5, or C4 C5"),
        (["train", "--shorter-side", "2000"], "shorter_side 2000 exceeds longer_side 1000"),
        (["train", "--config", "nowhere.yaml"], "cannot read config 'nowhere.yaml'"),
        (["train", "--config"], "--config needs a value"),
        (["train", "--config", "--lr", "1"], "--config needs a value"),
        (["train", "--lr"], "--lr needs a value"),
        (["train", "--lr", "--seed", "1"], "--lr needs a value"),
        (["train", "--lr", "1", "--lr=2"], "--lr is given twice"),
        (["train", "--cws", "--no-cws"], "--cws is given twice"),
        (["train", "--cws=perhaps"], "expected --cws or --no-cws alone"),
        (["train", "--max-epo", "3"], "unknown option '--max-epo'. Did you mean '--max-epochs'?"),
        (["score", "--lr", "1"], "person-search score: --lr is an option of train\n"),
        (["score", "--device=cpu"], "--device is an option of train, evaluate, predict, visualize\n"),
        (["report", "--checkpoint", "x"], "--checkpoint is an option of evaluate, predict\n"),
        (["synth", "--config", "x"], "--config is an option of train, evaluate, predict, score, compare, info\n"),
        (["info", "--no-flip"], "--flip is an option of train\n"),
        (["train", "--gallery", "x"], "--gallery is an option of visualize\n"),
        (["evaluate", "--min_visibility", "1"], "--min-visibility is an option of synth\n"),
        (["score", "--lrr", "1"], "unknown option '--lrr'."),
        (["train", "again"], "'again' belongs to no option"),
        (["compare", "A.npz"], "compare wants two predictions files"),
        (["compare", "A.npz", "B.npz", "C.npz"], "'C.npz' belongs to no option"),
        (["score"], "--predictions is needed"),
        (["predict"], "--checkpoint is needed"),
        (["report"], "--run-dir is needed"),
        (["convert"], "convert wants a checkpoint: "),
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


def test_paths_of_another_system_are_written_for_all():
    tree = {"data": {"data_root": PureWindowsPath("D:\\sets\\one"), "plugins": ("a", "b")}, "model": {"width": 0.5}}
    assert to_builtins(tree) == {"data": {"data_root": "D:/sets/one", "plugins": ["a", "b"]}, "model": {"width": 0.5}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "model:\n  shorter_sid: 3\n",
            "Did you mean 'shorter_side'? It is under 'model.images:'.",
        ),
        ("lr: 3\n", "unknown key 'lr'. (it belongs under 'training:')"),
        ("modle: {}\n", "unknown key 'modle'. Did you mean 'model'?"),
        ("model:\n  width: wide\n", "model.backbone.width: Input should be a valid number"),
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

    recipes = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
    assert recipes
    for recipe in recipes:
        load_config(recipe)


@pytest.mark.parametrize(
    ("result", "shown"), [(0.0, " (validation mAP 0.0 %)"), (0.25, " (validation mAP 25.0 %)"), (None, "")]
)
def test_a_validation_result_of_nothing_is_a_result(monkeypatch, capsys, result, shown):
    left = TrainingOutcome(
        Path("last.pt"), Path("best.pt"), step=3, epoch=1, skipped=0, best_result=result, seconds=1.0
    )
    monkeypatch.setattr(trainer, "train", lambda config, *, resume: left)
    commands.run_training(Config(), resume=False)
    assert f"best checkpoint best.pt{shown}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("training: {precision: 32}", {"precision": "32"}),
        ("training: {precision: 16, lr: 1, lr_decay_epochs: 3}", {"precision": "16", "lr": 1, "lr_decay_epochs": (3,)}),
        ("training: {lr: 1e-4, batch_size: 4.0}", {"lr": 1e-4, "batch_size": 4}),
        ("training: {run_dir: 2024, clip_grad: None}", {"run_dir": Path("2024"), "clip_grad": None}),
        ("model: {levels: C4 C5}", {"levels": ("C4", "C5")}),
        ("model: {shorter_side: '480, 600', anchor_ratios: 3}", {"shorter_side": (480, 600), "anchor_ratios": (3.0,)}),
        (
            "data: {plugins: my_search, unlabelled_ids: [7, nobody]}",
            {"plugins": ("my_search",), "unlabelled_ids": ("7", "nobody")},
        ),
        ("evaluation: {gallery_size: 50}", {"gallery_size": (50,)}),
        ("evaluation: {gallery_size: }", {"gallery_size": ()}),
        ("data: {data_root: ~/sets}", {"data_root": Path.home() / "sets"}),
    ],
)
def test_a_config_file_may_be_written_as_people_write(tmp_path, text, settings):
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    assert load_config(path) == with_settings(Config(), **settings)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: {precision: true}", "training.precision"),
        ("training: {precision: 8}", "training.precision"),
        ("training: {batch_size: 4.5}", "training.batch_size"),
        ("model: {levels: {C5: 1}}", "model.levels"),
        ("model: {backbone: null}", "model.backbone"),
    ],
)
def test_what_no_spelling_makes_right_is_refused(tmp_path, text, message):
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        load_config(path)


PIPES = """
import os, sys
from person_search.commandline import cli
from person_search.runtime.terminal import console, messages
def execute(arguments):
    {what}
sys.exit(cli.run([], execute))
"""


@pytest.mark.parametrize(
    ("what", "code"),
    [
        ("console.print('x')", 0),
        ("print('x')", 0),
        ("print('x' * 100_000)", 0),
        ("raise BrokenPipeError(32, 'Broken pipe')", 0),
    ],
)
def test_a_reader_that_leaves_ends_the_program_quietly(what, code):
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(
        [sys.executable, "-c", PIPES.format(what=what)], stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (code, "")


def test_another_broken_pipe_is_an_error():
    code = PIPES.format(what="r, w = os.pipe(); os.close(r); os.write(w, b'x')")
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 1
    assert "BrokenPipeError" in ended.stderr


def test_names_with_brackets_are_printed_as_they_are(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "[bold]a[/bold]:smile:"
    made = ["--identities", "6", "--scenes", "12", "--cameras", "2", "--width", "160", "--height", "120"]
    assert printed(capsys, "synth", *made, "--out", name)[0] == 0
    monkeypatch.setattr(commands.console, "_width", 200, raising=False)
    code, out, errors = printed(capsys, "info", "--data-root", name)
    assert code == 0, errors
    assert f"synthetic: {name}" in out.replace("\n", " ")
    commands.console.print(f"wrote {name}", soft_wrap=True)
    assert capsys.readouterr().out == f"wrote {name}\n"


@pytest.fixture
def called(monkeypatch):
    """What a command would run: (name, positional, keywords)."""
    calls = []
    for name in ("run_evaluation", "run_prediction", "run_conversion", "run_comparison"):
        monkeypatch.setattr(commands, name, lambda *a, _name=name, **k: calls.append((_name, a, k)))
    return calls


@pytest.mark.parametrize("words", ["--out X FILE", "FILE --out X", "--out=X --plugins one two FILE", "--out X -- FILE"])
def test_the_file_to_convert_may_stand_anywhere(called, words):
    assert cli.run(["convert", *words.split()], cli.dispatch) == 0
    ((_, files, _),) = called
    assert files == ("FILE", Path("X"))


@pytest.mark.parametrize(
    "words",
    ["A B --json J --cbgm", "--json J A --cbgm B", "A --cbgm --json=J B", "--gallery-size 50 -1 A B --json J --cbgm"],
)
def test_the_files_to_compare_may_stand_anywhere_and_no_option_is_lost(called, words):
    assert cli.run(["compare", *words.split()], cli.dispatch) == 0
    ((_, (one, other, config), options),) = called
    assert (one, other, options["json"], config.evaluation.cbgm) == (Path("A"), Path("B"), Path("J"), True)
    assert config.evaluation.gallery_size == ((50, -1) if "50" in words else ())


@pytest.mark.parametrize(
    ("words", "value"),
    [("--cws", True), ("--no-cws", False), ("--cws True", True), ("--cws=false", False), ("", None)],
)
def test_settings_of_yes_and_no_are_flags_in_test_too(called, words, value):
    assert cli.run(["evaluate", *words.split(), "--checkpoint", "x"], cli.dispatch) == 0
    assert cli.run(["predict", "--channels-last", "--checkpoint", "x", *words.split()], cli.dispatch) == 0
    (_, (_, evaluated), _), (_, (_, config), _) = called
    assert evaluated.evaluation.cws is config.evaluation.cws is bool(value)
    assert config.training.channels_last is True


def test_an_interruption_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    def stopped(arguments: Sequence[str]) -> None:
        raise KeyboardInterrupt

    assert cli.run([], stopped) == 130
    assert capsys.readouterr().err == "stopped: nothing incomplete was written; run the command again\n"
