"""What a person put into a file and the program does not use, or reads otherwise than written: named, never dropped."""

from __future__ import annotations

from pathlib import Path

SHOWN = 3
"""Entries of one kind that a line names."""


class Notes:
    """Collects what is to be said of a dataset's files: entries of one kind are counted and become one line.

    Loaders add to it while they read; ``info``, training and evaluation print the lines.
    """

    def __init__(self) -> None:
        self._entries: dict[tuple[str, str], list[str]] = {}

    def add(self, source: Path | str, what: str, entry: str = "") -> None:
        """Note one ``entry`` of the file or folder ``source``.

        ``what`` says in words what is not used, why, and what to do about it; ``{n}`` in it becomes the number of
        entries noted with the same ``source`` and ``what``. The first few of these entries are named.
        """
        self._entries.setdefault((str(source), what), []).append(entry)

    def lines(self) -> tuple[str, ...]:
        """One line for each kind, in the order of their first entries."""
        return tuple(
            f"'{source}': {what.replace('{n}', str(len(entries)))}{_named(entries)}"
            for (source, what), entries in self._entries.items()
        )


def _named(entries: list[str]) -> str:
    named = list(dict.fromkeys(entry for entry in entries if entry))
    if not named:
        return ""
    more = ", ..." if len(named) > SHOWN else ""
    return f" ({', '.join(named[:SHOWN])}{more})"
