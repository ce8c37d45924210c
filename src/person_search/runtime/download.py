"""Fetching one file over HTTP: gone on with after a break, and never taken for what it is not.

``download`` writes to a part file and leaves it there, whole and on the disk; its caller gives it its name. Beside the
part lies a note of where it comes from and of which version of the file it is (its ETag or date), so that a later call,
in the same process or another one, asks for the rest only and begins again where the file is another one by then.

``requests`` is imported when something is fetched and not before: no command on local files needs it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http import HTTPStatus
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from person_search.errors import DownloadError, first_line
from person_search.runtime.files import atomic_write_text

if TYPE_CHECKING:
    import requests

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are there and how many there will be, None where the server does not say."""
Confirm = Callable[[str], str]
"""From a page that stands before the file to the address of the file. Raises DownloadError where it leads to none."""

CHUNK = 1 << 18
"""Bytes at a time."""
TIMEOUT = (10.0, 60.0)
"""Seconds to wait for a connection, and for the next bytes."""
PAUSES = (1.0, 3.0, 9.0)
"""Seconds before each new try. What brings new bytes is no failure: the count begins again."""
LONGEST_PAUSE = 30.0
"""Seconds to wait at most where the server asks for a pause (Retry-After)."""
REDIRECTS = 10
PASSING = {408, 425, 429, 500, 502, 503, 504}
"""Answers that may be others a little later."""
PAGE = 1 << 21
"""Characters of a page that are read."""


class BrokenTransferError(DownloadError):
    """What another try may mend."""

    def __init__(self, message: str, pause: float = 0.0):
        super().__init__(message)
        self.pause = pause


@dataclass(frozen=True)
class _Origin:
    """Where a part comes from. ``validator``: strong ETag, else date; ``total``: bytes of the whole file."""

    url: str
    validator: str | None = None
    total: int | None = None


def download(
    url: str,
    part: Path,
    *,
    size: int | None = None,
    confirm: Confirm | None = None,
    progress: Progress | None = None,
) -> None:
    """Fetch ``url`` into ``part``, going on where an earlier call for the same file stopped.

    A connection that breaks is tried again a few times. Whatever fails, the bytes in ``part`` stay, except where they
    belong to another version of the file. Proxies are those of the environment.

    Args:
        url: ``https:``, or ``http:`` where the caller means it; no redirect leads from the first to the second.
        part: the file to write; the folder must be there. The caller sees to it that nobody else writes it.
        size: bytes that the file must have, where that is known.
        confirm: what leads on from an HTML page that comes instead of the file; None: such a page is an error.
        progress: called as bytes come.

    Raises DownloadError, in one line.
    """
    import requests

    fetched = _Fetch(url, part, size, confirm, progress)
    furthest, failures = _length(part), 0
    with requests.Session() as session:
        # Byte positions count what is on the disk.
        session.headers.update({"User-Agent": "person-search", "Accept-Encoding": "identity"})
        while True:
            try:
                fetched.rest(session)
                return
            except BrokenTransferError as error:
                there = _length(part)
                if there > furthest:
                    furthest, failures = there, 0
                if failures == len(PAUSES):
                    raise DownloadError(f"{error}; {_amount(there, fetched.total)}") from None
                time.sleep(min(max(PAUSES[failures], error.pause), LONGEST_PAUSE))
                failures += 1
            except requests.exceptions.RequestException as error:
                raise DownloadError(f"{_host(url)}: {_reason(error)}") from None
            except OSError as error:
                raise DownloadError(
                    f"cannot write '{part}' ({error.strerror or error}); {_amount(_length(part), fetched.total)}"
                ) from None


