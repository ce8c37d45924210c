"""Command-line flags made from the settings, so that each is written down once."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import tyro
from pydantic import BaseModel

from person_search.errors import UsageError, nearest


@functools.cache
def flags_of(model: Any, only: tuple[str, ...] | None = None) -> Any:
    """A dataclass with a flag for every setting of the pydantic ``model`` (or those in ``only``), described as there.

    With ``only``, flags may be left unset (None). Ranges are not checked here but when the config is put together,
    whose errors name the key.
    """
    fields: list[Any] = []
    for key in only or model.model_fields:
        field = model.model_fields[key]
        kind: Any = field.annotation if only is None else field.annotation | None
        described = Annotated[kind, tyro.conf.arg(help=field.description)]
        fields.append((key, described, dataclasses.field(default=None if only else field.get_default())))
    made = dataclasses.make_dataclass(f"{model.__name__}Flags", fields, frozen=True)
    made.__doc__ = model.__doc__
    return made


def flags_like(settings: BaseModel) -> Any:
    """An instance of ``flags_of`` with the values of ``settings``."""
    return flags_of(type(settings))(**{key: getattr(settings, key) for key in type(settings).model_fields})


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


def parse_flags(kind: Any, arguments: Sequence[str], *, prog: str) -> Any:
    """Read ``arguments`` into a new ``kind``.

    Prints help and exits for ``--help``. Raises UsageError, in one line, for anything that is not understood.
    """
    output = io.StringIO()
    try:
        with contextlib.redirect_stderr(output):
            options, unknown = tyro.cli(
                kind,
                args=list(arguments),
                prog=prog,
                default=kind() if _has_defaults(kind) else None,
                return_unknown_args=True,
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.AvoidSubcommands),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UsageError(f"{prog}: {_one_line(output.getvalue())}") from None
    if unknown:
        name = unknown[0].split("=")[0].lstrip("-").replace("_", "-")
        hint = nearest(f"--{name}", [f"--{known}" for known in _names(kind)]) or " See --help."
        raise UsageError(f"{prog}: unknown option '{unknown[0]}'.{hint}")
    return options


def _has_defaults(kind: Any) -> bool:
    return all(field.default is not dataclasses.MISSING for field in dataclasses.fields(kind))


def _names(kind: Any) -> list[str]:
    names = []
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(field.type):
            names += _names(field.type)
        else:
            names.append(field.name.replace("_", "-"))
    return names


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
    """The last value of ``--name VALUE`` or ``--name=VALUE`` in ``arguments``, and the rest. Raises UsageError."""
    rest: list[str] = []
    value = None
    left = list(arguments)
    while left:
        argument = left.pop(0)
        if argument == name:
            if not left:
                raise UsageError(f"{name} needs a value")
            value = left.pop(0)
        elif argument.startswith(name + "="):
            value = argument.partition("=")[2]
        else:
            rest.append(argument)
    return value, rest
