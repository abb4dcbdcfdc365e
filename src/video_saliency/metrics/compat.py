# SPDX-License-Identifier: Apache-2.0
"""Scores as particular published scorers compute them, quirks included, to be compared with their tables only.

The AViMoS challenge scorers (ECCV 2024 and NTIRE 2026) read a map as `(x - min) / (max - min + 2^-23)`, add 1e-7 to
denominators, and divide false positives by the number of pixels less two. ViNet and UNISAL each have their own
AUC-Judd. The formulas were read in their code and are written anew here.
"""

from __future__ import annotations

import math

import numpy as np

from video_saliency.metrics.frame_maps import FrameMap, RankCounts, count_ranks
from video_saliency.metrics.frame_scores import auc_grouped, auc_per_fixation, sum_of_minima, sum_of_products
from video_saliency.metrics.functional import maps_and_densities, maps_and_fixations
from video_saliency.metrics.metric_inputs import (
    Array,
    Fixations,
    PixelCounts,
    Score,
    pack_scores,
    to_maps,
)

# What the challenge scorers add to the range of a map when they read it, and to denominators.
READING_EPSILON = 2.0**-23
CHALLENGE_EPSILON = 1e-7


def read_challenge_map(image: Array) -> np.ndarray:
    """Maps `(..., H, W)` in float64, scaled to 0..1 as the challenge scorers do when they read a picture.

    Args:
        image: maps `(..., H, W)` of any numbers; of a colour picture pass the mean of its channels.

    Raises:
        ValueError: NaN or infinity, wrong shapes.
    """
    maps = to_maps(image, "image").astype(np.float64, copy=False)
    lowest = maps.min(axis=(-2, -1), keepdims=True)
    read: np.ndarray = (maps - lowest) / (maps.max(axis=(-2, -1), keepdims=True) - lowest + READING_EPSILON)
    return read


def nss_challenge(saliency_map: Array, fixations: Fixations) -> Score:
    """NSS of the AViMoS challenge scorers: list of fixations, `ddof` 0, deviation + 1e-7; 0 for a constant map.

    Args and return value are those of `nss`.

    Raises:
        ValueError: as `nss`, and for a frame without fixations, where the scorers stop.
    """
    pairs = maps_and_fixations(read_challenge_map(saliency_map), fixations, "list")
    return pack_scores([_defined(frame_nss_challenge(frame, fixated)) for frame, fixated in pairs], saliency_map)


def cc_challenge(saliency_map: Array, density: Array) -> Score:
    """CC of the AViMoS challenge scorers: 0 where a map is constant. Args and return value are those of `cc`."""
    pairs = maps_and_densities(read_challenge_map(saliency_map), read_challenge_map(density))
    return pack_scores([frame_cc_challenge(frame, truth) for frame, truth in pairs], saliency_map)


def sim_challenge(saliency_map: Array, density: Array) -> Score:
    """SIM of the AViMoS challenge scorers: sums + 1e-7. Args and return value are those of `sim`."""
    pairs = maps_and_densities(read_challenge_map(saliency_map), read_challenge_map(density))
    return pack_scores([frame_sim_challenge(frame, truth) for frame, truth in pairs], saliency_map)


def auc_judd_challenge(saliency_map: Array, fixations: Fixations) -> Score:
    """AUC-Judd of the AViMoS challenge scorers: list with duplicates, raw values, denominator pixels - 2.

    Their code counts unique fixations along the wrong axis, so that it subtracts 2, or 1 if every fixation has equal
    row and column, where it means to subtract the number of fixated pixels. Args and return value are those of
    `auc_judd`.

    Raises:
        ValueError: as `auc_judd`, and for a frame without fixations, where the scorers stop.
    """
    pairs = maps_and_fixations(read_challenge_map(saliency_map), fixations, "list")
    scores = [
        _defined(frame_auc_judd_challenge(frame, fixated, count_ranks(frame, fixated))) for frame, fixated in pairs
    ]
    return pack_scores(scores, saliency_map)


