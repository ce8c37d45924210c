from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from person_search.errors import DataError, UsageError
from person_search.synth import generate as module
from person_search.synth.generate import generate
from person_search.synth.settings import Layout, SynthConfig


def config(out: Path, **settings: Any) -> SynthConfig:
    small = {"identities": 6, "scenes": 12, "cameras": 2, "width": 160, "height": 120}
    return SynthConfig(**(small | settings), out=out)


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_files_do_not_depend_on_the_number_of_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SCENES_WORTH_A_PROCESS", 8)
    generate(config(tmp_path / "one", scenes=24), workers=1)
    pools: list[int] = []

    class Pool(ProcessPoolExecutor):
        def __init__(self, count: int, *args: Any, **kwargs: Any) -> None:
            pools.append(count)
            super().__init__(count, *args, **kwargs)

    monkeypatch.setattr(module, "ProcessPoolExecutor", Pool)
    generate(config(tmp_path / "two", scenes=24), workers=2)
    assert pools == [2]
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert len(list((tmp_path / "one").rglob("*.jpg"))) == 24


def test_seed_changes_every_picture(tmp_path: Path) -> None:
    for seed in (0, 1):
        generate(config(tmp_path / str(seed), seed=seed), workers=1)
    first, second = digests(tmp_path / "0"), digests(tmp_path / "1")
    common = {name for name in first if name.endswith(".jpg")} & second.keys()
    assert common
    assert all(first[name] != second[name] for name in common)


