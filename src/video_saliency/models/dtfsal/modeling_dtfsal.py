# SPDX-License-Identifier: Apache-2.0
"""DTFSal: video and, if wanted, sound to the saliency map of a clip's target frame.

Written from the paper ("DTFSal: audio-visual dynamic token fusion for video saliency prediction"); no code of the
authors is public. Where the paper is silent, a field of the config says what we read into it. Sizes in comments are
those of 32 frames of 224 x 384.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init

from video_saliency.backbones.deformable_conv import deformable_conv2d
from video_saliency.backbones.mvitv2 import MViTv2Attention, MViTv2Encoder
from video_saliency.backbones.vggish import VGGishEncoder
from video_saliency.losses import kl_minus_cc_loss
from video_saliency.modeling_outputs import VideoSaliencyOutput
from video_saliency.models.dtfsal.configuration_dtfsal import FEWEST_FRAMES, NUM_STAGES, DTFSalConfig

logger = logging.getLogger(__name__)

SILENCE = math.log(0.01)  # the log-mel value of no sound, as the front end adds 0.01 before its logarithm
AUDIO_PARTS = ("audio_encoder", "audio_enhancement", "audio_fusions")  # what a visual model lacks
FIRST_STRIDE = 4  # of the encoder's first stage in space; each further stage doubles it
LayerT = TypeVar("LayerT", nn.Conv2d, nn.Conv3d, nn.Linear)


@dataclass
class DTFSalOutput(VideoSaliencyOutput):
    """The map of a clip's target frame, and what it was made of; maps are `(batch, 1, height, width)` at input size.

    Attributes:
        loss: scalar, only with labels.
        logits: the maps before the last sigmoid.
        saliency_maps: in 0..1, in float32 always, as are the maps of the stages.
        hidden_states: the encoder's four stages, `(batch, channels, frames / 2, h, w)`; only when asked for.
        stage1_maps, stage2_maps, stage3_maps, stage4_maps: s_1 to s_4, the map of each stage's decoder in 0..1; `None`
            for a model with one decoder.
        stream_scores: W of eq. 14, `(batch, fused stages, 3)` in 0..1: how much the local, the global and the adaptive
            stream count; the mean over channels if it has one for each. `None` without AMFB.
    """

    stage1_maps: torch.Tensor | None = None
    stage2_maps: torch.Tensor | None = None
    stage3_maps: torch.Tensor | None = None
    stage4_maps: torch.Tensor | None = None
    stream_scores: torch.Tensor | None = None


def _with_gain(layer: LayerT, gain: float) -> LayerT:
    """The layer, marked for `_init_weights`: what follows it keeps `1 / gain` of the variance (a ReLU: gain 2).

    The mark is on the layer itself, because transformers asks a module about its own parameters only.
    """
    layer.initial_gain = gain  # type: ignore[assignment]
    return layer


def _same_convolution(
    in_channels: int, out_channels: int, kernel: Sequence[int], *, bias: bool = True, groups: int = 1
) -> nn.Conv3d:
    """A convolution that keeps the size; kernels are (time, height, width)."""
    padding = tuple(side // 2 for side in kernel)
    return nn.Conv3d(in_channels, out_channels, tuple(kernel), padding=padding, bias=bias, groups=groups)  # type: ignore[arg-type]


def _enlarge(features: torch.Tensor, factor: int, size: Sequence[int] | None = None) -> torch.Tensor:
    """`(batch, channels, frames, *size)`: each frame enlarged bilinearly by a factor, then cropped if `size` is given.

    Trilinear by (1, factor, factor) is the same. Only sides that are no multiple of 32 are cropped: the last cell of
    such a side reaches over its end, and cropping leaves the others where they are.
    """
    frames = features.shape[2]
    if factor > 1:
        flat = F.interpolate(features.flatten(1, 2), scale_factor=factor, mode="bilinear", align_corners=False)
        features = flat.unflatten(1, (-1, frames))
    return features if size is None else features[..., : size[0], : size[1]]


def _resize(features: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """`(batch, channels, *size)`, linear in time and space."""
    if list(features.shape[2:]) == list(size):
        return features
    return F.interpolate(features, size=list(size), mode="trilinear", align_corners=False)


def _attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, heads: int, attention: str) -> torch.Tensor:
    """Multi-head attention of projected tokens `(batch, tokens, channels)`; same shape."""
    query, key, value = (tokens.unflatten(-1, (heads, -1)).transpose(1, 2) for tokens in (query, key, value))
    if attention == "eager":
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
        mixed = scores.softmax(dim=-1) @ value
    else:
        mixed = F.scaled_dot_product_attention(query, key, value)
    return mixed.transpose(1, 2).flatten(-2)


class DTFSalChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels at each position of `(batch, channels, frames, height, width)`."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Shape as given."""
        return super().forward(features.movedim(1, -1)).movedim(-1, 1)


