# SPDX-License-Identifier: Apache-2.0
"""Predict where people look in video. Importing this package registers its models with transformers' Auto classes."""

from __future__ import annotations

from transformers import AutoProcessor

from video_saliency.defaults import DEFAULT_MODEL
from video_saliency.modeling_outputs import VideoSaliencyOutput
from video_saliency.models.auto import AutoModelForVideoSaliency
from video_saliency.models.gfsalnet.configuration_gfsalnet import GFSalNetConfig
from video_saliency.models.gfsalnet.modeling_gfsalnet import GFSalNetForVideoSaliency
from video_saliency.predictor import SaliencyFrame, VideoSaliencyPredictor
from video_saliency.processing_video_saliency import VideoSaliencyProcessor
from video_saliency.version import __version__
from video_saliency.windows import Window, WindowPlanner, WindowSpec, plan_windows

for _config_class in (GFSalNetConfig,):
    AutoProcessor.register(_config_class, VideoSaliencyProcessor, exist_ok=True)

__all__ = [
    "DEFAULT_MODEL",
    "AutoModelForVideoSaliency",
    "GFSalNetConfig",
    "GFSalNetForVideoSaliency",
    "SaliencyFrame",
    "VideoSaliencyOutput",
    "VideoSaliencyPredictor",
    "VideoSaliencyProcessor",
    "Window",
    "WindowPlanner",
    "WindowSpec",
    "__version__",
    "plan_windows",
]
