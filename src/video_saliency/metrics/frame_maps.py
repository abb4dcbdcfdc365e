# SPDX-License-Identifier: Apache-2.0
"""One map with what several metrics need of it, each computed once, and where its pixels rank."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from video_saliency.metrics.metric_inputs import PixelCounts

NUM_LEVELS = 256  # of an 8-bit map
NUM_BINS = 4096  # of the coarse histogram of other maps
BLOCK = 15360  # pixels worked on at a time: 120 KiB in float64, which malloc still takes from its own pages


class FrameMap:
    """A single map `(H, W)`, uint8, float32 or float64 and finite, that remembers its statistics.

    All metrics of a frame share one of these, so that a mean or a histogram is computed at most once. Work on all
    pixels goes block by block in float64: no second map is ever allocated, which at this size costs more than the
    arithmetic. An 8-bit map is counted instead of searched.

    Args:
        values: the map; not copied, and not to be changed afterwards.
    """

    def __init__(self, values: np.ndarray) -> None:
        self.values = values.reshape(-1)
        self.shape: tuple[int, int] = (values.shape[-2], values.shape[-1])

    @property
    def size(self) -> int:
        """Number of pixels."""
        return self.values.size

    @cached_property
    def histogram(self) -> np.ndarray | None:
        """Number of pixels of each value `(256,)` of an 8-bit map; None for others."""
        if self.values.dtype != np.uint8:
            return None
        # torch counts bytes as they are, numpy would first make 8-byte integers of them; it wants a writable array
        values = self.values if self.values.flags.writeable else self.values.copy()
        histogram: np.ndarray = torch.bincount(torch.from_numpy(values), minlength=NUM_LEVELS).numpy()
        return histogram

    @cached_property
    def minimum(self) -> float:
        """Lowest value."""
        return float(self.values.min())

    @cached_property
    def maximum(self) -> float:
        """Highest value."""
        return float(self.values.max())

    @cached_property
    def total(self) -> float:
        """Sum of all values."""
        if self.histogram is not None:
            return float(self.histogram @ np.arange(NUM_LEVELS))
        return sum_over_blocks(np.sum, self)

    @property
    def mean(self) -> float:
        """Mean of all values."""
        return self.total / self.size

    @property
    def is_constant(self) -> bool:
        """Whether all values are equal: the computed deviation of such a map is not always exactly zero."""
        return self.minimum == self.maximum

    @property
    def is_zero(self) -> bool:
        """Whether all values are zero."""
        return self.minimum == 0.0 == self.maximum

    @cached_property
    def scale(self) -> float:
        """What deviations are divided by: 1, or the largest one where squares would leave float64's range."""
        largest = max(self.maximum - self.mean, self.mean - self.minimum)
        return 1.0 if 1e-100 < largest < 1e100 or largest == 0.0 else largest

    @cached_property
    def sum_of_squares(self) -> float:
        """Sum of the squared `deviations` of all values."""
        if self.histogram is not None:
            return float(self.histogram @ (np.arange(NUM_LEVELS) - self.mean) ** 2)

        def squares(block: np.ndarray) -> float:
            deviations = self.deviations(block)
            return float(deviations @ deviations)

        return sum_over_blocks(squares, self)

    @cached_property
    def total_above_minimum(self) -> float:
        """Sum of all values less the lowest one."""
        if self.minimum == 0.0 or self.histogram is not None:
            return self.total - self.size * self.minimum  # exact for integers
        return sum_over_blocks(lambda block: np.sum(block - self.minimum), self)

    @cached_property
    def non_negative(self) -> FrameMap:
        """The map with its negative values set to zero; itself where it has none."""
        return self if self.minimum >= 0.0 else FrameMap(np.maximum(self.values, 0.0).reshape(self.shape))

    def at(self, pixels: np.ndarray) -> np.ndarray:
        """Values at flat indices, in float64."""
        values: np.ndarray = self.values[pixels].astype(np.float64, copy=False)
        return values

    def deviations(self, values: np.ndarray) -> np.ndarray:
        """Values less the map's mean, divided by `scale`."""
        deviations: np.ndarray = values - self.mean
        if self.scale != 1.0:
            deviations /= self.scale
        return deviations


def blocks_of(values: np.ndarray) -> Iterator[np.ndarray]:
    """Consecutive parts of a flat array, each small enough for a fast cache."""
    return (values[start : start + BLOCK] for start in range(0, len(values), BLOCK))


