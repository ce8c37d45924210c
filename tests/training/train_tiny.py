"""A training on little scenes as a program of its own: ``train_tiny.py CONFIG DATA``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from conftest import TinyDataset
from person_search.commandline.cli import run
from person_search.config import load_config
from person_search.training.trainer import train


def execute(arguments: Sequence[str]) -> None:
    config, data = map(Path, arguments)
    train(load_config(config), dataset=TinyDataset(data), show_progress=False)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:], execute))
