# SPDX-License-Identifier: Apache-2.0
"""The vision transformer of InternVideo2 (Wang et al., ECCV 2024), the encoder of ViSAGE.

A pre-norm transformer over a class token and all patches of a clip (joint space-time attention). Written from the
facts of the published 6 B checkpoint of stage 2 and of the code that runs it: RMSNorm, also of queries and keys over
all heads at once; a scale for each channel of a branch; no norm behind the last block; a learned position table of 4
frames, resized for other clips. Attention pool and decoders of the pretraining are not built: nothing here needs them.

The published code runs fused kernels. These are their equations in plain operations, in bfloat16 too: a branch and the
sum that it belongs to travel side by side, so that a norm sees their sum before it is rounded. Layers keep the names
of the published files (`patch_embed.proj`, `attn.qkv`, `attn.proj`, `mlp.fc1`, `mlp.fc2`), which adapters name too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init

GELU_APPROXIMATION = {"gelu_pytorch_tanh": "tanh", "gelu": "none"}
INITIAL_STD = 0.02  # of linear weights and the class token, as published


class InternVideo2Features(NamedTuple):
    """What blocks gave, one entry for each block that was asked for.

    Attributes:
        features: `(batch, hidden_size, steps, rows, columns)` each, views of the tokens; not normalised.
        class_tokens: `(batch, hidden_size)` each.
    """

    features: tuple[torch.Tensor, ...]
    class_tokens: tuple[torch.Tensor, ...]


def sine_cosine_positions(steps: int, side: int, dim: int) -> torch.Tensor:
    """`(1, 1 + steps * side * side, dim)` float32: initial positions, a row of zeros for the class token first.

    A quarter of the channels tells the step, 3/8 the column, 3/8 the row; each part holds sines, then cosines.

    Args:
        steps: in time.
        side: patches along a side of a frame.
        dim: channels, a multiple of 16.

    Raises:
        ValueError: for other numbers of channels.
    """
    if dim % 16:
        raise ValueError(f"positions need a hidden_size that 16 divides, got {dim}")

    def waves(places: torch.Tensor, channels: int) -> torch.Tensor:
        frequency = 10000.0 ** (-torch.arange(channels // 2, dtype=torch.float64) / (channels // 2))
        angle = places.double().flatten()[:, None] * frequency
        return torch.cat([angle.sin(), angle.cos()], dim=1)

    time, row, column = torch.meshgrid(torch.arange(steps), torch.arange(side), torch.arange(side), indexing="ij")
    table = torch.cat([waves(time, dim // 4), waves(column, dim * 3 // 8), waves(row, dim * 3 // 8)], dim=1)
    return F.pad(table.float(), (0, 0, 1, 0))[None]


def resize_positions(table: torch.Tensor, table_steps: int, steps: int, grid: tuple[int, int]) -> torch.Tensor:
    """`(1, 1 + steps * rows * columns, dim)` float32: a position table for another clip, in time first, then in space.

    Linear over time, bicubic within a step, both by the centres of steps and patches; the class token's row stays. As
    the published code does it when it loads a table; tables in half precision are resized in float32.

    Args:
        table: `(1, 1 + table_steps * side * side, dim)`, class token first.
        table_steps: steps in time of the table.
        steps: of the clip.
        grid: patches `(rows, columns)` of a frame; the published code has square ones only.
    """
    table = table.float()
    side = math.isqrt((table.shape[1] - 1) // table_steps)
    patches = table[0, 1:].unflatten(0, (table_steps, side * side))
    if steps != table_steps:
        patches = F.interpolate(patches.permute(1, 2, 0), size=steps, mode="linear", align_corners=False)
        patches = patches.permute(2, 0, 1)  # (steps, side * side, dim)
    if grid != (side, side):
        frames = patches.transpose(1, 2).unflatten(2, (side, side))
        frames = F.interpolate(frames, size=grid, mode="bicubic", align_corners=False)
        patches = frames.flatten(2).transpose(1, 2)
    return torch.cat([table[:, :1], patches.flatten(0, 1)[None]], dim=1)


class InternVideo2PatchEmbed(nn.Module):
    """Tokens of a clip: the class token, then its patches step by step, row by row, with their positions."""

    def __init__(self, hidden_size: int, patch_size: int, tubelet_size: int, image_size: int, num_frames: int) -> None:
        super().__init__()
        if image_size % patch_size or num_frames % tubelet_size:
            raise ValueError(
                f"the position table is for {num_frames} frames of side {image_size}: tubelet_size ({tubelet_size}) "
                f"must divide the one and patch_size ({patch_size}) the other"
            )
        kernel = (tubelet_size, patch_size, patch_size)
        self.kernel, self.table_steps, self.side = kernel, num_frames // tubelet_size, image_size // patch_size
        self.proj = nn.Conv3d(3, hidden_size, kernel_size=kernel, stride=kernel)
        self.cls_token = nn.Parameter(INITIAL_STD * torch.randn(1, 1, hidden_size))
        self.position_table = nn.Parameter(sine_cosine_positions(self.table_steps, self.side, hidden_size))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """`(batch, 1 + steps * rows * columns, hidden_size)` of `(batch, 3, frames, height, width)`."""
        patches = self.proj(pixels)
        steps, *grid = patches.shape[2:]
        tokens = torch.cat([self.cls_token.to(patches).expand(patches.shape[0], -1, -1), patches.flatten(2).mT], dim=1)
        return tokens + resize_positions(self.position_table, self.table_steps, steps, tuple(grid)).to(tokens)


class InternVideo2RMSNorm(nn.Module):
    """Division by the root mean square over all channels in float32, a weight for each channel."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, branch: torch.Tensor, residual: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """The norm of a sum and the sum, in shape and precision as given; only what is returned is rounded.

        No residual is one of zeros. Normalised values are rounded, then weighted, which may make them float32.
        """
        if residual is None:
            return self.normalize(branch.float(), branch.dtype), branch
        total = branch.float() + residual.float()
        return self.normalize(total, branch.dtype), total.to(branch.dtype)

    def normalize(self, values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """The norm of float32 values, rounded to `dtype`."""
        if dtype == self.weight.dtype == torch.float32:
            return F.rms_norm(values, self.weight.shape, self.weight, self.eps)
        return F.rms_norm(values, self.weight.shape, eps=self.eps).to(dtype) * self.weight


class InternVideo2LayerScale(nn.Module):
    """A factor for each channel, multiplied in float32."""

    def __init__(self, dim: int, initial: float) -> None:
        super().__init__()
        self.initial = initial
        self.scale = nn.Parameter(torch.full((dim,), initial))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Shape and precision as given."""
        return (values.float() * self.scale.float()).to(values.dtype)


