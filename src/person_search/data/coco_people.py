"""Which annotations of a COCO-style file are people, and where their ids stand: decided once for a file, and said."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from person_search.data.notes import Notes
from person_search.errors import DataError, UsageError

Entry = dict[str, Any]

PLACE = "place in the file's list"
"""Key under which an entry without an id remembers its place, from 1: no key of a file can be meant by it."""

PERSON_NAMES = {
    *("person", "persons", "people", "pedestrian", "pedestrians", "human", "humans"),
    *("man", "men", "woman", "women", "child", "children", "boy", "girl", "adult"),
}
"""Names of categories, in lower case, that are people."""

PERSON_ID, TRACK_ID = "person_id", "track_id"
"""Keys of a person's id: the documented one, and the one that CVAT writes among attributes."""

NO_IDS_OF_PEOPLE = {"id", "image_id", "category_id", "annotation_id"}
ID_WORDS = {"id", "ids", "pid", "tid", "uid", "identity", "identities", "trackid", "personid", "reid"}
ID_KEYS = {"person", "track"}


def whole_number(value: object) -> int | None:
    """``value`` as an int where it is a whole number: as such, as a float without fraction, or as text; else None."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, str) and (match := re.fullmatch(r"\s*([+-]?[0-9]+)(\.0*)?\s*", value)):
        return int(match[1])
    return None


def annotation_name(entry: Entry) -> str:
    """What an annotation is called in errors and notes: its id, or its place in the file."""
    return f"annotation {entry['id']}" if entry.get("id") is not None else f"annotation number {entry.get(PLACE)}"


def same_key(value: object) -> int | str | None:
    """An id of an image or a category, numbers alike however they are written; None for what is no id."""
    if isinstance(value, str):
        number = whole_number(value)
        # '007' may be another picture than '7': only what a number is written as is taken for it.
        return number if number is not None and value in (str(number), f"{number}.0") else value
    return whole_number(value)


def is_crowd(entry: Entry, where: str) -> bool:
    """Whether ``iscrowd`` is set. Raises DataError for anything but 0 and 1."""
    value = entry.get("iscrowd")
    number = int(value) if isinstance(value, bool) else 0 if value is None else whole_number(value)
    if number not in (0, 1):
        raise DataError(f"{where}: expected iscrowd 0 or 1, found {value!r}")
    return number == 1


@dataclass(frozen=True)
class PersonKey:
    """Where the ids of people stand: under ``key`` in the entry itself or in its attributes.

    ``only_attributes``: not in the entry itself.
    """

    key: str
    only_attributes: bool = False

    def value(self, entry: Entry) -> object:
        """What stands there, None for nothing: the entry itself goes before its attributes."""
        own = None if self.only_attributes else entry.get(self.key)
        return _attributes(entry).get(self.key) if _empty(own) else own

    def person(self, entry: Entry, where: str) -> int | None:
        """The id of a person, None without one. Raises DataError for what is no whole number, or two different ids."""
        found = self.value(entry)
        if _empty(found):
            return None
        number = whole_number(found)
        if number is None:
            raise DataError(f"{where}: expected a whole number as {self.key}, found {found!r}")
        second = _attributes(entry).get(self.key)
        if not _empty(second) and whole_number(second) != number:
            raise DataError(f"{where}: {self.key} is {found!r}, and {second!r} in its attributes; correct one")
        return number if number >= 0 else None


def find_person_key(path: Path, entries: Sequence[Entry], wanted: str | None, notes: Notes) -> PersonKey:
    """Where the person ids of a file stand, for all of it: ``wanted``, or ``person_id``, or CVAT's ``track_id``.

    Keys that look like ids and are not used are noted. Raises UsageError when nothing has the key that is ``wanted``.
    """
    ids = Counter(key for entry in entries for key, value in entry.items() if _looks_like_id(key, value))
    attribute_ids = Counter(
        key for entry in entries for key, value in _attributes(entry).items() if _looks_like_id(key, value)
    )
    if wanted is not None:
        chosen = PersonKey(wanted)
        if entries and all(_empty(chosen.value(entry)) for entry in entries):
            there = ", ".join(sorted({*ids, *attribute_ids})) or "none"
            raise UsageError(
                f"no annotation of '{path}' has `person_id_key` {wanted}, nor do its attributes; keys there that look "
                f"like ids: {there}"
            )
    elif ids[PERSON_ID] or attribute_ids[PERSON_ID] or not attribute_ids[TRACK_ID]:
        chosen = PersonKey(PERSON_ID)
    else:
        chosen = PersonKey(TRACK_ID, only_attributes=True)
        notes.add(path, f"the ids of people are {TRACK_ID} among the attributes; no annotation has {PERSON_ID}")
    for counts, place in ((ids, ""), (attribute_ids, " among their attributes")):
        for key, count in counts.items():
            if key != chosen.key or (chosen.only_attributes and not place):
                notes.add(
                    path,
                    f"{count} annotations have {key}{place}, which looks like an id and is not used; if it says who "
                    f"they are, say `person_id_key` {key}",
                )
    return chosen


def people_among(
    path: Path, categories: Sequence[Entry], entries: Sequence[Entry], person_key: PersonKey, notes: Notes
) -> list[bool]:
    """For each of the annotations ``entries`` of a file, whether its category is one of people.

    People are the categories with a person's name that own an annotation; where there is none, those whose
    supercategory has one; else the only category there is, or those that hold ids of people. What is decided is noted
    unless it is plain, and so is what is left out. Raises DataError for categories that contradict one another or that
    do not say who is a person.
    """
    names, above = _names_of(path, categories)
    keys = [same_key(entry.get("category_id")) for entry in entries]
    owned = Counter(key for key in keys if key is not None)
    if not names:
        if len(owned) > 1:
            notes.add(path, f"the file has no categories: annotations of its {len(owned)} category ids all are people")
        return [True] * len(entries)
    for entry, key in zip(entries, keys, strict=True):
        if key not in names and not _empty(entry.get("category_id")):
            raise DataError(
                f"'{path}' {annotation_name(entry)}: category_id {entry['category_id']!r} is not among the file's "
                "categories"
            )
    named = {key for key, name in names.items() if _plain(name) in PERSON_NAMES}
    under = {key for key in names if _plain(above[key]) in PERSON_NAMES and key in owned}
    identified = {
        key for entry, key in zip(entries, keys, strict=True) if key is not None and not _empty(person_key.value(entry))
    }
    if named & set(owned):
        people, why = named, "their names are a person's"
    elif under:
        people, why = under, "their supercategory is a person's"
    elif named:
        people, why = named, "their names are a person's"
    elif len(names) == 1:
        people, why = set(names), "there is no other"
    elif identified:
        people, why = identified, "none has a person's name, and these hold ids of people"
    elif owned:
        listed = ", ".join(f"'{names[key]}'" for key in list(names)[:5])
        raise DataError(
            f"'{path}': none of its {len(names)} categories ({listed}) is a person's, and no annotation has an id of a "
            "person; call the category of people 'person'"
        )
    else:
        return [True] * len(entries)
    if len(names) > 1 or not named:
        listed = ", ".join(f"'{names[key]}'" for key in names if key in people)
        notes.add(path, f"the people are the annotations of {listed}: {why}")
    chosen = [key is None or key in people for key in keys]
    if without := sum(key is None for key in keys):
        notes.add(path, f"{without} annotations have no category_id and count as people")
    _note_left_out(path, entries, keys, chosen, names, identified, person_key, notes)
    return chosen


def _note_left_out(
    path: Path,
    entries: Sequence[Entry],
    keys: Sequence[int | str | None],
    chosen: Sequence[bool],
    names: dict[int | str, str],
    identified: set[int | str],
    person_key: PersonKey,
    notes: Notes,
) -> None:
    for entry, key, person in zip(entries, keys, chosen, strict=True):
        if person or key is None:
            continue
        notes.add(path, "{n} annotations of other categories are not used", f"'{names[key]}'")
        if key in identified and not _empty(person_key.value(entry)):
            notes.add(
                path,
                f"{{n}} annotations have a {person_key.key} and are left out for their category; if they are people, "
                "give it a person's name",
                f"'{names[key]}', {annotation_name(entry)}",
            )


def _names_of(path: Path, categories: Sequence[Entry]) -> tuple[dict[int | str, str], dict[int | str, str]]:
    """Name and supercategory of every category id."""
    names: dict[int | str, str] = {}
    above: dict[int | str, str] = {}
    for number, category in enumerate(categories):
        key = same_key(category.get("id"))
        name = str(category.get("name"))
        if key is None:
            raise DataError(f"'{path}' categories, entry {number + 1}: expected \"id\", found {category.get('id')!r}")
        if names.setdefault(key, name) != name:
            raise DataError(f"'{path}': the category id {key!r} is both '{names[key]}' and '{name}'; correct one")
        above[key] = str(category.get("supercategory"))
    return names, above


def _plain(name: str) -> str:
    return name.strip().lower()


def _attributes(entry: Entry) -> Entry:
    attributes = entry.get("attributes")
    return attributes if isinstance(attributes, dict) else {}


def _empty(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _looks_like_id(key: str, value: object) -> bool:
    if key in NO_IDS_OF_PEOPLE or _empty(value) or not isinstance(value, int | float | str) or isinstance(value, bool):
        return False
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", key).lower()
    return words in ID_KEYS or bool(ID_WORDS & set(re.split(r"[^a-z0-9]+", words)))
