"""Which files ``torch.load`` may be given at all, told apart before anything in them is read."""

from __future__ import annotations

import zipfile
from pathlib import Path

from person_search.errors import CheckpointError

OLD_FORMAT = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
"""Among the first bytes of what ``torch.save`` wrote before torch 1.6, and still writes on request.

It is ``torch.serialization.MAGIC_NUMBER``, written down so that a file can be told without importing torch.
"""


class PickledCodeError(CheckpointError):
    """A file that names functions or classes beside tensors and plain values; none of them was called."""


def check_torch_file(path: Path) -> None:
    """Raises CheckpointError for a file that is missing, not written by ``torch.save``, cut short, damaged (as far as
    checksums show, which files of old torch versions do not have), or a TorchScript program.
    """
    try:
        with path.open("rb") as file:
            start = file.read(32)
        if zipfile.is_zipfile(path):
            _check_archive(path)
            return
        if OLD_FORMAT in start:
            return
    except FileNotFoundError:
        raise CheckpointError(f"there is no checkpoint at '{path}'; check the path") from None
    except OSError as error:
        raise CheckpointError(f"cannot read checkpoint '{path}': {error.strerror}; check the path") from None
    except (zipfile.BadZipFile, RuntimeError, EOFError, NotImplementedError):
        raise damaged(path) from None
    if start.startswith(b"PK"):
        raise damaged(path)
    raise CheckpointError(f"'{path}' is not a checkpoint: expected what torch.save writes, found other data")


def damaged(path: Path) -> CheckpointError:
    """The error for a file that is not whole."""
    return CheckpointError(f"checkpoint '{path}' is cut short or damaged; use another one")


def _check_archive(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        if any(name.endswith("/constants.pkl") for name in archive.namelist()):
            raise CheckpointError(
                f"'{path}' is a TorchScript program, not a checkpoint; nothing in it was executed; expected the file "
                "that training wrote"
            )
        # torch.load does not compare checksums: a flipped bit would become a wrong weight without a word.
        if archive.testzip() is not None:
            raise damaged(path)
