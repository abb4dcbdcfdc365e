# SPDX-License-Identifier: Apache-2.0
"""Resizing against reference arrays and torch, blurring, quantising."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from metric_golden import load_arrays

from video_saliency.metrics.resizing import gaussian_blur, quantize_map, resize_map


@pytest.mark.parametrize("method", ["bicubic", "bilinear"])
def test_golden(method: str) -> None:
    pred, expected = load_arrays("resize/pred_28x48", f"resize/{method}_90x160")
    resized = resize_map(pred, (90, 160), method=method)
    assert resized.dtype == np.float64
    np.testing.assert_allclose(resized, expected, rtol=0.0, atol=1e-14)
    batch = resize_map(torch.from_numpy(np.stack([pred, 2.0 * pred])), (90, 160), method=method)
    np.testing.assert_array_equal(batch, np.stack([resized, 2.0 * resized]))


@pytest.mark.parametrize("size", [(9, 31), (40, 13), (7, 9), (20, 26), (3, 80)])
@pytest.mark.parametrize("method", ["bicubic", "bilinear"])
def test_against_torch(method: str, size: tuple[int, int]) -> None:
    pred = np.random.default_rng(0).random((20, 26))
    resized = resize_map(pred, size, method=method)
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(pred)[None, None], size, mode=method, align_corners=False, antialias=method == "bicubic"
    )[0, 0].numpy()
    # torch renormalises at the border where MATLAB mirrors
    inside = tuple(
        slice(margin, length - margin)
        for margin, length in ((-(-3 * new // min(old, new)), new) for old, new in ((20, size[0]), (26, size[1])))
    )
    if method == "bilinear":
        inside = (slice(None), slice(None))
    np.testing.assert_allclose(resized[inside], theirs[inside], atol=1e-12)


@pytest.mark.parametrize("method", ["bicubic", "bilinear"])
def test_constants_and_linear_ramps_stay(method: str) -> None:
    np.testing.assert_allclose(resize_map(np.full((5, 7), 0.3), (11, 3), method=method), 0.3, rtol=1e-14)
    ramp = np.arange(12.0)[None].repeat(6, axis=0)
    resized = resize_map(ramp, (6, 24), method=method)
    np.testing.assert_allclose(resized[:, 6:-6], np.broadcast_to(np.arange(24) / 2 - 0.25, (6, 24))[:, 6:-6])
    np.testing.assert_array_equal(resize_map(ramp, (6, 12), method=method), ramp)


def test_bicubic_by_hand() -> None:
    # doubling: pixels at 1/4, 3/4, 5/4 and 7/4 of the spike; at the border it is met again in the mirror
    resized = resize_map(np.array([[0.0, 0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0, 0.0]]), (2, 10))
    expected = np.array([[0, -3, -9, 29, 111, 111, 29, -9, -3, 0], [111 + 29, 111 - 9, 29 - 3, -9, -3, 0, 0, 0, 0, 0]])
    np.testing.assert_allclose(resized, expected / 128, atol=1e-15)


def test_blur_keeps_the_mass_inside_and_is_a_gaussian() -> None:
    spike = np.zeros((31, 41))
    spike[15, 20] = 1.0
    blurred = gaussian_blur(spike, 2.0)
    assert blurred.sum() == pytest.approx(1.0)
    assert blurred[15, 25] / blurred[15, 20] == pytest.approx(np.exp(-25 / 8))
    assert blurred[15, 26] == 0.0
    np.testing.assert_allclose(gaussian_blur(np.full((2, 9, 8), 3), 1.0), 3.0)


def test_quantize() -> None:
    values = np.array([[-1.0, 0.0, 1.0, 3.0]])
    assert quantize_map(values).tolist() == [[0, 64, 128, 255]]
    assert quantize_map(values, rule="uint8_trunc").tolist() == [[0, 63, 127, 255]]
    assert quantize_map(np.array([values, 2 * values]))[1].tolist() == [[0, 64, 128, 255]]
    assert quantize_map(np.full((2, 2), 7.0)).tolist() == [[0, 0], [0, 0]]
    stored = np.array([[3, 9]], dtype=np.uint8)
    np.testing.assert_array_equal(quantize_map(stored), stored)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: resize_map(np.ones((2, 2)), (0, 3)), "positive height and width"),
        (lambda: resize_map(np.ones((2, 2)), (2, 3), method="nearest"), "method is 'nearest'"),
        (lambda: gaussian_blur(np.ones((9, 9)), 0.0), "sigma is 0"),
        (lambda: gaussian_blur(np.ones((5, 9)), 2.0), "too small"),
        (lambda: quantize_map(np.ones((2, 2)), rule="uint4"), "rule is 'uint4'"),
    ],
)
def test_wrong_input(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
