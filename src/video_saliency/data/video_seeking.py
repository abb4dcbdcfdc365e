# SPDX-License-Identifier: Apache-2.0
"""Any frames of a video file by their numbers, found by seeking, and videos that hold numbers instead of pictures.

Numbers are those of `video_io.read_frames`. A clip whose packets have no usable time stamps is decoded from its start.
"""

from __future__ import annotations

import itertools
import logging
from bisect import bisect_right
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from video_saliency.source_files import VideoError
from video_saliency.video_container import (
    FALLBACK_FRAME_RATE,
    PictureReader,
    ffmpeg_reason,
    frame_rate,
    load_av,
    no_frame_error,
    open_input,
    video_stream,
)

logger = logging.getLogger(__name__)

FULL_RANGE = 2  # AVColorRange: the numbers use all values of their bits


@dataclass(frozen=True)
class VideoHeader:
    """What a file tells without decoding.

    Attributes:
        num_frames: as listed in the file's index, else counted over all packets.
        frame_rate: average frames per second, if known.
        size: stored height and width, before any rotation.
    """

    num_frames: int
    frame_rate: Fraction | None
    size: tuple[int, int]


@dataclass(frozen=True)
class VideoIndex:
    """Where the frames of a file are.

    Attributes:
        stamps: presentation stamps in ticks, ascending, one a frame; `None` if the packets do not carry them.
        keys: (presentation stamp, decoding stamp) of the key frames, ascending.
        time_base: seconds of a tick.
        num_frames: frames that are shown.
    """

    stamps: tuple[int, ...] | None
    keys: tuple[tuple[int, int], ...]
    time_base: Fraction
    num_frames: int

    def times(self, rate: Fraction | None) -> list[Fraction]:
        """Seconds of each frame since the first; at a constant rate if there are no stamps."""
        if self.stamps is None:
            return [number / (rate or FALLBACK_FRAME_RATE) for number in range(self.num_frames)]
        return [(stamp - self.stamps[0]) * self.time_base for stamp in self.stamps]


def read_header(path: Path) -> VideoHeader:
    """The `VideoHeader` of a local file.

    Raises:
        FileNotFoundError, PermissionError, VideoError: as `video_io.probe`.
    """
    state = path.stat()
    return _read_header(path, state.st_mtime_ns, state.st_size)


def index_video(path: Path) -> VideoIndex:
    """The `VideoIndex` of a local file: reads it through once without decoding, and is kept for the next call.

    Raises:
        as `read_header`.
    """
    state = path.stat()
    return _index_video(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=4096)
def _read_header(path: Path, changed: int, num_bytes: int) -> VideoHeader:
    with open_input(path) as container:
        stream = video_stream(container, path)
        if "mp4" in container.format.name and stream.frames:
            # behind the edit list, which may hide frames
            num_frames = sum(not entry.is_discard for entry in stream.index_entries)
        else:
            num_frames = stream.frames
        size = (stream.codec_context.height, stream.codec_context.width)
        rate = frame_rate(stream)
    return VideoHeader(num_frames or index_video(path).num_frames, rate, size)


@lru_cache(maxsize=256)
def _index_video(path: Path, changed: int, num_bytes: int) -> VideoIndex:
    stamps: list[int | None] = []
    keys: list[tuple[int, int]] = []
    with open_input(path) as container:
        stream = video_stream(container, path)
        time_base = stream.time_base
        # AVI files store no presentation stamps: with pictures out of order those that FFmpeg makes up are wrong
        is_guessed = container.format.name == "avi" and stream.codec_context.has_b_frames
        for packet in container.demux(stream):
            if not packet.size:
                continue
            if packet.is_keyframe and packet.pts is not None:
                keys.append((packet.pts, packet.pts if packet.dts is None else packet.dts))
            if not packet.is_discard:
                stamps.append(packet.pts)
    known = sorted(stamp for stamp in stamps if stamp is not None)
    is_usable = not is_guessed and len(set(known)) == len(stamps) > 0 and bool(keys)
    return VideoIndex(tuple(known) if is_usable else None, tuple(sorted(keys)), time_base, len(stamps))


def read_pictures(path: Path, indices: Iterable[int]) -> Iterator[tuple[int, Any]]:
    """(number, PyAV frame) of the wanted frames in ascending order, each once.

    Decoding starts at the last key frame before a wanted frame, or goes on from the one before it.

    Raises:
        IndexError: for a number beyond the clip.
        FileNotFoundError, PermissionError, VideoError: as `video_io.read_frames`.
    """
    wanted = sorted(set(indices))
    if not wanted:
        return
    index = index_video(path)
    if wanted[0] < 0 or wanted[-1] >= index.num_frames:
        raise IndexError(f"{path} has frames 0 to {index.num_frames - 1}, not {wanted[0]} to {wanted[-1]}")
    done = 0
    if index.stamps is not None:
        try:
            for number, picture in _seek_pictures(path, index, wanted):
                yield number, picture
                done += 1
        except load_av().FFmpegError as error:
            logger.debug("%s: seeking failed: %s", path, ffmpeg_reason(error))
    if done < len(wanted):
        yield from _decode_pictures(path, wanted[done:])


