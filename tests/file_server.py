"""A server of one file on this machine, which can do what servers on the net do wrong."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FileServer:
    """What is served, how, and what was asked for.

    Attributes:
        content: the file.
        etag, modified: what tells versions of it apart, if anything.
        ranges: whether a part can be asked for.
        if_range: whether a part of another version is refused.
        length: whether answers say how long they are.
        cuts: after how many bytes each of the next connections breaks.
        answers: status, headers and body that are given, one after the other, before the file is.
        redirects: from a path to an address.
        kind: Content-Type of the file.
        hold: answers wait for it.
        asked: path and headers of every request.
    """

    url: str = ""
    content: bytes = b"PK\x03\x04" + bytes(range(256)) * 2500 + b"PK\x05\x06" + bytes(18)
    etag: str | None = '"one"'
    modified: str | None = None
    ranges: bool = True
    if_range: bool = True
    length: bool = True
    cuts: list[int] = field(default_factory=list)
    answers: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)
    redirects: dict[str, str] = field(default_factory=dict)
    kind: str = "application/octet-stream"
    hold: threading.Event = field(default_factory=threading.Event)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.hold.set()

    def ranges_asked(self) -> list[str | None]:
        """The Range of every request."""
        return [headers.get("Range") for _, headers in self.asked]

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Answer a GET."""
        self.asked.append((request.path, dict(request.headers)))
        self.hold.wait(30)
        request.close_connection = True
        if to := self.redirects.get(request.path):
            self._send(request, 302, {"Location": to, "Content-Length": "0"}, b"")
            return
        if self.answers:
            status, headers, body = self.answers.pop(0)
            self._send(request, status, {"Content-Length": str(len(body)), **headers}, body)
            return
        headers = {"Content-Type": self.kind}
        headers |= {"ETag": self.etag} if self.etag else {}
        headers |= {"Last-Modified": self.modified} if self.modified else {}
        begin, status = 0, 200
        asked, condition = request.headers.get("Range"), request.headers.get("If-Range")
        fits = not self.if_range or condition in (None, self.etag or self.modified)
        if asked and self.ranges and fits:
            begin, status, total = int(asked.removeprefix("bytes=").rstrip("-")), 206, len(self.content)
            if begin >= total:
                self._send(request, 416, {"Content-Range": f"bytes */{total}", "Content-Length": "0"}, b"")
                return
            headers["Content-Range"] = f"bytes {begin}-{total - 1}/{total}"
        body = self.content[begin:]
        headers |= {"Content-Length": str(len(body))} if self.length else {}
        self._send(request, status, headers, body[: self.cuts.pop(0)] if self.cuts else body)

    @staticmethod
    def _send(request: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(body)


@contextmanager
def serving() -> Iterator[FileServer]:
    """A server for the block."""
    files = FileServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            files.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    files.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield files
    finally:
        files.hold.set()
        server.shutdown()
        server.server_close()
