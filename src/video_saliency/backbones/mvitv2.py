# SPDX-License-Identifier: Apache-2.0
"""MViTv2 for video (Li et al., CVPR 2022), the visual encoder of DTFSal: the features of its four stages.

A transformer over all cells of a clip, whose attention is over pooled queries, keys and values. Four stages, each with
half the rows and columns of the one before it. Written from the facts of the published checkpoints. Names are ours;
`convert_dtfsal` knows those of the files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

LAYER_NORM_EPSILON = 1e-6
PATCH_STRIDE = (2, 4, 4)  # (time, height, width)
NUM_STAGES = 4
FIRST_KEY_STRIDE = 8  # keys and values of the first stage are pooled so much in space; half of it in each further one
ALIGNMENT = 8  # fast attention kernels want head dimensions that are multiples of it

Grid = tuple[int, int, int]  # frames, rows, columns


def _strided(grid: Grid, stride: int) -> Grid:
    """What a 3 x 3 x 3 window with padding 1 leaves of a grid, at a stride in space; frames stay."""
    frames, rows, columns = grid
    return frames, (rows - 1) // stride + 1, (columns - 1) // stride + 1


def _to_grid(tokens: torch.Tensor, grid: Grid) -> torch.Tensor:
    """`(batch, channels, frames, rows, columns)` of tokens `(batch, cells, channels)`."""
    return tokens.transpose(1, 2).unflatten(2, grid)


class MViTv2Pool(nn.Module):
    """A depthwise 3 x 3 x 3 convolution of the cells, the same for each head, then a LayerNorm of all tokens."""

    def __init__(self, head_dim: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.convolution = nn.Conv3d(
            head_dim, head_dim, kernel_size=3, stride=(1, stride, stride), padding=1, groups=head_dim, bias=False
        )
        self.norm = nn.LayerNorm(head_dim, eps=LAYER_NORM_EPSILON)

    def forward(self, tokens: torch.Tensor, grid: Grid) -> torch.Tensor:
        """`(batch, heads, 1 + pooled cells, head_dim)` for `(batch, heads, 1 + cells, head_dim)`.

        The first token is the class token, which belongs to no cell and passes by the convolution.
        """
        heads = tokens.shape[1]
        cells = _to_grid(tokens[:, :, 1:].flatten(0, 1), grid)
        pooled = self.convolution(cells).flatten(2).transpose(1, 2).unflatten(0, (-1, heads))
        return self.norm(torch.cat([tokens[:, :, :1], pooled], dim=2))


class MViTv2Attention(nn.Module):
    """Attention of pooled tokens with relative positions, which are tables for each axis, at any size of the grid.

    Args:
        in_dim, out_dim: channels that come in and go out.
        heads: of `out_dim / heads` channels.
        query_stride, key_stride: of the pooling in space.
        grid: cells for which the tables are laid out; for others they are interpolated.
    """

    def __init__(
        self, in_dim: int, out_dim: int, *, heads: int, query_stride: int, key_stride: int, grid: Grid
    ) -> None:
        super().__init__()
        self.heads, self.scale = heads, (out_dim // heads) ** -0.5
        head_dim = out_dim // heads
        self.query_stride, self.key_stride = query_stride, key_stride
        self.qkv = nn.Linear(in_dim, 3 * out_dim)
        self.pool_query = MViTv2Pool(head_dim, query_stride)
        self.pool_key = MViTv2Pool(head_dim, key_stride)
        self.pool_value = MViTv2Pool(head_dim, key_stride)
        self.output = nn.Linear(out_dim, out_dim)
        sides = zip(_strided(grid, query_stride), _strided(grid, key_stride), strict=True)
        lengths = [2 * max(pair) - 1 for pair in sides]
        self.relative_time, self.relative_row, self.relative_column = (
            nn.Parameter(torch.empty(length, head_dim)) for length in lengths
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Small random tables."""
        for table in (self.relative_time, self.relative_row, self.relative_column):
            nn.init.trunc_normal_(table, std=0.02)

    def forward(self, tokens: torch.Tensor, grid: Grid, attn_implementation: str = "sdpa") -> torch.Tensor:
        """`(batch, 1 + pooled cells, out_dim)` of normalised tokens `(batch, 1 + cells, in_dim)`."""
        query, key, value = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query = self.pool_query(query, grid)
        key, value = self.pool_key(key, grid), self.pool_value(value, grid)
        query_grid, key_grid = _strided(grid, self.query_stride), _strided(grid, self.key_stride)
        terms = self.position_terms(query[:, :, 1:], query_grid, key_grid)
        attend = _attend_eager if attn_implementation == "eager" else _attend_folded
        attended = attend(query, key, value, terms, self.scale)
        # the pooled queries are added, but not that of the class token
        attended = torch.cat([attended[:, :, :1], attended[:, :, 1:] + query[:, :, 1:]], dim=2)
        return self.output(attended.transpose(1, 2).flatten(2))

    def position_terms(self, query: torch.Tensor, query_grid: Grid, key_grid: Grid) -> list[torch.Tensor]:
        """What relative positions add to the scores of queries `(batch, heads, cells, head_dim)`, axis by axis.

        Three tensors `(batch, heads, cells, side of the key grid)` for time, rows and columns: the score of a query
        and a key cell gets the sum of the three entries at the key's place.
        """
        query = query.unflatten(2, query_grid)
        terms = []
        tables = (self.relative_time, self.relative_row, self.relative_column)
        for axis, (name, table) in enumerate(zip("tij", tables, strict=True)):
            vectors = relative_vectors(table, query_grid[axis], key_grid[axis]).to(query)
            terms.append(torch.einsum(f"bntijc,{name}kc->bntijk", query, vectors).flatten(2, 4))
        return terms


