# SPDX-License-Identifier: Apache-2.0
"""Weights for SalFoM: the released model, or a UMT encoder to start training from.

The released model (`SalFoM_DHF1K.pth`, 619 entries) holds parameters that its forward never uses; they are dropped by
the list below. UMT's files of Kinetics-400 (`l16_..._ftk400_....pth`, `b16_...`) are in half precision and hold no
position table, which is computed; where a file holds one, it is compared.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from video_saliency.backbones.umt import TABLE_FRAMES, TABLE_GRID, position_table
from video_saliency.checkpoints import Converter, Source, StateDict, Terms, rename
from video_saliency.models.salfom.configuration_salfom import SalFoMConfig
from video_saliency.models.salfom.modeling_salfom import SalFoMForVideoSaliency

CLASSIFIER = ("fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias")
UMT_PREFIXES = ("", "backbone.", "encoder.")  # UMT's trainer takes files with any of these before each name
UMT_UNUSED = tuple(f"{prefix}{name}" for prefix in UMT_PREFIXES for name in CLASSIFIER)
UNUSED = (
    *(f"encoder.{name}" for name in CLASSIFIER),
    "transformer_[123].norm.weight",  # computed and thrown away
    "transformer_[123].norm.bias",
    "conv_t3_3.weight",  # behind the step at which time is gone
    "conv_t3_3.bias",
    "final_map.weight",
    "final_map.bias",
    "transformer_[123].layers.0.blocks.[0-5].attn.relative_position_index",  # what it counts is computed
)
TABLE_TOLERANCE = 2e-3  # of tables in half precision

# What the script that SalFoM's authors name does to a map: linear resize to the size of the video, a Gaussian of
# 11 x 11 (deviation 2), before its metrics; then a stretch to 0..1 for the picture that it saves. Its grey values are
# 255 times the map and a half, rounded.
PUBLISHED_MAPS = {"smoothing": 2.0, "antialias": False, "normalize": "minmax", "quantize": "raise"}

SALFOM_TERMS = Terms(
    "SalFoM's repository names no licence for its weights: ask its authors before you pass them on. They were trained "
    "from UMT's weights and on DHF1K, whose terms hold as well."
)
UMT_TERMS = Terms(
    "UMT's repository is MIT, and says of its weights nothing else; they were trained on Kinetics, whose videos have "
    "terms of their own."
)

_BLOCK = {
    "attn.proj": "attention.output",
    "attn.q_bias": "attention.query.bias",
    "attn.v_bias": "attention.value.bias",
}
_TRANSFORMER = {
    "attn.relative_position_bias_table": "attention.bias_table",
    "attn.qkv": "attention.qkv",
    "attn.proj": "attention.output",
    "mlp.": "",
}


def umt_name(name: str) -> str:
    """Our name of a UMT weight; names that are not UMT's stay."""
    if name.startswith("patch_embed.proj."):
        return name.replace("patch_embed.proj", "patch_embedding")
    if re.match(r"blocks\.\d+\.", name):
        for theirs, ours in _BLOCK.items():
            name = name.replace(theirs, ours)
    return name


def convert_umt(tensors: StateDict) -> StateDict:
    """The weights of a UMT file by the names of `UMTEncoder`.

    Raises:
        ValueError: if the file's position table is not the fixed one.
    """
    bare = {re.sub(r"^(backbone|encoder)\.", "", name): tensor for name, tensor in tensors.items()}
    table = bare.pop("pos_embed", None)
    if table is not None:
        _check_table(table)
    converted: StateDict = {}
    for name, tensor in rename(bare, umt_name).items():
        if match := re.fullmatch(r"(blocks\.\d+)\.attn\.qkv\.weight", name):
            parts = zip(("query", "key", "value"), tensor.chunk(3), strict=True)
            converted |= {f"{match[1]}.attention.{part}.weight": rows.contiguous() for part, rows in parts}
        elif name == "patch_embedding.weight" and tensor.ndim == 5 and tensor.shape[2] == 1:
            converted[name] = tensor.squeeze(2)  # a patch is one frame deep
        else:
            converted[name] = tensor
    return converted


