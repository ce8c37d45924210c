"""What is refused before any work, and how signals are taken."""

from __future__ import annotations

import os
import signal

import pytest
import torch

from person_search.config import TrainingConfig
from person_search.errors import UsageError
from person_search.training import processes
from person_search.training.processes import device_kind, process_counts, stop_on_signals


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
    assert processes.InterruptedRunError.exit_code == 130
