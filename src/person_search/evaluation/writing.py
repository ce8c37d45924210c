"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from person_search.errors import DataError


@contextmanager
def whole_file(path: Path, what: str) -> Iterator[IO[bytes]]:
    """A binary file that takes the place of ``path`` only once it is completely on the disk.

    Folders are made as needed. Raises DataError, naming ``what`` and ``path``, when it cannot be written; whatever
    was at ``path`` is then still there.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
        temporary = None
    except OSError as error:
        raise DataError(
            f"cannot write {what} '{path}': {error.strerror or error}; free space or choose another place"
        ) from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
