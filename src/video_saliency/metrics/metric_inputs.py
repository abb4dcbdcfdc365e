# SPDX-License-Identifier: Apache-2.0
"""What the metrics take: maps and fixations, as arrays, tensors or lists, checked and cut into frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

Array = np.ndarray | torch.Tensor
Score = float | np.ndarray | torch.Tensor
Fixations = Array | Sequence[Any]
FixationMode = Literal["mask", "list"]
Random = np.random.Generator | np.random.RandomState


@dataclass(frozen=True)
class PixelCounts:
    """The distinct fixated pixels of a frame and how often each one counts.

    Attributes:
        pixels: flat indices (row * width + column), ascending, `(N,)` int64.
        counts: fixations on each of them, at least 1, `(N,)` int64.
    """

    pixels: np.ndarray
    counts: np.ndarray

    @classmethod
    def from_points(cls, points: Any, size: tuple[int, ...]) -> PixelCounts:
        """Of (row, column) pairs `(N, 2)` on a map of `size` (height, width).

        Raises:
            ValueError: not pairs, not whole pixels, or outside the map.
        """
        rows, columns = checked_points(points, size).T
        return cls(*np.unique(rows * size[1] + columns, return_counts=True))

    @classmethod
    def from_mask(cls, mask: np.ndarray) -> PixelCounts:
        """Of a map `(H, W)` that is above 0 where fixated."""
        pixels = np.flatnonzero(mask > 0)
        return cls(pixels, np.ones_like(pixels))

    def in_mode(self, mode: FixationMode) -> PixelCounts:
        """Every pixel once for `"mask"`, as often as it was fixated for `"list"`."""
        return self if mode == "list" else PixelCounts(self.pixels, np.ones_like(self.pixels))

    def __len__(self) -> int:
        """Number of distinct pixels."""
        return len(self.pixels)


def check_option(name: str, value: str, allowed: Sequence[str]) -> None:
    """Raises ValueError for an unknown value, with the known ones."""
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}: pass one of {', '.join(map(repr, allowed))}")


def to_maps(array: Array, name: str) -> np.ndarray:
    """`(..., H, W)` on the CPU, all finite: uint8, float32 and float64 stay, everything else becomes float64.

    Raises:
        ValueError: NaN or infinity, no real numbers, fewer than two dimensions, or empty.
    """
    if isinstance(array, torch.Tensor):
        array = array.detach().cpu()
        # numpy has no bfloat16
        array = array.double().numpy() if array.dtype == torch.bfloat16 else array.numpy()
    array = np.asarray(array)
    if array.dtype.kind not in "buif":
        raise ValueError(f"{name} has values of type {array.dtype}: pass real numbers")
    if array.ndim < 2 or array.size == 0:
        raise ValueError(f"{name} has shape {array.shape}: pass one map (H, W) or a batch (..., H, W), not empty")
    if array.dtype == np.uint8:
        return array
    if array.dtype != np.float32:
        array = array.astype(np.float64, copy=False)
    # the extremes show NaN and infinity without an array of truth values
    if not (np.isfinite(array.min()) and np.isfinite(array.max())):
        raise ValueError(f"{name} holds NaN or infinity: find out why before scoring (np.nan_to_num would hide it)")
    return array


def check_same_shape(prediction: np.ndarray, other: np.ndarray, name: str) -> None:
    """Raises ValueError if `other` is not of the prediction's shape."""
    if other.shape != prediction.shape:
        raise ValueError(
            f"{name} has shape {other.shape}, saliency_map {prediction.shape}: "
            "resize the prediction to the size of the truth first"
        )


def frames_of(array: np.ndarray) -> np.ndarray:
    """`(..., H, W)` as `(frames, H, W)`."""
    return array.reshape(-1, *array.shape[-2:])


def pack_scores(scores: list[float], saliency_map: Array) -> Score:
    """One score a frame in the form of the map: float, array `(...)`, or float64 tensor."""
    leading_shape = tuple(saliency_map.shape[:-2])
    if isinstance(saliency_map, torch.Tensor):
        return torch.tensor(scores, dtype=torch.float64).reshape(leading_shape)
    return np.array(scores).reshape(leading_shape) if leading_shape else scores[0]


def fixations_per_frame(
    fixations: Fixations, map_shape: tuple[int, ...], name: str = "fixations"
) -> list[PixelCounts]:
    """Fixated pixels of every frame, from a mask or from lists.

    Args:
        fixations: a mask of shape `map_shape` (fixated where > 0), or (row, column) pairs, one list a frame, nested
            like the leading dimensions of the maps.
        map_shape: shape of the maps `(..., H, W)`.
        name: of the argument, for messages.

    Raises:
        ValueError: as `checked_points`, or another nesting or shape than the maps'.
    """
    # Points may come as an array too: `(..., N, 2)`. One of exactly the map's shape is taken as a mask.
    if isinstance(fixations, np.ndarray | torch.Tensor) and (
        tuple(fixations.shape) == map_shape or tuple(fixations.shape[-1:]) != (2,)
    ):
        if tuple(fixations.shape) != map_shape:
            raise ValueError(
                f"{name.removesuffix('s')} mask has shape {tuple(fixations.shape)}, saliency_map {map_shape}: "
                "pass a mask of the map's shape or a list of (row, column) pairs for each frame"
            )
        return [PixelCounts.from_mask(frame) for frame in frames_of(to_maps(fixations, name))]
    lists: list[Any] = [fixations]
    for length in map_shape[:-2]:
        if any(not hasattr(entry, "__len__") or len(entry) != length for entry in lists):
            raise ValueError(
                f"saliency_map has leading shape {map_shape[:-2]}, {name} are nested otherwise: pass one list of "
                "(row, column) pairs for each frame"
            )
        lists = [inner for entry in lists for inner in entry]
    return [PixelCounts.from_points(entry, map_shape[-2:]) for entry in lists]


def checked_points(points: Any, size: tuple[int, ...]) -> np.ndarray:
    """(row, column) pairs as `(N, 2)` int64.

    Raises:
        ValueError: not pairs of numbers, not whole pixels, or outside a map of `size`.
    """
    try:
        array = np.asarray(points.detach().cpu() if isinstance(points, torch.Tensor) else points)
        array = array if array.dtype.kind in "iu" else array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError("fixations of a frame must be (row, column) pairs of numbers") from error
    if array.size == 0:
        return np.zeros((0, 2), dtype=np.int64)
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(f"fixations of a frame have shape {array.shape}: pass (row, column) pairs, shape (N, 2)")
    if array.dtype.kind == "f" and (not np.isfinite(array).all() or (array != np.floor(array)).any()):
        raise ValueError("fixations must be whole pixels (row, column): round coordinates down first")
    if array.min() < 0 or (array.max(axis=0) >= size).any():
        raise ValueError(
            f"a fixation lies outside the map of {size[0]} rows and {size[1]} columns: drop it, and check that points "
            "are (row, column) and scaled to the map"
        )
    return array.astype(np.int64)
