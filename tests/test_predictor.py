# SPDX-License-Identifier: Apache-2.0
"""The one loop: every frame its own map, in order, whatever the window, the batch, the stride and the start."""

from __future__ import annotations

import logging
import threading
import weakref
from fractions import Fraction
from itertools import islice

import numpy as np
import pytest
import torch
from tiny_models import echo_model, tiny_gfsalnet
from video_factory import make_clip

from video_saliency import sources
from video_saliency.predictor import SaliencyFrame, VideoSaliencyPredictor
from video_saliency.video_io import TruncatedVideoError, VideoError, read_frames

SPECS = {
    "frame by frame": {},
    "all": {"num_frames": 5},
    "all, overlapping": {"num_frames": 6, "hop": 2},
    "all, step 3": {"num_frames": 4, "step": 3},
    "last, reverse": {"num_frames": 4, "output": "last", "head_policy": "reverse"},
    "middle": {"num_frames": 4, "output": "middle"},
    "in seconds": {"num_frames": 4, "step_seconds": 0.1},
}

VALUES = "pixel_values_videos"
MOTION = ["motion_maps"]


def numbered_clip(length: int) -> np.ndarray:
    """Frame i is grey of value i."""
    return np.broadcast_to(np.arange(length, dtype=np.uint8)[:, None, None, None], (length, 8, 12, 3)).copy()


def random_clip(length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (length, 40, 60, 3), dtype=np.uint8)


def values(frames) -> list[float]:
    return [float(frame.model_map.mean()) for frame in frames]


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_every_frame_gets_its_own_map(spec, batch_size):
    model, processor = echo_model(**spec)
    predictor = VideoSaliencyPredictor(model, processor, batch_size=batch_size)
    for length in (1, 2, 7, 23):
        frames = list(predictor.stream(numbered_clip(length), normalize=None))
        assert [frame.frame_index for frame in frames] == list(range(length))
        assert values(frames) == list(range(length))
        assert [frame.time_s for frame in frames] == [index / 25 for index in range(length)]
        assert frames[0].saliency_map.shape == (8, 12)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_maps_equal_those_of_the_whole_clip(batch_size):
    model, processor = tiny_gfsalnet()
    clip = random_clip(11)
    with torch.inference_mode():
        outputs = model(**processor(videos=clip))
    (expected,) = processor.post_process_video_saliency(outputs, target_sizes=[(40, 60)])
    frames = list(VideoSaliencyPredictor(model, processor, batch_size=batch_size).stream(clip))
    maps = torch.stack([frame.saliency_map for frame in frames])
    assert maps.shape == (11, 40, 60)
    assert maps.std() > 1e-3
    torch.testing.assert_close(maps, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("map_stride", [1, 3])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_start_in_the_middle_gives_the_same_bits(spec, map_stride):
    model, processor = echo_model(**spec)
    predictor = VideoSaliencyPredictor(model, processor, batch_size=2)
    clip = random_clip(29)
    whole = [frame.model_map for frame in predictor.stream(clip, map_stride=map_stride)]
    total = model.windows_seen
    for start in (1, 10, 20, 28, 29):
        model.windows_seen = 0
        rest = list(predictor.stream(clip, map_stride=map_stride, start_frame=start))
        assert [frame.frame_index for frame in rest] == list(range(start, 29))
        assert all(torch.equal(frame.model_map, whole[frame.frame_index]) for frame in rest)
        assert start < 28 or model.windows_seen < total, "what lies before the start must not be predicted again"


def test_map_stride_interpolates_in_time_and_saves_forwards():
    model, processor = echo_model()
    predictor = VideoSaliencyPredictor(model, processor)
    clip = numbered_clip(11)
    clip[3] = 90  # not predicted: must leave no trace
    frames = list(predictor.stream(clip, map_stride=4, normalize=None))
    assert model.windows_seen == 3
    assert values(frames) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 8]


def test_map_stride_follows_presentation_times(tmp_path):
    times = [0.0, 0.04, 0.4, 0.44, 0.48]
    path = make_clip(tmp_path / "variable.mp4", times=times)
    model, processor = echo_model()
    maps = [f.model_map for f in VideoSaliencyPredictor(model, processor).stream(path, map_stride=4)]
    torch.testing.assert_close(maps[2], torch.lerp(maps[0], maps[4], 0.4 / 0.48), atol=1e-3, rtol=0)


def test_interleaved_streams_run_only_where_a_map_is_wanted():
    model, processor = echo_model(num_frames=5, step=6)
    predictor = VideoSaliencyPredictor(model, processor)
    list(predictor.stream(numbered_clip(60)))
    assert model.windows_seen == 12
    model.windows_seen = 0
    list(predictor.stream(numbered_clip(60), map_stride=6))
    assert model.windows_seen == 2


