# SPDX-License-Identifier: Apache-2.0
"""Small clips for tests, made in a few milliseconds: a bright square moves over textured noise."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

SQUARE = 8


def sample_picture(index: int, width: int = 64, height: int = 48) -> np.ndarray:
    """`(height, width, 3)` uint8: dark grey noise, and an orange square whose left edge moves by 2 pixels a frame."""
    grey = np.random.default_rng(7).integers(20, 70, (height, width, 1), dtype=np.uint8)
    rgb = np.repeat(grey, 3, axis=2)  # colour noise would not survive half the colour resolution
    left = (2 * index) % max(1, width - SQUARE)
    rgb[4 : 4 + SQUARE, left : left + SQUARE] = (230, 150, 40)
    return rgb


sample_picture.__test__ = False  # type: ignore[attr-defined]


def sine(num_samples: int, rate: int, channels: int = 2) -> np.ndarray:
    """`(channels, samples)` float32: a tone of 440 Hz, one octave higher in each further channel."""
    time = np.arange(num_samples) / rate
    return np.stack([0.4 * np.sin(2 * np.pi * 440 * (2**c) * time) for c in range(channels)]).astype(np.float32)


def make_clip(
    path: Path,
    num_frames: int = 12,
    *,
    width: int = 64,
    height: int = 48,
    rate: Fraction | int = 25,
    times: Sequence[Fraction] | None = None,
    time_base: Fraction = Fraction(1, 90_000),
    start: Fraction = Fraction(0),
    rotation: int | None = None,
    mirrored: bool = False,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    colors: tuple[int, int] | None = None,
    codec_options: dict[str, str] | None = None,
    audio: str | None = None,
    audio_rate: int = 44_100,
    audio_channels: int = 2,
    audio_start: Fraction = Fraction(0),
    audio_duration: Fraction | None = None,
    sound: np.ndarray | None = None,
    muxer_options: dict[str, str] | None = None,
    pictures: Iterable[np.ndarray] | None = None,
) -> Path:
    """A clip at `path`, whose suffix names the container.

    `times` gives a variable rate; `rotation` is the counter-clockwise display rotation; `colors` is (matrix, range) by
    their H.273 and FFmpeg numbers; `start` and `audio_start` shift the streams. `sound` is `(channels, samples)`
    float32 at `audio_rate`, by default a tone of `audio_duration`.
    """
    times = list(times) if times is not None else [Fraction(index) / rate for index in range(num_frames)]
    audio_duration = times[-1] + 1 / Fraction(rate) if audio_duration is None else audio_duration
    with av.open(str(path), "w", container_options=muxer_options or {}) as container:
        video = container.add_stream(
            codec,
            rate=Fraction(rate),
            width=width,
            height=height,
            pix_fmt=pixel_format,
            time_base=time_base,
            options={"preset": "ultrafast", "crf": "10"}
            if codec == "libx264" and not codec_options
            else codec_options,
        )
        if colors is not None:
            video.codec_context.colorspace, video.codec_context.color_range = colors
        if rotation is not None:
            video.set_display_rotation(rotation, hflip=mirrored)
        track = None
        if audio is not None:
            audio_channels = audio_channels if sound is None else len(sound)
            layout = {1: "mono", 2: "stereo", 6: "5.1"}[audio_channels]
            track = container.add_stream(audio, rate=audio_rate, layout=layout)
        if pictures is None:
            pictures = (sample_picture(index, width, height) for index in range(len(times)))
        for rgb, time in zip(pictures, times, strict=False):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            if colors is not None:
                frame = frame.reformat(format=pixel_format, dst_colorspace=colors[0], dst_color_range=colors[1])
            frame.pts, frame.time_base = round((start + time) / time_base), time_base
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if track is not None:
            samples = sine(int(audio_duration * audio_rate), audio_rate, audio_channels) if sound is None else sound
            first = round((start + audio_start) * audio_rate)
            for position in range(0, samples.shape[1], 1024):
                block = np.ascontiguousarray(samples[:, position : position + 1024])
                sound_frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
                sound_frame.sample_rate, sound_frame.time_base = audio_rate, Fraction(1, audio_rate)
                sound_frame.pts = first + position
                container.mux(track.encode(sound_frame))
            container.mux(track.encode(None))
    return path


def make_sound(path: Path, samples: np.ndarray, rate: int, codec: str = "pcm_s16le") -> Path:
    """A file of sound alone, from `(channels, samples)` float32."""
    layout = {1: "mono", 2: "stereo"}[len(samples)]
    with av.open(str(path), "w") as container:
        track = container.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=layout)
        frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), 0
        container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return path


def packets_of(path: Path, kind: str = "video") -> list[tuple[Fraction, bytes]]:
    """Time in seconds and data of each packet of the first stream of a kind."""
    with av.open(str(path)) as container:
        stream = container.streams.get({kind: 0})[0]
        return [(packet.pts * stream.time_base, bytes(packet)) for packet in container.demux(stream) if packet.size]


def cut_file(path: Path, keep: float, name: str = "cut") -> Path:
    """A copy with only the first part of the bytes."""
    data = path.read_bytes()
    cut = path.with_name(f"{name}{path.suffix}")
    cut.write_bytes(data[: int(len(data) * keep)])
    return cut


def damage_packets(path: Path, numbers: Iterable[int], name: str = "damaged") -> Path:
    """A copy in which the given video packets (in order of storage) are zeros."""
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    for number in numbers:
        position, size = packets[number]
        data[position : position + size] = bytes(size)
    damaged = path.with_name(f"{name}{path.suffix}")
    damaged.write_bytes(data)
    return damaged
