# SPDX-License-Identifier: Apache-2.0
"""Miniature files by the names under which others publish weights, and the configs that go with them."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from dtfsal_weights import TINY_MVITV2, mvitv2_checkpoint
from pwcnet_weights import pwcnet_checkpoint
from salfom_weights import tiny_salfom_checkpoint, tiny_umt_checkpoint
from seeded_weights import seeded_state_dict, seeded_tensor
from visage_weights import tiny_backbone, tiny_expert

from video_saliency import GFSalNetConfig, GFSalNetForVideoSaliency
from video_saliency.backbones.vggish import VGGishEncoder

TINY_SALFOM = {
    "encoder_heads": 4,
    "tcfe_layers": [[8, 2, 1], [8, 2, 4], [8, 4, 4]],
    "tcfe_depth": 6,
    "dfd_layers": [[[8, 1, 1], [8, 2, 1]], [[8, 1, 2], [8, 2, 2]], [[8, 2, 2], [8, 2, 2]]],
    "sfd_layers": [[[8, 1]] * 3, [[8, 2], [8, 2], [8, 1]], [[8, 2], [8, 2], [8, 1]]],
    "fusion_channels": [8, 8],
}
TINY_CONFIGS = {
    "salfom": TINY_SALFOM,
    "visage": {"backbone_heads": 4, "output_size": [224, 224], "backbone_activation": "gelu_pytorch_tanh"},
    "gfsalnet": {
        "encoder_config": {
            "layer_type": "basic",
            "embedding_size": 4,
            "hidden_sizes": [4, 6, 8, 10],
            "depths": [1, 1, 1, 1],
        },
    },
    "dtfsal": {
        **{f"encoder_{name}": list(value) for name, value in TINY_MVITV2.items()},
        "hidden_size": 8,
        "num_tokens": 2,
        "token_size": [2, 3],
        "decoder_channels": [4, 4, 4],
        "audio_channels": [2, 3, 4, 5],
        "audio_size": [16, 32],
        "audio_hidden_size": 8,
        "audio_num_slices": 2,
    },
}


def write_released_files(folder: Path) -> None:
    """A file for each name, and `<system>.json` with the fields of the config that fit them."""
    files = {
        "salfom.pth": tiny_salfom_checkpoint(TINY_SALFOM),
        "l16_ptk710_ftk710_ftk400_f16_res224.pth": tiny_umt_checkpoint(),
        "internvideo2-s2_6b-224p-f4_with_audio_encoder.pt": {
            "model": {f"vision_encoder.{name}": value for name, value in tiny_backbone().items()}
        },
        "expert1.pth": tiny_expert(1),
        "expert2.pth": tiny_expert(2),
        "resnet50-0676ba61.pth": tiny_resnet(),
        "pwcnet.pth": pwcnet_checkpoint(),
        "mvit_v2_s-ae3be167.pth": mvitv2_checkpoint("tiny"),
        "vggish-10086976.pth": tiny_vggish(),
    }
    for name, content in files.items():
        torch.save(content, folder / name)
    for system, fields in TINY_CONFIGS.items():
        (folder / f"{system}.json").write_text(json.dumps(fields))


def tiny_resnet() -> dict[str, torch.Tensor]:
    """The trunk of `TINY_CONFIGS["gfsalnet"]` by the names of transformers."""
    with torch.device("meta"):
        model = GFSalNetForVideoSaliency(GFSalNetConfig(**TINY_CONFIGS["gfsalnet"]))
    return seeded_state_dict(model.streams["appearance"].trunk.state_dict())


def tiny_vggish() -> dict[str, torch.Tensor]:
    """The encoder of `TINY_CONFIGS["dtfsal"]` by the names of VGGish's PyTorch port."""
    numbers = (0, 3, 6, 8, 11, 13)
    weights = VGGishEncoder(TINY_CONFIGS["dtfsal"]["audio_channels"]).state_dict()
    names = {f"features.{numbers[int(name.split('.')[1])]}.{name.split('.')[2]}": name for name in weights}
    return {name: seeded_tensor(name, tuple(weights[ours].shape)) for name, ours in names.items()}
