# SPDX-License-Identifier: Apache-2.0
"""GFSalNet: a gated fusion of an appearance and a motion stream.

Written from the paper: Kocak, Erdem and Erdem, "A Gated Fusion Network for Dynamic Saliency Prediction", IEEE TCDS
2021, arXiv 2102.07682. No code of the authors is public; where the paper is silent, a switch of the config says what
we read into it. Sizes in comments are those of the full model at 640 x 480 input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init

from video_saliency.backbones.box_filter import box_mean
from video_saliency.backbones.dis_flow import DISFlow
from video_saliency.backbones.lucas_kanade import LucasKanadeFlow
from video_saliency.backbones.pwcnet import NEGATIVE_SLOPE, PWCNetConvolution, PWCNetFlow, PWCNetUpsampling
from video_saliency.backbones.resnet import ResNetTrunk
from video_saliency.losses import saliency_loss
from video_saliency.modeling_outputs import VideoSaliencyOutput
from video_saliency.models.gfsalnet.configuration_gfsalnet import GFSalNetConfig
from video_saliency.optical_flow import align_flow_pairs, flow_to_image

FLOW_PIXELS = 2**18  # of frames that are matched together on a CPU: with more, batches are slower than single pairs
LayerT = TypeVar("LayerT", nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


@dataclass
class GFSalNetOutput(VideoSaliencyOutput):
    """Maps of a batch of clips; all are `(batch, frames, height, width)` at input size.

    Attributes:
        loss: scalar, only with labels.
        logits: always `None`: the streams' maps are activated before they are fused (eq. 3), so that no map exists
            of which `saliency_maps` would be the activation.
        saliency_maps: 0 or more, on the model's own scale.
        hidden_states: the four stages of each stream's trunk, `(batch, frames, channels, h, w)`, appearance first.
        gate_maps: P of eq. 1, the weight of appearance in 0..1; that of motion is 1 - P. `None` without gated fusion.
        appearance_maps: S_A, the map of the appearance stream; `None` without that stream.
        motion_maps: S_T, the map of the motion stream; `None` without that stream.
    """

    gate_maps: torch.Tensor | None = None
    appearance_maps: torch.Tensor | None = None
    motion_maps: torch.Tensor | None = None


def _with_initial(layer: LayerT, *, std: float, mean: float = 0.0, bias: float = 0.0) -> LayerT:
    """The layer, marked with how `_init_weights` fills it: normal weights and a constant bias.

    The mark is on the layer itself, because transformers asks a module about its own parameters only.
    """
    for name, value in (("initial_std", std), ("initial_mean", mean), ("initial_bias", bias)):
        setattr(layer, name, value)
    return layer


def _kaiming_std(fan_in: float, gain: float = 2.0) -> float:
    """Deviation that keeps the variance through a layer of `fan_in` inputs and a ReLU (He et al. 2015; no ReLU: 1)."""
    return math.sqrt(gain / fan_in)


def _flow_backend(config: GFSalNetConfig) -> LucasKanadeFlow | PWCNetFlow | DISFlow | None:
    """What computes the flow of frames that come without; never trained here."""
    if config.flow_backend == "lucas_kanade":
        return LucasKanadeFlow(remove_camera=config.flow_remove_camera)
    if config.flow_backend == "pwcnet":
        return PWCNetFlow()
    return DISFlow() if config.flow_backend == "dis" else None


def _without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Flow is computed in float32; the meta device knows no autocast at all."""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


