# SPDX-License-Identifier: Apache-2.0
"""What a user may call a video: a path, a URL, an array or tensor, or frames as they come, all read the same way."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch

from video_saliency.audio_io import read_samples
from video_saliency.audio_windows import to_mono
from video_saliency.source_files import check_file, is_url
from video_saliency.video_io import probe, read_audio, read_frames

DEFAULT_FRAME_RATE = Fraction(25)

SUPPORTED = (
    "pass a path, a URL, a uint8 RGB array or tensor of shape (frames, height, width, 3), "
    'or {"frames": iterable of (height, width, 3) uint8 arrays, "fps": rate}, with sound as "audio" if there is any'
)


class Frame(Protocol):
    """A source frame: 0-based index, time in seconds, the bytes that it holds, and its RGB picture on demand."""

    @property
    def index(self) -> int: ...

    @property
    def time(self) -> Fraction: ...

    @property
    def nbytes(self) -> int: ...

    def to_rgb(self) -> np.ndarray: ...


@dataclass(frozen=True)
class ArrayFrame:
    """A frame that is in memory already."""

    index: int
    time: Fraction
    rgb: np.ndarray

    @property
    def nbytes(self) -> int:
        """0 for a view of the caller's array: keeping the frame keeps nothing new in memory."""
        return 0 if self.rgb.base is not None else self.rgb.nbytes

    def to_rgb(self) -> np.ndarray:
        return self.rgb


@dataclass(frozen=True)
class Source:
    """A video that can be read.

    Attributes:
        frames: call it to read the frames from the first one on.
        num_frames: how many there are, as far as is known beforehand.
        size: `(height, width)`, as far as is known beforehand.
        can_rewind: whether `frames` may be called a second time.
        sound: call it with a sampling rate to read the sound, as `read_audio` gives it, as often as wanted; `None` if
            the video has none.
    """

    frames: Callable[[], Iterator[Any]]
    num_frames: int | None
    size: tuple[int, int] | None
    can_rewind: bool = True
    sound: Callable[[int], Iterator[tuple[float, np.ndarray]]] | None = None


def open_source(video: Any) -> Source:
    """The `Source` behind a path, URL, array, tensor, or `{"frames": ..., "fps": ...}`; a `Source` is left as it is.

    Arrays have no clock: they are taken at 25 frames a second unless given as `{"frames": array, "fps": rate}`. Such a
    dict may also hold sound that begins with the first frame: as `"audio"` floats in -1..1 (or int16, int32) of shape
    `(samples,)` or `(channels, samples)` with their `"sampling_rate"`; or as `"audio"` the path of a file.

    Raises:
        ValueError: for anything else, with the accepted kinds in the message; for a list of frames, with the remedy.
        VideoError, FileNotFoundError, PermissionError: from reading the file.
    """
    if isinstance(video, Source):
        return video
    if isinstance(video, (str, os.PathLike)):
        info = probe(video)
        size = (info.height, info.width)
        sound = partial(read_audio, video) if info.has_audio else None
        return Source(lambda: read_frames(video), info.num_frames, size, sound=sound)
    rate = DEFAULT_FRAME_RATE
    given_sound = None
    if isinstance(video, Mapping):
        if set(video) - {"audio", "sampling_rate"} != {"frames", "fps"}:
            raise ValueError(
                "a video given as a dict has the keys 'frames' and 'fps', and for sound 'audio' and 'sampling_rate', "
                f"got {sorted(video)}"
            )
        if not isinstance(video["fps"], (int, float, Fraction)) or not 0 < video["fps"] < math.inf:
            raise ValueError(f"fps must be a positive number, got {video['fps']!r}")
        rate = Fraction(video["fps"]).limit_denominator(100_000)
        given_sound = _given_sound(video.get("audio"), video.get("sampling_rate"))
        video = video["frames"]
    elif isinstance(video, (list, tuple)):
        raise ValueError(
            "a list is a batch of videos: stack single frames into one array first, as in np.stack(frames)"
        )
    if isinstance(video, torch.Tensor):
        if video.dtype != torch.uint8:
            raise ValueError(f"a video must be uint8, got a tensor of {video.dtype}: scale 0..1 floats by 255")
        video = video.cpu().numpy()
    if isinstance(video, np.ndarray):
        clip = check_clip(video)
        return Source(lambda: _array_frames(clip, rate), len(clip), (clip.shape[1], clip.shape[2]), sound=given_sound)
    if isinstance(video, Iterable) and not isinstance(video, (bytes, bytearray, str)):
        return Source(lambda: _array_frames(video, rate), None, None, can_rewind=False, sound=given_sound)
    raise ValueError(f"{type(video).__name__} is not a video: {SUPPORTED}")


def _given_sound(audio: Any, sampling_rate: Any) -> Callable[[int], Iterator[tuple[float, np.ndarray]]] | None:
    """The reader of sound that came beside frames."""
    if isinstance(audio, (str, os.PathLike)):
        if not is_url(audio):
            check_file(audio)
        return partial(read_audio, audio)
    if audio is None:
        return None
    if not isinstance(sampling_rate, (int, np.integer)) or sampling_rate < 1:
        raise ValueError(f"sound needs its 'sampling_rate', whole samples per second, got {sampling_rate!r}")
    return partial(read_samples, to_mono(audio), int(sampling_rate))


def check_clip(clip: np.ndarray) -> np.ndarray:
    """The clip itself, if it is uint8 RGB `(frames, height, width, 3)` with at least one frame; else `ValueError`."""
    if clip.ndim == 3:
        raise ValueError(f"one frame {clip.shape} is not a video: add the frame axis in front, as in frame[None]")
    if clip.ndim != 4 or clip.shape[-1] != 3 or clip.dtype != np.uint8 or clip.size == 0:
        raise ValueError(
            f"a video must be uint8 RGB of shape (frames, height, width, 3) with at least one frame, got {clip.dtype} "
            f"{clip.shape}: move the channels last, scale 0..1 floats by 255"
        )
    return clip


def _array_frames(frames: Iterable[Any], rate: Fraction) -> Iterator[ArrayFrame]:
    size = None
    for index, frame in enumerate(frames):
        rgb = np.asarray(frame)
        size = size or rgb.shape
        if rgb.shape != size:
            raise ValueError(f"frame {index} is {rgb.shape}, the first one {size}: resize the frames to one size")
        if rgb.ndim != 3 or rgb.shape[-1] != 3 or rgb.dtype != np.uint8:
            raise ValueError(f"frame {index} must be uint8 RGB (height, width, 3), got {rgb.dtype} {rgb.shape}")
        yield ArrayFrame(index, index / rate, rgb)