class InternVideo2Attention(nn.Module):
    """Every token attends to every token; queries and keys are normalised over all heads at once."""

    def __init__(self, dim: int, heads: int, norm_eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_norm = InternVideo2RMSNorm(dim, norm_eps)
        self.k_norm = InternVideo2RMSNorm(dim, norm_eps)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: torch.Tensor, attn_implementation: str = "sdpa") -> torch.Tensor:
        """`(batch, tokens, dim)` for the same shape."""
        query, key, value = self.qkv(tokens).chunk(3, dim=-1)
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.q_norm(query)[0], self.k_norm(key)[0], value)
        )
        if attn_implementation == "eager":
            scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
            attended = scores.softmax(dim=-1) @ value
        else:
            attended = F.scaled_dot_product_attention(query, key, value)
        return self.proj(attended.transpose(1, 2).flatten(2))


class InternVideo2Mlp(nn.Module):
    """Two linear layers around a GELU; the published weights were trained with its approximation by tanh."""

    def __init__(self, dim: int, hidden: int, hidden_act: str) -> None:
        super().__init__()
        self.approximation = GELU_APPROXIMATION[hidden_act]
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Shape as given."""
        return self.fc2(F.gelu(self.fc1(tokens), approximate=self.approximation))


class InternVideo2Block(nn.Module):
    """Attention and MLP, each behind a norm, scaled, and added to its input."""

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        mlp_ratio: float,
        layer_scale_init: float,
        drop_path: float,
        hidden_act: str,
        norm_eps: float,
    ) -> None:
        super().__init__()
        self.norm1 = InternVideo2RMSNorm(dim, norm_eps)
        self.attn = InternVideo2Attention(dim, heads, norm_eps)
        self.ls1 = InternVideo2LayerScale(dim, layer_scale_init)
        self.norm2 = InternVideo2RMSNorm(dim, norm_eps)
        self.mlp = InternVideo2Mlp(dim, round(dim * mlp_ratio), hidden_act)
        self.ls2 = InternVideo2LayerScale(dim, layer_scale_init)
        self.drop_path = drop_path

    def forward(
        self, branch: torch.Tensor, residual: torch.Tensor | None = None, attn_implementation: str = "sdpa"
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A branch and what it is still to be added to, of the same: their sum is the block's output.

        Args:
            branch: `(batch, tokens, dim)`.
            residual: of the same shape; none before the first block.
            attn_implementation: `"sdpa"` or `"eager"`.
        """
        normed, residual = self.norm1(branch, residual)
        branch = self._dropped(self.ls1(self.attn(normed, attn_implementation)))
        normed, residual = self.norm2(branch, residual)
        return self._dropped(self.ls2(self.mlp(normed))), residual

    def _dropped(self, branch: torch.Tensor) -> torch.Tensor:
        """Stochastic depth: in training, zero for some clips and larger for the others."""
        if not self.training or self.drop_path == 0:
            return branch
        kept = 1 - self.drop_path
        return branch * (branch.new_empty(len(branch), 1, 1).bernoulli_(kept) / kept)


