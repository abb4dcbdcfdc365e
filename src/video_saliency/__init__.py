# SPDX-License-Identifier: Apache-2.0
"""Predict where people look in video.

Importing this package registers its models with the Auto classes of transformers and the task "video-saliency" with
its pipelines:

    import video_saliency
    from transformers import pipeline

    result = pipeline("video-saliency")("clip.mp4")
"""

from __future__ import annotations

from transformers import AutoModel, AutoProcessor
from transformers.pipelines import PIPELINE_REGISTRY

from video_saliency.defaults import DEFAULT_MODEL
from video_saliency.modeling_outputs import VideoSaliencyOutput
from video_saliency.models.auto import AutoModelForVideoSaliency
from video_saliency.models.dtfsal.configuration_dtfsal import DTFSalConfig
from video_saliency.models.dtfsal.modeling_dtfsal import DTFSalForVideoSaliency
from video_saliency.models.gfsalnet.configuration_gfsalnet import GFSalNetConfig
from video_saliency.models.gfsalnet.modeling_gfsalnet import GFSalNetForVideoSaliency
from video_saliency.models.salfom.configuration_salfom import SalFoMConfig
from video_saliency.models.salfom.modeling_salfom import SalFoMForVideoSaliency
from video_saliency.models.visage.configuration_visage import ViSAGEConfig
from video_saliency.models.visage.modeling_visage import ViSAGEForVideoSaliency
from video_saliency.models.visage.modeling_visage_experts import ViSAGEExpert, register_expert
from video_saliency.pipeline_video_saliency import VideoSaliencyPipeline
from video_saliency.predictor import SaliencyFrame, VideoSaliencyPredictor
from video_saliency.processing_video_saliency import VideoSaliencyProcessor
from video_saliency.version import __version__
from video_saliency.windows import Window, WindowPlanner, WindowSpec, plan_windows

for _config_class in (DTFSalConfig, GFSalNetConfig, SalFoMConfig, ViSAGEConfig):
    AutoProcessor.register(_config_class, VideoSaliencyProcessor, exist_ok=True)

PIPELINE_REGISTRY.register_pipeline(
    "video-saliency",
    pipeline_class=VideoSaliencyPipeline,
    pt_model=(AutoModel,),
    default={"model": (DEFAULT_MODEL, "main")},
    type="multimodal",
)

__all__ = [
    "DEFAULT_MODEL",
    "AutoModelForVideoSaliency",
    "DTFSalConfig",
    "DTFSalForVideoSaliency",
    "GFSalNetConfig",
    "GFSalNetForVideoSaliency",
    "SalFoMConfig",
    "SalFoMForVideoSaliency",
    "SaliencyFrame",
    "ViSAGEConfig",
    "ViSAGEExpert",
    "ViSAGEForVideoSaliency",
    "VideoSaliencyOutput",
    "VideoSaliencyPipeline",
    "VideoSaliencyPredictor",
    "VideoSaliencyProcessor",
    "Window",
    "WindowPlanner",
    "WindowSpec",
    "__version__",
    "plan_windows",
    "register_expert",
]
