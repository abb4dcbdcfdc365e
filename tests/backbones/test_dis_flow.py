# SPDX-License-Identifier: Apache-2.0
"""OpenCV's flow where OpenCV is installed, and what is said where it is not."""

from __future__ import annotations

import sys

import pytest
import torch
import torch.nn.functional as F

from video_saliency.backbones.dis_flow import DISFlow


def texture(height: int, width: int) -> torch.Tensor:
    """`(3, height, width)` in 0..1, smooth and without repetition."""
    coarse = torch.rand(1, 3, height // 6, width // 6, generator=torch.Generator().manual_seed(3))
    return F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False)[0].clamp(0, 1)


def test_motion_is_found():
    pytest.importorskip("cv2")
    picture = texture(120, 160)
    frames = torch.stack([picture[:, 10:106, 10:138], picture[:, 12:108, 7:135]])  # 3 to the right, 2 up
    backend = DISFlow()
    encoded = backend.encode(torch.cat([frames, frames[:1]]))
    (grey,) = encoded
    assert grey.dtype == torch.uint8 and grey.shape == (3, 96, 128)
    flow = backend.match([grey[:2]], [grey[1:]], (96, 128))
    assert flow.shape == (2, 2, 96, 128) and flow.dtype == torch.float32
    medians = flow[..., 12:-12, 12:-12].flatten(2).median(dim=2).values
    torch.testing.assert_close(medians, torch.tensor([[3.0, -2.0], [-3.0, 2.0]]), atol=0.2, rtol=0)
    twice = backend.match([grey[:1]], [grey[1:2]], (192, 256))
    torch.testing.assert_close(twice.mean(dim=(2, 3)), 2 * flow[:1].mean(dim=(2, 3)), atol=0.1, rtol=0)


def test_without_opencv_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    backend = DISFlow()
    encoded = backend.encode(torch.rand(2, 3, 16, 16))
    with pytest.raises(ValueError, match="pip install opencv-python-headless"):
        backend.match(encoded, encoded, (16, 16))


def test_frames_too_small_for_opencv_are_refused():
    with pytest.raises(ValueError, match="12 pixels a side or more"):
        DISFlow().encode(torch.rand(1, 3, 11, 40))


def test_shapes_are_known_without_data():
    backend = DISFlow()
    encoded = backend.encode(torch.empty(2, 3, 24, 32, device="meta"))
    assert backend.match(encoded, encoded, (24, 32)).shape == (2, 2, 24, 32)
