# SPDX-License-Identifier: Apache-2.0
"""Rank counts and statistics of a map against counting by force, for every kind of value."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from video_saliency.metrics.frame_maps import BLOCK, FrameMap, count_ranks
from video_saliency.metrics.metric_inputs import PixelCounts

KINDS = {
    "8-bit": lambda rng, shape: rng.integers(0, 256, shape).astype(np.uint8),
    "float32": lambda rng, shape: rng.gamma(0.3, 1.0, shape).astype(np.float32),
    "float64": lambda rng, shape: rng.normal(size=shape),
    "ties": lambda rng, shape: rng.integers(-3, 4, shape) / 7.0,
    "peaked": lambda rng, shape: rng.random(shape) ** 40,
    "far apart": lambda rng, shape: rng.normal(size=shape) * 1e120,
    "close together": lambda rng, shape: rng.integers(0, 50, shape) * 1e-60,
    "almost equal": lambda rng, shape: 1.0 + rng.integers(0, 3, shape) * 2.0**-52,
    "constant": lambda rng, shape: np.full(shape, 0.25),
}


@pytest.mark.parametrize("shape", [(9, 11), (130, 121)])
@pytest.mark.parametrize("kind", KINDS)
def test_ranks_and_statistics_by_force(kind: str, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(7)
    values = KINDS[kind](rng, shape)
    assert (values.size > BLOCK) == (shape[0] > 100)
    points = rng.integers(0, shape, (25, 2))
    frame, fixated = FrameMap(values), PixelCounts.from_points(points, shape)
    ranks = count_ranks(frame, fixated)
    at_points = values[points[:, 0], points[:, 1]]
    levels = np.unique(at_points)
    distinct = values.ravel()[fixated.pixels]
    assert ranks.pixels_at.tolist() == [(values == level).sum() for level in levels]
    assert ranks.fixated_at.tolist() == [(distinct == level).sum() for level in levels]
    assert ranks.fixations_at.tolist() == [(at_points == level).sum() for level in levels]
    assert ranks.at_or_above.tolist() == [(values >= level).sum() for level in levels]
    edges = [-np.inf, *levels, np.inf]
    between = [((values > low) & (values < high)).sum() for low, high in itertools.pairwise(edges)]
    assert ranks.pixels_between.tolist() == between
    assert (ranks.num_pixels, ranks.num_fixated) == (values.size, len(np.unique(points, axis=0)))

    exact = values.astype(np.float64)
    assert frame.total == pytest.approx(exact.sum(), rel=1e-12, abs=1e-9 * np.abs(exact).max())
    assert frame.total_above_minimum == pytest.approx((exact - exact.min()).sum(), rel=1e-9)
    if not frame.is_constant:
        assert frame.sum_of_squares * frame.scale**2 == pytest.approx(exact.var() * exact.size, rel=1e-6)


@pytest.mark.filterwarnings("error")
def test_8_bit_maps_may_be_read_only() -> None:
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    values.flags.writeable = False
    for view in (values, values[:, ::2], values.T):
        assert FrameMap(view).histogram.tolist() == np.bincount(view.ravel(), minlength=256).tolist()


def test_no_fixations_leave_all_pixels_in_one_gap() -> None:
    for values in (np.arange(6.0).reshape(2, 3), np.arange(6, dtype=np.uint8).reshape(2, 3)):
        ranks = count_ranks(FrameMap(values), PixelCounts.from_points([], (2, 3)))
        assert ranks.pixels_between.tolist() == [6]
        assert len(ranks.pixels_at) == 0
