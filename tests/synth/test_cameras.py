from __future__ import annotations

import numpy as np
import pytest

from person_search.synth.cameras import NEAREST, Camera, draw_camera


def cameras(level: float = 0.5) -> list[Camera]:
    return [draw_camera(np.random.default_rng(seed), 640, 480, level) for seed in range(30)]


def project(camera: Camera, across: float, along: float, up: float) -> np.ndarray:
    seen = camera.matrix() @ np.array([across, along, up, 1.0])
    return seen[:2] / seen[2]


def test_ground_is_where_it_is_seen() -> None:
    for camera in cameras():
        across, along = camera.ground(150.0, 400.0)
        assert project(camera, across, along, 0.0) == pytest.approx([150.0, 400.0])


def test_people_get_larger_towards_the_bottom_as_the_projection_says() -> None:
    for camera in cameras():
        for row in (camera.far_row, camera.near_row):
            foot = camera.ground(320.0, row)
            head = project(camera, *foot, 1.71)
            assert row - head[1] == pytest.approx(1.71 * camera.scale(row))
        assert 0.2 * 480 < 1.71 * camera.scale(camera.far_row) < 0.35 * 480
        assert 0.45 * 480 < 1.71 * camera.scale(camera.near_row) < 0.75 * 480


def test_walls_are_drawn_only_before_the_camera() -> None:
    for camera in cameras():
        for wall in (camera.left_wall, camera.right_wall):
            part = camera.visible_along(wall, 34.0)
            assert part is not None
            depth = [(camera.matrix() @ np.array([wall, along, 0.0, 1.0]))[2] for along in part]
            assert min(depth) >= NEAREST - 1e-6


def test_cameras_differ_more_when_it_is_harder() -> None:
    spread = [np.std([camera.gains for camera in cameras(level)], axis=0).mean() for level in (0.0, 1.0)]
    assert spread[1] > 2 * spread[0]
    blur = [np.mean([camera.blur for camera in cameras(level)]) for level in (0.0, 1.0)]
    assert blur[1] > blur[0]
    assert len({camera.yaw for camera in cameras()}) == 30
