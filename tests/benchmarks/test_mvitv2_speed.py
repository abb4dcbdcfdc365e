# SPDX-License-Identifier: Apache-2.0
"""What relative positions cost in the largest attention of MViTv2-S, block 0 at 32 frames of 224 x 384.

Its scores are 86,017 x 1,345, 0.46 GB in float32. Each way runs in a process of its own, whose peak of resident memory
above that of a small warm-up counts, and the fewest CPU seconds of three runs.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest
import torch

from video_saliency.backbones.mvitv2 import MViTv2Encoder

pytestmark = pytest.mark.benchmark

SCORES_GIB = 86_017 * 1_345 * 4 / 2**30
SCRIPT = """
import json, re, sys, time
from pathlib import Path
import torch
import torch.nn.functional as F
from video_saliency.backbones import mvitv2

way, trains = sys.argv[1], sys.argv[2] == "train"

def with_mask(query, key, value, terms, scale):
    time, row, column = terms
    bias = time[..., :, None, None] + row[..., None, :, None] + column[..., None, None, :]
    mask = F.pad(bias.flatten(-3), (1, 0, 1, 0))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)

def in_parts(query, key, value, terms, scale):
    time, row, column = (F.pad(term, (0, 0, 1, 0)) for term in terms)
    outputs = []
    for start in range(0, query.shape[2], 4096):
        part = slice(start, start + 4096)
        bias = time[:, :, part, :, None, None] + row[:, :, part, None, :, None] + column[:, :, part, None, None, :]
        scores = (query[:, :, part] * scale) @ key.transpose(-2, -1) + F.pad(bias.flatten(-3), (1, 0))
        outputs.append(scores.softmax(dim=-1) @ value)
    return torch.cat(outputs, dim=2)

ways = {
    "folded": mvitv2._attend_folded,
    "mask": with_mask,
    "eager": mvitv2._attend_eager,
    "in parts": in_parts,
    "no attention": lambda query, key, value, terms, scale: query + 0 * sum(term.sum() for term in terms),
}
mvitv2._attend_folded = ways[way]

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 2**20

torch.manual_seed(0)
attention = mvitv2.MViTv2Attention(96, 96, heads=1, query_stride=1, key_stride=8, grid=(8, 56, 56))
for table in (attention.relative_time, attention.relative_row, attention.relative_column):
    torch.nn.init.normal_(table, std=0.2)
tokens = torch.randn(1, 1 + 16 * 56 * 96, 96)

def run(tokens, grid):
    with torch.set_grad_enabled(trains):
        output = attention(tokens, grid)
        if trains:
            output.square().mean().backward()
    return output.detach()[0, ::9973].tolist()

run(tokens[:, : 1 + 16 * 8 * 8], (16, 8, 8))
before, seconds = peak(), []
for _ in range(3):
    start = time.process_time()
    output = run(tokens, (16, 56, 96))
    seconds.append(time.process_time() - start)
print(json.dumps({"gib": peak() - before, "seconds": min(seconds), "output": output}))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak of memory from /proc")
@pytest.mark.parametrize("purpose", ["infer", "train"])
def test_block_0(purpose: str) -> None:
    results = {}
    print(f"\nattention of block 0 at 32 x 224 x 384, {purpose}; its scores would take {SCORES_GIB:.2f} GiB")
    for way in ("no attention", "folded", "mask", "eager", "in parts"):
        command = [sys.executable, "-c", SCRIPT, way, purpose]
        results[way] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"{way}: peak {results[way]['gib']:.2f} GiB, {results[way]['seconds']:.2f} CPU seconds")
    for way in ("mask", "eager", "in parts"):
        torch.testing.assert_close(
            torch.tensor(results["folded"]["output"]), torch.tensor(results[way]["output"]), atol=1e-4, rtol=1e-4
        )
    # folded positions leave no scores in memory
    assert results["folded"]["gib"] < results["no attention"]["gib"] + SCORES_GIB / 2
    assert results["folded"]["gib"] < results["mask"]["gib"] - SCORES_GIB / 2
    assert results["folded"]["seconds"] < results["mask"]["seconds"]


@pytest.mark.parametrize("size", [(16, 224, 224), (32, 224, 384)])
def test_whole_encoder(size: tuple[int, int, int]) -> None:
    encoder, clip = MViTv2Encoder().eval(), torch.randn(1, 3, *size)
    seconds = {}
    for attention in ("sdpa", "eager"):
        start = time.process_time()
        with torch.no_grad():
            stages = encoder(clip, attn_implementation=attention)
        seconds[attention] = time.process_time() - start
        assert stages[3].shape == (1, 768, size[0] // 2, size[1] // 32, size[2] // 32)
    print(f"\nMViTv2-S at {size}: " + ", ".join(f"{way} {value:.1f} CPU seconds" for way, value in seconds.items()))
    assert seconds["sdpa"] < seconds["eager"]