class InternVideo2Encoder(nn.Module):
    """InternVideo2's vision encoder: the residual stream behind some blocks, not normalised, as ViSAGE uses it.

    Any number of frames, and any size whose sides `patch_size` divides: the position table is resized for it. The
    defaults are the 6 B model; the 1 B model has `hidden_size=1408, depth=40, heads=16, mlp_ratio=48 / 11`.

    Keep the position table (`patch_embed.position_table`) in float32 where clips have not its size: it is resized in
    float32, and only the result is rounded.

    Args:
        hidden_size: channels of a token, a multiple of 16.
        depth: blocks.
        heads: of attention.
        mlp_ratio: hidden channels of the MLP over `hidden_size`.
        patch_size: side of a patch in pixels.
        tubelet_size: frames in a patch.
        image_size: side in pixels of the frames that the stored position table is for.
        num_frames: of the clips that the stored position table is for.
        drop_path_rate: stochastic depth of the last block in training; it rises linearly from 0 in the first.
        layer_scale_init: initial factors of the branches.
        hidden_act: `"gelu_pytorch_tanh"`, or `"gelu"` for the exact one.
        norm_eps: added to mean squares.

    Raises:
        ValueError: if numbers do not divide each other, or for another `hidden_act`.
    """

    _gradient_checkpointing_func: Callable[..., Any]  # set by transformers where the flag is

    def __init__(
        self,
        *,
        hidden_size: int = 3200,
        depth: int = 48,
        heads: int = 25,
        mlp_ratio: float = 4.0,
        patch_size: int = 14,
        tubelet_size: int = 1,
        image_size: int = 224,
        num_frames: int = 4,
        drop_path_rate: float = 0.3,
        layer_scale_init: float = 1e-5,
        hidden_act: str = "gelu_pytorch_tanh",
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        if hidden_size % heads:
            raise ValueError(f"{heads} heads do not divide {hidden_size} channels")
        if hidden_act not in GELU_APPROXIMATION:
            raise ValueError(f"hidden_act must be one of {', '.join(GELU_APPROXIMATION)}, got {hidden_act!r}")
        self.patch_embed = InternVideo2PatchEmbed(hidden_size, patch_size, tubelet_size, image_size, num_frames)
        self.blocks = nn.ModuleList(
            InternVideo2Block(
                hidden_size,
                heads,
                mlp_ratio=mlp_ratio,
                layer_scale_init=layer_scale_init,
                drop_path=drop_path_rate * index / max(1, depth - 1),
                hidden_act=hidden_act,
                norm_eps=norm_eps,
            )
            for index in range(depth)
        )
        self.gradient_checkpointing = False

    def forward(
        self,
        pixels: torch.Tensor,
        output_layers: Sequence[int] | None = None,
        *,
        attn_implementation: str = "sdpa",
    ) -> InternVideo2Features:
        """Features and class tokens behind blocks; blocks behind the last of these are not run.

        Args:
            pixels: `(batch, 3, frames, height, width)` normalised RGB; it is cast to the precision of the weights.
            output_layers: numbers of the blocks, from 0, ascending. Default: the last block.
            attn_implementation: `"sdpa"` (`torch.nn.functional.scaled_dot_product_attention`, which never holds the
                scores of all pairs) or `"eager"` (written out, for comparison).

        Raises:
            ValueError: for numbers of no blocks, or a clip that patches do not fill.
        """
        layers = [len(self.blocks) - 1] if output_layers is None else list(output_layers)
        if not layers or layers != sorted(set(layers)) or not 0 <= layers[0] <= layers[-1] < len(self.blocks):
            raise ValueError(f"output_layers must be ascending numbers from 0 to {len(self.blocks) - 1}, got {layers}")
        grid = self._grid(pixels)
        branch, residual = self.patch_embed(pixels.to(self.patch_embed.cls_token.dtype)), None
        states = []
        for number, block in zip(range(layers[-1] + 1), self.blocks, strict=False):
            if self.gradient_checkpointing and self.training:
                branch, residual = self._gradient_checkpointing_func(
                    block.__call__, branch, residual, attn_implementation
                )
            else:
                branch, residual = block(branch, residual, attn_implementation)
            if number in layers:
                states.append(branch + residual)
        return InternVideo2Features(
            tuple(state[:, 1:].mT.unflatten(2, grid) for state in states), tuple(state[:, 0] for state in states)
        )

    def _grid(self, pixels: torch.Tensor) -> tuple[int, int, int]:
        """Steps, rows and columns of a clip, checked."""
        kernel = self.patch_embed.kernel
        if pixels.ndim != 5 or pixels.shape[1] != 3:
            raise ValueError(f"clips must be (batch, 3, frames, height, width), got {tuple(pixels.shape)}")
        size = pixels.shape[2:]
        if any(length % step or not length for length, step in zip(size, kernel, strict=True)):
            raise ValueError(
                f"clips of {size[0]} frames of {size[1]}x{size[2]} cannot be cut into patches of {kernel[0]} frames "
                f"of {kernel[1]}x{kernel[2]}: set the processor's size to multiples of {kernel[1]}"
            )
        return size[0] // kernel[0], size[1] // kernel[1], size[2] // kernel[2]


@torch.no_grad()
def init_internvideo2_weights(module: nn.Module) -> bool:
    """Initial weights of one module of the encoder, for a `_init_weights` of transformers.

    Linear layers and class token normal, factors and norms constant, positions sines and cosines, as published, less
    the scaling of deeper layers; the convolution as PyTorch has it.

    Returns:
        Whether the module is of a kind that has initial weights here; others are left alone.
    """
    if isinstance(module, nn.Linear):
        init.trunc_normal_(module.weight, std=INITIAL_STD)
        if module.bias is not None:
            init.zeros_(module.bias)
    elif isinstance(module, InternVideo2RMSNorm):
        init.ones_(module.weight)
    elif isinstance(module, InternVideo2LayerScale):
        init.constant_(module.scale, module.initial)
    elif isinstance(module, InternVideo2PatchEmbed):
        init.trunc_normal_(module.cls_token, std=INITIAL_STD)
        positions = sine_cosine_positions(module.table_steps, module.side, module.position_table.shape[-1])
        init.copy_(module.position_table, positions.to(module.position_table))
    else:
        return False
    return True


__all__ = [
    "InternVideo2Attention",
    "InternVideo2Block",
    "InternVideo2Encoder",
    "InternVideo2Features",
    "InternVideo2PatchEmbed",
    "init_internvideo2_weights",
    "resize_positions",
    "sine_cosine_positions",
]
