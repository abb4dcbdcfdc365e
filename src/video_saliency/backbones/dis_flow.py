# SPDX-License-Identifier: Apache-2.0
"""Optical flow by OpenCV's dense inverse search, where OpenCV is installed.

Kroeger, Timofte, Dai and Van Gool, "Fast Optical Flow using Dense Inverse Search", ECCV 2016. It runs on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

LUMINANCE = (0.299, 0.587, 0.114)
MIN_SIDE = 12  # OpenCV refuses smaller pictures


class DISFlow(nn.Module):
    """Optical flow between neighbouring frames by OpenCV (`pip install opencv-python-headless`); it has no weights.

    OpenCV is asked for when the first flow is computed, so that a model can be loaded, trained and given flow without.
    Its preset is "medium" (our choice).
    """

    def encode(self, frames: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What `match` needs of each frame: its brightness as 8-bit values `(frames, height, width)`.

        Args:
            frames: `(frames, 3, height, width)` RGB in 0..1.

        Raises:
            ValueError: for frames of less than 12 pixels a side.
        """
        if min(frames.shape[-2:]) < MIN_SIDE:
            raise ValueError(
                f"flow_backend='dis' needs frames of {MIN_SIDE} pixels a side or more, got {tuple(frames.shape[-2:])}"
            )
        grey = torch.einsum("c,nchw->nhw", frames.new_tensor(LUMINANCE), frames)
        return ((grey * 255).round().clamp(0, 255).to(torch.uint8),)

    def match(self, start: Sequence[torch.Tensor], end: Sequence[torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
        """Flow `(frames, 2, height, width)` in pixels at `size`, x first, from the frames `start` to those of `end`.

        Args:
            start: encoded frames, on whose grid the flow lies.
            end: as many encoded frames.
            size: (height, width) of the flow; that of the frames, usually.

        Raises:
            ValueError: if OpenCV is not installed.
        """
        (first,), (second,) = start, end
        if first.is_meta:  # shapes only
            return torch.empty(len(first), 2, *size, device="meta")
        method = _dense_inverse_search()
        flows = [
            torch.from_numpy(method.calc(template, target, None))
            for template, target in zip(first.cpu().numpy(), second.cpu().numpy(), strict=True)
        ]
        flow = torch.stack(flows).movedim(-1, 1).to(first.device)
        if tuple(flow.shape[-2:]) == tuple(size):
            return flow.contiguous()
        scale = flow.new_tensor([size[1] / flow.shape[-1], size[0] / flow.shape[-2]]).reshape(2, 1, 1)
        return F.interpolate(flow, size=size, mode="bilinear", align_corners=False) * scale


def _dense_inverse_search() -> Any:
    try:
        import cv2  # optional, and slow to import
    except ImportError as error:
        raise ValueError(
            "flow_backend='dis' needs OpenCV: pip install opencv-python-headless, or pass flow_values yourself"
        ) from error
    return cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)


__all__ = ["DISFlow"]
