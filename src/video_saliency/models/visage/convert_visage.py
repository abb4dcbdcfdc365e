# SPDX-License-Identifier: Apache-2.0
"""Weights for ViSAGE: InternVideo2-6B of stage 2 as the backbone, and the two released experts.

The backbone's file (`internvideo2-s2_6b-224p-f4_with_audio_encoder.pt`, 29.4 GB) holds encoders of text and sound as
well. An expert's file (`expert1.pth`, `expert2.pth`) holds its decoder, and adapters for the backbone: those of stage
1 of the training have none. "5", "11", "17" and "23" in the files' names mean levels 0 to 3, shallow to deep.
"""

from __future__ import annotations

import logging
import math
import re
from collections import OrderedDict
from collections.abc import Callable, Container, Mapping
from typing import Any

from video_saliency.checkpoints import Converter, Source, StateDict, Terms, rename
from video_saliency.models.visage.configuration_visage import CLIP_MEAN, CLIP_STD, EXPERT_1, EXPERT_2, ViSAGEConfig
from video_saliency.models.visage.modeling_visage import ViSAGEForVideoSaliency

logger = logging.getLogger(__name__)

BACKBONE = "backbone."
VISION_ENCODER = "vision_encoder."  # of the backbone's file
LORA_PREFIX = "encoder.vision_encoder.base_model.model."  # of an expert's file
RELEASED_TABLE_FRAMES = ViSAGEConfig().backbone_table_frames
HEAD_DIM = 128  # of InternVideo2-6B, where the file does not tell the number of heads
LORA_SCALE = 2  # alpha over rank; files do not tell it
# the class of settings in the backbone's file, and what stands in for it: torch fills dicts of this class only
SETTINGS = (OrderedDict, "utils.easydict.EasyDict")
EXPERTS = {"expert1": EXPERT_1, "expert2": EXPERT_2}

# never run: attention pool and decoders of the pretraining, and tables of pictures, which some variants have
BACKBONE_UNUSED = ("clip_*", "final_clip_decoder.*", "img_pos_embed")
EXPERT_UNUSED = (
    "decoder.center_bias.xx",  # constant grids
    "decoder.center_bias.yy",
    f"{LORA_PREFIX}clip_projector.*",  # adapters of what is never run
)
COUNTERS = "*num_batches_tracked"

BACKBONE_TERMS = Terms(
    "InternVideo2's repository and the file's page on the Hub name the terms of these weights; read them before you "
    "pass the weights on. They were trained on videos that have terms of their own."
)
EXPERT_TERMS = Terms("The terms of whoever trained the expert hold; it is of no use without the backbone.")

_BACKBONE_NAMES = {"cls_token": "patch_embed.cls_token", "pos_embed": "patch_embed.position_table"}
_EXPERT_NAMES: dict[str, str | Callable[[re.Match[str]], str]] = {
    r"dim_reducers\.(\d+)\.": r"reducers.\1.",
    # expert 1
    r"decoder\.temp_attn\.conv\.": "modulation.attention.",
    r"decoder\.proj23_attn\.": "modulation.projection.",
    r"decoder\.upsample5\.proj\.": "projections.0.",
    r"decoder\.upsample11\.proj\.": "projections.1.",
    r"decoder\.proj17\.(?!block)": "projections.2.",
    r"decoder\.(blend5|blend11|conv17)\.": lambda match: f"blends.{('blend5', 'blend11', 'conv17').index(match[1])}.",
    r"decoder\.final_head\.0\.": "head.conv1.",
    r"decoder\.final_head\.1\.": "head.norm.",
    r"decoder\.final_head\.3\.": "head.conv2.",
    r"decoder\.center_bias\.c?(x|y|sigma|weight)$": r"centre_bias.\1",
    # expert 2
    r"decoder\.proj(5|11|17|23)\.block\.0\.": lambda match: f"projections.{_level(match[1])}.conv.",
    r"decoder\.proj(5|11|17|23)\.block\.1\.": lambda match: f"projections.{_level(match[1])}.norm.",
    r"decoder\.temporal_gate\.": "temporal_gate.",
    r"decoder\.(?:fuse|refine)(5|11|17|23)\.": lambda match: f"fusions.{_level(match[1])}.",
    r"decoder\.refine3d\.(\d+)\.": r"refinements.\1.",
    r"decoder\.main_head\.": "head.",
    r"decoder\.aux_heads\.p(11|17|23)\.": lambda match: f"auxiliary_heads.{_level(match[1]) - 1}.",
}
_EXPERT_LAYERS: dict[str, str] = {
    r"\.bn([12])\.": r".norm\1.",
    r"\.pre_2d\.0\.": ".conv1.",
    r"\.pre_2d\.1\.": ".norm1.",
    r"\.head_2d\.0\.": ".conv2.",
    r"\.head_2d\.1\.": ".norm2.",
    r"\.head_2d\.3\.": ".conv3.",
}


