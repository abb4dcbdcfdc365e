# SPDX-License-Identifier: Apache-2.0
"""The tiny ViSAGE of the reference outputs, with seeded weights."""

from __future__ import annotations

from typing import Any

from visage_weights import tiny_backbone, tiny_expert

from video_saliency.models.visage.configuration_visage import ViSAGEConfig
from video_saliency.models.visage.convert_visage import base_layer_name, convert_backbone, expert_converter
from video_saliency.models.visage.modeling_visage import ViSAGEForVideoSaliency

TAG = "visage_tiny"  # of the reference inputs
TYPES = {"expert1": "modulated", "expert2": "multiscale"}


def reference_config(*, lora: bool = False, experts: tuple[str, ...] = tuple(TYPES), **overrides: Any) -> ViSAGEConfig:
    """That of the reference outputs, whose maps are 224 x 224 whatever the input."""
    entry = {"options": {"reduced_dim": 32, "dim": 16}, "lora": {"r": 4, "alpha": 8} if lora else None}
    fields = {
        "backbone_dim": 96,
        "backbone_depth": 4,
        "backbone_heads": 4,
        "image_size": 56,
        "output_size": [224, 224],
        "experts": [{"name": name, "type": TYPES[name], **entry} for name in experts],
    }
    return ViSAGEConfig(**{**fields, **overrides})


def reference_model(*, lora: bool = False, gain: float = 0.0, **overrides: Any) -> ViSAGEForVideoSaliency:
    """A ViSAGE with the weights of the reference outputs; `gain` is added to the factors of all branches."""
    model = ViSAGEForVideoSaliency(reference_config(lora=lora, **overrides)).eval()
    weights = {f"backbone.{name}": value for name, value in convert_backbone(tiny_backbone(gain=gain)).items()}
    for name in model.config.expert_names:
        weights |= expert_converter(name)(tiny_expert(1 + list(TYPES).index(name), lora=lora))
    needed = model.state_dict()
    weights = {base_layer_name(name, needed): value for name, value in weights.items()}
    model.load_state_dict({name: value for name, value in weights.items() if name in needed})
    return model
