"""The processes of a run on one machine: torch's launcher starts them, and what is said when one of them is lost.

Where ``--devices`` asks for several, the command that the user gave becomes the launcher: it trains nothing, starts as
many ranks with its own command line, and ends the others when one has ended, as ``torchrun`` does.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from torch import distributed

from person_search.errors import PersonSearchError, UsageError
from person_search.runtime.distributed import rank, world_size

ROLE = "person-search"
"""What ranks that ``launch`` started find in ROLE_NAME."""
POLL, GRACE = 0.2, 30.0
"""Seconds between looks at the launcher, and for a rank to end in order once it is not there."""
STOPPING = 600
"""Seconds for the ranks to end a step and write a checkpoint after Ctrl-C, unless there is a second one."""
TOLD, LOST = (1, 2, 130), 3
"""Exit codes of ranks that have said why they end, and of one that knows only that it cannot go on alone."""
ANOTHER = "another process of this run ended or is out of reach"


class LostProcessError(PersonSearchError):
    """Another process of the run ended, and the run with it."""


def launch(devices: int, nodes: int) -> NoReturn:
    """Be the launcher of ``devices`` ranks on this machine, one of ``nodes``, until they have ended.

    Raises SystemExit with their exit code, LostProcessError where one has not said why it ended, and UsageError where
    the program cannot be run again.
    """
    # What one process does alone needs none of this.
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    program, *arguments = _own_command()
    config = LaunchConfig(nodes, nodes, devices, DefaultLogsSpecs(os.devnull), run_id=ROLE, role=ROLE, max_restarts=0)
    config.rdzv_backend, config.rdzv_endpoint, config.local_addr = "c10d", "localhost:0", "127.0.0.1"
    if nodes > 1:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        config.rdzv_backend, config.rdzv_endpoint, config.local_addr = "static", address, None
        config.rdzv_configs["rank"] = int(os.environ["NODE_RANK"])
    # torch 2.8 knows neither, and waits for 30 seconds. SIGHUP is left out, so that nohup keeps its meaning.
    config.signals_to_handle, config.shutdown_timeout = "SIGINT,SIGTERM", STOPPING
    # Its warnings tell what is told below, in more lines.
    log = logging.getLogger("torch.distributed.elastic")
    log.handlers, log.propagate = [logging.NullHandler()], False
    try:
        # A dollar sign would begin the name of something to fill in.
        elastic_launch(config, program)(*(argument.replace("$", "$$") for argument in arguments))
    except SignalException as stop:
        raise SystemExit(128 + stop.sigval) from None
    except ChildFailedError as error:
        number, failure = error.get_first_failure()
        if failure.exitcode in TOLD:
            raise SystemExit(failure.exitcode) from None
        how = f"by {failure.signal_name()}" if failure.exitcode < 0 else f"with exit code {failure.exitcode}"
        raise LostProcessError(
            ANOTHER if failure.exitcode == LOST else f"process {number} of this run ended {how}"
        ) from None
    raise SystemExit(0)


def end_with_launcher() -> None:
    """Have this rank stop, in order if it can, when its launcher is gone."""

    def watch(launcher: int) -> None:
        while os.getppid() == launcher:
            time.sleep(POLL)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE)
        # The main thread waits for another rank and does not come to take the signal.
        os._exit(1)

    threading.Thread(target=watch, args=(os.getppid(),), daemon=True).start()


@contextlib.contextmanager
def name_lost_ranks(how_to_go_on: Callable[[], str] = lambda: "Start it again") -> Iterator[None]:
    """Within the block an error that ends one rank of several is a LostProcessError, which says who and what to do.

    ``how_to_go_on`` says the latter, and is asked when it has happened. Errors that all ranks raise together stay as
    they are.
    """
    try:
        yield
    except LostProcessError as error:
        raise LostProcessError(
            f"{error}, and the run with it; what it said before, if anything, is the reason. {how_to_go_on()}"
        ) from None
    except BaseException as error:
        if world_size() == 1:
            raise
        if getattr(error, "agreed", False):
            # The launcher ends all when one has ended, but the first one has still to show the error.
            with contextlib.suppress(ValueError):
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            raise
        # The others know nothing of this: leaving in order might wait for what they are at.
        atexit.unregister(leave_group)
        if not isinstance(error, Exception):
            raise
        if not _is_of_a_collective(error):
            what = str(error) if isinstance(error, PersonSearchError) else f"{type(error).__name__}: {error}"
            raise LostProcessError(
                f"process {rank()} ended, and the run with it: {what.rstrip('.')}. {how_to_go_on()}"
            ) from error
        # A connection breaks a moment before its process ends, and the launcher is to see that one end first.
        time.sleep(2)
        lost = LostProcessError(f"{ANOTHER}, and the run with it. {how_to_go_on()}")
        if os.environ.get("ROLE_NAME") == ROLE:
            lost.exit_code, lost.shown_elsewhere = LOST, True
        raise lost from error


def leave_group() -> None:
    """Leave the other processes and end the threads that served to talk to them.

    One of these may still hold a tensor when the interpreter closes, and then aborts the process (pytorch issue
    190489). They end with the last thing that refers to the group, so what only waits to be collected is collected.
    """
    if distributed.is_available() and distributed.is_initialized():
        gc.collect()
        distributed.destroy_process_group()


def _is_of_a_collective(error: Exception) -> bool:
    text = str(error)
    return isinstance(error, distributed.DistError) or (
        isinstance(error, RuntimeError)
        and any(part in text for part in ("gloo", "Connection closed", "Connection reset", "NCCL"))
    )


def _own_command() -> list[str]:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is not None:
        return [sys.executable, "-m", spec.name, *sys.argv[1:]]
    if not Path(sys.argv[0]).is_file():
        raise UsageError("several processes are started by running this program again; run it from a script file")
    return [sys.executable, os.path.abspath(sys.argv[0]), *sys.argv[1:]]