def _level(number: str) -> int:
    return ("5", "11", "17", "23").index(number)


def backbone_name(name: str) -> str:
    """Our name of a weight of InternVideo2; other names stay."""
    name = re.sub(r"^(blocks\.\d+\.ls[12])\.gamma$", r"\1.scale", name)
    return _BACKBONE_NAMES.get(name, name)


def convert_backbone(tensors: StateDict) -> StateDict:
    """The weights of InternVideo2's vision encoder by the names of `InternVideo2Encoder`."""
    return rename(tensors, backbone_name)


def expert_name(name: str, expert: str) -> str:
    """Our name, in the whole model, of a weight in an expert's file; other names stay.

    Args:
        name: in the file.
        expert: name of the expert in the model.
    """
    if name.startswith(LORA_PREFIX):
        path = re.sub(r"^(blocks\.\d+)\.block\.", r"\1.", name.removeprefix(LORA_PREFIX))
        return BACKBONE + re.sub(r"\.(lora_[AB])\.default\.weight$", rf".\1.{expert}.weight", path)
    for theirs, ours in _EXPERT_NAMES.items():
        if re.match(theirs, name):
            name = re.sub(theirs, ours, name)
            for layer, our_layer in _EXPERT_LAYERS.items():
                name = re.sub(layer, our_layer, name)
            return f"experts.{expert}.{name}"
    return f"experts.{expert}.{name}" if name.startswith(("film_gamma.", "film_beta.")) else name


def expert_converter(expert: str) -> Callable[[StateDict], StateDict]:
    """A function from the weights of an expert's file to our names, where the model calls the expert `expert`.

    The numbers of the centre bias become vectors of one number.
    """

    def convert(tensors: StateDict) -> StateDict:
        renamed = rename(tensors, lambda name: expert_name(name, expert))
        return {
            name: tensor.reshape(1) if ".centre_bias." in name and tensor.ndim == 0 else tensor
            for name, tensor in renamed.items()
        }

    return convert


def base_layer_name(name: str, names: Container[str]) -> str:
    """The name of a backbone weight in a model with these names: adapted layers have theirs one step deeper."""
    path, _, kind = name.rpartition(".")
    wrapped = f"{path}.base_layer.{kind}"
    return wrapped if wrapped in names else name


def make_config(fields: dict[str, Any] | None, tensors: Mapping[str, StateDict]) -> ViSAGEConfig:
    """The config of the model that the sources make: sizes are those of the weights, experts those that are given.

    The backbone alone becomes the released model with experts that are not trained. A file in which adapters of
    `mlp.fc1` or `mlp.fc2` have an effect was trained on layers that are not fused, so with the exact GELU; then that
    is chosen, with a warning.

    Args:
        fields: what the user's config file says; `None` without one.
        tensors: of each given source, by our names.

    Raises:
        ValueError: for sizes that do not fit together.
    """
    fields = dict(fields or {})
    given = [name for name in EXPERTS if name in tensors]
    config = ViSAGEConfig(
        **{
            **_backbone_fields(tensors.get("backbone", {}), fields.get("backbone_table_frames")),
            **({"experts": [_expert_fields(name, tensors[name]) for name in given]} if given else {}),
            **fields,
        }
    )
    unfused = [name for name in given if _adapts_mlp(tensors[name])]
    if unfused:
        logger.warning(
            "adapters of mlp.fc1 or mlp.fc2 in %s are not zero: such experts were trained on layers not fused, "
            "with the exact GELU%s",
            " and ".join(unfused),
            f". But those in {' and '.join(set(given) - set(unfused))} are: convert them to a model of their own"
            if len(unfused) < len(given)
            else "",
        )
        if "backbone_activation" in fields:
            logger.warning("the config file says backbone_activation=%r, which is kept", config.backbone_activation)
        else:
            config.backbone_activation = "gelu"
            logger.warning("the model gets backbone_activation='gelu'")
    return config


