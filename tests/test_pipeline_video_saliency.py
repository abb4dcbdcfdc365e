# SPDX-License-Identifier: Apache-2.0
"""`pipeline("video-saliency")`: inputs, results, warnings, and the embedded default."""

from __future__ import annotations

import functools
import http.server
import logging
import threading
import typing

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import tiny_gfsalnet
from transformers import pipeline
from video_factory import make_clip

import video_saliency
from video_saliency import pipeline_video_saliency
from video_saliency.pipeline_video_saliency import VideoSaliencyPipeline


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model, processor = tiny_gfsalnet(streams="both")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def pipe(model_folder):
    return pipeline("video-saliency", model=model_folder, device="cpu")


def random_clip(length: int = 4, height: int = 40, width: int = 60, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (length, height, width, 3), dtype=np.uint8)


def test_result_of_one_video(pipe):
    result = pipe(random_clip())
    assert set(result) == {"saliency_maps", "frame_times", "visualization"}
    assert result["saliency_maps"].shape == (4, 40, 60)
    assert result["saliency_maps"].dtype == torch.float32
    torch.testing.assert_close(result["saliency_maps"].amax((1, 2)), torch.ones(4))
    assert result["frame_times"] == [0.0, 0.04, 0.08, 0.12]
    assert isinstance(result["visualization"], Image.Image)


def test_path_array_tensor_and_dict_agree(pipe, tmp_path):
    path = make_clip(tmp_path / "clip.mp4", num_frames=6, rate=10)
    from_path = pipe(str(path))
    assert from_path["frame_times"] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])
    rgb = np.stack([frame.to_rgb() for frame in video_saliency.video_io.read_frames(path)])
    for video in (rgb, torch.from_numpy(rgb), {"frames": rgb, "fps": 10}, {"frames": iter(rgb), "fps": 10}, path):
        result = pipe(video)
        assert torch.equal(result["saliency_maps"], from_path["saliency_maps"])
    assert result["frame_times"] == from_path["frame_times"]


def test_url(pipe, tmp_path):
    path = make_clip(tmp_path / "clip.mp4", num_frames=3)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        result = pipe(f"http://127.0.0.1:{server.server_port}/clip.mp4")
        server.shutdown()
    assert torch.equal(result["saliency_maps"], pipe(str(path))["saliency_maps"])


def test_list_and_generator_of_videos(pipe):
    clips = [random_clip(2), random_clip(5, 30, 20, seed=1)]
    singles = [pipe(clip) for clip in clips]
    as_list = pipe(clips, batch_size=2)
    assert isinstance(as_list, list)
    read = []

    def videos():
        for clip in clips:
            read.append(len(clip))
            yield clip

    as_generator = pipe(videos())
    first = next(iter(as_generator))
    assert read[0] == 2
    for results in (as_list, [first, pipe(clips[1])], list(pipe(iter(clips)))):
        for result, single in zip(results, singles, strict=True):
            torch.testing.assert_close(result["saliency_maps"], single["saliency_maps"], atol=1e-6, rtol=0)
    assert pipe([]) == []


@pytest.mark.parametrize(
    "frames",
    [list(random_clip()), tuple(random_clip()), [Image.new("RGB", (60, 40))]],
    ids=["arrays", "tuple", "pictures"],
)
def test_list_of_single_frames_is_refused_with_the_remedy(pipe, frames):
    with pytest.raises(ValueError, match=r"stack them into one video first.*np\.stack"):
        pipe(frames)


def test_extra_maps_and_own_scale(pipe):
    clip = random_clip()
    result = pipe(clip, extra_maps=["gate_maps"], normalize=None)
    assert result["gate_maps"].shape == (4, 40, 60)
    assert 0 <= result["gate_maps"].min() <= result["gate_maps"].max() <= 1
    scaled = pipe(clip)["saliency_maps"]
    own = result["saliency_maps"]
    torch.testing.assert_close(own / own.amax((1, 2), keepdim=True), scaled, atol=1e-6, rtol=0)
    assert not torch.equal(own, scaled)


def test_options_at_creation_and_at_call(model_folder):
    pipe = pipeline("video-saliency", model=model_folder, device="cpu", normalize="sum", batch_size=3)
    clip = random_clip()
    torch.testing.assert_close(pipe(clip)["saliency_maps"].sum((1, 2)), torch.ones(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(pipe(clip, normalize="frame")["saliency_maps"].amax((1, 2)), torch.ones(4))
    with pytest.raises(ValueError, match=r"unknown arguments \['normalise'\]"):
        pipe(clip, normalise="sum")


def test_stream_keeps_the_options_of_the_pipeline(model_folder):
    pipe = pipeline("video-saliency", model=model_folder, device="cpu", normalize=None, map_stride=3, batch_size=2)
    clip = random_clip(7)
    maps = torch.stack([frame.saliency_map for frame in pipe.stream(clip)])
    assert torch.equal(maps, pipe(clip, num_workers=2)["saliency_maps"])
    assert not torch.equal(maps, torch.stack([frame.saliency_map for frame in pipe.stream(clip, normalize="frame")]))
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        pipe(clip, batch_size=0)


def test_stream_gives_the_same_maps_frame_by_frame(pipe):
    clip = random_clip()
    maps = torch.stack([frame.saliency_map for frame in pipe.stream(clip)])
    assert torch.equal(maps, pipe(clip)["saliency_maps"])


def test_large_result_is_announced_and_names_stream(pipe, monkeypatch, caplog):
    monkeypatch.setattr(pipeline_video_saliency, "LARGE_RESULT_BYTES", 1000)
    with caplog.at_level(logging.WARNING):
        pipe(random_clip(), extra_maps=["gate_maps"])
    size = 4 * 40 * 60 * 4 * 2  # frames, pixels, bytes, two kinds of maps
    assert "use pipe.stream(video)" in caplog.text
    assert f"take {size / 1e9:.1f} GB" in caplog.text


def test_truncated_video_gives_the_maps_before_the_break(pipe, tmp_path, caplog):
    path = make_clip(tmp_path / "clip.mp4", num_frames=60, muxer_options={"movflags": "faststart"})
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    with caplog.at_level(logging.WARNING):
        result = pipe(str(path))
    assert 0 < len(result["saliency_maps"]) == len(result["frame_times"]) < 60
    assert "before the break" in caplog.text


def test_default_is_the_embedded_model():
    pipe = pipeline("video-saliency", device="cpu")
    assert isinstance(pipe, VideoSaliencyPipeline)
    assert pipe.model.dtype == torch.float32
    result = pipe(random_clip(2, 96, 128))
    assert result["saliency_maps"].shape == (2, 96, 128)
    assert result["saliency_maps"].std() > 0.01


def test_call_is_typed():
    kinds = typing.get_overloads(VideoSaliencyPipeline.__call__)
    accepted = [str(typing.get_type_hints(kind)["inputs"]) for kind in kinds]
    assert len(kinds) == 3
    assert all(name in accepted[0] for name in ("str", "PathLike", "ndarray", "Tensor", "dict"))
    assert accepted[1].startswith("list[")
