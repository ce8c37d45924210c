"""Machines that are told of each other train as one machine with as many processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import train_tiny

from conftest import tiny_config
from forked import run_forked
from person_search.checkpoints.checkpoint import LAST, read_checkpoint
from person_search.config import Config, to_yaml
from person_search.runtime.processes import cores

pytestmark = [pytest.mark.slow, pytest.mark.skipif(cores() < 2, reason="two processes want two cores")]


def start(config: Config, root: Path, **variables: str) -> subprocess.Popen[str]:
    """Start one machine's share of a training."""
    command = [sys.executable, train_tiny.__file__, *written(config, root, variables["NODE_RANK"])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"} | variables
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def written(config: Config, root: Path, number: str) -> list[str]:
    """The settings as a file, and a folder for data: those of processes do not get in each other's way."""
    name = f"{config.training.run_dir.name}-{number}"
    (root / f"{name}.yaml").write_text(to_yaml(config))
    return [str(root / f"{name}.yaml"), str(root / f"data-{name}")]


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def run_ranks(config: Config, root: Path) -> None:
    """Train in two processes, which are told what torchrun would tell them."""
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "OMP_NUM_THREADS": "1"}
    shared |= {"TORCHELASTIC_RUN_ID": "two", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0"}

    def run_rank(number: str) -> None:
        environment = os.environ | shared | {"RANK": number, "LOCAL_RANK": number}
        ended = run_forked(train_tiny.execute, written(config, root, number), environment=environment)
        assert ended.returncode == 0, ended.stderr

    with ThreadPoolExecutor() as threads:
        list(threads.map(run_rank, "01"))


def test_two_machines_train_as_one_with_two_processes(tmp_path: Path) -> None:
    shared = {"batch_size": 1, "max_steps": 3, "validate_every": 1, "score_threshold": 0.0}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    machines = tiny_config(tmp_path / "machines", nodes=2, **shared)
    started = [start(machines, tmp_path, **address, NODE_RANK=number) for number in "01"]
    run_ranks(tiny_config(tmp_path / "processes", **shared), tmp_path)
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
