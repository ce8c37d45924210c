"""The list of deliberate faults fits the tree: each finds its line, and names tests that are there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from run_mutants import ROOT, Mutant, read_mutants

MUTANTS = read_mutants()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_it_applies(mutant: Mutant, tmp_path: Path) -> None:
    copy = tmp_path / mutant.file
    copy.parent.mkdir(parents=True)
    shutil.copy2(ROOT / mutant.file, copy)
    mutant.apply(tmp_path)
    changed = copy.read_text(encoding="utf-8")
    assert mutant.new in changed
    compile(changed, mutant.file, "exec")
    for test in mutant.tests:
        assert (ROOT / test.split("::")[0]).exists(), test


def test_there_are_enough() -> None:
    assert len(MUTANTS) >= 40
