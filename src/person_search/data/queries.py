"""Queries for sets that come without a list of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from person_search.data.scene import Query, Scene


def first_box_queries(scenes: Sequence[Scene], num_identities: int) -> list[Query]:
    """The first box of every identity that is in two scenes or more, in the order of identities.

    ``scenes`` hold person ids below ``num_identities``; "first" is by their order.
    """
    first: list[Query | None] = [None] * num_identities
    appearances = np.zeros(num_identities, np.int64)
    for number, scene in enumerate(scenes):
        identities, rows = np.unique(scene.person_ids, return_index=True)
        for identity, row in zip(identities.tolist(), rows.tolist(), strict=True):
            if identity < 0:
                continue
            appearances[identity] += 1
            if first[identity] is None:
                first[identity] = Query(number, scene.boxes[row], identity)
    return [query for query, count in zip(first, appearances, strict=True) if query is not None and count >= 2]