class DTFSalNeck(nn.Module):
    """Eq. 1-3: all stages get the same channels and half the frames, and each takes in the deeper ones."""

    def __init__(self, config: DTFSalConfig) -> None:
        super().__init__()
        width, kernel, stride = config.hidden_size, config.lateral_kernel, config.lateral_stride
        padding = ((kernel - 1) // 2, 0, 0)
        self.laterals = nn.ModuleList(
            nn.Conv3d(channels, width, (kernel, 1, 1), stride=(stride, 1, 1), padding=padding)
            for channels in config.encoder_channels
        )
        self.smoothings = nn.ModuleList(
            _same_convolution(width, width, config.smoothing_kernel, bias=config.smoothing_bias)
            for _ in range(NUM_STAGES - 1)
        )

    def forward(self, stages: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Enhanced features F^R of the four stages, `(batch, 192, 8, h, w)`, and those before they were summed."""
        laterals = [lateral(stage) for lateral, stage in zip(self.laterals, stages, strict=True)]
        deepest = laterals[-1]  # (batch, 192, 8, 7, 12)
        enhanced = [deepest]
        above = deepest  # sums go top-down without the second convolutions
        for index in range(NUM_STAGES - 2, -1, -1):
            size = laterals[index].shape[-2:]
            summed = laterals[index] + _enlarge(above, 2, size)
            if above is not deepest:
                summed = summed + _enlarge(deepest, 2 ** (NUM_STAGES - 1 - index), size)
            enhanced.insert(0, self.smoothings[index](summed))
            above = summed
        return enhanced, laterals


class DTFSalTokenBank(nn.Module):
    """Learned tokens and the convolution behind their mixture: steps 4 and 5 of LTEB (eq. 6 and 7)."""

    def __init__(self, config: DTFSalConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.tokens = nn.Parameter(torch.empty(config.num_tokens, width, *config.token_size))
        self.projection = _same_convolution(width, width, (1, 3, 3))

    def forward(self, weights: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        """P'' `(batch, channels, frames, *size)` for weights `(batch, frames, tokens)` that sum to 1.

        A convolution of a weighted sum is the weighted sum of convolutions, also of the bias since the weights sum to
        1. So convolving each token once gives the same, and is cheaper than each frame of each clip if there are at
        least as many frames as tokens.
        """
        if self.tokens.shape[0] <= weights.shape[1]:
            return self.mix_convolved(weights, size)
        return self.convolve_mixed(weights, size)

    def mix_convolved(self, weights: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        """P'' with one convolution for each token."""
        prompts = self._convolve(self.tokens, size)  # (tokens, channels, height, width)
        return torch.einsum("btn,nchw->bcthw", weights, prompts)

    def convolve_mixed(self, weights: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        """P'' with one convolution for each frame of each clip, as the paper writes it."""
        mixed = torch.einsum("btn,nchw->btchw", weights, self.tokens)
        prompts = self._convolve(mixed.flatten(0, 1), size)
        return prompts.unflatten(0, (-1, weights.shape[1])).transpose(1, 2)

    def _convolve(self, pictures: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        enlarged = F.interpolate(pictures, size=list(size), mode="bilinear", align_corners=False)
        projected: torch.Tensor = self.projection(enlarged[:, :, None])[:, :, 0]
        return projected


class DTFSalShift(nn.Module):
    """Eq. 9 and 10: channels are moved sideways, mixed, moved up and down, mixed; added to what came in."""

    def __init__(self, config: DTFSalConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.groups, self.cyclic = config.shift_groups, config.shift_padding == "cyclic"
        size = math.ceil(width / self.groups)  # of 192 channels 39, and 36 in the last group
        # where later groups would get no channel, they get one each
        ends = [min(index * size, width - self.groups + index) for index in range(self.groups + 1)]
        self.sizes = [end - start for start, end in pairwise(ends)]
        self.axes = list(config.shift_axes)
        kernel = (1, 3, 3) if config.shift_conv == "spatial" else (3, 3, 3)
        self.expand = _with_gain(nn.Conv3d(width, width, kernel_size=1), 2.0)
        self.mix = _same_convolution(width, width, kernel, groups=width if config.shift_conv == "depthwise" else 1)
        self.norm = (
            DTFSalChannelNorm(width, eps=config.shift_norm_eps)
            if config.shift_norm == "channel"
            else nn.GroupNorm(1, width, eps=config.shift_norm_eps)
        )
        self.projection = nn.Conv3d(width, width, kernel_size=1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """F^Sh, shape as given `(batch, channels, frames, height, width)`."""
        first, *others = self.axes
        hidden_states = self.mix(F.gelu(self.expand(self.shift(features, first))))
        for axis in others:
            hidden_states = self.shift(hidden_states, axis)
        return features + self.projection(self.norm(hidden_states))

    def shift(self, features: torch.Tensor, axis: str) -> torch.Tensor:
        """Channel groups moved by -2, -1, 0, 1, 2 cells along `"width"` or `"height"`: `out[x] = in[x - d]`."""
        dim = -1 if axis == "width" else -2
        reach, length = self.groups // 2, features.shape[dim]
        parts = features.split(self.sizes, dim=1)
        if self.cyclic:
            return torch.cat([part.roll(index - reach, dim) for index, part in enumerate(parts)], dim=1)
        padding = [reach, reach] if axis == "width" else [0, 0, reach, reach]
        moved = [F.pad(part, padding).narrow(dim, 2 * reach - index, length) for index, part in enumerate(parts)]
        return torch.cat(moved, dim=1)


class DTFSalTokenBlock(nn.Module):
    """LTEB (eq. 4-8): features are enhanced by learned tokens, which they mix themselves. With `shift` it is DLTFB
    (eq. 9-11), where the shifted features take the place of the plain ones in the sum.
    """

    def __init__(self, config: DTFSalConfig, *, shift: bool, bank: bool = True) -> None:
        super().__init__()
        width = config.hidden_size
        self.per_clip = config.token_weights == "clip"
        self.gate = _same_convolution(width, width, (1, 3, 3))
        self.token_weights = nn.Linear(width, config.num_tokens)
        self.bank = DTFSalTokenBank(config) if bank else None
        self.shift = DTFSalShift(config) if shift else None

    def forward(
        self,
        features: torch.Tensor,
        source: torch.Tensor,
        bank: Callable[[torch.Tensor, Sequence[int]], torch.Tensor],
    ) -> torch.Tensor:
        """F^w, `(batch, channels, frames, height, width)` like `features`.

        Args:
            features: what the tokens' weights are computed from.
            source: what the mixed tokens multiply, same shape; the features themselves, but for a switch.
            bank: what mixes the tokens, called as a `DTFSalTokenBank`: its own, or the one that all blocks share.
        """
        # only the mean of the gate is used (eq. 4); it does not gate the features
        means = torch.sigmoid(self.gate(features)).mean(dim=(-2, -1)).transpose(1, 2)  # (batch, frames, channels)
        if self.per_clip:
            means = means.mean(dim=1, keepdim=True)
        weights = self.token_weights(means).softmax(dim=-1)  # (batch, frames, tokens)
        prompts = bank(weights, features.shape[-2:])
        return source * prompts + (source if self.shift is None else self.shift(source))


class DTFSalAudioLayer(nn.Module):
    """A pre-norm transformer layer."""

    def __init__(self, config: DTFSalConfig) -> None:
        super().__init__()
        width = config.audio_hidden_size
        self.config, self.heads = config, config.audio_heads
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.projection = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, config.audio_mlp_ratio * width)
        self.contract = nn.Linear(config.audio_mlp_ratio * width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Shape as given, `(batch, tokens, channels)`."""
        query, key, value = self.qkv(self.attention_norm(tokens)).chunk(3, dim=-1)
        attended = _attend(query, key, value, self.heads, self.config._attn_implementation)
        tokens = tokens + self.projection(attended)
        return tokens + self.contract(F.gelu(self.expand(self.mlp_norm(tokens))))


class DTFSalAudioEnhancement(nn.Module):
    """The maps of all slices as tokens of one sequence: embedded, told when they are, put through a transformer."""

    def __init__(self, config: DTFSalConfig) -> None:
        super().__init__()
        width, channels = config.audio_hidden_size, config.audio_channels[-1]
        self.input_norm = nn.LayerNorm(channels)
        self.embedding = nn.Linear(channels, width)
        self.embedding_norm = nn.LayerNorm(width)
        self.time_positions = nn.Parameter(torch.empty(config.audio_num_slices, width))
        self.layers = nn.ModuleList(DTFSalAudioLayer(config) for _ in range(config.audio_layers))
        self.output_norm = nn.LayerNorm(width)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """`(batch, 192, slices, h, w)` of VGGish's maps `(batch, slices, 512, h, w)`."""
        grid = (maps.shape[1], maps.shape[3], maps.shape[4])
        cells = maps.movedim(2, -1)  # (batch, 9, 7, 12, 512)
        cells = self.embedding_norm(self.embedding(self.input_norm(cells)))
        tokens = (cells + self.time_positions[:, None, None]).flatten(1, 3)  # (batch, 756, 192)
        for layer in self.layers:
            tokens = layer(tokens)
        return self.output_norm(tokens).unflatten(1, grid).movedim(-1, 1)


class DTFSalOffsetConvolution(nn.Conv2d):
    """A 3 x 3 convolution of pictures whose taps are moved by given offsets.

    It is called as a module, so that hooks on its forward run: they bring weights that are offloaded.
    """

    def forward(self, pictures: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """`(batch, out_channels, height, width)` for offsets `(batch, 18, height, width)`."""
        return deformable_conv2d(pictures, offsets, self.weight, self.bias, padding=1)


class DTFSalDeformableConvolution(nn.Module):
    """A deformable 3 x 3 convolution of single frames, whose offsets start at zero."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.offsets = _with_gain(_same_convolution(in_channels, 18, (1, 3, 3)), 0.0)
        self.kernel = _with_gain(DTFSalOffsetConvolution(in_channels, out_channels, kernel_size=3, padding=1), 2.0)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """`(batch, out_channels, frames, height, width)`."""
        frames = features.shape[2]
        offsets = self.offsets(features).transpose(1, 2).flatten(0, 1)  # (batch * frames, 18, height, width)
        pictures = features.transpose(1, 2).flatten(0, 1)
        convolved: torch.Tensor = self.kernel(pictures, offsets)
        return convolved.unflatten(0, (-1, frames)).transpose(1, 2)


class DTFSalAdaptiveFusion(nn.Module):
    """AMFB (eq. 12-14): a local, a global and an adaptive stream see picture and sound, and are weighed and summed."""

    def __init__(self, config: DTFSalConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.add = config.audio_joining == "add"
        joined = width if self.add else width + config.audio_hidden_size
        self.streams = nn.ModuleList(
            [
                _with_gain(_same_convolution(joined, width, config.local_kernel), 2.0),
                _with_gain(_same_convolution(joined, width, config.global_kernel), 2.0),
                DTFSalDeformableConvolution(joined, width),
            ]
        )
        norm = nn.BatchNorm3d if config.fusion_norm == "batch" else DTFSalChannelNorm
        self.norms = nn.ModuleList(norm(width) for _ in self.streams)
        self.per_channel = config.stream_weights == "channel"
        self.scores = nn.Linear(3 * width, 3 * width if self.per_channel else 3)

    def forward(self, visual: torch.Tensor, audio: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Fused features, shape of `visual`, and the streams' scores `(batch, 3)` in 0..1."""
        joined = visual + audio if self.add else torch.cat([visual, audio], dim=1)
        streams = [F.relu(norm(stream(joined))) for norm, stream in zip(self.norms, self.streams, strict=True)]
        means = torch.cat([stream.mean(dim=(-3, -2, -1)) for stream in streams], dim=1)  # (batch, 576)
        weights = torch.sigmoid(self.scores(means)).unflatten(1, (3, -1))  # (batch, 3, 1 or channels)
        fused = sum(weights[:, index, :, None, None, None] * stream for index, stream in enumerate(streams))
        return fused, weights.mean(dim=-1)


class DTFSalConcatFusion(nn.Module):
    """Table 4's plain fusion: concatenation and a 1 x 1 x 1 convolution."""

    def __init__(self, config: DTFSalConfig) -> None:
        super().__init__()
        self.projection = nn.Conv3d(config.hidden_size + config.audio_hidden_size, config.hidden_size, kernel_size=1)

    def forward(self, visual: torch.Tensor, audio: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Fused features, shape of `visual`, and no scores."""
        return self.projection(torch.cat([visual, audio], dim=1)), None


class DTFSalCrossAttentionFusion(nn.Module):
    """Table 4's cross-attention as the paper words it: queries and values are visual, keys are sound.

    The sum with the visual features is ours, as in other transformers.
    """

    def __init__(self, config: DTFSalConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.config, self.heads = config, config.fusion_heads
        self.query, self.value = nn.Linear(width, width), nn.Linear(width, width)
        self.key = nn.Linear(config.audio_hidden_size, width)
        self.projection = nn.Linear(width, width)

    def forward(self, visual: torch.Tensor, audio: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Fused features, shape of `visual`, and no scores."""
        pictures, sounds = (features.flatten(2).transpose(1, 2) for features in (visual, audio))
        query, key, value = self.query(pictures), self.key(sounds), self.value(pictures)
        attended = _attend(query, key, value, self.heads, self.config._attn_implementation)
        return visual + self.projection(attended).transpose(1, 2).unflatten(2, visual.shape[2:]), None


FUSIONS = {"amfb": DTFSalAdaptiveFusion, "concat": DTFSalConcatFusion, "cross_attention": DTFSalCrossAttentionFusion}


class DTFSalDecoder(nn.Module):
    """Three convolutions that halve 8 frames to one while the map is enlarged to the size of the input."""

    def __init__(self, config: DTFSalConfig, stage: int) -> None:
        super().__init__()
        channels = [config.hidden_size, *config.decoder_channels]
        self.factors = [2, 2, 1 if stage == 1 else 2]  # behind each convolution
        self.last_factor = max(1, FIRST_STRIDE * 2 ** (stage - 1) // math.prod(self.factors))
        self.convolutions = nn.ModuleList(
            _with_gain(
                nn.Conv3d(before, behind, (2, 3, 3), stride=(2, 1, 1), padding=(0, 1, 1), bias=False),
                2.0,
            )
            for before, behind in pairwise(channels)
        )
        self.head = _same_convolution(channels[-1], 1, (1, 3, 3), bias=False)

    def forward(self, features: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        """A map `(batch, 1, *size)` before its sigmoid, for features `(batch, 192, 8 to 15, h, w)`."""
        for convolution, factor in zip(self.convolutions, self.factors, strict=True):
            features = _enlarge(F.relu(convolution(features)), factor)
        return _enlarge(self.head(features), self.last_factor, size)[:, :, 0]


class DTFSalMultiDecoder(nn.Module):
    """Eq. 15: a decoder for each stage, whose maps a convolution fuses."""

    def __init__(self, config: DTFSalConfig) -> None:
        super().__init__()
        self.decoders = nn.ModuleList(DTFSalDecoder(config, stage + 1) for stage in range(NUM_STAGES))
        self.fusion = nn.Conv2d(NUM_STAGES, 1, kernel_size=3, padding=1)  # as in 3D, on one frame

    def forward(
        self, features: Sequence[torch.Tensor], size: Sequence[int]
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """The fused map before its sigmoid, and the maps of the stages in 0..1, all `(batch, 1, *size)`."""
        logits = [decoder(stage, size) for decoder, stage in zip(self.decoders, features, strict=True)]
        maps = tuple(stage_logits.float().sigmoid() for stage_logits in logits)
        return self.fusion(torch.cat(maps, dim=1).to(logits[0].dtype)), maps


class DTFSalSingleDecoder(nn.Module):
    """Table 5's single decoder: all stages are enlarged to the first and summed (our reading: a concatenation would
    not have its 0.43 M parameters)."""

    def __init__(self, config: DTFSalConfig) -> None:
        super().__init__()
        self.decoder = DTFSalDecoder(config, 1)

    def forward(self, features: Sequence[torch.Tensor], size: Sequence[int]) -> tuple[torch.Tensor, tuple[()]]:
        """The map before its sigmoid, `(batch, 1, *size)`, and no maps of the stages."""
        grid = features[0].shape[-2:]
        merged = sum(_enlarge(stage, 2**index, grid) for index, stage in enumerate(features))
        return self.decoder(merged, size), ()


class DTFSalUNetDecoder(nn.Module):
    """Table 5's U-Net (our reading, 2.76 M parameters for the 2.84 M there): a convolution of the deepest stage, then
    each shallower one is joined to what came from below, and one decoder ends it."""

    def __init__(self, config: DTFSalConfig) -> None:
        super().__init__()
        width = config.hidden_size
        widths = [width, *[2 * width] * (NUM_STAGES - 1)]
        self.convolutions = nn.ModuleList(
            _with_gain(_same_convolution(channels, width, (1, 3, 3), bias=False), 2.0) for channels in widths
        )
        self.decoder = DTFSalDecoder(config, 1)

    def forward(self, features: Sequence[torch.Tensor], size: Sequence[int]) -> tuple[torch.Tensor, tuple[()]]:
        """The map before its sigmoid, `(batch, 1, *size)`, and no maps of the stages."""
        deepest, *convolutions = self.convolutions
        merged = F.relu(deepest(features[-1]))
        for convolution, stage in zip(convolutions, features[-2::-1], strict=True):
            merged = torch.cat([_enlarge(merged, 2, stage.shape[-2:]), stage], dim=1)
            merged = F.relu(convolution(merged))
        return self.decoder(merged, size), ()


DECODERS = {"multi": DTFSalMultiDecoder, "single": DTFSalSingleDecoder, "unet": DTFSalUNetDecoder}


class DTFSalPreTrainedModel(PreTrainedModel):
    """Weight initialisation and what transformers wants to know of the model."""

    config_class = DTFSalConfig
    base_model_prefix = "dtfsal"
    main_input_name = "pixel_values_videos"
    input_modalities = ("video", "audio")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["MViTv2Block", "DTFSalTokenBlock", "DTFSalDecoder"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Fills the added layers so that variances are kept; linear layers and tables as in vision transformers."""
        if isinstance(module, (nn.Conv2d, nn.Conv3d)):
            fan_in = module.weight[0].numel()
            gain = getattr(module, "initial_gain", 1.0)
            init.normal_(module.weight, std=math.sqrt(gain / fan_in))
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm3d)):
            init.ones_(module.weight)
            init.zeros_(module.bias)
            if isinstance(module, nn.BatchNorm3d):
                init.zeros_(module.running_mean)
                init.ones_(module.running_var)
                init.zeros_(module.num_batches_tracked)
        elif isinstance(module, MViTv2Attention):
            for table in (module.relative_time, module.relative_row, module.relative_column):
                init.trunc_normal_(table, std=0.02)
        elif isinstance(module, MViTv2Encoder):
            init.trunc_normal_(module.class_token, std=0.02)
        elif isinstance(module, DTFSalTokenBank):
            init.normal_(module.tokens, std=0.02)
        elif isinstance(module, DTFSalAudioEnhancement):
            init.trunc_normal_(module.time_positions, std=0.02)


class DTFSalForVideoSaliency(DTFSalPreTrainedModel):
    """DTFSal, or with `audio=False` its visual model DTFSal(V).

    Example:

    ```python
    >>> import torch
    >>> from video_saliency import DTFSalConfig, DTFSalForVideoSaliency
    >>> sizes = {"encoder_channels": [8, 8, 8, 8], "encoder_depths": [1, 1, 1, 1], "encoder_heads": [1, 1, 1, 1]}
    >>> config = DTFSalConfig(audio=False, hidden_size=8, decoder_channels=[4, 4, 4], **sizes)
    >>> model = DTFSalForVideoSaliency(config).eval()
    >>> outputs = model(torch.zeros(1, 4, 3, 32, 64))
    >>> outputs.saliency_maps.shape, outputs.stage1_maps.shape
    (torch.Size([1, 1, 32, 64]), torch.Size([1, 1, 32, 64]))

    ```
    """

    def __init__(self, config: DTFSalConfig) -> None:
        super().__init__(config)
        self.gradient_checkpointing = False
        self.encoder = _visual_encoder(config)
        self.neck = DTFSalNeck(config)
        self.token_blocks = nn.ModuleDict()  # under the numbers of their stages
        for stage, kind in enumerate(config.token_blocks, start=1):
            if kind != "none":
                # shared tokens lie in the first block
                bank = not (config.share_tokens and len(self.token_blocks))
                self.token_blocks[str(stage)] = DTFSalTokenBlock(config, shift=kind == "dltfb", bank=bank)
        if config.audio:
            self.audio_encoder = VGGishEncoder(channels=tuple(config.audio_channels))
            for layer in self.audio_encoder.modules():
                if isinstance(layer, nn.Conv2d):
                    _with_gain(layer, 2.0)
            self.audio_enhancement = DTFSalAudioEnhancement(config)
            self.audio_fusions = nn.ModuleDict(
                {str(stage): FUSIONS[config.fusion](config) for stage in sorted(config.fusion_stages)}
            )
        self.decoder = DECODERS[config.decoder](config)
        self.post_init()
        self.train(self.training)

    def train(self, mode: bool = True) -> DTFSalForVideoSaliency:
        """Sets the mode of all parts; those that the config freezes stay frozen."""
        super().train(mode)
        # here, not once for all: loading a checkpoint makes every parameter trainable again, then calls this
        self._freeze()
        return self

    def freeze_for(self, strategy: str) -> None:
        """Lets gradients reach the parts that a strategy of table 11 trains, and no others; kept in the config.

        Args:
            strategy: `"full"`: all parts. `"audio_fusion"`: the transformer behind VGGish and the fusion, on top of a
                trained DTFSal(V). VGGish itself is trained only with `freeze_audio_encoder=False`.

        Raises:
            ValueError: for another strategy, or a visual model that has no audio parts.
        """
        if strategy not in ("full", "audio_fusion"):
            raise ValueError(f"strategy must be 'full' or 'audio_fusion', got {strategy!r}")
        if strategy == "audio_fusion" and not self.config.audio:
            raise ValueError("a visual model has no audio fusion to train: load it with audio=True")
        self.config.training_strategy = strategy
        self.requires_grad_(True)
        self._freeze()

    def _freeze(self) -> None:
        for name, part in self.named_children():
            is_kept = name == "audio_encoder" and self.config.freeze_audio_encoder
            is_visual = name not in AUDIO_PARTS
            if is_kept or (is_visual and self.config.training_strategy == "audio_fusion"):
                part.requires_grad_(False)

    @torch.no_grad()
    def copy_visual_parts(self, visual: DTFSalForVideoSaliency) -> None:
        """Takes over all that a DTFSal(V) has; the audio parts, for instance converted ones, stay as they are.

        Step 2 of the paper's recipe. `DTFSalForVideoSaliency.from_pretrained(folder, audio=True)` does the same and
        starts the audio parts at random.

        Raises:
            ValueError: if the parts of the other model do not fit.
        """
        ours, theirs = self._visual_weights(), visual._visual_weights()
        differing = {name for name in ours.keys() & theirs.keys() if ours[name].shape != theirs[name].shape}
        differing |= ours.keys() ^ theirs.keys()
        if differing:
            raise ValueError(
                f"the visual parts differ in {len(differing)} weights, for instance {min(differing)}: make "
                "both models with the same config but for `audio`"
            )
        for name, weight in ours.items():
            weight.copy_(theirs[name])

    def _visual_weights(self) -> dict[str, torch.Tensor]:
        return {name: weight for name, weight in self.state_dict().items() if name.split(".")[0] not in AUDIO_PARTS}

    def forward(
        self,
        pixel_values_videos: torch.Tensor,
        audio_values: torch.Tensor | None = None,
        *,
        saliency_labels: torch.Tensor | None = None,
        fixation_labels: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> DTFSalOutput | tuple[torch.Tensor, ...]:
        """The saliency map of each clip's target frame.

        Args:
            pixel_values_videos: `(batch, frames, 3, height, width)` normalised RGB, at least 4 frames of any size.
            audio_values: `(batch, slices, 1, rows, columns)` log-mel slices as the config's `audio_spec` has them, not
                normalised. `None`: silence. Not for a visual model.
            saliency_labels: true densities of the target frames `(batch, 1, height, width)`, any scale; with them a
                loss is returned.
            fixation_labels: not used, as the paper's loss has no term for fixations; so all models take the same.
            output_hidden_states: whether to return the encoder's stages. Default: as the config says.
            return_dict: `False` returns a tuple. Default: as the config says.

        Raises:
            ValueError: for inputs of the wrong shape, or sound for a visual model.
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if return_dict is None:
            return_dict = self.config.return_dict
        self._check(pixel_values_videos, audio_values)

        stages = self.encoder(  # 4 x (batch, channels, 16, h, w)
            pixel_values_videos.transpose(1, 2), attn_implementation=self.config._attn_implementation
        )
        features = self._token_features(stages)
        scores: list[torch.Tensor] = []
        if self.config.audio:
            if audio_values is None:
                audio_values = self.silence(pixel_values_videos)
            features, scores = self._with_audio(features, audio_values)
        frames = features[0].shape[2]
        if not 8 <= frames < 16:  # three halvings do not end at one frame
            frames = self.config.decoder_frames
            features = [_resize(stage, (frames, *stage.shape[-2:])) for stage in features]
        logits, maps = self._run(self.decoder, features, pixel_values_videos.shape[-2:])

        saliency_maps = logits.float().sigmoid()  # near 1 bfloat16 has steps of 0.004
        output = DTFSalOutput(
            loss=None if saliency_labels is None else self._loss((saliency_maps, *maps), saliency_labels),
            logits=logits,
            saliency_maps=saliency_maps,
            hidden_states=tuple(stages) if output_hidden_states else None,
            stream_scores=torch.stack(scores, dim=1) if scores else None,
            **{f"stage{index + 1}_maps": stage_map for index, stage_map in enumerate(maps)},
        )
        return output if return_dict else output.to_tuple()

    def silence(self, pixel_values_videos: torch.Tensor) -> torch.Tensor:
        """`audio_values` of no sound for such a batch; a warning tells so once."""
        _warn_of_silence()
        shape = (pixel_values_videos.shape[0], self.config.audio_num_slices, 1, *self.config.audio_size)
        return pixel_values_videos.new_full(shape, SILENCE)

    def _check(self, frames: torch.Tensor, audio: torch.Tensor | None) -> None:
        if frames.ndim != 5 or frames.shape[2] != 3:
            raise ValueError(
                f"pixel_values_videos must be (batch, frames, 3, height, width), got {tuple(frames.shape)}"
            )
        if frames.shape[1] < FEWEST_FRAMES:
            raise ValueError(
                f"the clip has {frames.shape[1]} frames, DTFSal needs at least {FEWEST_FRAMES}: repeat its last frame"
            )
        if audio is None:
            return
        if not self.config.audio:
            raise ValueError("this is the visual model: leave audio_values away, or load it with audio=True")
        shape = (self.config.audio_num_slices, 1, *self.config.audio_size)
        if audio.shape[1:] != shape or audio.shape[0] != frames.shape[0]:
            raise ValueError(f"audio_values must be (batch, {', '.join(map(str, shape))}), got {tuple(audio.shape)}")

    def _run(self, part: nn.Module, *inputs: Any) -> Any:
        """A part's output, whose inner values are computed again in the backward pass if so asked."""
        if self.gradient_checkpointing and self.training:
            return self._gradient_checkpointing_func(part.__call__, *inputs)
        return part(*inputs)

    def _token_features(self, stages: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """F^w of each stage, `(batch, 192, 8, h, w)`."""
        enhanced, laterals = self.neck(stages)
        sources = laterals if self.config.token_block_input == "lateral" else enhanced
        features = list(enhanced)
        bank: Any = None
        for stage, block in self.token_blocks.items():
            index = int(stage) - 1
            bank = block.bank or bank
            # not the module: hooks that move a block's inputs to its device would move all weights of the bank
            features[index] = self._run(block, enhanced[index], sources[index], bank.__call__)
        return features

    def _with_audio(
        self, features: list[torch.Tensor], audio_values: torch.Tensor
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The features with sound joined in at the fusion stages, and those stages' stream scores."""
        batch, slices = audio_values.shape[:2]
        maps = self.audio_encoder(audio_values.flatten(0, 1))  # (batch * 9, 512, 7, 12)
        audio = self.audio_enhancement(maps.unflatten(0, (batch, slices)))  # (batch, 192, 9, 7, 12)
        features, scores = list(features), []
        for stage, fusion in self.audio_fusions.items():
            visual = features[int(stage) - 1]
            # in time as the paper needs it; in space only for pictures that are not 224 x 384 (ours)
            features[int(stage) - 1], stream_scores = fusion(visual, _resize(audio, visual.shape[2:]))
            if stream_scores is not None:
                scores.append(stream_scores)
        return features, scores

    def _loss(self, maps: Sequence[torch.Tensor], saliency_labels: torch.Tensor) -> torch.Tensor:
        """Eq. 17-19 for the fused map, which comes first, and by choice for those of the stages."""
        config = self.config
        loss = maps[0].new_zeros((), dtype=torch.float32)
        weights = [1.0] + [config.deep_supervision_weight] * (len(maps) - 1)
        for weight, some_maps in zip(weights, maps, strict=True):
            if weight:
                loss = loss + weight * kl_minus_cc_loss(
                    some_maps,
                    saliency_labels,
                    kl_weight=config.kl_loss_weight,
                    cc_weight=config.cc_loss_weight,
                    epsilon=config.loss_epsilon,
                )
        return loss


@functools.cache
def _warn_of_silence() -> None:
    logger.warning(
        "no sound is given to an audio-visual DTFSal: it hears silence; a model with audio=False needs none"
    )


def _visual_encoder(config: DTFSalConfig) -> MViTv2Encoder:
    return MViTv2Encoder(
        channels=config.encoder_channels,
        depths=config.encoder_depths,
        heads=config.encoder_heads,
        input_size=config.encoder_input_size,
        stage_norms=config.stage_norms,
    )


__all__ = ["DTFSalForVideoSaliency", "DTFSalOutput", "DTFSalPreTrainedModel"]
