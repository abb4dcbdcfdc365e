# SPDX-License-Identifier: Apache-2.0
"""Scores of saliency maps against human fixations.

The functions (`auc_judd`, `nss`, `cc`, `sim`, `kld`, `ig`, `sauc`, `auc_borji`) score maps or batches of them. To
score videos by a published protocol, frame by frame:

    >>> import numpy as np
    >>> from video_saliency.metrics import FrameTruth, get_protocol, score_frame
    >>> protocol = get_protocol("stavis")
    >>> scores = protocol.accumulator()
    >>> frames = np.arange(24.0).reshape(2, 3, 4)
    >>> for saliency_map in frames:
    ...     truth = FrameTruth(density=saliency_map**2, fixations=[(2, 3), (2, 1)])
    ...     scores.add("clip", score_frame(saliency_map, truth, protocol))
    >>> sorted(scores.overall())
    ['auc_judd', 'cc', 'nss', 'sim']

`OtherFixations` collects what shuffled AUC is scored against, by the protocol's rule.
"""

from __future__ import annotations

from video_saliency.metrics.accumulators import ScoreAccumulator
from video_saliency.metrics.frame_scorer import FrameTruth, score_frame
from video_saliency.metrics.functional import auc_judd, cc, ig, kld, nss, sim
from video_saliency.metrics.other_fixations import OtherFixations
from video_saliency.metrics.presets import PRESETS, ScoringProtocol, get_protocol
from video_saliency.metrics.shuffled import auc_borji, sauc

__all__ = [
    "PRESETS",
    "FrameTruth",
    "OtherFixations",
    "ScoreAccumulator",
    "ScoringProtocol",
    "auc_borji",
    "auc_judd",
    "cc",
    "get_protocol",
    "ig",
    "kld",
    "nss",
    "sauc",
    "score_frame",
    "sim",
]
