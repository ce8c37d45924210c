"""MOTChallenge folders: video with tracked people."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from person_search.data.mot_files import LAYOUT, Row, Video, read_rows, read_sequence
from person_search.data.notes import Notes
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
from person_search.data.settings import MotSettings
from person_search.errors import DataError, UsageError

DETECTORS = re.compile(r"-(DPM|FRCNN|SDP)$")
"""MOT17 ships every sequence once per public detector, with the same pictures and people."""

ROUNDING = 1e-6
"""Seconds: times are frame numbers over the frame rate, and equal to the gap up to rounding counts as far enough."""

Identity = tuple[str, int]
"""Scope of the id (a sequence's name, or empty for the whole set) and the id."""


Frames = list[tuple[int, str]]


class MotDataset(Dataset):
    """MOTChallenge sequences, split by time within each (the first share trains) or by sequence.

    Ids of gt.txt count within their sequence: nobody is followed from one sequence to another, unless seqinfo.ini says
    ``sharedIds=true`` (not in MOTChallenge): then the sequences are cameras that saw the same people. Rows of
    confidence 0 and of classes that look like people (on a vehicle, static, distractor, reflection, crowd) are regions
    to ignore; vehicles and occluders are left out. Classes are those of MOT16, or what gt/labels.txt names; MOT15's
    rows of 10 columns have none. Of the copies that MOT17 ships per public detector one is read.

    Queries are all test boxes of people who are seen again ``mot_min_gap`` seconds or more away; their galleries are
    the test scenes at least that far, those of other sequences included.
    """

    summary = LAYOUT
    Settings = MotSettings
    config: MotSettings

    def split(self, name: SplitName) -> Split:
        """``"train"`` or ``"test"``. Raises DataError for missing or damaged files, UsageError for an empty split."""
        refuse_validation("mot", name)
        notes = Notes()
        sequences = [read_sequence(folder, notes) for folder in self._folders(notes)]
        cameras = {seq.name: number for number, seq in enumerate(sequences, start=1) if not seq.scope}
        parts = self._parts(sequences)
        chosen = [(seq, frames) for (seq, train, test) in parts if (frames := train if name == "train" else test)]
        if not chosen:
            raise UsageError(self._why_empty(name, sequences))
        rows = {seq.name: read_rows(seq, notes) for seq in sequences}
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
            return replace(split, notes=notes.lines())
        queries = _queries_seen_again(scenes, self.config.mot_min_gap)
        if not queries:
            gap = self.config.mot_min_gap
            what = f"no test box is of a person seen again at least {gap:g} s away: no queries; shorten `mot_min_gap`"
            notes.add(self.root, what)
        seen = _identities([(seq, train) for seq, train, _ in parts], rows)
        known_to_training = np.array([identity in seen for identity in known], dtype=bool)
        disjoint = self.config.mot_split == "sequence" and not known_to_training.any()
        return replace(
            split,
            queries=queries,
            seen_identities=None if disjoint else known_to_training,
            notes=notes.lines(),
        )

    def protocol(self, split: Split, options: ProtocolOptions) -> Protocol:
        """Gallery: the split's scenes of other sequences and those at least ``mot_min_gap`` seconds away."""
        if options.gallery_size is not None:
            raise UsageError("mot has no gallery sizes; leave `gallery_size` out")
        times, sequences = _times(split.scenes)
        own, rows = np.unique([query.scene for query in split.queries], return_inverse=True)
        far = [
            _far(times[scene], sequences[scene], times, sequences, self.config.mot_min_gap) for scene in own.tolist()
        ]
        allowed = np.array(far, dtype=bool).reshape(-1, len(split.scenes))[rows]
        protocol = every_other_scene(split, cross_camera=options.cross_camera, allowed=allowed)
        cameras = ", cross-camera" if options.cross_camera else ""
        return replace(protocol, name=f"at least {self.config.mot_min_gap:g} s apart{cameras}")

    def held_out_queries(self, scenes: Sequence[Scene], num_identities: int) -> list[Query]:
        """The boxes of those seen again in ``scenes`` as late as in the test."""
        return _queries_seen_again(list(scenes), self.config.mot_min_gap)

    def _folders(self, notes: Notes) -> list[Path]:
        if not self.root.is_dir():
            raise DataError(f"data root '{self.root}' is not a folder; expected {LAYOUT}")
        if _is_sequence(self.root):
            return [self.root]
        inside = sorted(entry for entry in self.root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        folders = [folder for folder in inside if _is_sequence(folder)]
        if not folders:
            deeper = [folder.name for folder in inside if any(map(_is_sequence, folder.iterdir()))]
            there = f"; there are some in {', '.join(deeper)}: set `data_root` to one of these" if deeper else ""
            raise DataError(f"no sequence in '{self.root}'; expected {LAYOUT}{there}")
        for folder in inside:
            if folder not in folders:
                notes.add(self.root, "{n} folders are left out: neither seqinfo.ini nor gt/ in them", folder.name)
        kept = list({_scene_name(folder): folder for folder in reversed(folders)}.values())[::-1]
        for folder in folders:
            if folder not in kept:
                what = "{n} sequences are left out: the same pictures and people as those of another detector"
                if not _same_people(folder, next(one for one in kept if _scene_name(one) == _scene_name(folder))):
                    what = "{n} sequences are left out, named as copies of another detector, but gt.txt differs"
                notes.add(self.root, what, folder.name)
        return kept

    def _parts(self, sequences: Sequence[Video]) -> list[tuple[Video, Frames, Frames]]:
        """Every sequence with its training and its test frames."""
        if self.config.mot_split == "sequence":
            cut = round(self.config.mot_train_share * len(sequences))
            return [(s, s.frames, []) if n < cut else (s, [], s.frames) for n, s in enumerate(sequences)]
        return [
            (s, [f for f in s.frames if f[0] <= last], [f for f in s.frames if f[0] > last])
            for s in sequences
            for last in [self._last_to_train(s)]
        ]

    def _last_to_train(self, sequence: Video) -> int:
        """Number of the last frame of a sequence that is divided by time to train on."""
        return round(self.config.mot_train_share * sequence.length)

    def _why_empty(self, name: SplitName, sequences: Sequence[Video]) -> str:
        share = f"`mot_train_share` {self.config.mot_train_share:g}"
        if self.config.mot_split == "sequence":
            cut = round(self.config.mot_train_share * len(sequences))
            return (
                f"the {name} split is empty: {share} by sequence gives {cut} of {len(sequences)} sequence(s) to "
                "training; change it, add sequences, or set `mot_split` time"
            )
        parts = ", ".join(
            f"'{s.name}' has frames {s.frames[0][0]} to {s.frames[-1][0]}, those up to {self._last_to_train(s)} train"
            for s in sequences
        )
        return f"the {name} split is empty: with {share} by time, {parts}; change it"

    def _scenes(self, sequence: Video, frames: Frames, rows: list[Row], labels: dict[Identity, int]) -> list[Scene]:
        by_frame: dict[int, list[Row]] = {}
        for row in rows:
            by_frame.setdefault(row.frame, []).append(row)
        prefix = sequence.folder.relative_to(self.root).as_posix()
        width, height = sequence.size
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
                    size=(width, height) if width and height else None,
                )
            )
        return scenes


