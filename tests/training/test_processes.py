"""What is refused before any work, and how signals are taken."""

from __future__ import annotations

import os
import signal

import pytest
import torch

from person_search.config import TrainingConfig
from person_search.errors import UsageError
from person_search.runtime import processes, stopping
from person_search.runtime.processes import device_kind, process_counts
from person_search.runtime.stopping import stop_on_signals


def test_float16_on_the_cpu_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'16'.*needs a GPU"):
        device_kind(TrainingConfig(device="cpu", precision="16"))
    assert device_kind(TrainingConfig(device="cpu", precision="bf16")) == "cpu"


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="no usable GPU"):
        device_kind(TrainingConfig(device="cuda"))
    assert device_kind(TrainingConfig(device="auto")) == "cpu"


def test_more_gpus_than_there_are_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device_kind(TrainingConfig(devices=2)) == "cuda"
    with pytest.raises(UsageError, match=r"3 devices .* has 2"):
        device_kind(TrainingConfig(devices=3))


def test_torchrun_says_how_many_processes_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    assert process_counts(TrainingConfig(devices=2, nodes=3)) == (2, 3)
    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("LOCAL_WORLD_SIZE", "4"), ("WORLD_SIZE", "8")):
        monkeypatch.setenv(name, value)
    assert process_counts(TrainingConfig()) == (4, 2)


def test_more_processes_than_cores_are_refused_unless_a_launcher_started_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "cores", lambda: 2)
    assert device_kind(TrainingConfig(device="cpu", devices=2)) == "cpu"
    with pytest.raises(UsageError, match=r"3 devices .* has 2 CPU cores"):
        device_kind(TrainingConfig(device="cpu", devices=3))
    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("LOCAL_WORLD_SIZE", "3"), ("WORLD_SIZE", "3")):
        monkeypatch.setenv(name, value)
    assert device_kind(TrainingConfig(device="cpu")) == "cpu"


def test_synchronised_normalisation_wants_gpus() -> None:
    with pytest.raises(UsageError, match=r"`sync_batch_norm` needs GPUs"):
        device_kind(TrainingConfig(device="cpu", sync_batch_norm=True))


def test_several_machines_must_know_of_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match=r"2 nodes .* MASTER_ADDR, MASTER_PORT, NODE_RANK is not set.*torchrun"):
        device_kind(TrainingConfig(device="cpu", nodes=2))
    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK"):
        monkeypatch.setenv(name, "1")
    assert device_kind(TrainingConfig(device="cpu", nodes=2)) == "cpu"


def test_under_torchrun_the_same_signal_twice_is_one_wish(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setattr(stopping, "SAME_WISH", 60.0)
    with stop_on_signals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wanted
        monkeypatch.setattr(stopping, "SAME_WISH", 0.0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_ends(number: int) -> None:
    before = signal.getsignal(number)
    with stop_on_signals() as stop:
        assert not stop.wanted
        os.kill(os.getpid(), number)
        assert stop.wanted
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_an_interrupted_run_has_the_exit_code_of_the_shell() -> None:
    assert stopping.InterruptedRunError.exit_code == 130
