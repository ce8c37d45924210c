"""Checkpoints in the archives that they are distributed in: found by content, named like files, and never unpacked."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from person_search.checkpoints import archives
from person_search.checkpoints.archives import archive_of
from person_search.checkpoints.checkpoint import Checkpoint, save_checkpoint
from person_search.checkpoints.loading import find_checkpoint, open_checkpoint, select_member
from person_search.commandline import cli
from person_search.config import method_settings
from person_search.errors import CheckpointError
from person_search.models.building import build_model

KINDS = ["a.tar.gz", "a.tgz", "a.tar", "a.tar.xz", "a.tar.bz2", "a.zip"]
Files = dict[str, bytes]


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for temporary files, in which nothing may be left."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert [*folder.iterdir()] == []


def checkpoint(identities: int = 7, *, zipped: bool = True) -> bytes:
    """A few tensors with the names of the reference implementation's OIM."""
    state = {
        "backbone.conv4_3.0.conv1.weight": torch.ones(2, 2),
        "roi_heads.embedding_head.projectors.C5.0.weight": torch.ones(3, 2),
        "roi_heads.reid_loss.classifier.weight": torch.ones(identities, 3),
        "roi_heads.reid_loss.classifier.unlabeled_queue": torch.ones(5, 3),
        "roi_heads.reid_loss.classifier.unlabeled_input_count": torch.tensor([9]),
    }
    file = io.BytesIO()
    torch.save({"model": state}, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def packed(path: Path, files: Files, *others: tarfile.TarInfo) -> Path:
    """An archive of ``files``; ``others`` are members of a tar archive that are no files."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    compression = {".gz": "gz", ".tgz": "gz", ".xz": "xz", ".bz2": "bz2", ".tar": ""}[path.suffix]
    with tarfile.open(path, f"w:{compression}") as archive:  # type: ignore[call-overload]
        for member in others:
            archive.addfile(member)
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_the_only_checkpoint_in_an_archive_is_taken(tmp_path: Path, kind: str, zipped: bool) -> None:
    files = {"logs/args.json": b"{}", "logs/checkpoint.pth": checkpoint(zipped=zipped), "logs/log.txt": b"x" * 3000}
    archive = packed(tmp_path / kind, files)
    assert find_checkpoint(archive) == archive / "logs" / "checkpoint.pth"
    for path in (archive, archive / "logs/checkpoint.pth", find_checkpoint(archive / "logs")):
        assert open_checkpoint(path).num_identities == 7


SEVERAL = {
    "./logs/nae/checkpoint.pth": checkpoint(7),
    "./logs/nae/args.json": b"{}",
    "./logs/plus/checkpoint.pth": checkpoint(8, zipped=False),
}


@pytest.mark.parametrize("kind", ["logs.tar.gz", "logs.zip"])
def test_of_several_one_is_named_as_if_the_archive_were_a_folder(tmp_path: Path, kind: str) -> None:
    archive = packed(tmp_path / kind, SEVERAL)
    with pytest.raises(CheckpointError) as caught:
        find_checkpoint(archive)
    assert "holds 2 checkpoints, 'logs/nae/checkpoint.pth', 'logs/plus/checkpoint.pth'; name one" in str(caught.value)
    assert f"'{archive / 'logs/nae/checkpoint.pth'}'" in str(caught.value)
    with pytest.raises(CheckpointError, match="holds 2 checkpoints in 'logs'"):
        find_checkpoint(archive / "logs")
    for name, identities in (("nae", 7), ("plus", 8)):
        path = archive / "logs" / name / "checkpoint.pth"
        assert find_checkpoint(path) == find_checkpoint(archive / "logs" / name) == path
        assert open_checkpoint(path).num_identities == identities
    for other in ("logs/args.json", "logs/none.pth", "log"):
        with pytest.raises(
            CheckpointError, match=rf"holds no checkpoint '{other}'; it holds 'logs/nae/checkpoint.pth'"
        ):
            find_checkpoint(archive / other)
        with pytest.raises(CheckpointError, match=f"holds no checkpoint '{other}'"):
            open_checkpoint(archive / other)


def test_of_two_of_one_name_none_is_taken(tmp_path: Path) -> None:
    archive = packed(tmp_path / "a.tar", {"a.pth": checkpoint()})
    (tmp_path / "a.pth").write_bytes(checkpoint(8))
    with tarfile.open(archive, "a") as more:
        more.add(tmp_path / "a.pth", "a.pth")
    with pytest.raises(CheckpointError, match=r"holds 2 checkpoints called 'a\.pth'; unpack the one"):
        find_checkpoint(archive)


def test_a_member_is_chosen_by_what_it_is(tmp_path: Path) -> None:
    archive = packed(tmp_path / "logs.tar.gz", {**SEVERAL, "logs/other.pth": checkpoint()[:200]})
    assert select_member(archive, lambda found: found.num_identities == 8) == archive / "logs/plus/checkpoint.pth"
    with pytest.raises(CheckpointError, match=r"holds 2 such checkpoints, 'logs/nae.*'; name one"):
        select_member(archive, lambda found: True)
    with pytest.raises(CheckpointError, match=r"holds no such checkpoint; it holds 'logs/nae/.*'logs/other\.pth'"):
        select_member(archive, lambda found: False)
    with pytest.raises(CheckpointError, match="it holds none at all"):
        select_member(packed(tmp_path / "b.zip", {"a.txt": b"text"}), lambda found: True)
    alone = tmp_path / "a.pth"
    alone.write_bytes(checkpoint())
    with pytest.raises(CheckpointError, match="nor in one"):
        archives.find_member(alone)


@pytest.mark.parametrize("kind", ["a.tar.gz", "a.zip"])
def test_an_archive_in_an_archive_is_named(tmp_path: Path, kind: str) -> None:
    inner = packed(tmp_path / "inner.tar.gz", {"last.pth": checkpoint()})
    outer = packed(tmp_path / kind, {"b/inner.tar.gz": inner.read_bytes(), "README": b"read me"})
    with pytest.raises(CheckpointError, match=r"among its 2 files, but archives, 'b/inner\.tar\.gz': unpack"):
        find_checkpoint(outer)


def test_what_torch_writes_is_no_archive(tmp_path: Path) -> None:
    for zipped in (True, False):
        path = tmp_path / f"{zipped}.pth"
        path.write_bytes(checkpoint(zipped=zipped))
        assert archive_of(path) is None
        assert find_checkpoint(path) == path
    assert archive_of(tmp_path / "no such file.tar.gz") is None
    assert archive_of(tmp_path) is None


def member(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_links_devices_and_names_that_lead_out_are_left_out(tmp_path: Path) -> None:
    secret = tmp_path / "secret.pth"
    secret.write_bytes(checkpoint(3))
    files = {"../escaped.pth": checkpoint(1), "/absolute.pth": checkpoint(2), "a/../../out.pth": checkpoint(4)}
    irregular = [
        member("link.pth", tarfile.SYMTYPE, str(secret)),
        member("hard.pth", tarfile.LNKTYPE, "../secret.pth"),
        member("device.pth", tarfile.CHRTYPE),
        member("pipe.pth", tarfile.FIFOTYPE),
    ]
    inside = tmp_path / "inside"
    inside.mkdir()
    for name in ("a.tar.gz", "a.zip"):
        archive = packed(inside / name, files, *irregular)
        with pytest.raises(CheckpointError, match="holds no checkpoint among its 0 files"):
            find_checkpoint(archive)
        archive = packed(inside / name, {**files, "good.pth": checkpoint()}, *irregular)
        assert open_checkpoint(find_checkpoint(archive)).num_identities == 7
    linked = zipfile.ZipInfo("link.pth")
    linked.external_attr = 0o120777 << 16
    with zipfile.ZipFile(inside / "a.zip", "w") as file:
        file.writestr(linked, str(secret))
    with pytest.raises(CheckpointError, match="holds no checkpoint among its 0 files"):
        find_checkpoint(inside / "a.zip")
    assert {path.name for path in tmp_path.iterdir()} == {"inside", "secret.pth", "temporary"}
    assert {path.name for path in inside.iterdir()} == {"a.tar.gz", "a.zip"}


@pytest.mark.parametrize("kind", ["a.tar.gz", "a.tar", "a.zip"])
def test_files_of_absurd_sizes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    archive = packed(tmp_path / kind, {"a.pth": checkpoint()})
    monkeypatch.setattr(archives, "MAX_SIZE", 1000)
    with pytest.raises(CheckpointError, match="refused: it unpacks to more than any checkpoint needs"):
        find_checkpoint(archive)


@pytest.mark.parametrize("kind", ["a.tar.gz", "a.tar.xz", "a.zip"])
def test_what_shrinks_too_well_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    archive = packed(tmp_path / kind, {"zeros.bin": bytes(3_000_000), "a.pth": checkpoint()})
    assert open_checkpoint(find_checkpoint(archive)).num_identities == 7
    monkeypatch.setattr(archives, "RATIO_FROM", 100_000)
    with pytest.raises(CheckpointError, match="200 times its compressed size"):
        find_checkpoint(archive)


def test_headers_without_end_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tarfile.TarInfo("a.pth")
    info.pax_headers = {"comment": "x" * 100_000}
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as file:
        file.addfile(info)
    monkeypatch.setattr(archives, "HEADERS", 50_000)
    with pytest.raises(CheckpointError, match="refused"):
        find_checkpoint(archive)


def cut(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3]


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes(byte ^ 0x5A for byte in data[middle : middle + 40]) + data[middle + 40 :]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", [cut, flipped])
def test_a_damaged_archive_is_named_in_one_line(tmp_path: Path, kind: str, damage: Callable[[bytes], bytes]) -> None:
    noise = random.Random(0).randbytes(60_000)
    archive = packed(tmp_path / kind, {"noise.bin": noise, "a.pth": checkpoint(900)})
    archive.write_bytes(damage(archive.read_bytes()))
    if damage is flipped and kind in ("a.tar", "a.zip"):
        # The bits of another file: the one has no checksums, the other one for each file.
        assert open_checkpoint(find_checkpoint(archive)).num_identities == 900
        return
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(find_checkpoint(archive))
    assert "\n" not in str(caught.value)
    assert str(archive) in str(caught.value)
    assert str(tmp_path / "temporary") not in str(caught.value)


def test_a_compressed_file_that_is_no_archive_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "a.pth.gz").write_bytes(gzip.compress(checkpoint()))
    with pytest.raises(CheckpointError, match="damaged, or no archive of files"):
        find_checkpoint(tmp_path / "a.pth.gz")


def test_errors_name_the_member_and_not_its_copy(tmp_path: Path) -> None:
    content = checkpoint()
    archive = packed(tmp_path / "a.tar", {"x/bad.pth": content[:-30]})
    with pytest.raises(CheckpointError, match=r"a\.tar/x/bad\.pth' is cut short or damaged"):
        open_checkpoint(archive / "x/bad.pth")


def test_a_folder_for_temporary_files_that_is_full_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = packed(tmp_path / "a.tar", {"a.pth": checkpoint()})

    found, opened = find_checkpoint(archive), Path.open

    def full(self: Path, *args: Any, **kwargs: Any) -> Any:
        if self.name == "checkpoint":
            raise OSError(28, "No space left on device")
        return opened(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(CheckpointError, match=r"No space left on device; free .* or set TMPDIR"):
        open_checkpoint(found)


def test_convert_reads_from_an_archive_and_does_not_write_over_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = method_settings("baseline", backbone="resnet18", width=0.125, weights="none")
    file = tmp_path / "ours.pt"
    save_checkpoint(file, Checkpoint(settings, 3, build_model(settings, 3, load_weights=False).state_dict()))
    archive = packed(tmp_path / "a.tar", {"runs/ours.pt": file.read_bytes()})
    before = archive.read_bytes()
    assert cli.run(["convert", str(archive), "--out", str(archive)], cli.dispatch) == 2
    assert archive.read_bytes() == before
    assert cli.run(["convert", str(archive), "--out", str(tmp_path / "again.pt")], cli.dispatch) == 0
    assert "baseline, C5, oim, 3 identities" in capsys.readouterr().out
    assert open_checkpoint(tmp_path / "again.pt").num_identities == 3
