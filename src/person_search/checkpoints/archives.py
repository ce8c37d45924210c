"""Checkpoints inside the archives that they are distributed in: told by their content, and never unpacked by name.

A path may go on inside an archive as if that were a folder: ``logs.tar.gz/some/folder/checkpoint.pth``.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import posixpath
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from person_search.checkpoints.torch_files import OLD_FORMAT
from person_search.errors import CheckpointError

MAX_SIZE = 8 << 30
"""Bytes of one file in an archive; more is no checkpoint of a person search network."""
MAX_TOTAL = 64 << 30
"""Bytes of all of them."""
MAX_FILES = 100_000
MAX_RATIO = 200
"""How many times larger than its compressed form a file may be. Weights shrink by a tenth or so."""
RATIO_FROM = 64 << 20
"""Bytes up to which that does not matter."""
HEADERS = 16 << 20
"""Bytes between two files of a tar archive."""
LISTED = 20
"""Checkpoints that an error lists."""
CHUNK = 1 << 20

COMPRESSED: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"\xfd7zXZ\x00": lzma.LZMAFile,
    b"BZh": bz2.BZ2File,
}
"""What reads a compressed file, by its first bytes."""
FIRST_RECORDS = {b"data.pkl", b"version", b"byteorder", b"constants.pkl", b".format_version", b".storage_alignment"}
"""What a zip file of torch's begins with, in the one folder that it has."""


def archive_of(path: Path) -> tuple[Path, str] | None:
    """The archive that ``path`` is or goes on in, and what it names there (empty: nothing); None without an archive."""
    for place in (path, *path.parents):
        if place.is_file():
            return (place, "" if place == path else path.relative_to(place).as_posix()) if _is_archive(place) else None
    return None


def on_disk(path: Path) -> Path:
    """``path``, or the archive that it goes on in."""
    found = archive_of(path)
    return path if found is None else found[0]


def is_whole(path: Path) -> bool:
    """Whether a file begins, and a zip file ends, as one that ``torch.save`` wrote or an archive of any kind does."""
    with path.open("rb") as file:
        start = file.read(512)
    if start.startswith(b"PK"):
        return zipfile.is_zipfile(path)
    return OLD_FORMAT in start[:32] or _begins_archive(start)


def find_member(path: Path) -> Path:
    """``path``, which names an archive or goes on in one, completed where that leaves one checkpoint alone.

    Raises CheckpointError, listing the checkpoints in the archive, where it leaves none or several.
    """
    archive, inside = _archive_at(path)
    checkpoints, archives, files = [], [], 0
    for name, _, content in _files(archive):
        files += 1
        with _errors_of(archive):
            start = content.read(512)
        if _is_checkpoint(start):
            checkpoints.append(name)
        elif start.startswith(b"PK") or _begins_archive(start):
            archives.append(name)
    found = [name for name in checkpoints if inside in ("", name)] or [
        name for name in checkpoints if name.startswith(f"{inside}/")
    ]
    if len(found) == 1:
        return archive / found[0]
    if len(set(found)) == 1:
        raise CheckpointError(
            f"archive '{archive}' holds {len(found)} checkpoints called '{found[0]}'; unpack the one that is meant"
        )
    if not checkpoints:
        within = f", but archives, {named(archives)}: unpack it yourself and give one of these" if archives else ""
        raise CheckpointError(f"archive '{archive}' holds no checkpoint among its {files} files{within}")
    if not found:
        raise CheckpointError(f"archive '{archive}' holds no checkpoint '{inside}'; it holds {named(checkpoints)}")
    raise CheckpointError(
        f"archive '{archive}' holds {len(found)} checkpoints{f' in {inside!r}' if inside else ''}, {named(found)}; "
        f"name one as if the archive were a folder: '{archive / found[0]}'"
    )


