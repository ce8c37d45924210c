"""Files and folders that are there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from person_search.errors import DataError, UsageError

_FOLDERS_CAN_BE_SYNCED = os.name != "nt"
"""Windows opens no folder as a file; there a rename reaches the disk when the system writes it."""
_ABANDONED_AFTER = 3600.0
"""Seconds without a byte written after which a temporary file or folder belongs to a process that was killed."""
_NEW, _REPLACED = "new", "replaced"
"""In a temporary folder: what is being made, and what it takes the place of."""


def cache_folder() -> Path:
    """This program's folder for files that may be deleted at any time.

    ``PERSON_SEARCH_HOME`` names it; else it is where the platform's convention has it. Raises RuntimeError where there
    is no home folder.
    """
    if chosen := os.environ.get("PERSON_SEARCH_HOME"):
        return Path(chosen).expanduser()
    if chosen := os.environ.get("XDG_CACHE_HOME"):
        base = Path(chosen)
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    else:
        base = Path.home() / ".cache"
    return base / "person-search"


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a binary file for writing that takes the place of ``path`` only once it is completely on the disk.

    Whatever fails, ``path`` is what it was before. The temporary name is this writer's own, so that of several at the
    same time one wins, whole; what killed processes left an hour ago or earlier is removed. Raises OSError.
    """
    _remove_abandoned(path)
    temporary = _temporary_name(path)
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        replace_synced(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def replace_synced(written: Path, path: Path) -> None:
    """Let the file ``written``, whose bytes are on the disk, take the place of ``path`` there. Raises OSError."""
    os.replace(written, path)
    _sync_folder(path.parent)


def _remove_abandoned(path: Path) -> None:
    """Remove what writers of ``path`` left that were killed; that nothing can be removed is no error.

    A folder that was moved aside and whose place is still empty is put back.
    """
    left = re.compile(re.escape(f".{path.name[:40]}.") + r"([0-9a-f]{16}\.)?part")
    with contextlib.suppress(OSError):
        for entry in [Path(each) for each in os.scandir(path.parent) if left.fullmatch(each.name)]:
            with contextlib.suppress(OSError):
                if time.time() - _last_written(entry) <= _ABANDONED_AFTER:
                    continue
                if not entry.is_dir():
                    entry.unlink()
                    continue
                replaced = entry / _REPLACED
                if replaced.exists() and not path.exists():
                    replaced.rename(path)
                shutil.rmtree(entry, ignore_errors=True)


def _last_written(path: Path) -> float:
    """Time at which ``path``, or anything that was made below it, was written last. Raises OSError."""
    made = [path.stat().st_mtime]
    for folder, folders, names in os.walk(path):
        if folder == str(path) and _REPLACED in folders:
            # As old as what it is, whenever it was moved.
            folders.remove(_REPLACED)
        made += [os.lstat(os.path.join(folder, name)).st_mtime for name in [*folders, *names]]
    return max(made)


def _temporary_name(path: Path) -> Path:
    # A name has at most 255 bytes, a character up to four of them.
    return path.with_name(f".{path.name[:40]}.{secrets.token_hex(8)}.part")


def _sync_folder(folder: Path) -> None:
    """Bring the names in ``folder`` to the disk, where the system can. Raises OSError."""
    if not _FOLDERS_CAN_BE_SYNCED:
        return
    try:
        number = os.open(folder, os.O_RDONLY)
    except PermissionError:
        # Files can be put into a folder that may not be listed.
        return
    try:
        os.fsync(number)
    except OSError as error:
        # Some network and user-space file systems sync files alone.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(number)


def atomic_write_text(path: Path, text: str) -> None:
    """``atomic_write`` of UTF-8 ``text``. Raises OSError."""
    with atomic_write(path) as file:
        file.write(text.encode())


def check_output_files(**paths: Path | None) -> None:
    """Raise UsageError, before any work, where a path to write a file to, by its parameter's name, is a folder."""
    for name, path in paths.items():
        if path is not None and path.is_dir():
            raise UsageError(f"`{name}` '{path}' is a folder; expected the name of a file to write")


@contextmanager
def output_file(path: Path, what: str) -> Iterator[BinaryIO]:
    """``atomic_write`` that makes folders as needed and raises DataError, naming ``what`` and ``path``, on failure."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            yield file
    except OSError as error:
        raise DataError(
            f"cannot write {what} '{path}': {error.strerror or error}; free space or choose another place"
        ) from None


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """A new folder that takes the place of ``target`` when the block ends well, and vanishes when it does not.

    Folders above are made as needed. What was at ``target`` is removed only afterwards; what killed processes left an
    hour ago or earlier is removed as ``atomic_write`` does. Raises OSError.
    """
    if not target.parent.exists():
        target.parent.mkdir(parents=True)
    _remove_abandoned(target)
    temporary = _temporary_name(target)
    temporary.mkdir(mode=0o700)
    try:
        new, replaced = temporary / _NEW, temporary / _REPLACED
        new.mkdir()
        yield new
        try:
            if target.exists():
                target.rename(replaced)
            new.rename(target)
        except BaseException:
            if replaced.exists() and not target.exists():
                replaced.rename(target)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
