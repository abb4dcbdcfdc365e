# SPDX-License-Identifier: Apache-2.0
"""Numbers about saliency maps, as tables."""

from __future__ import annotations

from video_saliency.reports.sound_difference import (
    SOUND_COLUMNS,
    SoundCsvWriter,
    SoundDifference,
    sound_difference,
    summarize_sound,
)
from video_saliency.reports.tables import CSV_COLUMNS, CsvWriter, FrameStatistics, frame_statistics, join_csv

__all__ = [
    "CSV_COLUMNS",
    "SOUND_COLUMNS",
    "CsvWriter",
    "FrameStatistics",
    "SoundCsvWriter",
    "SoundDifference",
    "frame_statistics",
    "join_csv",
    "sound_difference",
    "summarize_sound",
]
