"""MOTChallenge folders: video with tracked people."""

from __future__ import annotations

import configparser
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from person_search.data.scene import (
    UNLABELLED,
    Bools,
    Dataset,
    Protocol,
    ProtocolOptions,
    Query,
    Scene,
    Split,
    SplitName,
    as_boxes,
    every_other_scene,
    refuse_validation,
)
from person_search.errors import DataError, UsageError

LAYOUT = "one folder per sequence (or one sequence), each with seqinfo.ini, img1/ and gt/gt.txt"
PEOPLE = {-1, 1}
"""Classes of gt.txt that are people to find: pedestrian, or no class given."""
UNCERTAIN = {2, 7, 8, 12, 13}
"""Classes that look like people and are ignored: on a vehicle, static, distractor, reflection, crowd."""
DETECTORS = re.compile(r"-(DPM|FRCNN|SDP)$")
"""MOT17 ships every sequence once per public detector, with the same pictures and people."""

Identity = tuple[str, int]
"""Scope of the id (a sequence's name, or empty for the whole set) and the id."""


@dataclass(frozen=True)
class _Sequence:
    """One video: ``frames`` are (number from 1, file path relative to the sequence's folder), in order of number.

    ``scope`` is the sequence that person ids count in, empty for the whole set.
    """

    name: str
    scope: str
    folder: Path
    frames_per_second: float
    length: int
    size: tuple[float, float]
    frames: list[tuple[int, str]]


@dataclass(frozen=True)
class _Row:
    frame: int
    person: int
    box: tuple[float, float, float, float]
    ignored: bool


