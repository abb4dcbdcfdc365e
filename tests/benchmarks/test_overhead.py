# SPDX-License-Identifier: Apache-2.0
"""What the road costs beside the network: end to end against the forward alone, stage by stage."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from video_saliency import DEFAULT_MODEL, VideoSaliencyPredictor
from video_saliency.video_io import read_frames

pytestmark = pytest.mark.benchmark

CLIP = Path(__file__).parents[2] / "examples" / "friday.mp4"


def cpu_and_wall(work) -> tuple[float, float, int]:
    cpu, wall = time.process_time(), time.perf_counter()
    count = sum(1 for _ in work)
    return (time.process_time() - cpu) / count, (time.perf_counter() - wall) / count, count


def forwards(predictor: VideoSaliencyPredictor, count: int):
    size = predictor.processor.size
    batch = torch.zeros(predictor.batch_size, 1, 3, size["height"], size["width"], dtype=torch.uint8)
    for _ in range(count // predictor.batch_size):
        yield from predictor.predict_windows(batch)[0]


def test_end_to_end_against_the_forward_alone():
    predictor = VideoSaliencyPredictor.from_pretrained(DEFAULT_MODEL)
    list(forwards(predictor, 32))
    rows = {
        "forward alone": lambda: forwards(predictor, 184),
        "decode": lambda: read_frames(CLIP),
        "decode + RGB": lambda: (frame.to_rgb() for frame in read_frames(CLIP)),
        "stream, maps at model size": lambda: predictor.stream(CLIP),
        "stream, maps at source size": lambda: (frame.saliency_map for frame in predictor.stream(CLIP)),
        "stream, with frames": lambda: predictor.stream(CLIP, with_frames=True),
    }
    print(f"\n{torch.get_num_threads()} threads; the example clip, 640 x 480")
    base = 0.0
    for name, work in rows.items():
        cpu, wall, _ = min((cpu_and_wall(work()) for _ in range(3)), key=lambda row: row[1])
        base = base or wall
        print(f"{name:30} {1000 * wall:7.2f} ms wall, {1000 * cpu:7.2f} ms CPU a frame; {wall / base:5.2f} x forward")
    assert base > 0
