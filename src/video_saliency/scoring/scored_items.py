# SPDX-License-Identifier: Apache-2.0
"""What the scorer needs of a data set's items, and stills scored on a grid of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from video_saliency.data.base import AnnotatedFrame
from video_saliency.data.dataset_info import DatasetInfo
from video_saliency.data.densities import fixation_density
from video_saliency.data.still_fixations import PreparedFixations, StillFixations
from video_saliency.sources import Source, open_source


class ScoredItem(Protocol):
    """A clip or still with its truth; `SaliencyItem` is one, and says what each member means."""

    @property
    def id(self) -> str: ...

    @property
    def dataset(self) -> str: ...

    @property
    def split(self) -> str: ...

    @property
    def num_frames(self) -> int: ...

    @property
    def size(self) -> tuple[int, int] | None: ...

    @property
    def scored_frames(self) -> tuple[int, ...] | None: ...

    @property
    def frame_files(self) -> Any: ...

    @property
    def density_files(self) -> Any: ...

    @property
    def fixation_files(self) -> Any: ...

    def frame_name(self, index: int) -> str: ...

    def frames(self, start: int = 0) -> Iterator[Any]: ...

    def source(self) -> Source: ...

    def annotations(self, start: int = 0, stop: int | None = None) -> Iterator[AnnotatedFrame]: ...

    def load_fixations(self, indices: Sequence[int]) -> Iterator[np.ndarray | None]: ...


@dataclass(frozen=True)
class StillAtSize:
    """A prepared still, scored on a grid of `size` (height, width): the fractions of its fixations fall on any grid.

    Attributes:
        stills: the folder's images.
        position: of this one.
        size: height and width of its truth.
    """

    stills: StillFixations
    position: int
    size: tuple[int, int]
    num_frames = 1
    scored_frames = None
    frame_files = None
    density_files = "gaussian"
    fixation_files = "prepared"

    @property
    def id(self) -> str:
        return self.stills.items[self.position].id

    @property
    def dataset(self) -> str:
        return self.stills.items[self.position].dataset

    @property
    def split(self) -> str:
        return self.stills.items[self.position].split

    def frame_name(self, index: int) -> str:
        """The image's id."""
        return self.id

    def frames(self, start: int = 0) -> Iterator[Any]:
        """The image as the only frame."""
        yield from self.source().frames()

    def source(self) -> Source:
        """The image as a clip of one frame."""
        return open_source(self.stills.load_image(self.position)[None])

    def annotations(self, start: int = 0, stop: int | None = None) -> Iterator[AnnotatedFrame]:
        """Fixations, and a Gaussian of a 24th of the height at each."""
        for index in range(self.num_frames)[start:stop]:
            points = self.stills.fixation_points(self.position, self.size)
            yield AnnotatedFrame(index, fixation_density(points, self.size).numpy(), points)

    def load_fixations(self, indices: Sequence[int]) -> Iterator[np.ndarray | None]:
        """The fixations, for each of the indices."""
        return (self.stills.fixation_points(self.position, self.size) for _ in indices)


def observers_of(item: ScoredItem, index: int) -> np.ndarray | None:
    """Who made each fixation of a frame, in the order of its points `(N,)`; `None` if the data set does not tell."""
    if isinstance(item, StillAtSize):
        folder, name = item.stills.folder, item.id
    elif isinstance(item.fixation_files, PreparedFixations):
        folder, name = item.fixation_files.folder, item.fixation_files.image_id
    else:
        return None
    observers = _read_observers(folder, (folder / "fixations.npz").stat().st_mtime_ns)
    return None if observers is None or index else observers[name]


@lru_cache(maxsize=2)
def _read_observers(folder: Path, changed: int) -> dict[str, np.ndarray] | None:
    """Observers by image, in the order that `StillFixations` has the points in; `None` if they are not there."""
    with np.load(folder / "fixations.npz") as arrays:
        if "observer" not in arrays.files:
            return None
        ids, image_of_point, observers = arrays["ids"].tolist(), arrays["image"], arrays["observer"]
    order = np.argsort(image_of_point, kind="stable")
    bounds = np.searchsorted(image_of_point[order], np.arange(len(ids) + 1))
    return {name: observers[order[bounds[i] : bounds[i + 1]]] for i, name in enumerate(ids)}


def training_split(info: DatasetInfo, split: str | None) -> str:
    """The split that a centre bias for a split is fitted to: `train`, or `train_1` for `test_1`.

    Raises:
        ValueError: if the data set has none.
    """
    fold = f"train_{split.rpartition('_')[2]}" if split else "train"
    for name in (fold, "train"):
        if name in info.splits:
            return name
    raise ValueError(
        f"{info.title} has no training part for split {split}, which a centre bias is fitted to: choose a split with "
        f"one ({', '.join(info.splits)}), or use centre_gaussian"
    )
