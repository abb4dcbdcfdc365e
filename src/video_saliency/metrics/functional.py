# SPDX-License-Identifier: Apache-2.0
"""Saliency metrics as pure functions: a map and a truth in, one score a frame out.

Definitions are those of the MIT saliency benchmark (Bylinskii et al., "What do different evaluation metrics tell us
about saliency models?", TPAMI 2019, and its public code), except that nothing here is random unless asked for: where
that code breaks ties by a random jitter, the default is the closed-form expectation over the jitter.

All functions take numpy arrays or torch tensors, single maps `(H, W)` or batches `(..., H, W)`, and compute in float64
on the CPU. A frame for which a score has no meaning (no fixations, a constant map) scores NaN; wrong input (NaN or
infinity, other shapes, points outside the picture) is a `ValueError`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch

Array = np.ndarray | torch.Tensor
Score = float | np.ndarray | torch.Tensor
Fixations = Array | Sequence[Any]

# Height of the uniform noise that the MIT code adds to the map, on the map's own scale, before it ranks pixels.
JITTER = 1e-7


def nss(
    saliency_map: Array, fixations: Fixations, *, ddof: int = 1, fixation_mode: Literal["mask", "list"] = "mask"
) -> Score:
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
    _check_option("fixation_mode", fixation_mode, ("mask", "list"))

    def score_frame(frame: np.ndarray, points: np.ndarray) -> float:
        pixels, counts = _fixated_pixels(points, frame.shape, fixation_mode)
        if not len(pixels) or _is_constant(frame):
            return math.nan
        centred = _centre(frame)
        deviation = math.sqrt((centred**2).sum() / (frame.size - ddof))
        return float(np.average(centred.ravel()[pixels], weights=counts)) / deviation

    return _score_against_fixations(score_frame, saliency_map, fixations)


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
    prediction, truth = _to_float64(saliency_map, "saliency_map"), _to_float64(density, "density")
    _check_same_shape(prediction, truth, "density")
    scores = []
    for frame, true_frame in zip(_frames(prediction), _frames(truth), strict=True):
        if _is_constant(frame) or _is_constant(true_frame):
            scores.append(math.nan)
            continue
        centred, true_centred = _centre(frame), _centre(true_frame)
        scores.append(float((centred * true_centred).sum() / math.sqrt((centred**2).sum() * (true_centred**2).sum())))
    return _pack(scores, saliency_map)


def auc_judd(
    saliency_map: Array,
    fixations: Fixations,
    *,
    fixation_mode: Literal["mask", "list"] = "mask",
    ties: Literal["expected", "none", "jitter"] = "expected",
    negatives: Literal["unfixated", "all"] = "unfixated",
    generator: np.random.Generator | None = None,
) -> Score:
    """Area under the ROC curve whose thresholds are the map's values at the fixations (AUC-Judd).

    The curve of the MIT code: for the i-th of N fixated pixels in descending order of value `t`, the true positive
    rate is `i / N` and the false positive rate `(#{map >= t} - i) / (P - N)`, P the number of pixels; joined by
    straight lines with (0, 0) and (1, 1). Chance is `0.5 + 1 / (2 (N + 1))`, so compare frames with few fixations only
    under the same protocol.

    Args:
        saliency_map: predicted maps `(..., H, W)`, any real values; only their order matters.
        fixations: mask or points, as for `nss`.
        fixation_mode: `"mask"` counts a pixel once however often it was fixated, `"list"` as often as it is listed.
        ties: `"expected"` gives the expectation over the order of equal values, in closed form; `"jitter"` draws one
            order as the MIT code does (uniform noise of 1e-7 on the map's scale); `"none"` ranks the raw values, which
            pulls the curve back at ties (then a constant map has no score).
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
    _check_option("fixation_mode", fixation_mode, ("mask", "list"))
    _check_option("ties", ties, ("expected", "none", "jitter"))
    _check_option("negatives", negatives, ("unfixated", "all"))
    if negatives == "all" and ties != "expected":
        raise ValueError(f"negatives='all' is the rank AUC, which has no ties={ties!r}: pass ties='expected'")
    noise = generator if generator is not None else np.random.default_rng()

    def score_frame(frame: np.ndarray, points: np.ndarray) -> float:
        pixels, counts = _fixated_pixels(points, frame.shape, fixation_mode)
        if not len(pixels) or (negatives == "unfixated" and len(pixels) == frame.size):
            return math.nan
        if ties == "none":
            return _auc_raw(frame.ravel(), pixels, counts)
        if ties == "jitter":
            frame = frame + JITTER * noise.random(frame.shape)
        return _auc_expected(frame.ravel(), pixels, counts, negatives=negatives)

    return _score_against_fixations(score_frame, saliency_map, fixations)


def _auc_expected(values: np.ndarray, pixels: np.ndarray, counts: np.ndarray, *, negatives: str) -> float:
    """Expectation of AUC-Judd over all orders of equal values; `O(P log N)`, no sorting of the map.

    Every negative lies at one step of the ROC curve. It adds the share of fixations above it, plus, because the
    curve is a trapezoid and not a staircase, half the share of the fixated pixel next below it. Both have closed-form
    expectations: among `m` fixated pixels of its own value a negative takes each of the `m + 1` places equally often.
    """
    fixated = values[pixels]
    levels, level_of_pixel = np.unique(fixated, return_inverse=True)
    pixels_at = np.bincount(level_of_pixel)
    fixations_at = np.bincount(level_of_pixel, weights=counts)

    # Place k of the 2 * len(levels) + 1: 2 j + 1 is level j itself, 2 j the gap below it.
    gap = np.searchsorted(levels, values)
    is_level = np.append(levels, np.nan)[gap] == values
    negatives_at = np.bincount(2 * gap + is_level, minlength=2 * len(levels) + 1)
    if negatives == "unfixated":
        negatives_at[1::2] -= pixels_at
    gaps, tied = negatives_at[0::2], negatives_at[1::2]  # (levels + 1), (levels)

    num_fixations, num_negatives = fixations_at.sum(), negatives_at.sum()
    above_gap = num_fixations - np.concatenate(([0.0], np.cumsum(fixations_at)))
    staircase = (gaps * above_gap).sum() + (tied * (above_gap[1:] + fixations_at / 2)).sum()
    if negatives == "all":
        return float(staircase / (num_fixations * num_negatives))

    mean_count = fixations_at / pixels_at
    next_below = np.concatenate(([0.0], mean_count))  # of a negative in gap j
    slope = (gaps * next_below).sum() + (tied * (fixations_at + next_below[:-1]) / (pixels_at + 1)).sum()
    return float((staircase + slope / 2) / (num_fixations * num_negatives))


def _auc_raw(values: np.ndarray, pixels: np.ndarray, counts: np.ndarray) -> float:
    """The MIT curve on the values as they are; NaN for a constant map, whose min-max scaling that code cannot do."""
    if _is_constant(values):
        return math.nan
    thresholds = np.sort(np.repeat(values[pixels], counts))[::-1]
    # Pixels at or above each threshold, counted without sorting the map: where would each pixel stand among them?
    places = np.searchsorted(thresholds[::-1], values, side="right")
    at_or_above = values.size - np.cumsum(np.bincount(places, minlength=len(thresholds) + 1))[:-1][::-1]
    ranks = np.arange(1, len(thresholds) + 1)
    true_rate = np.concatenate(([0.0], ranks / len(thresholds), [1.0]))
    false_rate = np.concatenate(([0.0], (at_or_above - ranks) / (values.size - len(pixels)), [1.0]))
    return float(np.trapezoid(true_rate, false_rate))


def _score_against_fixations(
    score_frame: Callable[[np.ndarray, np.ndarray], float], saliency_map: Array, fixations: Fixations
) -> Score:
    prediction = _to_float64(saliency_map, "saliency_map")
    points = _points_per_frame(fixations, prediction.shape)
    return _pack([score_frame(f, p) for f, p in zip(_frames(prediction), points, strict=True)], saliency_map)


def _check_option(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}: pass one of {', '.join(map(repr, allowed))}")


def _to_float64(array: Array, name: str) -> np.ndarray:
    """`(..., H, W)` in float64 on the CPU, all finite."""
    if isinstance(array, torch.Tensor):
        array = array.detach().cpu()
        array = array.double().numpy() if not array.is_complex() else array.numpy()
    array = np.asarray(array)
    if array.dtype.kind not in "buif":
        raise ValueError(f"{name} has values of type {array.dtype}: pass real numbers")
    if array.ndim < 2 or array.size == 0:
        raise ValueError(f"{name} has shape {array.shape}: pass one map (H, W) or a batch (..., H, W), not empty")
    array = array.astype(np.float64, copy=False)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds NaN or infinity: find out why before scoring (np.nan_to_num would hide it)")
    return array


def _check_same_shape(prediction: np.ndarray, other: np.ndarray, name: str) -> None:
    if other.shape != prediction.shape:
        raise ValueError(
            f"{name} has shape {other.shape}, saliency_map {prediction.shape}: "
            "resize the prediction to the size of the truth first"
        )


def _frames(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1, *array.shape[-2:])


def _is_constant(array: np.ndarray) -> bool:
    # Compared by value: the standard deviation of a constant is not exactly zero in floating point.
    return bool(array.min() == array.max())


def _centre(frame: np.ndarray) -> np.ndarray:
    """Mean 0 and largest magnitude 1: the squares of tiny or huge values would leave float64's range."""
    centred: np.ndarray = frame - frame.mean()
    centred /= np.abs(centred).max()
    return centred


def _pack(scores: list[float], saliency_map: Array) -> Score:
    leading_shape = tuple(saliency_map.shape[:-2])
    if isinstance(saliency_map, torch.Tensor):
        return torch.tensor(scores, dtype=torch.float64).reshape(leading_shape)
    return np.array(scores).reshape(leading_shape) if leading_shape else scores[0]


def _points_per_frame(fixations: Fixations, map_shape: tuple[int, ...]) -> list[np.ndarray]:
    """One `(N, 2)` int64 array of (row, column) for each frame, from a mask or from lists."""
    # Points may come as an array too: `(..., N, 2)`. One of exactly the map's shape is taken as a mask.
    if isinstance(fixations, np.ndarray | torch.Tensor) and (
        tuple(fixations.shape) == map_shape or tuple(fixations.shape[-1:]) != (2,)
    ):
        if tuple(fixations.shape) != map_shape:
            raise ValueError(
                f"fixation mask has shape {tuple(fixations.shape)}, saliency_map {map_shape}: "
                "pass a mask of the map's shape or a list of (row, column) pairs for each frame"
            )
        return [np.argwhere(frame > 0) for frame in _frames(_to_float64(fixations, "fixations"))]
    lists: list[Any] = [fixations]
    for length in map_shape[:-2]:
        if any(not hasattr(entry, "__len__") or len(entry) != length for entry in lists):
            raise ValueError(
                f"saliency_map has leading shape {map_shape[:-2]}, fixations are nested otherwise: pass one list of "
                "(row, column) pairs for each frame"
            )
        lists = [inner for entry in lists for inner in entry]
    return [_checked_points(entry, map_shape[-2:]) for entry in lists]


def _checked_points(points: Any, size: tuple[int, ...]) -> np.ndarray:
    try:
        array = np.asarray(points.detach().cpu() if isinstance(points, torch.Tensor) else points, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError("fixations of a frame must be (row, column) pairs of numbers") from error
    if array.size == 0:
        return np.zeros((0, 2), dtype=np.int64)
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(f"fixations of a frame have shape {array.shape}: pass (row, column) pairs, shape (N, 2)")
    if not np.isfinite(array).all() or (array != np.floor(array)).any():
        raise ValueError("fixations must be whole pixels (row, column): round coordinates down first")
    if (array < 0).any() or (array >= np.array(size)).any():
        raise ValueError(
            f"a fixation lies outside the map of {size[0]} rows and {size[1]} columns: drop it, and check that points "
            "are (row, column) and scaled to the map"
        )
    return array.astype(np.int64)


def _fixated_pixels(points: np.ndarray, size: tuple[int, ...], mode: str) -> tuple[np.ndarray, np.ndarray]:
    """Flat indices of the distinct fixated pixels and how often each one counts."""
    pixels, counts = np.unique(points[:, 0] * size[1] + points[:, 1], return_counts=True)
    return pixels, counts if mode == "list" else np.ones_like(counts)
