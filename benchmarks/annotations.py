"""Loading times of annotation files of the published sizes.

    python benchmarks/annotations.py                      PRW, and CUHK-SYSU with TestG50 and TestG100
    python benchmarks/annotations.py --gallery-size 500   a larger gallery too (SciPy needs minutes to write it)

The files are made in a temporary folder with SciPy; only their numbers and nesting are those of the datasets.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.io import loadmat, savemat

from person_search.data.cuhk_sysu import CuhkSysuDataset
from person_search.data.prw import PrwDataset
from person_search.data.scene import ProtocolOptions

EMPTY = np.zeros((0, 0))
HARD = np.zeros((1, 1), np.uint8)


def structs(fields: Sequence[str], rows: Iterable[Sequence[object]]) -> np.ndarray:
    """A MATLAB 1 x N struct array."""
    listed = list(rows)
    array = np.empty((1, len(listed)), dtype=[(field, object) for field in fields])
    for number, row in enumerate(listed):
        array[0, number] = tuple(row)
    return array


def cells(values: Sequence[object]) -> np.ndarray:
    """A MATLAB N x 1 cell array."""
    array = np.empty((len(values), 1), dtype=object)
    for number, value in enumerate(values):
        array[number, 0] = value
    return array


def write_prw(root: Path) -> None:
    """11,816 frames, 5,704 to train, 483 training identities, 2,057 queries."""
    generator = np.random.default_rng(0)
    (root / "annotations").mkdir(parents=True)
    names = [f"c{n % 6 + 1}s1_{n:06d}" for n in range(11816)]
    lines = []
    for number, name in enumerate(names):
        train = number < 5704
        rows = np.column_stack(
            [generator.permutation(450)[:4], generator.uniform(0, 900, (4, 2)), np.full((4, 2), 90.5)]
        )
        rows[:, 0] += 1 if train else 1000
        rows[3, 0] = -2
        savemat(root / "annotations" / f"{name}.jpg.mat", {"box_new": rows}, do_compression=True)
        if not train and len(lines) < 2057:
            person, *box = rows[0]
            lines.append(f"{int(person)} {' '.join(map(repr, map(float, box)))} {name}\r\n")
    savemat(root / "frame_train.mat", {"img_index_train": cells(names[:5704])}, do_compression=True)
    savemat(root / "frame_test.mat", {"img_index_test": cells(names[5704:])}, do_compression=True)
    savemat(root / "ID_train.mat", {"ID_train": np.arange(1, 484)[None]}, do_compression=True)
    (root / "query_info.txt").write_bytes("".join(lines).encode())


def write_sysu(root: Path, sizes: Sequence[int]) -> None:
    """18,184 images, 6,978 to test, 5,532 training identities, 2,900 queries."""
    generator = np.random.default_rng(0)
    protocols = root / "annotation" / "test" / "train_test"
    protocols.mkdir(parents=True)
    names = [f"s{n + 1}.jpg" for n in range(18184)]
    boxes = [generator.integers(1, 800, (1 + n % 9, 4)).astype(np.uint16) for n in range(len(names))]
    appear = ("imname", "idlocate", "ishard")
    images = (
        (name, float(len(own)), structs(("idlocate", "ishard"), ((box[None], HARD) for box in own)))
        for name, own in zip(names, boxes, strict=True)
    )
    img = structs(("imname", "nAppear", "box"), images)
    savemat(root / "annotation" / "Images.mat", {"Img": img}, do_compression=True)
    savemat(root / "annotation" / "pool.mat", {"pool": cells(names[11206:])}, do_compression=True)
    train = [
        structs(
            ("idname", "nAppear", "scene"),
            [(f"p{k}", 2.0, structs(appear, ((names[n], boxes[n][:1], HARD) for n in (2 * k, 2 * k + 1))))],
        )
        for k in range(5532)
    ]
    savemat(protocols / "Train.mat", {"Train": cells(train)}, do_compression=True)
    for size in sizes:
        rows = []
        for q in range(2900):
            own = 11206 + 2 * q
            others = (generator.permutation(6976)[: size - 1] + own + 2 - 11206) % 6978 + 11206
            gallery = [(names[own + 1], boxes[own + 1][:1], HARD), *((names[n], EMPTY, EMPTY) for n in others)]
            query = structs((*appear, "idname"), [(names[own], boxes[own][:1], HARD, f"p{q}")])
            rows.append((query, structs(appear, gallery)))
        variable = {f"TestG{size}": structs(("Query", "Gallery"), rows)}
        savemat(protocols / f"TestG{size}.mat", variable, do_compression=True)


def read_sysu(root: Path, size: int) -> None:
    """Both splits of CUHK-SYSU and the galleries of ``size``."""
    dataset = CuhkSysuDataset(root)
    _, test = [dataset.split(name) for name in ("train", "test")]
    dataset.protocol(test, ProtocolOptions(gallery_size=size))


def timed(table: Table, what: str, act: Callable[[], object]) -> None:
    """Add a row for ``act``: seconds by the clock and of the processor, and the process's peak memory so far."""
    start, busy = time.perf_counter(), time.process_time()
    act()
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    table.add_row(what, f"{seconds:.2f}", f"{busy:.2f}", f"{peak:.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gallery-size", type=int, nargs="*", default=[], help="further CUHK-SYSU gallery sizes")
    parser.add_argument(
        "--only", action="store_true", help="of the galleries only the largest: what it needs on its own"
    )
    parser.add_argument("--loadmat", action="store_true", help="also time scipy.io.loadmat on the same files")
    sizes = sorted({50, 100, *(arguments := parser.parse_args()).gallery_size})
    table = Table("reading", "seconds", "CPU seconds", "peak MiB")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        write_prw(prw := Path(folder) / "PRW")
        write_sysu(sysu := Path(folder) / "ssm", sizes)
        for times in ("first time", "from the cache"):
            timed(
                table, f"PRW, both splits, {times}", lambda: [PrwDataset(prw).split(name) for name in ("train", "test")]
            )
            for size in sizes[-1:] if arguments.only else sizes:
                timed(
                    table, f"CUHK-SYSU, both splits, gallery {size}, {times}", lambda size=size: read_sysu(sysu, size)
                )
            timed(table, f"CUHK-SYSU, both splits, whole set, {times}", lambda: read_sysu(sysu, -1))
        if arguments.loadmat:
            frames = sorted((prw / "annotations").iterdir())
            timed(table, "loadmat: PRW annotations", lambda: [loadmat(frame) for frame in frames])
            timed(table, "loadmat: Images.mat", lambda: loadmat(sysu / "annotation" / "Images.mat"))
            for size in sizes:
                path = sysu / "annotation" / "test" / "train_test" / f"TestG{size}.mat"
                timed(table, f"loadmat: TestG{size}.mat", lambda path=path: loadmat(path))
    Console().print(table)


if __name__ == "__main__":
    main()
