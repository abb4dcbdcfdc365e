# SPDX-License-Identifier: Apache-2.0
"""Video files in: what they are, and their frames one by one with exact times.

Times are rationals made from presentation time stamps, relative to the first frame that can be decoded. Nothing here
grows with the clip. Sound and writing live in `audio_io` and `video_writing` and can be had from here as well.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from video_saliency.audio_io import read_audio
from video_saliency.source_files import Source, TruncatedVideoError, VideoError, missing_bytes, read_still
from video_saliency.video_container import (
    FALLBACK_FRAME_RATE,
    MAX_DECODER_THREADS,
    PictureReader,
    declared_frames,
    first_picture,
    frame_rate,
    load_av,
    no_frame_error,
    open_input,
    reformatter,
    video_duration,
    video_stream,
)
from video_saliency.video_writing import SegmentWriter, join_segments, write_video

logger = logging.getLogger(__name__)

MAX_BACKWARD_STEP_S = 1  # larger backward steps of the clock are a new start of it, not a wrong stamp
HD_HEIGHT = 720  # from here on a clip that does not tell its matrix is taken as BT.709, as players do

# AVColorSpace numbers (ITU-T H.273) and the FFmpeg names of ours that are needed by their value
MATRIX_BT709, MATRIX_UNSPECIFIED = 1, 2

# (transposed, rows flipped, columns flipped) -> clockwise degrees; mirrored pictures take the turn without the mirror
TURNS = {
    (False, False, False): 0,
    (True, False, True): 90,
    (False, True, True): 180,
    (True, True, False): 270,
    (False, False, True): 0,
    (True, False, False): 90,
    (False, True, False): 180,
    (True, True, True): 270,
}
Orientation = tuple[bool, bool, bool]
UPRIGHT: Orientation = (False, False, False)


@dataclass(frozen=True)
class VideoInfo:
    """What a clip tells about itself.

    Attributes:
        width, height: of a frame in pixels, upright, that is behind the rotation.
        frame_rate: average frames per second, if known.
        num_frames: frames as declared by the file, else estimated from duration and rate; the truth is known only
            after reading.
        duration_s: of the video in seconds, if known.
        rotation: degrees clockwise, 0, 90, 180 or 270, by which the stored picture is turned to stand upright.
        codec: FFmpeg's name, such as `"h264"`.
        pixel_format: FFmpeg's name, such as `"yuv420p"`.
        has_audio: whether there is a sound stream.
        audio_codec, audio_sampling_rate: of the sound, if there is one that can be decoded.
        time_base: seconds of one tick of the time stamps.
        sample_aspect_ratio: width of a pixel divided by its height, if told. For information: maps and overlays have
            the stored pixels.
    """

    width: int
    height: int
    frame_rate: Fraction | None
    num_frames: int | None
    duration_s: float | None
    rotation: int
    codec: str
    pixel_format: str
    has_audio: bool
    audio_codec: str | None
    audio_sampling_rate: int | None
    time_base: Fraction
    sample_aspect_ratio: Fraction | None = None


class DecodedFrame:
    """One frame as the decoder gave it; it becomes RGB only on demand.

    Attributes:
        index: 0-based number of the frame.
        time: seconds since the first frame.
    """

    __slots__ = ("_orientation", "_picture", "_size", "index", "time")

    def __init__(
        self, picture: Any, index: int, time: Fraction, orientation: Orientation, size: tuple[int, int]
    ) -> None:
        self.index, self.time = index, time
        self._picture, self._orientation, self._size = picture, orientation, size

    @property
    def nbytes(self) -> int:
        """Bytes of the decoded picture that this frame keeps in memory."""
        return sum(plane.buffer_size for plane in self._picture.planes)

    def to_rgb(self) -> np.ndarray:
        """`(height, width, 3)` uint8, upright. A new array each time; not from two threads at once.

        The matrix and range that the frame is flagged with are used. Unflagged: limited range, BT.709 from 720 lines
        on, BT.601 below, as players do. Other depths are reduced to 8 bit. BT.2020 is converted by its matrix,
        without tone mapping.
        """
        picture = self._picture
        unflagged_hd = picture.colorspace == MATRIX_UNSPECIFIED and picture.height >= HD_HEIGHT
        width, height = self._size
        rgb = reformatter().reformat(
            picture,
            width=width,
            height=height,
            format="rgb24",
            src_colorspace=MATRIX_BT709 if unflagged_hd else None,
            threads=1,  # the work is shared by frames, not by rows
        )
        return _turn(rgb.to_ndarray(), self._orientation)


def probe(source: Source) -> VideoInfo:
    """The `VideoInfo` of a path or URL. Decodes its first frame, so what it describes can be read.

    Raises:
        FileNotFoundError, PermissionError: if the file is missing or must not be read.
        VideoError: if it is a folder, not a video, or none of its frames can be decoded.
    """
    still = read_still(source)
    if still is not None:
        return _still_info(*still)
    with open_input(source) as container:
        stream = video_stream(container, source)
        first = first_picture(container, stream, source)
        orientation = picture_orientation(first)
        width, height = (first.height, first.width) if orientation[0] else (first.width, first.height)
        sound = container.streams.best("audio")
        codec = sound.codec_context if sound is not None else None
        rate = frame_rate(stream)
        duration = video_duration(container, stream)
        return VideoInfo(
            width=width,
            height=height,
            frame_rate=rate,
            num_frames=declared_frames(container, stream),
            duration_s=None if duration is None else float(duration),
            rotation=TURNS[orientation],
            codec=stream.codec_context.name,
            pixel_format=first.format.name,
            has_audio=sound is not None,
            audio_codec=codec.name if codec is not None else None,
            audio_sampling_rate=codec.sample_rate or None if codec is not None else None,
            time_base=stream.time_base,
            sample_aspect_ratio=stream.sample_aspect_ratio or None,
        )


def read_frames(source: Source) -> Iterator[DecodedFrame]:
    """The frames of a path or URL in order of presentation, one at a time. A still image is a clip of one frame.

    Frame 0 is the first one that can be decoded. Packets in the middle that cannot be decoded are left out, with a
    warning. A frame with no time stamp follows its predecessor by the average frame rate, one with a stamp that does
    not increase by one tick. If the size changes in the middle, later frames are scaled to the first one's.

    Raises:
        FileNotFoundError, PermissionError: if the file is missing or must not be read.
        VideoError: if it is a folder, not a video, or none of its frames can be decoded.
        TruncatedVideoError: after the last good frame, if the video ends early.
    """
    still = read_still(source)
    if still is not None:
        picture = load_av().VideoFrame.from_ndarray(still[0], format="rgb24")
        yield DecodedFrame(picture, 0, Fraction(0), UPRIGHT, (picture.width, picture.height))
        return
    frames = _FrameMaker(source)
    for max_threads in (MAX_DECODER_THREADS, 1):
        with open_input(source) as container:
            stream = video_stream(container, source, max_threads=max_threads)
            reader = PictureReader(container, stream)
            for picture in itertools.islice(reader.pictures(), frames.count, None):
                yield frames.make(picture, reader)
            if not reader.misses_last_pictures():
                break
            # The decoder drops what its other threads hold when one of the last packets is damaged: a second reading
            # with one thread tells what is really missing.
    if frames.count == 0:
        raise no_frame_error(source)
    cause = reader.reason_of_early_end() or missing_bytes(source)
    if cause:
        of_expected = f" of {reader.expected_frames}" if (reader.expected_frames or 0) > frames.count else ""
        raise TruncatedVideoError(
            f"{source} ends early ({cause}): {frames.count}{of_expected} frames could be read; "
            "copy or download it again for the rest"
        )
    if reader.num_errors:
        logger.warning("%s: %d packets could not be decoded and were left out", source, reader.num_errors)


class _FrameMaker:
    """Numbers the decoder's pictures and sets their clock."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.clock: _Clock | None = None
        self.count = 0
        self.orientation, self.size = UPRIGHT, (0, 0)
        self.size_changed = False

    def make(self, picture: Any, reader: PictureReader) -> DecodedFrame:
        size = (picture.width, picture.height)
        if self.clock is None:
            self.clock = _Clock(reader.time_base, reader.rate)
            self.orientation, self.size = picture_orientation(picture), size
        elif size != self.size and not self.size_changed:
            self.size_changed = True
            logger.warning("%s changes its size at frame %d: scaled to the first size", self.source, self.count)
        frame = DecodedFrame(picture, self.count, self.clock.time(picture.pts), self.orientation, self.size)
        self.count += 1
        return frame


