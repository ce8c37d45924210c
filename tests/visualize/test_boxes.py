"""Boxes land where they should, in the right colour, and their labels can be read."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from person_search.visualize import boxes as drawing
from person_search.visualize.boxes import draw_boxes, shorten, text_color_on, text_width

GREY = 128


def blank(height=120, width=160):
    return np.full((height, width, 3), GREY, np.uint8)


def test_draws_the_outline_in_its_colour_and_leaves_the_original_alone():
    image = blank()
    drawn = draw_boxes(image, [[20, 30, 60, 90]], drawing.IDENTITY, thickness=1)
    assert (image == GREY).all()
    for row, column in [(30, 20), (30, 59), (89, 20), (89, 59), (60, 20), (30, 40), (89, 40)]:
        assert tuple(drawn[row, column]) == drawing.IDENTITY
    assert (drawn[31:89, 21:59] == GREY).all()


def test_each_box_has_its_own_colour():
    drawn = draw_boxes(blank(), [[10, 10, 30, 30], [50, 50, 90, 90]], [drawing.NO_IDENTITY, drawing.WRONG], thickness=1)
    assert tuple(drawn[10, 20]) == drawing.NO_IDENTITY
    assert tuple(drawn[50, 70]) == drawing.WRONG


@settings(deadline=None, derandomize=True)
@given(
    corner=st.tuples(st.floats(-300, 300), st.floats(-300, 300)),
    size=st.tuples(st.floats(0.1, 400), st.floats(0.1, 400)),
    thickness=st.integers(1, 4),
    dashed=st.booleans(),
)
def test_nothing_but_the_outline_and_its_rim_changes(corner, size, thickness, dashed):
    (x1, y1), (width, height) = corner, size
    drawn = draw_boxes(blank(), [[x1, y1, x1 + width, y1 + height]], drawing.QUERY, thickness=thickness, dashed=dashed)
    rows, columns = np.nonzero((drawn != GREY).any(-1))
    reach = thickness + 3
    clipped = np.clip([x1, y1, x1 + width, y1 + height], 0, [160, 120, 160, 120])
    assert (columns >= clipped[0] - reach).all()
    assert (columns <= clipped[2] + reach).all()
    assert (rows >= clipped[1] - reach).all()
    assert (rows <= clipped[3] + reach).all()
    left, top = (int(edge) + reach + 1 for edge in clipped[:2])
    right, bottom = (max(0, int(edge) - reach) for edge in clipped[2:])
    assert (drawn[top:bottom, left:right] == GREY).all()


@pytest.mark.parametrize(
    "box",
    [
        [np.nan, 0, 10, 10],
        [0, 0, np.inf, 10],
        [200, 10, 250, 50],
        [-50, 10, -1, 50],
        [30, 30, 30, 60],
        [60, 60, 30, 30],
    ],
)
def test_boxes_that_cannot_be_seen_are_left_out(box):
    assert (draw_boxes(blank(), [box], drawing.QUERY, ["label"]) == GREY).all()


def test_no_boxes_draw_nothing():
    assert (draw_boxes(blank(), np.zeros((0, 4)), drawing.QUERY, []) == GREY).all()


def test_dashes_leave_gaps_on_every_side():
    box = [[20, 20, 120, 100]]
    solid = draw_boxes(blank(), box, drawing.MISSED, thickness=2)
    dashed = draw_boxes(blank(), box, drawing.MISSED, thickness=2, dashed=True)
    for side in (np.s_[20, 40:100], np.s_[99, 40:100], np.s_[40:80, 20], np.s_[40:80, 119]):
        assert (solid[side] == drawing.MISSED).all()
        share = (dashed[side] == drawing.MISSED).all(-1).mean()
        assert 0.2 < share < 0.8


@pytest.mark.parametrize("box", [[2, 0, 40, 60], [140, 50, 160, 118], [0, 0, 160, 120]])
def test_a_label_stays_inside_the_picture(box):
    plain = draw_boxes(blank(), [box], drawing.QUERY, thickness=1)
    labelled = draw_boxes(blank(), [box], drawing.QUERY, ["0.98"], thickness=1)
    plate = (labelled != plain).any(-1)
    filled = (labelled == drawing.QUERY).all(-1) | (labelled == text_color_on(drawing.QUERY)).all(-1)
    wanted_height, wanted_width = 9 + 4, text_width("0.98", 9) + 4
    rows, columns = np.nonzero(plate | filled)
    assert plate.sum() > 0.7 * wanted_height * wanted_width
    assert columns.max() - columns.min() + 1 >= wanted_width
    assert rows.max() - rows.min() + 1 >= wanted_height


def test_labels_of_neighbours_do_not_cover_each_other():
    image = blank(200, 200)
    two = [[50, 60, 90, 120], [60, 62, 100, 122]]
    apart = [draw_boxes(image, [box], drawing.QUERY, ["0.91"], thickness=1) for box in two]
    together = draw_boxes(image, two, [drawing.RIGHT, drawing.WRONG], ["0.91", "0.92"], thickness=1)
    needed = (apart[0] == drawing.QUERY).all(-1).sum() - 2 * (40 + 60)
    for color in (drawing.RIGHT, drawing.WRONG):
        assert (together == color).all(-1).sum() > 0.9 * needed


def test_a_label_goes_below_where_there_is_one_above():
    box = [[50, 60, 90, 120]]
    drawn = draw_boxes(blank(200, 200), box * 2, [drawing.RIGHT, drawing.WRONG], ["0.91", "0.92"], thickness=1)
    assert np.nonzero((drawn == drawing.RIGHT).all(-1))[0].max() < 60
    assert np.nonzero((drawn == drawing.WRONG).all(-1))[0].max() > 125


def test_a_box_beyond_the_picture_is_closed_at_its_edge():
    drawn = draw_boxes(blank(), [[-20, -20, 500, 500]], drawing.QUERY, thickness=1)
    for edge in (drawn[0], drawn[-1], drawn[:, 0], drawn[:, -1]):
        assert (edge == drawing.QUERY).all()


def test_text_has_contrast_on_every_colour_it_is_written_on():
    def luminance(color):
        channels = np.array(color) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    for name in ("IDENTITY", "NO_IDENTITY", "BACKGROUND", "MISSED", "IGNORED", "QUERY"):
        color = getattr(drawing, name)
        low, high = sorted([luminance(color), luminance(text_color_on(color))])
        assert (high + 0.05) / (low + 0.05) >= 4.5, name
    assert text_color_on((0, 0, 0)) == (255, 255, 255)


@settings(deadline=None, derandomize=True)
@given(text=st.text(alphabet="abcM_/.0189", min_size=1, max_size=60), width=st.integers(20, 200))
def test_shortened_names_fit_and_keep_their_end(text, width):
    short = shorten(text, width, 10)
    assert text_width(short, 10) <= width
    assert short == text or text.endswith(short.removeprefix("..."))
    assert (short == text) == (text_width(text, 10) <= width)


@pytest.mark.parametrize(
    ("image", "colors", "labels", "message"),
    [
        (np.zeros((10, 10), np.uint8), drawing.QUERY, None, "picture"),
        (np.zeros((10, 10, 3), np.float32), drawing.QUERY, None, "picture"),
        (np.zeros((0, 10, 3), np.uint8), drawing.QUERY, None, "picture"),
        (np.zeros((10, 10, 3), np.uint8), [drawing.QUERY] * 2, None, "colour"),
        (np.zeros((10, 10, 3), np.uint8), drawing.QUERY, ["a", "b"], "label"),
    ],
)
def test_refuses_what_does_not_fit_together(image, colors, labels, message):
    with pytest.raises(ValueError, match=message):
        draw_boxes(image, [[1, 1, 5, 5]], colors, labels)
