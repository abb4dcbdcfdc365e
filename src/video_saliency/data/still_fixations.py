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
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

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

    def fixation_points(self, index: int, size: tuple[int, int]) -> np.ndarray:
        """Fixations as pixels of a picture of `size` (height, width): int64 `(N, 2)`, (row, column)."""
        height, width = size
        pixels = np.floor(self.relative_points_xy(index)[:, ::-1] * np.array([height, width]))
        points: np.ndarray = pixels.astype(np.int64)
        return points


def fixation_density(points: np.ndarray, size: tuple[int, int], *, sigma: float | None = None) -> torch.Tensor:
    """Density of fixations: a Gaussian at each, float32 `(height, width)` with sum 1 (all zero without fixations).

    Args:
        points: int `(N, 2)`, (row, column) pixels inside `size`.
        size: (height, width).
        sigma: of the Gaussian in pixels; by default a 24th of the height, about one degree of visual angle in the
            sets that this reads.
    """
    height, width = size
    sigma = height / 24 if sigma is None else sigma
    counts = np.bincount(points[:, 0] * width + points[:, 1], minlength=height * width).reshape(height, width)
    blurred = _gaussian_matrix(height, sigma) @ torch.from_numpy(counts).double() @ _gaussian_matrix(width, sigma)
    return (blurred / blurred.sum().clamp(min=torch.finfo(torch.float64).tiny)).float()


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


def _gaussian_matrix(length: int, sigma: float) -> torch.Tensor:
    """`(length, length)` float64: blurring along an axis as a matrix product, with nothing beyond the border."""
    positions = torch.arange(length, dtype=torch.float64)
    return torch.exp(-0.5 * ((positions[:, None] - positions[None, :]) / sigma) ** 2)
