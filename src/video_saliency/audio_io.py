# SPDX-License-Identifier: Apache-2.0
"""Sound on the clock of the video: samples out of a clip, and packets for a written one.

Sound is copied into an MP4 file where every browser plays it there (AAC, MP3). All else is encoded to AAC: Opus, AC-3,
FLAC and PCM in MP4 are silent in one browser or another.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from video_saliency.audio_windows import to_mono
from video_saliency.source_files import Source, VideoError, read_still
from video_saliency.video_container import ffmpeg_reason, first_picture_time, load_av, open_input

logger = logging.getLogger(__name__)

COPIED_CODECS = {"aac", "mp3", "mp3float"}
AAC_RATES = {96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350}
AAC_RATE = 48000  # for sources with another rate
AAC_BITS_PER_CHANNEL = 96_000
PREROLL_S = Fraction(1, 10)  # kept in front of the video: a decoder needs a few packets to settle
JITTER_S = Fraction(1, 50)  # smaller steps of the sound's clock are rounding of the container
FLOAT_FORMATS = {"flt", "fltp", "dbl", "dblp"}  # the others cannot hold NaN or infinity
NO_SOUND_FROM = 1e30  # times full scale: float32 does not hold what the resampler makes of it

_told_sources: set[str] = set()  # whose damaged samples were reported: one run reads a sound up to four times

Packets = Iterator[tuple[Fraction, Any]]  # time in seconds, PyAV packet


class SoundError(Exception):
    """The sound cannot be brought into the file this way; the video can."""


@dataclass(frozen=True)
class SoundTrack:
    """One way to bring the sound of `source` into a file.

    Attributes:
        description: what a user is told.
        rate: samples per second in the written file.
        packets: called with (this, output container, end of the video): adds the stream, gives its packets in order.
    """

    source: Source
    description: str
    rate: int
    packets: Callable[[SoundTrack, Any, Fraction], Packets]


def read_audio(source: Source, sampling_rate: int | None = None) -> Iterator[tuple[float, np.ndarray]]:
    """Blocks of sound in order: time of the first sample in seconds, and float32 `(channels, samples)` in -1..1.

    Time counts from the first video frame, so it is negative where the sound starts earlier; in a file of sound alone
    (WAV, MP3, also with a cover picture) it counts from where the sound starts. Blocks have the codec's size. A clip
    without sound, or a still image, gives no block. Packets that cannot be decoded are left out, and where the file
    breaks off the sound ends. Samples that are NaN or infinite, which float formats can hold, are read as 0; how many
    is logged as a warning, once for each source.

    Args:
        source: path or URL.
        sampling_rate: samples per second to resample to. Default: the file's own rate.

    Raises:
        FileNotFoundError, PermissionError, VideoError: as for `read_frames`; `VideoError` also for a sound that this
            build of FFmpeg cannot decode.
        ValueError: for a rate below 1.
    """
    if sampling_rate is not None and sampling_rate < 1:
        raise ValueError(f"sampling_rate must be at least 1, got {sampling_rate}")
    if read_still(source) is not None:
        return
    origin = _origin(source)
    with open_input(source) as container:
        stream = container.streams.best("audio")
        if stream is None:
            return
        if stream.codec_context is None:
            raise VideoError(f"the sound of {source} has a codec that cannot be decoded: convert it to AAC")
        for time, samples in _blocks(container, stream, origin, sampling_rate, None):
            yield float(time), samples


def read_samples(samples: Any, from_rate: int, sampling_rate: int) -> Iterator[tuple[float, np.ndarray]]:
    """What `read_audio` gives, for sound that is in memory: its channels are averaged, and it begins at time 0.

    Args:
        samples: `(n,)` or `(channels, n)`, floats in -1..1, int16 or int32.
        from_rate: their samples per second.
        sampling_rate: samples per second to resample to.

    Raises:
        ValueError: for sound of another shape or type, or with samples that are NaN or infinite.
    """
    sound = to_mono(samples)
    av = load_av()
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=sampling_rate)
    position = 0
    for start in range(0, len(sound), from_rate):  # a second at a time, so that no second copy of all is made
        frame = av.AudioFrame.from_ndarray(sound[None, start : start + from_rate], format="fltp", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = from_rate, Fraction(1, from_rate), start
        is_last = start + from_rate >= len(sound)
        for piece in resampler.resample(frame) + (resampler.resample(None) if is_last else []):
            yield position / sampling_rate, piece.to_ndarray()
            position += piece.samples


def sound_tracks(source: Source) -> tuple[list[SoundTrack], str | None]:
    """The ways to bring the sound of `source` into an MP4 file, best first, and why there is none."""
    try:
        if read_still(source) is not None:
            return [], None
        with open_input(source) as container:
            stream = container.streams.best("audio")
            if stream is None:
                return [], None
            codec = stream.codec_context
            if codec is None or not codec.sample_rate:
                return [], "the sound of the source cannot be decoded"
            rate = codec.sample_rate if codec.sample_rate in AAC_RATES else AAC_RATE
            tracks = [SoundTrack(source, f"encoded to AAC (source: {codec.name})", rate, _encoded)]
            if codec.name in COPIED_CODECS:
                tracks.insert(0, SoundTrack(source, "copied", codec.sample_rate, _copied))
            return tracks, None
    except (OSError, VideoError) as error:
        return [], str(error)


def _origin(source: Source) -> Fraction:
    """Time on the file's own clock that counts as 0."""
    with open_input(source) as container:
        stream = container.streams.best("video")
        if stream is None or stream.disposition & load_av().stream.Disposition.attached_pic:
            sound = container.streams.best("audio")
            # an MP3 file counts from before what its encoder adds in front, which players leave out
            return Fraction(0) if sound is None else (sound.start_time or 0) * sound.time_base
    return first_picture_time(source)