class MotDataset(Dataset):
    """MOTChallenge sequences, split by time within each (the first share trains) or by sequence.

    Ids of gt.txt count within their sequence: nobody is followed from one sequence to another, unless seqinfo.ini says
    ``sharedIds=true`` (not in MOTChallenge): then the sequences are cameras that saw the same people. Rows of
    confidence 0 and of classes that look like people (on a vehicle, static, distractor, reflection, crowd) are regions
    to ignore; vehicles and occluders are left out. Of the copies that MOT17 ships per public detector one is read.

    Queries are all test boxes of people who are seen again ``mot_min_gap`` seconds or more away; their galleries are
    the test scenes at least that far, those of other sequences included.
    """

    summary = LAYOUT

    def split(self, name: SplitName) -> Split:
        """``"train"`` or ``"test"``. Raises DataError for missing or damaged files, UsageError for an empty split."""
        refuse_validation("mot", name)
        sequences = [_read_sequence(folder) for folder in self._folders()]
        cameras = {seq.name: number for number, seq in enumerate(sequences, start=1) if not seq.scope}
        parts = self._parts(sequences)
        chosen = [(seq, frames) for (seq, train, test) in parts if (frames := train if name == "train" else test)]
        if not chosen:
            raise UsageError(
                f"the {name} split is empty: mot_train_share {self.config.mot_train_share} of "
                f"{len(sequences)} sequence(s) by {self.config.mot_split}; change --mot-train-share or --mot-split"
            )
        rows = {seq.name: _read_rows(seq) for seq in sequences}
        known = sorted(_identities(chosen, rows))
        labels = {identity: label for label, identity in enumerate(known)}
        scenes = [
            replace(scene, camera=cameras.get(seq.name))
            for seq, frames in chosen
            for scene in self._scenes(seq, frames, rows[seq.name], labels)
        ]
        ids_as_written = tuple(f"{scope}/{person}" if scope else str(person) for scope, person in known)
        split = Split("mot", name, self.root, scenes, len(known), identity_names=ids_as_written)
        if name == "train":
            return split
        queries = _queries_seen_again(scenes, self.config.mot_min_gap)
        seen = _identities([(seq, train) for seq, train, _ in parts], rows)
        known_to_training = np.array([identity in seen for identity in known], dtype=bool)
        disjoint = self.config.mot_split == "sequence" and not known_to_training.any()
        return replace(split, queries=queries, seen_identities=None if disjoint else known_to_training)

    def protocol(self, split: Split, options: ProtocolOptions) -> Protocol:
        """Gallery: the split's scenes of other sequences and those at least ``mot_min_gap`` seconds away."""
        if options.gallery_size is not None:
            raise UsageError("mot has no gallery sizes; leave --gallery-size out")
        times, sequences = _times(split.scenes)
        own = np.array([query.scene for query in split.queries], dtype=np.int64)
        allowed = _far(times[own][:, None], sequences[own][:, None], times, sequences, self.config.mot_min_gap)
        protocol = every_other_scene(split, cross_camera=options.cross_camera, allowed=allowed)
        cameras = ", cross-camera" if options.cross_camera else ""
        return replace(protocol, name=f"at least {self.config.mot_min_gap:g} s apart{cameras}")

    def held_out_queries(self, scenes: Sequence[Scene], num_identities: int) -> list[Query]:
        """The boxes of those seen again in ``scenes`` as late as in the test."""
        return _queries_seen_again(list(scenes), self.config.mot_min_gap)

    def _folders(self) -> list[Path]:
        if not self.root.is_dir():
            raise DataError(f"data root '{self.root}' is not a folder; expected {LAYOUT}")
        if _is_sequence(self.root):
            return [self.root]
        folders = sorted(folder for folder in self.root.iterdir() if _is_sequence(folder))
        if not folders:
            raise DataError(f"no sequence in '{self.root}'; expected {LAYOUT}")
        return list({DETECTORS.sub("", folder.name): folder for folder in reversed(folders)}.values())[::-1]

    def _parts(
        self, sequences: Sequence[_Sequence]
    ) -> list[tuple[_Sequence, list[tuple[int, str]], list[tuple[int, str]]]]:
        """Every sequence with its training and its test frames."""
        share = self.config.mot_train_share
        if self.config.mot_split == "sequence":
            cut = round(share * len(sequences))
            return [(s, s.frames, []) if n < cut else (s, [], s.frames) for n, s in enumerate(sequences)]
        return [
            (s, [f for f in s.frames if f[0] <= last], [f for f in s.frames if f[0] > last])
            for s in sequences
            for last in [round(share * s.length)]
        ]

    def _scenes(
        self, sequence: _Sequence, frames: list[tuple[int, str]], rows: list[_Row], labels: dict[Identity, int]
    ) -> list[Scene]:
        by_frame: dict[int, list[_Row]] = {}
        for row in rows:
            by_frame.setdefault(row.frame, []).append(row)
        prefix = sequence.folder.relative_to(self.root).as_posix()
        scenes = []
        for number, path in frames:
            people = [row for row in by_frame.get(number, []) if not row.ignored]
            ids = [labels.get((sequence.scope, row.person), UNLABELLED) for row in people]
            scenes.append(
                Scene(
                    path if prefix == "." else f"{prefix}/{path}",
                    as_boxes([row.box for row in people]),
                    np.array(ids, dtype=np.int64),
                    ignore=as_boxes([row.box for row in by_frame.get(number, []) if row.ignored]),
                    sequence=sequence.name,
                    time=(number - 1) / sequence.frames_per_second,
                )
            )
        return scenes


def _is_sequence(folder: Path) -> bool:
    return (folder / "seqinfo.ini").exists() or (folder / "gt").is_dir()


def _read_sequence(folder: Path) -> _Sequence:
    path = folder / "seqinfo.ini"
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(path.read_text(encoding="utf-8"))
        section = parser["Sequence"]
        rate = float(section["frameRate"])
        size = (float(section.get("imWidth", "inf")), float(section.get("imHeight", "inf")))
        length = int(section.get("seqLength", "0"))
        scope = "" if section.getboolean("sharedIds", False) else folder.name
    except FileNotFoundError:
        raise DataError(f"missing file '{path}'; expected {LAYOUT}") from None
    except OSError as error:
        raise DataError(f"cannot read '{path}': {error.strerror}") from None
    except (configparser.Error, KeyError, ValueError):
        raise DataError(f"'{path}' is damaged: expected a section [Sequence] with frameRate and seqLength") from None
    if not (rate > 0 and math.isfinite(rate)):
        raise DataError(f"'{path}': expected a frameRate above 0, found {rate:g}")
    images = section.get("imDir", "img1")
    ending = section.get("imExt", ".jpg").lower()
    if not (folder / images).is_dir():
        raise DataError(f"missing folder '{folder / images}'; expected {LAYOUT}")
    frames = sorted(
        (int(file.stem), f"{images}/{file.name}")
        for file in (folder / images).iterdir()
        if file.suffix.lower() == ending and file.stem.isdecimal()
    )
    if not frames:
        raise DataError(f"no frames in '{folder / images}'; expected files such as 000001{ending}")
    return _Sequence(folder.name, scope, folder, rate, length or frames[-1][0], size, frames)


