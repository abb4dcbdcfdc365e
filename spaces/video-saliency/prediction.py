# SPDX-License-Identifier: Apache-2.0
"""What the Space does with a clip, without the page around it: limits, the overlay, and files to take home."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from video_saliency.map_io import MapShardWriter
from video_saliency.predictor import SaliencyFrame, VideoSaliencyPredictor
from video_saliency.reports.tables import CsvWriter, FrameStatistics, frame_statistics
from video_saliency.video_io import TruncatedVideoError, VideoError, VideoInfo, probe, write_video
from video_saliency.visualization import overlay

# Most seconds of one core for a frame, and for a million pixels of it, with all that `predict_clip` does: a quarter or
# more above the CPU time that it took with the default model and one thread, on 2 shared cores of x86_64, torch
# 2.13.0+cpu: 0.052 s at 640 x 480, 0.076 s at 1280 x 720, 0.12 s at 1280 x 1280, 0.13 s at 1920 x 1080.
FRAME_S, MEGAPIXEL_S = 0.05, 0.06
LEASE_START_S = 10.0  # until a lent GPU holds the model: our choice


class ClipError(ValueError):
    """What is wrong with a clip, in words for the visitor: a remedy, and no path of the server."""


@dataclass(frozen=True)
class Limits:
    """What a clip may be at most, so that everybody in the queue gets a turn.

    `lease_s` is for how many seconds a GPU is lent at most: a clip has to be done by then.
    """

    seconds: float = 60.0
    frames: int = 2000
    long_side: int = 1920
    megabytes: float = 100.0
    lease_s: float = math.inf

    def describe(self) -> str:
        size = f"{self.long_side} pixels a side and {self.megabytes:g} MB"
        return f"up to {self.seconds:g} seconds, {self.frames} frames, {size}"

    def frames_of(self, info: VideoInfo) -> int:
        """How many frames of a clip are done within the lease, `frames` at most."""
        if math.isinf(self.lease_s):
            return self.frames
        return min(self.frames, int((self.lease_s - LEASE_START_S) / _frame_seconds(info)))

    def lease_of(self, info: VideoInfo) -> int:
        """For how many seconds a GPU has to be lent for a clip; a recording of unknown length may be the longest."""
        most = self.frames_of(info)
        return math.ceil(LEASE_START_S + min(info.num_frames or most, most) * _frame_seconds(info))


LIMITS_ON_LENT_GPU = Limits(seconds=20.0, frames=600, lease_s=120.0)  # 600 frames of 1920 x 1080 take 115 s


def _frame_seconds(info: VideoInfo) -> float:
    return FRAME_S + MEGAPIXEL_S * info.width * info.height / 1e6


@dataclass
class Prediction:
    """What came out of a clip.

    Attributes:
        overlay: the clip under its heat map, with its sound.
        csv: a row for each frame.
        maps: float maps of all frames at the model's size, a ZIP of NPZ files.
        shards: first frame and path of each of these NPZ files.
        times: of the frames, in seconds.
        statistics: of the frames.
        size: `(height, width)` of the clip.
        notes: what the user should know.
    """

    overlay: Path
    csv: Path
    maps: Path
    size: tuple[int, int]
    shards: list[tuple[int, Path]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    statistics: list[FrameStatistics] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def map_of_frame(self, index: int) -> np.ndarray:
        """`(height, width)` float32 at the model's size and scale."""
        first, path = max(shard for shard in self.shards if shard[0] <= index)
        with np.load(path) as arrays:
            saliency_map: np.ndarray = arrays["saliency_maps"][index - first]
        return saliency_map


def check_clip(path: Path, limits: Limits) -> VideoInfo:
    """What a clip is. Raises `ClipError` with the remedy if it is no video, or beyond the limits."""
    megabytes = path.stat().st_size / 1e6
    if megabytes > limits.megabytes:
        raise ClipError(f"This file has {megabytes:.0f} MB. Please keep it below {limits.megabytes:g} MB.")
    try:
        info = probe(path)
    except (VideoError, OSError) as error:
        raise ClipError(
            "This is not a video that can be read. Please upload an MP4, WebM, MOV or MKV file."
        ) from error
    if info.duration_s is not None and info.duration_s > limits.seconds:
        raise ClipError(
            f"This clip lasts {info.duration_s:.0f} seconds. Please cut it to {limits.seconds:g} seconds or less."
        )
    if info.num_frames is not None and info.num_frames > limits.frames:
        raise ClipError(
            f"This clip has {info.num_frames} frames. Please cut it to {limits.frames} frames or less, or lower its "
            "frame rate."
        )
    if max(info.width, info.height) > limits.long_side:
        raise ClipError(
            f"This clip has {info.width} x {info.height} pixels. Please scale it down to {limits.long_side} pixels a "
            "side or less."
        )
    most = limits.frames_of(info)
    if info.num_frames is not None and info.num_frames > most:
        raise ClipError(
            f"This clip has {info.num_frames} frames of {info.width} x {info.height} pixels, too much for one turn on "
            f"the shared GPU. Please cut it to {most} frames or less, or scale it down."
        )
    return info


