"""Files and folders are there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from person_search.files import replacing, replacing_folder


def test_a_file_that_fails_half_way_leaves_the_older_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(TypeError), replacing(path) as file:
        file.writelines([b"half of the ", None])
    assert path.read_bytes() == b"old"
    with replacing(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_takes_the_place_of_another_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "target"
    for text in ("one", "two"):
        with replacing_folder(target) as folder:
            (folder / text).write_text(text)
            assert (target / "one").exists() == (text == "two")
        assert [path.name for path in target.iterdir()] == [text]
    assert list(target.parent.iterdir()) == [target]


def test_a_folder_that_fails_half_way_or_cannot_be_moved_leaves_the_older_one(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "old").write_text("x")
    with pytest.raises(NotADirectoryError), replacing_folder(target):
        (target / "old" / "file").write_text("y")
    with pytest.raises(FileNotFoundError), replacing_folder(target) as folder:
        folder.rmdir()
    assert [path.name for path in target.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [target]
