# SPDX-License-Identifier: Apache-2.0
"""Where the truth of a clip lies: densities and fixations, frame by frame.

A source is either numbered (a folder of files with the frame's number in their names) or in order (one file for the
whole clip, entry 0 belongs to frame 0). All hold a path only and read when asked.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np

from video_saliency.data.mat_files import read_field, read_mask, read_variables
from video_saliency.data.numbered_files import PICTURE_SUFFIXES, NumberedFiles, holds_files, list_numbered
from video_saliency.data.picture_files import picture_size, read_map, read_picture_mask
from video_saliency.data.video_seeking import read_header, read_value_maps, stream_value_maps

MAT_SUFFIXES = (".mat",)


@dataclass(frozen=True)
class PictureDensities:
    """A folder of numbered density pictures, or the picture of a still."""

    path: Path
    kind = "pictures"

    @property
    def files(self) -> NumberedFiles:
        return list_numbered(self.path, PICTURE_SUFFIXES)

    def size(self) -> tuple[int, int] | None:
        """Height and width of the first picture; `None` if the folder is empty."""
        files = self.files
        name = next(iter(files.names.values()), None)
        return None if name is None else picture_size(files.folder / name)

    def load(self, number: int) -> np.ndarray | None:
        """uint8 or uint16 `(height, width)`; `None` if there is no picture of that number."""
        path = self.files.path(number)
        return None if path is None else read_map(path)


@dataclass(frozen=True)
class VideoDensities:
    """A video of density maps, of 8 or more bits."""

    path: Path
    kind = "video"

    def num_frames(self) -> int:
        return read_header(self.path).num_frames

    def size(self) -> tuple[int, int]:
        """Height and width."""
        return read_header(self.path).size

    def stream(self) -> Generator[np.ndarray, None, None]:
        """The maps of all frames in order, see `video_seeking.picture_values`."""
        return stream_value_maps(self.path)

    def load(self, indices: Sequence[int]) -> dict[int, np.ndarray]:
        """The maps of some frames by their number, found by seeking; those beyond the end are left out."""
        num_frames = self.num_frames()
        return dict(read_value_maps(self.path, [index for index in indices if index < num_frames]))


@dataclass(frozen=True)
class GaussianDensities:
    """Densities computed from the fixations: a Gaussian at each.

    Attributes:
        sigma: in pixels; `None` for a 24th of the height.
    """

    sigma: float | None = None

    @property
    def kind(self) -> str:
        return "gaussian" if self.sigma is None else f"gaussian@{self.sigma:g}"


@dataclass(frozen=True)
class MaskFiles:
    """A folder of numbered fixation masks, pictures or else MATLAB files, or the mask of a still."""

    path: Path
    kind = "masks"

    @property
    def files(self) -> NumberedFiles:
        pictures = list_numbered(self.path, PICTURE_SUFFIXES)
        return pictures if pictures.names else list_numbered(self.path, MAT_SUFFIXES)

    def size(self) -> tuple[int, int] | None:
        """Height and width of the first mask; `None` if the folder is empty."""
        files = self.files
        if not files.names:
            return None
        number, name = next(iter(files.names.items()))
        if Path(name).suffix.lower() not in MAT_SUFFIXES:
            return picture_size(files.folder / name)
        mask = self.load(number)
        return None if mask is None else (mask.shape[0], mask.shape[1])

    def load(self, number: int) -> np.ndarray | None:
        """bool `(height, width)`; `None` if there is no mask of that number."""
        path = self.files.path(number)
        if path is None:
            return None
        return read_mask(path) if path.suffix.lower() in MAT_SUFFIXES else read_picture_mask(path)


@dataclass(frozen=True)
class PointListFile:
    """A JSON file: a list over frames of lists of [row, column] pixels; repeated points are kept."""

    path: Path
    kind = "points"

    def size(self) -> None:
        """`None`: the list does not tell."""
        return None

    def load(self, index: int) -> np.ndarray | None:
        """int64 `(N, 2)`, (row, column); `None` beyond the last entry."""
        points, bounds = _read_point_lists(self.path, self.path.stat().st_mtime_ns)
        if index >= len(bounds) - 1:
            return None
        return points[bounds[index] : bounds[index + 1]].astype(np.int64)

    def num_frames(self) -> int:
        """Frames that the file lists. Reads it."""
        return len(_read_point_lists(self.path, self.path.stat().st_mtime_ns)[1]) - 1


@dataclass(frozen=True)
class LedovFixations:
    """The `Data.mat` of a LEDOV clip: fixations with start and duration, put on the frames that they last over.

    A fixation covers the frames `ceil(t / dt)` to `ceil((t + d) / dt)`, counted from 1, as in the LEDOV scorer.

    Attributes:
        path: of the file.
        rate: frames per second; `None` for the clip's own.
    """

    path: Path
    rate: Fraction | None = None

    @property
    def kind(self) -> str:
        return "ledov" if self.rate is None else f"ledov@{self.rate}"

    def size(self) -> tuple[int, int]:
        """Height and width of the video."""
        return _read_ledov(self.path, self.path.stat().st_mtime_ns)[1]

    def load(self, index: int) -> np.ndarray:
        """int64 `(N, 2)`, (row, column); points outside the frame are left out."""
        fixations, (height, width), own_rate = _read_ledov(self.path, self.path.stat().st_mtime_ns)
        step = 1000 / float(self.rate or own_rate)
        start, duration, x, y = fixations[:, 1:5].T
        first, last = np.ceil(start / step).clip(min=1), np.ceil((start + duration) / step)
        is_shown = (first <= index + 1) & (index + 1 <= last)
        return _inside(np.stack([y, x], axis=1)[is_shown] - 1, (height, width))


@dataclass(frozen=True)
class SaliconFixations:
    """The MATLAB file of a SALICON image: the fixations of all subjects."""

    path: Path
    kind = "salicon"

    def size(self) -> tuple[int, int]:
        """Height and width of the image."""
        return _read_salicon(self.path)[1]

    def load(self, index: int) -> np.ndarray | None:
        """int64 `(N, 2)`, (row, column); points outside the image are left out. Only frame 0 has any."""
        if index:
            return None
        points, size = _read_salicon(self.path)
        return _inside(points - 1, size)


class PointSource(Protocol):
    """Fixations as points, for all frames of an item."""

    @property
    def path(self) -> Path: ...

    @property
    def kind(self) -> str: ...

    def size(self) -> tuple[int, int] | None:
        """Height and width of the frame that the points lie in, if the source tells."""

    def load(self, index: int) -> np.ndarray | None:
        """int64 `(N, 2)`, (row, column), of a frame; `None` if the source does not cover it."""


Densities = PictureDensities | VideoDensities | GaussianDensities
Fixations = MaskFiles | PointSource


def find_masks(folder: Path) -> MaskFiles | None:
    """The masks in `folder`: pictures, else MATLAB files in `folder/maps` or in `folder` itself; else `None`."""
    for candidate, suffixes in ((folder, PICTURE_SUFFIXES), (folder / "maps", MAT_SUFFIXES), (folder, MAT_SUFFIXES)):
        if holds_files(candidate, suffixes):
            return MaskFiles(candidate)
    return None


def _inside(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The nearest pixels of (row, column) points `(N, 2)` that lie in a frame of `size`, int64."""
    pixels = np.floor(points + 0.5).astype(np.int64)
    is_inside = ((pixels >= 0) & (pixels < size)).all(axis=1)
    inside: np.ndarray = pixels[is_inside]
    return inside


