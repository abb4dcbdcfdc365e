# SPDX-License-Identifier: Apache-2.0
"""Small files of ViSAGE by the names of the released files, with seeded values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from seeded_weights import seeded_input, seeded_tensor

GOLDEN = Path(__file__).parent / "golden" / "visage"
GRIDS = ("decoder.center_bias.xx", "decoder.center_bias.yy")


def layout(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a file: `internvideo2_6b`, `expert1`, `expert2`, or a small one such as `tiny_encoder`."""
    shapes = json.loads((GOLDEN / f"{name}_layout.json").read_text())
    return {key: tuple(shape) for key, shape in shapes.items()}


def seeded(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Values for a layout; the grids of the centre bias are what they are in any file."""
    # a seeded scalar comes as a vector of one
    tensors = {name: seeded_tensor(name, shape).reshape(shape) for name, shape in shapes.items() if name not in GRIDS}
    for name in GRIDS:
        if name in shapes:
            places = torch.linspace(-1, 1, shapes[name][0]).expand(shapes[name])
            tensors[name] = (places if name.endswith("xx") else places.T).contiguous()
    return tensors


def tiny_backbone(*, gain: float = 0.0) -> dict[str, torch.Tensor]:
    """The vision encoder, 4 blocks of width 96; `gain` is added to the factors of all branches."""
    tensors = seeded(layout("tiny_encoder"))
    return {name: value + gain if name.endswith(".gamma") else value for name, value in tensors.items()}


def tiny_expert(number: int, *, lora: bool = True) -> dict[str, torch.Tensor]:
    """The file of expert 1 or 2 with decoders of width 16, and adapters of rank 4 if they are wanted."""
    adapters = seeded(layout(f"tiny_expert{number}_lora")) if lora else {}
    return {**adapters, **seeded(layout(f"tiny_expert{number}"))}


def tiny_clip(frames: int) -> torch.Tensor:
    """`(batch, 3, frames, 56, 56)`, the input of the stored outputs for 4 frames (two clips) or 6 (one)."""
    return seeded_input(f"visage_tiny.video_t{frames}", (2 if frames == 4 else 1, 3, frames, 56, 56))
