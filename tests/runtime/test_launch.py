"""What torch's launcher is told and tells, and how a rank ends when another one has."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from person_search.errors import DataError, PersonSearchError
from person_search.runtime import launch as launching
from person_search.runtime.distributed import raise_on_all_ranks
from person_search.runtime.launch import LOST, ROLE, LostProcessError, launch, leave_group, name_lost_ranks

ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., BaseException]]:
    """Launch two ranks that run a program; returns how the launcher ends."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def start(program: str, *arguments: str) -> BaseException:
        command = [sys.executable, "-c", f"import os, signal, sys, time; rank = os.environ['RANK']; {program}"]
        monkeypatch.setattr(launching, "_own_command", lambda: [*command, *arguments])
        with pytest.raises((SystemExit, PersonSearchError)) as raised, name_lost_ranks(lambda: "Go on."):
            launch(2, 1)
        return raised.value

    yield start
    for number, handler in before.items():
        signal.signal(number, handler)


def test_ranks_know_their_place_and_get_the_arguments_as_they_are(
    launched: Callable[..., BaseException], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    names = "('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'LOCAL_WORLD_SIZE', 'MASTER_ADDR', 'ROLE_NAME')"
    program = f"open(sys.argv[1] + rank, 'w').write(' '.join([*map(os.environ.get, {names}), sys.argv[2]]))"
    ended = launched(program, f"{tmp_path}/", "$$ ${local_rank}")
    assert isinstance(ended, SystemExit)
    assert ended.code == 0
    for rank in "01":
        assert (tmp_path / rank).read_text() == f"{rank} {rank} 2 2 127.0.0.1 {ROLE} $$ ${{local_rank}}"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("code", [1, 2, 130])
def test_what_a_rank_has_told_is_not_told_again(launched: Callable[..., BaseException], code: int) -> None:
    ended = launched(f"sys.exit({code})")
    assert isinstance(ended, SystemExit)
    assert ended.code == code


@pytest.mark.parametrize(
    ("end", "told"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "process 1 of this run ended by SIGKILL, and the run with it"),
        ("os._exit(7)", "process 1 of this run ended with exit code 7, and"),
        (f"os._exit({LOST})", "another process of this run ended or is out of reach, and"),
    ],
)
def test_a_rank_that_ends_without_a_word_is_named_and_the_others_end(
    launched: Callable[..., BaseException], end: str, told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    ended = launched(f"{end} if rank == '1' else time.sleep(600)")
    assert isinstance(ended, LostProcessError)
    assert ended.exit_code == 1
    assert str(ended).startswith(told)
    assert str(ended).endswith(" is the reason. Go on.")
    assert capfd.readouterr() == ("", "")


def test_ranks_outlive_a_terminal_as_their_launcher_does(
    launched: Callable[..., BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        ended = launched("sys.exit(0 if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else 2)")
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert isinstance(ended, SystemExit)
    assert ended.code == 0


def test_signals_are_passed_on_to_the_ranks(launched: Callable[..., BaseException], tmp_path: Path) -> None:
    program = """
def note(number, _):
    open(sys.argv[1] + rank + signal.Signals(number).name, "w").close()
    if number == signal.SIGTERM:
        sys.exit(130)
    time.sleep(0.5)
    if rank == "0":
        os.kill(os.getppid(), signal.SIGINT)
signal.signal(signal.SIGINT, note)
signal.signal(signal.SIGTERM, note)
open(sys.argv[1] + "ready" + rank, "w").close()
while not all(os.path.exists(sys.argv[1] + "ready" + each) for each in "01"):
    time.sleep(0.05)
if rank == "0":
    os.kill(os.getppid(), signal.SIGINT)
time.sleep(600)
"""
    ended = launched(f"exec({program!r})", f"{tmp_path}/")
    assert isinstance(ended, SystemExit)
    assert ended.code == 130
    # The second Ctrl-C is not waited for as the first is.
    notes = {path.name for path in tmp_path.iterdir()}
    assert notes - {"ready0", "ready1"} == {"0SIGINT", "1SIGINT", "0SIGTERM", "1SIGTERM"}


NODE = """
import os, sys
from person_search.runtime import launch
launch._own_command = lambda: [sys.executable, "-c", "import os; print(os.environ['RANK'], os.environ['WORLD_SIZE'])"]
launch.launch(2, 2)
"""


@pytest.mark.slow
def test_two_machines_find_each_other() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    nodes = [
        subprocess.Popen(
            [sys.executable, "-c", NODE],
            env=ENVIRONMENT | address | {"NODE_RANK": number},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in "01"
    ]
    said = [node.communicate(timeout=300)[0].split("\n") for node in nodes]
    assert [sorted(lines) for lines in said] == [["", "0 4", "1 4"], ["", "2 4", "3 4"]]
    assert [node.returncode for node in nodes] == [0, 0]


WATCHING = """
import signal, sys, time
from person_search.runtime import launch

launch.GRACE = 0.1
if sys.argv[1] == "stuck":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
launch.end_with_launcher()
print("watching", flush=True)
time.sleep(600)
print("not reached")
"""


@pytest.mark.slow
@pytest.mark.parametrize("state", ["working", "stuck"])
def test_a_rank_ends_when_its_launcher_is_gone(state: str) -> None:
    # A shell that does not become its command stands for the launcher.
    command = ["sh", "-c", '"$@"; true', "sh", sys.executable, "-c", WATCHING, state]
    shell = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    assert shell.stdout is not None
    assert shell.stdout.readline() == "watching\n"
    shell.kill()
    # The pipe closes with the last process that holds it.
    assert shell.communicate(timeout=60)[0] == ""


@pytest.fixture
def forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """What this process, as the first of two ranks, will not do at its end."""
    forgotten: list[object] = []
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(launching.atexit, "unregister", forgotten.append)
    monkeypatch.setattr(launching, "world_size", lambda: 2)
    monkeypatch.setattr(launching.time, "sleep", lambda seconds: None)
    yield forgotten
    signal.signal(signal.SIGTERM, before)


def test_an_error_of_all_ranks_is_kept_and_has_the_time_to_be_shown(forgotten: list[object]) -> None:
    error = DataError("unreadable")
    with pytest.raises(DataError) as raised, name_lost_ranks():
        raise_on_all_ranks(error)
    assert raised.value is error
    assert forgotten == []
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN


@pytest.mark.parametrize(
    ("error", "what"), [(DataError("unreadable."), "unreadable"), (ValueError("odd"), "ValueError: odd")]
)
def test_an_error_of_one_rank_says_whose_it_is_and_how_to_go_on(
    forgotten: list[object], error: Exception, what: str
) -> None:
    with pytest.raises(LostProcessError) as raised, name_lost_ranks(lambda: "Go on."):
        raise error
    assert str(raised.value) == f"process 0 ended, and the run with it: {what}. Go on."
    assert (raised.value.exit_code, raised.value.shown_elsewhere) == (1, False)
    assert forgotten == [leave_group]


@pytest.mark.parametrize(("role", "code"), [(ROLE, LOST), ("default_role", 1)])
def test_a_broken_connection_is_left_to_our_launcher_to_tell(
    monkeypatch: pytest.MonkeyPatch, forgotten: list[object], role: str, code: int
) -> None:
    monkeypatch.setenv("ROLE_NAME", role)
    with pytest.raises(LostProcessError, match="another process of this run") as raised, name_lost_ranks():
        raise RuntimeError("[gloo/transport] Connection closed by peer")
    assert (raised.value.exit_code, raised.value.shown_elsewhere) == (code, role == ROLE)
    assert forgotten == [leave_group]


def test_an_error_of_a_single_process_stays_as_it_is() -> None:
    with pytest.raises(ValueError, match="odd"), name_lost_ranks():
        raise ValueError("odd")