def _seek_pictures(path: Path, index: VideoIndex, wanted: list[int]) -> Iterator[tuple[int, Any]]:
    """As `read_pictures`; ends early where a frame does not come out of the decoder."""
    stamps = index.stamps or ()
    key_stamps = [stamp for stamp, _ in index.keys]
    with open_input(path) as container:
        stream = video_stream(container, path)
        pictures: Iterator[Any] | None = None
        position = 0  # stamp of the picture that was decoded last
        for number in wanted:
            target = stamps[number]
            key_stamp, key_decoding_stamp = index.keys[max(bisect_right(key_stamps, target) - 1, 0)]
            if pictures is None or key_stamp > position:
                container.seek(key_decoding_stamp, stream=stream)
                pictures = container.decode(stream)
            picture = next(
                (picture for picture in pictures if picture.pts is not None and picture.pts >= target), None
            )
            if picture is None or picture.pts > target:
                return
            position = target
            yield number, picture


def _decode_pictures(path: Path, wanted: list[int]) -> Iterator[tuple[int, Any]]:
    with open_input(path) as container:
        pictures = PictureReader(container, video_stream(container, path)).pictures()
        found = 0
        for number, picture in enumerate(pictures):
            if number == wanted[found]:
                yield number, picture
                found += 1
                if found == len(wanted):
                    return
    raise VideoError(
        f"{path}: frame {wanted[found]} cannot be decoded, the file is damaged; copy or download it again"
    )


def read_value_maps(path: Path, indices: Iterable[int]) -> Iterator[tuple[int, np.ndarray]]:
    """(number, values) of the wanted frames of a video of maps, see `picture_values`.

    Raises:
        as `read_pictures`.
    """
    return ((number, picture_values(picture)) for number, picture in read_pictures(path, indices))


def stream_value_maps(path: Path) -> Generator[np.ndarray, None, None]:
    """The values of all frames of a video of maps in order, see `picture_values`; ends where the file ends.

    Raises:
        as `read_header`.
    """
    with open_input(path) as container:
        is_empty = True
        for picture in PictureReader(container, video_stream(container, path)).pictures():
            is_empty = False
            yield picture_values(picture)
    if is_empty:
        raise no_frame_error(path)


def picture_values(picture: Any) -> np.ndarray:
    """The grey values of a PyAV frame `(height, width)` in the depth it is stored with: uint8, or uint16 for more.

    Limited range (16..235 of 8 bit, 64..940 of 10 bit) is moved to start at 0 and not stretched: black is 0 and
    nothing is rounded. Colour that is stored as RGB is turned into grey.
    """
    pixel_format = picture.format
    bits = pixel_format.components[0].bits
    if not pixel_format.name.startswith(("yuv4", "yuvj", "yuva", "gray")) or pixel_format.name.startswith("grayf"):
        grey: np.ndarray = picture.to_ndarray(format="gray" if bits <= 8 else "gray16le")
        return grey
    dtype = np.dtype(np.uint8 if bits <= 8 else np.uint16)
    stored = dtype.newbyteorder(">" if pixel_format.name.endswith("be") else "<")
    plane = picture.planes[0]
    rows = np.frombuffer(plane, dtype=stored).reshape(picture.height, -1)[:, : picture.width].astype(dtype)
    is_full = picture.color_range == FULL_RANGE or pixel_format.name.startswith(("yuvj", "gray"))
    if is_full:
        return rows
    scale = 1 << (bits - 8)
    return np.clip(rows, 16 * scale, 235 * scale) - dtype.type(16 * scale)


def resample_indices(times: Iterable[Fraction], rate: Fraction, last_duration: Fraction) -> list[int]:
    """For each frame of a clip at a constant `rate`, the number of the source frame shown then.

    As FFmpeg's `fps` filter does it: a source frame begins at the nearest tick of the new rate and lasts until the
    next one begins; of several that begin at one tick the last is kept.

    Args:
        times: seconds of the source frames, ascending from 0.
        rate: frames per second wanted.
        last_duration: seconds that the last source frame lasts.
    """
    moments = list(times)
    starts = [round_half_up(time * rate) for time in moments]
    end = max(round_half_up((moments[-1] + last_duration) * rate), 1)
    following = itertools.chain(starts[1:], [end])
    return [
        number for number, (start, stop) in enumerate(zip(starts, following, strict=True)) for _ in range(start, stop)
    ]


def round_half_up(value: Fraction) -> int:
    """The nearest whole number; of two equally near ones the larger."""
    return (2 * value.numerator + value.denominator) // (2 * value.denominator)
