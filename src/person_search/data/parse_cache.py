"""Keeps what was read from files that take long to parse, in the user's cache folder.

A cache that cannot be read or written is done without; one that is damaged is made anew.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from person_search.runtime.files import cache_folder

Arrays = dict[str, NDArray[Any]]

WORTH_KEEPING = 1 << 16
"""Bytes of input from which parsing takes long enough to keep its result."""


def parsed(kind: str, contents: Sequence[bytes], parse: Callable[[], Arrays]) -> Arrays:
    """``parse()``, or what it returned for the same ``contents`` of files before.

    ``kind`` names what is done with the contents and how the result is laid out: change it with either. The result
    must depend on nothing else. Errors of ``parse`` are passed on and not kept.
    """
    if sum(map(len, contents)) < WORTH_KEEPING:
        return parse()
    digest = hashlib.sha256(f"{kind}\0".encode())
    for content in contents:
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    key = digest.hexdigest()
    try:
        path = cache_folder() / "parsed" / f"{key}.parsed"
    except RuntimeError:  # no home folder
        return parse()
    kept = _read(path, key)
    if kept is None:
        kept = parse()
        _write(path, key, kept)
    return kept


def _seal(key: str, payload: bytes) -> bytes:
    return hashlib.sha256(key.encode() + payload).digest()


def _read(path: Path, key: str) -> Arrays | None:
    try:
        kept = path.read_bytes()
    except OSError:
        return None
    seal, payload = kept[:32], kept[32:]
    if seal != _seal(key, payload):
        return None
    with np.load(BytesIO(payload), allow_pickle=False) as arrays:
        return dict(arrays)


def _write(path: Path, key: str, arrays: Arrays) -> None:
    buffer = BytesIO()
    keywords: dict[str, Any] = dict(arrays)
    np.savez(buffer, **keywords)
    payload = buffer.getvalue()
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A name of its own, so that processes that write the same entry do not meet.
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
            temporary = Path(file.name)
            file.write(_seal(key, payload) + payload)
        temporary.replace(path)
    except OSError:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
