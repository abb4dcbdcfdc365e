# SPDX-License-Identifier: Apache-2.0
"""Whatever a view shows, pictures, densities, fixations and flow stay on top of each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from video_saliency.training.still_augmentation import StillAugmentation
from video_saliency.training.window_views import View, fixation_map

SOURCE, SIZE = (60, 96), (40, 64)


def spot(place: tuple[float, float], size: tuple[int, int], sigma: float) -> torch.Tensor:
    """A Gaussian `(1, 1, height, width)` around (row, column)."""
    rows, columns = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    return torch.exp(-((rows - place[0]) ** 2 + (columns - place[1]) ** 2) / (2 * sigma**2))[None, None]


def peak(maps: torch.Tensor) -> np.ndarray:
    values = maps[0, 0].double()
    rows, columns = torch.meshgrid(*(torch.arange(n).double() for n in values.shape), indexing="ij")
    return np.array([(rows * values).sum() / values.sum(), (columns * values).sum() / values.sum()])


VIEWS = {
    "whole": View(),
    "mirrored": View((-1.0, 1.0)),
    "cropped": View((0.7, 0.8), (0.2, -0.1)),
    "mirrored and cropped": View((-0.8, 0.7), (-0.1, 0.15)),
    "with bars": View((1.0, 1.3)),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_points_follow_maps_of_any_resolution(view):
    place = (32, 44)
    points = view.of_points(np.array([place]), SOURCE, SIZE)
    for factor in (1, 2):
        size = (SOURCE[0] * factor, SOURCE[1] * factor)
        centre = tuple((value + 0.5) * factor - 0.5 for value in place)
        maps = view.of_maps(spot(centre, size, 2.0 * factor), SIZE)
        assert np.abs(peak(maps) - points[0]).max() < 0.75


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_flow_leads_to_where_the_points_go(view):
    start, step = np.array([30, 46]), np.array([6, -9])  # down and left, in source pixels
    flow = torch.tensor([step[1], step[0]]).float()[None, :, None, None].expand(1, 2, *SOURCE)
    seen = view.of_flow(flow, SIZE)
    # on a fine grid, so that rounding to pixels does not count
    fine = 32
    places = [
        view.of_points(point[None] * fine, (SOURCE[0] * fine, SOURCE[1] * fine), (SIZE[0] * fine, SIZE[1] * fine))[0]
        for point in (start, start + step)
    ]
    moved = (places[1] - places[0]) / fine
    row, column = places[0] // fine
    assert seen[0, :, row, column].tolist() == pytest.approx([moved[1], moved[0]], abs=0.1)


def test_points_outside_are_left_out():
    view = View((0.5, 0.5), (0.5, 0.5))  # the lower right quarter
    points = np.array([[0, 0], [59, 95], [30, 48], [29, 90]])
    assert view.of_points(points, SOURCE, SIZE).tolist() == [[39, 63], [0, 0]]


def test_a_mirrored_map_is_the_map_mirrored():
    maps = torch.rand(2, 3, *SIZE)
    assert torch.equal(View((-1.0, 1.0)).of_maps(maps, SIZE), maps.flip(-1))
    assert torch.equal(View().of_maps(maps, SIZE), maps)


def test_drawn_views_are_reproduced_and_differ():
    draws = [View.draw(StillAugmentation(), torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    flips = {View.draw_flip(torch.Generator().manual_seed(seed)).scale[0] for seed in range(20)}
    assert flips == {1.0, -1.0}


def test_fixation_map_counts_and_spreads():
    points = np.array([[2, 3], [2, 3], [0, 0]])
    marks = fixation_map(points, (5, 6))
    assert marks[2, 3] == 2 and marks[0, 0] == 1 and marks.sum() == 3
    spread = fixation_map(points, (5, 6), radius=1)
    assert (spread[1:4, 2:5][1:, 1:] == 2).all()
    assert spread[0, 0] == spread[1, 1] == 1 and spread[4].sum() == 0