def auc_judd_vinet(saliency_map: Array, fixations: Fixations) -> Score:
    """AUC-Judd of the Python code of ViNet and TMFI-Net, its jitter off: one false positive too many per threshold.

    Args and return value are those of `auc_judd`; NaN for a constant map.
    """
    pairs = maps_and_fixations(saliency_map, fixations, "mask")
    return pack_scores(
        [frame_auc_judd_vinet(frame, count_ranks(frame, fixated)) for frame, fixated in pairs], saliency_map
    )


def auc_judd_unisal(saliency_map: Array, fixations: Fixations, *, decimals: int | None = 4) -> Score:
    """AUC-Judd of UNISAL's code: one threshold for each distinct value, coordinates of the curve rounded.

    Args:
        saliency_map: predicted maps `(..., H, W)`, any real values.
        fixations: mask or points, as for `nss`; a pixel counts once.
        decimals: of the coordinates; None leaves them as they are.

    Returns:
        As `auc_judd`.

    Raises:
        ValueError: as `auc_judd`, and for a constant map or a frame without fixations, where that code stops.
    """
    pairs = maps_and_fixations(saliency_map, fixations, "mask")
    scores = [
        _defined(frame_auc_judd_unisal(frame, count_ranks(frame, fixated), decimals=decimals))
        for frame, fixated in pairs
    ]
    return pack_scores(scores, saliency_map)


def _defined(score: float) -> float:
    if math.isnan(score):
        raise ValueError(
            "a frame has no fixations (or, for UNISAL's AUC, a constant map), where the original scorer stops: leave "
            "such frames out, or use the function without the scorer's name, which scores them NaN"
        )
    return score


def frame_nss_challenge(prediction: FrameMap, fixated: PixelCounts) -> float:
    """NSS of a frame that was read by `read_challenge_map`; NaN without fixations."""
    if not len(fixated):
        return math.nan
    deviation = math.sqrt(prediction.sum_of_squares / prediction.size) * prediction.scale
    at_fixations = float(np.average(prediction.at(fixated.pixels), weights=fixated.counts))
    return (at_fixations - prediction.mean) / (deviation + CHALLENGE_EPSILON)


def frame_cc_challenge(prediction: FrameMap, density: FrameMap) -> float:
    """CC of frames that were read by `read_challenge_map`."""
    if prediction.is_constant or density.is_constant:
        return 0.0
    return sum_of_products(prediction, density) / math.sqrt(prediction.sum_of_squares * density.sum_of_squares)


def frame_sim_challenge(prediction: FrameMap, density: FrameMap) -> float:
    """SIM of frames that were read by `read_challenge_map`."""
    first, second = ((frame, 0.0, frame.total + CHALLENGE_EPSILON) for frame in (prediction, density))
    return sum_of_minima(first, second)


def frame_auc_judd_challenge(prediction: FrameMap, fixated: PixelCounts, ranks: RankCounts) -> float:
    """AUC-Judd of a frame with listed fixations; NaN without any."""
    rows, columns = np.divmod(fixated.pixels, prediction.shape[1])
    subtracted = 1 if (rows == columns).all() else 2
    return auc_per_fixation(ranks, num_negatives=ranks.num_pixels - subtracted)


def frame_auc_judd_vinet(prediction: FrameMap, ranks: RankCounts) -> float:
    """ViNet's AUC-Judd of a frame; NaN without fixations or for a constant map."""
    num_negatives = 0 if prediction.is_constant else ranks.num_pixels - ranks.num_fixated
    return auc_per_fixation(ranks, num_negatives=num_negatives, extra=1)


def frame_auc_judd_unisal(prediction: FrameMap, ranks: RankCounts, *, decimals: int | None = 4) -> float:
    """UNISAL's AUC-Judd of a frame; NaN without fixations or for a constant map."""
    return math.nan if prediction.is_constant else auc_grouped(ranks, decimals=decimals)
