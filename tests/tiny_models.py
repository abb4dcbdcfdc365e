# SPDX-License-Identifier: Apache-2.0
"""Models small enough for tests: one whose maps tell which frames it saw, and a tiny GFSalNet."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from video_saliency.modeling_outputs import VideoSaliencyOutput
from video_saliency.models.gfsalnet.configuration_gfsalnet import GFSalNetConfig
from video_saliency.models.gfsalnet.modeling_gfsalnet import GFSalNetForVideoSaliency
from video_saliency.processing_video_saliency import VideoSaliencyProcessor
from video_saliency.windows import WindowSpec


class EchoConfig(PreTrainedConfig):
    model_type = "echo_saliency_test"

    def __init__(self, window: dict[str, Any] | None = None, **kwargs: Any) -> None:
        self.window = window or WindowSpec().to_dict()
        super().__init__(**kwargs)

    @property
    def window_spec(self) -> WindowSpec:
        return WindowSpec(**self.window)


class EchoModel(PreTrainedModel):
    """The map of a frame is its red channel; counts the windows that it was given."""

    config_class = EchoConfig
    main_input_name = "pixel_values_videos"

    def __init__(self, config: EchoConfig) -> None:
        super().__init__(config)
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.windows_seen = 0
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        if module is self:
            torch.nn.init.ones_(self.scale)

    def forward(self, pixel_values_videos: torch.Tensor) -> VideoSaliencyOutput:
        self.windows_seen += len(pixel_values_videos)
        spec = self.config.window_spec
        assert pixel_values_videos.shape[1] == spec.num_frames
        maps = pixel_values_videos[:, :, 0] * self.scale
        if spec.output == "last":
            maps = maps[:, -1:]
        elif spec.output == "middle":
            maps = maps[:, spec.num_frames // 2 :][:, :1]
        return VideoSaliencyOutput(saliency_maps=maps)


def echo_model(**window: Any) -> tuple[EchoModel, VideoSaliencyProcessor]:
    """An `EchoModel` for this window, and a processor that leaves 8-bit values as they are."""
    model = EchoModel(EchoConfig(window=WindowSpec(**window).to_dict())).eval()
    size = {"height": 4, "width": 6}
    return model, VideoSaliencyProcessor(size=size, image_mean=[0.0] * 3, image_std=[1.0] * 3, rescale_factor=1.0)


def tiny_gfsalnet(seed: int = 0, **overrides: Any) -> tuple[GFSalNetForVideoSaliency, VideoSaliencyProcessor]:
    """A compact GFSalNet with a few channels and random weights, for 32 x 48 input."""
    encoder = {
        "layer_type": "basic",
        "embedding_size": 4,
        "hidden_sizes": [4, 6, 8, 10],
        "depths": [1, 1, 1, 1],
        "model_type": "resnet",
    }
    torch.manual_seed(seed)
    model = GFSalNetForVideoSaliency(GFSalNetConfig.compact(encoder_config=encoder, **overrides)).eval()
    return model, VideoSaliencyProcessor(size={"height": 32, "width": 48})
