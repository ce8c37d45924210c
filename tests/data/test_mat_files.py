"""MATLAB files as SciPy reads them: plain values, and errors that name the file."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from person_search.data import mat_files
from person_search.errors import DataError

PATH = Path("f.mat")
NUMERIC = [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.int64, np.float32, np.float64]
matrices = st.sampled_from(NUMERIC).flatmap(
    lambda dtype: arrays.arrays(
        dtype,
        st.tuples(st.integers(0, 4), st.integers(0, 5)),
        elements=st.integers(0, 100) if np.issubdtype(dtype, np.integer) else st.floats(-1e3, 1e3, width=32),
    )
)
texts = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF), min_size=1, max_size=12)
limits = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)


def saved(variables: dict[str, object], compress: bool = True) -> bytes:
    buffer = BytesIO()
    savemat(buffer, variables, do_compression=compress)
    return buffer.getvalue()


@limits
@given(matrix=matrices, compress=st.booleans(), name=st.sampled_from(["x", "box_new", "a_rather_long_name"]))
def test_matrices(matrix: np.ndarray, compress: bool, name: str) -> None:
    found = mat_files.numbers(
        mat_files.load(saved({"before": "text", name: matrix}, compress), PATH, "missing", name), PATH
    )
    assert found.shape == matrix.shape
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, matrix)


@limits
@given(rows=st.lists(st.tuples(texts, matrices), max_size=5), compress=st.booleans())
def test_structs_and_cells(rows: list[tuple[str, np.ndarray]], compress: bool) -> None:
    array = np.empty((1, len(rows)), dtype=[("name", object), ("skipped", object), ("box", object)])
    cells = np.empty((len(rows), 1), dtype=object)
    for number, (name, box) in enumerate(rows):
        array[0, number] = (name, np.ones(number), box)
        cells[number, 0] = array[:, number : number + 1]
    contents = saved({"S": array, "C": cells}, compress)
    for variable in "SC":
        boxes, names = mat_files.columns(mat_files.load(contents, PATH, variable), PATH, "box", "name")
        assert [mat_files.text(name, PATH) for name in names] == [name for name, _ in rows]
        for found, (_, box) in zip(boxes, rows, strict=True):
            np.testing.assert_array_equal(mat_files.numbers(found, PATH), box)


@limits
@given(cut=st.integers(0, 600), compress=st.booleans())
def test_truncated_files_are_named(cut: int, compress: bool) -> None:
    array = np.empty((1, 3), dtype=[("box", object)])
    for number in range(3):
        array[0, number] = (np.arange(4.0) * number,)
    whole = saved({"S": array}, compress)
    with pytest.raises(DataError, match=r"'f\.mat' is damaged"):
        mat_files.columns(mat_files.load(whole[: min(cut, len(whole) - 1)], PATH, "S"), PATH, "box")


def test_utf16_text_as_matlab_writes_it() -> None:
    """SciPy writes UTF-8; MATLAB writes two bytes a character (miUINT16)."""
    data = saved({"pool": np.array([["s1é.jpg"]], dtype=object)}, compress=False)
    utf8, utf16 = "s1é.jpg".encode(), "s1é.jpg".encode("utf-16-le")
    start = data.index(utf8) - 8
    padded = -(-len(utf8) // 8) * 8
    tail = data[start + 8 + padded :]
    text = (4).to_bytes(4, "little") + len(utf16).to_bytes(4, "little") + utf16.ljust(-(-len(utf16) // 8) * 8, b"\0")
    grown = bytearray(data[:start] + text + tail)
    growth = len(grown) - len(data)
    for tag in (128, grown.index((14).to_bytes(4, "little"), 136)):
        size = int.from_bytes(grown[tag + 4 : tag + 8], "little") + growth
        grown[tag + 4 : tag + 8] = size.to_bytes(4, "little")
    (cell,) = mat_files.cells(mat_files.load(bytes(grown), PATH, "pool"), PATH)
    assert mat_files.text(cell, PATH) == "s1é.jpg"


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        (b"MATLAB 7.3 MAT-file" + bytes(500), r"MATLAB 7\.3 file; save it with -v7"),
        (b"\x89HDF\r\n\x1a\n" + bytes(500), r"MATLAB 7\.3 file; save it with -v7"),
        (b"not MATLAB at all" * 50, r"'f\.mat' is damaged: SciPy cannot read it"),
        (b"", r"'f\.mat' is damaged: SciPy cannot read it"),
        (saved({"S": 1.0}), "expected a struct array, found another kind"),
        (saved({"S": "text"}), "expected a struct array, found another kind"),
        (saved({"S": {"other": 1.0}}), r"expected the field 'box', found other"),
        (saved({"T": {"box": 1.0}}), r"expected the variable S, found T"),
    ],
)
def test_other_files_are_refused(contents: bytes, expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        mat_files.columns(mat_files.load(contents, PATH, "S"), PATH, "box")


def test_other_kinds_of_values_are_refused() -> None:
    contents = saved({"n": np.ones((2, 2)), "t": np.array(["ab", "cd"]), "c": np.array([["a"]], dtype=object)})
    number, lines, cell = (mat_files.load(contents, PATH, name) for name in "ntc")
    for wrong in (number, lines, cell):
        with pytest.raises(DataError, match="expected text"):
            mat_files.text(wrong, PATH)
    for wrong in (lines, cell):
        with pytest.raises(DataError, match="expected numbers"):
            mat_files.numbers(wrong, PATH)
    for wrong in (number, lines):
        with pytest.raises(DataError, match="expected a cell array"):
            mat_files.cells(wrong, PATH)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing file '.*no\.mat'; expected a layout"):
        mat_files.read_bytes(tmp_path / "no.mat", "a layout")
    with pytest.raises(DataError, match=r"cannot read '.*'"):
        mat_files.read_bytes(tmp_path)
