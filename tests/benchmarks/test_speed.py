# SPDX-License-Identifier: Apache-2.0
"""What a frame costs, stage by stage, and the whole road against flow and network alone, on the example clip.

Run it on a quiet machine. With `SPEED_JSON=FILE` in the environment the figures are written there too: the model card
of the embedded model shows them.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterable
from fractions import Fraction
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModel

from video_saliency import DEFAULT_MODEL, VideoSaliencyPredictor
from video_saliency.background import BackgroundWriter
from video_saliency.cli.info import flow_operations
from video_saliency.video_io import SegmentWriter, probe, read_frames
from video_saliency.visualization import overlay

pytestmark = pytest.mark.benchmark

CLIP = Path(__file__).parents[2] / "examples" / "friday.mp4"
REPEATS = 3
STAGES = ("decode", "shrink", "flow", "network", "enlarge", "draw", "encode")


class Road:
    """The stages of the road one by one, each on what the stage before it made; nothing overlaps here."""

    def __init__(self) -> None:
        self.predictor = VideoSaliencyPredictor.from_pretrained(DEFAULT_MODEL)
        self.batch = self.predictor.batch_size
        self.frames = [frame.to_rgb() for frame in read_frames(CLIP)]
        self.pixels = torch.cat([self.predictor.processor.resize_frames(rgb[None]) for rgb in self.frames])
        self.flow_values = torch.cat(list(self.flow()))
        self.results = list(self.predictor.stream(CLIP))
        self.pictures = list(self.draw())

    def decode(self) -> Iterable[object]:
        return (frame.to_rgb() for frame in read_frames(CLIP))

    def shrink(self) -> Iterable[object]:
        return (self.predictor.processor.resize_frames(rgb[None]) for rgb in self.frames)

    def flow(self) -> Iterable[torch.Tensor]:
        model = self.predictor.model
        last: tuple[torch.Tensor, ...] | None = None
        for pixels in self.pixels.split(self.batch):
            encoded = model.encode_for_flow(pixels.float() / 255)
            joined = tuple(torch.cat(parts) for parts in zip(last, encoded, strict=True)) if last else encoded
            size = (pixels.shape[-2], pixels.shape[-1])
            yield model.flow_values_between([part[1:] for part in joined], [part[:-1] for part in joined], size)
            last = tuple(part[-1:] for part in encoded)

    def network(self) -> Iterable[object]:
        for pixels, flow in zip(self.pixels[1:].split(self.batch), self.flow_values.split(self.batch), strict=True):
            yield self.predictor.predict_windows(pixels[:, None], flow_values=flow[:, None])

    def flow_and_network(self) -> Iterable[object]:
        for pixels, flow in zip(self.pixels.split(self.batch), self.flow(), strict=True):
            yield self.predictor.predict_windows(pixels[: len(flow), None], flow_values=flow[:, None])

    def enlarge(self) -> Iterable[object]:
        return (frame.map_at(frame.source_size) for frame in self.results)

    def draw(self) -> Iterable[object]:
        for rgb, frame in zip(self.frames, self.results, strict=True):
            yield overlay(rgb, frame.display_map((frame.model_map.shape[0], frame.model_map.shape[1])))

    def encode(self, path: Path) -> Iterable[object]:
        info = probe(CLIP)
        with SegmentWriter(path, info.width, info.height, info.time_base, frame_rate=info.frame_rate) as writer:
            for number, picture in enumerate(self.pictures):
                yield writer.write(picture, number * (1 / (info.frame_rate or Fraction(30))))

    def maps_at_source_size(self) -> Iterable[object]:
        return (frame.saliency_map for frame in self.predictor.stream(CLIP))

    def overlay_video(self, path: Path) -> Iterable[object]:
        """As `video-saliency predict --save overlay` does it, less the start of the program and the sound."""
        info = probe(CLIP)
        with SegmentWriter(path, info.width, info.height, info.time_base, frame_rate=info.frame_rate) as writer:

            def write(frame) -> None:
                size = (frame.model_map.shape[0], frame.model_map.shape[1])
                writer.write(overlay(frame.frame.to_rgb(), frame.display_map(size)), frame.time)

            with BackgroundWriter(write, 8) as behind:
                for frame in self.predictor.stream(CLIP, with_frames=True):
                    yield behind.put(frame)


def seconds_per_frame(work: Callable[[], Iterable[object]], num_frames: int) -> dict[str, float]:
    """Wall and CPU seconds a frame, of the fastest run."""
    best = {"wall_s": float("inf"), "cpu_s": float("inf")}
    for _ in range(REPEATS):
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in work():
            pass
        row = {"wall_s": (time.perf_counter() - wall) / num_frames, "cpu_s": (time.process_time() - cpu) / num_frames}
        best = min(best, row, key=lambda entry: entry["wall_s"])
    return best


def operations() -> tuple[float, float]:
    """GFLOP a map of the network and of the flow."""
    config = AutoConfig.from_pretrained(DEFAULT_MODEL)
    size = {"height": 144, "width": 192}
    with torch.device("meta"):
        network = AutoModel.from_config(config).eval()
        frame = torch.zeros(1, 1, 3, size["height"], size["width"])
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(pixel_values_videos=frame)
    return counter.get_total_flops() / 1e9, flow_operations(network, size) / 1e9


def test_cost_of_a_frame(tmp_path):
    road = Road()
    count = len(road.frames)
    network_gflop, flow_gflop = operations()
    paths = {"encode": tmp_path / "stage.mp4", "overlay_video": tmp_path / "overlay.mp4"}

    def measure(name: str) -> dict[str, float]:
        work = getattr(road, name)
        return seconds_per_frame(lambda: work(paths[name]) if name in paths else work(), count)

    rows = {name: measure(name) for name in STAGES}
    rows["flow and network"] = measure("flow_and_network")
    rows["file to maps at source size"] = measure("maps_at_source_size")
    rows["file to overlay video"] = measure("overlay_video")
    speed = {
        "rows": rows,
        "maps_against_flow_and_network": rows["flow and network"]["wall_s"]
        / rows["file to maps at source size"]["wall_s"],
        "overlay_maps_per_second": 1 / rows["file to overlay video"]["wall_s"],
        "network_gflop": network_gflop,
        "flow_gflop": flow_gflop,
        "machine": f"{os.cpu_count()} cores of {platform.processor() or platform.machine()}",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "repeats": REPEATS,
        "weights_sha256": sha256(Path(DEFAULT_MODEL, "model.safetensors").read_bytes()).hexdigest(),
    }
    print(f"\n{speed['machine']}, {speed['threads']} threads; the example clip, 640 x 480, {count} frames")
    for name, row in rows.items():
        print(f"{name:30} {1000 * row['wall_s']:7.2f} ms wall, {1000 * row['cpu_s']:7.2f} ms CPU a frame")
    print(f"maps at source size: {speed['maps_against_flow_and_network']:.2f} of the rate of flow and network alone")
    print(f"overlay: {speed['overlay_maps_per_second']:.1f} maps a second")
    print(f"a map: {network_gflop:.2f} GFLOP of network, {flow_gflop:.3f} of flow")
    if path := os.environ.get("SPEED_JSON"):
        Path(path).write_text(json.dumps(speed, indent=2) + "\n")
    assert network_gflop + flow_gflop <= 2
    assert rows["flow"]["cpu_s"] < rows["network"]["cpu_s"] / 2, "flow costs less than one of two streams"
