"""Keeps parsed galleries in the user's cache folder. A cache that cannot be read or written is done without."""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from person_search.data.scene import Protocol

VERSION = 2
"""Of what is written: an entry of another version is not read."""


def cache_folder() -> Path:
    """This program's folder for files that may be deleted at any time, by the platform's convention."""
    if chosen := os.environ.get("XDG_CACHE_HOME"):
        base = Path(chosen)
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    else:
        base = Path.home() / ".cache"
    return base / "person-search"


def cached_protocol(files: Sequence[Path], make: Callable[[], Protocol]) -> Protocol:
    """``make()``, or what it returned for the same ``files`` (paths, sizes and times of change) before."""
    try:
        stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        key = hashlib.sha256(repr((VERSION, stats)).encode()).hexdigest()[:32]
        path = cache_folder() / "galleries" / f"{key}.npz"
    except (OSError, RuntimeError):
        return make()
    kept = _read(path)
    if kept is not None:
        return kept
    protocol = make()
    _write(path, protocol)
    return protocol


def _read(path: Path) -> Protocol | None:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            queries, scenes = arrays["shape"]
            bits = np.unpackbits(arrays["in_gallery"], axis=1, count=int(scenes))
            if bits.shape != (queries, scenes):
                return None
            return Protocol(
                str(arrays["name"]),
                bits.astype(bool),
                arrays["truth_offsets"],
                arrays["truth_scenes"],
                arrays["truth_boxes"],
                arrays.get("truth_counts"),
                tuple(arrays["notes"].tolist()),
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _write(path: Path, protocol: Protocol) -> None:
    arrays: dict[str, Any] = {
        "name": np.array(protocol.name),
        "shape": np.array(protocol.in_gallery.shape),
        "in_gallery": np.packbits(protocol.in_gallery, axis=1),
        "truth_offsets": protocol.truth_offsets,
        "truth_scenes": protocol.truth_scenes,
        "truth_boxes": protocol.truth_boxes,
        "notes": np.array(protocol.notes, dtype=np.str_),
    }
    if protocol.truth_counts is not None:
        arrays["truth_counts"] = protocol.truth_counts
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
            temporary = Path(file.name)
            np.savez(file, **arrays)
        temporary.replace(path)
    except OSError:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
