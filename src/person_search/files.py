"""Files and folders that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from person_search.errors import DataError


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A binary file that takes the place of ``path`` only once it is completely on the disk.

    Whatever fails, ``path`` is what it was before. The name in between is always the same, so that what a killed
    process leaves is overwritten by the next one. Raises OSError.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def replace_file(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let ``write`` fill the file that takes the place of ``path``. Raises OSError."""
    with replacing(path) as file:
        write(file)


def replace_text(path: Path, text: str) -> None:
    """``replace_file`` with UTF-8 ``text``."""
    replace_file(path, lambda file: file.write(text.encode()))


@contextmanager
def whole_file(path: Path, what: str) -> Iterator[BinaryIO]:
    """``replacing`` that makes folders as needed and raises DataError, naming ``what`` and ``path``, on failure."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            yield file
    except OSError as error:
        raise DataError(
            f"cannot write {what} '{path}': {error.strerror or error}; free space or choose another place"
        ) from None


@contextmanager
def replacing_folder(target: Path) -> Iterator[Path]:
    """A new folder that takes the place of ``target`` when the block ends well, and vanishes when it does not.

    Folders above are made as needed. What was at ``target`` is removed only afterwards. Raises OSError.
    """
    if not target.parent.exists():
        target.parent.mkdir(parents=True)
    workshop = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        building, replaced = workshop / "new", workshop / "replaced"
        building.mkdir()
        yield building
        try:
            if target.exists():
                target.rename(replaced)
            building.rename(target)
        except BaseException:
            if replaced.exists() and not target.exists():
                replaced.rename(target)
            raise
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
