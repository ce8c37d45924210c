"""Programs that want a process of their own, without the seconds in which each would import PyTorch.

They are forked from a process that has imported it and done nothing else: the fork server of ``multiprocessing``, one
for each process of tests.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["torch", "torchvision", "person_search.training.trainer"])


def run_forked(
    program: Callable[..., object],
    *arguments: object,
    argv: Sequence[str] = (),
    environment: Mapping[str, str] = os.environ,
    cwd: str | Path | None = None,
    timeout: float = 300,
) -> subprocess.CompletedProcess[str]:
    """Call ``program(*arguments)`` in a process of its own and return how it ended, as ``subprocess.run`` does.

    Args:
        program: a function that can be pickled. What this process has registered and patched is not there.
        argv: what follows the program's name in ``sys.argv``.
        cwd: the working directory; None: this process's.
    """
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder) / name for name in ("stdout", "stderr")]
        own = (program, arguments, [str(word) for word in argv], dict(environment), cwd or os.getcwd(), outputs)
        process = SERVER.Process(target=_execute, args=own)
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired([*argv], timeout)
        return subprocess.CompletedProcess([*argv], process.exitcode, *(path.read_text() for path in outputs))


def _execute(
    program: Callable[..., object],
    arguments: tuple[object, ...],
    argv: list[str],
    environment: dict[str, str],
    cwd: str | Path,
    outputs: list[Path],
) -> None:
    # Its own children come into being as those of any program, and not as children of the server, as it did itself.
    multiprocessing.set_start_method(None, force=True)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    for number, path in enumerate(outputs, 1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    if "OMP_NUM_THREADS" in environment:
        # Read when torch is imported, which was before.
        torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    sys.argv = ["program", *argv]
    try:
        program(*arguments)
    finally:
        # As at the end of any program; multiprocessing leaves it out.
        atexit._run_exitfuncs()
