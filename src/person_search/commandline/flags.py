"""Command-line flags made from the settings, so that each is written down once."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import tyro

from person_search.config.sections import Leaf, Section, leaves
from person_search.errors import UsageError, nearest


class UnknownOption(UsageError):
    """The command ``prog`` has no ``option`` (without dashes); another may have it."""

    def __init__(self, message: str, prog: str, option: str):
        super().__init__(message)
        self.prog, self.option = prog, option


def flags_like(settings: Section, only: Collection[str] | None = None) -> Any:
    """An instance of a dataclass with a flag for every setting in ``settings``, by flat name, described as there.

    With ``only`` there are flags for those names alone, and they are left unset (None). Ranges are not checked here but
    when the config is put together, whose errors name the key.
    """
    found = [leaf for leaf in leaves(settings) if only is None or leaf.name in only]
    return flags_for(found, type(settings).__name__, type(settings).__doc__, unset=only is not None)


def flags_for(settings: Iterable[Leaf], name: str, about: str | None, *, unset: bool) -> Any:
    """As ``flags_like``, for any settings, described as ``about`` as a whole."""
    fields: list[Any] = []
    for leaf in settings:
        kind: Any = leaf.annotation | None if unset else leaf.annotation
        described = Annotated[kind, tyro.conf.arg(help=leaf.description)]
        fields.append((leaf.name, described, dataclasses.field(default=None if unset else leaf.value)))
    made = dataclasses.make_dataclass(f"{name}Flags", fields, frozen=True)
    made.__doc__ = about
    return made()


def settings_in(options: Any, *, given_only: bool = False) -> dict[str, Any]:
    """A dataclass of flags as a plain dict; ``given_only`` leaves out those that are None."""
    values = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    return {key: value for key, value in values.items() if value is not None} if given_only else values


def command(name: str, summary: str, parts: Iterable[tuple[str, Any, Any]]) -> Any:
    """A dataclass of one command's flags: ``parts`` are (name, type, default)."""
    made = dataclasses.make_dataclass(
        name, [(key, kind, dataclasses.field(default=default)) for key, kind, default in parts], frozen=True
    )
    made.__doc__ = summary
    return made


Hint = Callable[[str], str]
"""What to say of an unknown option, by flat name of the setting that it would be; empty for nothing."""


def parse_flags(kind: Any, arguments: Sequence[str], *, prog: str, hint: Hint = lambda _: "") -> Any:
    """Read ``arguments`` into a new ``kind``.

    Prints help and exits for ``--help``. Raises UsageError, in one line, for anything that is not understood.
    """
    return parse_with_files(kind, arguments, prog=prog, files=0, hint=hint)[0]


def parse_with_files(
    kind: Any, arguments: Sequence[str], *, prog: str, files: int, hint: Hint = lambda _: ""
) -> tuple[Any, list[str]]:
    """``parse_flags``, and beside it up to ``files`` words that belong to no option, wherever they stand."""
    known, words = _arranged(kind, arguments, prog, files, hint)
    return _parsed(kind, known, prog), words


def _arranged(kind: Any, arguments: Sequence[str], prog: str, files: int, hint: Hint) -> tuple[list[str], list[str]]:
    """The options in the one form that the parser reads alike wherever they stand, and the words beside them."""
    kinds = _kinds(kind)
    given: dict[str, list[str]] = {}
    words: list[str] = []
    left = list(arguments)
    lists: list[list[str]] = []
    while left:
        argument = left.pop(0)
        if argument in ("-h", "--help"):
            return ["--help"], []
        if argument == "--":
            words += left
            break
        if not is_option(argument):
            words.append(argument)
            continue
        written, equals, value = argument.partition("=")
        name = written[2:].replace("_", "-") if written.startswith("--") else ""
        negated = name not in kinds and name.startswith("no-") and _is_switch(kinds.get(name[3:]))
        key = name[3:] if negated else name
        if key not in kinds:
            said = hint(name.replace("-", "_")) or hint(name.removeprefix("no-").replace("-", "_"))
            if said:
                raise UsageError(f"{prog}: unknown option '{argument}'.{said}")
            known = nearest(f"--{name or written}", [f"--{one}" for one in kinds]) or " See --help."
            owned = name.removeprefix("no-") if written.startswith("--no-") else name
            raise UnknownOption(f"{prog}: unknown option '{argument}'.{known}", prog, owned)
        if key in given:
            raise UsageError(f"{prog}: --{key} is given twice; give it once")
        if _is_switch(kinds[key]):
            if not equals and not negated and left and left[0].lower() in _TRUTH:
                equals, value = "=", left.pop(0)
            given[key] = _switch(kinds[key], key, prog, negated, value if equals else None)
            continue
        if equals:
            values = [value] if value or not _is_list(kinds[key]) else []
        elif _is_list(kinds[key]):
            values = _taken(left, _items(kinds[key]))
            lists = [values]
        else:
            values = [left.pop(0)] if left and not is_option(left[0]) else []
        if not values and not equals:
            raise UsageError(f"{prog}: {written} needs a value")
        # A list that the files are taken from is text, so that nothing in it changes here.
        values[:] = [_number(kinds[key], one, f"{prog}: --{key}") for one in values]
        given[key] = values
    if len(words) < files and lists:
        # The last words of a list of text are the files, where files are missing.
        (values,) = lists
        missing = min(files - len(words), len(values) - 1)
        words += [values.pop() for _ in range(missing)][::-1]
    if len(words) > files:
        raise UsageError(f"{prog}: '{words[files]}' belongs to no option; see --help")
    arranged: list[str] = []
    for key, values in given.items():
        if _is_switch(kinds[key]):
            arranged += values
        elif _is_list(kinds[key]):
            arranged += [f"--{key}", *values]
        else:
            arranged.append(f"--{key}={values[0]}")
    return arranged, words