def _check_table(table: torch.Tensor) -> None:
    rows = TABLE_GRID[0] * TABLE_GRID[1]
    frames, rest = divmod(table.shape[-2], rows)
    expected = position_table(frames, TABLE_GRID, table.shape[-1]) if frames and not rest else None
    if expected is None or (table.float().reshape(expected.shape) - expected).abs().max() > TABLE_TOLERANCE:
        raise ValueError(
            f"pos_embed {list(table.shape)} is not UMT's fixed table of {TABLE_FRAMES} frames, resized in time: these "
            "weights were trained with other positions than this model has"
        )


def salfom_name(name: str) -> str:
    """Our name of a weight of SalFoM's decoder; other names stay."""
    if match := re.fullmatch(r"conv_([1-6])\.weight", name):
        stage, layer = divmod(int(match[1]) - 1, 2)
        return f"decoder.dfd.{stage}.{layer}.convolution.weight"
    if match := re.fullmatch(r"conv_2D_([1-9])\.weight", name):
        stage, layer = divmod(int(match[1]) - 1, 3)
        return f"decoder.sfd.{stage}.{layer}.convolution.weight"
    if match := re.fullmatch(r"conv_([7-9])\.weight", name):
        return f"decoder.fusion.{int(match[1]) - 7}.weight"
    if match := re.fullmatch(r"conv_t([1-3])_([1-4])\.(weight|bias)", name):
        return f"decoder.collapse.{int(match[1]) - 1}.convolutions.{int(match[2]) - 1}.{match[3]}"
    if match := re.fullmatch(r"transformer_([1-3])\.patch_embed\.proj\.(weight|bias)", name):
        return f"decoder.tcfe.{int(match[1]) - 1}.patch_embedding.{match[2]}"
    if match := re.fullmatch(r"transformer_([1-3])\.layers\.0\.(blocks\.\d+\..+)", name):
        rest = match[2]
        for theirs, ours in _TRANSFORMER.items():
            rest = rest.replace(theirs, ours)
        return f"decoder.tcfe.{int(match[1]) - 1}.{rest}"
    return name


def convert_salfom(tensors: StateDict) -> StateDict:
    """The weights of the released SalFoM file by our names.

    Raises:
        ValueError: if its position table is not the fixed one.
    """
    encoder = {name: tensor for name, tensor in tensors.items() if name.startswith("encoder.")}
    decoder = {name: tensor for name, tensor in tensors.items() if name not in encoder}
    converted = {f"encoder.{name}": tensor for name, tensor in convert_umt(encoder).items()}
    return converted | rename(decoder, salfom_name)


def make_config(fields: dict[str, Any] | None, tensors: Mapping[str, StateDict]) -> SalFoMConfig:
    """The config of the model that the sources make: width and depth of the encoder are those of its weights.

    Args:
        fields: what the user's config file says; `None` without one.
        tensors: of each given source, by our names.
    """
    found: dict[str, Any] = {}
    for source, prefix in (("encoder", ""), ("model", "encoder.")):
        weight = tensors.get(source, {}).get(f"{prefix}patch_embedding.weight")
        if weight is not None:
            pattern = re.compile(re.escape(prefix) + r"blocks\.(\d+)\.")
            depth = 1 + max((int(match[1]) for name in tensors[source] if (match := pattern.match(name))), default=-1)
            found = {"encoder_dim": weight.shape[0], "encoder_depth": depth, "encoder_heads": weight.shape[0] // 64}
    return SalFoMConfig(**{**found, **(fields or {})})


def processor_settings(config: SalFoMConfig) -> dict[str, Any]:
    """224 x 224 and ImageNet's normalisation (our defaults), and what becomes of maps, as in the published scripts."""
    return {"size": {"height": 224, "width": 224}, "published_maps": PUBLISHED_MAPS}


CONVERTER = Converter(
    model_class=SalFoMForVideoSaliency,
    sources={
        "encoder": Source(
            title="UMT of Kinetics-400, for training: the decoder is new",
            convert=convert_umt,
            places=lambda config: ["encoder."],
            terms=lambda tensors: UMT_TERMS,
            dropped=UMT_UNUSED,
        ),
        "model": Source(
            title="the released SalFoM, or what of it the encoder's file leaves",
            convert=convert_salfom,
            places=lambda config: [""],
            terms=lambda tensors: SALFOM_TERMS,
            dropped=UNUSED,
        ),
    },
    make_config=make_config,
    processor_settings=processor_settings,
)

__all__ = ["CONVERTER", "PUBLISHED_MAPS", "convert_salfom", "convert_umt"]