def predict_clip(
    path: Path,
    predictor: VideoSaliencyPredictor,
    folder: Path,
    *,
    hears: bool = False,
    limits: Limits | None = None,
    tell: Callable[[int, int | None], None] | None = None,
) -> Prediction:
    """Write all results of a clip into `folder`.

    Args:
        path: the clip.
        predictor: of the chosen model.
        folder: an empty folder.
        hears: whether the sound is given to a model that takes it.
        limits: of the clip.
        tell: called with the frames done and the frames in all, if known.

    Raises:
        ClipError: for something that is not a video, or one beyond the limits.
    """
    limits = limits or Limits()
    info = check_clip(path, limits)
    limits = replace(limits, frames=limits.frames_of(info))
    result = Prediction(
        folder / "overlay.mp4", folder / "saliency.csv", folder / "maps.zip", (info.height, info.width)
    )
    shards = MapShardWriter(folder / "maps")
    options = {"audio": "on" if hears else "off"} if predictor.audio_spec is not None else {}
    try:
        stream = predictor.stream(path, with_frames=True, **options)
        with CsvWriter(result.csv) as table, closing(stream):
            frames = _recorded(stream, result, limits, shards, table)
            sound = write_video(
                result.overlay,
                _told(frames, info.num_frames, tell),
                time_base=info.time_base,
                frame_rate=info.frame_rate,
                audio_from=path,
            )
    except VideoError as error:
        raise ClipError(
            "This video cannot be read: the file seems to be damaged or cut. Please upload it again, or another copy."
        ) from error
    shards.flush()
    result.shards = [(int(shard.stem.split("-")[1]), shard) for shard in sorted((folder / "maps").glob("*.npz"))]
    with zipfile.ZipFile(result.maps, "w") as archive:  # maps do not get smaller by compression
        for _, shard in result.shards:
            archive.write(shard, shard.name)
    counted = f"{len(result.times)} frame" + "s" * (len(result.times) != 1)
    result.notes.insert(0, f"{counted} of {info.width} x {info.height} pixels, {_heard(sound, info)}.")
    return result


def _heard(sound: str, info: VideoInfo) -> str:
    """What became of the sound, for the visitor; `sound` is what `write_video` says."""
    if not sound.startswith("none"):
        return "with sound"
    return "but the sound could not be kept" if info.has_audio else "without sound"


def _recorded(
    stream: Iterator[SaliencyFrame], result: Prediction, limits: Limits, shards: MapShardWriter, table: CsvWriter
) -> Iterator[tuple[np.ndarray, Fraction]]:
    """The overlays of a stream; all else that is kept of its frames is written on the way."""
    try:
        for frame in stream:
            # live recordings do not say how long they are
            if frame.frame_index >= limits.frames:
                result.notes.append(f"Only the first {limits.frames} frames were used.")
                return
            if frame.time_s > limits.seconds:
                result.notes.append(f"Only the first {limits.seconds:g} seconds were used.")
                return
            statistics = frame_statistics(frame.model_map, frame.source_size)
            table.write(frame.frame_index, frame.time_s, statistics)
            shards.write(frame.frame_index, frame.time_s, frame.model_map.numpy())
            result.times.append(frame.time_s)
            result.statistics.append(statistics)
            if frame.frame is not None:
                yield overlay(frame.frame.to_rgb(), frame.display_map()), frame.time
    except TruncatedVideoError:
        result.notes.append("The file ends early: these are the frames that could be read.")


def _told(
    frames: Iterator[tuple[np.ndarray, Fraction]], total: int | None, tell: Callable[[int, int | None], None] | None
) -> Iterator[tuple[np.ndarray, Fraction]]:
    for done, frame in enumerate(frames, start=1):
        if tell is not None:
            tell(done, total)
        yield frame
