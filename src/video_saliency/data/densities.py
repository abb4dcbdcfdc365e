# SPDX-License-Identifier: Apache-2.0
"""Fixations as densities: a Gaussian at each."""

from __future__ import annotations

import numpy as np
import torch


def fixation_density(points: np.ndarray, size: tuple[int, int], *, sigma: float | None = None) -> torch.Tensor:
    """Density of fixations: a Gaussian at each, float32 `(height, width)` with sum 1 (all zero without fixations).

    Args:
        points: int `(N, 2)`, (row, column) pixels inside `size`.
        size: (height, width).
        sigma: of the Gaussian in pixels; by default a 24th of the height, about one degree of visual angle in the
            sets of stills that the default model is trained on.
    """
    height, width = size
    sigma = height / 24 if sigma is None else sigma
    counts = np.bincount(points[:, 0] * width + points[:, 1], minlength=height * width).reshape(height, width)
    blurred = _gaussian_matrix(height, sigma) @ torch.from_numpy(counts).double() @ _gaussian_matrix(width, sigma)
    return (blurred / blurred.sum().clamp(min=torch.finfo(torch.float64).tiny)).float()


def fixated_points(fixations: np.ndarray) -> np.ndarray:
    """(row, column) pairs `(N, 2)` int64 of a bool mask `(height, width)`; pairs are left as they are."""
    return np.argwhere(fixations) if fixations.dtype == bool else fixations


def _gaussian_matrix(length: int, sigma: float) -> torch.Tensor:
    """`(length, length)` float64: blurring along an axis as a matrix product, with nothing beyond the border."""
    positions = torch.arange(length, dtype=torch.float64)
    return torch.exp(-0.5 * ((positions[:, None] - positions[None, :]) / sigma) ** 2)
