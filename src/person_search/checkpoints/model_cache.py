"""The files of named models in the user's cache: fetched once, checked, and noted.

Beside a file lies a small JSON file with its address, size and SHA-256, noted when it was first there. Where nobody
published a digest, the noted one is what the file is compared with when it is fetched again or checked.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from person_search.checkpoints.archives import is_whole
from person_search.checkpoints.named_models import NamedModel
from person_search.errors import CheckpointError, DownloadError
from person_search.runtime import google_drive
from person_search.runtime.download import Progress, alone, download, forget_origin, sha256_of
from person_search.runtime.files import atomic_write_text, replace_synced

Say = Callable[[str], None]
"""Called with a line for the person who waits."""


@dataclass(frozen=True)
class Note:
    """What is noted beside a file: its address, its bytes and its digest."""

    url: str
    size: int
    sha256: str


def obtain(model: NamedModel, *, say: Say | None = None) -> Path:
    """The file of ``model``, fetched where the cache does not have it. A file that was put there by hand is as good.

    Of several processes one fetches, and the others wait. ``say`` takes what there is to say meanwhile; None: it goes
    to standard error, with a progress bar on a terminal. Raises CheckpointError, which says where to fetch the file by
    hand and where to put it.
    """
    file, say = model.file, say or _say
    try:
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            with alone(_beside(file, ".lock"), lambda: say(f"another process is fetching {file.name}; waiting for it")):
                if not file.exists():
                    _fetch(model, file, say)
                    return file
        _check_known(model, file)
    except (DownloadError, OSError) as error:
        why = f"{file.parent}: {error.strerror or error}" if isinstance(error, OSError) else str(error)
        raise CheckpointError(
            f"model '{model.name}': {why}. To do it by hand, fetch {model.page} and put it at '{file}'"
        ) from None
    return file


def _fetch(model: NamedModel, file: Path, say: Say) -> None:
    part = _beside(file, ".part")
    say(f"fetching {model.name} from {model.page} to '{file}'")
    confirm = google_drive.confirmed if model.facts.drive else None
    with _bar(file.name) as progress:
        download(model.address, part, size=model.facts.size, confirm=confirm, progress=progress)
    size, digest = part.stat().st_size, sha256_of(part)
    known, whose = _known(model, file)
    forget_origin(part)
    problem = _mismatch(model, size, digest, known, whose)
    if problem is None and not is_whole(part):
        # Noted as the first one seen, it would stand for the model from then on.
        problem = "it is neither a whole file of torch.save's nor an archive"
    if problem is not None:
        aside = _beside(file, ".refused")
        replace_synced(part, aside)
        raise DownloadError(f"what came is not the file: {problem}. It is kept as '{aside}'")
    _write_note(file, Note(model.address, size, digest))
    replace_synced(part, file)


def _known(model: NamedModel, file: Path) -> tuple[str | None, str]:
    """The digest that the file of ``model`` must have, if there is one, and who says so."""
    if model.facts.sha256:
        return model.facts.sha256, "as listed"
    note = read_note(file)
    if note is not None and note.url == model.address:
        return note.sha256, f"noted in '{_note(file)}' when it was first there; remove that file to take the new one"
    return None, ""


def _mismatch(model: NamedModel, size: int, digest: str, known: str | None, whose: str) -> str | None:
    if model.facts.size is not None and size != model.facts.size:
        return f"it has {size} bytes, expected {model.facts.size}"
    if known is not None and digest != known:
        return f"its SHA-256 is {digest}, expected {known} ({whose})"
    return None


def _check_known(model: NamedModel, file: Path) -> None:
    """Look whether the file that is there can be that of ``model``: its size always, its digest until it is noted.

    Raises DownloadError, OSError.
    """
    note = read_note(file)
    if note is None:
        check(model)
        return
    if note.url != model.address:
        raise DownloadError(f"'{file}' is from {note.url}, and now another address is listed; remove it")
    size = file.stat().st_size
    if size != note.size:
        raise DownloadError(
            f"'{file}' has {size} bytes, and {note.size} are noted; remove it to fetch it again, or remove "
            f"'{_note(file)}' if it is meant to be another one"
        )


def check(model: NamedModel) -> str:
    """Compare the whole file of ``model`` in the cache with what is known of it, and say what was found.

    Raises DownloadError, which says both digests, and OSError.
    """
    file = model.file
    size, digest = file.stat().st_size, sha256_of(file)
    known, whose = _known(model, file)
    if (problem := _mismatch(model, size, digest, known, whose)) is not None:
        raise DownloadError(f"'{file}' is not the file: {problem}")
    if known is None:
        return f"SHA-256 {digest}; nobody published one, and the file was not used yet"
    return f"as {'listed' if model.facts.sha256 else 'noted when it was first there'}: SHA-256 {digest}"


def note_used(model: NamedModel) -> None:
    """Note the digest of the file of ``model``, which was opened and is the model; from then on it must be the same."""
    file = model.file
    if read_note(file) is None:
        # A cache that several people read may belong to somebody else.
        with contextlib.suppress(OSError):
            _write_note(file, Note(model.address, file.stat().st_size, sha256_of(file)))


def state(model: NamedModel) -> str:
    """Whether the file of ``model`` is in the cache: ``"yes"``, ``"part"`` or ``"no"``."""
    if model.file.exists():
        return "yes"
    return "part" if _beside(model.file, ".part").exists() else "no"


def read_note(file: Path) -> Note | None:
    """What is noted beside ``file``; None without a note that can be read."""
    try:
        return Note(**json.loads(_note(file).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _write_note(file: Path, note: Note) -> None:
    atomic_write_text(_note(file), json.dumps(asdict(note), indent=1) + "\n")


def _note(file: Path) -> Path:
    return _beside(file, ".json")


def _beside(file: Path, suffix: str) -> Path:
    return file.with_name(file.name + suffix)


def _say(line: str) -> None:
    # Only what fetches something gets a console.
    from person_search.runtime.terminal import messages

    messages.print(line, soft_wrap=True)


@contextmanager
def _bar(what: str) -> Iterator[Progress]:
    """A bar of bytes with the time left, on a terminal only."""
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    from person_search.runtime.terminal import messages

    with Bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=messages,
        disable=not messages.is_terminal,
    ) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
