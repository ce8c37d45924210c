"""An iterable that is read in a thread of its own while the reader's results are being worked on."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

Item = TypeVar("Item")

PATIENCE = 1.0
"""Seconds that ``close`` waits for an iterable that is at work on its next item."""


class ReadAhead(Generic[Item]):
    """Takes items from ``items`` in a thread of its own, which starts at once.

    The thread holds one item while ``ahead`` others wait to be taken, and then reads no further. It ends with the
    items, with an error among them, or after ``close``.
    """

    def __init__(self, items: Iterable[Item], *, ahead: int = 1):
        self._ahead = ahead
        self._waiting: deque[Item] = deque()
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._over = self._closed = False
        self._thread = threading.Thread(target=self._read, args=(items,), name="read-ahead", daemon=True)
        self._thread.start()

    def has_item(self) -> bool:
        """Whether ``take`` gives an item without waiting."""
        with self._changed:
            return bool(self._waiting)

    def take(self) -> Item | None:
        """The next item, None after the last; an error that came instead of one is raised as it is, once."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._over or self._closed)
            if self._waiting:
                self._changed.notify_all()
                return self._waiting.popleft()
            error, self._error = self._error, None
        if error is not None:
            raise error
        return None

    def close(self) -> None:
        """Read no further, and wait a moment for the thread to end.

        Nothing can end it while the iterable is at work on an item: it ends when that comes.
        """
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join(PATIENCE)

    def _read(self, items: Iterable[Item]) -> None:
        error = None
        try:
            for item in items:
                with self._changed:
                    self._changed.wait_for(lambda: self._closed or len(self._waiting) < self._ahead)
                    if self._closed:
                        return
                    self._waiting.append(item)
                    self._changed.notify_all()
        except BaseException as caught:
            error = caught
        finally:
            # What this thread holds of the iterable is let go before anybody hears that it is over.
            del items
            with self._changed:
                self._error, self._over = error, True
                self._changed.notify_all()
