# SPDX-License-Identifier: Apache-2.0
"""Still images with the points that people looked at, from one prepared folder.

The folder holds `index.csv` (one line an image: id, dataset, split, file), `fixations.npz` (flat arrays over all
fixations: `ids` of the images, `image` = index into `ids`, `x` and `y` as fractions of width and height) and the
images themselves. The default model is trained on such a folder made of three public sets (OSIE, Crowd, Scene).
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from video_saliency.data.base import SaliencyItem
from video_saliency.data.dataset_info import DatasetInfo, Listing, SplitInfo
from video_saliency.data.frame_files import PictureFrames
from video_saliency.data.picture_files import picture_size
from video_saliency.data.truth_files import GaussianDensities

INDEX_COLUMNS = ("id", "dataset", "split", "file")
FIXATION_ARRAYS = ("ids", "image", "x", "y")


@dataclass(frozen=True)
class StillItem:
    """One image: its id, the set and part ("train" or "val") it belongs to, and its file."""

    id: str
    dataset: str
    split: str
    path: Path


class StillFixations:
    """The images of a folder, or of one part of it, with their fixations.

    Args:
        folder: as described at the top of this module.
        split: keep only this part, for instance `"train"`; `None` keeps all.
        datasets: keep only these sets, for instance to leave one out; `None` keeps all.

    Attributes:
        items: the `StillItem`s in the order of `index.csv`.

    Raises:
        ValueError: if the folder is not as expected, or nothing is left of it.
    """

    def __init__(self, folder: str | Path, *, split: str | None = None, datasets: Sequence[str] | None = None) -> None:
        self.folder = Path(folder)
        every_item = _read_index(self.folder)
        self.items = [
            item
            for item in every_item
            if split in (None, item.split) and (datasets is None or item.dataset in datasets)
        ]
        if not self.items:
            raise ValueError(
                f"{self.folder} has no image with split={split!r} and datasets={datasets!r}: it has "
                f"{sorted({(item.dataset, item.split) for item in every_item})}"
            )
        self._points = _read_points(self.folder, {item.id for item in every_item})

    def __len__(self) -> int:
        return len(self.items)

    def load_image(self, index: int) -> np.ndarray:
        """uint8 RGB, `(height, width, 3)`.

        Raises:
            ValueError: if the file is missing or not an image.
        """
        path = self.items[index].path
        try:
            with Image.open(path) as image:
                return np.array(image.convert("RGB"))
        except (FileNotFoundError, UnidentifiedImageError) as error:
            raise ValueError(f"cannot read the image {path}: restore the data folder") from error

    def relative_points_xy(self, index: int) -> np.ndarray:
        """Fixations as fractions of width and height, x first: float32 `(N, 2)`, 0 <= value < 1."""
        points: np.ndarray = self._points[self.items[index].id]
        return points

    def saliency_items(self) -> list[SaliencyItem]:
        """The images as `SaliencyItem`s, the densities computed from the fixations."""
        return [
            SaliencyItem(
                item.id,
                "stills",
                item.split,
                PictureFrames(item.path),
                GaussianDensities(),
                PreparedFixations(self.folder, item.id, item.path),
            )
            for item in self.items
        ]

    def fixation_points(self, index: int, size: tuple[int, int]) -> np.ndarray:
        """Fixations as pixels of a picture of `size` (height, width): int64 `(N, 2)`, (row, column)."""
        return _to_pixels(self.relative_points_xy(index), size)


@dataclass(frozen=True)
class PreparedFixations:
    """The fixations of one image of the folder.

    Attributes:
        folder: the prepared folder.
        image_id: id of the image in it.
        image_path: of the image, which tells the size.
    """

    folder: Path
    image_id: str
    image_path: Path
    kind = "prepared"

    @property
    def path(self) -> Path:
        return self.folder

    def size(self) -> tuple[int, int]:
        """Height and width of the image."""
        return picture_size(self.image_path)

    def load(self, index: int) -> np.ndarray | None:
        """int64 `(N, 2)`, (row, column). Only frame 0 has any."""
        if index:
            return None
        points = _cached_points(self.folder, (self.folder / "fixations.npz").stat().st_mtime_ns)[self.image_id]
        return _to_pixels(points, self.size())


def hash_folder(folder: str | Path) -> str:
    """SHA-256 over the names (relative, sorted) and contents of all files under `folder`, as hexadecimal digits."""
    folder = Path(folder)
    digest = hashlib.sha256()
    for name in sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()):
        content = (folder / name).read_bytes()
        # Lengths go in as well: otherwise a byte could move from a name to a content unnoticed.
        for part in (name.encode(), content):
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def read_stills(root: Path, split: str) -> Listing:
    """The images of a part of a prepared folder, `"all"` for all, in the order of its index."""
    stills = StillFixations(root, split=None if split == "all" else split)
    return Listing(stills.saliency_items())


def _to_pixels(points_xy: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(row, column) pixels, int64 `(N, 2)`, of fractions of width and height, x first."""
    points: np.ndarray = np.floor(points_xy[:, ::-1] * np.array(size)).astype(np.int64)
    return points


@lru_cache(maxsize=2)
def _cached_points(folder: Path, changed: int) -> dict[str, np.ndarray]:
    return _read_points(folder, set())


def _read_index(folder: Path) -> list[StillItem]:
    path = folder / "index.csv"
    if not path.is_file():
        raise ValueError(f"{path} is missing: pass the prepared folder with index.csv, fixations.npz and images/")
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = [column for column in INDEX_COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{path} lacks the columns {', '.join(missing)}: it needs {', '.join(INDEX_COLUMNS)}")
        return [StillItem(row["id"], row["dataset"], row["split"], folder / row["file"]) for row in reader]


def _read_points(folder: Path, expected_ids: set[str]) -> dict[str, np.ndarray]:
    path = folder / "fixations.npz"
    if not path.is_file():
        raise ValueError(f"{path} is missing: pass the prepared folder with index.csv, fixations.npz and images/")
    with np.load(path) as arrays:
        missing = [name for name in FIXATION_ARRAYS if name not in arrays.files]
        if missing:
            raise ValueError(f"{path} lacks the arrays {', '.join(missing)}: it needs {', '.join(FIXATION_ARRAYS)}")
        ids, image_of_point = arrays["ids"].tolist(), arrays["image"]
        points = np.stack([arrays["x"], arrays["y"]], axis=1).astype(np.float32)
    if unknown := expected_ids - set(ids):
        raise ValueError(f"{path} knows nothing of {len(unknown)} images of index.csv, for instance {min(unknown)}")
    if not ((points >= 0) & (points < 1)).all():
        raise ValueError(f"{path} has x or y outside 0 <= value < 1: they must be fractions of width and height")
    order = np.argsort(image_of_point, kind="stable")
    bounds = np.searchsorted(image_of_point[order], np.arange(len(ids) + 1))
    return {name: points[order[bounds[i] : bounds[i + 1]]] for i, name in enumerate(ids)}


STILLS = DatasetInfo(
    name="stills",
    title="a prepared folder of stills",
    publisher="",
    layout="index.csv, fixations.npz and images/, as examples/prepare_stills.py writes them",
    splits={"all": SplitInfo(None), "train": SplitInfo(None), "val": SplitInfo(None)},
    whole=("all",),
    read=read_stills,
    unit="images",
    has_densities=False,
    has_own_splits=True,
)
