"""Machines that are told of each other train as one machine with as many processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import train_tiny

from conftest import tiny_config
from person_search.checkpoints.checkpoint import LAST, read_checkpoint
from person_search.config import Config, to_yaml
from person_search.runtime.processes import cores

pytestmark = [pytest.mark.slow, pytest.mark.skipif(cores() < 2, reason="two processes want two cores")]


def start(config: Config, root: Path, **variables: str) -> subprocess.Popen[str]:
    """Start one machine's share of a training; files of machines do not get in each other's way."""
    name = config.training.run_dir.name
    settings = root / f"{name}.yaml"
    settings.write_text(to_yaml(config))
    data = root / f"data-{name}-{variables.get('NODE_RANK', 0)}"
    command = [sys.executable, train_tiny.__file__, str(settings), str(data)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"} | variables
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_two_machines_train_as_one_with_two_processes(tmp_path: Path) -> None:
    shared = {"batch_size": 1, "max_steps": 3, "validate_every": 1, "score_threshold": 0.0}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    machines = tiny_config(tmp_path / "machines", nodes=2, **shared)
    started = [start(machines, tmp_path, **address, NODE_RANK=str(number)) for number in (0, 1)]
    started.append(start(tiny_config(tmp_path / "processes", devices=2, **shared), tmp_path))
    for process in started:
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, output
    one, other = (read_checkpoint(tmp_path / name / LAST) for name in ("machines", "processes"))
    assert one.training is not None
    assert one.training["position"]["step"] == 3
    assert len(one.training["randomness"]) == 2
    assert all(torch.equal(value, other.model[name]) for name, value in one.model.items())
    assert (tmp_path / "machines" / "metrics.jsonl").read_text() == (
        tmp_path / "processes" / "metrics.jsonl"
    ).read_text()
