# SPDX-License-Identifier: Apache-2.0
"""Weights and inputs that follow from their names, so that stored reference outputs need no stored weights.

The generator is NumPy's legacy one, whose numbers are frozen: the same on every machine, in any order.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def _normal(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal float32 numbers that depend on name and shape only."""
    return np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)


def seeded_tensor(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The tensor that a parameter or buffer of this name and shape is given.

    Kernels and matrices keep the variance of their input, vectors called weight lie around 1, other vectors around 0,
    variances are positive, counters are zero.
    """
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    values = _normal(name, shape)
    if name.endswith("running_var"):
        values = 1.0 + 0.1 * np.abs(values)
    elif len(shape) > 1:
        values = values / np.sqrt(np.prod(shape[1:]))
    else:
        values = 1.0 + 0.1 * values if name.endswith("weight") else 0.05 * values
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


def seeded_state_dict(tensors: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """A checkpoint with the names and shapes of `tensors`, for instance of `model.state_dict()`."""
    return {name: seeded_tensor(name, tuple(tensor.shape)) for name, tensor in tensors.items()}


def seeded_input(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The standard normal float32 input of this name."""
    return torch.from_numpy(_normal(name, shape))
