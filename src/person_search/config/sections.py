"""What every group of settings has in common: how it is read, and what its settings are called when they stand alone.

Settings form a tree, as YAML has it: ``model.rpn.nms``. Every leaf has a flat name too, ``rpn_nms``, by which flags and
``with_settings`` know it. Of some sections there are several kinds, one for each registered method, dataset or loss:
the kind is chosen by name and says which settings there are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from person_search.errors import UsageError
from person_search.registry import Registry

UNKNOWN_KEY = "unknown_key"
"""Type of the error for a key that a section does not have."""


def coerce(kind: Any, value: Any) -> Any:
    """``value`` as the type ``kind`` wants it, where a person writing YAML may spell it in another way.

    A number stands for text (``precision: 32``), one value for a list, ``C4 C5`` or ``480, 600`` for a list without
    brackets, ``None`` for nothing, ``~`` for the home folder. Whatever else is not of this type stays as it is.
    Raises ValueError for true or false where a number is wanted, which pydantic would read as 1 or 0.
    """
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) in (Union, UnionType):
        if isinstance(value, str) and value.lower() == "none" and NoneType in get_args(kind):
            return None
        kinds = [part for part in get_args(kind) if part is not NoneType]
        return coerce(kinds[0], value) if value is not None and len(kinds) == 1 else value
    if get_origin(kind) is tuple:
        (item, *_) = get_args(kind)
        if isinstance(value, str) and item is not str:
            value = value.replace(",", " ").split()
        values = value if isinstance(value, list | tuple) else () if value is None else (value,)
        return tuple(coerce(item, one) for one in values) if not isinstance(value, dict) else value
    if kind in (int, float) and isinstance(value, bool):
        raise ValueError("expected a number")
    texts = get_origin(kind) is Literal or kind in (str, Path)
    if texts and isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if kind is Path and isinstance(value, str | Path) and str(value).startswith("~"):
        return Path(os.path.expanduser(value))
    return value


class Section(BaseModel):
    """A group of settings: immutable, unknown keys refused, defaults validated.

    A section inside another one that is given in part goes over the default it has there, so that a method's own
    defaults stay where nothing else is said.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    kinds: ClassVar[Registry | None] = None
    """The names that choose a kind of this section, where there are several kinds."""
    chooser: ClassVar[str] = ""
    """The key that chooses it."""
    prefix: ClassVar[str] = ""
    """What the flat names of these settings begin with."""
    flat_names: ClassVar[Mapping[str, str]] = {}
    """The flat names that are not prefix and key."""
    at_test: ClassVar[tuple[str, ...]] = ()
    """Keys that may differ between training and test."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, values: Any) -> Any:
        unknown = (
            next((key for key in values if key not in cls.model_fields), None) if isinstance(values, dict) else None
        )
        if unknown is None:
            return values
        # In the order of the file, and before what else is wrong; with what describing it takes.
        problem = PydanticCustomError(UNKNOWN_KEY, "unknown key", {"section": cls})
        raise ValidationError.from_exception_data(
            cls.__name__, [InitErrorDetails(type=problem, loc=(str(unknown),), input=values[unknown])]
        )

    @field_validator("*", mode="before")
    @classmethod
    def _read(cls, value: Any, info: ValidationInfo) -> Any:
        field = cls.model_fields[str(info.field_name)]
        kind = section_kind(field.annotation)
        if kind is None:
            return coerce(field.annotation, value)
        return kind.over(field.get_default(call_default_factory=True), value)

    @classmethod
    def flat_name(cls, key: str) -> str:
        """What the setting ``key`` is called when it stands alone."""
        return cls.flat_names.get(key, cls.prefix + key)

    @classmethod
    def kind(cls, name: str) -> type[Section]:
        """The kind that ``name`` chooses. Raises ValueError, with the nearest name, for one that chooses none."""
        assert cls.kinds is not None
        try:
            found: type[Section] = cls.kinds.settings(name)
        except UsageError as error:
            raise ValueError(str(error)) from None
        return found

    @classmethod
    def chosen(cls, name: str, **settings: Any) -> Any:
        """Settings of the kind that ``name`` chooses. Raises ValueError, a ValidationError among them."""
        return cls.kind(name).model_validate({cls.chooser: name, **settings})

    @classmethod
    def over(cls, default: Any, given: Any) -> Any:
        """``given``, if it is a dict, as a section of the kind it chooses, over what ``default`` says explicitly.

        Another kind than the default's takes over what all kinds have. Raises ValidationError and ValueError.
        """
        if not isinstance(given, dict):
            return given
        kind, common = type(default), set(default.model_fields_set)
        name = coerce(str, given.get(cls.chooser)) if cls.kinds is not None else None
        if isinstance(name, str) and name != getattr(default, cls.chooser):
            kind, common = cls.kind(name), common & set(cls.model_fields)
        below = {key: getattr(default, key) for key in common}
        for key, value in given.items():
            inner = section_kind(kind.model_fields[key].annotation) if key in kind.model_fields else None
            if key in below and inner is not None:
                below[key] = inner.over(below[key], value)
            else:
                below[key] = value
        return kind.model_validate(below)


def section_kind(annotation: Any) -> type[Section] | None:
    """The section class that a field of this annotation holds; None for a plain setting."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return annotation if isinstance(annotation, type) and issubclass(annotation, Section) else None


