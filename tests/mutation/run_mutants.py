"""Breaks the program on purpose, one line at a time, and sees whether the tests notice.

``make mutants`` runs all of ``mutants.yaml``; names after ``make mutants ONLY="..."`` run these alone. Each mutant is
applied to a copy of the tree that has nothing beside it, and the tests named with it are run there: one that passes
them all has survived, which says that a rule has no test. The same tests must pass on the copy as it is.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
LIST = Path(__file__).with_name("mutants.yaml")
COPIED = ("src", "tests", "docs", "recipes", "benchmarks", "main.py", "pyproject.toml", "Makefile", "README.md")
SECONDS = 600
"""A mutant whose tests take longer hangs them, which is noticed too."""


@dataclass(frozen=True)
class Mutant:
    """A deliberate fault: in ``file`` the text ``old``, which is there once, becomes ``new``; ``tests`` should fail."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def apply(self, tree: Path) -> None:
        """Change the copy ``tree``. Raises ValueError where ``old`` is not there exactly once."""
        path = tree / self.file
        text = path.read_text(encoding="utf-8")
        if text.count(self.old) != 1 or self.old == self.new:
            raise ValueError(
                f"mutant '{self.name}': expected its text once in {self.file}, found it {text.count(self.old)} times; "
                f"bring {LIST.name} up to date"
            )
        path.write_text(text.replace(self.old, self.new), encoding="utf-8")


def read_mutants(path: Path = LIST) -> list[Mutant]:
    """The list in ``path``. Raises ValueError for a name that is there twice."""
    entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    mutants = [
        Mutant(name, entry["file"], entry["old"], entry["new"], tuple(entry["tests"].split()))
        for group in entries.values()
        for name, entry in group.items()
    ]
    names = [mutant.name for mutant in mutants]
    if len({*names}) < len(names):
        raise ValueError(f"{path}: names twice: {sorted({name for name in names if names.count(name) > 1})}")
    return mutants


def copy_tree(folder: Path) -> Path:
    """A copy of the tree in ``folder``, with no other folder beside it."""
    tree = folder / "tree"
    tree.mkdir()
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy2(source, tree / name)
    return tree


def passes(tree: Path, tests: Sequence[str], *, jobs: int = 1, seconds: float = SECONDS) -> tuple[bool, str]:
    """Whether ``tests`` pass in ``tree`` within ``seconds``, and the last line that pytest printed."""
    environment = os.environ | {
        "PYTHONPATH": str(tree / "src"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "XDG_CACHE_HOME": str(tree.parent / "cache"),
    }
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "-n",
        str(jobs if jobs > 1 else 0),
        *tests,
    ]
    try:
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return False, f"hung for {seconds:.0f} s"
    if done.returncode not in (0, 1):
        raise RuntimeError(f"pytest could not run {' '.join(tests)}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return done.returncode == 0, (failed or done.stdout.splitlines() or [""])[-1]


def survives(mutant: Mutant) -> tuple[bool, str, float]:
    """Whether no test noticed ``mutant``, what pytest said last, and the seconds it took."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        tree = copy_tree(Path(folder))
        mutant.apply(tree)
        survived, said = passes(tree, mutant.tests)
    return survived, said, time.perf_counter() - began


def main() -> int:
    """Run the list; the exit status is 1 where a mutant survived."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("only", nargs="*", help="names of mutants; none: all")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time")
    options = parser.parse_args()
    mutants = read_mutants()
    if unknown := {*options.only} - {mutant.name for mutant in mutants}:
        parser.error(f"no mutant is called {', '.join(sorted(unknown))}")
    chosen = [mutant for mutant in mutants if not options.only or mutant.name in options.only]
    began = time.perf_counter()
    tests = sorted({test for mutant in chosen for test in mutant.tests})
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        tree = copy_tree(Path(folder))
        good, said = passes(tree, tests, jobs=options.jobs, seconds=len(tests) * SECONDS)
    if not good:
        print(f"the tests fail without any mutant: {said}")
        return 2
    print(f"without a mutant {len(tests)} sets of tests pass, {time.perf_counter() - began:.0f} s", flush=True)
    survivors = []
    with ThreadPoolExecutor(options.jobs) as pool:
        for mutant, (survived, said, seconds) in zip(chosen, pool.map(survives, chosen), strict=True):
            print(f"{'SURVIVED' if survived else 'noticed '} {mutant.name} ({seconds:.0f} s): {said[:110]}", flush=True)
            if survived:
                survivors.append(mutant)
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} noticed, {(time.perf_counter() - began) / 60:.1f} minutes")
    for mutant in survivors:
        print(f"survived: {mutant.name} in {mutant.file}: {mutant.old.strip()!r} -> {mutant.new.strip()!r}")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
