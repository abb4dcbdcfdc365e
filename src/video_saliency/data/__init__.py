# SPDX-License-Identifier: Apache-2.0
"""Readers of data sets with human fixations."""

from __future__ import annotations

from video_saliency.data.still_fixations import StillFixations, StillItem, fixation_density, hash_folder

__all__ = ["StillFixations", "StillItem", "fixation_density", "hash_folder"]