def test_windows_that_overlap_equal_those_cut_by_hand():
    model, processor = tiny_gfsalnet(window={"num_frames": 6, "hop": 2})
    clip = random_clip(9)
    with torch.inference_mode():
        outputs = model(**processor(videos=clip))  # frames do not see each other in this model
    (expected,) = processor.post_process_video_saliency(outputs, target_sizes=[(40, 60)])
    frames = VideoSaliencyPredictor(model, processor, batch_size=2).stream(clip)
    maps = torch.stack([frame.saliency_map for frame in frames])
    torch.testing.assert_close(maps, expected, atol=1e-6, rtol=0)


def test_every_frame_is_decoded_once_and_resized_once(tmp_path, monkeypatch):
    path = make_clip(tmp_path / "clip.mp4", num_frames=23)
    counts = {"decoded": 0, "resized": 0}

    def counted(source):
        for frame in read_frames(source):
            counts["decoded"] += 1
            yield frame

    model, processor = echo_model(num_frames=6, hop=2)
    resize = processor.resize_frames
    monkeypatch.setattr(sources, "read_frames", counted)
    monkeypatch.setattr(
        processor, "resize_frames", lambda frames: counts.update(resized=counts["resized"] + 1) or resize(frames)
    )
    frames = VideoSaliencyPredictor(model, processor).stream(path, with_frames=True)
    assert sum(1 for _ in frames) == 23
    assert counts == {"decoded": 23, "resized": 23}


def test_source_frames_in_waiting_and_in_the_queue_are_bounded(tmp_path, monkeypatch):
    path = make_clip(tmp_path / "clip.mp4", num_frames=60)
    size = next(read_frames(path)).nbytes
    alive, most = set(), [0]

    class Watched:
        def __init__(self, frame):
            self.index, self.time, self.nbytes, self.to_rgb = frame.index, frame.time, frame.nbytes, frame.to_rgb
            alive.add(self.index)
            weakref.finalize(self, alive.discard, self.index)
            most[0] = max(most[0], len(alive))

    def watched(source):
        return (Watched(frame) for frame in read_frames(source))

    monkeypatch.setattr(sources, "read_frames", watched)
    model, processor = echo_model(num_frames=30)
    predictor = VideoSaliencyPredictor(model, processor, max_kept_bytes=5 * size)
    frames = 0
    for frame in predictor.stream(path, with_frames=True):
        frames += frame.frame.to_rgb().shape == (48, 64, 3)
    assert frames == 60
    assert most[0] <= 5 + 4, "frames above the limit must be given up, not kept in the queue"


def test_video_that_cannot_be_read_a_second_time_is_an_error_not_a_short_result(tmp_path, monkeypatch):
    path = make_clip(tmp_path / "clip.mp4", num_frames=20)
    readings = []

    def breaks_later(source):
        readings.append(source)
        is_second = len(readings) == 2
        for frame in read_frames(source):
            if is_second and frame.index == 8:
                raise TruncatedVideoError("the connection is gone")
            yield frame

    monkeypatch.setattr(sources, "read_frames", breaks_later)
    model, processor = echo_model(num_frames=5)
    predictor = VideoSaliencyPredictor(model, processor, max_kept_bytes=0)
    given = []
    with pytest.raises(VideoError, match="frame 8 could not be read a second time"):
        given.extend(frame.frame_index for frame in predictor.stream(path, with_frames=True))
    assert not [thread for thread in threading.enumerate() if thread.name == "video-saliency-read"]


def moving_clip(num_frames: int = 21) -> torch.Tensor:
    """uint8 `(frames, 64, 96, 3)`: a textured square that crosses a textured background."""
    generator = torch.Generator().manual_seed(5)
    background = torch.nn.functional.avg_pool2d(torch.rand(1, 3, 68, 100, generator=generator), 5, stride=1)
    clip = background.repeat(num_frames, 1, 1, 1)
    square = torch.rand(3, 6, 6, generator=generator).repeat_interleave(4, 1).repeat_interleave(4, 2)
    for index in range(num_frames):
        clip[index, :, 20:44, 2 + 3 * index : 26 + 3 * index] = square
    return (clip * 255).to(torch.uint8).permute(0, 2, 3, 1)


