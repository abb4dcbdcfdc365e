# SPDX-License-Identifier: Apache-2.0
"""The formulas: each takes the parts of one frame and gives one score, NaN where the score has no meaning.

The public functions of this package and the frame scorer both end here.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from video_saliency.metrics.frame_maps import FrameMap, RankCounts, blocks_of, sum_over_blocks
from video_saliency.metrics.metric_inputs import PixelCounts

# Distance from 1 to the next float64, `eps` of MATLAB: what the MIT code adds inside its logarithms.
EPSILON = 2.0**-52
# What pysaliency adds to both maps before its KL divergence.
ADDED_DENSITY = 1e-20

Normalization = Literal["minmax_sum", "sum"]


def frame_nss(prediction: FrameMap, fixated: PixelCounts, *, ddof: int) -> float:
    """Normalised scanpath saliency: MIT's for `ddof=1`."""
    if not len(fixated) or prediction.is_constant:
        return math.nan
    deviation = math.sqrt(prediction.sum_of_squares / (prediction.size - ddof))
    at_fixations = prediction.deviations(prediction.at(fixated.pixels))
    return float(np.average(at_fixations, weights=fixated.counts)) / deviation


def frame_cc(prediction: FrameMap, density: FrameMap) -> float:
    """Pearson's correlation."""
    if prediction.is_constant or density.is_constant:
        return math.nan
    product = sum_of_products(prediction, density)
    return product / math.sqrt(prediction.sum_of_squares * density.sum_of_squares)


def sum_of_products(first: FrameMap, second: FrameMap) -> float:
    """Sum over all pixels of the products of the two maps' `deviations`."""
    return sum_over_blocks(lambda a, b: first.deviations(a) @ second.deviations(b), first, second)


def frame_sim(prediction: FrameMap, density: FrameMap, *, normalize: Normalization) -> float:
    """Sum of the smaller of the two normalised values over all pixels."""
    if normalize == "sum":
        if prediction.total == 0.0 or density.total == 0.0:
            return math.nan
        return sum_of_minima((prediction, 0.0, prediction.total), (density, 0.0, density.total))
    if any(frame.is_constant and not frame.is_zero for frame in (prediction, density)):
        return math.nan
    if prediction.is_zero or density.is_zero:
        return 0.0  # the MIT code leaves an empty map as it is
    first, second = ((frame, frame.minimum, frame.total_above_minimum) for frame in (prediction, density))
    return sum_of_minima(first, second)


def sum_of_minima(first: tuple[FrameMap, float, float], second: tuple[FrameMap, float, float]) -> float:
    """Sum over all pixels of the smaller of the two maps' values, each less an offset and divided by a total."""

    (first_map, first_offset, first_total), (second_map, second_offset, second_total) = first, second

    def smaller(a: np.ndarray, b: np.ndarray) -> float:
        a = (a - first_offset if first_offset else a) * (1.0 / first_total)
        b = (b - second_offset if second_offset else b) * (1.0 / second_total)
        return float(np.minimum(a, b, out=a).sum())

    return sum_over_blocks(smaller, first_map, second_map)


def frame_kld(prediction: FrameMap, density: FrameMap) -> float:
    """Kullback-Leibler divergence of the MIT code, in nats: sum q ln(eps + q / (p + eps)).

    Raises:
        ValueError: negative values.
    """
    check_non_negative(prediction, "saliency_map")
    check_non_negative(density, "density")
    if density.is_zero:
        return 0.0  # the MIT code leaves an empty map as it is: q = 0 everywhere
    # With p = P / P_sum, q = Q / Q_sum and c = P_sum / Q_sum this is
    # ln c + sum Q ln(Q / (P + eps P_sum) + eps / c) / Q_sum: dividing numbers instead of maps saves three passes.
    prediction_total = prediction.total or 1.0
    factor = prediction_total / density.total

    def divergence(p: np.ndarray, q: np.ndarray) -> float:
        ratio = q / (p + EPSILON * prediction_total)
        ratio += EPSILON / factor
        return float(q @ np.log(ratio, out=ratio))

    return sum_over_blocks(divergence, prediction, density) / density.total + math.log(factor)


