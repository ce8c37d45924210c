"""Ranking lists show the right people in the right order, and crops never lie about where the box is."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from person_search.visualize.boxes import IGNORED, QUERY, RIGHT, WRONG
from person_search.visualize.ranking import Hit, crop_person, fit_height, frame_color, ranking_list

BOX = np.array([40, 20, 60, 70], np.float32)


def scene(color, corner=None):
    image = np.full((100, 120, 3), color, np.uint8)
    if corner is not None:
        image[-8:, -8:] = corner
    return image


def columns_of(picture, color):
    return np.unique(np.nonzero((picture == color).all(-1))[1])


def rows_of(picture, color):
    return np.unique(np.nonzero((picture == color).all(-1))[0])


coordinates = st.floats(-200, 300, width=32)


@settings(deadline=None, derandomize=True)
@given(x=coordinates, y=coordinates, w=st.floats(0, 200), h=st.floats(0, 200), context=st.floats(0, 1))
def test_a_crop_shows_what_of_the_box_lies_in_the_picture(x, y, w, h, context):
    image = np.arange(90 * 110 * 3, dtype=np.uint32).astype(np.uint8).reshape(90, 110, 3)
    box = np.array([x, y, x + w, y + h], np.float32)
    crop, inside = crop_person(image, box, context=context)
    assert crop.shape[0] >= 2
    assert crop.shape[1] >= 2
    left, top = box[:2] - inside[:2]
    np.testing.assert_allclose(box[2:] - inside[2:], [left, top], atol=1e-3)
    left, top = round(float(left)), round(float(top))
    np.testing.assert_array_equal(crop, image[top : top + crop.shape[0], left : left + crop.shape[1]])
    visible = np.clip(box, 0, [110, 90, 110, 90])
    if visible[0] < visible[2] and visible[1] < visible[3]:
        assert left <= visible[0]
        assert top <= visible[1]
        assert left + crop.shape[1] >= visible[2]
        assert top + crop.shape[0] >= visible[3]


def test_context_is_a_share_of_the_longer_side_on_every_side():
    crop, inside = crop_person(scene(0), np.array([50, 30, 60, 70], np.float32), context=0.25)
    assert crop.shape == (60, 30, 3)
    np.testing.assert_array_equal(inside, [10, 10, 20, 50])


@pytest.mark.parametrize("box", [[np.nan, 0, 1, 1], [0, 0, np.inf, 1], [0, 0, 1]])
def test_a_crop_refuses_boxes_without_four_numbers(box):
    with pytest.raises(ValueError, match="four finite numbers"):
        crop_person(scene(0), np.array(box, np.float32))


@settings(deadline=None, derandomize=True)
@given(height=st.integers(1, 200), width=st.integers(1, 200), wanted=st.integers(20, 120))
def test_resizing_keeps_the_aspect_ratio(height, width, wanted):
    resized = fit_height(np.zeros((height, width, 3), np.uint8), wanted)
    assert resized.shape[0] == wanted
    assert abs(resized.shape[1] - wanted * width / height) <= 1


def test_the_query_is_left_and_hits_follow_in_order():
    colors = [(10, 0, 200), (200, 0, 10), (90, 0, 90)]
    hits = [Hit(scene(color), BOX, 0.9, True) for color in colors]
    picture = ranking_list(scene((5, 5, 5)), BOX, hits)
    spans = [columns_of(picture, color) for color in [(5, 5, 5), *colors]]
    for before, after in itertools.pairwise(spans):
        assert before.max() < after.min()


def test_frames_say_right_wrong_and_unknown():
    assert [frame_color(correct) for correct in (True, False, None)] == [RIGHT, WRONG, IGNORED]
    hits = [Hit(scene((9, 9, 9)), BOX, 0.9, correct) for correct in (True, False, None)]
    picture = ranking_list(scene((9, 9, 9)), BOX, hits)
    spans = [columns_of(picture, color) for color in (QUERY, RIGHT, WRONG, IGNORED)]
    for before, after in itertools.pairwise(spans):
        assert before.max() < after.min()


def test_right_and_wrong_differ_without_colour():
    def bright(correct):
        picture = ranking_list(scene((9, 9, 9)), BOX, [Hit(scene((9, 9, 9)), BOX, 0.9, correct)])
        frame = RIGHT if correct else WRONG
        top, left = rows_of(picture, frame).min(), columns_of(picture, frame).min()
        return (picture[top : top + 22, left : left + 22] == frame).all(-1)

    tick, cross = bright(True), bright(False)
    assert (tick != cross).mean() > 0.05
    # A cross is the same upside down, a tick is not: the marks are what they should be.
    assert (cross[5:18, 5:18] == cross[5:18, 5:18][::-1]).mean() > 0.9
    assert (tick[5:18, 5:18] == tick[5:18, 5:18][::-1]).mean() < 0.9


def test_similarity_and_name_stand_beneath():
    hit = Hit(scene((9, 9, 9)), BOX, 0.5, True, "a.jpg")
    picture = ranking_list(scene((9, 9, 9)), BOX, [hit])
    for other in (
        Hit(hit.image, BOX, 0.6, True, "a.jpg"),
        Hit(hit.image, BOX, 0.5, True, "b.jpg"),
    ):
        changed = np.nonzero((ranking_list(scene((9, 9, 9)), BOX, [other]) != picture).any(-1))
        assert changed[0].min() > rows_of(picture, RIGHT).max()


def test_whole_scenes_show_what_is_far_from_the_box():
    corner = (200, 0, 200)
    hits = [Hit(scene((9, 9, 9), corner), BOX, 0.9, True)]
    assert not columns_of(ranking_list(scene(0), BOX, hits), corner).size
    whole = ranking_list(scene(0), BOX, hits, whole_scenes=True)
    assert columns_of(whole, corner).size


def test_more_hits_than_columns_go_on_in_the_next_row():
    colors = [(10, 0, 200), (200, 0, 10), (90, 0, 90)]
    hits = [Hit(scene(color), BOX, 0.9, True) for color in colors]
    picture = ranking_list(scene((5, 5, 5)), BOX, hits, columns=2)
    assert rows_of(picture, colors[1]).max() < rows_of(picture, colors[2]).min()
    assert columns_of(picture, colors[0]).min() == columns_of(picture, colors[2]).min()


def test_a_list_without_hits_is_the_query_alone():
    picture = ranking_list(scene((5, 5, 5)), BOX, [])
    assert columns_of(picture, (5, 5, 5)).size
    assert picture.dtype == np.uint8


@pytest.mark.parametrize("wrong", [{"height": 0}, {"columns": 0}])
def test_refuses_no_height_and_no_columns(wrong):
    with pytest.raises(ValueError, match="at least 1"):
        ranking_list(scene(0), BOX, [], **wrong)