def relative_vectors(table: torch.Tensor, query_side: int, key_side: int) -> torch.Tensor:
    """`(query_side, key_side, channels)`: the vector of each pair of places along one axis.

    The table is brought from its own length to that of these sides in one linear interpolation, as in all published
    implementations.
    """
    length = 2 * max(query_side, key_side) - 1
    if table.shape[0] != length:
        rows = F.interpolate(table.T[None], size=length, mode="linear", align_corners=False)
        table = rows[0].T
    # float32 as in those: what is no whole number is cut off behind the rounding of this precision
    query, key = (torch.arange(side, device=table.device, dtype=torch.float32) for side in (query_side, key_side))
    query = query[:, None] * max(key_side / query_side, 1.0)
    key = (key[None, :] + 1 - key_side) * max(query_side / key_side, 1.0)
    return table[(query - key).long()]


def _attend_eager(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, terms: Sequence[torch.Tensor], scale: float
) -> torch.Tensor:
    """Attention written out, with all scores in memory; the class token comes first and has no position."""
    time, row, column = terms
    bias = time[..., :, None, None] + row[..., None, :, None] + column[..., None, None, :]
    scores = (query * scale) @ key.transpose(-2, -1)
    scores = scores + F.pad(bias.flatten(-3), (1, 0, 1, 0))
    return scores.softmax(dim=-1) @ value


def _attend_folded(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, terms: Sequence[torch.Tensor], scale: float
) -> torch.Tensor:
    """The same without scores in memory: positions become further channels of queries and keys.

    A query gets its position terms as channels and a key a 1 at each of its places, so that their product is the
    score with its bias. The class token has zeros there. Values are padded, since kernels want equal sizes.

    Measured: one forward without gradient of the whole attention of block 0 (qkv, pools, output and this) at 32 frames
    of 224 x 384, whose 86,017 x 1,345 scores are 0.43 GiB in float32. Peak of resident memory above that of a small
    warm-up, and the fewest CPU seconds of three forwards:

    | way | peak, GiB | CPU seconds |
    | --- | --- | --- |
    | without attention, the rest alone | 0.31 | 0.53 |
    | folded positions, as here | 0.31 | 1.22 |
    | scaled dot product with the bias as mask | 1.08 | 1.56 |
    | `_attend_eager` | 1.97 | 2.92 |
    | eager, 4,096 queries at a time | 0.36 | 1.58 |

    On one thread of 2 shared cores of x86_64, torch 2.13.0+cpu; in a second run the last four rows had 0.31, 1.05,
    1.94 and 0.61 GiB, and 1.53, 1.77, 2.77 and 1.69 seconds. By `OMP_NUM_THREADS=1 python -m pytest -s -m benchmark
    tests/benchmarks/test_mvitv2_speed.py -k "block_0 and infer"`.
    """
    sides = [term.shape[-1] for term in terms]
    head_dim = query.shape[-1]
    padding = -(head_dim + sum(sides)) % ALIGNMENT
    positions = F.pad(torch.cat(list(terms), dim=-1), (0, padding, 1, 0))
    folded_query = torch.cat([query * scale, positions], dim=-1)
    places = F.pad(_place_channels(sides, key), (0, padding, 1, 0))
    folded_key = torch.cat([key, places.expand(*key.shape[:-1], -1)], dim=-1)
    folded_value = F.pad(value, (0, sum(sides) + padding))
    attended = F.scaled_dot_product_attention(folded_query, folded_key, folded_value, scale=1.0)
    return attended[..., :head_dim]