def _read_rows(sequence: _Sequence) -> list[_Row]:
    """Rows of gt.txt that are people or regions to ignore, those of frames without a file left out."""
    path = sequence.folder / "gt" / "gt.txt"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise DataError(f"missing file '{path}'; expected {LAYOUT}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read '{path}': {error}") from None
    present = {number for number, _ in sequence.frames}
    rows = []
    taken: set[tuple[int, int]] = set()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        entry = f"'{path}' line {number}"
        row = _parse_row(line, entry)
        if row is None or row.frame not in present:
            continue
        x1, y1, x2, y2 = row.box
        if x2 <= x1 or y2 <= y1 or x2 <= 0 or y2 <= 0 or x1 >= sequence.size[0] or y1 >= sequence.size[1]:
            if row.ignored:
                continue
            raise DataError(
                f"{entry}: the box '{line.strip()}' has no area or lies outside the image; correct or remove it"
            )
        if row.person >= 0 and not row.ignored:
            if (row.frame, row.person) in taken:
                raise DataError(f"{entry}: person {row.person} is in frame {row.frame} twice; expected once")
            taken.add((row.frame, row.person))
        rows.append(row)
    return rows


def _parse_row(line: str, entry: str) -> _Row | None:
    """One line of gt.txt; None for what is neither a person nor looks like one."""
    try:
        values = [float(word) for word in line.split(",")]
        if len(values) < 6 or not all(map(math.isfinite, values)):
            raise ValueError
    except ValueError:
        raise DataError(
            f"{entry}: expected 'frame,id,x,y,w,h,confidence,class,visibility', found '{line.strip()}'"
        ) from None
    frame, person, x, y, width, height, *rest = values
    confidence = rest[0] if rest else 1.0
    category = int(rest[1]) if len(rest) > 1 else -1
    if category not in PEOPLE | UNCERTAIN:
        return None
    box = (x, y, x + width, y + height)
    return _Row(int(frame), int(person), box, ignored=confidence == 0 or category in UNCERTAIN)


def _identities(parts: Sequence[tuple[_Sequence, list[tuple[int, str]]]], rows: dict[str, list[_Row]]) -> set[Identity]:
    """Everybody with an identity in the given frames."""
    found: set[Identity] = set()
    for sequence, frames in parts:
        numbers = {number for number, _ in frames}
        found |= {
            (sequence.scope, row.person)
            for row in rows[sequence.name]
            if row.frame in numbers and row.person >= 0 and not row.ignored
        }
    return found


def _times(scenes: Sequence[Scene]) -> tuple[NDArray[np.float64], NDArray[np.str_]]:
    """(S,) seconds and (S,) sequence names."""
    times = np.array([scene.time for scene in scenes], dtype=np.float64)
    return times, np.array([str(scene.sequence) for scene in scenes])


def _far(
    time: NDArray[np.float64],
    sequence: NDArray[np.str_],
    times: NDArray[np.float64],
    sequences: NDArray[np.str_],
    gap: float,
) -> Bools:
    """Whether scenes are ``gap`` seconds or more, or a sequence, apart; arguments broadcast."""
    # Times are frame numbers over the frame rate: equal to the gap up to rounding counts as far enough.
    return (np.abs(time - times) >= gap - 1e-6) | (sequence != sequences)


def _queries_seen_again(scenes: list[Scene], gap: float) -> list[Query]:
    """Boxes, in scene order, whose person is in another scene at least ``gap`` seconds away."""
    seen: dict[int, list[int]] = {}
    for number, scene in enumerate(scenes):
        for person in scene.person_ids.tolist():
            seen.setdefault(person, []).append(number)
    times, sequences = _times(scenes)
    queries = []
    for number, scene in enumerate(scenes):
        for row, person in enumerate(scene.person_ids.tolist()):
            others = np.array([other for other in seen[person] if other != number], dtype=np.int64)
            far = _far(times[number], sequences[number], times[others], sequences[others], gap)
            if person >= 0 and far.any():
                queries.append(Query(number, scene.boxes[row], person))
    return queries
