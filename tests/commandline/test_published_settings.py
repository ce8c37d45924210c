"""How a checkpoint's published numbers were taken holds where nobody says otherwise, and anything said counts more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from person_search.commandline import cli, commands
from person_search.commandline.flags import given_in
from person_search.config import Config, EvaluationConfig, load_config, to_yaml, with_settings
from person_search.evaluation.task import as_published

PUBLISHED = {"cws": True, "same_size_batches": True}


def test_what_nobody_said_is_as_published_and_is_told() -> None:
    config, line = as_published(with_settings(Config(), gallery_size=(50,), device="cpu"), PUBLISHED)
    evaluation = config.evaluation
    assert (evaluation.cws, evaluation.same_size_batches, evaluation.gallery_size) == (True, True, (50,))
    assert line is not None
    assert "`same_size_batches`, `cws`" in line
    again, silent = as_published(config, PUBLISHED)
    assert (again, silent) == (config, None)
    assert as_published(Config(), {}) == (Config(), None)


def test_what_was_said_survives_other_changes_though_it_is_the_default() -> None:
    said = with_settings(with_settings(Config(), cws=False), device="cpu", dataset="prw")
    config, line = as_published(said, PUBLISHED)
    assert (config.evaluation.cws, config.evaluation.same_size_batches) == (False, True)
    assert line is not None
    assert "cws" not in line


def test_a_file_and_the_file_that_it_builds_on_say_it(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("evaluation: {cws: false}\n")
    (tmp_path / "own.yaml").write_text("base: base.yaml\ndata: {dataset: prw}\n")
    for name in ("base", "own"):
        config = load_config(tmp_path / f"{name}.yaml")
        assert as_published(config, PUBLISHED)[0].evaluation.cws is False
    (tmp_path / "run.yaml").write_text(to_yaml(Config()))
    assert as_published(load_config(tmp_path / "run.yaml"), PUBLISHED)[1] is None


def test_options_that_are_given_are_told_from_defaults() -> None:
    words = ["--no-cws", "--gallery-size", "50", "--cbgm_k1=3", "--", "--cbgm"]
    assert given_in(words, EvaluationConfig.model_fields) == {"cws", "gallery_size", "cbgm_k1"}


VISUALIZE = ["visualize", "--query", "q.png", "--box", "1,2,3,4", "--gallery", ".", "--model", "a.pth"]


@pytest.mark.parametrize(
    ("command", "function"),
    [
        (["evaluate", "--checkpoint", "a.pth"], "run_evaluation"),
        (["predict", "--checkpoint", "a.pth"], "run_prediction"),
        (VISUALIZE, "run_visualization"),
    ],
)
@pytest.mark.parametrize(("options", "cws"), [([], True), (["--no-cws"], False), (["--cws", "false"], False)])
def test_options_count_more_than_the_checkpoint(
    monkeypatch: pytest.MonkeyPatch, command: list[str], function: str, options: list[str], cws: bool
) -> None:
    called: list[Config] = []

    def run(*arguments: Any, **named: Any) -> None:
        called.extend(value for value in arguments if isinstance(value, Config))

    monkeypatch.setattr(commands, function, run)
    assert cli.run([*command, *options, "--search-threshold", "0.25"], cli.dispatch) == 0
    config, _ = as_published(called[0], PUBLISHED)
    assert (config.evaluation.cws, config.evaluation.same_size_batches) == (cws, True)
    assert config.evaluation.search_threshold == 0.25
