# SPDX-License-Identifier: Apache-2.0
"""Where the frames of a clip come from: a folder of numbered pictures, one picture, or a video file."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import numpy as np

from video_saliency.data.numbered_files import PICTURE_SUFFIXES, NumberedFiles, list_numbered
from video_saliency.data.picture_files import picture_size, read_picture
from video_saliency.data.video_seeking import index_video, read_header, read_pictures, resample_indices
from video_saliency.sources import Frame
from video_saliency.video_container import FALLBACK_FRAME_RATE
from video_saliency.video_io import DecodedFrame, picture_orientation, probe, read_frames


@dataclass(frozen=True)
class PictureFrame:
    """A frame that lies on disk as a picture of its own."""

    index: int
    time: Fraction
    path: Path

    @property
    def nbytes(self) -> int:
        """0: it keeps nothing in memory."""
        return 0

    def to_rgb(self) -> np.ndarray:
        """`(height, width, 3)` uint8, upright."""
        return read_picture(self.path)


@dataclass(frozen=True)
class RetimedFrame:
    """A frame of a video at its place in the same video at another rate."""

    index: int
    time: Fraction
    frame: DecodedFrame

    @property
    def nbytes(self) -> int:
        return self.frame.nbytes

    def to_rgb(self) -> np.ndarray:
        """`(height, width, 3)` uint8, upright."""
        return self.frame.to_rgb()


@dataclass(frozen=True)
class PictureFrames:
    """Frames in a folder of numbered pictures, or the only frame in a picture file.

    The frames are the pictures in the order of their numbers; frame 0 is the one with the smallest.

    Attributes:
        path: of the folder or file.
        frame_rate: frames per second, which pictures do not tell; 25 are taken where it is not known.
    """

    path: Path
    frame_rate: Fraction | None = None
    kind = "pictures"

    @property
    def files(self) -> NumberedFiles:
        return list_numbered(self.path, PICTURE_SUFFIXES)

    @property
    def num_frames(self) -> int:
        return len(self.files.names)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the first frame."""
        files = self.files
        if not files.names:
            raise ValueError(f"{self.path} holds no numbered pictures: copy or extract the frames again")
        return picture_size(files.folder / next(iter(files.names.values())))

    def stream(self, start: int = 0) -> Generator[Frame, None, None]:
        """The frames from `start` on."""
        files = self.files
        rate = self.frame_rate or FALLBACK_FRAME_RATE
        for index, name in enumerate(files.names.values()):
            if index >= start:
                yield PictureFrame(index, index / rate, files.folder / name)

    def load(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """uint8 RGB `(height, width, 3)` of the frames in the order given."""
        files = self.files
        names = list(files.names.values())
        return (read_picture(files.folder / names[index]) for index in indices)


@dataclass(frozen=True)
class VideoFrames:
    """Frames in a video file, at its own rate or at a constant `rate` as FFmpeg's `fps` filter would make it.

    Attributes:
        path: of the file.
        rate: frames per second wanted; `None` for the frames as they are.
    """

    path: Path
    rate: Fraction | None = None

    @property
    def kind(self) -> str:
        return "video" if self.rate is None else f"video@{self.rate}"

    @property
    def num_frames(self) -> int:
        return read_header(self.path).num_frames if self.rate is None else len(self._numbers)

    @property
    def frame_rate(self) -> Fraction | None:
        return self.rate or read_header(self.path).frame_rate

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, upright. Decodes a frame, since only frames tell how they are turned."""
        info = probe(self.path)
        return info.height, info.width

    @cached_property
    def _numbers(self) -> list[int]:
        """Number of the file's frame for each frame at `rate`."""
        own_rate = read_header(self.path).frame_rate
        times = index_video(self.path).times(own_rate)
        return resample_indices(times, self.rate or FALLBACK_FRAME_RATE, 1 / (own_rate or FALLBACK_FRAME_RATE))

    def stream(self, start: int = 0) -> Generator[Frame, None, None]:
        """The frames from `start` on; those before are decoded, too."""
        with contextlib.closing(self._every_frame()) as frames:
            for frame in frames:
                if frame.index >= start:
                    yield frame

    def _every_frame(self) -> Generator[Frame, None, None]:
        if self.rate is None:
            yield from read_frames(self.path)
            return
        position = 0
        for frame in read_frames(self.path):
            while position < len(self._numbers) and self._numbers[position] == frame.index:
                yield RetimedFrame(position, position / self.rate, frame)
                position += 1

    def load(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """uint8 RGB `(height, width, 3)` of the frames in the order given; each is decoded once."""
        numbers = list(indices) if self.rate is None else [self._numbers[index] for index in indices]
        pictures = {
            number: DecodedFrame(
                picture, number, Fraction(0), picture_orientation(picture), (picture.width, picture.height)
            ).to_rgb()
            for number, picture in read_pictures(self.path, numbers)
        }
        return (pictures[number] for number in numbers)


FrameFiles = PictureFrames | VideoFrames
