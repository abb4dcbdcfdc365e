# SPDX-License-Identifier: Apache-2.0
"""Maps brought to another size, blurred and quantised as the published scorers do, in float64."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import numpy as np

from video_saliency.metrics.metric_inputs import Array, check_option, to_maps

Resize = Literal["bicubic", "bilinear"]
Quantize = Literal["uint8_round", "uint8_trunc"]

BLUR_RADIUS = 5  # an 11 x 11 kernel, as in the ViNet and TMFI-Net code


def resize_map(saliency_map: Array, size: tuple[int, int], *, method: Resize = "bicubic") -> np.ndarray:
    """Maps `(..., H, W)` resized to `size` (height, width), float64.

    Args:
        saliency_map: maps `(..., H, W)`.
        size: height and width wanted.
        method: `"bicubic"` is MATLAB's `imresize`: kernel with a = -0.5, half-pixel centres, the kernel stretched when
            shrinking, borders mirrored; it can leave the range of the values a little. `"bilinear"` is OpenCV's and
            torch's without antialiasing.

    Raises:
        ValueError: NaN or infinity, wrong shapes, no positive size, unknown method.

    Example:
        >>> import numpy as np
        >>> resize_map(np.array([[0.0, 1.0]]), (1, 4), method="bilinear")
        array([[0.  , 0.25, 0.75, 1.  ]])
    """
    check_option("method", method, ("bicubic", "bilinear"))
    maps = to_maps(saliency_map, "saliency_map").astype(np.float64, copy=False)
    height, width = size
    if height < 1 or width < 1:
        raise ValueError(f"size is {size}: pass a positive height and width")
    along = _bicubic_along if method == "bicubic" else _bilinear_along
    # columns first: the intermediate map is the smaller one when enlarging, and this is OpenCV's order
    return along(along(maps, -1, width), -2, height)


# Both are sums in a fixed order, not matrix products: 8-bit maps have many pixels that become almost equal when
# enlarged, so that the last bit decides which of them ties, and an AUC follows in its fourth decimal.


def _bilinear_along(maps: np.ndarray, axis: int, new_length: int) -> np.ndarray:
    length = maps.shape[axis]
    if length == new_length:
        return maps
    centres = (np.arange(new_length) + 0.5) * (length / new_length) - 0.5
    lower = np.floor(centres).astype(np.int64)
    start, end = (maps.take(index.clip(0, length - 1), axis=axis) for index in (lower, lower + 1))
    # written as OpenCV computes it for float64
    end -= start
    end *= _shaped(centres - lower, axis)
    resized: np.ndarray = end + start
    return resized


def _bicubic_along(maps: np.ndarray, axis: int, new_length: int) -> np.ndarray:
    length = maps.shape[axis]
    if length == new_length:
        return maps
    indices, weights = _bicubic_taps(length, new_length)
    resized: np.ndarray = maps.take(indices[0], axis=axis) * _shaped(weights[0], axis)
    for index, weight in zip(indices[1:], weights[1:], strict=True):
        resized += maps.take(index, axis=axis) * _shaped(weight, axis)
    return resized


def _shaped(weights: np.ndarray, axis: int) -> np.ndarray:
    shaped: np.ndarray = weights[:, None] if axis == -2 else weights
    return shaped


@lru_cache(maxsize=32)
def _bicubic_taps(length: int, new_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Old pixels and their weights for each new pixel of one axis, both `(taps, new_length)`."""
    scale = new_length / length
    stretch = min(scale, 1.0)
    centres = (np.arange(new_length) + 0.5) / scale - 0.5
    support = 2.0 / stretch
    taps = np.floor(centres - support).astype(np.int64) + np.arange(math.ceil(2 * support) + 2)[:, None]
    weights = _cubic(stretch * (centres - taps))
    weights /= weights.sum(axis=0)
    # Mirrored at the border with the border pixel itself repeated: 1 0 | 0 1 2
    folded = np.mod(taps, 2 * length)
    folded = np.where(folded < length, folded, 2 * length - 1 - folded)
    used = weights.any(axis=1)
    return folded[used], weights[used]


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' kernel with a = -0.5."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x**2 + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return np.where(x <= 1.0, near, np.where(x <= 2.0, far, 0.0))


def gaussian_blur(saliency_map: Array, sigma: float) -> np.ndarray:
    """Maps `(..., H, W)` blurred by an 11 x 11 Gaussian of `sigma` pixels, float64.

    The border is mirrored without repeating the border pixel, which is OpenCV's default.

    Raises:
        ValueError: NaN or infinity, wrong shapes, `sigma` not positive, a map smaller than 6 pixels.
    """
    maps = to_maps(saliency_map, "saliency_map").astype(np.float64, copy=False)
    if sigma <= 0.0:
        raise ValueError(f"sigma is {sigma}: pass a positive number of pixels")
    if min(maps.shape[-2:]) <= BLUR_RADIUS:
        raise ValueError(f"a map of {maps.shape[-2:]} pixels is too small for the blur: resize it first")
    offsets = np.arange(-BLUR_RADIUS, BLUR_RADIUS + 1)
    kernel = np.exp(-(offsets**2) / (2.0 * sigma**2))
    kernel /= kernel.sum()
    for axis in (-2, -1):
        length = maps.shape[axis]
        padding = [(0, 0)] * maps.ndim
        padding[axis] = (BLUR_RADIUS, BLUR_RADIUS)
        padded = np.moveaxis(np.pad(maps, padding, mode="reflect"), axis, 0)
        blurred = sum(weight * padded[start : start + length] for start, weight in enumerate(kernel))
        maps = np.moveaxis(np.asarray(blurred), 0, axis)
    return maps


def quantize_map(saliency_map: Array, *, rule: Quantize = "uint8_round") -> np.ndarray:
    """Maps `(..., H, W)` as uint8, as if stored in a picture: each scaled to 0..255 and rounded or cut off.

    A map that is uint8 already was stored and stays as it is; a constant map becomes zero.

    Raises:
        ValueError: NaN or infinity, wrong shapes, unknown rule.

    Example:
        >>> import numpy as np
        >>> quantize_map(np.array([[0.0, 0.5, 1.0]]))
        array([[  0, 128, 255]], dtype=uint8)
    """
    check_option("rule", rule, ("uint8_round", "uint8_trunc"))
    maps = to_maps(saliency_map, "saliency_map")
    if maps.dtype == np.uint8:
        return maps
    maps = maps.astype(np.float64, copy=False)
    lowest = maps.min(axis=(-2, -1), keepdims=True)
    spread = maps.max(axis=(-2, -1), keepdims=True) - lowest
    scaled = 255.0 * ((maps - lowest) / np.where(spread > 0.0, spread, 1.0))
    # halves are rounded up, as MATLAB does
    levels: np.ndarray = np.floor(scaled + 0.5 if rule == "uint8_round" else scaled).astype(np.uint8)
    return levels
