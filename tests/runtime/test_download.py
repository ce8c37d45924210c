"""A file comes whole over a bad connection, and what is not the file is refused in one line."""

from __future__ import annotations

import contextlib
import resource
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from file_server import FileServer
from person_search.errors import DownloadError
from person_search.runtime import download as module
from person_search.runtime import google_drive
from person_search.runtime.download import CHUNK, download

PAGE = b"\n<!DOCTYPE html><html><body>Please log in</body></html>"
REST = f"bytes={CHUNK}-"


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return tmp_path / "model.pth.part"


def refusal(server: FileServer, part: Path, path: str = "/file", **options: Any) -> str:
    with pytest.raises(DownloadError) as raised:
        download(server.url + path, part, **options)
    text = str(raised.value)
    assert "\n" not in text
    return text


def cut_short(server: FileServer, part: Path) -> None:
    """Fetch the first chunk, and no more."""
    server.cuts = [CHUNK + 1000, 0, 0, 0]
    refusal(server, part)
    server.asked.clear()
    assert part.read_bytes() == server.content[:CHUNK]


def test_a_file_comes_whole(server: FileServer, part: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    download(f"{server.url}/file", part, progress=lambda done, total: seen.append((done, total)))
    assert part.read_bytes() == server.content
    assert seen[-1] == (len(server.content), len(server.content))
    ((path, headers),) = server.asked
    assert (path, headers["Accept-Encoding"], "Range" in headers) == ("/file", "identity", False)


@pytest.mark.parametrize("validator", ["etag", "modified"])
def test_a_cut_connection_is_gone_on_with(server: FileServer, part: Path, validator: str) -> None:
    server.etag, server.modified = None, None
    setattr(server, validator, "Wed, 21 Oct 2015 07:28:00 GMT" if validator == "modified" else '"x"')
    server.cuts = [CHUNK + 1000]
    download(f"{server.url}/file", part)
    assert part.read_bytes() == server.content
    assert server.ranges_asked() == [None, REST]
    assert server.asked[1][1]["If-Range"] == getattr(server, validator)


def test_a_weak_etag_asks_for_no_range_of_that_version(server: FileServer, part: Path) -> None:
    server.etag, server.if_range = 'W/"weak"', False
    cut_short(server, part)
    download(f"{server.url}/file", part)
    assert "If-Range" not in server.asked[0][1]
    assert part.read_bytes() == server.content


def test_a_connection_that_keeps_breaking_says_how_much_is_there(server: FileServer, part: Path) -> None:
    server.cuts = [CHUNK + 1000, 0, 0, 0]
    assert "0.3 MB of 0.6 MB are there, and the same command goes on" in refusal(server, part)
    assert len(server.asked) == 4
    download(f"{server.url}/file", part)
    assert server.ranges_asked()[-1] == REST
    assert part.read_bytes() == server.content


def test_a_server_without_ranges_begins_again_and_not_for_ever(server: FileServer, part: Path) -> None:
    server.ranges = False
    server.cuts = [CHUNK + 1000]
    download(f"{server.url}/file", part)
    assert part.read_bytes() == server.content
    part.unlink()
    server.asked.clear()
    server.cuts = [CHUNK + 1000] * 20
    refusal(server, part)
    assert len(server.asked) == 4


@pytest.mark.parametrize("if_range", [True, False])
def test_another_version_of_the_file_is_not_joined_to_the_part(server: FileServer, part: Path, if_range: bool) -> None:
    cut_short(server, part)
    server.content, server.etag, server.if_range = b"PK" + bytes(reversed(server.content[2:])), '"two"', if_range
    download(f"{server.url}/file", part)
    assert part.read_bytes() == server.content
    assert server.ranges_asked()[0] == REST


def test_without_a_version_the_length_tells_another_file(server: FileServer, part: Path) -> None:
    server.etag = None
    cut_short(server, part)
    server.content = server.content[::-1][:-10] + b"another file"
    download(f"{server.url}/file", part)
    assert part.read_bytes() == server.content


def test_a_part_of_another_address_is_not_gone_on_with(server: FileServer, part: Path) -> None:
    cut_short(server, part)
    download(f"{server.url}/other", part)
    assert server.ranges_asked() == [None]
    assert part.read_bytes() == server.content


def test_a_part_that_is_whole_is_not_asked_for_again(server: FileServer, part: Path) -> None:
    for _ in range(2):
        download(f"{server.url}/file", part)
    assert len(server.asked) == 1


def test_a_part_longer_than_the_file_begins_again(server: FileServer, part: Path) -> None:
    server.length = False
    download(f"{server.url}/file", part)
    download(f"{server.url}/file", part)
    assert server.ranges_asked() == [None, f"bytes={len(server.content)}-", None]
    assert part.read_bytes() == server.content


@pytest.mark.parametrize("length", [True, False])
def test_a_file_of_the_wrong_size_is_refused(server: FileServer, part: Path, length: bool) -> None:
    server.length = length
    text = refusal(server, part, size=1000)
    assert f"{len(server.content)} bytes; expected 1000" in text
    assert not part.exists()


def test_a_page_is_told_by_what_it_is(server: FileServer, part: Path) -> None:
    server.kind = "text/html"
    download(f"{server.url}/file", part)
    assert part.read_bytes() == server.content
    part.unlink()
    for beginning in (b"", b"\xef\xbb\xbf"):
        server.answers = [(200, {"Content-Type": "application/octet-stream"}, beginning + PAGE)]
        assert "sends an HTML page instead of the file" in refusal(server, part)
        assert not part.exists()


def test_a_page_instead_of_the_rest_costs_no_bytes(server: FileServer, part: Path) -> None:
    cut_short(server, part)
    server.answers = [(200, {}, PAGE)]
    refusal(server, part)
    download(f"{server.url}/file", part)
    assert server.ranges_asked() == [REST, REST]


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_is_not_asked_again(server: FileServer, part: Path, status: int) -> None:
    server.answers = [(status, {}, PAGE)]
    assert f"answers {status} " in refusal(server, part)
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_passing_trouble_is_waited_for(
    server: FileServer, part: Path, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(module.time, "sleep", waited.append)
    server.answers = [(status, {"Retry-After": "7"}, b""), (status, {"Retry-After": "100000"}, b"")]
    download(f"{server.url}/file", part)
    assert part.read_bytes() == server.content
    assert waited == [7.0, module.LONGEST_PAUSE]
    part.unlink()
    server.asked.clear()
    server.answers = [(status, {}, b"")] * 20
    assert f"answers {status} " in refusal(server, part)
    assert len(server.asked) == 4


def test_redirects_are_followed_with_the_range(server: FileServer, part: Path) -> None:
    server.redirects = {"/file": f"{server.url.replace('127.0.0.1', 'localhost')}/there", "/round": "/round"}
    cut_short(server, part)
    download(f"{server.url}/file", part)
    assert [path for path, _ in server.asked] == ["/file", "/there"]
    assert server.ranges_asked() == [REST, REST]
    assert "redirects without end" in refusal(server, part, "/round")


def test_nothing_leads_from_https_to_http_or_to_files(server: FileServer, part: Path) -> None:
    with pytest.raises(DownloadError, match="which is not https"):
        module._followed("https://one.example/file", "http://one.example/file")
    assert module._followed("https://one.example/a", "https://other.example/b") == "https://other.example/b"
    server.redirects = {"/file": "file:///etc/passwd"}
    assert "which is not https or http" in refusal(server, part)
    server.redirects = {"/file": "http://[::1"}
    assert "leads to what is no address" in refusal(server, part)


def test_a_file_that_comes_compressed_is_refused(server: FileServer, part: Path) -> None:
    server.answers = [(200, {"Content-Encoding": "gzip"}, b"\x1f\x8b")]
    assert "in the encoding gzip" in refusal(server, part)


def test_an_empty_answer_is_no_file(server: FileServer, part: Path) -> None:
    server.answers = [(200, {}, b"")]
    assert "sends an empty file" in refusal(server, part)


def test_without_a_network_it_ends_at_once(server: FileServer, part: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        closed = taken.getsockname()[1]
    server.url = f"http://127.0.0.1:{closed}"
    text = refusal(server, part)
    assert text.startswith(f"127.0.0.1:{closed}: ")
    assert "Connection refused" in text
    assert "HTTPConnectionPool" not in text
    # It was not tried again, which would say what is there.
    assert "the same command" not in text


def test_a_lack_of_room_is_told_before_anything_is_written(
    server: FileServer, part: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    assert "has room for 0.0 MB, but 0.6 MB are to come" in refusal(server, part)
    assert not part.exists()


@contextlib.contextmanager
def room_for(count: int) -> Any:
    """Within the block no file may be longer than ``count`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_was_written_when_room_ran_out_is_gone_on_with(server: FileServer, part: Path) -> None:
    with room_for(CHUNK + 500):
        text = refusal(server, part)
    assert f"cannot write '{part}' (File too large); 0.3 MB of 0.6 MB are there" in text
    server.asked.clear()
    download(f"{server.url}/file", part)
    assert server.ranges_asked() == [f"bytes={CHUNK + 500}-"]
    assert part.read_bytes() == server.content


def test_the_page_that_google_drive_shows_before_a_large_file_leads_to_it(server: FileServer, part: Path) -> None:
    """The page has the form of Drive's; gdown reads it. How Drive itself answers is not tried."""
    form = (
        f'<!DOCTYPE html><html><form id="download-form" action="{server.url}/download" method="get">'
        '<input type="hidden" name="id" value="ID"><input type="hidden" name="confirm" value="t"></form></html>'
    ).encode()
    server.answers = [(200, {}, form)]
    download(f"{server.url}/uc?id=ID", part, confirm=google_drive.confirmed)
    assert [path for path, _ in server.asked] == ["/uc?id=ID", "/download?id=ID&confirm=t"]
    assert part.read_bytes() == server.content
    part.unlink()
    server.answers = [(200, {}, form)] * 2
    assert "again after its confirmation" in refusal(server, part, confirm=google_drive.confirmed)


@pytest.mark.parametrize(
    ("page", "said"),
    [
        (b'<html>\n<p class="uc-error-subcaption">Too many users have viewed this</p></html>', "Too many users"),
        (PAGE, "Cannot retrieve the public link"),
    ],
)
def test_the_notice_that_google_drive_shows_instead_of_a_file_is_told(
    server: FileServer, part: Path, page: bytes, said: str
) -> None:
    server.answers = [(200, {}, page)]
    text = refusal(server, part, confirm=google_drive.confirmed)
    assert text.startswith("Google Drive shows a page instead of the file: ")
    assert said in text
