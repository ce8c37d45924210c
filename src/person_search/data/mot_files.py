"""The files of one MOTChallenge sequence: seqinfo.ini, the frames of img1, and the rows of gt.txt."""

from __future__ import annotations

import codecs
import configparser
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from person_search.data.image_header import IMAGE_SUFFIXES
from person_search.data.notes import Notes
from person_search.errors import DataError

LAYOUT = "one folder per sequence (or one sequence), each with seqinfo.ini, img1/ and gt/gt.txt"
CLASSES = {
    1: "pedestrian",
    2: "person on vehicle",
    3: "car",
    4: "bicycle",
    5: "motorbike",
    6: "non motorized vehicle",
    7: "static person",
    8: "distractor",
    9: "occluder",
    10: "occluder on the ground",
    11: "occluder full",
    12: "reflection",
    13: "crowd",
}
"""Column 8 of gt.txt from MOT16 on (Milan et al., "MOT16", 2016, and the development kit)."""
PEOPLE = {"person", "pedestrian", "people", "persons", "pedestrians", "human"}
"""Classes that are people to find."""
UNCERTAIN = {"person on vehicle", "static person", "distractor", "reflection", "crowd"}
"""Classes that look like people and are ignored."""
NO_CLASS = -1
WORLD_COLUMNS = 10
"""Columns of MOT15's gt.txt: the last three are coordinates in the world, not class and visibility."""
KEYS = {"name", "imdir", "framerate", "seqlength", "imwidth", "imheight", "imext", "sharedids"}
SYSTEM_FILES = {"thumbs.db", "desktop.ini"}


@dataclass(frozen=True)
class Video:
    """One video: ``frames`` are (number, file path relative to the sequence's folder), in order of number.

    ``scope`` is the sequence that person ids count in, empty for the whole set; ``length`` the number of the last
    frame; ``size`` (width, height) in pixels, each None where seqinfo.ini does not say.
    """

    name: str
    scope: str
    folder: Path
    frames_per_second: float
    length: int
    size: tuple[int | None, int | None]
    frames: list[tuple[int, str]]


@dataclass(frozen=True)
class Row:
    """A box of gt.txt, xyxy; ``person`` is negative for somebody without identity."""

    frame: int
    person: int
    box: tuple[float, float, float, float]
    ignored: bool


def read_sequence(folder: Path, notes: Notes) -> Video:
    """Read seqinfo.ini and list the frames. Raises DataError."""
    path = folder / "seqinfo.ini"
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(_read_text(path))
        section = parser["Sequence"]
    except KeyError:
        raise DataError(f"'{path}': expected a section [Sequence], found {parser.sections() or 'none'}") from None
    except configparser.Error as error:
        raise DataError(f"'{path}' is damaged: {' '.join(str(error).split())}") from None
    for key in section:
        if key not in KEYS:
            notes.add(path, "{n} settings are not known and not used", key)
    for other in parser.sections():
        if other != "Sequence":
            notes.add(path, "{n} sections other than [Sequence] are not used", f"[{other}]")
    rate = _frame_rate(section, path)
    width, height, length = (_count(section, key, path) for key in ("imWidth", "imHeight", "seqLength"))
    try:
        scope = "" if section.getboolean("sharedIds", False) else folder.name
    except ValueError:
        raise DataError(f"'{path}': expected true or false for sharedIds, found '{section['sharedIds']}'") from None
    images = section.get("imDir", "img1").strip("/")
    ending = "." + section.get("imExt", ".jpg").lower().lstrip(".")
    frames = _frames(folder / images, ending, notes)
    numbers = [number for number, _ in frames]
    return Video(
        folder.name,
        scope,
        folder,
        rate,
        _length(length, numbers, path, notes),
        (width, height),
        [(number, f"{images}/{name}") for number, name in frames],
    )


