"""Reads MATLAB 5 files (``save -v6`` and ``-v7``) lazily: nothing is built until it is asked for.

``scipy.io.loadmat`` turns every cell into an array: gigabytes for the larger CUHK-SYSU galleries, and most of PRW's
loading time is its start-up per file. Here struct and cell arrays are walked by their byte sizes, and a big struct
array can be streamed. Source of the layout: MathWorks, "MAT-File Format", chapter 1 (Level 5).
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from person_search.errors import DataError

_TAG = struct.Struct("<II")
_PLAIN = struct.Struct("<12I")
_HEADER_BYTES = 128
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _CHAR = 1, 2, 4
_NUMBERS = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 9: "d", 12: "q", 13: "Q"}
_ENCODINGS = {1: "utf-8", 2: "utf-8", 16: "utf-8", 4: "utf-16-le", 17: "utf-16-le"}


class _DamagedError(Exception):
    """The bytes are not what the format promises; becomes a DataError that names the file."""


def _element(data: bytes, at: int) -> tuple[int, int, int, int]:
    """Type, first byte, size and the position after the data element at ``at``."""
    kind, size = _TAG.unpack_from(data, at)
    if kind >> 16:
        return kind & 0xFFFF, at + 4, kind >> 16, at + 8
    start = at + 8
    if start + size > len(data):
        raise _DamagedError("it ends in the middle of a value")
    return kind, start, size, start + (size + 7 & ~7)


def _field_names(length: bytes, names: bytes) -> tuple[str, ...]:
    width = int.from_bytes(length, "little")
    if width < 1:
        raise _DamagedError("a struct without field names")
    return tuple(names[i : i + width].split(b"\0")[0].decode() for i in range(0, len(names), width))


class Value:
    """One MATLAB array inside ``data``; reading it further happens on demand.

    Attributes:
        name: the variable's name, empty for nested values.
        shape: MATLAB's size of the array.
        size: number of elements.
    """

    __slots__ = ("_body", "_data", "_end", "_kind", "name", "shape", "size")

    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self.name = ""
        head = _PLAIN.unpack_from(data, at) if at + 48 <= len(data) else ()
        # Nested values are nearly always unnamed and two-dimensional: one look is enough for them.
        if head and head[0] == _MATRIX and head[2:4] == (6, 8) and head[6:8] == (5, 8) and head[10:] == (1, 0):
            self._kind = head[4] & 0xFF
            self.shape: tuple[int, ...] = head[8:10]
            self.size = head[8] * head[9]
            self._body = at + 48
            self._end = at + 8 + head[1]
            if self._end > len(data):
                raise _DamagedError("it ends in the middle of a value")
            return
        kind, start, size, _ = _element(data, at)
        if kind != _MATRIX:
            raise _DamagedError(f"expected an array, found data of type {kind}")
        self._end = start + size
        if size == 0:
            self._kind, self.shape, self.size, self._body = 0, (0, 0), 0, start
            return
        _, flags, _, at = _element(data, start)
        self._kind = data[flags]
        _, start, size, at = _element(data, at)
        self.shape = struct.unpack_from(f"<{size // 4}i", data, start)
        self.size = math.prod(self.shape)
        _, start, size, self._body = _element(data, at)
        self.name = data[start : start + size].decode()

    def text(self) -> str:
        """A char array of one row as ``str``."""
        if self.size == 0:
            return ""
        if self._kind != _CHAR:
            raise _DamagedError("expected text, found another kind of value")
        kind, start, size, _ = _element(self._data, self._body)
        if kind not in _ENCODINGS:
            raise _DamagedError(f"text of unknown type {kind}")
        return self._data[start : start + size].decode(_ENCODINGS[kind])

    def numbers(self) -> tuple[float, ...]:
        """The elements of a numeric array, column by column; empty for an empty array of any kind."""
        if self.size == 0:
            return ()
        if self._kind <= _CHAR:
            raise _DamagedError("expected numbers, found another kind of value")
        kind, start, size, _ = _element(self._data, self._body)
        code = _NUMBERS.get(kind)
        if code is None:
            raise _DamagedError(f"numbers of unknown type {kind}")
        count = size // struct.calcsize(f"<{code}")
        if count != self.size:
            raise _DamagedError(f"{count} numbers in an array of {self.size}")
        return struct.unpack_from(f"<{count}{code}", self._data, start)

    def matrix(self) -> NDArray[np.float64]:
        """A numeric array as float64, (rows, columns)."""
        if len(self.shape) != 2:
            raise _DamagedError(f"expected a matrix, found an array of {len(self.shape)} dimensions")
        return np.array(self.numbers(), dtype=np.float64).reshape(self.shape, order="F")

    def cells(self) -> Iterator[Value]:
        """The values in a cell array."""
        if self.size == 0:
            return
        if self._kind != _CELL:
            raise _DamagedError("expected a cell array, found another kind of value")
        at = self._body
        for _ in range(self.size):
            yield Value(self._data, at)
            at = _element(self._data, at)[3]

    def structs(self, *fields: str) -> Iterator[tuple[Value, ...]]:
        """``fields`` of every element of a struct array, or of a cell array that holds structs."""
        if self.size and self._kind == _CELL:
            for cell in self.cells():
                yield from cell.structs(*fields)
            return
        if self.size == 0:
            return
        if self._kind != _STRUCT:
            raise _DamagedError("expected a struct array, found another kind of value")
        data = self._data
        _, start, size, at = _element(data, self._body)
        length = data[start : start + size]
        _, start, size, at = _element(data, at)
        names = _field_names(length, data[start : start + size])
        columns = _columns(names, fields)
        unpack = _TAG.unpack_from
        for _ in range(self.size):
            starts = []
            for _ in names:
                starts.append(at)
                at += 8 + unpack(data, at)[1]
            if at > self._end:
                raise _DamagedError("it ends in the middle of a struct array")
            yield tuple([Value(data, starts[column]) for column in columns])


def _columns(names: Sequence[str], fields: Sequence[str]) -> list[int]:
    for field in fields:
        if field not in names:
            raise _DamagedError(f"expected the field '{field}', found {', '.join(names)}")
    return [names.index(field) for field in fields]


@contextmanager
def naming(path: Path, layout: str = "") -> Iterator[None]:
    """Errors of reading ``path``, whenever its values are walked, as DataError with the file's name.

    ``layout`` says, for a missing file, what the dataset's folder should hold.
    """
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"missing file '{path}'{'; expected ' + layout if layout else ''}") from None
    except OSError as error:
        raise DataError(f"cannot read '{path}': {error.strerror or error}") from None
    except _DamagedError as error:
        raise DataError(f"'{path}' is damaged: {error}; fetch or make it again") from None
    except (struct.error, zlib.error, UnicodeDecodeError):
        raise DataError(f"'{path}' is truncated or damaged; fetch or make it again") from None


def _check_header(header: bytes) -> None:
    if header[:8] == b"\x89HDF\r\n\x1a\n" or header[:10] == b"MATLAB 7.3":
        raise _DamagedError("it is a MATLAB 7.3 file; save it with -v7")
    if len(header) < _HEADER_BYTES or header[124:128] != b"\x00\x01IM":
        raise _DamagedError("expected a MATLAB 5 file (save -v7, little-endian), found something else")


def _variables(data: bytes) -> Iterator[Value]:
    _check_header(data[:_HEADER_BYTES])
    at = _HEADER_BYTES
    while at < len(data):
        kind, size = _TAG.unpack_from(data, at)
        if at + 8 + size > len(data):
            raise _DamagedError("it ends in the middle of a variable")
        if kind == _COMPRESSED:
            yield Value(zlib.decompress(data[at + 8 : at + 8 + size]), 0)
        else:
            yield Value(data, at)
        at += 8 + size


def load(path: Path, *names: str, layout: str = "") -> Value:
    """The first of the variables ``names`` that ``path`` holds. Walk it under ``naming(path)``.

    Raises DataError for a missing or damaged file and when none of the variables is there.
    """
    with naming(path, layout):
        found = {value.name: value for value in _variables(path.read_bytes())}
        for name in names:
            if name in found:
                return found[name]
        raise _DamagedError(f"expected the variable {' or '.join(names)}, found {', '.join(found) or 'none'}")


class _Stream:
    """Bytes of one variable from where ``file`` stands, inflated piece by piece when they are compressed."""

    def __init__(self, file: BinaryIO) -> None:
        kind, self._left = _TAG.unpack(file.read(8))
        if os.fstat(file.fileno()).st_size - file.tell() < self._left:
            raise _DamagedError("it ends in the middle of a variable")
        self._file = file
        self._inflate = zlib.decompressobj() if kind == _COMPRESSED else None
        self._ready = bytearray()
        if self._inflate is None:
            file.seek(-8, 1)
            self._left += 8

    def take(self, count: int) -> bytes:
        """Exactly the next ``count`` bytes."""
        while len(self._ready) < count:
            piece = self._file.read(min(self._left, 1 << 18))
            self._left -= len(piece)
            if not piece:
                raise _DamagedError("it ends in the middle of a variable")
            self._ready += self._inflate.decompress(piece) if self._inflate else piece
        taken = bytes(self._ready[:count])
        del self._ready[:count]
        return taken

    def element(self) -> bytes:
        """The contents of the next data element."""
        tag = self.take(8)
        kind, size = _TAG.unpack(tag)
        if kind >> 16:
            return tag[4 : 4 + (kind >> 16)]
        return self.take(size + 7 & ~7)[:size]

    def array(self) -> Value:
        """The next array, whole."""
        tag = self.take(8)
        return Value(tag + self.take(_TAG.unpack(tag)[1]), 0)


def stream_structs(path: Path, variable: str, *fields: str, layout: str = "") -> Iterator[tuple[Value, ...]]:
    """``fields`` of each element of the struct array ``variable`` in ``path``, holding one element at a time.

    Walk the values under ``naming(path)``. Raises DataError for a missing or damaged file, variable or field.
    """
    with naming(path, layout), path.open("rb") as file:
        _check_header(file.read(_HEADER_BYTES))
        at, found = _HEADER_BYTES, []
        while tag := file.read(8):
            size = _TAG.unpack(tag)[1]
            file.seek(at)
            stream = _Stream(file)
            stream.take(8)
            kind = stream.element()[0]
            shape = stream.element()
            name = stream.element().decode()
            if name == variable:
                break
            found.append(name)
            at += 8 + size
            file.seek(at)
        else:
            raise _DamagedError(f"expected the variable {variable}, found {', '.join(found) or 'none'}")
        if kind != _STRUCT:
            raise _DamagedError(f"expected '{variable}' to be a struct array, found another kind of value")
        names = _field_names(stream.element(), stream.element())
        columns = _columns(names, fields)
        for _ in range(math.prod(struct.unpack(f"<{len(shape) // 4}i", shape))):
            values = [stream.array() for _ in names]
            yield tuple([values[column] for column in columns])
