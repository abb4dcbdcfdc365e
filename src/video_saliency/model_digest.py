# SPDX-License-Identifier: Apache-2.0
"""A short name for a model's content, by which a record of a run knows whether it may be gone on with."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

SAMPLE = 4096  # values of a larger tensor that are read: of 6 billion parameters a few megabytes


def model_digest(model: Any, processor: Any) -> str:
    """Tells two models apart: 16 hexadecimal digits over config, processor and weights.

    Of each tensor name, shape, precision and evenly spaced values count, of those with less than 8192 values all. So
    it tells models of other training or another source apart, but not each single value that somebody changed.

    Args:
        model: with `config` and weights, on any device.
        processor: its processor.

    Raises:
        ValueError: for weights that wait on disk.
    """
    content = hashlib.sha256()
    for part in (model.config.to_json_string(), processor.to_json_string()):
        content.update(part.encode())
    for name, tensor in model.state_dict().items():
        if tensor.is_meta:
            raise ValueError(
                f"{name} waits on disk or in memory, so this model has no digest: load it without device_map for runs "
                "of which a record is kept"
            )
        content.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        content.update(_sample(tensor))
    return content.hexdigest()[:16]


def _sample(tensor: torch.Tensor) -> bytes:
    """The bytes of evenly spaced values; only these leave the tensor's device."""
    values = tensor.detach().flatten()
    # an odd step does not stay in the same columns of a matrix
    picked = values[:: values.numel() // SAMPLE | 1].contiguous().cpu()
    sample: bytes = picked.view(torch.uint8).numpy().tobytes()
    return sample


__all__ = ["model_digest"]