@pytest.mark.parametrize("flow_pair", ["previous", "next"])
@pytest.mark.parametrize(("num_frames", "batch_size"), [(21, None), (21, 1), (8, None), (9, 4), (2, None), (1, None)])
def test_flow_is_that_of_the_whole_clip(flow_pair, num_frames, batch_size):
    """Streamed in batches, each frame with its neighbour, it equals what the model computes on the clip at once."""
    model, processor = tiny_gfsalnet(streams="both", flow_pair=flow_pair)
    processor.size = {"height": 64, "width": 96}
    clip = moving_clip(num_frames)
    with torch.no_grad():
        expected = model(**processor(videos=clip))
        still = model(**processor(videos=clip), flow_values=model.zero_flow_values(processor(videos=clip)[VALUES]))
    predictor = VideoSaliencyPredictor(model, processor, batch_size=batch_size)
    streamed = torch.stack([frame.extra_maps["motion_maps"] for frame in predictor.stream(clip, extra_maps=MOTION)])
    torch.testing.assert_close(streamed, expected.motion_maps[0], rtol=1e-4, atol=1e-5)
    if num_frames > 2:
        assert (expected.motion_maps[0, 1] - still.motion_maps[0, 1]).abs().max() > 1e-3, "the flow is seen"


@pytest.mark.parametrize("flow_pair", ["previous", "next"])
@pytest.mark.parametrize("map_stride", [1, 3])
def test_flow_after_a_start_in_the_middle_has_the_same_bits(flow_pair, map_stride):
    model, processor = tiny_gfsalnet(streams="both", flow_pair=flow_pair)
    predictor = VideoSaliencyPredictor(model, processor, batch_size=4)
    clip = moving_clip(23)
    whole = [frame.model_map for frame in predictor.stream(clip, map_stride=map_stride)]
    for start in (1, 7, 8, 13, 22):
        rest = list(predictor.stream(clip, map_stride=map_stride, start_frame=start))
        assert [frame.frame_index for frame in rest] == list(range(start, 23))
        assert all(torch.equal(frame.model_map, whole[frame.frame_index]) for frame in rest)


def test_flow_reaches_windows_of_several_frames():
    model, processor = tiny_gfsalnet(streams="both", window={"num_frames": 3, "hop": 3})
    clip = moving_clip(7)
    with torch.no_grad():
        expected = model(**processor(videos=clip)).motion_maps[0]
    frames = VideoSaliencyPredictor(model, processor).stream(clip, extra_maps=MOTION)
    torch.testing.assert_close(
        torch.stack([frame.extra_maps["motion_maps"] for frame in frames]), expected, rtol=1e-4, atol=1e-5
    )


def test_each_frame_is_encoded_for_flow_once(monkeypatch):
    model, processor = tiny_gfsalnet(streams="both")
    encoded, encode = [], model.flow.encode
    monkeypatch.setattr(model.flow, "encode", lambda frames: encoded.append(len(frames)) or encode(frames))
    list(VideoSaliencyPredictor(model, processor).stream(moving_clip(21)))
    assert sum(encoded) == 21


def test_motion_stream_without_flow_is_told(caplog):
    model, processor = tiny_gfsalnet(streams="both", flow_backend=None)
    with caplog.at_level(logging.WARNING):
        list(VideoSaliencyPredictor(model, processor).stream(random_clip(1)))
    assert "sees zero flow" in caplog.text


@pytest.mark.parametrize("max_kept_bytes", [512 * 2**20, 0], ids=["kept", "decoded again"])
def test_source_frames_come_along(tmp_path, max_kept_bytes):
    path = make_clip(tmp_path / "clip.mp4", num_frames=17)
    expected = [frame.to_rgb() for frame in read_frames(path)]
    model, processor = echo_model(num_frames=5)
    predictor = VideoSaliencyPredictor(model, processor, max_kept_bytes=max_kept_bytes)
    for start in (0, 6):
        frames = list(predictor.stream(path, with_frames=True, start_frame=start))
        assert len(frames) == 17 - start
        assert all(np.array_equal(f.frame.to_rgb(), expected[f.frame_index]) for f in frames)
    assert next(iter(predictor.stream(path))).frame is None


def test_live_frames_are_predicted_as_they_come():
    model, processor = echo_model(num_frames=2)
    taken = []

    def camera():
        for index in range(10_000):
            taken.append(index)
            yield np.full((8, 12, 3), index % 256, np.uint8)

    stream = VideoSaliencyPredictor(model, processor, batch_size=1).stream({"frames": camera(), "fps": 10})
    first = list(islice(stream, 4))
    assert [frame.time_s for frame in first] == [0.0, 0.1, 0.2, 0.3]
    assert len(taken) < 20
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "video-saliency-read"]


