# SPDX-License-Identifier: Apache-2.0
"""One type for everything that people looked at: a clip or a still with its frames, densities, fixations and sound.

Nothing is read before it is asked for: an item holds paths. Frames, densities and fixations are numbered from 0 and
belong together by that number; files are matched by the number in their names.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from video_saliency.audio_io import read_audio
from video_saliency.data.densities import fixated_points, fixation_density
from video_saliency.data.frame_files import FrameFiles, PictureFrames, VideoFrames
from video_saliency.data.truth_files import (
    Densities,
    Fixations,
    GaussianDensities,
    MaskFiles,
    PictureDensities,
    PointListFile,
    VideoDensities,
)
from video_saliency.sources import Frame, Source
from video_saliency.video_container import FALLBACK_FRAME_RATE

NAMED_IN_MESSAGES = 5  # numbers or names that a message lists before it says how many more there are


@dataclass(frozen=True)
class AnnotatedFrame:
    """What is known about one frame.

    Attributes:
        frame_index: 0-based number of the frame.
        density: `(height, width)` in the depth of its file (uint8, uint16; float32 if computed), any scale; `None` if
            the frame has none.
        fixations: as the data set gives them: a mask, bool `(height, width)`, or (row, column) pairs, int64 `(N, 2)`,
            repeated ones kept; `None` if it is not known who looked where, as opposed to an empty mask or list.
    """

    frame_index: int
    density: np.ndarray | None
    fixations: np.ndarray | None

    @property
    def has_density(self) -> bool:
        """Whether there is a density that is not zero everywhere."""
        return self.density is not None and bool(self.density.any())

    @property
    def has_fixations(self) -> bool:
        """Whether anybody is known to have fixated something."""
        return self.fixations is not None and bool(len(fixated_points(self.fixations)))


@dataclass(frozen=True)
class SaliencyItem:
    """A clip, or a still as a clip of one frame, with what people looked at.

    Attributes:
        id: name, unique in its data set.
        dataset: name of the data set, as in `DATASETS`.
        split: part of the data set, such as `"val"`.
        frame_files: where the frames are; `None` if only the truth is there.
        density_files: where the densities are; `None` if there are none.
        fixation_files: where the fixations are; `None` if there are none.
        audio_path: file with the sound, the video itself if that may have sound; `None` if there is none.
        clip: the clip that this is a part of; empty if it is not.
        max_frames: the item ends after so many frames, however long its files are; `None` for all.
        scored_frames: numbers of the frames that count in scores; `None` for all.
    """

    id: str
    dataset: str
    split: str
    frame_files: FrameFiles | None = None
    density_files: Densities | None = None
    fixation_files: Fixations | None = None
    audio_path: Path | None = None
    clip: str = ""
    max_frames: int | None = None
    scored_frames: tuple[int, ...] | None = None

    @cached_property
    def num_frames(self) -> int:
        """Frames of the item. Lists folders or reads the header of the video, and decodes nothing."""
        return len(self._numbers)

    @property
    def frame_indices(self) -> range:
        """The numbers of all frames, from 0."""
        return range(self.num_frames)

    @property
    def frame_rate(self) -> Fraction | None:
        """Average frames per second; `None` for a still, or if it is not known."""
        return None if self.frame_files is None else self.frame_files.frame_rate

    def frame_time(self, index: int) -> Fraction:
        """Seconds of a frame at the average rate, 25 if that is not known. `frames` has the exact times of videos."""
        return index / (self.frame_rate or FALLBACK_FRAME_RATE)

    def frame_name(self, index: int) -> str:
        """Name without suffix of a frame in the data set, `"0001"` for instance, as predictions for it are called.

        That of the frame's picture, else of its density's or mask's; else its number from 1 with five digits.
        """
        for files in (self.frame_files, self.density_files, self.fixation_files):
            if isinstance(files, PictureFrames | PictureDensities | MaskFiles):
                path = files.files.path(self._number_in(files, index))
                if path is not None:
                    return path.stem
        return f"{index + 1:05d}"

    @cached_property
    def frame_size(self) -> tuple[int, int] | None:
        """Height and width of the frames; `None` without frames."""
        return None if self.frame_files is None else self.frame_files.size

    @cached_property
    def size(self) -> tuple[int, int] | None:
        """Height and width of the truth: of the densities, else of the masks, else of the frames; `None` if unknown.

        (row, column) fixations are pixels of this grid.
        """
        for files in (self.density_files, self.fixation_files):
            if files is not None and not isinstance(files, GaussianDensities):
                found = files.size()
                if found is not None:
                    return found
        return self.frame_size

    def source(self) -> Source:
        """The frames as a video for `VideoSaliencyPredictor.stream` and `open_source`, with their sound if there is.

        Raises:
            ValueError: if there are no frames.
        """
        self._checked_frames()
        sound = None if self.audio_path is None else partial(read_audio, self.audio_path)
        return Source(self.frames, self.num_frames, self.frame_size, sound=sound)

    def frames(self, start: int = 0) -> Iterator[Frame]:
        """The frames in order from `start` on, each read when its picture is asked for.

        Raises:
            ValueError: if there are no frames.
            TruncatedVideoError: after the last good frame, if the video ends early.
        """
        with contextlib.closing(self._checked_frames().stream(start)) as frames:
            for frame in frames:
                if self.max_frames is not None and frame.index >= self.max_frames:
                    return
                yield frame
                if frame.index + 1 == self.max_frames:
                    return

    def annotations(self, start: int = 0, stop: int | None = None) -> Iterator[AnnotatedFrame]:
        """Density and fixations of the frames `start` to `stop` (the end) in order, one at a time.

        Raises:
            ValueError: for damaged files, or points outside the frame.
        """
        indices = self.frame_indices[start:stop]
        for index, density, fixations in zip(
            indices, self._stream_densities(indices), self.load_fixations(indices), strict=True
        ):
            yield AnnotatedFrame(index, density, fixations)

    def load_frames(self, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """uint8 RGB `(height, width, 3)` of the given frames, in the order given; in a video they are sought.

        Raises:
            ValueError: if there are no frames.
            IndexError: for a number beyond the clip.
        """
        return self._checked_frames().load([self._checked(index) for index in indices])

    def load_densities(self, indices: Sequence[int]) -> Iterator[np.ndarray | None]:
        """The densities of the given frames, see `AnnotatedFrame`, in the order given; in a video they are sought.

        Raises:
            IndexError: for a number beyond the clip.
            ValueError: for damaged files.
        """
        checked = [self._checked(index) for index in indices]
        if isinstance(self.density_files, VideoDensities):
            found = self.density_files.load(checked)
            return (found.get(index) for index in checked)
        return self._each_density(checked)

    def load_fixations(self, indices: Sequence[int]) -> Iterator[np.ndarray | None]:
        """The fixations of the given frames, see `AnnotatedFrame`, in the order given.

        Raises:
            IndexError: for a number beyond the clip.
            ValueError: for damaged files, or points outside the frame.
        """
        return (self._fixations(self._checked(index)) for index in indices)

    def unmatched(self) -> list[str]:
        """One line for each kind of truth that does not fit the frames: frames without, and files without a frame."""
        lines = []
        for what, files in (("density", self.density_files), ("fixation mask", self.fixation_files)):
            if isinstance(files, PictureDensities | MaskFiles):
                lines += self._unmatched_numbers(what, files)
            elif isinstance(files, VideoDensities) and files.num_frames() < self.num_frames:
                lines.append(f"{self.id}: the density video has {files.num_frames()} frames of {self.num_frames}")
        return lines

    def _unmatched_numbers(self, what: str, files: PictureDensities | MaskFiles) -> list[str]:
        expected = self._numbers_in(files)
        without = sorted(set(expected) - files.files.names.keys())
        beyond = sorted(files.files.names.keys() - set(expected)) if self.max_frames is None else []
        lines = [f"{self.id}: no {what} for {len(without)} frames ({listed(without)})"] if without else []
        if beyond:
            lines.append(f"{self.id}: no frame for {len(beyond)} files of {what} ({listed(beyond)})")
        return lines

    def num_matched(self, files: Densities | Fixations | None) -> int:
        """How many of the frames have an entry in `files`; all of them for a file that covers the whole clip."""
        if files is None:
            return 0
        if isinstance(files, PictureDensities | MaskFiles):
            names = files.files.names
            return sum(number in names for number in self._numbers_in(files))
        return min(self.num_frames, files.num_frames()) if isinstance(files, VideoDensities) else self.num_frames

    @cached_property
    def _every_number(self) -> Sequence[int]:
        """The number in its file names of each frame, those beyond `max_frames` as well."""
        if isinstance(self.frame_files, PictureFrames):
            return self.frame_files.files.numbers
        if self.frame_files is not None:
            return range(1, self.frame_files.num_frames + 1)
        for files in (self.density_files, self.fixation_files):
            if isinstance(files, PictureDensities | MaskFiles):
                return files.files.numbers
            if isinstance(files, VideoDensities | PointListFile):
                return range(1, files.num_frames() + 1)
        return ()

    @property
    def _numbers(self) -> Sequence[int]:
        return self._every_number[: self.max_frames]

    def _shift(self, numbers: Sequence[int]) -> int:
        """What to add to a frame's number for its number in a folder: folders may count from 0 or from 1."""
        own = self._every_number
        if not own or not numbers or {own[0], numbers[0]} != {0, 1}:
            return 0
        shift = numbers[0] - own[0]
        # pictures that begin one apart are the same frames only if they end one apart as well
        is_same = isinstance(self.frame_files, VideoFrames) or numbers[-1] - own[-1] == shift
        return shift if is_same else 0

    def _number_in(self, files: PictureFrames | PictureDensities | MaskFiles, index: int) -> int:
        return self._every_number[index] + self._shift(files.files.numbers)

    def _numbers_in(self, files: PictureDensities | MaskFiles) -> list[int]:
        shift = self._shift(files.files.numbers)
        return [number + shift for number in self._numbers]

    def _stream_densities(self, indices: range) -> Iterator[np.ndarray | None]:
        if not isinstance(self.density_files, VideoDensities):
            return self._each_density(indices)
        return self._pad(self.density_files, indices)

    @staticmethod
    def _pad(files: VideoDensities, indices: range) -> Iterator[np.ndarray | None]:
        with contextlib.closing(files.stream()) as maps:
            endless = itertools.chain(maps, itertools.repeat(None))
            yield from itertools.islice(endless, indices.start, indices.stop)

    def _each_density(self, indices: Iterable[int]) -> Iterator[np.ndarray | None]:
        files = self.density_files
        for index in indices:
            if isinstance(files, PictureDensities):
                yield files.load(self._number_in(files, index))
            elif isinstance(files, GaussianDensities):
                yield self._computed_density(index, files.sigma)
            else:
                yield None

    def _computed_density(self, index: int, sigma: float | None) -> np.ndarray | None:
        fixations = self._fixations(index)
        if fixations is None or self.size is None:
            return None
        density: np.ndarray = fixation_density(fixated_points(fixations), self.size, sigma=sigma).numpy()
        return density

    def _fixations(self, index: int) -> np.ndarray | None:
        files = self.fixation_files
        if files is None:
            return None
        if isinstance(files, MaskFiles):
            return files.load(self._number_in(files, index))
        points = files.load(index)
        if points is not None and len(points):
            self._check_points(points, index)
        return points

    def _check_points(self, points: np.ndarray, index: int) -> None:
        if self.size is None or (points.min() >= 0 and (points.max(axis=0) < self.size).all()):
            return
        is_swapped = points.min() >= 0 and bool((points.max(axis=0) < self.size[::-1]).all())
        hint = "rows and columns are mixed up" if is_swapped else "the file belongs to another clip or size"
        raise ValueError(
            f"{self.id}, frame {index}: a fixation lies outside the {self.size[0]} x {self.size[1]} (height x width) "
            f"frame; {hint}, restore the data set's own file"
        )

    def _checked(self, index: int) -> int:
        if not 0 <= index < self.num_frames:
            raise IndexError(f"{self.id} has the frames 0 to {self.num_frames - 1}, not {index}")
        return index

    def _checked_frames(self) -> FrameFiles:
        if self.frame_files is None:
            raise ValueError(f"{self.id} of {self.dataset} has no frames: only its maps and fixations were found")
        return self.frame_files


def listed(things: Sequence[Any]) -> str:
    """The first few with commas between, and how many more there are."""
    shown = ", ".join(str(thing) for thing in things[:NAMED_IN_MESSAGES])
    more = len(things) - NAMED_IN_MESSAGES
    return f"{shown} and {more} more" if more > 0 else shown