class GFSalNetDeconvolutions(nn.Module):
    """Transposed convolutions with a ReLU after each; the last one is left out with `activate_last=False`."""

    def __init__(
        self, in_channels: int, layers: Sequence[Sequence[int]], *, activate_last: bool = True, last_bias: float = 0.0
    ) -> None:
        super().__init__()
        self.activate_last = activate_last
        self.layers = nn.ModuleList()
        for channels, kernel, stride, padding in layers:
            layer = nn.ConvTranspose2d(in_channels, channels, kernel, stride=stride, padding=padding)
            # each output pixel sees (kernel / stride)^2 input pixels
            std = _kaiming_std(in_channels * (kernel / stride) ** 2)
            bias = last_bias if len(self.layers) == len(layers) - 1 else 0.0
            self.layers.append(_with_initial(layer, std=std, bias=bias))
            in_channels = channels

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(batch, channels, height * strides, width * strides)`."""
        for index, layer in enumerate(self.layers):
            hidden_states = layer(hidden_states)
            if self.activate_last or index < len(self.layers) - 1:
                hidden_states = F.relu(hidden_states)
        return hidden_states


class GFSalNetSpatialAttention(nn.Module):
    """Weighs each position by a sigmoid of its features."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.projection = _with_initial(nn.Conv2d(channels, 1, kernel_size=1), std=_kaiming_std(channels, gain=1))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Shape as given, `(batch, channels, height, width)`."""
        weights = torch.sigmoid(self.projection(hidden_states))  # (batch, 1, height, width)
        return hidden_states * weights


class GFSalNetChannelAttention(nn.Module):
    """Weighs each channel by its mean over the picture, squeezed and excited.

    The last activation is a ReLU, as in the paper, not a sigmoid: weights may exceed 1 and may be 0. The second bias
    therefore starts at 1, so that no channel is dead from the start (our choice).
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.squeeze = _with_initial(nn.Linear(channels, hidden), std=_kaiming_std(channels))
        self.excite = _with_initial(nn.Linear(hidden, channels), std=_kaiming_std(hidden), bias=1.0)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Shape as given, `(batch, channels, height, width)`."""
        means = hidden_states.mean(dim=(-2, -1))  # (batch, channels)
        weights = F.relu(self.excite(F.relu(self.squeeze(means))))
        return hidden_states * weights[:, :, None, None]


class GFSalNetLevelFusion(nn.Module):
    """Enlarges deep features bilinearly and fuses them with the shallower block by a 1x1 convolution.

    A 1x1 convolution of a concatenation is the sum of two, and commutes with bilinear enlargement, whose weights sum
    to 1. So the deep half runs before enlarging: equal numbers up to rounding, and a quarter of its work. No
    activation follows: the paper names none.
    """

    def __init__(self, deep_channels: int, shallow_channels: int) -> None:
        super().__init__()
        std = _kaiming_std(deep_channels + shallow_channels, gain=1)
        self.deep = _with_initial(nn.Conv2d(deep_channels, shallow_channels, kernel_size=1, bias=False), std=std)
        self.shallow = _with_initial(nn.Conv2d(shallow_channels, shallow_channels, kernel_size=1), std=std)

    def forward(self, deep: torch.Tensor, shallow: torch.Tensor) -> torch.Tensor:
        """`(batch, shallow_channels, height, width)` at the size of `shallow`."""
        enlarged = F.interpolate(self.deep(deep), size=shallow.shape[-2:], mode="bilinear", align_corners=False)
        return enlarged + self.shallow(shallow)


class GFSalNetCentrePrior(nn.Module):
    """Adds a learned coarse map, enlarged to the size of the input: where people look whatever the picture shows."""

    def __init__(self, size: Sequence[int]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 1, *size))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Shape as given, `(batch, 1, height, width)`."""
        return maps + F.interpolate(self.weight, size=maps.shape[-2:], mode="bilinear", align_corners=False)


class GFSalNetContrast(nn.Module):
    """How much each place differs from its surroundings, in brightness and two colour contrasts at three scales, mixed
    to one map: what attracts the eye in any picture (Itti, Koch and Niebur, PAMI 1998; this form is ours).
    """

    SCALES = (1, 2, 4)  # radius of the centre in pixels of a quarter of the input; the surroundings are three times it

    def __init__(self) -> None:
        super().__init__()
        self.mix = _with_initial(nn.Conv2d(3 * len(self.SCALES), 1, kernel_size=1), std=0.0)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """`(batch, 1, height, width)`, any sign, for `(batch, 3, height, width)` normalised images."""
        red, green, blue = F.avg_pool2d(images.detach(), 4, ceil_mode=True).split(1, dim=1)
        opponents = torch.cat([(red + green + blue) / 3, red - green, blue - (red + green) / 2], dim=1)
        contrasts = []
        for scale in self.SCALES:
            difference = _smooth(opponents, 2 * scale - 1) - _smooth(opponents, 6 * scale + 1)
            contrast = _smooth(difference.abs(), 2 * scale + 1)
            # against the mean of the picture, so that faint pictures have contrasts as well
            contrasts.append(contrast / (contrast.mean(dim=(-2, -1), keepdim=True) + 1e-3))
        mixed = self.mix(torch.cat(contrasts, dim=1).clamp(max=8))
        return F.interpolate(mixed, size=images.shape[-2:], mode="bilinear", align_corners=False)


def _smooth(images: torch.Tensor, side: int) -> torch.Tensor:
    """Two means over windows of odd `side`, nearly a Gaussian."""
    return box_mean(box_mean(images, side), side) if side > 1 else images


def _centred_gaussian(maps: torch.Tensor) -> torch.Tensor:
    """`(height, width)`: 1 in the middle of maps `(..., height, width)`, deviation a quarter of each side."""
    shares = [(torch.arange(side, device=maps.device) + 0.5) / side - 0.5 for side in maps.shape[-2:]]
    column, row = (torch.exp(-8 * share.square()) for share in shares)
    return (column[:, None] * row).to(maps.dtype)


def _standardized(frames: torch.Tensor) -> torch.Tensor:
    """Each frame with mean 0 and deviation 1 over its channels and pixels; a frame without contrast stays flat."""
    variance, mean = torch.var_mean(frames, dim=(-3, -2, -1), keepdim=True)
    return (frames - mean) / (variance + 0.05**2).sqrt()


class GFSalNetStream(nn.Module):
    """One stream: picture (or flow image) in, one saliency map out."""

    def __init__(self, config: GFSalNetConfig) -> None:
        super().__init__()
        encoder_config: Any = config.encoder_config
        channels = encoder_config.hidden_sizes
        self.output_activation = config.output_activation
        self.head_stride = math.prod(layer[2] for layer in config.head_deconv)

        self.trunk = ResNetTrunk(encoder_config)
        self.spatial_attention = GFSalNetSpatialAttention(channels[-1]) if config.spatial_attention else nn.Identity()
        self.main_deconv = GFSalNetDeconvolutions(channels[-1], config.main_deconv)
        merged_channels = config.main_deconv[-1][0]
        self.multi_level = nn.ModuleList()
        self.multi_level_deconv = None
        if config.multi_level:
            # from deep to shallow
            pairs = zip(channels[:0:-1], channels[-2::-1], strict=True)
            self.multi_level.extend(GFSalNetLevelFusion(deep, shallow) for deep, shallow in pairs)
            self.multi_level_deconv = GFSalNetDeconvolutions(channels[0], config.multi_level_deconv)
            merged_channels += config.multi_level_deconv[-1][0]
        self.channel_attention = (
            GFSalNetChannelAttention(merged_channels, config.channel_attention_reduction)
            if config.channel_attention
            else nn.Identity()
        )
        # a positive bias keeps the last ReLU alive at the start (our choice)
        self.head = GFSalNetDeconvolutions(merged_channels, config.head_deconv, activate_last=False, last_bias=0.01)
        self.contrast = GFSalNetContrast() if config.contrast_branch else None
        self.centre_prior = GFSalNetCentrePrior(config.centre_prior_size) if config.centre_prior else nn.Identity()

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """Maps `(batch, height, width)`, 0 or more, and the four feature maps of the trunk.

        Args:
            images: `(batch, 3, height, width)`, normalised, any size. Where a side is no multiple of 32 (the paper
                defines 640 x 480 only), the branches are cropped to their common size, which keeps their positions,
                and the map is resized to the input.
        """
        height, width = images.shape[-2:]
        stages = self.trunk(images)  # (batch, 256 .. 2048, 120 .. 15, 160 .. 20)
        deepest = self.spatial_attention(stages[-1])  # (batch, 2048, 15, 20)
        branches = [self.main_deconv(deepest)]  # (batch, 64, 120, 160)
        if self.multi_level_deconv is not None:
            fused = deepest
            for level, stage in zip(self.multi_level, stages[-2::-1], strict=True):
                fused = level(fused, stage)  # (batch, 1024, 30, 40), (batch, 512, 60, 80), (batch, 256, 120, 160)
            branches.append(self.multi_level_deconv(fused))  # (batch, 32, 120, 160)

        rows, columns = math.ceil(height / self.head_stride), math.ceil(width / self.head_stride)
        merged = torch.cat([branch[..., :rows, :columns] for branch in branches], dim=1)  # (batch, 96, 120, 160)
        maps = self.head(self.channel_attention(merged))  # (batch, 1, 480, 640)
        if maps.shape[-2:] != images.shape[-2:]:
            maps = F.interpolate(maps, size=(height, width), mode="bilinear", align_corners=False)
        if self.contrast is not None:
            maps = maps + self.contrast(images)
        maps = self.centre_prior(maps)
        maps = F.relu(maps) if self.output_activation == "relu" else F.softplus(maps)
        return maps.squeeze(1), stages


class GFSalNetGatedFusion(nn.Module):
    """Eq. 1-3: a probability map says where to trust appearance and where motion. It starts at one half."""

    def __init__(self) -> None:
        super().__init__()
        self.projection = _with_initial(nn.Conv2d(2, 1, kernel_size=1), std=0.0)

    def forward(self, appearance: torch.Tensor, motion: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Fused maps and gate, both `(batch, height, width)` like the maps given."""
        gate = torch.sigmoid(self.projection(torch.stack([appearance, motion], dim=1))).squeeze(1)
        return appearance * gate + motion * (1 - gate), gate


class GFSalNetStaticFusion(nn.Module):
    """The paper's ablation: one 1x1 convolution. It starts as the mean of both maps.

    The ReLU after it is ours: weights may become negative, saliency must not.
    """

    def __init__(self) -> None:
        super().__init__()
        self.projection = _with_initial(nn.Conv2d(2, 1, kernel_size=1), std=0.0, mean=0.5)

    def forward(self, appearance: torch.Tensor, motion: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Fused maps `(batch, height, width)` like the maps given, and no gate."""
        return F.relu(self.projection(torch.stack([appearance, motion], dim=1))).squeeze(1), None


class GFSalNetPreTrainedModel(PreTrainedModel):
    """Weight initialisation and what transformers wants to know of the model."""

    config_class = GFSalNetConfig
    base_model_prefix = "gfsalnet"
    main_input_name = "pixel_values_videos"
    input_modalities = ("video",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["GFSalNetStream"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Fills the added layers; the trunks have their own rule, that of transformers."""
        if hasattr(module, "initial_std"):
            init.normal_(module.weight, mean=module.initial_mean, std=module.initial_std)
            if module.bias is not None:
                init.constant_(module.bias, module.initial_bias)
        elif isinstance(module, GFSalNetCentrePrior):
            init.zeros_(module.weight)
        elif isinstance(module, (PWCNetConvolution, PWCNetUpsampling)):
            init.kaiming_normal_(module.weight, a=NEGATIVE_SLOPE)
            init.zeros_(module.bias)


class GFSalNetForVideoSaliency(GFSalNetPreTrainedModel):
    """GFSalNet, full or compact, with both streams or one.

    Example:

    ```python
    >>> import torch
    >>> from video_saliency import GFSalNetConfig, GFSalNetForVideoSaliency
    >>> model = GFSalNetForVideoSaliency(GFSalNetConfig.compact()).eval()
    >>> outputs = model(torch.zeros(1, 2, 3, 64, 96))
    >>> outputs.saliency_maps.shape, outputs.gate_maps.shape
    (torch.Size([1, 2, 64, 96]), torch.Size([1, 2, 64, 96]))

    ```
    """

    def __init__(self, config: GFSalNetConfig) -> None:
        super().__init__(config)
        names = ("appearance", "motion") if config.streams == "both" else (config.streams,)
        self.streams = nn.ModuleDict({name: GFSalNetStream(config) for name in names})
        self.fusion = None
        if config.streams == "both":
            self.fusion = GFSalNetGatedFusion() if config.fusion == "gated" else GFSalNetStaticFusion()
        self.flow = _flow_backend(config) if "motion" in self.streams else None
        self.post_init()
        self.train(self.training)

    def train(self, mode: bool = True) -> GFSalNetForVideoSaliency:
        """Sets the mode of the streams; the flow backend stays frozen and in evaluation mode."""
        super().train(mode)
        if self.flow is not None:
            # here, not once for all: loading a checkpoint makes every parameter trainable again, then calls this
            self.flow.requires_grad_(False).eval()
        return self

    def forward(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        flow_values: torch.Tensor | None = None,
        *,
        saliency_labels: torch.Tensor | None = None,
        fixation_labels: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> GFSalNetOutput | tuple[torch.Tensor, ...]:
        """One saliency map for each frame; frames do not see each other, motion comes in as flow.

        Args:
            pixel_values_videos: `(batch, frames, 3, height, width)` normalised RGB frames of any size. With
                `streams="motion"` only its flow is used, and it is not needed beside `flow_values`.
            flow_values: same shape: colour images of each frame's optical flow, normalised with the config's
                `flow_mean` and `flow_std`. `None`: computed from the frames by the config's `flow_backend`; without
                one, and for clips of one frame, zero flow (a white image).
            saliency_labels: true densities `(batch, frames, height, width)`, any scale; with them a loss is returned.
            fixation_labels: fixation maps, same shape, above 0 where somebody looked; without them the NSS term is
                left out.
            output_hidden_states: whether to return the trunks' stages. Default: as the config says.
            return_dict: `False` returns a tuple. Default: as the config says.

        Raises:
            ValueError: for a missing or a needless input, or one of the wrong shape.
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if return_dict is None:
            return_dict = self.config.return_dict
        images = self._stream_images(pixel_values_videos, flow_values)
        if self.config.standardize_frames and "appearance" in images:
            images["appearance"] = _standardized(images["appearance"])

        maps, features = self._run_streams({name: clips.flatten(0, 1) for name, clips in images.items()})
        batch_shape = next(iter(images.values())).shape[:2]
        maps = {name: value.unflatten(0, batch_shape) for name, value in maps.items()}
        output = GFSalNetOutput(
            loss=self._loss(maps["saliency"], saliency_labels, fixation_labels),
            saliency_maps=maps["saliency"],
            hidden_states=tuple(x.unflatten(0, batch_shape) for x in features) if output_hidden_states else None,
            gate_maps=maps.get("gate"),
            appearance_maps=maps.get("appearance"),
            motion_maps=maps.get("motion"),
        )
        return output if return_dict else output.to_tuple()

    def _run_streams(
        self, images: dict[str, torch.Tensor]
    ) -> tuple[dict[str, torch.Tensor], tuple[torch.Tensor, ...]]:
        """Maps `(batch * frames, height, width)` by name, the result as `saliency`, and the stages of the trunks."""
        maps: dict[str, torch.Tensor] = {}
        features: tuple[torch.Tensor, ...] = ()
        for name, stream in self.streams.items():
            maps[name], stages = stream(images[name])
            features += stages
        gate = None
        if self.fusion is None:
            (maps["saliency"],) = maps.values()
        else:
            if self.config.normalize_appearance:
                mean = maps["appearance"].mean(dim=(-2, -1), keepdim=True)
                maps["appearance"] = maps["appearance"] / mean.clamp(min=1e-6)
            maps["saliency"], gate = self.fusion(maps["appearance"], maps["motion"])
        if self.config.centre_exponent:
            # behind the gate, which weighs the maps as they are
            middle = _centred_gaussian(maps["saliency"]) ** self.config.centre_exponent
            maps = {name: value * middle for name, value in maps.items()}
        return maps if gate is None else {**maps, "gate": gate}, features

    @torch.no_grad()
    def copy_appearance_to_motion(self) -> None:
        """Starts the motion stream from the appearance stream's weights.

        Step 2 of the paper's recipe: the single appearance stream is trained on still images, then both streams start
        from it. Load such a one-stream checkpoint into a two-stream model first.

        Raises:
            ValueError: for a model with one stream.
        """
        if len(self.streams) < 2:
            raise ValueError('this model has one stream: make it with GFSalNetConfig(streams="both")')
        self.streams["motion"].load_state_dict(self.streams["appearance"].state_dict())

    @torch.no_grad()
    def encode_for_flow(self, frames: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What the flow backend needs of each frame; computed once, it serves the pairs with both neighbours.

        Args:
            frames: `(frames, 3, height, width)` RGB in 0..1.

        Raises:
            ValueError: for a model that computes no flow.
        """
        if self.flow is None:
            raise ValueError("this model computes no flow: it has no motion stream, or its config no flow_backend")
        with _without_autocast(frames.device):
            encoded: tuple[torch.Tensor, ...] = self.flow.encode(frames.float())
        return encoded

    @torch.no_grad()
    def flow_values_between(
        self, start: Sequence[torch.Tensor], end: Sequence[torch.Tensor], size: tuple[int, int]
    ) -> torch.Tensor:
        """Normalised images `(frames, 3, *size)` of the flow from the frames `start` to the frames `end`.

        Args:
            start: frames as `encode_for_flow` gives them; the flow lies on their grid.
            end: as many encoded frames.
            size: (height, width) of the frames.
        """
        assert self.flow is not None  # `encode_for_flow` has checked it
        pairs = len(start[0])
        together = max(1, FLOW_PIXELS // (size[0] * size[1])) if start[0].device.type == "cpu" else pairs
        images = []
        with _without_autocast(start[0].device):
            for first in range(0, pairs, together):
                some_start, some_end = ([part[first : first + together] for part in parts] for parts in (start, end))
                images.append(self.flow_values_from(self.flow.match(some_start, some_end, size)))
        return torch.cat(images)

    def zero_flow_values(self, frames: torch.Tensor) -> torch.Tensor:
        """The normalised image of zero flow, which is white, for each of `(..., 3, height, width)` frames."""
        white = [(1 - mean) / std for mean, std in zip(self.config.flow_mean, self.config.flow_std, strict=True)]
        return frames.new_tensor(white)[:, None, None].expand_as(frames)

    def flow_values_from(self, flow: torch.Tensor) -> torch.Tensor:
        """Normalised colour images `(..., 3, height, width)` of flow, encoded as the config says.

        Args:
            flow: `(..., 2, height, width)` float in pixels, x (right) first; see `align_flow_pairs` for which flow
                belongs to which frame.
        """
        images = flow_to_image(
            flow, max_magnitude=self.config.flow_max_magnitude, min_magnitude=self.config.flow_min_magnitude
        )
        mean, std = (
            torch.tensor(values, device=flow.device)[:, None, None]
            for values in (self.config.flow_mean, self.config.flow_std)
        )
        return ((images / 255 - mean) / std).to(self.dtype)

    def _flow_of_clips(self, frames: torch.Tensor) -> torch.Tensor:
        """Flow images of normalised clips, each frame with the neighbour that the config names."""
        if self.flow is None or frames.shape[1] < 2:
            return self.zero_flow_values(frames)
        batch, num_frames, _, *size = frames.shape
        mean, std = (
            torch.tensor(values, device=frames.device)[:, None, None]
            for values in (self.config.flow_mean, self.config.flow_std)
        )
        # back to the 8-bit values of the video: what rounding does to them must not reach the colours of the flow
        pictures = ((frames.float() * std + mean) * 255).round() / 255
        encoded = self.encode_for_flow(pictures.flatten(0, 1))
        clips = [part.unflatten(0, (batch, num_frames)) for part in encoded]
        first, second = [part[:, :-1].flatten(0, 1) for part in clips], [part[:, 1:].flatten(0, 1) for part in clips]
        start, end = (first, second) if self.config.flow_pair == "next" else (second, first)
        with torch.no_grad(), _without_autocast(frames.device):
            flow = self.flow.match(start, end, (size[0], size[1])).unflatten(0, (batch, num_frames - 1))
            return self.flow_values_from(align_flow_pairs(flow, self.config.flow_pair))

    def _stream_images(self, frames: torch.Tensor | None, flow_images: torch.Tensor | None) -> dict[str, torch.Tensor]:
        """What each stream sees, checked; computed flow where none is given."""
        for name, images in (("pixel_values_videos", frames), ("flow_values", flow_images)):
            if images is not None and (images.ndim != 5 or images.shape[2] != 3):
                raise ValueError(f"{name} must be (batch, frames, 3, height, width), got {tuple(images.shape)}")
        if "motion" not in self.streams and flow_images is not None:
            raise ValueError("this model has no motion stream: leave flow_values away")
        if frames is None:
            if "appearance" in self.streams or flow_images is None:
                raise ValueError(
                    "pixel_values_videos is missing: pass frames (batch, frames, 3, height, width); a model with "
                    'streams="motion" takes flow_values instead'
                )
            return {"motion": flow_images}
        if "motion" not in self.streams:
            return {"appearance": frames}
        if flow_images is None:
            flow_images = self._flow_of_clips(frames)
        if frames.shape != flow_images.shape:
            raise ValueError(
                f"flow_values {tuple(flow_images.shape)} must have the shape of pixel_values_videos "
                f"{tuple(frames.shape)}: one flow image per frame, see `align_flow_pairs`"
            )
        return {"appearance": frames, "motion": flow_images} if len(self.streams) > 1 else {"motion": flow_images}

    def _loss(
        self, maps: torch.Tensor, saliency_labels: torch.Tensor | None, fixation_labels: torch.Tensor | None
    ) -> torch.Tensor | None:
        if saliency_labels is None:
            if fixation_labels is not None:
                raise ValueError(
                    "fixation_labels need saliency_labels beside them: the loss is mostly about densities"
                )
            return None
        return saliency_loss(
            maps,
            saliency_labels,
            fixation_labels,
            kl_weight=self.config.kl_loss_weight,
            nss_weight=self.config.nss_loss_weight,
            cc_weight=self.config.cc_loss_weight,
        )


__all__ = ["GFSalNetForVideoSaliency", "GFSalNetOutput", "GFSalNetPreTrainedModel"]
