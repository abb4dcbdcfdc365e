# SPDX-License-Identifier: Apache-2.0
"""Models small enough for tests: whose maps tell which frames they saw and what they heard, and a tiny GFSalNet."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from video_saliency.audio_windows import AudioSpec
from video_saliency.modeling_outputs import VideoSaliencyOutput
from video_saliency.models.dtfsal.configuration_dtfsal import DTFSalConfig
from video_saliency.models.dtfsal.modeling_dtfsal import DTFSalForVideoSaliency
from video_saliency.models.gfsalnet.configuration_gfsalnet import GFSalNetConfig
from video_saliency.models.gfsalnet.modeling_gfsalnet import GFSalNetForVideoSaliency
from video_saliency.models.salfom.configuration_salfom import SalFoMConfig
from video_saliency.models.salfom.convert_salfom import PUBLISHED_MAPS
from video_saliency.models.salfom.modeling_salfom import SalFoMForVideoSaliency
from video_saliency.models.visage.configuration_visage import CLIP_MEAN, CLIP_STD, ViSAGEConfig
from video_saliency.models.visage.modeling_visage import ViSAGEForVideoSaliency
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


class HearingConfig(EchoConfig):
    model_type = "hearing_saliency_test"

    @property
    def audio_spec(self) -> AudioSpec:
        """A seventh of a second, in three slices."""
        return AudioSpec(num_slices=3, slice_frames=6, hop_frames=3, size=(6, 64))


class HearingModel(EchoModel):
    """Adds the loudness in the middle of the window to the red channel, more so towards the right."""

    config_class = HearingConfig

    def forward(self, pixel_values_videos: torch.Tensor, audio_values: torch.Tensor) -> VideoSaliencyOutput:
        maps = super().forward(pixel_values_videos).saliency_maps
        loudness = (audio_values[:, 1, 0, 2:4].exp() - 0.01).mean(dim=(-2, -1))
        return VideoSaliencyOutput(saliency_maps=maps + loudness[:, None, None, None] * torch.arange(maps.shape[-1]))


def echo_model(**window: Any) -> tuple[EchoModel, VideoSaliencyProcessor]:
    """An `EchoModel` for this window, and a processor that leaves 8-bit values as they are."""
    model = EchoModel(EchoConfig(window=WindowSpec(**window).to_dict())).eval()
    size = {"height": 4, "width": 6}
    return model, VideoSaliencyProcessor(size=size, image_mean=[0.0] * 3, image_std=[1.0] * 3, rescale_factor=1.0)


def hearing_model(**window: Any) -> tuple[HearingModel, VideoSaliencyProcessor]:
    """As `echo_model`, with sound."""
    processor = echo_model(**window)[1]
    return HearingModel(HearingConfig(window=WindowSpec(**window).to_dict())).eval(), processor


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


TINY_DTFSAL = {
    "encoder_channels": [8, 16, 16, 32],
    "encoder_depths": [1, 1, 1, 1],
    "encoder_heads": [1, 2, 2, 4],
    "encoder_input_size": [8, 32, 32],
    "hidden_size": 12,
    "num_tokens": 3,
    "token_size": [2, 3],
    "audio_num_slices": 2,
    "audio_slice_frames": 16,
    "audio_hop_frames": 4,
    "audio_size": [16, 32],
    "audio_channels": [4, 4, 8, 8],
    "audio_hidden_size": 8,
    "audio_heads": 2,
    "decoder_channels": [8, 6, 4],
    "window": {"num_frames": 8, "output": "middle"},
}


def tiny_dtfsal(seed: int = 0, **overrides: Any) -> tuple[DTFSalForVideoSaliency, VideoSaliencyProcessor]:
    """A DTFSal, audio-visual unless overridden, with a few channels and random weights, for 8 frames of 32 x 48."""
    torch.manual_seed(seed)
    model = DTFSalForVideoSaliency(DTFSalConfig(**{**TINY_DTFSAL, **overrides})).eval()
    return model, VideoSaliencyProcessor(size={"height": 32, "width": 48})


TINY_SALFOM = {
    "encoder_dim": 32,
    "encoder_depth": 2,
    "encoder_heads": 2,
    "tcfe_layers": [[16, 2, 1], [8, 2, 4], [8, 4, 4]],
    "tcfe_depth": 2,
    "tcfe_heads": 4,
    "dfd_layers": [[[24, 1, 1], [16, 2, 1]], [[8, 1, 2], [8, 2, 2]], [[8, 2, 2], [8, 2, 2]]],
    "sfd_layers": [[[24, 1], [16, 1]], [[8, 2], [8, 2]], [[8, 2], [8, 2]]],
    "fusion_channels": [8],
}


def tiny_salfom(seed: int = 0, **overrides: Any) -> tuple[SalFoMForVideoSaliency, VideoSaliencyProcessor]:
    """A SalFoM with all branches, a few channels and random weights, for 16 frames of 32 x 48."""
    torch.manual_seed(seed)
    model = SalFoMForVideoSaliency(SalFoMConfig(**{**TINY_SALFOM, **overrides})).eval()
    return model, VideoSaliencyProcessor(size={"height": 32, "width": 48}, published_maps=PUBLISHED_MAPS)


TINY_VISAGE = {
    "backbone_dim": 32,
    "backbone_depth": 4,
    "backbone_heads": 2,
    "image_size": 28,
    "experts": [
        {"name": name, "type": kind, "options": {"reduced_dim": 12, "dim": 8}, "lora": None}
        for name, kind in (("expert1", "modulated"), ("expert2", "multiscale"))
    ],
}


def tiny_visage(
    seed: int = 0, *, lora: bool = False, **overrides: Any
) -> tuple[ViSAGEForVideoSaliency, VideoSaliencyProcessor]:
    """A ViSAGE with both experts, with adapters or without, a few channels and random weights, for 28 x 28 pixels."""
    torch.manual_seed(seed)
    experts = [{**expert, "lora": {"r": 2, "alpha": 4} if lora else None} for expert in TINY_VISAGE["experts"]]
    model = ViSAGEForVideoSaliency(ViSAGEConfig(**{**TINY_VISAGE, "experts": experts, **overrides})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():  # so that adapters and the rest that starts at zero have an effect
                parameter.normal_(std=0.1)
    size = {"height": 28, "width": 28}
    return model, VideoSaliencyProcessor(size=size, image_mean=list(CLIP_MEAN), image_std=list(CLIP_STD))