def unpacked(archive: Path, wanted: Callable[[str], bool] = lambda name: True) -> Iterator[tuple[str, Path]]:
    """Name and copy, deleted when the next one is asked for, of each checkpoint in ``archive`` with a ``wanted`` name.

    The copies have names of their own, so that nothing depends on those in the archive. Raises CheckpointError.
    """
    for name, size, content in _files(archive):
        if not wanted(name):
            continue
        with _errors_of(archive):
            start = content.read(512)
        if not _is_checkpoint(start):
            continue
        with tempfile.TemporaryDirectory(prefix="person-search-") as folder:
            copy = Path(folder) / "checkpoint"
            _copy(start, content, copy, archive, name, size)
            yield name, copy


@contextmanager
def as_file(path: Path) -> Iterator[Path]:
    """``path`` or, where it goes on in an archive, a copy of what it names there, which is deleted in the end."""
    if archive_of(path) is None:
        yield path
        return
    archive, inside = _archive_at(find_member(path) if path.is_file() else path)
    members = unpacked(archive, lambda name: name == inside)
    try:
        found = next(members, None)
        if found is None:
            find_member(path)
            raise CheckpointError(f"archive '{archive}' holds no checkpoint '{inside}'")
        yield found[1]
    finally:
        members.close()  # type: ignore[attr-defined]


def named(names: list[str]) -> str:
    """Names in words, not more than fit a message."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(map(repr, names[:LISTED])) + more


def _archive_at(path: Path) -> tuple[Path, str]:
    found = archive_of(path)
    if found is None:
        raise CheckpointError(f"'{path}' is no archive, nor in one; expected .tar.gz, .tgz, .tar, .tar.xz or .zip")
    return found


def _is_archive(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            start = file.read(512)
        if OLD_FORMAT in start[:32]:
            return False
        if _begins_archive(start):
            return True
        return start.startswith(b"PK") and zipfile.is_zipfile(path) and not _is_torch_zip(path)
    except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError, ValueError, struct.error):
        # What is wrong with it is said by whoever reads it.
        return False


def _begins_archive(start: bytes) -> bool:
    """Whether a file that begins like this is a compressed one or a tar archive; zip files are told by their end."""
    return start.startswith(tuple(COMPRESSED)) or start[257:262] == b"ustar"


def _is_torch_zip(path: Path) -> bool:
    """Whether the zip file is what torch writes: one folder with these in it."""
    with zipfile.ZipFile(path) as file:
        names = set(file.namelist())
    roots = {name.partition("/")[0] for name in names}
    return any({f"{root}/data.pkl", f"{root}/constants.pkl"} & names and f"{root}/version" in names for root in roots)


def _is_checkpoint(start: bytes) -> bool:
    """Whether a file that begins like this is one that ``torch.save`` wrote."""
    if OLD_FORMAT in start[:32]:
        return True
    if not start.startswith(b"PK\x03\x04") or len(start) < 30:
        return False
    _, _, record = start[30 : 30 + int.from_bytes(start[26:28], "little")].partition(b"/")
    return record in FIRST_RECORDS


class _Bounded:
    """The bytes of a tar archive, decompressed; raises CheckpointError where they are more than a person would pack.

    ``allowance`` is how many may be read before the next file begins: headers can be of any length too.
    """

    def __init__(self, archive: Path, raw: IO[bytes], decompressed: Any):
        self.archive, self.raw, self.decompressed = archive, raw, decompressed
        self.given, self.allowance = 0, HEADERS

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes."""
        data: bytes = self.decompressed.read(size)
        self.given += len(data)
        self.allowance -= len(data)
        absurd = self.given > RATIO_FROM and self.given > MAX_RATIO * max(self.raw.tell(), 1)
        if absurd or self.given > MAX_TOTAL or self.allowance < 0:
            raise _bomb(self.archive)
        return data


