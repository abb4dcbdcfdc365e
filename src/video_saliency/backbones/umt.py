# SPDX-License-Identifier: Apache-2.0
"""The vision transformer of UMT ("Unmasked Teacher", Li et al., ICCV 2023), the encoder of SalFoM.

A plain pre-norm transformer over all tokens of a clip (joint space-time attention), without class token. Written from
the facts of the published checkpoints: LayerNorm with epsilon 1e-6, exact GELU, queries and values with a bias but
keys without, a fixed sine-cosine position table. Names are ours; `convert_salfom` knows those of the files.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

TABLE_FRAMES = 8  # the published models were trained with tables of 8 frames of 14 x 14 patches
TABLE_GRID = (14, 14)
LAYER_NORM_EPSILON = 1e-6


def position_table(frames: int, grid: tuple[int, int], dim: int) -> torch.Tensor:
    """`(frames * rows * columns, dim)` float32: the fixed positions of all tokens, frame by frame, row by row.

    Sines (even channels) and cosines (odd) of the number of a token in a clip of 8 frames of 14 x 14 patches, at
    wavelengths from 2 pi to 20,000 pi. For another grid each of the 8 frames is resized bicubically, for another
    number of frames the result is resized linearly in time, as UMT does it. So the table of 16 frames is not the
    sine-cosine table of 16 frames, but an interpolated one, and the weights know it only so.

    Args:
        frames: of the clip.
        grid: patches `(rows, columns)` of a frame.
        dim: channels of a token.
    """
    rows, columns = TABLE_GRID
    number = torch.arange(TABLE_FRAMES * rows * columns, dtype=torch.float64, device="cpu")[:, None]
    channel = torch.arange(dim, dtype=torch.float64, device="cpu")
    angle = number / 10000 ** (2 * (channel // 2) / dim)
    table = torch.where(channel % 2 == 0, angle.sin(), angle.cos()).float()
    table = table.view(TABLE_FRAMES, rows, columns, dim).permute(0, 3, 1, 2)
    if grid != TABLE_GRID:
        table = F.interpolate(table, size=grid, mode="bicubic", align_corners=False)
    table = table.permute(2, 3, 1, 0).flatten(0, 1)  # (rows * columns, dim, 8)
    if frames != TABLE_FRAMES:
        table = F.interpolate(table, size=frames, mode="linear", align_corners=False)
    return table.permute(2, 0, 1).flatten(0, 1).contiguous()


class UMTAttention(nn.Module):
    """Every token attends to every token of the clip."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim)
        self.output = nn.Linear(dim, dim)

    def forward(self, tokens: torch.Tensor, attn_implementation: str = "sdpa") -> torch.Tensor:
        """`(batch, tokens, dim)` for the same shape."""
        query, key, value = (
            project(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        if attn_implementation == "eager":
            scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
            attended = scores.softmax(dim=-1) @ value
        else:
            attended = F.scaled_dot_product_attention(query, key, value)
        return self.output(attended.transpose(1, 2).flatten(2))


class UMTMlp(nn.Module):
    """Two linear layers around an exact GELU."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Shape as given."""
        return self.fc2(F.gelu(self.fc1(tokens)))


class UMTBlock(nn.Module):
    """Attention and MLP, each behind a LayerNorm and added to its input."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=LAYER_NORM_EPSILON)
        self.attention = UMTAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=LAYER_NORM_EPSILON)
        self.mlp = UMTMlp(dim, int(dim * mlp_ratio))

    def forward(self, tokens: torch.Tensor, attn_implementation: str = "sdpa") -> torch.Tensor:
        """Shape as given."""
        tokens = tokens + self.attention(self.norm1(tokens), attn_implementation)
        return tokens + self.mlp(self.norm2(tokens))


class UMTEncoder(nn.Module):
    """UMT without its classifier: the residual stream behind the last block, not normalised, as SalFoM uses it.

    Any number of frames, and any size whose sides `patch_size` divides: the position table is made for it. The
    defaults are UMT-L/16; UMT-B/16 has `dim=768, depth=12, heads=12`.

    Args:
        dim: channels of a token.
        depth: blocks.
        heads: of attention.
        mlp_ratio: hidden channels of the MLP over `dim`.
        patch_size: side of a patch in pixels.

    Raises:
        ValueError: if the heads do not divide the channels.
    """

    _gradient_checkpointing_func: Callable[..., torch.Tensor]  # given by the model that has checkpointing switched on

    def __init__(
        self,
        *,
        dim: int = 1024,
        depth: int = 24,
        heads: int = 16,
        mlp_ratio: float = 4.0,
        patch_size: int = 16,
    ) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"{heads} heads do not divide {dim} channels")
        self.dim, self.patch_size = dim, patch_size
        # a patch covers one frame, so that this is a convolution of pictures
        self.patch_embedding = nn.Conv2d(3, dim, kernel_size=patch_size, stride=patch_size)
        self.blocks = nn.ModuleList(UMTBlock(dim, heads, mlp_ratio) for _ in range(depth))
        self.gradient_checkpointing = False
        self._positions: tuple[object, torch.Tensor] | None = None  # the last table, and what it was made for

    def embed_frames(self, frames: torch.Tensor) -> torch.Tensor:
        """`(..., rows * columns, dim)`: the patches of each frame, without position.

        They do not depend on the window, so that a sliding window needs to embed each frame once.

        Args:
            frames: `(batch, ..., 3, height, width)` normalised.

        Raises:
            ValueError: if a side is no multiple of the patch size.
        """
        height, width = frames.shape[-2:]
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"frames of {height}x{width} cannot be cut into patches of {self.patch_size}: set the processor's "
                f"size to multiples of {self.patch_size}"
            )
        embedded = self.patch_embedding(frames.flatten(0, -4))
        return embedded.flatten(2).transpose(1, 2).unflatten(0, frames.shape[:-3])

    def forward(
        self,
        embedded: torch.Tensor,
        grid: tuple[int, int],
        *,
        attn_implementation: str = "sdpa",
        output_hidden_states: bool = False,
    ) -> tuple[torch.Tensor, ...]:
        """Features `(batch, frames, dim, rows, columns)`: those of the last block, or of every block, in order.

        Args:
            embedded: `(batch, frames, rows * columns, dim)` from `embed_frames`.
            grid: `(rows, columns)`.
            attn_implementation: `"sdpa"` (`torch.nn.functional.scaled_dot_product_attention`, which never holds the
                scores of all pairs) or `"eager"` (written out, for comparison).
            output_hidden_states: whether to give those of every block.
        """
        batch, frames = embedded.shape[:2]
        tokens = embedded.flatten(1, 2) + self._position_table(frames, grid, embedded)
        states = []
        for block in self.blocks:
            if self.gradient_checkpointing and self.training:
                tokens = self._gradient_checkpointing_func(block.__call__, tokens, attn_implementation)
            else:
                tokens = block(tokens, attn_implementation)
            if output_hidden_states:
                states.append(tokens)
        return tuple(
            state.transpose(1, 2).unflatten(2, (frames, *grid)).transpose(1, 2) for state in (states or [tokens])
        )

    def _position_table(self, frames: int, grid: tuple[int, int], like: torch.Tensor) -> torch.Tensor:
        """The table in the precision and on the device of `like`; made anew only when one of these changes."""
        if torch.compiler.is_compiling():
            return position_table(frames, grid, self.dim).to(like)
        key = (frames, grid, like.device, like.dtype)
        if self._positions is None or self._positions[0] != key:
            with torch.inference_mode(False):  # so that training may use what prediction made
                self._positions = (key, position_table(frames, grid, self.dim).to(like))
        return self._positions[1]


__all__ = ["UMTAttention", "UMTBlock", "UMTEncoder", "position_table"]
