# SPDX-License-Identifier: Apache-2.0
"""AUCs with sampled negatives, shuffled AUC and AUC-Borji: their exact limits by default, the draws on request."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from video_saliency.metrics.frame_maps import FrameMap
from video_saliency.metrics.frame_scores import auc_rank, auc_thresholds, auc_thresholds_all
from video_saliency.metrics.functional import maps_and_fixations
from video_saliency.metrics.metric_inputs import (
    Array,
    FixationMode,
    Fixations,
    PixelCounts,
    Random,
    Score,
    check_option,
    fixations_per_frame,
    pack_scores,
)


def sauc(
    saliency_map: Array,
    fixations: Fixations,
    other: Fixations,
    *,
    method: Literal["thresholds", "exact"] = "thresholds",
    splits: int | None = None,
    generator: Random | None = None,
    fixation_mode: FixationMode = "mask",
) -> Score:
    """Shuffled AUC: area under the ROC curve of the fixations against fixations made elsewhere, chance 0.5.

    The MIT code scales the map to 0..1, takes the thresholds 1.0, 0.9 .. 0, and averages 100 curves whose negatives
    are drawn from `other` without replacement. The expectation of that is one curve with all of `other`: the default.

    Args:
        saliency_map: predicted maps `(..., H, W)`, any real values.
        fixations: mask or points, as for `nss`.
        other: fixations of other frames or clips in the same form, on the same pixel grid; `OtherFixations` collects
            them by the rules of the published protocols.
        method: `"thresholds"` is the curve above; `"exact"` ranks the values themselves, ties one half (pysaliency,
            with `fixation_mode="list"`), which gives up to 0.2 more for peaky maps.
        splits: average that many draws instead of taking the limit (MIT: 100), for `"thresholds"` only.
        generator: source of the draws; without one they differ from call to call.
        fixation_mode: `"mask"` counts a pixel of `fixations` and of `other` once, `"list"` as often as it is listed.

    Returns:
        A float for a single map, an array of shape `(...)` for a batch; a float64 tensor if the map is a tensor.
        NaN where there are no fixations or no others, and for `"thresholds"` where the map is constant.

    Raises:
        ValueError: NaN or infinity, wrong shapes, points outside the map, unknown options.

    Example:
        >>> import numpy as np
        >>> sauc(np.array([[0.0, 0.4], [0.6, 1.0]]), [(1, 1)], [(0, 0), (0, 1)])
        1.0
    """
    check_option("method", method, ("thresholds", "exact"))
    check_splits(splits)
    if splits is not None and method == "exact":
        raise ValueError("splits are draws of the curve with thresholds: pass method='thresholds' or no splits")

    def score_frame(frame: FrameMap, fixated: PixelCounts, others: PixelCounts) -> float:
        if method == "exact":
            return frame_sauc_exact(frame, fixated, others)
        if splits is not None:
            draws = generator or np.random.default_rng()
            return frame_sauc_drawn(frame, fixated, others, splits=splits, generator=draws)
        return frame_sauc(frame, fixated, others)

    pairs = maps_and_fixations(saliency_map, fixations, fixation_mode)
    others = fixations_per_frame(other, tuple(saliency_map.shape), "other")
    return pack_scores(
        [
            score_frame(frame, fixated, negatives.in_mode(fixation_mode))
            for (frame, fixated), negatives in zip(pairs, others, strict=True)
        ],
        saliency_map,
    )


def auc_borji(
    saliency_map: Array, fixations: Fixations, *, splits: int | None = None, generator: Random | None = None
) -> Score:
    """AUC-Borji: as `sauc` with negatives drawn from all pixels, chance 0.5.

    Args:
        saliency_map: predicted maps `(..., H, W)`, any real values.
        fixations: mask or points, as for `nss`; a pixel counts once.
        splits: average that many draws of as many pixels as there are fixations (MIT: 100), instead of taking the
            limit of infinitely many, which is one curve with all pixels as negatives.
        generator: source of the draws; without one they differ from call to call.

    Returns:
        A float for a single map, an array of shape `(...)` for a batch; a float64 tensor if the map is a tensor.
        NaN where the map is constant or fewer than two pixels are fixated (as in the MIT code).

    Raises:
        ValueError: NaN or infinity, wrong shapes, points outside the map.

    Example:
        >>> import numpy as np
        >>> auc_borji(np.array([[0.0, 0.0], [1.0, 1.0]]), [(1, 0), (1, 1)])
        0.75
    """
    check_splits(splits)
    scores = []
    for frame, fixated in maps_and_fixations(saliency_map, fixations, "mask"):
        if splits is None:
            scores.append(frame_auc_borji(frame, fixated))
        else:
            draws = generator or np.random.default_rng()
            scores.append(frame_auc_borji_drawn(frame, fixated, splits=splits, generator=draws))
    return pack_scores(scores, saliency_map)


def check_splits(splits: int | None) -> None:
    """Raises ValueError if there is nothing to draw."""
    if splits is not None and splits < 1:
        raise ValueError(f"splits is {splits}: pass at least 1, or None for the limit of infinitely many")


def frame_sauc(prediction: FrameMap, fixated: PixelCounts, others: PixelCounts) -> float:
    """Shuffled AUC of one frame in the limit of infinitely many splits."""
    if not len(fixated) or not len(others) or prediction.is_constant:
        return math.nan
    return auc_thresholds(prediction, fixated, others)


def frame_sauc_exact(prediction: FrameMap, fixated: PixelCounts, others: PixelCounts) -> float:
    """Rank AUC of one frame against other fixations."""
    if not len(fixated) or not len(others):
        return math.nan
    return auc_rank(prediction, fixated, others)


def frame_sauc_drawn(
    prediction: FrameMap, fixated: PixelCounts, others: PixelCounts, *, splits: int, generator: Random
) -> float:
    """Mean of `splits` curves of one frame, each with as many other pixels as there are fixations, if there are."""
    if not len(fixated) or not len(others) or prediction.is_constant:
        return math.nan
    pixels = np.repeat(others.pixels, others.counts)
    num_drawn = min(int(fixated.counts.sum()), len(pixels))
    draws = (generator.permutation(pixels)[:num_drawn] for _ in range(splits))
    return float(np.mean([auc_thresholds(prediction, fixated, _each_once(drawn)) for drawn in draws]))


def _each_once(pixels: np.ndarray) -> PixelCounts:
    return PixelCounts(pixels, np.ones_like(pixels))


def frame_auc_borji(prediction: FrameMap, fixated: PixelCounts) -> float:
    """AUC-Borji of one frame in the limit of infinitely many splits."""
    if len(fixated) < 2 or prediction.is_constant:
        return math.nan
    return auc_thresholds_all(prediction, fixated)


def frame_auc_borji_drawn(prediction: FrameMap, fixated: PixelCounts, *, splits: int, generator: Random) -> float:
    """Mean of `splits` curves of one frame, each with as many pixels, drawn with replacement, as are fixated."""
    if len(fixated) < 2 or prediction.is_constant:
        return math.nan
    draw = generator.randint if isinstance(generator, np.random.RandomState) else generator.integers
    pixels = draw(0, prediction.size, (len(fixated), splits))
    return float(np.mean([auc_thresholds(prediction, fixated, _each_once(drawn)) for drawn in pixels.T]))