def _files(archive: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Name, size and content of the regular files in ``archive``; links, devices and names that lead out are left out.

    The content can be read until the next file is asked for. Raises CheckpointError.
    """
    with _errors_of(archive), archive.open("rb") as raw:
        start = raw.read(6)
        raw.seek(0)
        found = _files_of_zip(archive, raw) if start.startswith(b"PK") else _files_of_tar(archive, raw, start)
        for number, (name, size, content) in enumerate(found):
            if number >= MAX_FILES or size > MAX_SIZE:
                raise _bomb(archive)
            name = posixpath.normpath(name)
            if not name.startswith(("/", "../")) and name != "..":
                yield name, size, content


def _files_of_tar(archive: Path, raw: IO[bytes], start: bytes) -> Iterator[tuple[str, int, IO[bytes]]]:
    reads = next((reads for magic, reads in COMPRESSED.items() if start.startswith(magic)), lambda file: file)
    bounded = _Bounded(archive, raw, reads(raw))
    # As a stream: what lies before a file is read once, and only once.
    with tarfile.open(fileobj=bounded, mode="r|") as tar:  # type: ignore[call-overload]
        for member in tar:
            if member.isreg() and (content := tar.extractfile(member)) is not None:
                bounded.allowance = member.size + HEADERS
                yield member.name, member.size, content
                while content.read(CHUNK):
                    pass
            bounded.allowance = HEADERS
    # The checksum of what was compressed stands at the very end.
    while bounded.read(CHUNK):
        pass


def _files_of_zip(archive: Path, raw: IO[bytes]) -> Iterator[tuple[str, int, IO[bytes]]]:
    total = 0
    with zipfile.ZipFile(raw) as file:
        for member in file.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            if member.is_dir() or kind not in (0, stat.S_IFREG):
                continue
            total += member.file_size
            absurd = member.file_size > RATIO_FROM and member.file_size > MAX_RATIO * max(member.compress_size, 1)
            if absurd or total > MAX_TOTAL:
                raise _bomb(archive)
            with file.open(member) as content:
                yield member.filename, member.file_size, content


def _copy(start: bytes, content: IO[bytes], copy: Path, archive: Path, name: str, size: int) -> None:
    """Write ``start`` and the rest of ``content`` to ``copy``; not more than was declared."""
    written, data = 0, start
    try:
        with copy.open("wb") as file:
            while data:
                written += len(data)
                if written > min(size, MAX_SIZE):
                    raise _bomb(archive)
                file.write(data)
                with _errors_of(archive):
                    data = content.read(CHUNK)
    except OSError as error:
        raise CheckpointError(
            f"cannot copy {name!r} of archive '{archive}' to the folder for temporary files: {error.strerror}; free "
            f"{size / 1e9:.1f} GB there, or set TMPDIR to another folder"
        ) from None
    if written != size:
        raise _damaged(archive)


@contextmanager
def _errors_of(archive: Path) -> Iterator[None]:
    """Say in one line what is wrong with an archive."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise _damaged(archive) from None
        raise CheckpointError(f"cannot read archive '{archive}': {error.strerror}; check the path") from None
    except RuntimeError as error:
        encrypted = "password" in str(error)
        raise (
            CheckpointError(f"archive '{archive}' is encrypted; unpack it yourself and give the checkpoint in it")
            if encrypted
            else _damaged(archive)
        ) from None
    except (
        tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, struct.error,
    ):  # fmt: skip
        raise _damaged(archive) from None


def _damaged(archive: Path) -> CheckpointError:
    return CheckpointError(
        f"archive '{archive}' is cut short or damaged, or no archive of files; fetch it again, or unpack it yourself "
        "and give the checkpoint in it"
    )


def _bomb(archive: Path) -> CheckpointError:
    return CheckpointError(
        f"archive '{archive}' is refused: it unpacks to more than any checkpoint needs (a file of more than "
        f"{MAX_SIZE / 2**30:.3g} GiB, or {MAX_RATIO} times its compressed size); nothing of it was kept"
    )
