"""Where commands print: names of files, runs and datasets come out as they are."""

from __future__ import annotations

import os
import select
import sys
from typing import Any

from rich.console import Console


class Terminal(Console):
    """A console that reads nothing into text: no ``[markup]``, no ``:emoji:``.

    A reader that leaves raises BrokenPipeError here, for the program to judge.
    """

    def __init__(self, **options: Any):
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def on_broken_pipe(self) -> None:
        """Raise the error again instead of ending the program."""
        raise


console = Terminal()
messages = Terminal(stderr=True)


def reader_has_left() -> bool:
    """Whether standard output is a pipe that nobody reads any more."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return True
    except (OSError, ValueError):
        return False
    if not hasattr(select, "poll"):
        return False
    try:
        watched = select.poll()
        watched.register(sys.stdout.fileno(), 0)
        return any(events & select.POLLERR for _, events in watched.poll(0))
    except (OSError, ValueError):
        return False


def discard_output() -> None:
    """Let standard output go nowhere, so that nothing complains when it is flushed at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