def _copied(track: SoundTrack, output: Any, end: Fraction) -> Packets:
    """The packets as they are, on the clock of the video."""
    origin = first_picture_time(track.source)
    with open_input(track.source) as container:
        stream = container.streams.best("audio")
        copy = output.add_stream_from_template(stream)
        copy.time_base = Fraction(1, track.rate)
        to_samples = stream.time_base * track.rate
        following: int | None = None  # where the next packet belongs if nothing is missing
        for packet in _packets(container, stream):
            position = (
                following if packet.pts is None else round((packet.pts * stream.time_base - origin) * track.rate)
            )
            if position is None:
                continue
            size = round((packet.duration or 0) * to_samples)
            if to_samples != 1:  # stamps are rounded, in Matroska to milliseconds: count samples instead
                size = stream.codec_context.frame_size or size
                if following is not None and abs(position - following) <= to_samples + 1:
                    position = following
            if position >= end * track.rate:
                break
            is_early = position + size <= -PREROLL_S * track.rate
            is_repeated = following is not None and position < following
            if is_early or is_repeated:
                continue
            following = position + size
            packet.stream = copy
            packet.time_base = copy.time_base
            packet.pts = packet.dts = position
            packet.duration = size
            yield Fraction(position, track.rate), packet
    if following is None:
        raise SoundError("the source has no sound while the video runs")


def _encoded(track: SoundTrack, output: Any, end: Fraction) -> Packets:
    """The sound as AAC, mono or stereo; gaps become silence, since the encoder knows no gaps."""
    av = load_av()
    origin = first_picture_time(track.source)
    with open_input(track.source) as container:
        stream = container.streams.best("audio")
        layout = "mono" if stream.codec_context.channels == 1 else "stereo"
        channels = 1 if layout == "mono" else 2
        encoder = output.add_stream("aac", rate=track.rate, layout=layout, bit_rate=AAC_BITS_PER_CHANNEL * channels)
        position: int | None = None
        for samples in _gapless(_blocks(container, stream, origin, track.rate, layout), track.rate, end):
            start, block = samples
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format="fltp", layout=layout)
            frame.sample_rate, frame.time_base, frame.pts = track.rate, Fraction(1, track.rate), start
            position = start + block.shape[1]
            for packet in encoder.encode(frame):
                yield packet.pts * packet.time_base, packet
        if position is None:
            raise SoundError("the sound of the source cannot be decoded, or there is none while the video runs")
        for packet in encoder.encode(None):
            yield packet.pts * packet.time_base, packet