_TRUTH = {"true": "True", "false": "False", "none": "None"}


def is_option(argument: str) -> bool:
    """Whether ``argument`` is an option and not a value, such as a number below zero."""
    return argument.startswith("-") and argument != "-" and not re.match(r"-\.?\d", argument)


def _is_switch(kind: Any) -> bool:
    return bool in _parts(kind)


def _switch(kind: Any, key: str, prog: str, negated: bool, value: str | None) -> list[str]:
    truth = _TRUTH.get(value.lower()) if value is not None else "True"
    three = type(None) in _parts(kind)
    if truth is None or (negated and value is not None) or (truth == "None" and not three):
        name = f"no-{key}" if negated else key
        raise UsageError(f"{prog}: --{name}={value}: expected --{key} or --no-{key} alone")
    truth = "False" if negated else truth
    return [f"--{key}", truth] if three else [f"--{key}" if truth == "True" else f"--no-{key}"]


def _is_list(kind: Any) -> bool:
    return any(get_origin(part) is tuple for part in _parts(kind))


def _items(kind: Any) -> Any:
    (item,) = {get_args(part)[0] for part in _parts(kind) if get_origin(part) is tuple}
    return _parts(item)[0]


def _taken(left: list[str], item: Any) -> list[str]:
    """Take the values of a list from the front of ``left``: for numbers, as long as there are numbers."""
    values: list[str] = []
    while left and not is_option(left[0]):
        if item in (int, float) and values and not re.match(r"[-+.]?\d|none$", left[0], re.IGNORECASE):
            break
        if get_origin(item) is Literal and values and left[0] not in get_args(item):
            break
        values.append(left.pop(0))
    return values


def _number(kind: Any, value: str, where: str) -> str:
    """``value`` of an option for numbers, None as the parser spells it; of any other option as it is."""
    kinds = {
        one for part in _parts(kind) for one in (_parts(get_args(part)[0]) if get_origin(part) is tuple else [part])
    }
    if not kinds <= {int, float, type(None)}:
        return value
    optional = type(None) in kinds
    if optional and value.lower() == "none":
        return "None"
    try:
        float(value) if float in kinds else int(value)
    except ValueError:
        expected = "a number" if float in kinds else "a whole number"
        raise UsageError(f"{where}: expected {expected}{' or None' if optional else ''}, found '{value}'") from None
    return value


def _parts(kind: Any) -> list[Any]:
    """The kinds that a value may be of, without annotations."""
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    return (
        [one for part in get_args(kind) for one in _parts(part)] if get_origin(kind) in (Union, UnionType) else [kind]
    )


def option_names(kind: Any) -> set[str]:
    """The options of ``kind``, without dashes in front."""
    return set(_kinds(kind))


def _kinds(kind: Any) -> dict[str, Any]:
    """Option name -> type, over the groups of ``kind``."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(field.type):
            found |= _kinds(field.type)
        else:
            found[field.name.replace("_", "-")] = field.type
    return found


def _parsed(kind: Any, arguments: Sequence[str], prog: str) -> Any:
    output = io.StringIO()
    try:
        with contextlib.redirect_stderr(output):
            options = tyro.cli(
                kind,
                args=list(arguments),
                prog=prog,
                default=kind() if _has_defaults(kind) else None,
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.AvoidSubcommands),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UsageError(f"{prog}: {_one_line(output.getvalue())}") from None
    return options


def _has_defaults(kind: Any) -> bool:
    return all(field.default is not dataclasses.MISSING for field in dataclasses.fields(kind))


def _one_line(box: str) -> str:
    """The message in a framed error, without frame and help text."""
    kept: list[str] = []
    for line in box.splitlines():
        text = re.sub(r"^[│|]\s?|\s*[│|]$", "", line).strip()
        if text.startswith(("╭", "╰")):
            continue
        if kept and set(text) <= {"─"}:
            break
        kept.append(text)
    return " ".join(part for part in kept if part) or "wrong options; see --help"


def take_option(arguments: Sequence[str], name: str) -> tuple[str | None, list[str]]:
    """The value of ``--name VALUE`` or ``--name=VALUE`` in ``arguments``, and the rest. Raises UsageError."""
    rest: list[str] = []
    value = None
    left = list(arguments)
    while left:
        argument = left.pop(0)
        if argument == name:
            if not left or is_option(left[0]):
                raise UsageError(f"{name} needs a value")
            taken = left.pop(0)
        elif argument.startswith(name + "="):
            taken = argument.partition("=")[2]
        else:
            rest.append(argument)
            continue
        if value is not None:
            raise UsageError(f"{name} is given twice; give it once")
        value = taken
    return value, rest


def given_in(arguments: Sequence[str], names: Collection[str]) -> set[str]:
    """Which settings, by flat name, ``arguments`` have options of, ``--no-`` ones too; errors as for ``values_of``."""
    found: set[str] = set()
    for argument in arguments:
        if argument == "--":
            break
        if argument.startswith("--"):
            name = argument[2:].partition("=")[0].replace("-", "_")
            found |= {name, name.removeprefix("no_")}
    return found & set(names)


def values_of(arguments: Sequence[str], names: Collection[str]) -> dict[str, list[str]]:
    """The words after the options of these settings, by flat name: a first look, errors are left to ``parse_flags``."""
    found: dict[str, list[str]] = {}
    taking: list[str] = []
    for argument in arguments:
        if argument == "--":
            break
        if not is_option(argument):
            taking.append(argument)
            continue
        written, equals, value = argument.partition("=")
        taking = [value] if equals else []
        name = written.removeprefix("--").replace("-", "_")
        if written.startswith("--") and name in names:
            found[name] = taking
    return found