def sum_over_blocks(term: Callable[..., float], *frames: FrameMap) -> float:
    """Sum of `term(block, ...)` over the blocks `(n,)`, in float64, of one or several maps of the same size."""
    columns = zip(*(blocks_of(frame.values) for frame in frames), strict=True)
    return math.fsum(term(*(block.astype(np.float64, copy=False) for block in blocks)) for blocks in columns)


@dataclass(frozen=True)
class RankCounts:
    """How many pixels of a map lie at, between, below and above the distinct values at its fixations.

    The whole ROC curve of a frame is in these few numbers. Levels are the distinct values, ascending.

    Attributes:
        num_pixels: of the map.
        num_fixated: distinct fixated pixels.
        fixated_at: distinct fixated pixels at each level, `(levels,)`.
        fixations_at: fixations at each level, `(levels,)`.
        pixels_at: all pixels at each level, fixated or not, `(levels,)`.
        pixels_between: all pixels below the first level, between two, and above the last, `(levels + 1,)`.
    """

    num_pixels: int
    num_fixated: int
    fixated_at: np.ndarray
    fixations_at: np.ndarray
    pixels_at: np.ndarray
    pixels_between: np.ndarray

    @property
    def at_or_above(self) -> np.ndarray:
        """Pixels at or above each level, `(levels,)`."""
        return np.cumsum((self.pixels_at + self.pixels_between[1:])[::-1])[::-1]


def count_ranks(frame: FrameMap, fixated: PixelCounts) -> RankCounts:
    """Rank counts of a frame; the map is not sorted.

    An 8-bit map costs two histograms. Of another map, a coarse histogram is enough for most pixels, and only those in
    a bin that also holds a fixated value are searched for among the levels.
    """
    levels, level_of_pixel = np.unique(frame.values[fixated.pixels], return_inverse=True)
    if frame.histogram is not None:
        pixels_at = frame.histogram[levels]
        up_to_level = np.cumsum(frame.histogram)[levels]
        pixels_between = np.append(up_to_level - pixels_at, frame.size)
        pixels_between[1:] -= up_to_level
    else:
        places = _count_places(frame, levels)
        pixels_between, pixels_at = places[0::2], places[1::2]
    return RankCounts(
        num_pixels=frame.size,
        num_fixated=len(fixated),
        fixated_at=np.bincount(level_of_pixel, minlength=len(levels)),
        fixations_at=np.bincount(level_of_pixel, weights=fixated.counts, minlength=len(levels)),
        pixels_at=pixels_at,
        pixels_between=pixels_between,
    )


def _count_places(frame: FrameMap, levels: np.ndarray) -> np.ndarray:
    """Pixels at each place `(2 * levels + 1,)`: place 2 j + 1 is level j itself, 2 j the gap below it."""
    padded = np.append(levels, np.array([np.nan], dtype=levels.dtype))
    places = np.zeros(2 * len(levels) + 1, dtype=np.int64)

    def count(values: np.ndarray) -> np.ndarray:
        gap = np.searchsorted(levels, values)
        counts: np.ndarray = np.bincount(2 * gap + (padded[gap] == values), minlength=len(places))
        return counts

    spread = frame.maximum - frame.minimum
    if not 1e-30 < spread < 1e30:  # constant, or too narrow or wide for float32 arithmetic
        for block in blocks_of(frame.values):
            places += count(block)
        return places

    def bins_of(values: np.ndarray) -> np.ndarray:
        # Rounding keeps the order, so that two values in different bins differ in the same direction.
        bins: np.ndarray = ((values - minimum) * factor).astype(np.intp)
        return bins

    minimum, factor = (levels.dtype.type(number) for number in (frame.minimum, NUM_BINS / spread))
    in_bin = np.zeros(NUM_BINS + 2, dtype=np.int64)
    level_bins = bins_of(levels)
    holds_level = np.zeros(len(in_bin), dtype=bool)
    holds_level[level_bins] = True
    for block in blocks_of(frame.values):
        bins = bins_of(block)
        in_bin += np.bincount(bins, minlength=len(in_bin))
        places += count(block[holds_level[bins]])
    in_bin[level_bins] = 0
    levels_below = np.searchsorted(level_bins, np.arange(len(in_bin)))
    np.add.at(places, 2 * levels_below, in_bin)
    return places
