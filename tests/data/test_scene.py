"""Galleries and truths that hold for every dataset."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from person_search.data.scene import Query, Scene, Split, as_boxes, with_truths


def test_the_last_scene_of_one_person_may_be_the_first_of_the_next() -> None:
    ids = [[0], [0, 1, 1], [1]]
    boxes = [as_boxes([[10 * k, s, 10 * k + 5, s + 5] for k in range(len(own))]) for s, own in enumerate(ids)]
    scenes = [Scene(f"{s}.jpg", boxes[s], np.array(own, dtype=np.int64)) for s, own in enumerate(ids)]
    queries = [Query(0, boxes[0][0], 0), Query(2, boxes[2][0], 1)]
    split = Split("made", "test", Path(), scenes, 2, queries)
    protocol = with_truths("all", split, np.array([[False, True, True], [True, True, False]]))
    assert protocol.truth_offsets.tolist() == [0, 1, 2]
    assert protocol.truth_scenes.tolist() == [1, 1]
    assert protocol.truth_boxes.tolist() == [[0, 1, 5, 6], [10, 1, 15, 6]]
