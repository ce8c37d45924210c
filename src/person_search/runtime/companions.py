"""The other processes of a run on this machine: started from here, and watched from both sides.

A process that dies without a word leaves the others waiting in a collective, on a GPU for ever. So the first process
watches those it started and they watch it; whoever is left says which one is gone, and ends.

torch's own launcher (``torch.distributed.launcher``) is used by ``torchrun`` and works here, but does not stand behind
``--devices``. Its launcher is one process more, and when that one is killed the others live on, so they would have to
watch it all the same. A lost process is an error of some twenty lines there, and what Ctrl-C raises ends in no exit
code 130; the launcher does not know the command that goes on with the run either.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from torch import distributed

from person_search.errors import PersonSearchError, UsageError

POLL, GRACE = 0.2, 5.0
"""Seconds between looks at the others, and for a process to end by itself after one of them did."""

_watch: Watch | None = None
_resume_command: str | None = None


class LostProcessError(PersonSearchError):
    """Another process of the run ended, and the run with it."""


class Watch(threading.Thread):
    """Looks after the processes that this one started, or after the one that started this one.

    Attributes:
        lost: which process ended and how, once one did.
    """

    def __init__(self, children: list[subprocess.Popen[bytes]]):
        super().__init__(daemon=True, name="companions")
        self._children, self._parent = children, os.getppid()
        self.lost: str | None = None
        self.over = threading.Event()

    def run(self) -> None:
        """Until the work is over or somebody is lost; then end this process if it does not end by itself."""
        while self.lost is None:
            if self.over.wait(POLL):
                return
            self.lost = self._look()
        if not self.over.wait(GRACE):
            # The main thread waits in a collective that will never complete.
            print(f"error: {gone(self.lost)}", file=sys.stderr, flush=True)
            self.end_started()
            os._exit(1)

    def end_started(self) -> None:
        """Give the started processes time to end, then end them."""
        limit = time.monotonic() + (GRACE if self.lost is None else POLL)
        for process in self._children:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, limit - time.monotonic()))
        for process in self._children:
            if process.poll() is None:
                process.kill()
                process.wait()

    def _look(self) -> str | None:
        if not self._children:
            return None if os.getppid() == self._parent else "process 0 of this run ended"
        for number, process in enumerate(self._children, start=1):
            code = process.poll()
            if code:
                how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
                return f"process {number} of this run ended {how}"
        return None


def gone(who: str) -> str:
    """The message that a run ends with when it lost a process."""
    advice = f"Checkpoints are kept; continue with: {_resume_command}" if _resume_command else "Start it again"
    return f"{who}, and the run with it; what it said before, if anything, is the reason. {advice}"


def start_companions(devices: int, nodes: int) -> None:
    """Start this machine's other processes, ``devices`` - 1 of them, with this program's own command line.

    They find their number in LOCAL_RANK, where Fabric looks for it too. Raises UsageError where that is not possible.
    """
    global _watch
    if "LOCAL_RANK" in os.environ:
        if _watch is None:
            _watch = Watch([])
            _watch.start()
        return
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "NODE_RANK": "0"}.items():
        os.environ.setdefault(name, value)
    os.environ |= {"LOCAL_RANK": "0", "WORLD_SIZE": str(devices * nodes)}
    command = _own_command()
    environments = [os.environ | {"LOCAL_RANK": str(number)} for number in range(1, devices)]
    started = [subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL) for env in environments]
    if started:
        _watch = Watch(started)
        _watch.start()
        atexit.register(_end)


def _end() -> None:
    if _watch is not None:
        _watch.over.set()
        _watch.end_started()


@contextlib.contextmanager
def losses_named(resume_command: str | None = None) -> Iterator[None]:
    """Within the block, the error of a collective that another process left is a LostProcessError that names it.

    What is told of a lost process ends with ``resume_command``, where there is one.
    """
    global _resume_command
    _resume_command = resume_command
    try:
        yield
    except BaseException as error:
        if not getattr(error, "agreed", False):
            # The others know nothing of this: leaving in order might wait for what they are at.
            atexit.unregister(leave_group)
        if not isinstance(error, RuntimeError) or not _is_of_a_collective(error):
            raise
        raise LostProcessError(gone(_lost() or "another process of this run ended or is out of reach")) from error
    finally:
        _resume_command = None


def leave_group() -> None:
    """Leave the other processes and end the threads that served to talk to them.

    One of these may still hold a tensor when the interpreter closes, and then aborts the process (pytorch issue
    190489). They end with the last thing that refers to the group, so what only waits to be collected is collected.
    """
    if distributed.is_available() and distributed.is_initialized():
        gc.collect()
        distributed.destroy_process_group()


def _is_of_a_collective(error: RuntimeError) -> bool:
    if not (distributed.is_available() and distributed.is_initialized()):
        return False
    text = str(error)
    return isinstance(error, distributed.DistError) or any(
        part in text for part in ("gloo", "Connection closed", "Connection reset", "NCCL")
    )


def _lost() -> str | None:
    """Who is gone; a connection breaks a moment before its process is."""
    limit = time.monotonic() + 2
    while _watch is not None and _watch.lost is None and time.monotonic() < limit:
        time.sleep(POLL / 2)
    return None if _watch is None else _watch.lost


def _own_command() -> list[str]:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is not None:
        return [sys.executable, "-m", spec.name, *sys.argv[1:]]
    if not Path(sys.argv[0]).is_file():
        raise UsageError("several processes are started by running this program again; run it from a script file")
    return [sys.executable, os.path.abspath(sys.argv[0]), *sys.argv[1:]]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
