# SPDX-License-Identifier: Apache-2.0
"""What a map of the full-size SalFoM costs, what its windows share, and what `map_stride` saves and spoils.

Ratios are of CPU seconds in one process, the ways taken in turns, the median of each. Times of a model do not depend
on its weights, so these are initial ones; the error of `map_stride` does, so it is that of the embedded default model.
"""

from __future__ import annotations

import copy
import time
from pathlib import Path

import pytest
import torch
from test_flow_speed import seconds
from tiny_models import tiny_salfom
from torch.utils.flop_counter import FlopCounterMode

from video_saliency import DEFAULT_MODEL, SalFoMConfig, SalFoMForVideoSaliency, VideoSaliencyPredictor
from video_saliency.losses import correlation_coefficient
from video_saliency.video_io import read_frames

pytestmark = pytest.mark.benchmark

CLIP = Path(__file__).parents[2] / "examples" / "friday.mp4"
REPEATS = 5
STRIDES = (1, 2, 4, 8)


@pytest.fixture(scope="module")
def published() -> SalFoMForVideoSaliency:
    torch.manual_seed(0)
    return SalFoMForVideoSaliency(SalFoMConfig()).eval()


@torch.inference_mode()
def test_full_size_forward(published):
    """Attention that never holds all scores against the written-out one, and bfloat16 against float32.

    One thread of a loaded EPYC took 37 CPU seconds, 55 to 66 written out, and 25 in bfloat16: 1.5 to 1.8 and 1.5
    times. What limits float32 is the rate of matrix products, of which it reached 0.87. What limits bfloat16 is
    attention: in a block it took 0.56 s there and 0.54 s in float32, while the MLP took 0.28 s and 0.69 s.

    The limit that is printed is what the written-out way would take if it were nothing but its matrix products, at
    the rate that the largest of them (a layer of the MLP) reaches here.
    """
    eager = SalFoMForVideoSaliency._from_config(SalFoMConfig(), attn_implementation="eager").eval()
    eager.load_state_dict(published.state_dict(), assign=True)  # no second copy of 1.6 GB
    half = copy.deepcopy(published).bfloat16()
    chosen = [model.config._attn_implementation for model in (published, eager, half)]
    assert chosen == ["sdpa", "eager", "sdpa"]
    frames = torch.randn(1, 16, 3, 224, 224)
    fc1, tokens = published.encoder.blocks[0].mlp.fc1, torch.randn(1, 3136, 1024)
    with FlopCounterMode(display=False) as counter, torch.device("meta"):
        SalFoMForVideoSaliency(published.config).eval()(torch.empty(1, 16, 3, 224, 224))
    operations = counter.get_total_flops()
    cpu = seconds(
        {
            "sdpa": lambda: published(frames),
            "eager": lambda: eager(frames),
            "bfloat16": lambda: half(frames.bfloat16()),
            "one product": lambda: fc1(tokens),
        },
        REPEATS,
    )
    rate = 2 * 3136 * 1024 * 4096 / cpu.pop("one product")
    print(f"\nfull size, {operations / 1e12:.2f} TFLOP, {torch.get_num_threads()} threads, CPU seconds: {cpu}")
    print(f"float32, eager / sdpa: {cpu['eager'] / cpu['sdpa']:.2f}, the limit {cpu['eager'] * rate / operations:.2f}")
    print(f"sdpa reaches {operations / cpu['sdpa'] / rate:.2f} of the rate of one product, {rate / 1e9:.0f} GFLOP/s")
    print(f"sdpa, float32 / bfloat16: {cpu['sdpa'] / cpu['bfloat16']:.2f}")
    assert cpu["eager"] / cpu["sdpa"] >= 1.15
    assert cpu["bfloat16"] <= cpu["sdpa"]


@torch.inference_mode()
def test_what_windows_share(published):
    """Sliding by one frame, a window needs one frame decoded, shrunk and embedded; all else is computed anew."""
    predictor = VideoSaliencyPredictor(*tiny_salfom())
    predictor.processor.size = {"height": 224, "width": 224}
    picture = torch.randint(0, 256, (1, 480, 640, 3), dtype=torch.uint8)
    frames = torch.randn(1, 16, 3, 224, 224)
    block, tokens = published.encoder.blocks[0], torch.randn(1, 3136, 1024)
    features = torch.randn(1, 1024, 16, 14, 14)
    frames_of_clip = read_frames(CLIP)
    cost = seconds(
        {
            "decode a frame": lambda: next(frames_of_clip).to_rgb(),
            "shrink a frame": lambda: predictor.processor.resize_frames(picture),
            "embed a frame": lambda: published.embed_frames(frames[0, :1]),
            "embed 16 frames": lambda: published.embed_frames(frames[0]),
            "a block": lambda: block(tokens),
            "decoder": lambda: published.decoder(features),
        },
        REPEATS,
    )
    print("\n" + ", ".join(f"{name} {1000 * value:.1f} ms" for name, value in cost.items()))
    forward = 24 * cost["a block"] + cost["decoder"]
    for name, saved in {
        "decoding and shrinking": 15 * (cost["decode a frame"] + cost["shrink a frame"]),
        "embedding": cost["embed 16 frames"] - cost["embed a frame"],
    }.items():
        print(f"sharing {name} saves {1000 * saved:.1f} ms a map, {100 * saved / forward:.2f} % of blocks and decoder")
        assert saved > 0


def test_map_stride():
    """Every k-th map predicted, those between interpolated: seconds a frame of a SalFoM, error of a trained model."""
    salfom = VideoSaliencyPredictor(*tiny_salfom(encoder_dim=64))
    trained = VideoSaliencyPredictor.from_pretrained(DEFAULT_MODEL)
    whole = torch.stack([frame.model_map for frame in trained.stream(CLIP)])
    costs = {}
    for stride in STRIDES:
        start = time.process_time()
        count = sum(1 for _ in salfom.stream(CLIP, map_stride=stride))
        costs[stride] = (time.process_time() - start) / count
        maps = torch.stack([frame.model_map for frame in trained.stream(CLIP, map_stride=stride)])
        between = torch.arange(len(maps)) % stride != 0
        text = "exact"
        if between.any():
            agreement = correlation_coefficient(maps[between], whole[between])
            text = f"interpolated maps: CC with their own {agreement.mean():.4f}, least {agreement.min():.4f}"
        speed = f"{1000 * costs[stride]:.1f} ms a frame, {costs[1] / costs[stride]:.2f} times as fast"
        print(f"\nstride {stride}: {speed}; {text}")
    assert costs[1] > costs[2] > costs[4]