def frame_kld_added(prediction: FrameMap, density: FrameMap) -> float:
    """Kullback-Leibler divergence after adding 1e-20 to both maps, in nats; pysaliency's default.

    As there, a map with negative values is raised until its lowest value is zero.
    """
    lifts = [min(frame.minimum, 0.0) for frame in (prediction, density)]
    totals = [
        (frame.total_above_minimum if lift else frame.total) + frame.size * ADDED_DENSITY
        for frame, lift in zip((prediction, density), lifts, strict=True)
    ]

    def divergence(p: np.ndarray, q: np.ndarray) -> float:
        # lifted first: beside a negative value 1e-20 would vanish
        q = (q - lifts[1]) + ADDED_DENSITY
        return float(q @ np.log(q / ((p - lifts[0]) + ADDED_DENSITY)))

    return sum_over_blocks(divergence, prediction, density) / totals[1] + math.log(totals[0] / totals[1])


def frame_ig(prediction: FrameMap, fixated: PixelCounts, baseline: FrameMap, *, normalize: Normalization) -> float:
    """Information gain over the baseline in bits per fixation.

    Raises:
        ValueError: negative values, for `normalize="sum"`.
    """
    if normalize == "sum":
        check_non_negative(prediction, "saliency_map")
        check_non_negative(baseline, "baseline")
        undefined = prediction.is_zero or baseline.is_zero
    else:
        undefined = prediction.is_constant or baseline.is_constant
    if undefined or not len(fixated):
        return math.nan
    gain = np.log2(EPSILON + _density_at(prediction, fixated.pixels, normalize))
    gain -= np.log2(EPSILON + _density_at(baseline, fixated.pixels, normalize))
    return float(np.average(gain, weights=fixated.counts))


def _density_at(frame: FrameMap, pixels: np.ndarray, normalize: Normalization) -> np.ndarray:
    if normalize == "sum":
        return frame.at(pixels) / frame.total
    return (frame.at(pixels) - frame.minimum) / frame.total_above_minimum


def check_non_negative(frame: FrameMap, name: str) -> None:
    """Raises ValueError if a map that is meant as a density has negative values."""
    if frame.minimum < 0.0:
        raise ValueError(f"{name} has negative values, down to {frame.minimum:g}: this score needs a density")


def auc_expected(ranks: RankCounts) -> float:
    """Expectation of AUC-Judd over all orders of equal values, negatives the unfixated pixels.

    Every negative lies at one step of the ROC curve. It adds the share of fixations above it, plus, because the
    curve is a trapezoid and not a staircase, half the share of the fixated pixel next below it. Both have closed-form
    expectations: among `m` fixated pixels of its own value a negative takes each of the `m + 1` places equally often.
    """
    num_fixations, num_negatives = ranks.fixations_at.sum(), ranks.num_pixels - ranks.num_fixated
    if not num_fixations or not num_negatives:
        return math.nan
    tied = ranks.pixels_at - ranks.fixated_at
    staircase = _staircase(ranks, tied)
    mean_count = ranks.fixations_at / ranks.fixated_at
    next_below = np.concatenate(([0.0], mean_count))  # of a negative in a gap
    slope = (ranks.pixels_between * next_below).sum()
    slope += (tied * (ranks.fixations_at + next_below[:-1]) / (ranks.fixated_at + 1)).sum()
    return float((staircase + slope / 2) / (num_fixations * num_negatives))


def auc_all_pixels(ranks: RankCounts) -> float:
    """Rank AUC of the fixations against all pixels, ties counted one half."""
    num_fixations = ranks.fixations_at.sum()
    if not num_fixations:
        return math.nan
    return float(_staircase(ranks, ranks.pixels_at) / (num_fixations * ranks.num_pixels))


def _staircase(ranks: RankCounts, tied: np.ndarray) -> float:
    """Number of (fixation, negative) pairs in which the fixation is higher, ties one half."""
    above = ranks.fixations_at.sum() - np.concatenate(([0.0], np.cumsum(ranks.fixations_at)))
    pairs = (ranks.pixels_between * above).sum() + (tied * (above[1:] + ranks.fixations_at / 2)).sum()
    return float(pairs)


