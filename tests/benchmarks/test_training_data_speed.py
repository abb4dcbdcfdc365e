# SPDX-License-Identifier: Apache-2.0
"""Whether the data keep up with the model: windows a second with 0, 1 and 2 workers against its training step."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from video_factory import make_clip

from video_saliency.data import open_dataset
from video_saliency.models.gfsalnet.configuration_gfsalnet import GFSalNetConfig
from video_saliency.models.gfsalnet.modeling_gfsalnet import GFSalNetForVideoSaliency
from video_saliency.processing_video_saliency import VideoSaliencyProcessor
from video_saliency.training.still_augmentation import StillAugmentation
from video_saliency.training.training_batches import BatchPlan, SampleKey, StepSampler
from video_saliency.training.training_data import (
    WindowDataset,
    WindowSettings,
    collate_windows,
)
from video_saliency.windows import WindowSpec

pytestmark = pytest.mark.benchmark

NUM_FRAMES, BATCH, STEPS = 400, 4, 12


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> WindowDataset:
    """Windows of 4 frames from 640 x 480 clips with a map as a video."""
    root = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    still = rng.integers(0, 255, (480, 640, 3), dtype=np.uint8)
    for folder in ("videos", "maps"):
        (root / folder).mkdir()
        for clip in range(2):
            pictures = (np.roll(still, 3 * index, axis=1) for index in range(NUM_FRAMES))
            make_clip(
                root / folder / f"clip_{clip}.mp4",
                NUM_FRAMES,
                width=640,
                height=480,
                rate=25,
                pictures=pictures,
                codec_options={"preset": "ultrafast", "g": "25"},
            )
    settings = WindowSettings(
        WindowSpec(num_frames=4), (144, 192), windows=BATCH * STEPS, augmentation=StillAugmentation()
    )
    processor = VideoSaliencyProcessor(size={"height": 144, "width": 192})
    return WindowDataset(open_dataset("folder", root).items, processor, settings)


def test_windows_per_second(windows):
    """Prints windows a second; asserts that two workers keep up with the model, and seeking beats decoding."""
    torch.set_num_threads(1)
    loaded = {}
    plan = BatchPlan(len(windows), BATCH, 1, 1, seed=0)
    for workers in (0, 1, 2):
        sampler = StepSampler(plan, 0, first=0, last=STEPS)
        loader = iter(DataLoader(windows, batch_sampler=sampler, num_workers=workers, collate_fn=collate_windows))
        next(loader)  # workers start
        started = time.perf_counter()
        batches = sum(1 for _ in loader)
        loaded[workers] = batches * BATCH / (time.perf_counter() - started)
        print(f"\n{workers} workers: {loaded[workers]:.1f} windows a second")

    model = GFSalNetForVideoSaliency(GFSalNetConfig.compact(streams="appearance")).train()
    batch = collate_windows([windows[SampleKey(0, number)] for number in range(BATCH)])
    inputs = windows.processor.normalize_frames(batch["frames"])
    started = time.perf_counter()
    for _ in range(3):
        model(inputs, saliency_labels=batch["saliency_labels"]).loss.backward()
    trained = 3 * BATCH / (time.perf_counter() - started)
    print(f"training step of the compact model: {trained:.1f} windows a second")
    assert loaded[2] >= trained

    item = windows.items[0]
    seconds = {}
    for name, read in (
        ("seeking", lambda: list(item.load_frames(range(NUM_FRAMES - 6, NUM_FRAMES - 2)))),
        ("decoding from the start", lambda: [frame.to_rgb() for frame in item.frames(NUM_FRAMES - 6)][:4]),
    ):
        started = time.perf_counter()
        read()
        seconds[name] = time.perf_counter() - started
        print(f"4 frames at the end of {NUM_FRAMES}, {name}: {1000 * seconds[name]:.0f} ms")
    assert seconds["seeking"] < 0.5 * seconds["decoding from the start"]
