"""Each folder of the package imports only what stands before it, and a command brings along nothing it does not use."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from person_search.commandline import cli

PACKAGE = Path(cli.__file__).parents[1]
ORDER = [
    "errors", "registry", "config", "runtime", "data", "synth", "models", "checkpoints", "evaluation", "visualize",
    "training", "gallery", "web", "commandline",
]  # fmt: skip
"""Rooms that appear later have their place already. ``registry`` belongs to the settings, which are chosen by name."""
HEAVY = {
    "torch", "torchvision", "lightning_fabric", "tensorboard", "timm", "cv2", "scipy", "rich", "tyro", "jinja2", "PIL",
    "numpy", "pydantic", "yaml", "matplotlib", "requests", "gdown", "filelock",
}  # fmt: skip
SETTINGS = {"pydantic", "yaml", "tyro"}
READING = SETTINGS | {"numpy", "rich"}
NETWORK = READING | {"PIL", "torch", "torchvision"}


def imports(file: Path) -> Iterator[str]:
    """Modules of this package that ``file`` imports anywhere in it, also in functions and for types alone."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.startswith("person_search."))
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "person_search":
            for name in node.names:
                inside = PACKAGE.joinpath(*node.module.split(".")[1:], name.name)
                is_module = inside.is_dir() or inside.with_suffix(".py").exists()
                yield f"{node.module}.{name.name}" if is_module else node.module


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_every_folder_has_its_place() -> None:
    found = {path.stem for path in PACKAGE.iterdir() if path.is_dir() or path.suffix == ".py"}
    assert found - {"__init__", "__main__", "__pycache__", "py"} <= {*ORDER}


def test_no_file_imports_what_stands_after_it() -> None:
    wrong = [
        f"{file.relative_to(PACKAGE)} imports {module}"
        for file in sorted(PACKAGE.rglob("*.py"))
        if (own := file.relative_to(PACKAGE).parts[0].removesuffix(".py")) in ORDER
        for module in imports(file)
        if room(module) and ORDER.index(room(module)) > ORDER.index(own)
    ]
    assert wrong == []


def test_the_search_for_imports_finds_those_in_functions_and_of_modules(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text(
        "import os\nimport person_search.errors\nfrom person_search import __version__\n"
        "def late():\n    from person_search.training import run\n    from person_search.config import Config\n"
    )
    found = ["person_search.errors", "person_search", "person_search.training.run", "person_search.config"]
    assert list(imports(file)) == found


def heavy_after(*arguments: str) -> set[str]:
    """The heavy packages that are imported once the command has ended well."""
    (found,) = heavy_after_each([arguments])
    return found


RUN_EACH = """
import builtins, importlib, json, os, sys
from person_search.commandline import cli

commands, lent = json.loads(sys.argv[1])
brought = {}
for name in lent:
    before = {*sys.modules}
    importlib.import_module(name)
    brought[name] = {*sys.modules} - before
there, wanted, importing = {*sys.modules}, set(), builtins.__import__

def noting(name, globals=None, locals=None, fromlist=(), level=0):
    if level == 0:
        wanted.add(name.split(".")[0])
    return importing(name, globals, locals, fromlist, level)

for number, words in enumerate(commands):
    if os.fork() == 0:
        builtins.__import__ = noting
        try:
            code = cli.run(words, cli.dispatch)
        except SystemExit as stop:
            code = stop.code
        sys.stdout.flush()
        found = {*sys.modules} - there | wanted & {*sys.modules} if lent else {*sys.modules}
        for name in wanted & {*lent}:
            found |= brought[name]
        with open(f"modules-{number}.txt", "w") as file:
            file.write(" ".join({name.split(".")[0] for name in found}))
        os._exit(code or 0)
    assert os.wait()[1] == 0, words
"""
"""Runs each command in a process of its own, forked from one that has imported the packages that are lent. Of these
count those that the command asks for, and what they brought along."""


def heavy_after_each(commands: Sequence[Sequence[str]], lent: Sequence[str] = ()) -> list[set[str]]:
    """What ``heavy_after`` says of each of ``commands``, which run one after the other.

    Importing PyTorch takes seconds: with ``lent``, packages that all or most of them need, once instead of each time.
    """
    given = json.dumps([commands, lent])
    ended = subprocess.run([sys.executable, "-c", RUN_EACH, given], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return [HEAVY & {*Path(f"modules-{number}.txt").read_text().split()} for number in range(len(commands))]


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_the_overview_imports_nothing(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert heavy_after(*arguments) == set()


def test_importing_the_package_or_its_interface_makes_no_console() -> None:
    code = (
        "import sys, person_search\n"
        "for name in person_search.__all__: getattr(person_search, name)\n"
        "assert not {'person_search.runtime.terminal', 'tyro', 'cv2', 'timm'} & {*sys.modules}\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


@pytest.mark.slow
def test_every_command_imports_what_it_uses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = ["synth", "--identities", "4", "--scenes", "8", "--out", "data"]
    assert heavy_after_each([["models"], made, ["info", "--data-root", "data"]]) == [
        SETTINGS | {"rich"},
        READING | {"cv2"},
        READING | {"PIL"},
    ]
    picture = next(Path("data").rglob("*.jpg"))
    network = ["--backbone", "resnet18", "--width", "0.25", "--weights", "none"]
    small = ["--shorter-side", "96", "--longer-side", "128", "--batch-size", "2", "--max-steps", "1"]
    data = ["--data-root", "data", "--workers", "0"]
    commands: dict[Sequence[str], set[str]] = {
        ("train", *data, *network, *small, "--run-dir", "run", "--device", "cpu"): (
            NETWORK | {"lightning_fabric", "tensorboard"}
        ),
        ("predict", "--checkpoint", "run", "--predictions", "found.npz"): NETWORK,
        ("evaluate", "--checkpoint", "run"): NETWORK,
        ("convert", "run", "--out", "model.pt"): NETWORK,
        ("report", "--run-dir", "run"): NETWORK | {"cv2", "jinja2", "matplotlib"},
        ("visualize", "--model", "run", "--query", str(picture), "--box", "1,1,30,60", "--gallery", "data"): (
            NETWORK | {"cv2"}
        ),
    }
    found = heavy_after_each([*commands], lent=["torch", "torchvision"])
    assert dict(zip(commands, found, strict=True)) == commands
    scoring = [
        ("score", "--predictions", "found.npz", "--data-root", "data"),
        ("compare", "found.npz", "found.npz", "--data-root", "data", "--samples", "2"),
    ]
    assert heavy_after_each(scoring) == [READING, READING]


def test_what_is_lent_counts_for_who_asks_for_it_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert heavy_after_each([["--version"], ["train", "--help"]], lent=["numpy"]) == [set(), SETTINGS]
