# SPDX-License-Identifier: Apache-2.0
"""What InternVideo2's encoder costs against the same equations written out: with all scores, and all norms by hand.

Ratios are of CPU seconds in one process, the two ways taken in turns, the median of each. The full-width block takes
minutes, and about 9 GB: the scores of all pairs of 5121 tokens in 25 heads are 2.6 GB, and there is a softmax of them.
"""

from __future__ import annotations

import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from video_saliency.backbones.internvideo2 import InternVideo2Encoder, resize_positions

pytestmark = pytest.mark.benchmark

CASES = {  # what to build, frames, side, how often
    "tiny": ({"hidden_size": 96, "depth": 4, "heads": 4, "image_size": 56}, 4, 56, 15),
    "one full-width block": ({"depth": 1}, 20, 224, 3),
}
GIGABYTES_NEEDED = 9


def rms_norm(values: torch.Tensor, norm: nn.Module) -> torch.Tensor:
    mean_square = values.pow(2).mean(dim=-1, keepdim=True)
    return values / torch.sqrt(mean_square + norm.eps) * norm.weight


def attention(tokens: torch.Tensor, module: nn.Module) -> torch.Tensor:
    batch, count, dim = tokens.shape
    query, key, value = module.qkv(tokens).split(dim, dim=-1)
    query, key = rms_norm(query, module.q_norm), rms_norm(key, module.k_norm)
    query, key, value = (
        part.reshape(batch, count, module.heads, dim // module.heads).transpose(1, 2) for part in (query, key, value)
    )
    scores = query @ key.transpose(-2, -1) / math.sqrt(dim // module.heads)
    attended = torch.softmax(scores, dim=-1) @ value
    return module.proj(attended.transpose(1, 2).reshape(batch, count, dim))


def gelu(values: torch.Tensor) -> torch.Tensor:
    return nn.functional.gelu(values, approximate="tanh")


def plain_forward(model: InternVideo2Encoder, pixels: torch.Tensor) -> torch.Tensor:
    """The tokens behind the last block, one equation a line."""
    patches = model.patch_embed.proj(pixels)
    tokens = torch.cat(
        [model.patch_embed.cls_token.expand(len(pixels), -1, -1), patches.flatten(2).transpose(1, 2)], 1
    )
    embed = model.patch_embed
    grid = (patches.shape[3], patches.shape[4])
    tokens = tokens + resize_positions(embed.position_table, embed.table_steps, patches.shape[2], grid)
    for block in model.blocks:
        tokens = tokens + block.ls1.scale * attention(rms_norm(tokens, block.norm1), block.attn)
        hidden = gelu(block.mlp.fc1(rms_norm(tokens, block.norm2)))
        tokens = tokens + block.ls2.scale * block.mlp.fc2(hidden)
    return tokens


def seconds(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median CPU seconds of each way, taken in turns."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            start = time.process_time()
            way()
            times[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def free_gigabytes() -> float:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except FileNotFoundError:  # not Linux: try
        return math.inf
    available = next(line for line in lines if line.startswith("MemAvailable"))
    return int(available.split()[1]) / 2**20


@pytest.mark.parametrize("case", CASES)
def test_encoder_against_plain_equations(case):
    fields, frames, side, repeats = CASES[case]
    if case != "tiny" and free_gigabytes() < GIGABYTES_NEEDED:
        pytest.skip(f"{free_gigabytes():.1f} GB of memory are free, {GIGABYTES_NEEDED} are needed")
    torch.manual_seed(0)
    model = InternVideo2Encoder(**fields, layer_scale_init=1.0).eval()
    pixels = torch.randn(1, 3, frames, side, side)
    with torch.inference_mode():
        (features,) = model(pixels).features  # both ways are warm after this
        expected = plain_forward(model, pixels)[:, 1:].transpose(1, 2).reshape(features.shape)
        torch.testing.assert_close(features, expected, atol=1e-3, rtol=1e-3)
        del features, expected
        found = seconds({"ours": lambda: model(pixels), "plain": lambda: plain_forward(model, pixels)}, repeats)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model.to("meta")(pixels.to("meta"))
    ratio = found["plain"] / found["ours"]
    machine = f"{os.cpu_count()} cores of {platform.processor() or platform.machine()}"
    print(f"\n{machine}, {torch.get_num_threads()} threads, torch {torch.__version__}, float32")
    print(f"{case}, {frames} frames of {side} x {side}, {counter.get_total_flops() / 1e9:.3g} GFLOP:")
    print(f"ours {found['ours']:.3f} s CPU, plain {found['plain']:.3f} s, ratio {ratio:.2f}")
    if case != "tiny":
        assert ratio >= 1.5