def read_rows(sequence: Video, notes: Notes) -> list[Row]:
    """Rows of gt.txt that are people or regions to ignore, but for those of frames without a file. Raises DataError."""
    path = sequence.folder / "gt" / "gt.txt"
    classes = _labels(sequence.folder / "gt" / "labels.txt")
    present = {number for number, _ in sequence.frames}
    rows: list[Row] = []
    without_file: list[int] = []
    named: set[int] = set()
    first_of_class: dict[str, str] = {}
    for number, line in enumerate(_read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        entry = f"line {number}"
        values = _numbers(line, f"'{path}' {entry}")
        name = _class(values, classes, path, entry, notes)
        if name is not None and name not in PEOPLE | UNCERTAIN:
            what = "{n} rows are left out, of classes that are not people"
            notes.add(path, what, f"{name} from {first_of_class.setdefault(name, entry)} on")
            continue
        frame, person, x, y, width, height, *rest = values
        row = Row(
            int(frame),
            int(person),
            (x, y, x + width, y + height),
            ignored=name in UNCERTAIN or bool(rest and rest[0] == 0),
        )
        named.add(row.frame)
        if row.frame not in present:
            without_file.append(row.frame)
        elif _has_no_area(row):
            if not row.ignored:
                raise DataError(f"'{path}' {entry}: the box '{line.strip()}' has no area; correct or remove it")
            notes.add(path, "regions to ignore that have no area, left out: {n}", entry)
        elif _outside(row, sequence.size):
            # Boxes are drawn around whole people, so that one may leave the picture before its track ends.
            notes.add(path, "rows left out because their box lies wholly outside the picture: {n}", entry)
        else:
            rows.append(row)
    if without_file:
        total = len(rows) + len(without_file)
        sign = _sign(sorted(named), sorted(present))
        for frame in without_file:
            what = f"{{n}} of {total} rows are left out, of frames without a file: {sign}"
            notes.add(path, what, f"frame {frame}")
    return rows


def _read_text(path: Path) -> str:
    """Contents of ``path`` in UTF-8, or in UTF-16 where a byte-order mark says so; no mark is in the result."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"missing file '{path}'; expected {LAYOUT}") from None
    except OSError as error:
        raise DataError(f"cannot read '{path}': {error.strerror}") from None
    utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"cannot read '{path}': {error}; save it as UTF-8") from None


def _frame_rate(section: configparser.SectionProxy, path: Path) -> float:
    """Frames per second, written as a number or as a fraction of two."""
    written = section.get("frameRate")
    if written is None:
        raise DataError(f"'{path}': expected frameRate in its section [Sequence], found none")
    try:
        numerator, *denominator = [float(part) for part in written.split("/", 1)]
        rate = numerator / (denominator[0] if denominator else 1.0)
    except (ValueError, ZeroDivisionError):
        rate = math.nan
    if not (rate > 0 and math.isfinite(rate)):
        raise DataError(f"'{path}': expected a frameRate above 0, such as 25 or 30000/1001, found '{written}'")
    return rate


def _count(section: configparser.SectionProxy, key: str, path: Path) -> int | None:
    """A whole number, None where it is missing or 0."""
    written = section.get(key, "").strip()
    try:
        number = float(written or 0)
    except ValueError:
        number = math.nan
    if not (number >= 0 and number.is_integer()):
        raise DataError(f"'{path}': expected a whole number for {key}, found '{written}'")
    return int(number) or None


def _length(declared: int | None, numbers: Sequence[int], path: Path, notes: Notes) -> int:
    """The number of the last frame: as declared where the files bear it out, or else the last file's."""
    last = numbers[-1]
    # Of thinned frames the last may be missing, or the next one be there.
    if declared is None or abs(declared - last) < _step(numbers):
        return declared or last
    notes.add(
        path,
        f"seqLength is {declared}, but there are {len(numbers)} frames from {numbers[0]} to {last}: these are used; "
        "correct seqLength, or add the missing files",
    )
    return last


def _step(numbers: Sequence[int]) -> int:
    """By how much frame numbers mostly go up."""
    return int(np.median(np.diff(numbers))) if len(numbers) > 1 else 1


def _frames(folder: Path, ending: str, notes: Notes) -> list[tuple[int, str]]:
    """Frame numbers and file names in ``folder``, in order; ``ending`` is that of seqinfo.ini."""
    if not folder.is_dir():
        raise DataError(f"missing folder '{folder}'; expected {LAYOUT}")
    found: dict[int, list[str]] = {}
    others: list[str] = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        stem, suffix = os.path.splitext(entry.name)
        if stem.isdecimal() and suffix.lower() in {ending, *IMAGE_SUFFIXES} and entry.is_file():
            found.setdefault(int(stem), []).append(entry.name)
        elif not entry.name.startswith(".") and entry.name.lower() not in SYSTEM_FILES:
            others.append(entry.name)
            notes.add(folder, f"{{n}} entries are left out: no frames, such as 000001{ending}", entry.name)
    if not found:
        there = f"; found {len(others)} others, the first is {others[0]}; rename them" if others else ""
        raise DataError(f"no frames in '{folder}'; expected files such as 000001{ending}{there}")
    frames = []
    for number, names in sorted(found.items()):
        chosen = [name for name in names if name.lower().endswith(ending)] if len(names) > 1 else names
        if len(chosen) != 1:
            raise DataError(
                f"'{folder}': frame {number} is there {len(names)} times ({', '.join(names)}); expected once"
            )
        for name in names:
            if name not in chosen:
                notes.add(folder, f"{{n}} files are left out: the frame is there with imExt's {ending} too", name)
            elif not name.lower().endswith(ending):
                notes.add(folder, f"{{n}} frames do not end in {ending} as imExt says; they are used", name)
        frames.append((number, chosen[0]))
    return frames


def _labels(path: Path) -> dict[int, str] | None:
    """Class names by number, as CVAT writes them one per line; None where there is no such file."""
    if not path.exists():
        return None
    names = [_normal(line) for line in _read_text(path).strip().splitlines()]
    if not set(names) & PEOPLE:
        raise DataError(
            f"'{path}' names {', '.join(names) or 'nothing'}: none of them people; expected one of "
            f"{', '.join(sorted(PEOPLE))}"
        )
    return dict(enumerate(names, start=1))


def _normal(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name.strip().lower())


def _numbers(line: str, where: str) -> list[float]:
    try:
        values = [float(word) for word in line.rstrip().rstrip(",").split(",")]
        if len(values) < 6 or not all(map(math.isfinite, values)):
            raise ValueError
    except ValueError:
        raise DataError(
            f"{where}: expected 'frame,id,x,y,w,h,confidence,class,visibility', found '{line.strip()}'"
        ) from None
    for name, value in (("frame", values[0]), ("id", values[1])):
        if not value.is_integer():
            raise DataError(f"{where}: expected a whole number for the {name}, found {value:g}")
    return values


def _class(values: Sequence[float], labels: dict[int, str] | None, path: Path, entry: str, notes: Notes) -> str | None:
    """Name of the class of a row, None where it has none: MOT15's files hold coordinates in that column."""
    if len(values) < 8 or values[7] == NO_CLASS:
        return None
    if labels is None and len(values) >= WORLD_COLUMNS:
        notes.add(
            path, "{n} rows of 10 columns: the last three are taken for MOT15's world coordinates and not used", entry
        )
        return None
    if not values[7].is_integer():
        raise DataError(f"'{path}' {entry}: expected a whole number for the class in column 8, found {values[7]:g}")
    number = int(values[7])
    if labels is not None and number not in labels:
        raise DataError(f"'{path}' {entry}: class {number} is not in labels.txt, which names 1 to {len(labels)}")
    return (labels or CLASSES).get(number, f"{number} (unknown)")


def _has_no_area(row: Row) -> bool:
    x1, y1, x2, y2 = row.box
    return x2 <= x1 or y2 <= y1


def _outside(row: Row, size: tuple[int | None, int | None]) -> bool:
    """Whether a box is nowhere in the picture."""
    x1, y1, x2, y2 = row.box
    width, height = (math.inf if side is None else side for side in size)
    return x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height


def _sign(named: Sequence[int], files: Sequence[int]) -> str:
    """What it is a sign of that gt.txt names frames that are no files: ascending frame numbers of both."""
    spans = f"gt.txt names {len(named)} frames from {named[0]} to {named[-1]}, there are {len(files)} files "
    spans += f"from {files[0]} to {files[-1]}"
    there = set(files)
    if any(all(frame + shift in there for frame in named) for shift in (1, -1)):
        return f"{spans}, a sign that all boxes are one frame off; number both alike"
    steps = _step(named), _step(files)
    if steps[0] != steps[1] and 0.8 <= len(named) / len(files) <= 1.25:
        return f"{spans}, a sign that frames were renumbered; number both alike"
    if steps[1] > steps[0]:
        return f"{spans}, a sign that the pictures were thinned out; what is left is used"
    return f"{spans}; add the files, or number both alike if pictures were left out and renumbered"
