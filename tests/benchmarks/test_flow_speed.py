# SPDX-License-Identifier: Apache-2.0
"""What optical flow costs: PWC-Net's cost volume against 81 shifts, and reading and encoding each frame once.

Ratios are of CPU seconds in one process, the two ways taken in turns, the median of each.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from video_saliency.backbones.pwcnet import PYRAMID_CHANNELS, SEARCH_RADIUS, cost_volume
from video_saliency.flow_stream import add_flow
from video_saliency.models.gfsalnet.configuration_gfsalnet import GFSalNetConfig
from video_saliency.models.gfsalnet.modeling_gfsalnet import GFSalNetForVideoSaliency
from video_saliency.processing_video_saliency import VideoSaliencyProcessor
from video_saliency.video_io import read_frames

pytestmark = pytest.mark.benchmark

CLIP = Path(__file__).parents[2] / "examples" / "friday.mp4"
CASES = {"lucas_kanade": (144, 192, 16), "pwcnet": (480, 640, 4)}  # height, width, frames
if find_spec("cv2") is not None:
    CASES["dis"] = (480, 640, 8)
REPEATS = 3


def seconds(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median CPU seconds of each way, taken in turns after one turn to warm up."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            start = time.process_time()
            way()
            if turn:
                times[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def shifted_products(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """The cost volume by a loop over the 81 displacements, on views of one padded map."""
    height, width = first.shape[-2:]
    padded = F.pad(second, [SEARCH_RADIUS] * 4)
    side = 2 * SEARCH_RADIUS + 1
    shifts = [padded[..., dy : dy + height, dx : dx + width] for dy in range(side) for dx in range(side)]
    return torch.stack([(first * shift).mean(dim=1) for shift in shifts], dim=1)


def test_cost_volume():
    total = dict.fromkeys(("products of strips", "81 shifts"), 0.0)
    print(f"\ncost volumes of a 480 x 640 frame, {torch.get_num_threads()} threads")
    for level in range(2, 7):
        shape = (1, PYRAMID_CHANNELS[level - 1], 512 >> level, 640 >> level)
        first, second = torch.randn(2, *shape)
        torch.testing.assert_close(cost_volume(first, second), shifted_products(first, second), atol=1e-5, rtol=1e-4)
        ways = {
            "products of strips": lambda a=first, b=second: cost_volume(a, b),
            "81 shifts": lambda a=first, b=second: shifted_products(a, b),
        }
        row = seconds(ways, 7)
        total = {name: total[name] + value for name, value in row.items()}
        print(f"level {level} {shape}: " + ", ".join(f"{name} {1000 * value:.1f} ms" for name, value in row.items()))
    print(f"all levels: 81 shifts take {total['81 shifts'] / total['products of strips']:.2f} times as long")
    assert total["products of strips"] < total["81 shifts"]


@pytest.mark.parametrize("backend", CASES)
def test_each_frame_once_against_pairwise_calls(backend):
    height, width, num_frames = CASES[backend]
    # the streams do not matter here
    model = GFSalNetForVideoSaliency(GFSalNetConfig.compact(flow_backend=backend)).eval()
    processor = VideoSaliencyProcessor(size={"height": height, "width": width})

    def frames() -> Iterator[SimpleNamespace]:
        for frame in islice(read_frames(CLIP), num_frames):
            pixels = processor.resize_frames(frame.to_rgb()[None])[0]
            yield SimpleNamespace(index=frame.index, pixels=pixels, flow=None)

    def pictures() -> Iterator[torch.Tensor]:
        return (frame.pixels[None].float() / 255 for frame in frames())

    def once() -> None:
        assert all(frame.flow is not None for frame in add_flow(frames(), model, frames_per_batch=8))

    def pairwise() -> None:
        for before, frame in zip(pictures(), islice(pictures(), 1, None), strict=False):
            model.flow_values_between(model.encode_for_flow(frame), model.encode_for_flow(before), (height, width))

    frame = next(pictures())
    encoded = model.encode_for_flow(frame)
    stages = seconds(
        {
            "read and shrink": lambda: list(pictures()),
            "encode": lambda: [model.encode_for_flow(frame) for _ in range(num_frames)],
            "match": lambda: model.flow_values_between(encoded, encoded, (height, width)),
        },
        REPEATS,
    )
    both = seconds({"once": once, "pairwise": pairwise}, REPEATS)
    each = {name: 1000 * value / (1 if name == "match" else num_frames) for name, value in stages.items()}
    print(f"\n{backend} at {height} x {width}: " + ", ".join(f"{name} {value:.1f} ms" for name, value in each.items()))
    of_a_frame = each["read and shrink"] + each["encode"]
    limit = (2 * of_a_frame + each["match"]) / (of_a_frame + each["match"])
    ratio = both["pairwise"] / both["once"]
    print(f"{num_frames} frames: pairwise calls take {ratio:.2f} times as long as each frame once")
    print(f"a long clip, by the stages: {limit:.2f} times")
    assert both["once"] < 1.05 * both["pairwise"]  # the gain is small where matching is nearly all of the work