def _backbone_fields(tensors: StateDict, table_frames: Any) -> dict[str, Any]:
    """Fields of the config that a backbone's weights tell.

    Args:
        tensors: by our names.
        table_frames: that the position table is for, as the user says; if not, as many as the released one's.
    """
    patches, table = (tensors.get(f"patch_embed.{name}") for name in ("proj.weight", "position_table"))
    hidden = tensors.get("blocks.0.mlp.fc1.weight")
    if patches is None or table is None or hidden is None:
        return {}  # names that are missing are reported later
    dim, patch_size = patches.shape[0], patches.shape[-1]
    # the config refuses wrong values
    frames = table_frames if isinstance(table_frames, int) and table_frames > 0 else RELEASED_TABLE_FRAMES
    return {
        "backbone_dim": dim,
        "backbone_depth": 1 + max(int(match[1]) for name in tensors if (match := re.match(r"blocks\.(\d+)\.", name))),
        "backbone_mlp_ratio": hidden.shape[0] / dim,
        "patch_size": patch_size,
        "image_size": math.isqrt((table.shape[1] - 1) // frames) * patch_size,
        **({"backbone_heads": dim // HEAD_DIM} if dim % HEAD_DIM == 0 else {}),
    }


def _expert_fields(name: str, tensors: StateDict) -> dict[str, Any]:
    """The entry of an expert in the config, as far as its weights tell it; the rest is that of the released one."""
    released: Any = EXPERTS[name]
    prefix = f"experts.{name}."
    options = dict(released["options"])
    reducer, head = tensors.get(f"{prefix}reducers.0.weight"), tensors.get(f"{prefix}head.conv1.weight")
    if reducer is not None and head is not None:
        options |= {"reduced_dim": reducer.shape[0], "dim": head.shape[1]}
    ranks = {tensor.shape[0] for key, tensor in tensors.items() if ".lora_A." in key}
    lora = None
    if ranks:
        lora = {**released["lora"], "r": max(ranks), "alpha": LORA_SCALE * max(ranks)}
    return {**released, "options": options, "lora": lora}


def _adapts_mlp(tensors: StateDict) -> bool:
    """Whether adapters of the MLP have an effect."""
    second_factors = re.compile(r"backbone\..*\.mlp\.fc[12]\.lora_B\.")
    return any(bool(tensor.any()) for name, tensor in tensors.items() if second_factors.match(name))


def processor_settings(config: ViSAGEConfig) -> dict[str, Any]:
    """The square of the config, and CLIP's normalisation, as in the authors' code."""
    size = {"height": config.image_size, "width": config.image_size}
    return {"size": size, "image_mean": list(CLIP_MEAN), "image_std": list(CLIP_STD)}


def _expert_source(name: str, title: str) -> Source:
    decoder, adapter = re.compile(rf"experts\.{name}\."), re.compile(rf"backbone\..*\.lora_[AB]\.{name}\.")
    return Source(
        title=title,
        convert=expert_converter(name),
        places=lambda config: [""] if name in config.expert_names else [],
        fills=lambda key: bool(decoder.match(key) or adapter.match(key)),
        terms=lambda tensors: EXPERT_TERMS,
        dropped=EXPERT_UNUSED,
        optional=(COUNTERS,),
    )


CONVERTER = Converter(
    model_class=ViSAGEForVideoSaliency,
    sources={
        "expert1": _expert_source("expert1", "the released expert 1: decoder, FiLM and adapters"),
        "expert2": _expert_source("expert2", "the released expert 2: decoder and adapters"),
        "backbone": Source(
            title="InternVideo2 of stage 2, its vision encoder",
            convert=convert_backbone,
            places=lambda config: [BACKBONE],
            fills=lambda key: ".lora_" not in key,
            terms=lambda tensors: BACKBONE_TERMS,
            part=VISION_ENCODER,
            dropped=BACKBONE_UNUSED,
            safe_classes=(SETTINGS,),
        ),
    },
    make_config=make_config,
    processor_settings=processor_settings,
    resolve=base_layer_name,
    required=("backbone",),
)

__all__ = ["CONVERTER", "convert_backbone", "expert_converter"]