class _Clock:
    """Turns time stamps into strictly increasing times, the first 0."""

    def __init__(self, time_base: Fraction, rate: Fraction) -> None:
        self.time_base = time_base
        self.step = 1 / rate
        self.origin = Fraction(0)
        self.previous: Fraction | None = None

    def time(self, pts: int | None) -> Fraction:
        stamp = None if pts is None else pts * self.time_base
        if self.previous is None:
            self.origin = stamp or Fraction(0)
            self.previous = Fraction(0)
            return self.previous
        time = self.previous + self.step if stamp is None else stamp - self.origin
        if time <= self.previous - MAX_BACKWARD_STEP_S and stamp is not None:
            time = self.previous + self.step  # the clock starts anew, as where recordings were joined
            self.origin = stamp - time
        elif time <= self.previous:
            time = self.previous + self.time_base
        self.previous = time
        return time


def _still_info(rgb: np.ndarray, name: str) -> VideoInfo:
    return VideoInfo(
        width=rgb.shape[1],
        height=rgb.shape[0],
        frame_rate=None,
        num_frames=1,
        duration_s=None,
        rotation=0,
        codec=name,
        pixel_format="rgb24",
        has_audio=False,
        audio_codec=None,
        audio_sampling_rate=None,
        time_base=1 / FALLBACK_FRAME_RATE,
    )


def picture_orientation(picture: Any) -> Orientation:
    """How the display matrix of a frame turns it: transposed, then rows flipped, then columns flipped."""
    matrix = picture.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return UPRIGHT
    # row vectors: x' = a x + c y, y' = b x + d y, with y downwards
    a, b, _, c, d = (int(value) for value in np.frombuffer(bytes(matrix), dtype="<i4")[:5])
    if abs(b) + abs(c) > abs(a) + abs(d):
        return True, b < 0, c < 0
    return False, d < 0, a < 0


def _turn(rgb: np.ndarray, orientation: Orientation) -> np.ndarray:
    transposed, flip_rows, flip_columns = orientation
    if transposed:
        rgb = rgb.transpose(1, 0, 2)
    return np.ascontiguousarray(rgb[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1])


__all__ = [
    "DecodedFrame",
    "SegmentWriter",
    "TruncatedVideoError",
    "VideoError",
    "VideoInfo",
    "join_segments",
    "probe",
    "read_audio",
    "read_frames",
    "write_video",
]