def test_progress_counts_every_scene(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    assert generate(config(tmp_path / "set"), progress=lambda done, total: calls.append((done, total)), workers=1)
    assert calls == [(done, 12) for done in range(1, 13)]


def test_same_settings_are_kept_and_others_replace_where_that_is_wanted(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "set"
    assert generate(config(out), workers=1) is True
    written = (out / "train.json").stat().st_mtime_ns
    assert generate(config(out), replace=True, workers=1) is False
    assert (out / "train.json").stat().st_mtime_ns == written
    before = digests(out)
    differing = "scenes 12 there, 14 here, difficulty 0.5 there, 0.2 here; choose another folder, or give `replace`"
    with pytest.raises(UsageError, match=differing):
        generate(config(out, scenes=14, difficulty="easy"), workers=1)
    assert digests(out) == before
    assert generate(config(out, scenes=14), replace=True, workers=1) is True
    assert len(list(out.rglob("*.jpg"))) == 14
    assert [path.name for path in out.parent.iterdir()] == ["set"]


def test_another_version_of_the_generator_draws_again(tmp_path: Path) -> None:
    out = tmp_path / "set"
    generate(config(out), workers=1)
    marker = json.loads((out / "synth.json").read_text())
    (out / "synth.json").write_text(json.dumps(marker | {"generator": 0}))
    with pytest.raises(UsageError, match="version of the generator 0 there, 1 here"):
        generate(config(out), workers=1)
    assert generate(config(out), replace=True, workers=1) is True


LAYOUTS = ("coco", "mot", "cuhk-sysu", "prw")


def as_made_by_version_0_1_0(out: Path) -> None:
    marker = json.loads((out / "synth.json").read_text())
    assert marker.pop("files")
    (out / "synth.json").write_text(json.dumps(marker))


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_set_of_any_layout_is_kept_and_replaced_as_long_as_nothing_else_is_there(
    tmp_path: Path, layout: Layout, older: bool
) -> None:
    out = tmp_path / "set"
    generate(config(out, layout=layout), workers=1)
    (out / ".DS_Store").write_bytes(b"x")
    if older:
        as_made_by_version_0_1_0(out)
    assert generate(config(out, layout=layout), workers=1) is False
    assert generate(config(out, layout=layout, seed=1), replace=True, workers=1) is True
    assert not (out / ".DS_Store").exists()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "set"
    generate(config(out), workers=1)
    return out


def copy_of(made: Path, folder: Path) -> Path:
    return Path(shutil.copytree(made, folder / "set"))


def put_file(out: Path, name: str) -> None:
    path = out / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize(
    ("put", "named"),
    [
        (lambda out: put_file(out, "notes.txt"), "notes.txt"),
        (lambda out: put_file(out, "images/c1/holiday.jpg"), "images/c1/holiday.jpg"),
        (lambda out: put_file(out, "runs/last.pt"), "runs/last.pt"),
        (lambda out: put_file(out, "sub/synth.json"), "sub/synth.json"),
        (lambda out: (out / "results").mkdir(), "results"),
        (lambda out: (out / "link").symlink_to(out.parent), "link"),
        (lambda out: (out / "gone").symlink_to("nowhere"), "gone"),
    ],
)
def test_nothing_that_a_person_put_into_a_set_is_removed(
    made: Path, tmp_path: Path, put: Callable[[Path], object], named: str, same: bool, older: bool
) -> None:
    out = copy_of(made, tmp_path)
    if older:
        as_made_by_version_0_1_0(out)
    put(out)
    before = sorted(out.rglob("*"))
    with pytest.raises(UsageError, match=rf"1 entry it did not make \({re.escape(named)}\); nothing there is replaced"):
        generate(config(out, seed=0 if same else 1), workers=1)
    assert sorted(out.rglob("*")) == before


def test_of_many_strangers_the_first_are_named(made: Path, tmp_path: Path) -> None:
    out = copy_of(made, tmp_path)
    for number in range(5):
        put_file(out, f"{number}.txt")
    with pytest.raises(UsageError, match=r"5 entries it did not make \(0\.txt, 1\.txt, 2\.txt, \.\.\.\)"):
        generate(config(out, seed=1), workers=1)


@pytest.mark.parametrize("older", [False, True])
def test_annotations_that_a_person_changed_are_not_replaced(made: Path, tmp_path: Path, older: bool) -> None:
    out = copy_of(made, tmp_path)
    if older:
        as_made_by_version_0_1_0(out)
    text = (out / "train.json").read_text()
    changed = text.replace('"category_id": 1', '"category_id": 2', 1)
    assert (len(changed), changed != text) == (len(text), True)
    (out / "train.json").write_text(changed)
    later = (out / "synth.json").stat().st_mtime + 1
    os.utime(out / "train.json", (later, later))
    with pytest.raises(UsageError, match=r"1 entry changed since \(train\.json\)"):
        generate(config(out, seed=1), workers=1)
    assert (out / "train.json").read_text() == changed


def test_what_is_put_there_while_scenes_are_drawn_is_kept_too(made: Path, tmp_path: Path) -> None:
    out = copy_of(made, tmp_path)
    with pytest.raises(UsageError, match=r"notes\.txt"):
        generate(config(out, seed=1), replace=True, progress=lambda done, total: put_file(out, "notes.txt"), workers=1)
    assert (out / "notes.txt").read_text() == "mine"
    assert list(tmp_path.iterdir()) == [out]


def test_a_set_that_lost_or_has_cut_pictures_is_no_set_to_keep(made: Path, tmp_path: Path) -> None:
    out = copy_of(made, tmp_path)
    made = digests(out)
    picture = next((out / "images").rglob("*.jpg"))
    picture.unlink()
    assert generate(config(out), workers=1) is True
    assert digests(out) == made
    picture.write_bytes(picture.read_bytes()[:100])
    with pytest.raises(UsageError, match=rf"1 entry changed since \({picture.relative_to(out).as_posix()}\)"):
        generate(config(out), workers=1)


def test_an_older_set_with_other_pictures_than_it_says_is_refused(made: Path, tmp_path: Path) -> None:
    out = copy_of(made, tmp_path)
    as_made_by_version_0_1_0(out)
    shutil.copy2(out / "images" / "c1" / "000001.jpg", out / "images" / "c1" / "999999.jpg")
    with pytest.raises(UsageError, match="13 pictures where 12 were made"):
        generate(config(out, seed=1), workers=1)


def test_refuses_to_touch_what_it_did_not_make(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.jpg").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"photos.*not empty"):
        generate(config(tmp_path / "photos"), workers=1)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="is a file"):
        generate(config(tmp_path / "file"), workers=1)
    (tmp_path / "empty").mkdir()
    assert generate(config(tmp_path / "empty"), workers=1) is True
    assert (tmp_path / "photos" / "mine.jpg").read_bytes() == b"x"


def test_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match=r"cannot write.*Not a directory") as caught:
        generate(config(tmp_path / "file" / "set"), workers=1)
    assert "\n" not in str(caught.value)


def test_full_disk_leaves_nothing_and_keeps_the_older_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "set"
    generate(config(out), workers=1)
    before = digests(out)

    def no_space(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", no_space)
    with pytest.raises(DataError, match="No space left on device"):
        generate(config(out, scenes=14), replace=True, workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert digests(out) == before


def test_interrupted_set_never_looks_complete(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(config(tmp_path / "set"), progress=stop, workers=1)
    assert list(tmp_path.iterdir()) == []


def test_workers_below_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="workers"):
        generate(config(tmp_path / "set"), workers=0)
