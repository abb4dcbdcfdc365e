# SPDX-License-Identifier: Apache-2.0
"""Optical flow as colour images, and which flow belongs to which frame. Torch only."""

from __future__ import annotations

import math

import torch

UNKNOWN_FLOW = 1e7  # a component beyond this marks a pixel without known flow, as in the Middlebury files
# The six arcs of the Middlebury wheel: number of steps, and (red, green, blue) at the start: red, yellow, green, cyan,
# blue, magenta (Baker et al., "A Database and Evaluation Methodology for Optical Flow", IJCV 2011).
_ARCS = (
    (15, (255, 0, 0)),
    (6, (255, 255, 0)),
    (4, (0, 255, 0)),
    (11, (0, 255, 255)),
    (13, (0, 0, 255)),
    (6, (255, 0, 255)),
)


def colour_wheel() -> torch.Tensor:
    """The Middlebury wheel, `(55, 3)` float32, RGB, whole numbers in 0..255."""
    entries = []
    for index, (steps, start) in enumerate(_ARCS):
        end = _ARCS[(index + 1) % len(_ARCS)][1]
        for step in range(steps):
            share = 255 * step // steps
            # one channel rises or falls per arc, the others stay
            entries.append(
                [low + (high > low) * share - (high < low) * share for low, high in zip(start, end, strict=True)]
            )
    return torch.tensor(entries, dtype=torch.float32)


def flow_to_image(
    flow: torch.Tensor, *, max_magnitude: float | None = None, min_magnitude: float = 0.0
) -> torch.Tensor:
    """Colour images `(..., 3, height, width)`, uint8, RGB, of optical flow: hue is direction, saturation is speed.

    Zero flow is white; right is red, down yellow, left cyan-blue, up purple. Equal to the Middlebury code, `flow_vis`
    and torchvision up to one grey level.

    Args:
        flow: `(..., 2, height, width)` float, in pixels: x (right) first, then y (down). Pixels with a component that
            is beyond 1e7 or not a number count as unknown and become black.
        max_magnitude: the length that gets full colour. Default: the longest vector of each frame. Beyond a fixed
            length colours are darkened by a quarter, as in the Middlebury code.
        min_magnitude: smallest length that may get full colour, in pixels, when each frame has its own: without such a
            floor the noise of a still scene shows in full colour.

    Raises:
        ValueError: for another shape, integers, a `max_magnitude` that is not positive or a negative `min_magnitude`.
    """
    if flow.ndim < 3 or flow.shape[-3] != 2 or not flow.is_floating_point():
        raise ValueError(f"flow must be float (..., 2, height, width), got {flow.dtype} {tuple(flow.shape)}")
    if (max_magnitude is not None and not max_magnitude > 0) or not min_magnitude >= 0:
        raise ValueError(
            f"max_magnitude must be positive and min_magnitude at least 0, got {max_magnitude}, {min_magnitude}"
        )
    known = (flow.abs() <= UNKNOWN_FLOW).all(dim=-3, keepdim=True)  # (..., 1, height, width)
    flow = torch.where(known, flow, torch.zeros_like(flow)).float()
    magnitude = torch.linalg.vector_norm(flow, dim=-3, keepdim=True)
    if max_magnitude is None:
        longest = magnitude.amax(dim=(-2, -1), keepdim=True).clamp(min=min_magnitude)
        longest = longest + 1e-5  # as flow_vis: a frame without motion is white
    else:
        longest = torch.full_like(magnitude, max_magnitude)
    radius = magnitude / longest

    # exactly rightward motion lies on the seam of the wheel: -(+0) is -0 and gives the first entry, 0 - (+0) the last
    angle = torch.atan2(-flow[..., 1:, :, :], -flow[..., :1, :, :]) / math.pi
    wheel = colour_wheel().to(flow.device) / 255
    position = (angle + 1) / 2 * (len(wheel) - 1)
    entry = position.floor().long().clamp(0, len(wheel) - 1)
    next_entry = (entry + 1) % len(wheel)
    hue = torch.lerp(wheel[entry], wheel[next_entry], (position - entry)[..., None])  # (..., 1, height, width, 3)
    hue = hue.squeeze(-4).movedim(-1, -3)
    colour = torch.where(radius <= 1, 1 - radius * (1 - hue), 0.75 * hue)
    return ((255 * colour).floor() * known).to(torch.uint8)


def align_flow_pairs(pair_flows: torch.Tensor, flow_pair: str) -> torch.Tensor:
    """One flow for each of T frames, `(..., T, 2, height, width)`, from the T - 1 flows between neighbours.

    Args:
        pair_flows: `(..., T - 1, 2, height, width)`. With `flow_pair="next"` number i leads from frame i to i + 1,
            with `"previous"` from frame i + 1 back to i: it always lies on the grid of the frame it is given to.
            A clip of one frame has no pairs: pass a tensor of shape `(..., 0, 2, height, width)`.
        flow_pair: `"next"`: the last frame repeats its predecessor's flow; `"previous"`: the first frame's is zero.
            With one frame it is zero in both cases.

    Raises:
        ValueError: for another shape or `flow_pair`.
    """
    if pair_flows.ndim < 4 or pair_flows.shape[-3] != 2:
        raise ValueError(f"pair_flows must be (..., frames - 1, 2, height, width), got {tuple(pair_flows.shape)}")
    if flow_pair not in ("next", "previous"):
        raise ValueError(f"flow_pair must be 'next' or 'previous', got {flow_pair!r}")
    zero = pair_flows.new_zeros((*pair_flows.shape[:-4], 1, *pair_flows.shape[-3:]))
    if flow_pair == "previous" or pair_flows.shape[-4] == 0:
        return torch.cat([zero, pair_flows], dim=-4)
    return torch.cat([pair_flows, pair_flows[..., -1:, :, :, :]], dim=-4)


__all__ = ["align_flow_pairs", "colour_wheel", "flow_to_image"]
