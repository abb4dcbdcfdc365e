# SPDX-License-Identifier: Apache-2.0
"""Opened video files: finding the video stream, and decoding it with an account of what is missing.

The only place where PyAV is imported; `video_io`, `audio_io` and `video_writing` get it from `load_av`.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

from video_saliency.source_files import Source, VideoError, check_file, is_url

logger = logging.getLogger(__name__)

FALLBACK_FRAME_RATE = Fraction(25)  # for a clip that does not tell its rate
MAX_DECODER_THREADS = 8  # each may hold a frame
URL_TIMEOUT_S = 30.0
TEXT_FORMATS = {"tty", "adf", "bin", "idf", "xbin"}  # FFmpeg draws any text file as a video of letters


def load_av() -> Any:
    """PyAV, imported on first use: `import video_saliency` must not pay for FFmpeg's libraries."""
    import av

    return av


_local = threading.local()


def reformatter() -> Any:
    """This thread's converter of pixel formats: one that is kept is eight times as fast as a new one per frame."""
    if not hasattr(_local, "reformatter"):
        _local.reformatter = load_av().video.reformatter.VideoReformatter()
    return _local.reformatter


@contextmanager
def open_input(source: Source) -> Iterator[Any]:
    """The opened PyAV container of a path or URL.

    Raises:
        FileNotFoundError, PermissionError, VideoError: with a message of one line that says what to do.
    """
    av = load_av()
    if is_url(source):
        if not str(source).lower().startswith(("http://", "https://")):
            raise VideoError(f"{source}: only http:// and https:// are supported; pass a local path or such a URL")
        name, timeout = str(source), URL_TIMEOUT_S
    else:
        check_file(source)
        name, timeout = f"file:{os.fspath(source)}", None  # the prefix keeps "a:b.mp4" from naming a protocol
    try:
        container = av.open(name, timeout=timeout)
    except av.error.HTTPNotFoundError as error:
        raise FileNotFoundError(f"{source} does not exist on the server: check the address") from error
    except (av.error.HTTPError, OSError) as error:
        if not is_url(source):
            raise
        raise VideoError(
            f"cannot read {source} ({ffmpeg_reason(error)}): check the address and the connection"
        ) from error
    except av.FFmpegError as error:
        if isinstance(error, av.error.ExitError):
            raise VideoError(f"{source} did not answer in {URL_TIMEOUT_S:g} s: check the connection") from error
        raise VideoError(
            f"{source} is not a video that can be read ({ffmpeg_reason(error)}): check that it is one and that it was "
            "copied or recorded to its end (an MP4 file without its 'moov' index cannot be played)"
        ) from error
    with container:
        if container.format.name in TEXT_FORMATS:
            raise VideoError(f"{source} is a text file, not a video: pass a video file")
        yield container


def video_stream(container: Any, source: Source, *, max_threads: int = MAX_DECODER_THREADS) -> Any:
    """The video stream of a container, ready for decoding in threads; `VideoError` if there is none."""
    stream = container.streams.best("video")
    attached = load_av().stream.Disposition.attached_pic
    if stream is None or stream.disposition & attached:
        raise VideoError(f"{source} has no video stream, only {_stream_types(container)}: pass a video file")
    if stream.codec_context is None:
        raise VideoError(f"{source} has a video codec that this build of FFmpeg cannot decode: convert it to H.264")
    stream.codec_context.thread_type = "AUTO"
    stream.codec_context.thread_count = min(max_threads, os.cpu_count() or 1)
    return stream


def first_picture(container: Any, stream: Any, source: Source) -> Any:
    """The first PyAV frame that can be decoded; `VideoError` if there is none."""
    for picture in PictureReader(container, stream).pictures():
        return picture
    raise no_frame_error(source)


def no_frame_error(source: Source) -> VideoError:
    """The error for a file in which nothing can be decoded."""
    return VideoError(f"no frame of {source} can be decoded: the file is damaged or not a video; copy it again")


def ffmpeg_reason(error: Exception) -> str:
    """What FFmpeg says about an error, without numbers and file names."""
    return str(getattr(error, "strerror", None) or error)


def first_picture_time(source: Source) -> Fraction:
    """Seconds on the file's own clock at which its first frame that can be decoded is shown."""
    with open_input(source) as container:
        stream = video_stream(container, source)
        time_base: Fraction = stream.time_base
        return (first_picture(container, stream, source).pts or 0) * time_base


