"""Every private name of torch and torchvision in use, so that a version that moves one is named, not guessed."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest
import torch
import torchvision

SOURCES = sorted((Path(__file__).parents[1] / "src").rglob("*.py"))
PRIVATE = {
    "torchvision.models.detection._utils.BoxCoder": ("0.23", "0.29"),
    "torch.nn.modules.batchnorm._BatchNorm": ("2.8", "2.14"),
    "torch.nn.modules.batchnorm._NormBase": ("2.8", "2.14"),
    "torch._foreach_copy_": ("2.8", "2.14"),
}
"""Where each is, from the oldest version supported to the newest that was tried."""


@pytest.mark.parametrize("name", PRIVATE)
def test_it_is_where_it_was(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    package = torchvision if name.startswith("torchvision.") else torch
    oldest, newest = PRIVATE[name]
    assert hasattr(importlib.import_module(module), attribute), (
        f"{package.__name__} {package.__version__} moved or removed {name}, which was there from {oldest} to {newest}"
    )


def test_no_other_is_used() -> None:
    used = {name for path in SOURCES for name in private_names(path)}
    assert used == {*PRIVATE}


def private_names(path: Path) -> set[str]:
    """Dotted names of torch or torchvision with a private part that ``path`` imports or reaches."""
    found = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("torch", "torchvision"):
            found |= {f"{node.module}.{name.name}" for name in node.names}
        elif isinstance(node, ast.Attribute) and re.match(r"torch(vision)?\.", dotted := ast.unparse(node)):
            found.add(dotted)
    return {name for name in found if re.search(r"\._(?!_)", name) and "(" not in name}