def _gapless(
    blocks: Iterator[tuple[Fraction, np.ndarray]], rate: int, end: Fraction
) -> Iterator[tuple[int, np.ndarray]]:
    """Blocks that follow each other without gap or overlap from sample 0 or later to the end of the video."""
    following: int | None = None
    last = round(end * rate)
    for time, block in blocks:
        position = round(time * rate)
        if following is None:
            following = max(0, position)
        elif abs(position - following) <= JITTER_S * rate:
            position = following
        while position > following:  # in steps, so that a long gap takes no memory
            size = min(position - following, rate)
            yield following, np.zeros((block.shape[0], size), dtype=np.float32)
            following += size
        block = block[:, following - position :][:, : max(0, last - following)]
        if block.shape[1]:
            yield following, block
            following += block.shape[1]
        if following >= last:
            return


def _blocks(
    container: Any, stream: Any, origin: Fraction, rate: int | None, layout: str | None
) -> Iterator[tuple[Fraction, np.ndarray]]:
    """Decoded sound as float32 `(channels, samples)` with its time; rate and layout default to those of the start."""
    av = load_av()
    resampler, setup = None, None
    following = Fraction(0)
    for frame in _frames(container, stream):
        pieces: list[Any] = []
        found = None if frame is None else (frame.format.name, frame.layout.name, frame.sample_rate)
        if found != setup:  # the start, the end, or a change in the middle
            pieces += resampler.resample(None) if resampler is not None else []
            setup, resampler = found, None
        if frame is not None:
            layout, rate = layout or frame.layout.name, rate or frame.sample_rate
            resampler = resampler or av.AudioResampler(format="fltp", layout=layout, rate=rate)
            pieces += resampler.resample(frame)
        for piece in pieces:
            if piece.pts is not None:
                following = piece.pts * piece.time_base - origin
            yield following, piece.to_ndarray()
            following += Fraction(piece.samples, piece.sample_rate)


def _frames(container: Any, stream: Any) -> Iterator[Any]:
    """Decoded PyAV audio frames whose samples are numbers, then `None`."""
    error_class = load_av().FFmpegError
    num_errors, num_damaged = 0, 0
    try:
        for packet in _packets(container, stream, flush=True):
            try:
                for frame in stream.codec_context.decode(packet):
                    repaired, damaged = _repaired(frame)
                    num_damaged += damaged
                    yield repaired
            except error_class as error:
                num_errors += 1
                logger.debug("a packet of sound cannot be decoded: %s", error)
    finally:  # also where only the start of the sound is wanted
        _tell_damaged(container.name.removeprefix("file:"), num_damaged)
    if num_errors:
        logger.warning("%d packets of sound could not be decoded and were left out", num_errors)
    yield None


def _repaired(frame: Any) -> tuple[Any, int]:
    """The frame with 0 for samples that are no numbers, and how many those are.

    This comes before the resampler, which would spread each of them over its neighbours.
    """
    if frame.format.name not in FLOAT_FORMATS:
        return frame, 0
    samples = frame.to_ndarray()
    damaged = ~(np.abs(samples) < NO_SOUND_FROM)  # NaN is not below anything
    if not damaged.any():
        return frame, 0
    samples = np.where(damaged, samples.dtype.type(0), samples)
    repaired = load_av().AudioFrame.from_ndarray(samples, format=frame.format.name, layout=frame.layout.name)
    repaired.sample_rate, repaired.time_base, repaired.pts = frame.sample_rate, frame.time_base, frame.pts
    return repaired, int(damaged.sum())


def _tell_damaged(source: str, number: int) -> None:
    if number and source not in _told_sources:
        _told_sources.add(source)
        logger.warning(
            "%d samples of the sound of %s, counted over its channels, are NaN or infinite and are read as 0: there "
            "the sound is silent",
            *(number, source),
        )


def _packets(container: Any, stream: Any, *, flush: bool = False) -> Iterator[Any]:
    """Whole packets up to the end or break of the file; with `flush`, then the sign that empties the decoder."""
    try:
        for packet in container.demux(stream):
            if packet.is_corrupt:
                break
            if packet.size:
                yield packet
    except load_av().FFmpegError as error:
        logger.warning("the sound ends early: %s", ffmpeg_reason(error))
    if flush:
        yield None
