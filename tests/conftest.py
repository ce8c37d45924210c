"""What tests of several folders share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from file_server import FileServer, serving
from person_search.runtime import download


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A server of a file on this machine; nobody pauses before asking it again, and no proxy stands before it."""
    monkeypatch.setattr(download, "PAUSES", (0.0, 0.0, 0.0))
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving() as files:
        yield files