@lru_cache(maxsize=4)  # the clip at hand and a few before it: the lists of a whole data set would not fit
def _read_point_lists(path: Path, changed: int) -> tuple[np.ndarray, np.ndarray]:
    """All points `(N, 2)` int32, and where each frame's begin `(frames + 1,)`."""
    try:
        frames = json.loads(path.read_bytes())
        counts = [len(points) for points in frames]
        flat = [pair for points in frames for pair in points]
        points = np.array(flat, dtype=np.float64) if flat else np.zeros((0, 2))
        if points.shape != (len(flat), 2):
            raise ValueError(f"points of shape {points.shape[1:]}")
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is not a list over frames of lists of [row, column] points: copy or download it again"
        ) from error
    if (points != np.floor(points)).any() or not np.isfinite(points).all():
        raise ValueError(f"{path} has points that are no whole pixels: expected [row, column] pixel indices")
    return points.astype(np.int32), np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


@lru_cache(maxsize=16)
def _read_ledov(path: Path, changed: int) -> tuple[np.ndarray, tuple[int, int], Fraction]:
    """Rows (subject, start ms, duration ms, x, y) from 1, height and width, frames per second."""
    fixations = read_field(path, "Data", "fixdata")
    if fixations.ndim != 2 or fixations.shape[1] < 5:
        raise ValueError(f"{path}: Data.fixdata has the shape {fixations.shape}, expected (fixations, 5)")
    width, height = read_field(path, "Data", "VideoSize").ravel()[:2]
    rate = read_field(path, "Data", "VideoFrameRate").ravel()[0]
    return fixations, (int(height), int(width)), Fraction(float(rate)).limit_denominator(100_000)


def _read_salicon(path: Path) -> tuple[np.ndarray, tuple[int, int]]:
    """(row, column) points `(N, 2)` from 1, and height and width."""
    variables = read_variables(path)
    if "gaze" not in variables or "resolution" not in variables:
        raise ValueError(f"{path} has no variables gaze and resolution: it is not a SALICON file")
    height, width = np.sort(np.asarray(variables["resolution"], dtype=np.float64).ravel()[:2])  # all are landscape
    gaze = variables["gaze"]
    subjects = list(np.ravel(gaze["fixations"])) if isinstance(gaze, dict) else [s.fixations for s in np.ravel(gaze)]
    points = [np.asarray(subject, dtype=np.float64).reshape(-1, 2)[:, ::-1] for subject in subjects]
    return np.concatenate([np.zeros((0, 2)), *points]), (int(height), int(width))
