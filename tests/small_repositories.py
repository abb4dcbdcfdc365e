# SPDX-License-Identifier: Apache-2.0
"""A small model of every system, with random weights, as a folder: for tests of repositories and the Space."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny_models import tiny_dtfsal, tiny_gfsalnet, tiny_salfom

from video_saliency.models.visage.configuration_visage import EXPERT_1, EXPERT_2, ViSAGEConfig
from video_saliency.models.visage.modeling_visage import ViSAGEForVideoSaliency
from video_saliency.processing_video_saliency import VideoSaliencyProcessor


def small_visage(seed: int = 0) -> tuple[ViSAGEForVideoSaliency, VideoSaliencyProcessor]:
    """A ViSAGE of both experts with their adapters and a few channels, for 4 frames of 28 x 28."""
    experts = [
        {**expert, "lora": {**expert["lora"], "r": 2}, "options": {**expert["options"], "reduced_dim": 16, "dim": 8}}
        for expert in (EXPERT_1, EXPERT_2)
    ]
    torch.manual_seed(seed)
    config = ViSAGEConfig(
        backbone_dim=16,
        backbone_depth=4,
        backbone_heads=2,
        image_size=28,
        experts=experts,
        window={"num_frames": 4},
    )
    return ViSAGEForVideoSaliency(config).eval(), VideoSaliencyProcessor(size={"height": 28, "width": 28})


# name -> what makes the model and its processor
SMALL_SYSTEMS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "dtfsal": tiny_dtfsal,
    "gfsalnet": tiny_gfsalnet,
    "salfom": tiny_salfom,
    "visage": small_visage,
}


def save_small_model(name: str, folder: Path) -> Path:
    """Write the small model of a system; returns the folder."""
    model, processor = SMALL_SYSTEMS[name]()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def make_clip_array(num_frames: int = 3) -> np.ndarray:
    """`(frames, 48, 64, 3)` uint8 noise."""
    return np.random.default_rng(0).integers(0, 256, (num_frames, 48, 64, 3), dtype=np.uint8)
