# SPDX-License-Identifier: Apache-2.0
"""SalFoM: a video foundation model as encoder, and a decoder of three branches.

Moradi, Moradi, Rundo, Spampinato, Borji, Palazzo, "SalFoM: Dynamic Saliency Prediction with Video Foundation Models",
ICPR 2024. Where paper and published code differ, this is the code, whose weights are public. Letters in comments are
the paper's: theta (TCFE), phi (DFD), gamma (SFD), tau (time collapsed), sigma (enlargement). Sizes in comments are
those of the published model, `(channels, time, height, width)`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init

from video_saliency.backbones.umt import UMTEncoder
from video_saliency.losses import kl_minus_cc_loss
from video_saliency.modeling_outputs import VideoSaliencyOutput
from video_saliency.models.salfom.configuration_salfom import BRANCHES, SalFoMConfig

TABLE_STD = 0.02  # of initial linear weights and bias tables
SHIFTED_AWAY = -100.0  # added to scores between steps that only the roll made neighbours


@dataclass
class SalFoMOutput(VideoSaliencyOutput):
    """The map of the last frame of each clip.

    Attributes:
        loss: scalar KL - CC, only with labels.
        logits: `(batch, 1, height, width)`.
        saliency_maps: `(batch, 1, height, width)` in 0..1, the sigmoid of the logits, in float32 always.
        hidden_states: of each block of the encoder, `(batch, frames, channels, rows, columns)`.
    """


def enlarge(features: torch.Tensor, factor: int) -> torch.Tensor:
    """`(batch, channels, time, height, width)` enlarged in height and width, bilinearly."""
    if factor == 1:
        return features
    batch, _, time = features.shape[:3]
    frames = features.transpose(1, 2).flatten(0, 1)
    frames = F.interpolate(frames, scale_factor=factor, mode="bilinear", align_corners=False)
    return frames.unflatten(0, (batch, time)).transpose(1, 2)


class SalFoMTemporalAttention(nn.Module):
    """Attention among the steps of short windows in time, at each place by itself.

    It is Swin's window attention in windows one pixel wide. Window and shift are those of the design; on clips no
    longer than the window, one window holds all steps and nothing is shifted.
    """

    def __init__(self, dim: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.bias_table = nn.Parameter(torch.empty(2 * window - 1, heads))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.output = nn.Linear(dim, dim)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """`(places, steps, dim)` for the same shape."""
        places, steps, dim = tokens.shape
        window, shift = (steps, 0) if steps <= self.window else (self.window, self.shift)
        padded = -(-steps // window) * window
        tokens = F.pad(tokens, (0, 0, 0, padded - steps))  # these are not masked
        if shift:
            tokens = tokens.roll(-shift, dims=1)
        qkv = self.qkv(tokens.reshape(-1, window, dim)).unflatten(-1, (3, self.heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # (windows, heads, window, head_dim) each
        mask = self._scores_added(padded, window, shift).to(query.dtype)
        shape = (places, -1, *query.shape[1:])  # so that the mask of a window is broadcast over places
        attended = F.scaled_dot_product_attention(
            query.reshape(shape), key.reshape(shape), value.reshape(shape), attn_mask=mask
        )
        attended = self.output(attended.transpose(2, 3).reshape(places, padded, dim))
        if shift:
            attended = attended.roll(shift, dims=1)
        return attended[:, :steps]

    def _scores_added(self, padded: int, window: int, shift: int) -> torch.Tensor:
        """`(windows or 1, heads, window, window)`: the learned bias, less what the shift forbids."""
        step = torch.arange(window, device=self.bias_table.device)
        bias = self.bias_table[step[:, None] - step + self.window - 1].permute(2, 0, 1)[None]
        if not shift:
            return bias
        region = torch.zeros(padded, device=bias.device)
        region[padded - window : padded - shift] = 1
        region[padded - shift :] = 2
        region = region.view(-1, window)
        apart = region[:, :, None] != region[:, None, :]
        return bias + SHIFTED_AWAY * apart[:, None].to(bias.dtype)


class SalFoMTemporalBlock(nn.Module):
    """Attention over time and an MLP, each behind a LayerNorm (epsilon 1e-5) and added to its input."""

    def __init__(self, dim: int, heads: int, window: int, shift: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = SalFoMTemporalAttention(dim, heads, window, shift)
        self.norm2 = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)
        self.drop_path = drop_path

    def forward(self, tokens: torch.Tensor, places_per_clip: int = 1) -> torch.Tensor:
        """`(places, steps, dim)`; all places of a clip are dropped together."""
        tokens = tokens + self._dropped(self.attention(self.norm1(tokens)), places_per_clip)
        mixed = self.fc2(F.gelu(self.fc1(self.norm2(tokens))))
        return tokens + self._dropped(mixed, places_per_clip)

    def _dropped(self, branch: torch.Tensor, places_per_clip: int) -> torch.Tensor:
        if not self.training or self.drop_path == 0:
            return branch
        kept = 1 - self.drop_path
        clips = branch.new_empty(len(branch) // places_per_clip, 1, 1).bernoulli_(kept) / kept
        return branch * clips.repeat_interleave(places_per_clip, dim=0)


class SalFoMTemporalTransformer(nn.Module):
    """One layer of TCFE: steps are merged `patch` by `patch`, then see each other through blocks of attention.

    Every second block has its windows shifted by half a window. The last block's output is not normalised.
    """

    def __init__(self, in_channels: int, channels: int, patch: int, config: SalFoMConfig) -> None:
        super().__init__()
        self.patch = patch
        self.patch_embedding = nn.Conv3d(in_channels, channels, kernel_size=(patch, 1, 1), stride=(patch, 1, 1))
        depth = config.tcfe_depth
        self.blocks = nn.ModuleList(
            SalFoMTemporalBlock(
                channels,
                config.tcfe_heads,
                window=patch,
                shift=patch // 2 if index % 2 else 0,
                drop_path=config.tcfe_drop_path * index / max(1, depth - 1),
            )
            for index in range(depth)
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """`(batch, channels, time / patch, height, width)`."""
        missing = -features.shape[2] % self.patch
        features = self.patch_embedding(F.pad(features, (0, 0, 0, 0, 0, missing)))
        batch, _, _, height, width = features.shape
        tokens = features.permute(0, 3, 4, 2, 1).flatten(0, 2)  # (places, steps, channels)
        for block in self.blocks:
            tokens = block(tokens, height * width)
        return tokens.unflatten(0, (batch, height, width)).permute(0, 4, 3, 1, 2)


class SalFoMDynamicConvolution(nn.Module):
    """One convolution of DFD, ReLU, enlargement; with a temporal stride two steps become one."""

    def __init__(self, in_channels: int, channels: int, stride: int, enlargement: int) -> None:
        super().__init__()
        self.enlargement = enlargement
        self.convolution = nn.Conv3d(
            in_channels, channels, (stride, 3, 3), stride=(stride, 1, 1), padding=(0, 1, 1), bias=False
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """`(batch, channels, time / stride, height * enlargement, width * enlargement)`."""
        return enlarge(F.relu(self.convolution(features)), self.enlargement)


class SalFoMStaticConvolution(nn.Module):
    """One convolution of SFD, ReLU, enlargement."""

    def __init__(self, in_channels: int, channels: int, enlargement: int) -> None:
        super().__init__()
        self.enlargement = enlargement
        self.convolution = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """`(batch, channels, height * enlargement, width * enlargement)`."""
        features = F.relu(self.convolution(features))
        if self.enlargement == 1:
            return features
        return F.interpolate(features, scale_factor=self.enlargement, mode="bilinear", align_corners=False)


class SalFoMTimeCollapse(nn.Module):
    """tau: convolutions that halve time, each with a ReLU, until one step is left.

    Of the encoder's features they see 3 x 3 places and two steps; of the dynamic branch's, one place and three steps.
    """

    def __init__(self, channels: int, steps: int, *, is_first: bool) -> None:
        super().__init__()
        kernel, padding = ((2, 3, 3), (0, 1, 1)) if is_first else ((3, 1, 1), (1, 0, 0))
        self.convolutions = nn.ModuleList(
            nn.Conv3d(channels, channels, kernel, stride=(2, 1, 1), padding=padding, bias=not is_first)
            for _ in range(int(math.log2(steps)))
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """`(batch, channels, height, width)`."""
        for convolution in self.convolutions:
            features = F.relu(convolution(features))
        return features.squeeze(2)


def _temporal_transformers(config: SalFoMConfig) -> nn.ModuleList:
    """One for each stage; the last takes all steps that are left."""
    transformers = nn.ModuleList()
    channels, steps = config.encoder_dim, config.num_frames
    for stage, (width, patch, _) in enumerate(config.tcfe_layers):
        patch = steps if stage == len(config.tcfe_layers) - 1 else patch
        transformers.append(SalFoMTemporalTransformer(channels, width, patch, config))
        channels, steps = width, -(-steps // patch)
    return transformers


def _dynamic_stages(config: SalFoMConfig) -> tuple[nn.ModuleList, list[int]]:
    """The convolutions of each stage, and the steps that are left behind it."""
    stages, steps_behind = nn.ModuleList(), []
    channels, steps = config.encoder_dim, config.num_frames
    for stage in config.dfd_layers:
        layers = []
        for width, stride, enlargement in stage:
            stride = min(stride, steps)
            layers.append(SalFoMDynamicConvolution(channels, width, stride, enlargement))
            channels, steps = width, steps // stride
        stages.append(nn.Sequential(*layers))
        steps_behind.append(steps)
    return stages, steps_behind


def _static_stages(config: SalFoMConfig) -> nn.ModuleList:
    """The convolutions of each stage."""
    stages, channels = nn.ModuleList(), config.encoder_dim
    for stage in config.sfd_layers:
        layers = []
        for width, enlargement in stage:
            layers.append(SalFoMStaticConvolution(channels, width, enlargement))
            channels = width
        stages.append(nn.Sequential(*layers))
    return stages


class SalFoMDecoder(nn.Module):
    """Three branches over the encoder's features, stage by stage, and the convolutions that join them."""

    def __init__(self, config: SalFoMConfig) -> None:
        super().__init__()
        self.branches = [name for name in BRANCHES if name in config.branches]
        dfd, steps = _dynamic_stages(config)
        if "tcfe" in self.branches:
            self.tcfe = _temporal_transformers(config)
            self.enlargements = [layer[2] for layer in config.tcfe_layers]
        if "dfd" in self.branches:
            self.dfd = dfd
        if "sfd" in self.branches:
            self.sfd = _static_stages(config)
            self.collapse = nn.ModuleList([SalFoMTimeCollapse(config.encoder_dim, config.num_frames, is_first=True)])
            if "dfd" in self.branches:
                for stage, left in zip(config.dfd_layers[:-1], steps[:-1], strict=True):
                    self.collapse.append(SalFoMTimeCollapse(stage[-1][0], left, is_first=False))
        ends = {
            "sfd": config.sfd_layers[-1][-1][0],
            "tcfe": config.tcfe_layers[-1][0],
            "dfd": config.dfd_layers[-1][-1][0],
        }
        widths = [sum(ends[name] for name in self.branches), *config.fusion_channels, 1]
        self.fusion = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1, bias=False)
            for before, after in zip(widths[:-1], widths[1:], strict=True)
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Logits `(batch, height, width)` at 16 times the size of the features `(batch, channels, time, h, w)`."""
        ends = {}
        thetas: list[torch.Tensor] = []
        phis: list[torch.Tensor] = []
        if "tcfe" in self.branches:
            thetas = self._complementary(features)
            ends["tcfe"] = thetas[-1].squeeze(2)
        if "dfd" in self.branches:
            phis = self._dynamic(features, thetas)
            ends["dfd"] = phis[-1].squeeze(2)
        if "sfd" in self.branches:
            ends["sfd"] = self._static(features, phis)
        joined = torch.cat([ends[name] for name in self.branches], dim=1)
        for convolution in self.fusion[:-1]:
            joined = F.relu(convolution(joined))
        return self.fusion[-1](joined).squeeze(1)

    def _complementary(self, features: torch.Tensor) -> list[torch.Tensor]:
        """theta of each stage, enlarged; each is made of its enlarged predecessor."""
        thetas = []
        for transformer, enlargement in zip(self.tcfe, self.enlargements, strict=True):
            features = enlarge(transformer(features), enlargement)
            thetas.append(features)
        return thetas

    def _dynamic(self, features: torch.Tensor, thetas: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """phi of each stage; theta is added to all but the last (eq. 1)."""
        phis = []
        for number, stage in enumerate(self.dfd):
            features = stage(features)
            if thetas and number < len(self.dfd) - 1:
                features = features + thetas[number]
            phis.append(features)
        return phis

    def _static(self, features: torch.Tensor, phis: Sequence[torch.Tensor]) -> torch.Tensor:
        """gamma of the last stage; tau of phi, sum included, is added to all but the last (eq. 2)."""
        features = self.collapse[0](features)
        for number, stage in enumerate(self.sfd):
            features = stage(features)
            if phis and number < len(self.sfd) - 1:
                features = features + self.collapse[number + 1](phis[number])
        return features


class SalFoMPreTrainedModel(PreTrainedModel):
    """Weight initialisation and what transformers wants to know of the model."""

    config_class = SalFoMConfig
    base_model_prefix = "salfom"
    main_input_name = "pixel_values_videos"
    input_modalities = ("video",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["UMTBlock", "SalFoMDecoder"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """As the published code: linear layers and bias tables normal, convolutions as PyTorch has them."""
        if isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=TABLE_STD)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, SalFoMTemporalAttention):
            init.trunc_normal_(module.bias_table, std=TABLE_STD)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, (nn.Conv2d, nn.Conv3d)):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            if module.bias is not None:
                bound = module.weight[0].numel() ** -0.5
                init.uniform_(module.bias, -bound, bound)


class SalFoMForVideoSaliency(SalFoMPreTrainedModel):
    """SalFoM with its encoder, all branches or some.

    Windows that slide by a frame share what is made of a frame alone: its decoding, its resizing and, by
    `embed_frames`, its patches. Behind that nothing can be shared exactly: the position that is added depends on a
    frame's place in the window, and from the first block on every token attends to all tokens of the window. What the
    first block multiplies with its weights could still be taken apart into patches and positions (LayerNorm needs
    only their mean and deviation beside it), but it is 0.7 % of the products of a map. So a map costs about the same
    as a window of its own; `map_stride` of the predictor saves whole windows, and interpolates.

    Example:

    ```python
    >>> import torch
    >>> from video_saliency import SalFoMConfig, SalFoMForVideoSaliency
    >>> config = SalFoMConfig(encoder_dim=32, encoder_depth=1, encoder_heads=2, num_frames=4)
    >>> model = SalFoMForVideoSaliency(config).eval()
    >>> model(torch.zeros(1, 4, 3, 32, 48)).saliency_maps.shape
    torch.Size([1, 1, 32, 48])

    ```
    """

    def __init__(self, config: SalFoMConfig) -> None:
        super().__init__(config)
        self.encoder = UMTEncoder(
            dim=config.encoder_dim,
            depth=config.encoder_depth,
            heads=config.encoder_heads,
            mlp_ratio=config.encoder_mlp_ratio,
            patch_size=config.patch_size,
        )
        self.decoder = SalFoMDecoder(config)
        self.post_init()

    def embed_frames(self, frames: torch.Tensor) -> torch.Tensor:
        """Patches of frames, to be given to `forward` as `frame_embeddings` by every window that a frame is in.

        Args:
            frames: `(frames, 3, height, width)` normalised.

        Returns:
            `(frames, channels, rows, columns)`.

        Raises:
            ValueError: if a side is no multiple of the patch size.
        """
        rows = frames.shape[-2] // self.config.patch_size
        return self.encoder.embed_frames(frames).transpose(1, 2).unflatten(-1, (rows, -1))

    def forward(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        *,
        frame_embeddings: torch.Tensor | None = None,
        saliency_labels: torch.Tensor | None = None,
        fixation_labels: torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> SalFoMOutput | tuple[torch.Tensor, ...]:
        """The map of the last frame.

        Args:
            pixel_values_videos: `(batch, frames, 3, height, width)` normalised RGB; as many frames as the config has,
                sides that the patch size divides.
            frame_embeddings: instead: `(batch, frames, channels, rows, columns)`, from `embed_frames`.
            saliency_labels: true densities of the last frame, `(batch, 1, height, width)`, any scale; with them a loss
                is returned.
            fixation_labels: not used by the loss (KL - CC); accepted as all our models do.
            output_hidden_states: whether to return the features of each block. Default: as the config says.
            return_dict: `False` returns a tuple. Default: as the config says.

        Raises:
            ValueError: for both inputs or none, or one of the wrong shape.
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if return_dict is None:
            return_dict = self.config.return_dict
        embedded, grid = self._embedded(pixel_values_videos, frame_embeddings)
        states = self.encoder(
            embedded,
            grid,
            attn_implementation=self.config._attn_implementation,
            output_hidden_states=output_hidden_states,
        )
        logits = self.decoder(states[-1].transpose(1, 2))[:, None]
        maps = logits.float().sigmoid()  # near 1 bfloat16 has steps of 0.004
        if fixation_labels is not None and saliency_labels is None:
            raise ValueError("fixation_labels need saliency_labels beside them: the loss is about densities")
        output = SalFoMOutput(
            loss=None if saliency_labels is None else self._loss(maps, saliency_labels),
            logits=logits,
            saliency_maps=maps,
            hidden_states=states if output_hidden_states else None,
        )
        return output if return_dict else output.to_tuple()

    def _loss(self, maps: torch.Tensor, densities: torch.Tensor) -> torch.Tensor:
        return kl_minus_cc_loss(
            maps, densities, kl_weight=self.config.kl_loss_weight, cc_weight=self.config.cc_loss_weight
        )

    def _embedded(
        self, frames: torch.Tensor | None, embeddings: torch.Tensor | None
    ) -> tuple[torch.Tensor, tuple[int, int]]:
        """`(batch, frames, patches, channels)` and the grid of patches, checked."""
        if (frames is None) == (embeddings is None):
            raise ValueError("give pixel_values_videos or frame_embeddings, one of them")
        num_frames = self.config.num_frames
        if embeddings is not None:
            if embeddings.ndim != 5 or tuple(embeddings.shape[1:3]) != (num_frames, self.config.encoder_dim):
                raise ValueError(
                    f"frame_embeddings must be (batch, {num_frames}, {self.config.encoder_dim}, rows, columns), got "
                    f"{tuple(embeddings.shape)}"
                )
            return embeddings.flatten(3).transpose(2, 3), (embeddings.shape[3], embeddings.shape[4])
        assert frames is not None
        if frames.ndim != 5 or tuple(frames.shape[1:3]) != (num_frames, 3):
            raise ValueError(
                f"pixel_values_videos must be (batch, {num_frames}, 3, height, width), got {tuple(frames.shape)}: the "
                "predictor and the pipeline cut clips of any length into such windows"
            )
        patch = self.config.patch_size
        return self.encoder.embed_frames(frames), (frames.shape[3] // patch, frames.shape[4] // patch)


__all__ = ["SalFoMForVideoSaliency", "SalFoMOutput", "SalFoMPreTrainedModel"]
