# SPDX-License-Identifier: Apache-2.0
"""Deformable convolution (Dai et al., ICCV 2017; with a mask: Zhu et al., CVPR 2019) without compiled extensions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F

Pair = int | tuple[int, int]


def _pair(value: Pair) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value


@functools.cache
def _torchvision_operation() -> Callable[..., torch.Tensor] | None:
    """torchvision's operation, if it is installed: this package works without, so it is not imported at the top."""
    if find_spec("torchvision") is None:
        return None
    try:
        return import_module("torchvision.ops").deform_conv2d
    except (ImportError, RuntimeError):  # built for another torch
        return None


def deformable_conv2d(
    pictures: torch.Tensor,
    offset: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """A convolution each of whose taps is moved: `(batch, out_channels, out_height, out_width)`.

    Values between cells are bilinear, and 0 outside of the picture. torchvision's operation runs where it is
    installed, plain torch otherwise, with equal results up to rounding.

    Args:
        pictures: `(batch, channels, height, width)`.
        offset: `(batch, 2 * groups * taps, out_height, out_width)` in cells. For each group of input channels and each
            tap, row by row, first how far down it moves, then how far right. The groups split the channels in order.
        weight: `(out_channels, channels / weight groups, kernel_height, kernel_width)`; weight groups split channels
            in order as those of `torch.nn.functional.conv2d`.
        bias: `(out_channels,)`.
        stride, padding, dilation: one number, or those of height and width.
        mask: `(batch, groups * taps, out_height, out_width)`, what each tap is multiplied with; default 1.

    Raises:
        ValueError: if the shapes do not go together.
    """
    settings: dict[str, Any] = {"stride": _pair(stride), "padding": _pair(padding), "dilation": _pair(dilation)}
    _check(pictures, offset, weight, mask, **settings)
    # in half precision places would be off by tenths of a cell, and not all of the operations are there
    dtype = torch.promote_types(pictures.dtype, torch.float32)
    values = (pictures.to(dtype), offset.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))
    settings["mask"] = None if mask is None else mask.to(dtype)
    # compilers see plain torch, which they can fuse, and exported programs need no extension
    operation = None if torch.compiler.is_compiling() else _torchvision_operation()
    return (operation or sampled_conv2d)(*values, **settings).to(pictures.dtype)


def sampled_conv2d(
    pictures: torch.Tensor,
    offset: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """`deformable_conv2d` in plain torch: each tap is a bilinear sampling, then all are multiplied at once."""
    channels, height, width = pictures.shape[1:]
    out_channels, group_channels, kernel_height, kernel_width = weight.shape
    taps, (rows, columns) = kernel_height * kernel_width, offset.shape[-2:]
    groups = offset.shape[1] // (2 * taps)
    moves = offset.unflatten(1, (groups, taps, 2))  # (batch, groups, taps, 2, rows, columns)
    start_y, start_x = (
        _tap_starts(count, step, edge, pictures)
        for count, step, edge in zip((rows, columns), stride, padding, strict=True)
    )
    tap = torch.arange(taps, device=pictures.device)
    y = start_y[:, None] + (tap // kernel_width * dilation[0])[:, None, None] + moves[:, :, :, 0]
    x = start_x[None, :] + (tap % kernel_width * dilation[1])[:, None, None] + moves[:, :, :, 1]
    # this form of coordinates, in which cells have an extent, is also defined for a side of one cell
    places = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    places = places.flatten(0, 1).flatten(1, 2)  # (batch * groups, taps * rows, columns, 2)
    split = pictures.unflatten(1, (groups, channels // groups)).flatten(0, 1)
    samples = F.grid_sample(split, places, mode="bilinear", padding_mode="zeros", align_corners=False)
    samples = samples.unflatten(2, (taps, rows)).unflatten(0, (-1, groups))
    if mask is not None:
        samples = samples * mask.unflatten(1, (groups, 1, taps))
    # (batch, channels * taps, rows, columns): a 1 x 1 convolution of these is the one that is wanted
    columns_of_taps = samples.flatten(1, 2).flatten(1, 2)
    kernel = weight.reshape(out_channels, group_channels * taps, 1, 1)
    return F.conv2d(columns_of_taps, kernel, bias, groups=channels // group_channels)


def _tap_starts(count: int, step: int, edge: int, like: torch.Tensor) -> torch.Tensor:
    """Where the first tap lies along one axis, for each output cell."""
    return torch.arange(count, device=like.device, dtype=like.dtype) * step - edge


def _check(
    pictures: torch.Tensor,
    offset: torch.Tensor,
    weight: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> None:
    channels, sides = pictures.shape[1], pictures.shape[2:]
    kernel = weight.shape[2:]
    taps = kernel[0] * kernel[1]
    size = tuple(
        (side + 2 * edge - spread * (length - 1) - 1) // step + 1
        for side, edge, spread, length, step in zip(sides, padding, dilation, kernel, stride, strict=True)
    )
    if channels % weight.shape[1] or weight.shape[0] % (channels // weight.shape[1]):
        raise ValueError(f"a weight of shape {tuple(weight.shape)} does not fit {channels} channels")
    groups = offset.shape[1] // (2 * taps)
    if offset.shape[1] != 2 * taps * groups or not groups or channels % groups or offset.shape[2:] != size:
        raise ValueError(
            f"offset must be (batch, a multiple of {2 * taps}, {size[0]}, {size[1]}) with groups that divide "
            f"{channels} channels, got {tuple(offset.shape)}"
        )
    if mask is not None and (mask.shape[1] != taps * groups or mask.shape[2:] != size):
        raise ValueError(f"mask must be (batch, {taps * groups}, {size[0]}, {size[1]}), got {tuple(mask.shape)}")


__all__ = ["deformable_conv2d"]
