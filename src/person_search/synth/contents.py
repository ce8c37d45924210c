"""What a synthetic dataset's folder holds, so that nothing a person put or changed there is replaced."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from person_search.data.synthetic import MARKER

FILES = "files"
"""Key of the marker: name, with forward slashes -> size in bytes and SHA-256 of every file but the marker."""
LITTER = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
"""Files that systems put into any folder a person looks at."""
_SHOWN = 3
_PICTURES = {
    "coco": r"images/c\d+/\d{6}\.jpg",
    "mot": r"camera-\d+/img1/\d{6}\.jpg",
    "cuhk-sysu": r"Image/SSM/s\d+\.jpg",
    "prw": r"frames/c\ds1_\d{6}\.jpg",
}
_ANNOTATIONS = {
    "coco": r"(train|val|test)\.json",
    "mot": r"camera-\d+/(gt/gt\.txt|seqinfo\.ini)",
    "cuhk-sysu": r"annotation/((Images|pool)\.mat|test/train_test/(Train|TestG\d+)\.mat)",
    "prw": r"annotations/c\ds1_\d{6}\.jpg\.mat|(frame_train|frame_test|ID_train)\.mat|(prwmini_)?query_info\.txt",
}
"""Names of what each layout consists of, for sets of version 0.1.0, whose marker has no list."""


def contents(folder: Path) -> dict[str, list[Any]]:
    """Size and digest of every file below ``folder``, as the marker lists them. Raises OSError."""
    return {name: [(folder / name).stat().st_size, _digest(folder / name)] for name in sorted(_names(folder)[0])}


def strangers(folder: Path, marker: Mapping[str, Any], *, unchanged: bool) -> str:
    """What ``folder`` holds that the generator did not put there as it is, in words; empty where it holds nothing else.

    With ``unchanged`` files are read and compared with what was written; otherwise names and sizes are. Raises OSError.
    """
    names, empty = _names(folder)
    links = {name for name in names if (folder / name).is_symlink()}
    files = names - links
    listed = marker.get(FILES)
    if not isinstance(listed, dict):
        return _strangers_by_kind(folder, marker, files, links | empty, unchanged=unchanged)
    changed = {name for name in files & listed.keys() if _differs(folder / name, listed[name], unchanged)}
    return _told(files - listed.keys() | links | empty, changed)


def is_complete(folder: Path, marker: Mapping[str, Any]) -> bool:
    """Whether every file that the marker lists is there. Raises OSError."""
    return set(marker.get(FILES) or ()) <= _names(folder)[0]


def _strangers_by_kind(
    folder: Path, marker: Mapping[str, Any], files: set[str], others: set[str], *, unchanged: bool
) -> str:
    layout = str(marker.get("layout"))
    if layout not in _PICTURES:
        return f"a {MARKER} of an unknown layout, {layout}"
    pictures = {name for name in files if re.fullmatch(_PICTURES[layout], name)}
    annotations = {name for name in files if re.fullmatch(_ANNOTATIONS[layout], name)}
    made = (folder / MARKER).stat().st_mtime
    # The marker is written last.
    known = pictures | annotations
    changed = {name for name in known if (folder / name).stat().st_mtime > made} if unchanged else set()
    told = _told(files - known | others, changed)
    scenes = marker.get("scenes")
    return told or ("" if len(pictures) == scenes else f"{len(pictures)} pictures where {scenes} were made")


def _names(folder: Path) -> tuple[set[str], set[str]]:
    """All files and links below ``folder`` but the marker and litter, and all folders with nothing in them."""
    files, empty = set(), set()
    for place, folders, names in os.walk(folder):
        within = Path(place).relative_to(folder)
        found = [*names, *(name for name in folders if (Path(place) / name).is_symlink())]
        files |= {(within / name).as_posix() for name in found if name not in LITTER}
        if not folders and not names and Path(place) != folder:
            empty.add(within.as_posix())
    return files - {MARKER}, empty


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _differs(path: Path, written: Any, by_content: bool) -> bool:
    found = [path.stat().st_size, *([_digest(path)] if by_content else [])]
    return not isinstance(written, list) or written[: len(found)] != found


def _told(foreign: Iterable[str], changed: Iterable[str]) -> str:
    found = {"it did not make": sorted(foreign), "changed since": sorted(changed)}
    return "; ".join(
        f"{len(names)} {'entries' if len(names) > 1 else 'entry'} {what} ({', '.join(names[:_SHOWN])}"
        f"{', ...' if len(names) > _SHOWN else ''})"
        for what, names in found.items()
        if names
    )
