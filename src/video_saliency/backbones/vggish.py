# SPDX-License-Identifier: Apache-2.0
"""The convolutions of VGGish (Hershey et al., ICASSP 2017), the audio encoder of DTFSal.

Its three fully connected layers, which give one vector for 96 x 64 log-mel values, are left out: DTFSal takes the map.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
import torch.nn.functional as F
from torch import nn

STAGE_CONVOLUTIONS = (1, 1, 2, 2)
STAGE_ENDS = tuple(accumulate(STAGE_CONVOLUTIONS))


class VGGishEncoder(nn.Module):
    """Maps of log-mel pictures: six 3 x 3 convolutions with ReLU in four stages, each ended by a maximum of 2 x 2.

    Args:
        channels: of the four stages.

    Raises:
        ValueError: unless there are four.
    """

    def __init__(self, channels: Sequence[int] = (64, 128, 256, 512)) -> None:
        super().__init__()
        if len(channels) != len(STAGE_CONVOLUTIONS):
            raise ValueError(f"channels must have {len(STAGE_CONVOLUTIONS)} values, got {channels}")
        self.channels = tuple(channels)
        widths = [width for width, count in zip(channels, STAGE_CONVOLUTIONS, strict=True) for _ in range(count)]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, behind, kernel_size=3, padding=1) for before, behind in pairwise([1, *widths])
        )

    def forward(self, log_mel: torch.Tensor) -> torch.Tensor:
        """`(batch, channels, time / 16, mel / 16)`, rounded down, of `(batch, 1, time, mel)`."""
        features = log_mel
        for number, convolution in enumerate(self.convolutions, start=1):
            features = F.relu(convolution(features))
            if number in STAGE_ENDS:
                features = F.max_pool2d(features, kernel_size=2)
        return features


__all__ = ["VGGishEncoder"]
