# SPDX-License-Identifier: Apache-2.0
"""Where the map of each frame peaks and how far it spreads, one CSV row for each frame."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

import numpy as np
import torch

from video_saliency.atomic_files import atomic_path

CSV_COLUMNS = ("frame", "time_s", "peak_x", "peak_y", "centroid_x", "centroid_y", "spread", "entropy")


@dataclass(frozen=True)
class FrameStatistics:
    """What one map says, in pixels of the source frame: `(0, 0)` is the centre of its top left pixel, x goes right.

    All values are NaN for a map that is zero everywhere.

    Attributes:
        peak_x: centre of the highest cell of the map; of several equal ones the first in reading order.
        peak_y: see `peak_x`.
        centroid_x: mean position, weighted by the map.
        centroid_y: see `centroid_x`.
        spread: root mean square distance from the centroid in pixels, weighted by the map.
        entropy: of the map divided by its sum, as a share of what a map of this size can have: 0 if everything lies in
            one cell, 1 if all cells are equal. The share, not bits, so that map sizes can be compared.
    """

    peak_x: float
    peak_y: float
    centroid_x: float
    centroid_y: float
    spread: float
    entropy: float


def frame_statistics(saliency_map: np.ndarray[Any, Any] | torch.Tensor, source_size: Sequence[int]) -> FrameStatistics:
    """Peak, centroid, spread and entropy of a map, in pixels of the source.

    Args:
        saliency_map: `(height, width)` at any size and scale, non-negative; numpy or torch. The model's own size gives
            the same numbers as an enlarged map, up to interpolation, in less time.
        source_size: `(height, width)` of the source frame. Cell `x` of a smaller map lies at the source pixel
            `(x + 0.5) * source_width / map_width - 0.5`.

    Raises:
        ValueError: for another shape, a size below 1, or values that are negative or not finite.

    Example:
        >>> frame_statistics(np.array([[0.0, 2.0], [0.0, 2.0]]), (8, 16))
        FrameStatistics(peak_x=11.5, peak_y=1.5, centroid_x=11.5, centroid_y=3.5, spread=2.0, entropy=0.5)
    """
    if isinstance(saliency_map, torch.Tensor):
        saliency_map = saliency_map.detach().to("cpu", torch.float64).numpy()
    mass = np.asarray(saliency_map, dtype=np.float64)
    if mass.ndim != 2 or mass.size == 0:
        raise ValueError(f"a saliency map has the shape (height, width), got {tuple(mass.shape)}")
    if len(source_size) != 2 or min(source_size) < 1:
        raise ValueError(f"source_size must be (height, width) in pixels, got {tuple(source_size)}")
    peak = int(mass.argmax())  # a NaN counts as the maximum
    maximum = float(mass.flat[peak])
    if not (mass.min() >= 0 and math.isfinite(maximum)):
        raise ValueError("a saliency map must be finite and not negative: take the model's maps, not its logits")
    if maximum == 0:
        return FrameStatistics(*[math.nan] * 6)

    mass = mass / maximum  # so that the sum of tiny or huge values is exact enough
    mass /= mass.sum()
    rows, columns = mass.shape
    y = (np.arange(rows) + 0.5) * (source_size[0] / rows) - 0.5
    x = (np.arange(columns) + 0.5) * (source_size[1] / columns) - 0.5
    of_rows, of_columns = mass.sum(axis=1), mass.sum(axis=0)
    centroid_y, centroid_x = float(of_rows @ y), float(of_columns @ x)
    variance = float(of_rows @ (y - centroid_y) ** 2 + of_columns @ (x - centroid_x) ** 2)
    peak_row, peak_column = divmod(peak, columns)
    return FrameStatistics(
        peak_x=float(x[peak_column]),
        peak_y=float(y[peak_row]),
        centroid_x=centroid_x,
        centroid_y=centroid_y,
        spread=math.sqrt(variance),
        entropy=_relative_entropy(mass),
    )


def _relative_entropy(density: np.ndarray[Any, Any]) -> float:
    """Entropy of cells that sum to 1, divided by the largest possible one; 0 for a single cell."""
    if density.size == 1:
        return 0.0
    cells = density.ravel()
    # a cell of zero adds nothing: its logarithm is replaced before it is multiplied by zero
    bits = -float(cells @ np.log2(np.maximum(cells, np.finfo(np.float64).tiny)))
    return min(1.0, max(0.0, bits / math.log2(density.size)))


class TableWriter:
    """Writes rows as they come; the file has its name only when it is complete.

    Equal calls give equal bytes (ASCII, lines end with a line feed).

    Use it in a `with` block: an exception inside discards the file, and a file that had the name before stays.

    Args:
        path: the file to write; its folder exists.
        columns: their names, for the first line.
    """

    def __init__(self, path: str | os.PathLike[str], columns: Sequence[str]) -> None:
        self.path, self.columns = Path(path), columns
        self._stack = ExitStack()
        self._file: TextIO | None = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:  # unwinds if the file cannot be opened
            temporary = stack.enter_context(atomic_path(self.path))
            # closed before it is renamed, so that an error of the last write discards it too
            self._file = stack.enter_context(open(temporary, "w", encoding="ascii", newline="\n"))
            self._file.write(",".join(self.columns) + "\n")
            self._stack = stack.pop_all()
        return self

    def write_row(self, cells: Sequence[str]) -> None:
        """Append one row.

        Raises:
            ValueError: outside the `with` block.
        """
        if self._file is None:
            name = type(self).__name__
            raise ValueError(f"{self.path} is not open: call write inside `with {name}(path) as writer:`")
        self._file.write(",".join(cells) + "\n")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file = None
        self._stack.__exit__(kind, error, traceback)


class CsvWriter(TableWriter):
    """Writes rows of statistics as they come.

    Columns, in this order: `frame` (0-based), `time_s` (6 decimals), `peak_x`, `peak_y`, `centroid_x`, `centroid_y`,
    `spread` (source pixels, 3 decimals), `entropy` (0..1, 6 decimals), as `FrameStatistics` explains them. Values that
    are not defined are empty. For the rest see `TableWriter`.

    Args:
        path: the file to write; its folder exists.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path, CSV_COLUMNS)

    def write(self, frame_index: int, time_s: float, statistics: FrameStatistics) -> None:
        """Append the row of one frame.

        Raises:
            ValueError: outside the `with` block.
        """
        self.write_row(
            [
                str(frame_index),
                decimal(time_s, 6),
                decimal(statistics.peak_x, 3),
                decimal(statistics.peak_y, 3),
                decimal(statistics.centroid_x, 3),
                decimal(statistics.centroid_y, 3),
                decimal(statistics.spread, 3),
                decimal(statistics.entropy, 6),
            ]
        )


def decimal(value: float, digits: int) -> str:
    """Fixed number of decimals, empty for NaN, and never a negative zero."""
    if math.isnan(value):
        return ""
    text = f"{value:.{digits}f}"
    return text[1:] if text.startswith("-") and float(text) == 0 else text


def join_csv(
    parts: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str], *, columns: Sequence[str] = CSV_COLUMNS
) -> None:
    """Write the rows of the files of several `TableWriter`s one after the other under one header, atomically.

    Args:
        parts: files in the order of their frames; they stay. Without any the output has no rows.
        output: the file to write; its folder exists.
        columns: of all parts. Default: those of `CsvWriter`.

    Raises:
        ValueError: if a part has other columns.
    """
    header = ",".join(columns).encode("ascii") + b"\n"
    with atomic_path(output) as temporary, open(temporary, "wb") as joined:
        joined.write(header)
        for part in parts:
            with open(part, "rb") as rows:
                if rows.readline() != header:
                    raise ValueError(f"{part} does not have the columns {','.join(columns)}: remove it")
                shutil.copyfileobj(rows, joined)
