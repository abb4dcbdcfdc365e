# SPDX-License-Identifier: Apache-2.0
"""A SalFoM checkpoint by the names of the released file, with seeded values."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from seeded_weights import seeded_tensor

from video_saliency import SalFoMConfig, SalFoMForVideoSaliency
from video_saliency.backbones.umt import position_table
from video_saliency.models.salfom.convert_salfom import convert_umt, salfom_name

GOLDEN = Path(__file__).parent / "golden" / "salfom"
DEAD = re.compile(
    r"encoder\.(fc_norm|head)\..*|transformer_\d\.norm\..*|.*relative_position_index|(conv_t3_3|final_map)\..*"
)


def layout(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a published file."""
    shapes = json.loads((GOLDEN / f"{name}_layout.json").read_text())
    return {key: tuple(shape) for key, shape in shapes.items()}


def salfom_checkpoint(*, with_encoder: bool = True, with_dead: bool = False) -> dict[str, torch.Tensor]:
    """The released file's entries, as far as they are used."""
    checkpoint = {}
    for name, shape in layout("salfom").items():
        if (name.startswith("encoder.") and not with_encoder) or (DEAD.fullmatch(name) and not with_dead):
            continue
        if name == "encoder.pos_embed":
            checkpoint[name] = position_table(shape[1] // 196, (14, 14), shape[2])[None]
        elif name.endswith("relative_position_index"):
            checkpoint[name] = torch.zeros(shape, dtype=torch.int64)
        else:
            checkpoint[name] = seeded_tensor(name, shape)
    return checkpoint


def tiny_umt_checkpoint() -> dict[str, torch.Tensor]:
    """A UMT of width 64 with two blocks, by the names of UMT's files."""
    shapes = {"patch_embed.proj.weight": (64, 3, 1, 16, 16), "patch_embed.proj.bias": (64,)}
    for block in ("blocks.0", "blocks.1"):
        for norm in ("norm1", "norm2"):
            shapes |= {f"{block}.{norm}.weight": (64,), f"{block}.{norm}.bias": (64,)}
        shapes |= {f"{block}.attn.q_bias": (64,), f"{block}.attn.v_bias": (64,)}
        shapes |= {f"{block}.attn.qkv.weight": (192, 64)}
        shapes |= {f"{block}.attn.proj.weight": (64, 64), f"{block}.attn.proj.bias": (64,)}
        shapes |= {f"{block}.mlp.fc1.weight": (256, 64), f"{block}.mlp.fc1.bias": (256,)}
        shapes |= {f"{block}.mlp.fc2.weight": (64, 256), f"{block}.mlp.fc2.bias": (64,)}
    return {name: seeded_tensor(name, shape) for name, shape in shapes.items()}


def tiny_salfom_state(fields: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The state of a SalFoM with these fields and the encoder of `tiny_umt_checkpoint`, by our names."""
    torch.manual_seed(0)
    state = SalFoMForVideoSaliency(SalFoMConfig(encoder_dim=64, encoder_depth=2, **fields)).state_dict()
    return state | {f"encoder.{name}": tensor for name, tensor in convert_umt(tiny_umt_checkpoint()).items()}


def tiny_salfom_checkpoint(fields: dict[str, Any]) -> dict[str, torch.Tensor]:
    """`tiny_salfom_state` as the released file has it, with its dead entries and the position table."""
    state = tiny_salfom_state(fields)
    checkpoint = {f"encoder.{name}": tensor for name, tensor in tiny_umt_checkpoint().items()}
    checkpoint["encoder.pos_embed"] = position_table(16, (14, 14), 64)[None]
    for name in layout("salfom"):
        if DEAD.fullmatch(name):
            checkpoint[name] = torch.zeros(1)
        elif not name.startswith("encoder."):
            checkpoint[name] = state[salfom_name(name)]
    return checkpoint
