"""Files and folders are there whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from person_search.runtime import files
from person_search.runtime.files import atomic_folder, atomic_write, atomic_write_text


def test_a_file_that_fails_half_way_leaves_the_older_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(TypeError), atomic_write(path) as file:
        file.writelines([b"half of the ", None])
    assert path.read_bytes() == b"old"
    with atomic_write(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_takes_the_place_of_another_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "target"
    for text in ("one", "two"):
        with atomic_folder(target) as folder:
            (folder / text).write_text(text)
            assert (target / "one").exists() == (text == "two")
        assert [path.name for path in target.iterdir()] == [text]
    assert list(target.parent.iterdir()) == [target]


def test_a_folder_that_fails_half_way_or_cannot_be_moved_leaves_the_older_one(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "old").write_text("x")
    with pytest.raises(NotADirectoryError), atomic_folder(target):
        (target / "old" / "file").write_text("y")
    with pytest.raises(FileNotFoundError), atomic_folder(target) as folder:
        folder.rmdir()
    assert [path.name for path in target.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [target]


def test_writers_at_the_same_time_leave_one_whole_file_with_the_usual_permissions(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with atomic_write(path) as one, atomic_write(path) as other:
        one.write(b"one")
        other.write(b"the other")
    assert path.read_bytes() == b"one"
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert path.stat().st_mode == plain.stat().st_mode
    assert sorted(tmp_path.iterdir()) == [path, plain]


def test_what_killed_writers_left_long_ago_is_removed_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "[a].pt"
    old, fresh = tmp_path / f".[a].pt.{'0' * 16}.part", tmp_path / f".[a].pt.{'1' * 16}.part"
    other = tmp_path / f".[a].pt.old.{'0' * 16}.part"
    for left in (old, fresh, other):
        left.write_bytes(b"half")
    for left in (old, other):
        os.utime(left, (1.0, 1.0))
    atomic_write_text(path, "whole")
    assert sorted(tmp_path.iterdir()) == sorted([path, fresh, other])


KILLED = """
import os, sys
from pathlib import Path
from person_search.runtime.files import atomic_folder
target, when = Path(sys.argv[1]), sys.argv[2]
rename = Path.rename
def stop(self, to):
    if when == "between" and self.name == "new":
        os._exit(1)
    return rename(self, to)
Path.rename = stop
with atomic_folder(target) as folder:
    (folder / "deep").mkdir()
    (folder / "deep" / "half").write_text("x")
    if when == "drawing":
        os._exit(1)
"""


@pytest.mark.parametrize("when", ["drawing", "between"])
def test_a_killed_process_leaves_the_older_folder_and_what_is_removed_an_hour_later(tmp_path: Path, when: str) -> None:
    target = tmp_path / "[a]"
    target.mkdir()
    (target / "old").write_text("x")
    subprocess.run([sys.executable, "-c", KILLED, str(target), when], check=False)
    (left,) = tmp_path.glob(".*")

    with pytest.raises(TypeError), atomic_folder(target):
        raise TypeError("a process at the same time")
    assert left.is_dir()

    for path in [left, *left.rglob("*")]:
        if path.name != "half":
            os.utime(path, (1.0, 1.0))
    with pytest.raises(TypeError), atomic_folder(target):
        raise TypeError("something far below is new")
    assert left.is_dir()

    os.utime(left / "new" / "deep" / "half", (1.0, 1.0))
    if when == "between":
        # What was moved aside may have been written just before.
        os.utime(left / "replaced" / "old")
    with pytest.raises(TypeError), atomic_folder(target):
        raise TypeError("fails")
    assert sorted(tmp_path.iterdir()) == [target]
    assert [path.name for path in target.iterdir()] == ["old"]


def test_folders_of_other_names_are_nobodys_leftovers(tmp_path: Path) -> None:
    for name in (".set-original", ".set.old.part", f".settle.{'0' * 16}.part"):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (1.0, 1.0))
    with atomic_folder(tmp_path / "set"):
        pass
    assert len(list(tmp_path.iterdir())) == 4


def test_names_of_the_greatest_length_can_be_written(tmp_path: Path) -> None:
    path, folder = tmp_path / ("é" * 127), tmp_path / ("ü" * 127)
    atomic_write_text(path, "whole")
    with atomic_folder(folder):
        pass
    assert path.read_text() == "whole"
    assert folder.is_dir()


def test_where_folders_cannot_be_opened_they_are_not_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object, **options: object) -> int:
        raise AssertionError("a folder is opened")

    monkeypatch.setattr(files, "_FOLDERS_CAN_BE_SYNCED", False)
    monkeypatch.setattr(os, "open", refuse)
    atomic_write_text(tmp_path / "file", "whole")
    assert (tmp_path / "file").read_text() == "whole"


def test_a_file_system_that_syncs_no_folders_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync

    def only_files(number: int) -> None:
        if stat.S_ISDIR(os.fstat(number).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(number)

    monkeypatch.setattr(os, "fsync", only_files)
    atomic_write_text(tmp_path / "file", "whole")
    assert (tmp_path / "file").read_text() == "whole"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="file size limits are a thing of POSIX")
def test_a_disk_that_fills_while_a_checkpoint_is_written_leaves_the_older_one(tmp_path: Path) -> None:
    script = (
        "import resource, signal, sys, torch\n"
        "from pathlib import Path\n"
        "from person_search.config import method_settings\n"
        "from person_search.errors import CheckpointError\n"
        "from person_search.checkpoints.checkpoint import Checkpoint, read_checkpoint, save_checkpoint\n"
        "path = Path(sys.argv[1])\n"
        "save_checkpoint(path, Checkpoint(method_settings('baseline'), 1, {'a': torch.ones(10)}, {'step': 1}))\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "try:\n"
        "    save_checkpoint(path, Checkpoint(method_settings('oim'), 1, {'a': torch.ones(100_000)}, {'step': 2}))\n"
        "except CheckpointError as error:\n"
        "    assert 'what was there before is kept; free some space' in str(error), error\n"
        "else:\n"
        "    raise AssertionError('it was written')\n"
        "assert read_checkpoint(path).training == {'step': 1}\n"
    )
    path = tmp_path / "last.pt"
    ended = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert list(tmp_path.iterdir()) == [path]
