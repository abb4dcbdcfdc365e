# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from dataset_factory import density, write_truth_video
from video_factory import cut_file, make_clip

from video_saliency.data import video_seeking
from video_saliency.data.frame_files import VideoFrames
from video_saliency.data.video_seeking import (
    index_video,
    picture_values,
    read_header,
    read_pictures,
    read_value_maps,
    resample_indices,
    stream_value_maps,
)
from video_saliency.source_files import VideoError
from video_saliency.video_io import read_frames

CHOICE = [29, 3, 15, 11, 12, 0, 15]
REORDERED = {"g": "12", "bf": "2", "preset": "ultrafast", "b_strategy": "0"}


@pytest.mark.parametrize(
    ("name", "options", "can_seek"),
    [
        ("reordered.mp4", {"codec_options": REORDERED}, True),
        ("open_groups.mkv", {"codec_options": {**REORDERED, "x264-params": "open-gop=1"}}, True),
        ("variable.mp4", {"times": [Fraction(i * i + 10 * i, 900) for i in range(30)]}, True),
        ("late.mp4", {"start": Fraction(2)}, True),
        ("turned.mp4", {"rotation": 90}, True),
        ("mirrored.mp4", {"rotation": 0, "mirrored": True}, True),
        ("whole_pictures.avi", {"codec": "mpeg4", "codec_options": {"g": "6"}, "time_base": Fraction(1, 25)}, True),
        # an AVI file knows no presentation stamps: decoded from its start
        ("reordered.avi", {"codec_options": REORDERED, "time_base": Fraction(1, 25)}, False),
    ],
)
def test_sought_frames_are_those_of_reading(tmp_path: Path, name: str, options: dict, can_seek: bool) -> None:
    path = make_clip(tmp_path / name, 30, **options)
    frames = [frame.to_rgb() for frame in read_frames(path)]
    assert read_header(path).num_frames == index_video(path).num_frames == len(frames) == 30
    assert (index_video(path).stamps is not None) == can_seek
    loaded = list(VideoFrames(path).load(CHOICE))
    assert all(np.array_equal(rgb, frames[index]) for rgb, index in zip(loaded, CHOICE, strict=True))
    if can_seek:
        times = index_video(path).times(None)
        assert times == [frame.time for frame in read_frames(path)]


def test_seeking_decodes_only_what_it_needs(tmp_path: Path, monkeypatch) -> None:
    path = make_clip(tmp_path / "long.mp4", 120, codec_options={"g": "10", "bf": "0", "preset": "ultrafast"})
    index_video(path)
    seeks = []
    opened = video_seeking.open_input

    class Counting:
        def __init__(self, source: Path) -> None:
            self.manager = opened(source)

        def __enter__(self):
            self.container = self.manager.__enter__()
            return self

        def __exit__(self, *error: object) -> None:
            self.manager.__exit__(*error)

        def seek(self, stamp: int, **options: object) -> None:
            seeks.append(stamp)
            self.container.seek(stamp, **options)

        def __getattr__(self, name: str) -> object:
            return getattr(self.container, name)

    monkeypatch.setattr(video_seeking, "open_input", Counting)
    monkeypatch.setattr(video_seeking, "_decode_pictures", None)  # not needed
    assert [number for number, _ in read_pictures(path, [101, 55, 57, 102])] == [55, 57, 101, 102]
    assert len(seeks) == 2  # to frames 50 and 100


def test_numbers_beyond_the_clip_and_damage(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.mp4", 5)
    for wanted in ([5], [-1]):
        with pytest.raises(IndexError, match="has frames 0 to 4"):
            list(read_pictures(path, wanted))
    assert list(read_pictures(path, [])) == []
    clip = make_clip(tmp_path / "whole.mkv", 60, codec_options={"g": "10", "bf": "0", "preset": "ultrafast"})
    cut = cut_file(clip, 0.5)
    last = index_video(cut).num_frames - 1
    assert last < 59 and len(list(read_pictures(cut, [0, last // 2]))) == 2
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(VideoError):
        read_header(tmp_path / "text.mp4")


@pytest.mark.parametrize(
    ("codec", "pixel_format", "name"),
    [("libx264", "yuv420p10le", "t.mp4"), ("ffv1", "yuv420p10le", "t.mkv"), ("ffv1", "gray10le", "t.mkv")],
)
def test_maps_of_ten_bits_come_back_exactly(tmp_path: Path, codec: str, pixel_format: str, name: str) -> None:
    size = (36, 50)  # rows are padded in the decoder
    maps = [density(index, size, 876, np.uint16) for index in range(8)]
    path = write_truth_video(tmp_path / name, maps, codec=codec, pixel_format=pixel_format)
    assert read_header(path).size == size and read_header(path).num_frames == 8
    for found, values in zip(stream_value_maps(path), maps, strict=True):
        assert found.dtype == np.uint16 and np.array_equal(found, values)
    sought = dict(read_value_maps(path, [6, 2]))
    assert sorted(sought) == [2, 6] and np.array_equal(sought[6], maps[6])


@pytest.mark.parametrize(
    ("pixel_format", "color_range", "stored", "value"),
    [
        ("yuv420p", 0, 16, 0),
        ("yuv420p", 1, 235, 219),
        ("yuv420p", 1, 250, 219),  # outside the range
        ("yuv420p", 2, 16, 16),
        ("yuvj420p", 0, 255, 255),
        ("gray", 0, 16, 16),
        ("gray", 1, 255, 255),  # FFmpeg takes grey as full range
    ],
)
def test_range_of_eight_bit_maps(pixel_format: str, color_range: int, stored: int, value: int) -> None:
    frame = av.VideoFrame(16, 8, pixel_format)
    frame.color_range = color_range
    for plane in frame.planes:
        plane.update(bytes([stored]) * plane.buffer_size)
    values = picture_values(frame)
    assert values.dtype == np.uint8 and values.shape == (8, 16) and (values == value).all()


def test_colour_maps_become_grey() -> None:
    grey = np.repeat(np.arange(0, 256, 8, dtype=np.uint8).reshape(1, 32, 1), 3, axis=2)
    assert np.array_equal(picture_values(av.VideoFrame.from_ndarray(grey, format="rgb24")), grey[:, :, 0])


@pytest.mark.parametrize(
    ("rate", "wanted", "expected"),
    [
        (30, 30, list(range(8))),
        (15, 30, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7]),
        (60, 30, [0, 2, 4, 6]),
        (24, 30, [0, 1, 1, 2, 3, 4, 5, 5, 6, 7]),
        (25, 30, [0, 1, 2, 2, 3, 4, 5, 6, 7, 7]),
    ],
)
def test_resampling_as_the_fps_filter(rate: int, wanted: int, expected: list[int]) -> None:
    times = [Fraction(index, rate) for index in range(8)]
    found = resample_indices(times, Fraction(wanted), Fraction(1, rate))
    graph = av.filter.Graph()
    source = graph.add_buffer(width=16, height=16, format="gray", time_base=Fraction(1, rate))
    resampler, sink = graph.add("fps", str(wanted)), graph.add("buffersink")
    source.link_to(resampler)
    resampler.link_to(sink)
    graph.configure()
    theirs = []
    for index in range(8):
        frame = av.VideoFrame.from_ndarray(np.full((16, 16), index, np.uint8), format="gray")
        frame.pts, frame.time_base, frame.duration = index, Fraction(1, rate), 1
        graph.push(frame)
    graph.push(None)
    while True:
        try:
            theirs.append(int(graph.pull().to_ndarray()[0, 0]))
        except (av.error.BlockingIOError, av.error.EOFError):
            break
    assert found == theirs == expected
