"""A digest of what is annotated in a split, by which a run and an evaluation know the data they belong to again."""

from __future__ import annotations

import hashlib

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