def auc_per_fixation(ranks: RankCounts, *, num_negatives: int, extra: int = 0) -> float:
    """AUC-Judd on the values as they are: one threshold a fixation, the i-th with `(#{map >= t} - i) / negatives`.

    Args:
        ranks: rank counts.
        num_negatives: denominator of the false positive rate.
        extra: added to its numerator.
    """
    if not len(ranks.fixations_at) or not num_negatives:
        return math.nan
    at_or_above = np.repeat(ranks.at_or_above, ranks.fixations_at.astype(np.int64))[::-1]
    order = np.arange(1, len(at_or_above) + 1)
    return _roc_area(order / len(order), (at_or_above - order + extra) / num_negatives)


def auc_grouped(ranks: RankCounts, *, decimals: int | None = None) -> float:
    """AUC with one threshold for each distinct fixated value, negatives the unfixated pixels.

    Args:
        ranks: rank counts.
        decimals: rounds both coordinates of the ROC curve.
    """
    num_negatives = ranks.num_pixels - ranks.num_fixated
    if not len(ranks.fixations_at) or not num_negatives:
        return math.nan
    fixations = np.cumsum(ranks.fixations_at[::-1])
    negatives = ranks.at_or_above[::-1] - np.cumsum(ranks.fixated_at[::-1])
    true_rate, false_rate = fixations / fixations[-1], negatives / num_negatives
    if decimals is not None:
        true_rate, false_rate = true_rate.round(decimals), false_rate.round(decimals)
    return _roc_area(true_rate, false_rate)


def _roc_area(true_rate: np.ndarray, false_rate: np.ndarray) -> float:
    """Trapezoids below a curve that is continued to (0, 0) and (1, 1)."""
    true_rate, false_rate = (np.concatenate(([0.0], rate, [1.0])) for rate in (true_rate, false_rate))
    return float(np.trapezoid(true_rate, false_rate))


def auc_thresholds(prediction: FrameMap, positives: PixelCounts, negatives: PixelCounts) -> float:
    """Area under the ROC curve at the thresholds 1.0, 0.9 .. 0 of the map scaled to 0..1.

    Args:
        prediction: a map that is not constant.
        positives: its fixated pixels, at least one.
        negatives: pixels to compare with, at least one.
    """
    rates = [
        _reached(_threshold_places(prediction, prediction.at(pixels.pixels), pixels.counts))
        for pixels in (positives, negatives)
    ]
    return _roc_area(rates[0], rates[1])


def auc_thresholds_all(prediction: FrameMap, positives: PixelCounts) -> float:
    """As `auc_thresholds`, negatives all pixels of the map."""
    if prediction.histogram is not None:
        places = _threshold_places(prediction, np.arange(len(prediction.histogram)), prediction.histogram)
    else:
        blocks = (block.astype(np.float64, copy=False) for block in blocks_of(prediction.values))
        places = np.sum([_threshold_places(prediction, block) for block in blocks], axis=0)
    fixated = _threshold_places(prediction, prediction.at(positives.pixels), positives.counts)
    return _roc_area(_reached(fixated), _reached(places))


def _threshold_places(prediction: FrameMap, values: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
    """How many values, of the map's own scale, are not below exactly 0, 1 .. 11 of the thresholds."""
    spread = prediction.maximum - prediction.minimum
    thresholds = np.arange(11) * 0.1  # k * 0.1 in floating point, as MIT and the Python ports have it
    places = np.searchsorted(thresholds, (values - prediction.minimum) / spread, side="right")
    return np.bincount(places, weights=counts, minlength=len(thresholds) + 1)


def _reached(places: np.ndarray) -> np.ndarray:
    """Share of values at or above each threshold, the highest first."""
    shares: np.ndarray = np.cumsum(places[::-1])[:-1] / places.sum()
    return shares


def auc_rank(prediction: FrameMap, fixated: PixelCounts, others: PixelCounts) -> float:
    """Rank AUC of the values at fixations against those at other pixels, ties one half."""
    negatives = prediction.values[others.pixels]
    order = np.argsort(negatives)
    below = np.concatenate(([0.0], np.cumsum(others.counts[order])))
    positives, negatives = prediction.values[fixated.pixels], negatives[order]
    wins = below[np.searchsorted(negatives, positives)] + below[np.searchsorted(negatives, positives, side="right")]
    return float(np.average(wins / 2, weights=fixated.counts) / below[-1])