class _Fetch:
    """One file on its way."""

    def __init__(self, url: str, part: Path, size: int | None, confirm: Confirm | None, progress: Progress | None):
        self.url, self.part, self.size, self.confirm, self.progress = url, part, size, confirm, progress
        self.total: int | None = None
        self._reached = False

    def rest(self, session: requests.Session) -> None:
        """Ask for what is missing, and write it. Raises BrokenTransferError where it is still not all."""
        origin = self._origin()
        there = _length(self.part) if origin else 0
        if origin is not None and there and there == origin.total:
            self.total = there
            return
        headers = {}
        if origin is not None and there:
            headers["Range"] = f"bytes={there}-"
            if origin.validator:
                headers["If-Range"] = origin.validator
        address = self.url
        for _ in range(2):
            with self._open(session, address, headers) as response:
                body = self._chunks(response)
                beginning = next(body, b"")
                if response.status_code == HTTPStatus.OK and _is_page(beginning):
                    address = self._after_page(address, beginning, body)
                    continue
                self._write(response, beginning, body, origin, there)
                return
        raise DownloadError(f"{_host(address)} sends a page instead of the file, again after its confirmation")

    def _origin(self) -> _Origin | None:
        """What is noted of the part, where it is one of this address."""
        try:
            noted = _Origin(**json.loads(_note(self.part).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        usable = noted.url == self.url and (noted.total is None or _length(self.part) <= noted.total)
        return noted if usable else None

    @contextmanager
    def _open(self, session: requests.Session, url: str, headers: dict[str, str]) -> Iterator[requests.Response]:
        """The answer at the end of the redirects, when it holds the file, a part of it, or a page."""
        for _ in range(REDIRECTS):
            response = self._get(session, url, headers)
            to = session.get_redirect_target(response)
            if to is None:
                break
            response.close()
            url = _followed(url, urljoin(url, to))
        else:
            raise DownloadError(f"{_host(url)} redirects without end")
        with response:
            self._check_status(response)
            yield response

    def _get(self, session: requests.Session, url: str, headers: dict[str, str]) -> requests.Response:
        from requests import exceptions

        try:
            response = session.get(url, headers=headers, stream=True, timeout=TIMEOUT, allow_redirects=False)
        except (exceptions.SSLError, exceptions.ProxyError):
            raise
        except (exceptions.ConnectionError, exceptions.Timeout) as error:
            if not self._reached:
                # Waiting helps nobody who is offline.
                raise
            raise BrokenTransferError(f"{_host(url)}: {_reason(error)}") from None
        except exceptions.RequestException:
            raise
        except ValueError as error:
            # It looks at where the answer leads even when it is told not to follow.
            raise DownloadError(f"{_host(url)} leads to what is no address: {error}") from None
        self._reached = True
        return response

    def _check_status(self, response: requests.Response) -> None:
        status, host = response.status_code, _host(response.url)
        if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            _discard(self.part)
            raise BrokenTransferError(f"{host} has another file than the part that is there")
        if status in PASSING:
            asked = response.headers.get("Retry-After", "")
            raise BrokenTransferError(
                f"{host} answers {status} {response.reason}", pause=float(asked) if asked.isdecimal() else 0.0
            )
        if status not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
            raise DownloadError(f"{host} answers {status} {response.reason}")
        if (encoding := response.headers.get("Content-Encoding", "identity")) != "identity":
            raise DownloadError(f"{host} sends the file in the encoding {encoding}, which was not asked for")

    def _chunks(self, response: requests.Response) -> Iterator[bytes]:
        from requests import exceptions

        try:
            yield from response.iter_content(CHUNK)
        except exceptions.SSLError:
            raise
        except (exceptions.ConnectionError, exceptions.Timeout, exceptions.ChunkedEncodingError):
            raise BrokenTransferError(f"the connection to {_host(response.url)} broke") from None

    def _after_page(self, url: str, beginning: bytes, body: Iterator[bytes]) -> str:
        if self.confirm is None:
            raise DownloadError(
                f"{_host(url)} sends an HTML page instead of the file, as a login or a network that asks for one does"
            )
        text = beginning
        for chunk in body:
            text += chunk
            if len(text) > PAGE:
                break
        return _followed(url, urljoin(url, self.confirm(text.decode("utf-8", errors="replace"))))

    def _write(
        self,
        response: requests.Response,
        beginning: bytes,
        body: Iterator[bytes],
        origin: _Origin | None,
        there: int,
    ) -> None:
        host = _host(response.url)
        found = _validator(response)
        if response.status_code == HTTPStatus.PARTIAL_CONTENT:
            self.total = _total_of_range(response, there)
            other = origin is None or self.total is None or origin.total not in (None, self.total)
            if other or (origin and origin.validator and found not in (None, origin.validator)):
                _discard(self.part)
                raise BrokenTransferError(f"{host} has another file than the part that is there")
        else:
            there, self.total = 0, _content_length(response)
        if self.size is not None and self.total not in (None, self.size):
            raise DownloadError(f"{host} has a file of {self.total} bytes; expected {self.size}")
        self._check_space(there)
        if not there:
            # An empty part is right beside any note.
            self.part.write_bytes(b"")
            note = _Origin(self.url, found, self.total)
            atomic_write_text(_note(self.part), json.dumps(asdict(note)))
        with open(self.part, "ab", buffering=0) as file:
            for chunk in chain((beginning,), body):
                _write_all(file, chunk)
                there += len(chunk)
                if self.progress is not None:
                    self.progress(there, self.total)
            os.fsync(file.fileno())
        if not there:
            raise DownloadError(f"{host} sends an empty file")
        if self.total is not None and there < self.total:
            raise BrokenTransferError(f"the connection to {host} broke")
        expected = self.size if self.size is not None else self.total
        if expected is not None and there != expected:
            _discard(self.part)
            raise DownloadError(f"{host} sent {there} bytes; expected {expected}")

    def _check_space(self, there: int) -> None:
        free = shutil.disk_usage(self.part.parent).free
        if self.total is not None and self.total - there > free:
            raise DownloadError(
                f"'{self.part.parent}' has room for {_megabytes(free)}, but {_megabytes(self.total - there)} are to "
                "come; make room"
            )


def forget_origin(part: Path) -> None:
    """Remove the note beside a part that is none any more."""
    with contextlib.suppress(FileNotFoundError):
        _note(part).unlink()


def sha256_of(file: Path) -> str:
    """The SHA-256 of a file, in hexadecimal. Raises OSError."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def alone(lock: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Within the block this process alone, of those on the machine that share the file ``lock``, is in such a block.

    ``waiting`` is called where another one is. A process that dies leaves it. Raises OSError.
    """
    from filelock import FileLock, Timeout

    own = FileLock(lock)
    try:
        own.acquire(timeout=0)
    except Timeout:
        waiting()
        own.acquire(poll_interval=0.2)
    try:
        yield
    finally:
        own.release()


def _note(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _discard(part: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        part.unlink()
    forget_origin(part)


def _length(part: Path) -> int:
    try:
        return part.stat().st_size
    except FileNotFoundError:
        return 0


def _write_all(file: Any, chunk: bytes) -> None:
    """Write ``chunk``; what fits of it is in the file when there is no room for all."""
    left = memoryview(chunk)
    while left:
        left = left[file.write(left) :]


def _is_page(beginning: bytes) -> bool:
    """Whether this begins an HTML or XML page, whatever the server calls it; no checkpoint or archive does so."""
    return re.match(rb"(\xef\xbb\xbf)?\s*<[!?a-zA-Z]", beginning) is not None


def _followed(url: str, to: str) -> str:
    """``to``, where ``url`` may lead there: from https to nothing else."""
    kinds = ("https",) if urlsplit(url).scheme == "https" else ("https", "http")
    if urlsplit(to).scheme not in kinds:
        raise DownloadError(f"{_host(url)} leads to {to}, which is not {' or '.join(kinds)}")
    return to


def _validator(response: requests.Response) -> str | None:
    """What tells this version of the file from others, as If-Range wants it."""
    etag = response.headers.get("ETag")
    if etag is None or etag.startswith("W/"):
        return response.headers.get("Last-Modified")
    return etag


def _content_length(response: requests.Response) -> int | None:
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None


def _total_of_range(response: requests.Response, begin: int) -> int | None:
    """Bytes of the whole file, where the answer is its rest from ``begin`` on; None where it is anything else."""
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("Content-Range", ""))
    if found is None or int(found[1]) != begin or int(found[2]) != int(found[3]) - 1:
        return None
    return int(found[3])


def _host(url: str) -> str:
    return urlsplit(url).netloc or url


def _reason(error: BaseException) -> str:
    """What went wrong at the bottom of an error of ``requests``, without the layers above it."""
    inner: Any = error
    while True:
        below = getattr(inner, "reason", None) or next(iter(getattr(inner, "args", ())), None)
        if not isinstance(below, BaseException):
            break
        inner = below
    text = first_line(inner)
    return text.rpartition(": ")[2] if text.startswith(("<", "HTTP")) else text


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def _amount(there: int, total: int | None) -> str:
    whole = f" of {_megabytes(total)}" if total is not None else ""
    return f"{_megabytes(there)}{whole} are there, and the same command goes on from there"
