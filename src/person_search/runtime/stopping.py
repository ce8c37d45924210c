"""Stopping a run by Ctrl-C or SIGTERM, between steps and with a checkpoint written."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from person_search.errors import PersonSearchError
from person_search.runtime.processes import started_by_launcher

SAME_WISH = 2.0
"""Seconds within which a second signal repeats the first: torchrun passes on the Ctrl-C that its processes had too."""


class InterruptedRunError(PersonSearchError):
    """The run was asked to stop, and did: the message says what is kept and how to go on."""

    exit_code = 130
    is_failure = False


class StoppedWaitingError(Exception):
    """A wish to stop came while this process waited for data."""


class StopRequest:
    """Whether Ctrl-C or SIGTERM came. The first asks to stop after the step; a second one stops at once."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._waiting = False

    @contextmanager
    def waiting(self, alone: bool) -> Iterator[None]:
        """Within the block, which changes nothing, a process that is ``alone`` is stopped by the first signal.

        Raises StoppedWaitingError. With others it goes on: they count on its part of the step.
        """
        if alone and self.wanted:
            raise StoppedWaitingError
        self._waiting = alone
        try:
            yield
        finally:
            self._waiting = False

    @property
    def wanted(self) -> bool:
        """Whether to stop after the step."""
        return self._since is not None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Signal handler."""
        now = time.monotonic()
        if self._since is None:
            self._since = now
            if self._waiting:
                raise StoppedWaitingError
        elif now - self._since > SAME_WISH or not started_by_launcher():
            raise KeyboardInterrupt


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Within the block SIGINT and SIGTERM only set ``wanted``. Outside the main thread signals stay as they are."""
    request = StopRequest()
    before: dict[int, Any] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, request)
    except ValueError:
        before.clear()
    try:
        yield request
    finally:
        for signal_number, handler in before.items():
            signal.signal(signal_number, handler)
