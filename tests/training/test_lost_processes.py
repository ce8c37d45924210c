"""A process that dies takes the run with it, quickly and with a reason."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import tiny_config, write_coco

from person_search.checkpoints.checkpoint import LAST, read_checkpoint
from person_search.config import to_yaml
from person_search.runtime.processes import cores

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(cores() < 2, reason="two processes want two cores"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks children up in /proc"),
]


ENVIRONMENT = os.environ | {
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    "PYTHONPATH": os.pathsep.join(sys.path),
    "OMP_NUM_THREADS": "1",
}


def wait_for_step(process: subprocess.Popen[bytes], run_dir: Path, step: int) -> None:
    """Until the run has a checkpoint of ``step`` or later."""
    limit = time.monotonic() + 90
    while not (run_dir / LAST).exists() or read_checkpoint(run_dir / LAST).training["position"]["step"] < step:
        assert time.monotonic() < limit
        assert process.poll() is None
        time.sleep(0.05)


@pytest.fixture
def running(tmp_path: Path):
    """A training of two processes under way, its second process's id, and its folder."""
    run_dir, data = tmp_path / "a run", write_coco(tmp_path / "data")
    config = tiny_config(
        run_dir, dataset="coco", data_root=data, devices=2, max_epochs=10_000, checkpoint_every=1, batch_size=1
    )
    (tmp_path / "run.yaml").write_text(to_yaml(config))
    command = [sys.executable, "-m", "person_search", "train", "--config", str(tmp_path / "run.yaml")]
    with open(tmp_path / "messages", "w") as messages:
        first = subprocess.Popen(command, env=ENVIRONMENT, stdout=messages, stderr=messages)
    try:
        wait_for_step(first, run_dir, 1)
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
    taken = read_checkpoint(folder / "a run" / LAST).training["position"]["step"]
    assert taken >= 1
    command = message.partition("continue with: ")[2]
    assert command == f"person-search train --run-dir '{folder}/a run' --resume"
    # The shell becomes the command, so that the signal reaches it.
    again = subprocess.Popen(["sh", "-c", f"exec {command}"], env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    try:
        wait_for_step(again, folder / "a run", taken + 2)
        again.send_signal(signal.SIGINT)
        assert again.wait(timeout=300) == 130
    finally:
        again.kill()
        again.wait()


STUCK = """
import subprocess, sys, time
from person_search.runtime.companions import Watch

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
