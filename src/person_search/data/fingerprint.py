"""A digest of what is annotated in a split, by which a run and an evaluation know the data they belong to again."""

from __future__ import annotations

import hashlib
from typing import Any

from person_search.data.scene import Split


def fingerprint(split: Split) -> str:
    """Hexadecimal digest of the scenes of ``split``: names, boxes, person ids and ignore regions, in order.

    It does not depend on where the data lies, nor on the pixels of the pictures, which it does not open.
    """
    digest = hashlib.sha256()
    for scene in split.scenes:
        digest.update(f"{scene.name}\0{len(scene.boxes)}\0{len(scene.ignore)}\0".encode())
        digest.update(scene.boxes.astype("<f4").tobytes())
        digest.update(scene.person_ids.astype("<i8").tobytes())
        digest.update(scene.ignore.astype("<f4").tobytes())
    return digest.hexdigest()[:32]


def data_record(split: Split) -> dict[str, Any]:
    """What a run remembers of the scenes that it is trained on: their fingerprint, and counts to tell of."""
    return {
        "fingerprint": fingerprint(split),
        "scenes": len(split.scenes),
        "boxes": sum(len(scene.boxes) for scene in split.scenes),
        "identities": split.num_identities,
    }


def data_difference(then: dict[str, Any], now: dict[str, Any]) -> str | None:
    """How the data of one ``data_record`` differs from that of a later one, in words; None where it is the same."""
    if then["fingerprint"] == now["fingerprint"]:
        return None
    before, after = (
        ", ".join(f"{record[name]} {name}" for name in ("scenes", "boxes", "identities")) for record in (then, now)
    )
    found = f"{after} now" if before != after else "as many now, but with other names, boxes or person ids"
    return f"{before} then, {found}"
