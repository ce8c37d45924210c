"""Files on Google Drive, which shows pages before large files and instead of files that it does not give.

``gdown`` knows these pages: its ``get_url_from_gdrive_confirmation`` reads the address of a file out of the page that
says that no virus scan was made, and raises FileURLRetrievalError with the notice that stands on a page without one:
that too many people fetched the file lately (Drive's quota), or that it is not shared with everybody. Its own
``download`` resumes within one call only: in a later call it takes the version of the file that is there by then for
the one that the part is of, and where a server refuses a range it gives up instead of beginning again. It does not sync
what it wrote either. So it reads the pages, and ``download`` here fetches the bytes, by the
same rules as from any other server. How Drive answers was not tried where this was written, for want of a network.
"""

from __future__ import annotations

from person_search.errors import DownloadError, first_line

DOWNLOAD = "https://drive.google.com/uc?id={}"
"""Where a file comes from, by its id."""
PAGE = "https://drive.google.com/file/d/{}"
"""Where a person sees it."""


def confirmed(page: str) -> str:
    """The address of the file behind Drive's page ``page``. Raises DownloadError with what the page says instead."""
    from gdown.download import get_url_from_gdrive_confirmation
    from gdown.exceptions import FileURLRetrievalError

    try:
        return get_url_from_gdrive_confirmation(page)
    except FileURLRetrievalError as error:
        raise DownloadError(f"Google Drive shows a page instead of the file: {first_line(error)}") from None
