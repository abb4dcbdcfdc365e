# SPDX-License-Identifier: Apache-2.0
"""What sound changes in the maps of a clip: each beside the map of the same window without sound, in a CSV row."""

from __future__ import annotations

import csv
import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from video_saliency.metrics.functional import cc, kld
from video_saliency.reports.tables import TableWriter, decimal

SOUND_COLUMNS = ("frame", "time_s", "cc", "kl", "total_variation")


@dataclass(frozen=True)
class SoundDifference:
    """How far a map with sound is from that without.

    Attributes:
        cc: correlation of the two over all pixels; 1 if they are equal, NaN if one is constant.
        kl: Kullback-Leibler divergence in nats of the map without sound from that with it; 0 if they are equal.
        total_variation: share of the map's mass that sound moves elsewhere, 0..1.
    """

    cc: float
    kl: float
    total_variation: float


def sound_difference(
    with_sound: np.ndarray[Any, Any] | torch.Tensor, without_sound: np.ndarray[Any, Any] | torch.Tensor
) -> SoundDifference:
    """Correlation, divergence and total variation of two maps `(height, width)` of one size, non-negative, any scale.

    Raises:
        ValueError: for shapes that differ, or values that are negative or not finite.

    Example:
        >>> sound_difference(np.array([[0.0, 3.0, 1.0]]), np.array([[0.0, 1.0, 3.0]])).total_variation
        0.5
    """
    heard, silent = (np.asarray(torch.as_tensor(values).double().cpu()) for values in (with_sound, without_sound))
    correlation, divergence = float(cc(silent, heard)), float(kld(silent, heard))  # they check both maps
    sums = heard.sum(), silent.sum()
    moved = math.nan if min(sums) == 0 else 0.5 * float(np.abs(heard / sums[0] - silent / sums[1]).sum())
    return SoundDifference(correlation, divergence, moved)


class SoundCsvWriter(TableWriter):
    """Writes rows of differences as they come; a `CsvWriter` with the columns `SOUND_COLUMNS`, 6 decimals each."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path, SOUND_COLUMNS)

    def write(self, frame_index: int, time_s: float, difference: SoundDifference) -> None:
        """Append the row of one frame.

        Raises:
            ValueError: outside the `with` block.
        """
        values = (time_s, difference.cc, difference.kl, difference.total_variation)
        self.write_row([str(frame_index), *(decimal(value, 6) for value in values)])


def summarize_sound(path: str | os.PathLike[str]) -> dict[str, float | int | None]:
    """Number of frames in a file of `SoundCsvWriter`, and means of its columns over the frames where they are defined.

    A column that is defined nowhere has `None`.
    """
    num_frames = 0
    sums = dict.fromkeys(SOUND_COLUMNS[2:], 0.0)
    counts = dict.fromkeys(sums, 0)
    with open(path, encoding="ascii", newline="") as file:
        for row in csv.DictReader(file):
            num_frames += 1
            for name in sums:
                if row[name]:
                    sums[name] += float(row[name])
                    counts[name] += 1
    return {"frames": num_frames} | {
        name: round(sums[name] / counts[name], 6) if counts[name] else None for name in sums
    }
