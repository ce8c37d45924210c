"""The MATLAB reader against scipy.io, which writes and reads the same files."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.io import loadmat, savemat

from person_search.data import matlab
from person_search.errors import DataError

NUMERIC = [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.int64, np.float32, np.float64]
matrices = st.sampled_from(NUMERIC).flatmap(
    lambda dtype: arrays.arrays(
        dtype,
        st.tuples(st.integers(0, 4), st.integers(0, 5)),
        elements=st.integers(0, 100) if np.issubdtype(dtype, np.integer) else st.floats(-1e3, 1e3, width=32),
    )
)
texts = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF), min_size=1, max_size=12)
fixture_is_shared = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None
)


@fixture_is_shared
@given(matrix=matrices, compress=st.booleans(), name=st.sampled_from(["x", "box_new", "a_rather_long_name"]))
def test_matrices_are_those_of_scipy(tmp_path: Path, matrix: np.ndarray, compress: bool, name: str) -> None:
    path = tmp_path / "m.mat"
    savemat(path, {"before": "text", name: matrix}, do_compression=compress)
    expected = loadmat(path)[name]
    found = matlab.load(path, "missing", name).matrix()
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)


@fixture_is_shared
@given(rows=st.lists(st.tuples(texts, matrices), max_size=5), compress=st.booleans())
def test_structs_and_cells(tmp_path: Path, rows: list[tuple[str, np.ndarray]], compress: bool) -> None:
    array = np.empty((1, len(rows)), dtype=[("name", object), ("skipped", object), ("box", object)])
    cells = np.empty((len(rows), 1), dtype=object)
    for number, (name, box) in enumerate(rows):
        array[0, number] = (name, np.ones(number), box)
        cells[number, 0] = array[:, number : number + 1]
    path = tmp_path / "s.mat"
    savemat(path, {"S": array, "C": cells}, do_compression=compress)
    walks = [
        matlab.load(path, "S").structs("box", "name"),
        matlab.load(path, "C").structs("box", "name"),
        matlab.stream_structs(path, "S", "box", "name"),
    ]
    for walk in walks:
        found = [(box.numbers(), name.text()) for box, name in walk]
        assert found == [(tuple(box.ravel(order="F").tolist()), name) for name, box in rows]


@fixture_is_shared
@given(cut=st.integers(0, 600), compress=st.booleans())
def test_truncated_files_are_named(tmp_path: Path, cut: int, compress: bool) -> None:
    array = np.empty((1, 3), dtype=[("box", object)])
    for number in range(3):
        array[0, number] = (np.arange(4.0) * number,)
    buffer = BytesIO()
    savemat(buffer, {"S": array}, do_compression=compress)
    whole = buffer.getvalue()
    path = tmp_path / "t.mat"
    path.write_bytes(whole[: min(cut, len(whole) - 1)])
    with pytest.raises(DataError, match=r"t\.mat' is (truncated|damaged)"), matlab.naming(path):
        list(matlab.load(path, "S").structs("box"))
    with pytest.raises(DataError, match=r"t\.mat' is (truncated|damaged)"):
        [box.numbers() for (box,) in matlab.stream_structs(path, "S", "box")]


def test_utf16_text_as_matlab_writes_it(tmp_path: Path) -> None:
    """scipy writes UTF-8; MATLAB writes two bytes a character (miUINT16)."""
    path = tmp_path / "u.mat"
    savemat(path, {"pool": np.array([["s1é.jpg"]], dtype=object)})
    utf8, utf16 = "s1é.jpg".encode(), "s1é.jpg".encode("utf-16-le")
    data = path.read_bytes()
    start = data.index(utf8) - 8
    padded = -(-len(utf8) // 8) * 8
    tail = data[start + 8 + padded :]
    text = (4).to_bytes(4, "little") + len(utf16).to_bytes(4, "little") + utf16.ljust(-(-len(utf16) // 8) * 8, b"\0")
    grown = bytearray(data[:start] + text + tail)
    growth = len(grown) - len(data)
    for tag in (128, grown.index((14).to_bytes(4, "little"), 136)):
        size = int.from_bytes(grown[tag + 4 : tag + 8], "little") + growth
        grown[tag + 4 : tag + 8] = size.to_bytes(4, "little")
    path.write_bytes(bytes(grown))
    assert loadmat(path, uint16_codec="utf-16-le")["pool"][0, 0].tolist() == ["s1é.jpg"]
    assert [cell.text() for cell in matlab.load(path, "pool").cells()] == ["s1é.jpg"]


@pytest.mark.parametrize(
    ("write", "expected"),
    [
        (lambda p: p.write_bytes(b"MATLAB 7.3 MAT-file" + bytes(500)), r"MATLAB 7\.3 file; save it with -v7"),
        (lambda p: p.write_text("not MATLAB at all" * 50), r"expected a MATLAB 5 file"),
        (lambda p: savemat(p, {"S": 1.0}), r"expected (a struct array|'S' to be a struct array)"),
        (lambda p: savemat(p, {"S": {"other": 1.0}}), r"expected the field 'box', found other"),
        (lambda p: savemat(p, {"T": {"box": 1.0}}), r"expected the variable S, found T"),
        (lambda p: p.mkdir(), r"cannot read"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, write: object, expected: str) -> None:
    path = tmp_path / "f.mat"
    write(path)  # type: ignore[operator]
    with pytest.raises(DataError, match=expected), matlab.naming(path):
        list(matlab.load(path, "S").structs("box"))
    with pytest.raises(DataError, match=expected):
        list(matlab.stream_structs(path, "S", "box"))
