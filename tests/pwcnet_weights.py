# SPDX-License-Identifier: Apache-2.0
"""A PWC-Net checkpoint that follows from its names: the layout of the published file, and weights that keep features
and flows at a useful size."""

from __future__ import annotations

import functools
import json
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from seeded_weights import seeded_tensor

GOLDEN = Path(__file__).parent / "golden" / "gfsalnet"
SCALES = {  # of the stored reference outputs; the first pattern that fits counts
    "moduleExtractor.*.weight": 1.5,
    "moduleRefiner.*.weight": 1.4,
    "module???.moduleUpflow.weight": 1.5,
    "module???.moduleUpfeat.weight": 0.4,
    "module???.moduleSix.0.weight": 0.5,
    "module???.module*.0.weight": 1.25,
    "*.bias": 1.0,
}


def pwcnet_checkpoint() -> dict[str, torch.Tensor]:
    """The 126 tensors by the names of the published file."""
    return dict(_tensors())


@functools.cache  # nine million random numbers
def _tensors() -> dict[str, torch.Tensor]:
    shapes = json.loads((GOLDEN / "pwcnet_layout.json").read_text())
    checkpoint = {}
    for name, shape in shapes.items():
        scale = next(scale for pattern, scale in SCALES.items() if fnmatchcase(name, pattern))
        checkpoint[name] = scale * seeded_tensor(name, tuple(shape))
    return checkpoint


def nvidia_checkpoint() -> dict[str, torch.Tensor]:
    """The same tensors by the names of NVIDIA's file, with its two that no layer uses."""
    names = json.loads((GOLDEN / "pwcnet_nvidia_names.json").read_text())
    checkpoint = pwcnet_checkpoint()
    unused = {"deconv2.weight": torch.zeros(2, 2, 4, 4), "deconv2.bias": torch.zeros(2)}
    return {name: checkpoint[other] for name, other in names.items()} | unused
