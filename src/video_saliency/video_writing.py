# SPDX-License-Identifier: Apache-2.0
"""Video files out: H.264 in MP4, in segments that can be joined without encoding again, with sound muxed in step.

Every file appears under its name only when it is whole, and equal input gives equal bytes on the same machine.
"""

from __future__ import annotations

import contextlib
import heapq
import logging
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from video_saliency.atomic_files import atomic_path
from video_saliency.audio_io import Packets, SoundError, SoundTrack, sound_tracks
from video_saliency.source_files import Source
from video_saliency.video_container import FALLBACK_FRAME_RATE, load_av, reformatter

logger = logging.getLogger(__name__)

# a tick that all usual frame rates are whole numbers of, 23.976 and 59.94 too
DEFAULT_TIME_BASE = Fraction(1, 120_000)
MAX_TICKS_PER_SECOND = 100_000_000  # MP4 keeps the duration of a frame in 32 bits: 42 s at this rate
MAX_TIMESCALE = 2**31 - 1
BT709 = 1  # ITU-T H.273: matrix, primaries and transfer function share this number
LIMITED_RANGE = 1  # AVCOL_RANGE_MPEG


class SegmentWriter:
    """Writes frames as one closed H.264 segment in an MP4 file. A context manager.

    The file starts with a key frame and has no B frames, so that segments with equal settings can be joined by
    `join_segments`. Colours are converted to and flagged as BT.709, limited range. Odd sizes become even by a repeated
    last row or column. The time stamps of the frames are kept. The last frame lasts as long as the one before it.

    Args:
        path: the file, which has its name only after the context was left without an exception.
        width, height: of the frames in pixels.
        time_base: seconds of one tick; times are rounded to ticks. Take that of the source, `VideoInfo.time_base`.
        frame_rate: a hint for the encoder, and the duration of a single frame. Default: 25.
        crf: quality of x264; 18 is visually lossless, larger is smaller.
        preset: speed of x264; the default keeps up with real time beside the model on two cores.

    Raises:
        ValueError: for a frame of another size or type, a time that does not increase, or no frame at all.
        OSError: if the disk is full, with its `errno`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        width: int,
        height: int,
        time_base: Fraction,
        *,
        frame_rate: Fraction | None = None,
        crf: int = 20,
        preset: str = "superfast",
    ) -> None:
        self.path, self.width, self.height = Path(path), width, height
        self.time_base = max(Fraction(time_base), Fraction(1, MAX_TICKS_PER_SECOND))
        self.frame_rate = (frame_rate or FALLBACK_FRAME_RATE).limit_denominator(1001)
        self.encoder_options = {"crf": str(crf), "preset": preset, "bf": "0"}
        self._context = self._writing()
        self._container: Any = None
        self._stream: Any = None
        self._held: Any = None  # the last packet, whose duration is not known before the next comes
        self._times: tuple[Fraction | None, Fraction | None] = (None, None)  # last but one, last
        self._ticks = -1

    def __enter__(self) -> SegmentWriter:
        self._context.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context.__exit__(kind, error, trace)

    def write(self, rgb: np.ndarray, time: Fraction) -> None:
        """Encode a frame, `(height, width, 3)` uint8, shown from `time` seconds on."""
        if rgb.shape != (self.height, self.width, 3) or rgb.dtype != np.uint8:
            raise ValueError(f"frames must be uint8 ({self.height}, {self.width}, 3), got {rgb.dtype} {rgb.shape}")
        if self._times[1] is not None and time <= self._times[1]:
            raise ValueError(f"times must increase, but {float(time)} s follows {float(self._times[1])} s")
        self._times = (self._times[1], time)
        self._ticks = max(self._ticks + 1, round(time / self.time_base))
        if self.height % 2 or self.width % 2:
            rgb = np.pad(rgb, ((0, self.height % 2), (0, self.width % 2), (0, 0)), mode="edge")
        picture = load_av().VideoFrame.from_ndarray(rgb, format="rgb24")
        picture = reformatter().reformat(
            picture, format="yuv420p", dst_colorspace=BT709, dst_color_range=LIMITED_RANGE, threads=1
        )
        picture.pts, picture.time_base = self._ticks, self.time_base
        self._mux(self._stream.encode(picture))

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        av = load_av()
        with atomic_path(self.path) as temporary:
            # The start of a segment is an edit list in units of the movie's clock, which has milliseconds by default.
            options = {"movie_timescale": str(self.time_base.denominator)}
            self._container = av.open(str(temporary), "w", format="mp4", container_options=options)
            try:
                self._stream = self._new_stream()
                yield
                self._finish()
            except BaseException:
                with contextlib.suppress(av.FFmpegError):  # a full disk would be reported a second time
                    self._container.close()
                raise
            self._container.close()

    def _new_stream(self) -> Any:
        stream = self._container.add_stream(
            "libx264",
            rate=self.frame_rate,
            options=self.encoder_options,
            width=self.width + self.width % 2,
            height=self.height + self.height % 2,
            pix_fmt="yuv420p",
            time_base=self.time_base,
        )
        codec = stream.codec_context
        codec.colorspace = codec.color_primaries = codec.color_trc = BT709
        codec.color_range = LIMITED_RANGE
        return stream

    def _mux(self, packets: list[Any]) -> None:
        for packet in packets:
            if self._held is not None:
                self._container.mux(self._held)
            self._held = packet

    def _finish(self) -> None:
        previous, last = self._times
        if last is None:
            raise ValueError(f"no frame was written to {self.path}: write at least one")
        self._mux(self._stream.encode(None))
        duration = 1 / self.frame_rate if previous is None else last - previous
        self._held.duration = max(1, round(duration / self._held.time_base))
        self._container.mux(self._held)


def join_segments(
    segments: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str], *, audio_from: Source | None = None
) -> str:
    """Joins segments into one MP4 file without encoding again, muxes sound into it, and says what became of the sound.

    Time stamps are those of the segments. The index is in front, so that browsers can start at once. The sound keeps
    its offset to the first frame and ends with the video, or where the source breaks off. AAC and MP3 are copied, all
    else is encoded to AAC. If there is trouble with the sound the video is written without it.

    Args:
        segments: files of `SegmentWriter` with equal settings, in order of time.
        output: the file to write.
        audio_from: the path or URL with the sound.

    Returns:
        `"copied"`, `"encoded to AAC (source: ...)"`, `"none"`, or `"none (reason)"` if there was trouble.

    Raises:
        ValueError: for no segments, or segments that do not fit together.
        OSError: if the disk is full, with its `errno`. No file of the name `output` is left, or the old one.
    """
    if not segments:
        raise ValueError("there are no segments to join: write at least one frame")
    paths = [Path(segment) for segment in segments]
    tracks, problem = ([], None) if audio_from is None else sound_tracks(audio_from)
    for track in [*tracks, None]:
        try:
            with atomic_path(output) as temporary:
                _join(paths, temporary, track)
        except SoundError as error:
            problem = str(error)
            continue
        if track is not None:
            return track.description
    if problem is None:
        return "none"
    logger.warning("%s has no sound: %s", output, problem)
    return f"none ({problem})"


def write_video(
    path: str | os.PathLike[str],
    frames: Iterable[tuple[np.ndarray, Fraction]],
    *,
    time_base: Fraction = DEFAULT_TIME_BASE,
    frame_rate: Fraction | None = None,
    audio_from: Source | None = None,
) -> str:
    """Writes frames `((height, width, 3) uint8, seconds)` as an MP4 file; returns what became of the sound.

    See `SegmentWriter` for the video and `join_segments` for the sound, the result and the errors.
    """
    target = Path(path)
    iterator = iter(frames)
    first = next(iterator, None)
    if first is None:
        raise ValueError(f"there is no frame to write to {target}: pass at least one")
    segment = target.with_name(f".{target.stem}.segment.mp4")
    try:
        height, width = first[0].shape[:2]
        with SegmentWriter(segment, width, height, time_base, frame_rate=frame_rate) as writer:
            writer.write(*first)
            for rgb, time in iterator:
                writer.write(rgb, time)
        return join_segments([segment], target, audio_from=audio_from)
    finally:
        segment.unlink(missing_ok=True)


def _join(segments: list[Path], output: Path, track: SoundTrack | None) -> None:
    av = load_av()
    end = max(time + packet.duration * packet.time_base for time, packet in _read_segments(segments[-1:]))
    with av.open(_local(segments[0])) as first:
        video = first.streams.video[0]
        options = {"movflags": "+faststart", "movie_timescale": str(_timescale(video.time_base, track))}
        try:
            with av.open(str(output), "w", format="mp4", container_options=options) as container:
                stream = container.add_stream_from_template(video, opaque=True)
                packets = [_moved(segments, stream)]
                if track is not None:
                    packets.append(track.packets(track, container, end))
                for _, packet in heapq.merge(*packets, key=itemgetter(0)):
                    container.mux(packet)
        except av.FFmpegError as error:
            if track is None or isinstance(error, OSError):
                raise
            raise SoundError(f"the sound cannot be muxed: {error.strerror}") from error


def _timescale(time_base: Fraction, track: SoundTrack | None) -> int:
    """A clock of the movie that can tell exactly when each stream starts."""
    both = math.lcm(time_base.denominator, track.rate if track is not None else 1)
    return both if both <= MAX_TIMESCALE else time_base.denominator


def _moved(segments: list[Path], stream: Any) -> Packets:
    for time, packet in _read_segments(segments):
        packet.stream = stream
        yield time, packet


def _read_segments(segments: list[Path]) -> Packets:
    """The packets of all segments with their times in seconds, checked to fit together."""
    av = load_av()
    settings = previous = None
    for path in segments:
        with av.open(_local(path)) as container:
            stream = container.streams.video[0]
            codec = stream.codec_context
            found = (codec.width, codec.height, codec.extradata, stream.time_base)
            if settings not in (None, found):
                raise ValueError(f"{path} was written with other settings than the segments before: write all anew")
            settings = found
            for packet in container.demux(stream):
                if not packet.size:
                    continue
                time = packet.pts * packet.time_base
                if previous is not None and time <= previous:
                    raise ValueError(f"{path} starts before the segment in front of it ends: pass them in order")
                previous = time
                yield time, packet


def _local(path: Path) -> str:
    return f"file:{path}"  # the prefix keeps "a:b.mp4" from naming a protocol
