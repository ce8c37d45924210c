from __future__ import annotations

from dataclasses import replace

import numpy as np

from person_search.synth.appearance import Appearance, descriptor, draw_appearance, draw_identities


def gaps(people: list[Appearance]) -> np.ndarray:
    looks = np.stack([descriptor(person) for person in people])
    distance = np.linalg.norm(looks[:, None] - looks[None], axis=2)
    distance[np.diag_indices(len(people))] = np.inf
    return distance.min(axis=1)


def test_no_two_identities_look_the_same() -> None:
    assert gaps(draw_identities(np.random.default_rng(0), 80, 0.5)).min() > 0.7


def test_keeping_people_apart_is_done_by_drawing_again() -> None:
    rng = np.random.default_rng(0)
    careless = [draw_appearance(rng, 0.5) for _ in range(80)]
    assert gaps(careless).min() < gaps(draw_identities(np.random.default_rng(0), 80, 0.5)).min()


def test_difficulty_makes_clothes_more_alike() -> None:
    distances = []
    for level in (0.0, 1.0):
        colours = np.array([person.upper_colour for person in draw_identities(np.random.default_rng(1), 120, level)])
        distances.append(np.linalg.norm(colours[:, None] - colours[None], axis=2).mean())
    assert distances[1] < 0.9 * distances[0]


def test_descriptor_sees_what_an_observer_sees() -> None:
    person = replace(draw_appearance(np.random.default_rng(2), 0.5), pattern="plain", bag="none", hair="short")
    for change in (
        {"upper_colour": (245.0, 12.0, 12.0)},
        {"lower": "skirt" if person.lower != "skirt" else "shorts"},
        {"pattern": "stripes"},
        {"bag": "backpack"},
        {"hair": "long"},
    ):
        assert np.linalg.norm(descriptor(replace(person, **change)) - descriptor(person)) > 0.3
    hidden = replace(person, bag_colour=(1.0, 2.0, 3.0))
    assert np.array_equal(descriptor(hidden), descriptor(person))
