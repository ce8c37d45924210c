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
    """A training of two ranks under way: its launcher, the ranks' ids, and its folder."""
    run_dir, data = tmp_path / "a run", write_coco(tmp_path / "data")
    config = tiny_config(
        run_dir, dataset="coco", data_root=data, devices=2, max_epochs=10_000, checkpoint_every=1, batch_size=1
    )
    (tmp_path / "run.yaml").write_text(to_yaml(config))
    command = [sys.executable, "-m", "person_search", "train", "--config", str(tmp_path / "run.yaml")]
    with open(tmp_path / "messages", "w") as messages:
        launcher = subprocess.Popen(command, env=ENVIRONMENT, stdout=messages, stderr=messages)
    try:
        wait_for_step(launcher, run_dir, 1)
        ranks = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
        assert len(ranks) == 2
        yield launcher, [int(number) for number in ranks], tmp_path
    finally:
        launcher.kill()
        launcher.wait()


def said(folder: Path) -> str:
    """The one line that is no progress."""
    (message,) = (line for line in (folder / "messages").read_text().splitlines() if not line.startswith("training"))
    return message


def has_ended(number: int) -> bool:
    """Whether a process is no more, or only waits for its end to be noticed."""
    try:
        return not Path(f"/proc/{number}/cmdline").read_bytes()
    except OSError:
        return True


def test_the_launcher_says_that_a_rank_died(running) -> None:
    launcher, (first, second), folder = running
    os.kill(second, signal.SIGKILL)
    assert launcher.wait(timeout=300) == 1
    assert has_ended(first)
    message = said(folder)
    assert message.startswith("error: process 1 of this run ended by SIGKILL")
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


def test_a_launcher_that_is_told_to_stop_lets_the_ranks_write_a_checkpoint(running) -> None:
    launcher, ranks, folder = running
    launcher.terminate()
    assert launcher.wait(timeout=300) == 143
    assert all(has_ended(number) for number in ranks)
    assert said(folder).startswith("stopped after step")


def test_ranks_stop_when_their_launcher_is_killed(running) -> None:
    launcher, ranks, folder = running
    launcher.kill()
    limit = time.monotonic() + 60
    while not all(has_ended(number) for number in ranks):
        assert time.monotonic() < limit
        time.sleep(0.1)
    assert said(folder).startswith("stopped after step")


def test_what_stops_all_ranks_is_said_once(tmp_path: Path) -> None:
    data = write_coco(tmp_path / "data")
    annotations = data / "train.json"
    annotations.write_text(annotations.read_text().replace('"width": 96', '"width": 97'))
    config = tiny_config(tmp_path / "run", dataset="coco", data_root=data, devices=2)
    (tmp_path / "run.yaml").write_text(to_yaml(config))
    command = [sys.executable, "-m", "person_search", "train", "--config", str(tmp_path / "run.yaml")]
    ended = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 1
    (message,) = ended.stderr.splitlines()
    assert message.startswith("error: ")
    assert "97" in message
