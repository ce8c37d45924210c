"""Holding scenes out of training, and what is asked in them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from person_search.data.holdout import hold_out, holdout_validation, validation_protocol, validation_split
from person_search.data.mot import MotDataset
from person_search.data.scene import Dataset, ProtocolOptions, Scene, Split, SplitName, as_boxes
from person_search.data.settings import MotSettings
from person_search.errors import UsageError


def scene(name: str, ids: list[int], sequence: str | None = None, time: float | None = None) -> Scene:
    boxes = as_boxes([[k, k, k + 5, k + 9] for k in range(len(ids))])
    return Scene(name, boxes, np.array(ids, dtype=np.int64), sequence=sequence, time=time)


def train_split(scenes: list[Scene]) -> Split:
    count = max((int(s.person_ids.max()) for s in scenes if len(s.person_ids)), default=-1) + 1
    return Split("coco", "train", Path("x"), scenes, max(count, 0))


def pictures(seed: int, scenes: int, identities: int) -> Split:
    generator = np.random.default_rng(seed)
    return train_split(
        [
            scene(f"{n}.jpg", (generator.permutation(identities + 1)[: generator.integers(0, 4)] - 1).tolist())
            for n in range(scenes)
        ]
    )


def originals(split: Split, train: Split) -> list[tuple[str, list[int]]]:
    ids = {s.name: s.person_ids.tolist() for s in train.scenes}
    return [(s.name, ids[s.name]) for s in split.scenes]


@settings(deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), count=st.integers(4, 40), identities=st.integers(1, 20), share=st.floats(0.2, 0.6))
def test_pictures_are_held_out_by_identity(seed: int, count: int, identities: int, share: float) -> None:
    whole = pictures(seed, count, identities)
    train, val = holdout_validation(whole, share, seed)
    assert (train.name, val.name) == ("train", "val")
    assert len(val.scenes) == round(share * count)
    assert sorted(s.name for s in [*train.scenes, *val.scenes]) == sorted(s.name for s in whole.scenes)
    for part in (train, val):
        old = sorted({person for _, ids in originals(part, whole) for person in ids} - {-1})
        new = {person for s in part.scenes for person in s.person_ids.tolist()} - {-1}
        assert new == set(range(part.num_identities))
        # Same people in the same boxes under their new, ordered numbers.
        for s, (_, ids) in zip(part.scenes, originals(part, whole), strict=True):
            assert [old[k] if k >= 0 else -1 for k in s.person_ids] == ids
    kept = {person for _, ids in originals(train, whole) for person in ids}
    held = sorted({person for _, ids in originals(val, whole) for person in ids} - {-1})
    assert val.seen_identities is not None
    assert val.seen_identities.tolist() == [person in kept for person in held]
    again = holdout_validation(whole, share, seed)[1]
    assert [s.name for s in again.scenes] == [s.name for s in val.scenes]


def test_held_out_identities_can_be_searched() -> None:
    pairs = train_split([scene(f"{n}.jpg", [n % 20, -1]) for n in range(40)])
    train, val = holdout_validation(pairs, 0.25, 3)
    assert len(val.queries) == val.num_identities == 5
    assert train.num_identities == 15
    assert val.seen_identities is not None
    assert not val.seen_identities.any()
    assert all((s.person_ids[1] == -1) for s in val.scenes)
    other = holdout_validation(pairs, 0.25, 4)[1]
    assert [s.name for s in other.scenes] != [s.name for s in val.scenes]


def test_videos_are_held_out_in_one_piece() -> None:
    frames = [scene(f"{v}{t}.jpg", [0], sequence=v, time=float(t)) for t in (3, 1, 0, 2) for v in "ab"]
    train, val = holdout_validation(train_split(frames), 0.5, 0)
    assert sorted(s.name for s in val.scenes) == ["a2.jpg", "a3.jpg", "b2.jpg", "b3.jpg"]
    assert len(train.scenes) == 4
    assert [(q.scene, val.scenes[q.scene].name) for q in val.queries] == [(0, "a3.jpg")]


@pytest.mark.parametrize("share", [0.0, 1.0, 0.01])
def test_empty_parts_are_refused(share: float) -> None:
    with pytest.raises(UsageError, match="validation_share"):
        holdout_validation(pictures(0, 10, 3), share, 0)


def write_sequence(folder: Path, rows: list[tuple[int, int]], *, frames: int, rate: int) -> None:
    """A MOT sequence of ``frames`` pictures at ``rate`` a second; ``rows`` are (frame, person)."""
    (folder / "img1").mkdir(parents=True)
    (folder / "gt").mkdir()
    (folder / "seqinfo.ini").write_text(f"[Sequence]\nframeRate={rate}\nseqLength={frames}\n")
    for number in range(1, frames + 1):
        (folder / "img1" / f"{number:06d}.jpg").touch()
    lines = [f"{frame},{person},{10 * person},10,5,20,1,1,1" for frame, person in rows]
    (folder / "gt" / "gt.txt").write_text("\n".join(lines))


def mot(root: Path) -> MotDataset:
    """Twenty training seconds of two people, one of whom leaves the held-out half after three seconds."""
    rows = [(frame, person) for frame in range(1, 41) for person in (1, 2) if person == 1 or frame <= 13]
    write_sequence(root / "a", rows, frames=40, rate=1)
    return MotDataset(root, MotSettings(dataset="mot", mot_train_share=0.5, mot_min_gap=5.0))


def test_held_out_video_keeps_the_gap_in_time_that_its_test_has(tmp_path: Path) -> None:
    dataset = mot(tmp_path)
    train, held_out = hold_out(dataset, 0.5, 0)
    assert [scene.time for scene in train.scenes] == [float(t) for t in range(10)]
    protocol = validation_protocol(dataset, held_out, ProtocolOptions())
    assert protocol.name == dataset.protocol(dataset.split("test"), ProtocolOptions()).name
    times = [float(scene.time or 0) for scene in held_out.scenes]
    assert times == [float(t) for t in range(10, 20)]
    # Person 2 stays for three seconds, too few to be seen again; person 1 is asked for from every frame.
    assert [(query.scene, query.person_id) for query in held_out.queries] == [(n, 0) for n in range(10)]
    for number, query in enumerate(held_out.queries):
        far = [abs(time - times[query.scene]) >= 5 for time in times]
        assert protocol.in_gallery[number].tolist() == far


def test_nobody_to_search_for_is_said(tmp_path: Path) -> None:
    _, held_out = hold_out(mot(tmp_path), 0.2, 0)
    assert held_out.queries == []
    assert held_out.notes == (
        "nobody in the 4 scenes held out for validation can be searched; detection alone is judged",
    )


class Pictures(Dataset):
    """Pairs of pictures of a person, whose own protocol knows its test alone."""

    own: Split | None = None

    def split(self, name: SplitName) -> Split:
        if name == "val" and self.own is not None:
            return self.own
        assert name == "train"
        return train_split([replace(scene(f"{n}.jpg", [n % 10]), camera=n // 10) for n in range(20)])

    def has_validation(self) -> bool:
        return self.own is not None

    def protocol(self, split: Split, options: ProtocolOptions):  # type: ignore[no-untyped-def]
        assert split is self.own
        return "its own"


def test_the_validation_split_is_what_training_held_out() -> None:
    dataset = Pictures(Path("x"))
    held_out = hold_out(dataset, 0.3, 7)[1]
    again = validation_split(dataset, 0.3, 7)
    assert [s.name for s in again.scenes] == [s.name for s in held_out.scenes]
    assert [s.name for s in validation_split(dataset, 0.3, 8).scenes] != [s.name for s in held_out.scenes]
    with pytest.raises(UsageError, match=r"no split 'val'.*held nothing out"):
        validation_split(dataset, 0.0, 7)


def test_the_dataset_s_own_validation_split_goes_first() -> None:
    dataset = Pictures(Path("x"))
    dataset.own = train_split([scene("own.jpg", [0])])
    assert validation_split(dataset, 0.0, 0).scenes is dataset.own.scenes
    assert validation_protocol(dataset, dataset.own, ProtocolOptions()) == "its own"
    with pytest.raises(UsageError, match="validation split of its own"):
        validation_split(dataset, 0.3, 0)


def test_held_out_pictures_are_searched_in_every_other_scene() -> None:
    dataset = Pictures(Path("x"))
    held_out = validation_split(dataset, 0.3, 7)
    protocol = validation_protocol(dataset, held_out, ProtocolOptions())
    assert (protocol.in_gallery.sum(axis=1) == len(held_out.scenes) - 1).all()
    other_cameras = validation_protocol(dataset, held_out, ProtocolOptions(cross_camera=True))
    assert (other_cameras.in_gallery.sum(axis=1) == len(held_out.scenes) // 2).all()
    with pytest.raises(UsageError, match="no gallery sizes"):
        validation_protocol(dataset, held_out, ProtocolOptions(gallery_size=50))
