from __future__ import annotations

import errno
import hashlib
import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from person_search.errors import DataError, UsageError
from person_search.synth import generate as module
from person_search.synth.generate import generate
from person_search.synth.settings import SynthConfig


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


def test_same_settings_are_kept_and_others_replace(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "set"
    assert generate(config(out), workers=1) is True
    written = (out / "train.json").stat().st_mtime_ns
    assert generate(config(out), workers=1) is False
    assert (out / "train.json").stat().st_mtime_ns == written
    assert generate(config(out, scenes=14), workers=1) is True
    assert len(list(out.rglob("*.jpg"))) == 14
    assert [path.name for path in out.parent.iterdir()] == ["set"]


def test_another_version_of_the_generator_draws_again(tmp_path: Path) -> None:
    out = tmp_path / "set"
    generate(config(out), workers=1)
    marker = json.loads((out / "synth.json").read_text())
    (out / "synth.json").write_text(json.dumps(marker | {"generator": 0}))
    assert generate(config(out), workers=1) is True


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
        generate(config(out, scenes=14), workers=1)
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
