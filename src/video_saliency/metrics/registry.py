# SPDX-License-Identifier: Apache-2.0
"""Every metric variant under one key, as a function of the parts of a frame, for scorers that compute several at once.

A protocol (`presets.py`) is a choice of these keys. The public functions compute the same from arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from video_saliency.metrics.compat import (
    frame_auc_judd_challenge,
    frame_auc_judd_unisal,
    frame_auc_judd_vinet,
    frame_cc_challenge,
    frame_nss_challenge,
    frame_sim_challenge,
)
from video_saliency.metrics.frame_maps import FrameMap, RankCounts, count_ranks
from video_saliency.metrics.frame_scores import (
    auc_all_pixels,
    auc_expected,
    auc_grouped,
    auc_per_fixation,
    frame_cc,
    frame_ig,
    frame_kld,
    frame_kld_added,
    frame_nss,
    frame_sim,
)
from video_saliency.metrics.metric_inputs import PixelCounts
from video_saliency.metrics.shuffled import (
    frame_auc_borji,
    frame_auc_borji_drawn,
    frame_sauc,
    frame_sauc_drawn,
    frame_sauc_exact,
)

NUM_SPLITS = 100  # of the MIT code


@dataclass
class FrameParts:
    """A frame made ready: sizes agree, everything checked; what metrics share is computed once.

    Parts of the truth that are not known are empty here: whoever chooses the metrics keeps them away from those.

    Attributes:
        located: prediction on the grid of the fixations.
        spread: prediction on the grid of the density; the same object if the grids are the same.
        listed: fixations with their counts.
        density: true density.
        others: fixations of other frames with their counts.
        baseline: baseline density on the grid of the fixations.
        can_clip: whether negative values of the prediction only come from resizing.
    """

    located: FrameMap
    spread: FrameMap
    listed: PixelCounts
    density: FrameMap
    others: PixelCounts
    baseline: FrameMap
    can_clip: bool = False

    @cached_property
    def fixated(self) -> PixelCounts:
        """Fixated pixels, each once."""
        return self.listed.in_mode("mask")

    @cached_property
    def ranks(self) -> RankCounts:
        """Of the fixated pixels, each once."""
        return count_ranks(self.located, self.fixated)

    @cached_property
    def listed_ranks(self) -> RankCounts:
        """Of the fixations as often as they are listed."""
        return count_ranks(self.located, self.listed)

    @property
    def spread_density(self) -> FrameMap:
        """Prediction on the grid of the density, without the negative values that resizing brought in."""
        return self.spread.non_negative if self.can_clip else self.spread

    @property
    def located_density(self) -> FrameMap:
        """Prediction on the grid of the fixations, without the negative values that resizing brought in."""
        return self.located.non_negative if self.can_clip else self.located


@dataclass(frozen=True)
class Metric:
    """One way to score a frame.

    Attributes:
        compute: score of a frame, NaN where it is undefined.
        truth: which part of the truth it is scored against.
        needs: what it needs beside that.
        lower_is_better: True for divergences.
    """

    compute: Callable[[FrameParts], float]
    truth: Literal["fixations", "density"]
    needs: Literal["other", "baseline"] | None = None
    lower_is_better: bool = False


def _auc_judd_no_jitter(frame: FrameParts) -> float:
    num_negatives = 0 if frame.located.is_constant else frame.ranks.num_pixels - frame.ranks.num_fixated
    return auc_per_fixation(frame.ranks, num_negatives=num_negatives)


def _sauc_seeded(frame: FrameParts) -> float:
    others, draws = frame.others.in_mode("mask"), np.random.RandomState(0)
    return frame_sauc_drawn(frame.located, frame.fixated, others, splits=NUM_SPLITS, generator=draws)


def _auc_borji_seeded(frame: FrameParts) -> float:
    return frame_auc_borji_drawn(frame.located, frame.fixated, splits=NUM_SPLITS, generator=np.random.RandomState(0))


METRICS: dict[str, Metric] = {
    "auc_judd": Metric(lambda f: auc_expected(f.ranks), "fixations"),
    "auc_judd_nojitter": Metric(_auc_judd_no_jitter, "fixations"),
    "auc_judd_vinet": Metric(lambda f: frame_auc_judd_vinet(f.located, f.ranks), "fixations"),
    "auc_judd_unisal": Metric(lambda f: frame_auc_judd_unisal(f.located, f.ranks), "fixations"),
    "auc_judd_challenge": Metric(lambda f: frame_auc_judd_challenge(f.located, f.listed, f.listed_ranks), "fixations"),
    "auc_pysaliency_judd": Metric(lambda f: auc_grouped(f.listed_ranks), "fixations"),
    "auc_uniform": Metric(lambda f: auc_all_pixels(f.listed_ranks), "fixations"),
    "sauc": Metric(lambda f: frame_sauc(f.located, f.fixated, f.others.in_mode("mask")), "fixations", "other"),
    "sauc_seed0_100": Metric(_sauc_seeded, "fixations", "other"),
    "sauc_exact": Metric(lambda f: frame_sauc_exact(f.located, f.listed, f.others), "fixations", "other"),
    "auc_borji": Metric(lambda f: frame_auc_borji(f.located, f.fixated), "fixations"),
    "auc_borji_seed0_100": Metric(_auc_borji_seeded, "fixations"),
    "nss": Metric(lambda f: frame_nss(f.located, f.fixated, ddof=1), "fixations"),
    "nss_ddof0": Metric(lambda f: frame_nss(f.located, f.fixated, ddof=0), "fixations"),
    "nss_list": Metric(lambda f: frame_nss(f.located, f.listed, ddof=0), "fixations"),
    "nss_challenge": Metric(lambda f: frame_nss_challenge(f.located, f.listed), "fixations"),
    "cc": Metric(lambda f: frame_cc(f.spread, f.density), "density"),
    "cc_challenge": Metric(lambda f: frame_cc_challenge(f.spread, f.density), "density"),
    "sim": Metric(lambda f: frame_sim(f.spread, f.density, normalize="minmax_sum"), "density"),
    "sim_sum": Metric(lambda f: frame_sim(f.spread, f.density, normalize="sum"), "density"),
    "sim_challenge": Metric(lambda f: frame_sim_challenge(f.spread, f.density), "density"),
    "kld": Metric(lambda f: frame_kld(f.spread_density, f.density), "density", lower_is_better=True),
    "kld_min1e-20": Metric(lambda f: frame_kld_added(f.spread_density, f.density), "density", lower_is_better=True),
    "ig": Metric(
        lambda f: frame_ig(f.located, f.fixated, f.baseline, normalize="minmax_sum"), "fixations", "baseline"
    ),
    "ig_density": Metric(
        lambda f: frame_ig(f.located_density, f.fixated, f.baseline, normalize="sum"), "fixations", "baseline"
    ),
}
