# SPDX-License-Identifier: Apache-2.0
"""Weights for DTFSal: MViTv2-S for its visual encoder, VGGish for its audio encoder, or a whole model.

MViTv2 files have the names of torchvision (`mvit_v2_s-ae3be167.pth`), of PySlowFast
(`MViTv2_S_16x4_k400_f302660347.pyth`), where they come from, or of mmaction2
(`mvit-small-p244_16x4x1_kinetics400-rgb_20221021-9ebaaeed.pth`), which the paper's predecessor loads. All three hold
the same 397 tensors. VGGish files have the names of its PyTorch port (`vggish-10086976.pth`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from video_saliency.checkpoints import Converter, Source, StateDict, Terms, rename
from video_saliency.models.dtfsal.configuration_dtfsal import DTFSalConfig
from video_saliency.models.dtfsal.modeling_dtfsal import AUDIO_PARTS, DTFSalForVideoSaliency

MVITV2_TERMS = Terms(
    "The terms of the file's publisher hold. PySlowFast and mmaction2 are Apache-2.0, torchvision is BSD-3-Clause; "
    "torchvision says of its weights that they may carry terms derived from their training data, here Kinetics-400."
)
VGGISH_TERMS = Terms(
    "The terms of the file's publisher hold. The VGGish model of TensorFlow and its PyTorch port are Apache-2.0; it "
    "was trained on the sound of YouTube videos."
)
CHECKPOINT_TERMS = Terms("The terms of whoever trained the checkpoint hold.")

_AXES = {"t": "time", "h": "row", "w": "column"}
_POOLS = {"q": "query", "k": "key", "v": "value"}
_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")
_PARTS = {  # of a block, behind its number: torchvision's spelling or PySlowFast's, which is also mmaction2's
    r"attn\.qkv\.(weight|bias)": r"attention.qkv.\1",
    r"attn\.proj(?:ect\.0)?\.(weight|bias)": r"attention.output.\1",
    r"attn\.pool_([qkv])\.(?:pool\.)?weight": r"attention.pool_\1.convolution.weight",
    r"attn\.(?:norm_([qkv])|pool_([qkv])\.norm_act\.0)\.(weight|bias)": r"attention.pool_\1\2.norm.\3",
    r"attn\.rel_pos_([thw])": r"attention.relative_\1",
    r"mlp\.(?:0|fc1)\.(weight|bias)": r"mlp.fc1.\1",
    r"mlp\.(?:3|fc2)\.(weight|bias)": r"mlp.fc2.\1",
    r"proj(?:ect)?\.(weight|bias)": r"shortcut.\1",
}
_STEM = {
    r"(?:conv_proj|patch_embed\.proj(?:ect|ection)?)\.(weight|bias)": r"patch_embedding.\1",
    r"pos_encoding\.class_token|cls_token": "class_token",
    r"norm\.(weight|bias)": r"norms.3.\1",
    r"norm([0-3])\.(weight|bias)": r"norms.\1.\2",  # mmaction2 has the last, DiffSal all of them
}
_VGGISH_CONVOLUTIONS = {0: 0, 3: 1, 6: 2, 8: 3, 11: 4, 13: 5}


def mvitv2_name(name: str) -> str:
    """Our name of an MViTv2 weight in any of the three layouts; other names stay."""
    name = name.removeprefix("backbone.")
    match = _BLOCK.fullmatch(name)
    for pattern, replacement in (_PARTS if match else _STEM).items():
        if found := re.fullmatch(pattern, match[2] if match else name):
            ours = found.expand(replacement)
            ours = re.sub(r"relative_([thw])$", lambda axis: f"relative_{_AXES[axis[1]]}", ours)
            ours = re.sub(r"pool_([qkv])\.", lambda pool: f"pool_{_POOLS[pool[1]]}.", ours)
            return f"blocks.{match[1]}.{ours}" if match else ours
    return name


def convert_mvitv2(tensors: StateDict) -> StateDict:
    """The weights of an MViTv2 file by the names of `MViTv2Encoder`."""
    converted = rename(tensors, mvitv2_name)
    if "class_token" in converted:  # a vector in torchvision's files
        converted["class_token"] = converted["class_token"].reshape(1, 1, -1)
    return converted


def vggish_name(name: str) -> str:
    """Our name of a VGGish weight; other names stay."""
    match = re.fullmatch(r"features\.(\d+)\.(weight|bias)", name)
    if match is None or int(match[1]) not in _VGGISH_CONVOLUTIONS:
        return name
    return f"convolutions.{_VGGISH_CONVOLUTIONS[int(match[1])]}.{match[2]}"


def convert_vggish(tensors: StateDict) -> StateDict:
    """The weights of a VGGish file by the names of `VGGishEncoder`."""
    return rename(tensors, vggish_name)


def make_config(fields: dict[str, Any] | None, tensors: Mapping[str, StateDict]) -> DTFSalConfig:
    """The config of the model that the sources make: the paper's, with sound if weights for it are among them.

    Args:
        fields: what the user's config file says; `None` without one.
        tensors: of each given source, by our names.

    Raises:
        ValueError: if config and sources disagree about sound.
    """
    holds_audio = "audio" in tensors or any(name.split(".")[0] in AUDIO_PARTS for name in tensors.get("model", {}))
    config = DTFSalConfig(**{"audio": holds_audio, **(fields or {})})
    if holds_audio and not config.audio:
        raise ValueError(
            "a config with audio=false has no place for weights of the audio branch: leave audio=FILE away, or set it "
            "to true"
        )
    if config.audio and config.freeze_audio_encoder and not holds_audio:
        raise ValueError(
            "the config says audio=true, and VGGish would stay at random weights, as it is not trained: add "
            "audio=FILE, or set freeze_audio_encoder to false"
        )
    return config


def processor_settings(config: DTFSalConfig) -> dict[str, Any]:
    """The paper's input size, and which sound belongs to a window."""
    settings: dict[str, Any] = {"size": {"height": 224, "width": 384}}
    return settings | ({"audio_settings": config.audio_spec.to_dict()} if config.audio_spec else {})


CONVERTER = Converter(
    model_class=DTFSalForVideoSaliency,
    sources={
        "encoder": Source(
            title="MViTv2-S of Kinetics-400, names of torchvision, PySlowFast or mmaction2",
            convert=convert_mvitv2,
            places=lambda config: ["encoder."],
            terms=lambda tensors: MVITV2_TERMS,
            dropped=(  # the Kinetics heads
                "head.1.weight",
                "head.1.bias",
                "head.projection.weight",
                "head.projection.bias",
                "cls_head.fc_cls.weight",
                "cls_head.fc_cls.bias",
            ),
            optional=("norms.[012].*",),  # added by DTFSal's predecessor; files of Kinetics have the last one only
        ),
        "audio": Source(
            title="VGGish, names of its PyTorch port",
            convert=convert_vggish,
            places=lambda config: ["audio_encoder."] if config.audio else [],
            terms=lambda tensors: VGGISH_TERMS,
            dropped=("embeddings.*",),  # its fully connected layers
        ),
        "model": Source(
            title="state dict of a DTFSalForVideoSaliency, or what of it the other sources leave",
            convert=dict,
            places=lambda config: [""],
            terms=lambda tensors: CHECKPOINT_TERMS,
            optional=("*num_batches_tracked",),
        ),
    },
    make_config=make_config,
    processor_settings=processor_settings,
)

__all__ = ["CONVERTER", "convert_mvitv2", "convert_vggish"]
