"""What is kept of parsed files: found again by content, never wrong, never in the way."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from person_search.data import parse_cache
from person_search.data.parse_cache import Arrays, parsed
from person_search.runtime.files import cache_folder


class Parser:
    """Counts how often it is asked."""

    def __init__(self, value: float = 1.0) -> None:
        self.calls = 0
        self.value = value

    def __call__(self) -> Arrays:
        self.calls += 1
        return {"a": np.full((2, 3), self.value), "names": np.array(["é", "long name"]), "none": np.zeros((0, 4))}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(parse_cache, "WORTH_KEEPING", 0)
    return cache_folder() / "parsed"


def same(found: Arrays, expected: Arrays) -> bool:
    return found.keys() == expected.keys() and all(
        found[key].dtype == expected[key].dtype and np.array_equal(found[key], expected[key]) for key in expected
    )


def test_the_same_contents_are_parsed_once() -> None:
    parse = Parser()
    for _ in range(3):
        assert same(parsed("k", [b"x", b"yz"], parse), Parser()())
    assert parse.calls == 1


@pytest.mark.parametrize(
    ("kind", "contents"), [("k2", [b"x", b"yz"]), ("k", [b"xy", b"z"]), ("k", [b"yz", b"x"]), ("k", [b"xyz"])]
)
def test_other_contents_are_another_entry(kind: str, contents: list[bytes]) -> None:
    parsed("k", [b"x", b"yz"], Parser())
    other = Parser(2.0)
    assert parsed(kind, contents, other)["a"][0, 0] == 2.0
    assert other.calls == 1


def test_small_inputs_are_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parse_cache, "WORTH_KEEPING", 4)
    parsed("k", [b"xyz"], Parser())
    assert not folder.exists()
    parsed("k", [b"xyz", b"!"], Parser())
    assert len(list(folder.iterdir())) == 1


def test_every_damage_is_noticed_and_mended(folder: Path) -> None:
    parsed("k", [b"x"], Parser())
    (entry,) = folder.iterdir()
    whole = entry.read_bytes()
    rng = np.random.default_rng(0)
    flipped = [bytearray(whole) for _ in range(40)]
    for copy, place in zip(flipped, rng.integers(0, len(whole), len(flipped)), strict=True):
        copy[place] ^= 1 << int(rng.integers(8))
    for damaged in [b"", whole[:-1], whole[:100], whole + b"\0", *map(bytes, flipped)]:
        entry.write_bytes(damaged)
        parse = Parser()
        assert same(parsed("k", [b"x"], parse), Parser()())
        assert (parse.calls, entry.read_bytes()) == (1, whole)


def test_an_entry_under_another_name_is_not_taken(folder: Path) -> None:
    parsed("k", [b"x"], Parser(1.0))
    (first,) = folder.iterdir()
    parsed("k", [b"y"], Parser(2.0))
    (second,) = set(folder.iterdir()) - {first}
    second.write_bytes(first.read_bytes())
    assert parsed("k", [b"y"], Parser(2.0))["a"][0, 0] == 2.0


def test_errors_are_passed_on_and_not_kept(folder: Path) -> None:
    def fail() -> Arrays:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        parsed("k", [b"x"], fail)
    assert not folder.exists()


def test_a_folder_that_cannot_be_used_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    parse = Parser()
    for _ in range(2):
        assert same(parsed("k", [b"x"], parse), Parser()())
    assert parse.calls == 2


def test_a_full_disk_leaves_nothing_behind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    assert same(parsed("k", [b"x"], Parser()), Parser()())
    assert list(folder.iterdir()) == []


def test_many_at_once_do_not_meet(folder: Path) -> None:
    """All parse and write at the same time; every one of them, and who comes later, gets the whole result."""
    together = threading.Barrier(8)
    results: list[Arrays] = []

    def parse() -> Arrays:
        together.wait(timeout=30)
        return {"a": np.arange(200_000.0)}

    threads = [threading.Thread(target=lambda: results.append(parsed("k", [b"x"], parse))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    later = Parser()
    results.append(parsed("k", [b"x"], later))
    assert later.calls == 0
    assert len(results) == 9
    assert all(same(result, {"a": np.arange(200_000.0)}) for result in results)
    assert [entry.suffix for entry in folder.iterdir()] == [".parsed"]