def _is_sequence(folder: Path) -> bool:
    return (folder / "seqinfo.ini").exists() or (folder / "gt").is_dir()


def _scene_name(folder: Path) -> str:
    """The name of a sequence without that of its detector."""
    return DETECTORS.sub("", folder.name)


def _same_people(folder: Path, other: Path) -> bool:
    """Whether two sequences have the same gt.txt, line ends aside; it may also be missing in the first."""
    files = [path / "gt" / "gt.txt" for path in (folder, other)]
    if not all(path.is_file() for path in files):
        return not files[0].exists()
    first, second = (path.read_bytes().split() for path in files)
    return first == second


def _identities(parts: Sequence[tuple[Video, Frames]], rows: dict[str, list[Row]]) -> set[Identity]:
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
    time: float,
    sequence: str,
    times: NDArray[np.float64],
    sequences: NDArray[np.str_],
    gap: float,
) -> Bools:
    """(S,) whether scenes are ``gap`` seconds or more, or a sequence, apart from the one given."""
    return (np.abs(time - times) >= gap - ROUNDING) | (sequence != sequences)


def _queries_seen_again(scenes: list[Scene], gap: float) -> list[Query]:
    """Boxes, in scene order, whose person is in another scene at least ``gap`` seconds away."""
    # Of each person in each sequence: first and last time, and the number of scenes.
    spans: dict[int, dict[str, tuple[float, float, int]]] = {}
    for scene in scenes:
        for person in set(scene.person_ids[scene.person_ids >= 0].tolist()):
            times = spans.setdefault(person, {})
            sequence, time = str(scene.sequence), float(scene.time or 0)
            first, last, count = times.get(sequence, (time, time, 0))
            times[sequence] = (min(first, time), max(last, time), count + 1)
    queries = []
    for number, scene in enumerate(scenes):
        ids = scene.person_ids.tolist()
        for row, person in enumerate(ids):
            # Of a person annotated twice in a scene the first box is the true one.
            if person < 0 or person in ids[:row]:
                continue
            first, last, count = spans[person][str(scene.sequence)]
            time = float(scene.time or 0)
            far = count > 1 and max(time - first, last - time) >= gap - ROUNDING
            if far or len(spans[person]) > 1:
                queries.append(Query(number, scene.boxes[row], person))
    return queries
