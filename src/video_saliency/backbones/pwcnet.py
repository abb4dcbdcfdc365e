# SPDX-License-Identifier: Apache-2.0
"""PWC-Net, the optical flow of the GFSalNet paper: dense decoders and a context network.

Written from the paper (Sun, Yang, Liu and Kautz, "PWC-Net: CNNs for Optical Flow Using Pyramid, Warping, and Cost
Volume", CVPR 2018, arXiv 1709.02371) and the layout of the published weights. Those weights are for non-commercial use
only, so none come with this package; `video-saliency convert gfsalnet --source flow=FILE` reads a file of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

PYRAMID_CHANNELS = (16, 32, 64, 96, 128, 196)  # levels 1 to 6, each half as large as the one before
DENSE_CHANNELS = (128, 128, 96, 64, 32)
CONTEXT_LAYERS = ((128, 1), (128, 2), (128, 4), (96, 8), (64, 16), (32, 1), (2, 1))  # (channels, dilation)
FINEST_LEVEL = 2
COARSEST_LEVEL = 6
SEARCH_RADIUS = 4  # pixels of each level
FLOW_SCALE = 20.0  # the network counts in units of 20 pixels of its input
COVERAGE = 0.999  # of a pixel's bilinear weights that must lie within the picture; below 1 because of rounding
NEGATIVE_SLOPE = 0.1
ENCODED_PIXELS = 2**18  # of frames that are encoded together on a CPU: more take up to twice as long a frame
STRIP = 8  # columns of the cost volume that share one matrix product


class PWCNetConvolution(nn.Conv2d):
    """A 3x3 convolution that computes in the precision of its input, whatever precision its weights are kept in.

    A whole model may be cast to half precision, but half a pixel of a long vector would be lost in it.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, dilation: int = 1) -> None:
        super().__init__(in_channels, out_channels, 3, stride=stride, padding=dilation, dilation=dilation)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(batch, out_channels, height / stride, width / stride)`, rounded up."""
        weight, bias = (part.to(hidden_states.dtype) for part in (self.weight, self.bias) if part is not None)
        return F.conv2d(hidden_states, weight, bias, self.stride, self.padding, self.dilation)


class PWCNetUpsampling(nn.ConvTranspose2d):
    """A transposed convolution to two channels and twice the size, in the precision of its input."""

    def __init__(self, in_channels: int) -> None:
        super().__init__(in_channels, 2, 4, stride=2, padding=1)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:  # type: ignore[override]  # no output_size
        """`(batch, 2, height * 2, width * 2)`."""
        weight, bias = (part.to(hidden_states.dtype) for part in (self.weight, self.bias) if part is not None)
        return F.conv_transpose2d(hidden_states, weight, bias, stride=2, padding=1)


class PWCNetDecoder(nn.Module):
    """Flow of one level from the features of both frames and the flow of the coarser level."""

    def __init__(self, level: int) -> None:
        super().__init__()
        channels = (2 * SEARCH_RADIUS + 1) ** 2
        self.warp_scale = FLOW_SCALE / 2**level  # pixels of this level
        self.upsample_flow = self.upsample_features = None
        if level < COARSEST_LEVEL:
            coarser = decoder_channels(level + 1)
            self.upsample_flow, self.upsample_features = PWCNetUpsampling(2), PWCNetUpsampling(coarser)
            channels += PYRAMID_CHANNELS[level - 1] + 2 + 2
        self.dense = nn.ModuleList()
        for out_channels in DENSE_CHANNELS:
            self.dense.append(PWCNetConvolution(channels, out_channels))
            channels += out_channels
        self.predict = PWCNetConvolution(channels, 2)

    def forward(
        self, first: torch.Tensor, second: torch.Tensor, coarser: tuple[torch.Tensor, torch.Tensor] | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Flow `(batch, 2, height, width)` in units of 20 pixels of the network's input, and the decoder's features.

        Args:
            first: `(batch, channels, height, width)` features of the frames on whose grid the flow lies.
            second: those of the other frames.
            coarser: what the decoder of the coarser level gave; `None` at the coarsest.
        """
        if self.upsample_flow is None or self.upsample_features is None or coarser is None:
            features = _leaky(cost_volume(first, second))
        else:
            flow, features = self.upsample_flow(coarser[0]), self.upsample_features(coarser[1])
            costs = _leaky(cost_volume(first, warp(second, flow * self.warp_scale)))
            features = torch.cat([costs, first, flow, features], dim=1)
        for layer in self.dense:
            features = torch.cat([_leaky(layer(features)), features], dim=1)
        return self.predict(features), features


class PWCNetFlow(nn.Module):
    """Optical flow by PWC-Net, 9,374,274 parameters.

    `encode` works on each frame once, `match` on two encoded frames: over a clip nothing is computed twice. Both
    compute in float32. No layer depends on the training mode.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pyramid = nn.ModuleList()
        in_channels = 3
        for channels in PYRAMID_CHANNELS:
            layers = [PWCNetConvolution(in_channels, channels, stride=2)]
            layers += [PWCNetConvolution(channels, channels) for _ in range(2)]
            self.pyramid.append(nn.ModuleList(layers))
            in_channels = channels
        # from coarse to fine
        self.decoders = nn.ModuleList(PWCNetDecoder(level) for level in range(COARSEST_LEVEL, FINEST_LEVEL - 1, -1))
        self.context = nn.ModuleList()
        in_channels = decoder_channels(FINEST_LEVEL)
        for channels, dilation in CONTEXT_LAYERS:
            self.context.append(PWCNetConvolution(in_channels, channels, dilation=dilation))
            in_channels = channels

    def encode(self, frames: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What `match` needs of each frame: the features of levels 2 to 6, finest first.

        Args:
            frames: `(frames, 3, height, width)` RGB in 0..1, any size: they are enlarged to multiples of 64.
        """
        height, width = (math.ceil(side / 64) * 64 for side in frames.shape[-2:])
        if tuple(frames.shape[-2:]) != (height, width):
            frames = F.interpolate(frames, size=(height, width), mode="bilinear", align_corners=False)
        together = max(1, ENCODED_PIXELS // (height * width)) if frames.device.type == "cpu" else len(frames)
        # the network was trained on B, G, R
        parts = [self.features(part.flip(1))[FINEST_LEVEL - 1 :] for part in frames.split(together)]
        return tuple(torch.cat(level) for level in zip(*parts, strict=True))

    def match(self, start: Sequence[torch.Tensor], end: Sequence[torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
        """Flow `(frames, 2, height, width)` in pixels at `size`, x first, from the frames `start` to those of `end`.

        Args:
            start: encoded frames, on whose grid the flow lies.
            end: as many encoded frames.
            size: (height, width) of the flow; that of the frames, usually.
        """
        flows, residual = self.estimate(start, end)
        flow = FLOW_SCALE * (flows[-1] + residual)  # pixels of the network's input, at a quarter of its size
        network_size = [2**FINEST_LEVEL * side for side in start[0].shape[-2:]]
        flow = F.interpolate(flow, size=size, mode="bilinear", align_corners=False)
        scale = flow.new_tensor([size[1] / network_size[1], size[0] / network_size[0]])
        return flow * scale.reshape(2, 1, 1)

    def features(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Features of levels 1 to 6 of `(frames, 3, height, width)` BGR images, sides multiples of 64."""
        levels, hidden_states = [], images
        for level in self.pyramid:
            for layer in level.children():
                hidden_states = _leaky(layer(hidden_states))
            levels.append(hidden_states)
        return tuple(levels)

    def estimate(
        self, first: Sequence[torch.Tensor], second: Sequence[torch.Tensor]
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Flows of levels 6 to 2, and what the context network adds to the last, all in units of 20 pixels.

        Args:
            first, second: features of levels 2 to 6, finest first.
        """
        coarser, flows = None, []
        for decoder, first_level, second_level in zip(self.decoders, reversed(first), reversed(second), strict=True):
            coarser = decoder(first_level, second_level, coarser)
            flows.append(coarser[0])
        assert coarser is not None
        residual = coarser[1]
        for layer in self.context[:-1]:
            residual = _leaky(layer(residual))
        return flows, self.context[-1](residual)


def decoder_channels(level: int) -> int:
    """Channels of the features that the decoder of a level hands on: 565 at level 2."""
    costs = (2 * SEARCH_RADIUS + 1) ** 2
    given = PYRAMID_CHANNELS[level - 1] + 2 + 2 if level < COARSEST_LEVEL else 0
    return costs + given + sum(DENSE_CHANNELS)


def cost_volume(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """How well each place fits those up to four pixels away, `(batch, 81, height, width)`.

    Number `(dy + 4) * 9 + (dx + 4)` is the mean over channels of `first[y, x] * second[y + dy, x + dx]`; places
    outside count as zero.

    Eight neighbouring columns need 16 columns of a row of `second`: one matrix product gives their 8 x 16 products, of
    which those on nine diagonals are taken. That is nine batched products in all, and half of their work is used.

    Args:
        first, second: features `(batch, channels, height, width)`.
    """
    batch, channels, height, width = first.shape
    side, strips = 2 * SEARCH_RADIUS + 1, math.ceil(width / STRIP)
    margin = strips * STRIP - width
    padded = F.pad(second, (SEARCH_RADIUS, SEARCH_RADIUS + margin, SEARCH_RADIUS, SEARCH_RADIUS))
    queries = F.pad(first / channels, (0, margin)).unflatten(3, (strips, STRIP)).permute(0, 2, 3, 4, 1)
    keys = padded.unfold(3, STRIP + side - 1, STRIP).permute(0, 2, 3, 1, 4).contiguous()
    rows = []
    for offset in range(side):
        products = queries @ keys[:, offset : offset + height]  # (batch, height, strips, 8, 16)
        # the products of place x and column x + dx lie 17 * x + dx numbers behind the first
        diagonals = products.flatten(3).unfold(3, side, STRIP + side)  # (batch, height, strips, 8, 9)
        rows.append(diagonals.permute(0, 4, 1, 2, 3).flatten(3)[..., :width])
    return torch.cat(rows, dim=1)


def warp(features: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """The features `(batch, channels, height, width)` at the places that the flow leads to.

    Zero wherever more than a thousandth of a place's bilinear weights lies outside.

    Args:
        features: see above.
        flow: `(batch, 2, height, width)` in pixels, x first.
    """
    height, width = flow.shape[-2:]
    x = torch.arange(width, dtype=flow.dtype, device=flow.device)
    y = torch.arange(height, dtype=flow.dtype, device=flow.device)[:, None]
    grid = torch.stack(
        [2 * (x + flow[:, 0]) / max(width - 1, 1) - 1, 2 * (y + flow[:, 1]) / max(height - 1, 1) - 1], dim=-1
    )
    ones = features.new_ones(len(features), 1, height, width)
    coverage, warped = (
        F.grid_sample(values, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
        for values in (ones, features)
    )
    return warped * (coverage > COVERAGE)


def _leaky(hidden_states: torch.Tensor) -> torch.Tensor:
    return F.leaky_relu(hidden_states, NEGATIVE_SLOPE)


__all__ = ["NEGATIVE_SLOPE", "PWCNetConvolution", "PWCNetFlow", "PWCNetUpsampling", "cost_volume", "warp"]
