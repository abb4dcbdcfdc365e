# SPDX-License-Identifier: Apache-2.0
"""Predictions in, tables of scores out: streamed, resumable, under a named protocol.

dataset = open_dataset("dhf1k", "DHF1K", split="val")
scorer = DatasetScorer(dataset.items, "dhf1k", workers=2)
report = score_dataset(FolderMaps("predictions"), scorer, Path("scores"))
report.overall(), report.num_undefined()
"""

from __future__ import annotations

from video_saliency.scoring.leaderboard import PublishedTable, published_tables, tables_for
from video_saliency.scoring.map_sources import BaselineMaps, FolderMaps, MapSource, ModelMaps
from video_saliency.scoring.score_files import ScoreReport
from video_saliency.scoring.score_run import score_dataset
from video_saliency.scoring.scored_items import ScoredItem, StillAtSize, training_split
from video_saliency.scoring.scorer import DatasetScorer, ScoredFrame
from video_saliency.scoring.still_scores import score_stills

__all__ = [
    "BaselineMaps",
    "DatasetScorer",
    "FolderMaps",
    "MapSource",
    "ModelMaps",
    "PublishedTable",
    "ScoreReport",
    "ScoredFrame",
    "ScoredItem",
    "StillAtSize",
    "published_tables",
    "score_dataset",
    "score_stills",
    "tables_for",
    "training_split",
]