def test_progress_is_told():
    model, processor = echo_model()
    calls = []
    predictor = VideoSaliencyPredictor(model, processor)
    list(predictor.stream(numbered_clip(3), progress=lambda done, total: calls.append((done, total))))
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_normalization_and_smoothing():
    model, processor = echo_model()
    predictor = VideoSaliencyPredictor(model, processor)
    clip = random_clip(2)
    for frame in predictor.stream(clip):
        assert frame.saliency_map.max() == 1
    sharp, smooth = (next(iter(predictor.stream(clip, smoothing=sigma))).saliency_map for sigma in (None, 2.0))
    assert smooth.std() < sharp.std()
    black = next(iter(predictor.stream(np.zeros((1, 8, 8, 3), np.uint8))))
    assert black.saliency_map.abs().max() == 0


@pytest.mark.parametrize("normalize", ["frame", "sum", None])
def test_pictures_of_maps_without_a_clear_peak_are_faint(normalize):
    flat = torch.ones(8, 10)
    flat[2, 3] = 5.0
    clear = torch.zeros(8, 10)
    clear[2, 3] = 5.0
    for model_map, peak in ((flat, 5 / (10 * float(flat.mean()))), (clear, 1.0), (torch.zeros(8, 10), 0.0)):
        frame = SaliencyFrame(0, Fraction(0), model_map, (8, 10), normalize=normalize)
        assert float(frame.display_map().max()) == pytest.approx(peak)
        assert float(frame.display_map((16, 20)).max()) <= peak + 1e-6
    assert float(SaliencyFrame(0, Fraction(0), flat, (8, 10)).saliency_map.max()) == 1.0  # files are not changed


def test_bfloat16_maps_are_float32():
    model, processor = tiny_gfsalnet()
    predictor = VideoSaliencyPredictor(model, processor, dtype=torch.bfloat16)
    assert predictor.model.dtype == torch.bfloat16
    assert next(iter(predictor.stream(random_clip(1)))).model_map.dtype == torch.float32


@pytest.mark.parametrize(
    "video,message",
    [
        (np.zeros((4, 8, 8, 3), np.float32), "scale 0..1 floats by 255"),
        (np.zeros((4, 3, 8, 8), np.uint8), "move the channels last"),
        (np.zeros((8, 8, 3), np.uint8), "add the frame axis"),
        (np.zeros((0, 8, 8, 3), np.uint8), "at least one frame"),
        ([np.zeros((8, 8, 3), np.uint8)], "stack single frames"),
        ({"frames": iter([])}, "keys 'frames' and 'fps'"),
        ({"frames": iter([]), "fps": 0}, "fps must be a positive number"),
        ({"frames": iter([]), "fps": "fast"}, "fps must be a positive number"),
        ({"frames": iter([np.zeros((8, 8, 3), np.uint8), np.zeros((4, 8, 3), np.uint8)]), "fps": 9}, "to one size"),
        (torch.zeros(4, 8, 8, 3, dtype=torch.bfloat16), "must be uint8"),
        ({"frames": iter([]), "fps": 25}, "the video has no frames"),
        ({"frames": iter([np.zeros((8, 8), np.uint8)]), "fps": 25}, "frame 0 must be uint8 RGB"),
        (7, "int is not a video: pass a path"),
        (b"\x00\x00\x00\x18ftypmp42", "bytes is not a video: pass a path"),
        ({"frames": "clip.mp4", "fps": 25}, "str is not a video: pass a path"),
    ],
)
def test_wrong_video_says_what_to_do(video, message):
    model, processor = echo_model()
    with pytest.raises(ValueError, match=message):
        list(VideoSaliencyPredictor(model, processor).stream(video))


@pytest.mark.parametrize("options", [{"map_stride": 0}, {"start_frame": -1}, {"normalize": "max"}, {"smoothing": 0}])
def test_wrong_options_are_refused(options):
    model, processor = echo_model()
    with pytest.raises(ValueError, match="must be"):
        [frame.saliency_map for frame in VideoSaliencyPredictor(model, processor).stream(random_clip(1), **options)]


def test_unknown_extra_map_names_the_known_ones():
    model, processor = echo_model()
    with pytest.raises(ValueError, match="no gate_maps: it has saliency_maps"):
        list(VideoSaliencyPredictor(model, processor).stream(random_clip(1), extra_maps=["gate_maps"]))


def test_gate_maps_come_along():
    model, processor = tiny_gfsalnet(streams="both")
    (frame,) = VideoSaliencyPredictor(model, processor).stream(random_clip(1), extra_maps=["gate_maps"])
    assert frame.extra_maps["gate_maps"].shape == frame.model_map.shape
    assert frame.extra_map_at_source("gate_maps").shape == (40, 60)


def test_model_without_a_window_is_refused():
    with pytest.raises(ValueError, match="not a video saliency model"):
        VideoSaliencyPredictor(torch.nn.Module.__new__(_Bare), None)


class _Bare(torch.nn.Module):
    config = object()
