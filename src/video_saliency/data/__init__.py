# SPDX-License-Identifier: Apache-2.0
"""Readers of data sets with human fixations: `open_dataset` and the items that it gives."""

from __future__ import annotations

from video_saliency.data.base import AnnotatedFrame, SaliencyItem
from video_saliency.data.catalog import DATASETS, open_dataset
from video_saliency.data.checking import CheckReport, check_dataset
from video_saliency.data.dataset_info import DatasetInfo, SaliencyDataset, SplitInfo
from video_saliency.data.densities import fixated_points, fixation_density
from video_saliency.data.manifest import from_manifest, from_row, to_manifest, to_rows
from video_saliency.data.still_fixations import StillFixations, StillItem, hash_folder

__all__ = [
    "DATASETS",
    "AnnotatedFrame",
    "CheckReport",
    "DatasetInfo",
    "SaliencyDataset",
    "SaliencyItem",
    "SplitInfo",
    "StillFixations",
    "StillItem",
    "check_dataset",
    "fixated_points",
    "fixation_density",
    "from_manifest",
    "from_row",
    "hash_folder",
    "open_dataset",
    "to_manifest",
    "to_rows",
]