@dataclass(frozen=True)
class Leaf:
    """One setting: its flat name, where it is (``("model", "rpn")`` and ``nms``), its section and its value."""

    name: str
    path: tuple[str, ...]
    section: type[Section]
    key: str
    value: Any

    @property
    def annotation(self) -> Any:
        """The type of its values."""
        return self.section.model_fields[self.key].annotation

    @property
    def description(self) -> str:
        """What it means; a class that only changes a default need not say it again."""
        fields = (base.model_fields.get(self.key) for base in self.section.__mro__ if issubclass(base, Section))
        return next((field.description for field in fields if field is not None and field.description), "")


def leaves(section: Section, path: tuple[str, ...] = ()) -> Iterator[Leaf]:
    """All settings in ``section`` and the sections in it, in their order."""
    kind = type(section)
    for key in kind.model_fields:
        value = getattr(section, key)
        if isinstance(value, Section):
            yield from leaves(value, (*path, key))
        else:
            yield Leaf(kind.flat_name(key), path, kind, key, value)


def flat(section: Section) -> dict[str, Any]:
    """The values of all settings in ``section`` by flat name."""
    return {leaf.name: leaf.value for leaf in leaves(section)}


def differences(section: Section, defaults: Section) -> dict[str, Any]:
    """The settings of ``section``, by flat name, that differ from ``defaults``.

    Where another kind is chosen, its name does, and what differs from that kind's defaults.
    """
    found: dict[str, Any] = {}
    for key, field in type(section).model_fields.items():
        value, default = getattr(section, key), getattr(defaults, key)
        kind = section_kind(field.annotation)
        if kind is None:
            if value != default:
                found[section.flat_name(key)] = value
            continue
        if kind.kinds is not None and (name := getattr(value, kind.chooser)) != getattr(default, kind.chooser):
            found[kind.flat_name(kind.chooser)] = name
            default = kind.over(default, {kind.chooser: name})
        found |= differences(value, default)
    return found


def nested(settings: Mapping[str, Any], defaults: Section) -> tuple[dict[str, Any], set[str]]:
    """``settings`` by flat name as a tree to go over ``defaults``, and the names that found a place in it.

    Names that choose a kind are read first. Raises ValueError for one that chooses none.
    """
    tree: dict[str, Any] = {}
    used: set[str] = set()
    for key, field in type(defaults).model_fields.items():
        kind = section_kind(field.annotation)
        if kind is None:
            name = defaults.flat_name(key)
            if name in settings:
                tree[key] = settings[name]
                used.add(name)
            continue
        inner = getattr(defaults, key)
        chosen = kind.flat_name(kind.chooser) if kind.kinds is not None else ""
        if isinstance(named := coerce(str, settings.get(chosen)), str):
            inner = kind.over(inner, {kind.chooser: named})
        part, names = nested(settings, inner)
        if part:
            tree[key] = part
        used |= names
    return tree, used


def chosen_kinds(tree: Mapping[str, Any], defaults: Section) -> dict[str, Any]:
    """The names, by flat name, that ``tree``, which is to go over ``defaults``, chooses kinds by. Raises ValueError."""
    found: dict[str, Any] = {}
    for key, field in type(defaults).model_fields.items():
        kind, given, inner = section_kind(field.annotation), tree.get(key), getattr(defaults, key)
        if kind is None or not isinstance(given, dict):
            continue
        if kind.kinds is not None and isinstance(given.get(kind.chooser), str):
            found[kind.flat_name(kind.chooser)] = given[kind.chooser]
            inner = kind.over(inner, {kind.chooser: given[kind.chooser]})
        found |= chosen_kinds(given, inner)
    return found


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two trees in one; where both say something, ``above`` holds."""
    both = {
        key: merged(below[key], value) if isinstance(value, dict) and isinstance(below.get(key), dict) else value
        for key, value in above.items()
    }
    return {**below, **both}
