# SPDX-License-Identifier: Apache-2.0
"""Numbers about saliency maps, as tables."""

from __future__ import annotations

from video_saliency.reports.tables import CSV_COLUMNS, CsvWriter, FrameStatistics, frame_statistics, join_csv

__all__ = ["CSV_COLUMNS", "CsvWriter", "FrameStatistics", "frame_statistics", "join_csv"]
