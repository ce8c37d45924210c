"""The errors a user meets: one line each, saying what was expected, what was found and what to do.

A message names settings and parameters in backquotes, as whoever writes Python knows them: choose another `run_dir`.
The command line shows them as its options (``as_options``): choose another --run-dir.

The command line prints the message alone (``--debug`` adds the traceback) and exits with ``exit_code``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

_NAMED = re.compile(r"`([a-z]\w*)`")


class PersonSearchError(Exception):
    """A run-time failure that the user can do something about. Exit code 1."""

    exit_code = 1
    is_failure = True
    """Something went wrong; else somebody asked for the end, and the message is not shown as that of an error."""
    agreed = False
    """All processes of the run raised this error together."""
    shown_elsewhere = False
    """Another of these processes shows it, so this one need not."""


class UsageError(PersonSearchError):
    """A wrong option, key, name or value: nothing was started. Exit code 2."""

    exit_code = 2


class DataError(PersonSearchError):
    """A dataset, image or predictions file that is missing, damaged or not what it claims to be."""


class CheckpointError(PersonSearchError):
    """A checkpoint that cannot be read, written, or used with this model."""


class DownloadError(PersonSearchError):
    """A file that could not be fetched, or is not what was expected."""


def as_options(message: str) -> str:
    """``message`` for the command line: a setting or parameter in backquotes, as `run_dir`, becomes --run-dir."""
    return _NAMED.sub(lambda found: "--" + found[1].replace("_", "-"), message)


def as_settings(message: str) -> str:
    """``message`` for a file: a setting or parameter in backquotes, as `run_dir`, becomes run_dir, as in YAML."""
    return _NAMED.sub(r"\1", message)


def nearest(name: str, known: Iterable[str]) -> str:
    """``" Did you mean 'x'?"`` for the known name most like ``name``, or an empty string."""
    by_letters = {each.casefold(): each for each in known}
    matches = difflib.get_close_matches(name.casefold(), by_letters, n=1, cutoff=0.5)
    return f" Did you mean '{by_letters[matches[0]]}'?" if matches else ""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, for one-line messages."""
    return (str(error).splitlines() or [type(error).__name__])[0]