def _stream_types(container: Any) -> str:
    attached = load_av().stream.Disposition.attached_pic
    types = {"a cover picture" if s.disposition & attached else s.type or "data" for s in container.streams}
    return " and ".join(sorted(types)) or "nothing"


class PictureReader:
    """Decodes the video stream and keeps account of what is missing."""

    def __init__(self, container: Any, stream: Any) -> None:
        self.container, self.stream = container, stream
        self.time_base: Fraction = stream.time_base  # a closed container takes its streams with it
        self.rate = frame_rate(stream) or FALLBACK_FRAME_RATE
        self.num_packets = self.num_errors = 0
        self.last_packet_pts: int | None = None
        self.last_picture_pts: int | None = None
        self.read_error: Exception | None = None
        self.indexed_packets = 0
        self.expected_frames: int | None = None

    def pictures(self) -> Iterator[Any]:
        # A picture with faults is held back: it is shown if the clip goes on behind it, as players do, and left out if
        # it is the torn last one.
        held = None
        for packet in self._packets():
            for picture in self._decode(packet):
                if held is not None:
                    yield self._passed(held)
                held = picture if picture.is_corrupt else None
                if held is None:
                    yield self._passed(picture)
        # only files of the MP4 family list all packets in their index (behind their edit list)
        self.indexed_packets = len(self.stream.index_entries) if "mp4" in self.container.format.name else 0
        self.expected_frames = max(self.indexed_packets, declared_frames(self.container, self.stream) or 0)
        if held is not None and self.reason_of_early_end() is None:
            yield self._passed(held)

    def _passed(self, picture: Any) -> Any:
        self.last_picture_pts = _later(self.last_picture_pts, picture.pts)
        return picture

    def _packets(self) -> Iterator[Any]:
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except load_av().FFmpegError as error:
                self.read_error = error
                yield None  # the decoder still holds pictures
                return
            if packet.size:  # else it is the sign to empty the decoder
                self.num_packets += 1
                if not packet.is_discard:
                    self.last_packet_pts = _later(self.last_packet_pts, packet.pts)
                if packet.is_corrupt:  # torn
                    self.num_errors += 1
                    continue
            yield packet

    def _decode(self, packet: Any) -> list[Any]:
        try:
            pictures: list[Any] = self.stream.codec_context.decode(packet)
        except load_av().FFmpegError as error:
            self.num_errors += 1
            logger.debug("packet %d cannot be decoded: %s", self.num_packets, error)
            return []
        return pictures

    def misses_last_pictures(self) -> bool:
        """Whether packets behind the last picture gave none."""
        if self.last_packet_pts is None:
            return False
        if self.last_picture_pts is None:
            return True
        # more than half a frame: the second field of an interlaced picture may have a stamp of its own
        return (self.last_packet_pts - self.last_picture_pts) * self.time_base * self.rate > Fraction(1, 2)

    def reason_of_early_end(self) -> str | None:
        if self.read_error is not None:
            return f"reading stopped: {ffmpeg_reason(self.read_error)}"
        if self.num_packets < self.indexed_packets:
            return "data is missing at its end"
        if self.num_errors and self.misses_last_pictures():
            return "the last packets cannot be decoded"
        return None


def _later(pts: int | None, other: int | None) -> int | None:
    return max((stamp for stamp in (pts, other) if stamp is not None), default=None)


def frame_rate(stream: Any) -> Fraction | None:
    """Average frames per second, else the rate that fits the time stamps; `None` if unknown."""
    rate: Fraction | None = stream.average_rate or stream.guessed_rate
    return rate or None


def video_duration(container: Any, stream: Any) -> Fraction | None:
    """Seconds that the video stream lasts, or the file if the stream does not tell; `None` if neither does."""
    time_base: Fraction = stream.time_base
    if stream.duration:
        return int(stream.duration) * time_base
    if not container.duration:
        return None
    duration = Fraction(container.duration, 1_000_000)
    if "matroska" in container.format.name and stream.start_time:  # counts from 0, not from the first frame
        duration -= stream.start_time * time_base
    return duration


def declared_frames(container: Any, stream: Any) -> int | None:
    """Frames as declared by the file, else estimated from duration and rate; `None` if unknown."""
    if stream.frames:
        return int(stream.frames)
    duration, rate = video_duration(container, stream), frame_rate(stream)
    return max(1, round(duration * rate)) if duration and rate else None
