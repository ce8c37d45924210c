"""Two processes with half the batch each do what one process does with the whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scenarios
import torch

from person_search.checkpoints.checkpoint import read_checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of what one process did, and two."""
    root = tmp_path_factory.mktemp("processes")
    one, two, data = root / "one", root / "two", root / "data"
    one.mkdir()
    two.mkdir()
    threads = torch.get_num_threads()
    # As in the two: how many share the work decides how it is rounded.
    torch.set_num_threads(1)
    scenarios.run_trainings(one, data)
    scenarios.uneven_step(one, data)
    scenarios.run_prediction(one, data)
    with scenarios.frozen_normalisation():
        scenarios.train(scenarios.config_of(two, "begun", **scenarios.TRAININGS["baseline"], max_steps=3), data)
    torch.set_num_threads(threads)
    program = str(Path(scenarios.__file__))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [*command, program, str(two), str(data)], env=environment, capture_output=True, text=True, timeout=600
    )
    assert ended.returncode == 0, ended.stderr
    assert "find_unused_parameters" not in ended.stderr
    return one, two


def rows(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def assert_same(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert one.keys() == two.keys()
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-5, atol=1e-5, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("name", scenarios.TRAININGS)
def test_weights_tables_and_logged_values_are_those_of_one_process(runs: tuple[Path, Path], name: str) -> None:
    one, two = (read_checkpoint(root / name / "last.pt") for root in runs)
    assert_same(one.model, two.model)
    torch.manual_seed(0)
    start = scenarios.build_model(one.model_config, one.num_identities, load_weights=False)
    moved = [
        float((one.model[key] - value.detach()).abs().max())
        for key, value in start.named_parameters()
        # Attention is the same whatever is added to all keys alike.
        if not key.endswith(".attention.key.bias")
    ]
    assert min(moved) > 0
    assert max(moved) > 1e-3
    logged, shared = (rows(root / name) for root in runs)
    assert len(logged) == len(shared) >= 4
    for ours, theirs in zip(logged, shared, strict=True):
        assert ours.keys() == theirs.keys()
        assert theirs == pytest.approx(ours, rel=1e-4, abs=1e-5, nan_ok=True)


def test_tables_hold_the_people_of_all_processes(runs: tuple[Path, Path]) -> None:
    model = read_checkpoint(runs[1] / "baseline" / "last.pt").model
    assert bool(model["reid_loss.C5.lut"].any(1).all())
    assert int(model["reid_loss.C5.queue_count"]) > 0


def test_a_run_that_one_process_began_goes_on_with_two(runs: tuple[Path, Path]) -> None:
    one, two = (read_checkpoint(path / "last.pt") for path in (runs[0] / "baseline", runs[1] / "begun"))
    assert_same(one.model, two.model)
    assert two.training["position"]["step"] == one.training["position"]["step"] == 4


@pytest.mark.parametrize("name", scenarios.METHODS)
def test_a_process_whose_images_hold_nobody_takes_part(runs: tuple[Path, Path], name: str) -> None:
    one, two = (torch.load(root / f"step-{name}.pt", weights_only=True) for root in runs)
    assert_same(one["model"], two["model"])
    assert two["values"] == pytest.approx(one["values"], rel=1e-5)


def test_predictions_are_those_of_one_process_bit_for_bit(runs: tuple[Path, Path]) -> None:
    one, two = (np.load(root / "predictions.npz") for root in runs)
    assert one.files == two.files
    assert len(one["scores"]) > 6
    for name in one.files:
        np.testing.assert_array_equal(two[name], one[name], err_msg=name)


def test_what_fails_in_one_process_fails_in_both_and_is_shown_once(runs: tuple[Path, Path]) -> None:
    first, second = (json.loads((runs[1] / f"errors-{rank}.json").read_text()) for rank in (0, 1))
    for what, part in (("checkpoint", "No space left on device"), ("image", "nowhere.jpg")):
        assert first[what].startswith("here: ")
        assert part in first[what]
        assert second[what] == first[what].replace("here: ", "elsewhere: ", 1)
