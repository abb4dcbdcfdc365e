# SPDX-License-Identifier: Apache-2.0
"""MViTv2 and VGGish checkpoints that follow from their names, in the layouts of the published files."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import torch
from seeded_weights import seeded_tensor

from video_saliency.checkpoints import StateDict, drop
from video_saliency.models.dtfsal.convert_dtfsal import CONVERTER, convert_mvitv2

GOLDEN = Path(__file__).parent / "golden" / "dtfsal"
LAYOUTS = ("torchvision", "slowfast", "mmaction2")  # of MViTv2-S; "tiny" is a small network with torchvision's names
TINY_MVITV2: dict[str, Any] = {
    "channels": (16, 32, 64, 128),
    "depths": (1, 2, 2, 2),
    "heads": (1, 2, 4, 8),
    "input_size": (8, 64, 64),
}


def layout(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a published file."""
    return {key: tuple(shape) for key, shape in json.loads((GOLDEN / f"{name}.json").read_text()).items()}


@functools.lru_cache(maxsize=1)  # 35 million random numbers, in 140 MB
def mvitv2_checkpoint(name: str) -> StateDict:
    """All tensors of an MViTv2 file in one of the layouts, its head among them; not to be changed."""
    return {key: seeded_tensor(key, shape) for key, shape in layout(f"mvitv2_{name}").items()}


def mvitv2_weights(name: str) -> StateDict:
    """The same by the names of our encoder, without the head."""
    return convert_mvitv2(drop(mvitv2_checkpoint(name), CONVERTER.sources["encoder"].dropped)[0])


def mvitv2_head(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of the head."""
    weight, bias = (value for key, value in mvitv2_checkpoint(name).items() if "head." in key)
    return weight, bias
