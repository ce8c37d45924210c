"""How settings are read: YAML files and flags over the defaults, and errors that name the key."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

import yaml
from pydantic import ValidationError

from person_search.config.migration import migrated
from person_search.config.sections import (
    UNKNOWN_KEY,
    Section,
    chosen_kinds,
    coerce,
    differences,
    flat,
    leaves,
    merged,
    nested,
    section_kind,
)
from person_search.config.settings import Config, MethodSettings
from person_search.errors import UsageError, nearest
from person_search.registry import import_modules

log = logging.getLogger(__name__)


@contextmanager
def plugins_imported(names: Sequence[str]) -> Iterator[None]:
    """Read settings with plug-ins imported. That one could not be is the error where the settings are wrong then."""
    missing: UsageError | None = None
    try:
        import_modules(names)
    except UsageError as error:
        missing = error
    try:
        yield
    except UsageError as error:
        raise missing or error from None


def with_settings(config: Config, **settings: Any) -> Config:
    """``config`` with settings changed by their flat names (``lr=0.01``, ``rpn_nms=0.6``), validated.

    Where another method, dataset, loss or backbone is chosen, what was changed in ``config`` goes along as far as the
    new one has such settings. Raises UsageError.
    """
    return change_settings(config, settings)[0]


def change_settings(config: Config, settings: Mapping[str, Any]) -> tuple[Config, dict[str, Any]]:
    """``with_settings``, and what was changed in ``config`` and is left out, by flat name."""
    with plugins_imported(coerce(tuple[str, ...], settings.get("plugins"))):
        kept = _changed(config)
        tree, used = _nested({**kept, **settings}, "settings")
        new = _validated(tree, "settings")
        unknown = next((name for name in settings if name not in used), None)
        if unknown in Config.model_fields:
            raise UsageError(f"'{unknown}' is a section of settings; give the settings in it by their own names")
        if unknown is not None:
            raise UsageError(f"unknown setting '{unknown}'.{owner_hint(unknown, new) or nearest(unknown, flat(new))}")
        return new, {name: value for name, value in kept.items() if name not in used}


def parse_config(tree: Any, source: str, *, over: Config | None = None) -> Config:
    """A nested dict as Config, over the defaults or the settings ``over``.

    Raises UsageError with ``source``, the key and the nearest known key.
    """
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise UsageError(f"{source}: expected sections {', '.join(Config.model_fields)}, found {type(tree).__name__}")
    data = tree.get("data")
    with plugins_imported(coerce(tuple[str, ...], data.get("plugins")) if isinstance(data, dict) else ()):
        defaults = over or Config()
        tree = migrated(tree, defaults, source, owner_sentence=lambda name: _owner_sentence(name, defaults))
        if over is not None:
            try:
                base, _ = change_settings(over, chosen_kinds(tree, over))
            except ValueError as error:
                raise UsageError(f"{source}: {error}") from None
            tree = merged(_nested(_changed(base), source)[0], tree)
        return _validated(tree, source)


def _changed(config: Config) -> dict[str, Any]:
    """What differs from the defaults, by flat name, and what is said of the evaluation though it is the default.

    The latter counts where a checkpoint has settings of its evaluation: they hold where nobody says otherwise.
    """
    said = config.evaluation.model_fields_set
    return {**differences(config, Config()), **{key: getattr(config.evaluation, key) for key in said}}


def _nested(settings: Mapping[str, Any], source: str) -> tuple[dict[str, Any], set[str]]:
    try:
        return nested(settings, Config())
    except ValueError as error:
        raise UsageError(f"{source}: {error}") from None


def _validated(tree: dict[str, Any], source: str) -> Config:
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise UsageError(f"{source}: {describe(error)}") from None


def read_method_settings(tree: Any, source: str) -> MethodSettings:
    """The settings of a method as a checkpoint keeps them. Raises UsageError where this version does not know them."""
    if isinstance(tree, dict) and tree.get("cws"):
        log.warning(
            "%s: its 'cws' of version 0.1.0 is a setting of the evaluation now: set `cws` there, unless the "
            "config.yaml beside it does",
            source,
        )
    return parse_config({"model": tree}, source).model


def method_settings(method: str, **settings: Any) -> MethodSettings:
    """The settings of a method, with some changed by flat name. Raises UsageError."""
    return override(with_settings(Config(), method=method).model, settings)


def override(config: MethodSettings, settings: Mapping[str, Any]) -> MethodSettings:
    """``config`` with settings of the model changed by flat name. Raises UsageError."""
    whole = Config(model=config)
    for name in settings:
        if name in flat(whole) and name not in flat(config):
            raise UsageError(f"'{name}' is no model setting.{nearest(name, flat(config))}")
    return with_settings(whole, **settings).model


def describe(error: ValidationError) -> str:
    """The first problem of a pydantic error, in one line, naming the key and, if it is unknown, the nearest one."""
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] == UNKNOWN_KEY:
        section: type[Section] = first["ctx"]["section"]
        return f"unknown key '{path}'.{_unknown_key_hint(str(first['loc'][-1]), section)}"
    message = first["msg"].removeprefix("Value error, ")
    given = first.get("input")
    found = f", found {given!r}" if isinstance(given, int | float | str | bool | list | tuple) else ""
    return f"{path}: {message}{found}" if path else message


def _unknown_key_hint(key: str, section: type[Section]) -> str:
    """What helps who wrote ``key``, which ``section`` does not have."""
    own = next((base for base in section.__mro__ if issubclass(base, Section) and base.kinds is not None), None)
    if own is not None and (names := _kinds_with(own, lambda kind: key in type(kind).model_fields)):
        return f" It is a setting of {names}."
    for leaf in leaves(Config()):
        if key in (leaf.key, leaf.name) and leaf.section is not section:
            return f" (it belongs under '{'.'.join(leaf.path)}:'{'' if key == leaf.key else f' as {leaf.key}'})"
    if found := owner_hint(key, Config()) or nearest(key, section.model_fields):
        return found
    near = nearest(key, [leaf.key for leaf in leaves(Config())])
    places = (".".join(leaf.path) for leaf in leaves(Config()) if near == nearest(leaf.key, [leaf.key]))
    return near and f"{near} It is under '{next(places)}:'."


def owner_hint(name: str, config: Config) -> str:
    """``" It is a setting of the method 'baseline'."``: who has the flat name ``name``, which ``config`` does not.

    Empty for one that ``config`` has, or nobody.
    """
    return "" if name in flat(config) else _owner_sentence(name, config)


def _owner_sentence(name: str, config: Config) -> str:
    for section in reversed([*_sections_with_kinds(config)]):
        if names := _kinds_with(section, lambda kind: name in _fixed_flat_names(kind)):
            return f" It is a setting of {names}."
    return ""


def chosen_names(config: Config) -> dict[str, str]:
    """What is chosen in ``config`` by name, by flat name: dataset, method, and what else the method has kinds of."""
    values = flat(config)
    names = [section.flat_name(section.chooser) for section in _sections_with_kinds(config)]
    return {name: values[name] for name in names}


def _kinds_with(section: type[Section], has: Callable[[Section], bool]) -> str:
    """The kinds of ``section`` of which ``has`` is true, in words."""
    assert section.kinds is not None
    names = [f"'{name}'" for name in section.kinds.names() if has(section.chosen(name))]
    return f"the {section.kinds.kind} {' or '.join(names)}" if names else ""


def _sections_with_kinds(section: Section) -> Iterator[type[Section]]:
    """The sections in ``section``, outer ones first, of which there are several kinds."""
    for key, field in type(section).model_fields.items():
        kind = section_kind(field.annotation)
        if kind is not None:
            if kind.kinds is not None:
                yield kind
            yield from _sections_with_kinds(getattr(section, key))


def _fixed_flat_names(section: Section) -> Iterator[str]:
    """Flat names of the settings in ``section``, without those of which a name inside it chooses the kind."""
    for key, field in type(section).model_fields.items():
        kind = section_kind(field.annotation)
        if kind is None:
            yield section.flat_name(key)
        elif kind.kinds is None:
            yield from _fixed_flat_names(getattr(section, key))


def load_config(path: str | Path, *, over: Config | None = None) -> Config:
    """Read a YAML file over the defaults, or over the settings ``over``.

    A file may name another one that it builds on with the key ``base``, relative to its own folder: the settings of the
    base are read first, and the file's own go on top as flags would. A base may have a base too. Raises UsageError.
    """
    return _load(Path(path), over, ())


def _load(path: Path, over: Config | None, derived: tuple[Path, ...]) -> Config:
    """The settings in ``path``, on which the files ``derived`` build, the first one asked for first."""
    chain = (*derived, path)
    if path.resolve() in (each.resolve() for each in derived):
        raise UsageError(
            f"config '{chain[0]}' builds on itself: {' -> '.join(map(str, chain))}; take 'base' out of one of them"
        )
    tree = read_yaml(path, f"config '{path}'" + (f", the base of '{derived[-1]}'" if derived else ""))
    if isinstance(tree, dict) and "base" in tree:
        base = tree.pop("base")
        if not isinstance(base, str) or not base:
            raise UsageError(f"config '{path}': base: expected the name of a YAML file, found {base!r}")
        over = _load(path.parent / base, over, chain)
    return parse_config(tree, f"config '{path}'", over=over)


class UniqueKeyLoader(yaml.SafeLoader):
    """PyYAML's safe loader, which would let the last of two equal keys win without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A dict of ``node``. Raises yaml.YAMLError for a key that is there twice."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        problem=f"the key '{key.value}' is there twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, what: str) -> Any:
    """What the YAML file ``path`` holds. Raises UsageError, in which ``what`` names the file."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read {what}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{what} is not YAML: it is no UTF-8 text") from None
    try:
        return yaml.load(text, UniqueKeyLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise UsageError(f"{what} is not valid YAML{where}: {getattr(error, 'problem', error)}") from None


def to_yaml(config: Config) -> str:
    """``config`` as YAML text that ``load_config`` reads back to an equal config, paths with forward slashes."""
    return yaml.safe_dump(to_builtins(config.model_dump()), sort_keys=False, allow_unicode=True)


def to_builtins(value: Any) -> Any:
    """``value`` with paths as text that every system reads, and lists for tuples."""
    if isinstance(value, PurePath):
        return value.as_posix()
    if isinstance(value, dict):
        return {key: to_builtins(each) for key, each in value.items()}
    return [to_builtins(each) for each in value] if isinstance(value, tuple | list) else value
