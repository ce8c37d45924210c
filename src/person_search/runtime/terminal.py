"""Where commands print: names of files, runs and datasets come out as they are."""

from __future__ import annotations

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
