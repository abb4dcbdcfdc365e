# SPDX-License-Identifier: Apache-2.0
"""Saliency metrics as pure functions: a map and a truth in, one score a frame out.

Definitions are those of the MIT saliency benchmark (Bylinskii et al., "What do different evaluation metrics tell us
about saliency models?", TPAMI 2019, and its public code), except that nothing here is random unless asked for: where
that code breaks ties by a random jitter, the default is the closed-form expectation over the jitter.

All functions take numpy arrays or torch tensors (of any device), single maps `(H, W)` or batches `(..., H, W)`, and
compute in float64 on the CPU. A frame for which a score has no meaning (no fixations, a constant map) scores NaN;
wrong input (NaN or infinity, other shapes, points outside the picture) is a `ValueError`. What the MIT code gives for
an empty truth or prediction, 0 for instance, is given here too: whoever averages over frames decides what such frames
count (`score_frame` and `ScoreAccumulator` do).
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from video_saliency.metrics.frame_maps import FrameMap, count_ranks
from video_saliency.metrics.frame_scores import (
    Normalization,
    auc_all_pixels,
    auc_expected,
    auc_grouped,
    auc_per_fixation,
    frame_cc,
    frame_ig,
    frame_kld,
    frame_kld_added,
    frame_nss,
    frame_sim,
)
from video_saliency.metrics.metric_inputs import (
    Array,
    FixationMode,
    Fixations,
    PixelCounts,
    Random,
    Score,
    check_option,
    check_same_shape,
    fixations_per_frame,
    frames_of,
    pack_scores,
    to_maps,
)

# Height of the uniform noise that the MIT code adds to the map, on the map's own scale, before it ranks pixels.
JITTER = 1e-7
FIXATION_MODES = ("mask", "list")
NORMALIZATIONS = ("minmax_sum", "sum")


def nss(saliency_map: Array, fixations: Fixations, *, ddof: int = 1, fixation_mode: FixationMode = "mask") -> Score:
    """Normalised scanpath saliency: mean over the fixations of the map in units of its standard deviation.

    Args:
        saliency_map: predicted maps `(..., H, W)`, any real values.
        fixations: a mask `(..., H, W)` (fixated where > 0), or (row, column) pixel pairs: `(N, 2)` for a single map,
            one such list a frame for a batch (nested like its leading dimensions).
        ddof: 1 divides the variance by the number of pixels minus one (MIT), 0 by the number of pixels.
        fixation_mode: `"mask"` counts a pixel once however often it was fixated, `"list"` as often as it is listed.

    Returns:
        A float for a single map, an array of shape `(...)` for a batch; a float64 tensor if the map is a tensor.
        NaN where the map is constant or no pixel is fixated.

    Raises:
        ValueError: NaN or infinity, wrong shapes, points outside the map, unknown options.

    Example:
        >>> import numpy as np
        >>> nss(np.array([[0.0, 0.0], [0.0, 1.0]]), [(1, 1)])
        1.5
    """
    if ddof not in (0, 1):
        raise ValueError(f"ddof is {ddof}: pass 1 (MIT) or 0")
    pairs = maps_and_fixations(saliency_map, fixations, fixation_mode)
    return pack_scores([frame_nss(frame, fixated, ddof=ddof) for frame, fixated in pairs], saliency_map)


def cc(saliency_map: Array, density: Array) -> Score:
    """Pearson's correlation of the map with the truth's density over all pixels, in [-1, 1].

    Args:
        saliency_map: predicted maps `(..., H, W)`, any real values.
        density: true densities of the same shape, any scale.

    Returns:
        A float for a single map, an array of shape `(...)` for a batch; a float64 tensor if the map is a tensor.
        NaN where either of the two is constant (also an all-zero truth).

    Raises:
        ValueError: NaN or infinity, or shapes that differ.

    Example:
        >>> import numpy as np
        >>> round(cc(np.array([[0.0, 1.0], [2.0, 3.0]]), np.array([[5.0, 4.0], [3.0, 2.0]])), 6)
        -1.0
    """
    pairs = maps_and_densities(saliency_map, density)
    return pack_scores([frame_cc(frame, truth) for frame, truth in pairs], saliency_map)


def sim(saliency_map: Array, density: Array, *, normalize: Normalization = "minmax_sum") -> Score:
    """Similarity: the histogram intersection of the two maps after normalising both, in [0, 1].

    Args:
        saliency_map: predicted maps `(..., H, W)`, any real values.
        density: true densities of the same shape, any scale.
        normalize: `"minmax_sum"` scales a map to 0..1 and then to sum 1 (MIT), `"sum"` only to sum 1 (pysaliency,
            UNISAL). They differ as soon as the lowest value is not 0; `"sum"` of a map with negative values has no
            bounds.

    Returns:
        A float for a single map, an array of shape `(...)` for a batch; a float64 tensor if the map is a tensor.
        For `"minmax_sum"` 0 where a map is all zero (the MIT code leaves it as it is) and NaN where one is constant
        otherwise; for `"sum"` NaN where one sums to 0.

    Raises:
        ValueError: NaN or infinity, shapes that differ, unknown options.

    Example:
        >>> import numpy as np
        >>> sim(np.array([[0.0, 1.0], [1.0, 2.0]]), np.array([[0.0, 1.0], [2.0, 1.0]]))
        0.75
    """
    check_option("normalize", normalize, NORMALIZATIONS)
    pairs = maps_and_densities(saliency_map, density)
    return pack_scores([frame_sim(frame, truth, normalize=normalize) for frame, truth in pairs], saliency_map)


def kld(saliency_map: Array, density: Array, *, mode: Literal["eps", "add"] = "eps") -> Score:
    """Kullback-Leibler divergence of the map from the truth's density in nats, 0 for equal maps.

    Do not score maps that were stored with 8 bits: their zeros decide the result.

    Args:
        saliency_map: predicted maps `(..., H, W)`, non-negative.
        density: true densities of the same shape, non-negative, any scale.
        mode: `"eps"` is `sum q ln(eps + q / (p + eps))` with eps = 2^-52 and both maps divided by their sums (MIT);
            `"add"` adds 1e-20 to both maps before that and no eps, and lifts a map with negative values to 0
            (pysaliency's default).

    Returns:
        A float for a single map, an array of shape `(...)` for a batch; a float64 tensor if the map is a tensor.
        For `"eps"` 0 where the truth is all zero, and about 30 where the prediction is, as in the MIT code.

    Raises:
        ValueError: NaN or infinity, shapes that differ, unknown options, negative values for `"eps"`.

    Example:
        >>> import numpy as np
        >>> round(kld(np.array([[1.0, 1.0]]), np.array([[0.0, 1.0]])), 6)
        0.693147
    """
    check_option("mode", mode, ("eps", "add"))
    score_frame = frame_kld if mode == "eps" else frame_kld_added
    pairs = maps_and_densities(saliency_map, density)
    return pack_scores([score_frame(frame, truth) for frame, truth in pairs], saliency_map)


def ig(
    saliency_map: Array,
    fixations: Fixations,
    baseline: Array,
    *,
    normalize: Normalization = "minmax_sum",
    fixation_mode: FixationMode = "mask",
) -> Score:
    """Information gain of the map over a baseline map at the fixations, in bits per fixation.

    Args:
        saliency_map: predicted maps `(..., H, W)`.
        fixations: mask or points, as for `nss`.
        baseline: maps of the same shape, such as the fixations of other frames, blurred (a centre bias).
        normalize: `"minmax_sum"` scales both maps to 0..1 and then to sum 1 (MIT); `"sum"` takes them as densities,
            which is what published information gains mean, and refuses negative values. Both add 2^-52 in the
            logarithm.
        fixation_mode: `"mask"` counts a pixel once however often it was fixated, `"list"` as often as it is listed.

    Returns:
        A float for a single map, an array of shape `(...)` for a batch; a float64 tensor if the map is a tensor.
        NaN where no pixel is fixated, or a map is constant (`"minmax_sum"`) or all zero (`"sum"`).

    Raises:
        ValueError: NaN or infinity, wrong shapes, points outside the map, unknown options, negative densities.

    Example:
        >>> import numpy as np
        >>> round(ig(np.array([[1.0, 3.0]]), [(0, 1)], np.array([[1.0, 1.0]]), normalize="sum"), 6)
        0.584963
    """
    check_option("normalize", normalize, NORMALIZATIONS)
    pairs = maps_and_fixations(saliency_map, fixations, fixation_mode)
    baselines = to_maps(baseline, "baseline")
    if tuple(baselines.shape) != tuple(saliency_map.shape):
        raise ValueError(
            f"baseline has shape {baselines.shape}, saliency_map {tuple(saliency_map.shape)}: resize it first"
        )
    return pack_scores(
        [
            frame_ig(frame, fixated, FrameMap(base), normalize=normalize)
            for (frame, fixated), base in zip(pairs, frames_of(baselines), strict=True)
        ],
        saliency_map,
    )


def auc_judd(
    saliency_map: Array,
    fixations: Fixations,
    *,
    fixation_mode: FixationMode = "mask",
    ties: Literal["expected", "none", "jitter", "grouped"] = "expected",
    negatives: Literal["unfixated", "all"] = "unfixated",
    generator: Random | None = None,
) -> Score:
    """Area under the ROC curve whose thresholds are the map's values at the fixations (AUC-Judd).

    The curve of the MIT code: for the i-th of N fixated pixels in descending order of value `t`, the true positive
    rate is `i / N` and the false positive rate `(#{map >= t} - i) / (P - N)`, P the number of pixels; joined by
    straight lines with (0, 0) and (1, 1). Chance is `0.5 + 1 / (2 (N + 1))`, so compare frames with few fixations only
    under the same protocol.

    Args:
        saliency_map: predicted maps `(..., H, W)`, any real values; only their order matters; 8-bit is fastest.
        fixations: mask or points, as for `nss`.
        fixation_mode: `"mask"` counts a pixel once however often it was fixated, `"list"` as often as it is listed.
        ties: `"expected"` gives the expectation over the order of equal values, in closed form; `"jitter"` draws one
            order as the MIT code does (uniform noise of 1e-7 on the map's scale); `"none"` ranks the raw values, which
            pulls the curve back at ties (then a constant map has no score); `"grouped"` has one threshold for each
            distinct value, so that a straight line joins tied pixels (pysaliency's `AUC_Judd` with a list).
        negatives: `"unfixated"` pixels (MIT), or `"all"` pixels: the plain rank AUC with ties counted one half
            (pysaliency's `AUC` with a list), for `ties="expected"` only.
        generator: source of the noise for `ties="jitter"`; without one the noise differs from call to call.

    Returns:
        A float for a single map, an array of shape `(...)` for a batch; a float64 tensor if the map is a tensor.
        NaN where no pixel, or every pixel, is fixated.

    Raises:
        ValueError: NaN or infinity, wrong shapes, points outside the map, unknown options.

    Example:
        >>> import numpy as np
        >>> auc_judd(np.array([[0.1, 0.2], [0.3, 0.4]]), [(1, 1)])
        1.0
    """
    check_option("ties", ties, ("expected", "none", "jitter", "grouped"))
    check_option("negatives", negatives, ("unfixated", "all"))
    if negatives == "all" and ties != "expected":
        raise ValueError(f"negatives='all' is the rank AUC, which has no ties={ties!r}: pass ties='expected'")

    def score_frame(frame: FrameMap, fixated: PixelCounts) -> float:
        if ties == "none":
            # the MIT code cannot scale a constant map
            num_negatives = 0 if frame.is_constant else frame.size - len(fixated)
            return auc_per_fixation(count_ranks(frame, fixated), num_negatives=num_negatives)
        if ties == "jitter":
            noise = generator or np.random.default_rng()
            frame = FrameMap((frame.values + JITTER * noise.random(frame.size)).reshape(frame.shape))
        ranks = count_ranks(frame, fixated)
        if negatives == "all":
            return auc_all_pixels(ranks)
        return auc_grouped(ranks) if ties == "grouped" else auc_expected(ranks)

    pairs = maps_and_fixations(saliency_map, fixations, fixation_mode)
    return pack_scores([score_frame(frame, fixated) for frame, fixated in pairs], saliency_map)


def maps_and_fixations(
    saliency_map: Array, fixations: Fixations, fixation_mode: FixationMode
) -> list[tuple[FrameMap, PixelCounts]]:
    """Every frame with its fixated pixels, counted as `fixation_mode` says; checks both."""
    check_option("fixation_mode", fixation_mode, FIXATION_MODES)
    prediction = to_maps(saliency_map, "saliency_map")
    fixated = [pixels.in_mode(fixation_mode) for pixels in fixations_per_frame(fixations, prediction.shape)]
    return list(zip(map(FrameMap, frames_of(prediction)), fixated, strict=True))


def maps_and_densities(saliency_map: Array, density: Array) -> list[tuple[FrameMap, FrameMap]]:
    """Every frame with its true density; checks both."""
    prediction, truth = to_maps(saliency_map, "saliency_map"), to_maps(density, "density")
    check_same_shape(prediction, truth, "density")
    return list(zip(map(FrameMap, frames_of(prediction)), map(FrameMap, frames_of(truth)), strict=True))