def _place_channels(sides: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    """`(cells, sum of sides)`: for each cell of a grid a 1 at its frame, its row and its column."""
    frames, rows, columns = (torch.eye(side, device=like.device, dtype=like.dtype) for side in sides)
    places = [
        frames[:, None, None].expand(-1, *sides[1:], -1),
        rows[None, :, None].expand(sides[0], -1, sides[2], -1),
        columns[None, None].expand(*sides[:2], -1, -1),
    ]
    return torch.cat(places, dim=-1).flatten(0, 2)


class MViTv2Mlp(nn.Module):
    """Two linear layers around an exact GELU."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Shape as given."""
        return self.fc2(F.gelu(self.fc1(tokens)))


class MViTv2Block(nn.Module):
    """Attention and MLP, each behind a LayerNorm and added to its input; the first of a stage halves the grid.

    Args:
        in_dim, out_dim: channels that come in and go out.
        heads: of attention.
        query_stride, key_stride: of the attention's pooling in space.
        grid: for which the tables of relative positions are laid out.
        mlp_ratio: hidden channels of the MLP over `out_dim`.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        heads: int,
        query_stride: int,
        key_stride: int,
        grid: Grid,
        mlp_ratio: float,
    ) -> None:
        super().__init__()
        self.query_stride = query_stride
        self.norm1 = nn.LayerNorm(in_dim, eps=LAYER_NORM_EPSILON)
        self.attention = MViTv2Attention(
            in_dim, out_dim, heads=heads, query_stride=query_stride, key_stride=key_stride, grid=grid
        )
        self.shortcut = nn.Linear(in_dim, out_dim) if in_dim != out_dim else None
        self.norm2 = nn.LayerNorm(out_dim, eps=LAYER_NORM_EPSILON)
        self.mlp = MViTv2Mlp(out_dim, int(out_dim * mlp_ratio))

    def forward(self, tokens: torch.Tensor, grid: Grid, attn_implementation: str = "sdpa") -> torch.Tensor:
        """`(batch, 1 + pooled cells, out_dim)` of `(batch, 1 + cells, in_dim)`; the class token comes first."""
        normed = self.norm1(tokens)
        kept = tokens if self.shortcut is None else self.shortcut(normed)
        if self.query_stride > 1:
            kept = self._pooled(kept, grid)
        tokens = kept + self.attention(normed, grid, attn_implementation)
        return tokens + self.mlp(self.norm2(tokens))

    def _pooled(self, tokens: torch.Tensor, grid: Grid) -> torch.Tensor:
        """The maximum of 3 x 3 cells for each cell of the coarser grid."""
        frames, rows, columns = grid
        # frames are pooled one by one, so that this is a pooling of pictures
        cells = tokens[:, 1:].unflatten(1, (frames, rows, columns)).flatten(0, 1).permute(0, 3, 1, 2)
        pooled = F.max_pool2d(cells, kernel_size=3, stride=self.query_stride, padding=1)
        pooled = pooled.permute(0, 2, 3, 1).unflatten(0, (-1, frames)).flatten(1, 3)
        return torch.cat([tokens[:, :1], pooled], dim=1)


class MViTv2Encoder(nn.Module):
    """The features of the four stages of an MViTv2. The defaults are MViTv2-S as trained on Kinetics-400.

    Any number of frames and any size, also sides that are no multiples of 32: grids are rounded up.

    Args:
        channels: of the stages.
        depths: blocks of the stages.
        heads: of attention in the stages.
        input_size: frames, height and width of the clips that the tables of relative positions are laid out for.
        mlp_ratio: hidden channels of the MLPs over their outer ones.
        stage_norms: whether each stage's output has a LayerNorm, which the next stage does not see. That of the last
            stage is the network's own final one.

    Raises:
        ValueError: unless there are four stages with at least one block, and heads divide channels.
    """

    _gradient_checkpointing_func: Callable[..., Any]  # set by transformers where the flag is

    def __init__(
        self,
        *,
        channels: Sequence[int] = (96, 192, 384, 768),
        depths: Sequence[int] = (1, 2, 11, 2),
        heads: Sequence[int] = (1, 2, 4, 8),
        input_size: Sequence[int] = (16, 224, 224),
        mlp_ratio: float = 4.0,
        stage_norms: bool = True,
    ) -> None:
        super().__init__()
        if not len(channels) == len(depths) == len(heads) == NUM_STAGES or min(depths) < 1:
            raise ValueError(
                f"channels, depths and heads must have {NUM_STAGES} values each, and depths be at least 1; got "
                f"{channels}, {depths}, {heads}"
            )
        if any(width % count for width, count in zip(channels, heads, strict=True)):
            raise ValueError(f"heads {heads} do not divide channels {channels}")
        self.channels = tuple(channels)
        self.stage_ends = tuple(accumulate(depths))
        self.patch_embedding = nn.Conv3d(3, channels[0], kernel_size=(3, 7, 7), stride=PATCH_STRIDE, padding=(1, 3, 3))
        self.class_token = nn.Parameter(torch.empty(1, 1, channels[0]))
        frames, rows, columns = (-(-side // step) for side, step in zip(input_size, PATCH_STRIDE, strict=True))
        grid = (frames, rows, columns)
        # the first block of each stage but the first halves the grid
        self.strides = [
            2 if stage and not number else 1 for stage in range(NUM_STAGES) for number in range(depths[stage])
        ]
        self.blocks = nn.ModuleList()
        dim = channels[0]
        for stage in range(NUM_STAGES):
            for query_stride in self.strides[sum(depths[:stage]) : sum(depths[: stage + 1])]:
                block = MViTv2Block(
                    dim,
                    channels[stage],
                    heads=heads[stage],
                    query_stride=query_stride,
                    key_stride=max(1, FIRST_KEY_STRIDE >> stage),
                    grid=grid,
                    mlp_ratio=mlp_ratio,
                )
                self.blocks.append(block)
                grid, dim = _strided(grid, query_stride), channels[stage]
        self.norms = nn.ModuleList(
            nn.LayerNorm(width, eps=LAYER_NORM_EPSILON) if stage_norms else nn.Identity() for width in channels
        )
        self.gradient_checkpointing = False
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """A small random class token."""
        nn.init.trunc_normal_(self.class_token, std=0.02)

    def forward(self, pixels: torch.Tensor, *, attn_implementation: str = "sdpa") -> tuple[torch.Tensor, ...]:
        """Four tensors `(batch, channels, frames / 2, height / s, width / s)` for s = 4, 8, 16, 32, rounded up.

        Args:
            pixels: `(batch, 3, frames, height, width)` normalised RGB.
            attn_implementation: `"sdpa"` (`torch.nn.functional.scaled_dot_product_attention`, which never holds the
                scores of all pairs) or `"eager"` (written out, for comparison).
        """
        embedded = self.patch_embedding(pixels)
        frames, rows, columns = embedded.shape[2:]
        grid = (frames, rows, columns)
        cells = embedded.flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(cells.shape[0], -1, -1), cells], dim=1)
        stages: list[torch.Tensor] = []
        for number, (block, stride) in enumerate(zip(self.blocks, self.strides, strict=True), start=1):
            if self.gradient_checkpointing and self.training:
                tokens = self._gradient_checkpointing_func(block.__call__, tokens, grid, attn_implementation)
            else:
                tokens = block(tokens, grid, attn_implementation)
            grid = _strided(grid, stride)
            if number in self.stage_ends:
                stages.append(_to_grid(self.norms[len(stages)](tokens[:, 1:]), grid))
        return tuple(stages)


__all__ = ["MViTv2Attention", "MViTv2Block", "MViTv2Encoder", "relative_vectors"]
