"""The entry point: which command is asked for, and how its errors are shown. Only that command's parts are imported.

``dispatch`` here calls the function of ``parsing`` that has the command's name. It reads the options, which ``options``
declares for each command from the parts in ``shared_options``; ``flags`` turns settings into options and reads words
into values. The function then calls ``run_*`` of ``commands``, which does the work. ``reference_options`` stands apart:
it reads the reference implementation's command line for ``main.py``, which calls ``commands`` too.
"""

from __future__ import annotations

import os
import select
import sys
import traceback
from collections.abc import Callable, Sequence

from person_search import __version__
from person_search.errors import PersonSearchError, UsageError, as_options, nearest

COMMANDS = {
    "train": "Train a model, or go on with a run.",
    "evaluate": "Run a trained model on a test split and score it.",
    "predict": "Run a trained model on a test split and write its predictions file.",
    "score": "Score a predictions file, whoever made it; needs annotations but no images and no model.",
    "compare": "Score two predictions files and say where they differ.",
    "info": "Count what is in a dataset, and compare it with the published numbers.",
    "convert": "Write a checkpoint of another project, or a run's model alone, in this program's format.",
    "models": "List the released models that have names; they are fetched when they are used.",
    "visualize": "Draw who in a folder of pictures looks most like the person in a box.",
    "synth": "Make a synthetic dataset.",
    "report": "Write the report page of an evaluated run.",
}
"""What each command does; how its options are read stands in ``parsing``, in a function of the same name."""


def usage() -> str:
    """The overview that ``--help`` prints."""
    width = max(len(name) for name in COMMANDS)
    lines = [f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            "usage: person-search COMMAND [options]",
            "",
            "Person search: find a person in whole scene images.",
            "",
            "commands:",
            *lines,
            "",
            "person-search COMMAND --help shows a command's options. --debug shows the traceback of an error,",
            "--version the version.",
        ]
    )


def run(arguments: Sequence[str], execute: Callable[[Sequence[str]], None]) -> int:
    """Run ``execute`` on ``arguments`` and return the exit code; errors are printed in one line.

    ``--debug`` anywhere shows tracebacks instead.
    """
    debug = "--debug" in arguments
    try:
        execute([argument for argument in arguments if argument != "--debug"])
        sys.stdout.flush()
    except PersonSearchError as error:
        if debug:
            traceback.print_exc()
        if not error.shown_elsewhere:
            print(f"{'error: ' if error.is_failure else ''}{as_options(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped: nothing incomplete was written; run the command again", file=sys.stderr)
        return 130
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _reader_has_left():
            # `| head` has what it wanted; nothing is wrong.
            _discard_output()
            return 0
        if debug:
            raise
        reason = (str(error).splitlines() or [""])[0]
        print(f"error: {type(error).__name__}: {reason} (--debug shows where)", file=sys.stderr)
        return 1
    return 0


def dispatch(arguments: Sequence[str]) -> None:
    """Call the command that ``arguments`` name. Raises UsageError for an unknown one."""
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        print(usage())
        if not arguments:
            raise UsageError("no command given")
        return
    if arguments[0] == "--version":
        print(f"person-search {__version__}")
        return
    name = arguments[0]
    if name not in COMMANDS:
        hint = nearest(name, COMMANDS) or f" Commands: {', '.join(COMMANDS)}."
        raise UsageError(f"unknown command '{name}'.{hint}")
    from person_search.commandline import parsing
    from person_search.commandline.flags import UnknownOption, option_names
    from person_search.commandline.options import OPTIONS
    from person_search.config import Config

    try:
        getattr(parsing, name)(arguments[1:])
    except UnknownOption as error:
        owners = [name for name, options in OPTIONS.items() if error.option in option_names(options(Config()))]
        if owners:
            raise UsageError(f"{error.prog}: --{error.option} is an option of {', '.join(owners)}") from None
        raise


def _reader_has_left() -> bool:
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


def _discard_output() -> None:
    """Let standard output go nowhere, so that nothing complains when it is flushed at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def main() -> None:
    """Entry point of ``person-search``."""
    sys.exit(run(sys.argv[1:], dispatch))
