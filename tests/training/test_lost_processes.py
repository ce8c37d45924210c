"""A process that dies takes the run with it, quickly and with a reason."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import train_tiny
from conftest import tiny_config

from person_search.config import to_yaml
from person_search.training.checkpoints import LAST, read_checkpoint
from person_search.training.processes import cores

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(cores() < 2, reason="two processes want two cores"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks children up in /proc"),
]


@pytest.fixture
def running(tmp_path: Path):
    """A training of two processes under way, its second process's id, and its folder."""
    config = tiny_config(tmp_path / "run", devices=2, max_epochs=10_000, checkpoint_every=1, batch_size=1)
    (tmp_path / "run.yaml").write_text(to_yaml(config))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, train_tiny.__file__, str(tmp_path / "run.yaml"), str(tmp_path / "data")]
    with open(tmp_path / "messages", "w") as messages:
        first = subprocess.Popen(command, env=environment, stdout=messages, stderr=messages)
    try:
        limit = time.monotonic() + 90
        while not (tmp_path / "run" / LAST).exists():
            assert time.monotonic() < limit
            assert first.poll() is None
            time.sleep(0.05)
        (second,) = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
        yield first, int(second), tmp_path
    finally:
        first.kill()
        first.wait()


def test_the_first_process_says_that_another_died(running) -> None:
    first, second, folder = running
    os.kill(second, signal.SIGKILL)
    assert first.wait(timeout=300) == 1
    (message,) = (line for line in (folder / "messages").read_text().splitlines() if line.startswith("error:"))
    assert "process 1 of this run ended by SIGKILL" in message
    assert "--resume" in message
    assert read_checkpoint(folder / "run" / LAST).training["position"]["step"] >= 1


STUCK = """
import subprocess, sys, time
from person_search.training.companions import Watch

child = [subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])] if sys.argv[1] == "first" else []
Watch(child).start()
print("watching", flush=True)
time.sleep(600)
"""


def test_a_process_that_waits_for_a_lost_one_for_ever_is_ended() -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    pipes = {"env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    first = subprocess.Popen([sys.executable, "-c", STUCK, "first"], **pipes)
    # A shell that does not become its command, so that killing it leaves the second process without its first.
    shell = subprocess.Popen(["sh", "-c", '"$@"; true', "sh", sys.executable, "-c", STUCK, "second"], **pipes)
    assert shell.stdout.readline() == "watching\n"
    shell.kill()
    (message,) = first.communicate(timeout=300)[1].splitlines()
    assert first.returncode == 1
    assert "process 1 of this run ended with exit code 3" in message
    (message,) = shell.communicate(timeout=300)[1].splitlines()
    assert "process 0 of this run ended" in message
