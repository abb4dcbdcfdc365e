# SPDX-License-Identifier: Apache-2.0
"""Scores of saliency maps against human fixations."""

from __future__ import annotations

from video_saliency.metrics.functional import auc_judd, cc, nss

__all__ = ["auc_judd", "cc", "nss"]
