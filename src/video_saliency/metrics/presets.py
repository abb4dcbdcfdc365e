# SPDX-License-Identifier: Apache-2.0
"""Scoring protocols: what published scorers do to a prediction before and after the formulas, each a set of options.

Read from the public code of each scorer. `dataclasses.replace(get_protocol("dhf1k"), max_frames=50_000)` makes a
variant of one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from video_saliency.metrics.accumulators import AVERAGES, UNDEFINED_RULES, Average, ScoreAccumulator, Undefined
from video_saliency.metrics.metric_inputs import check_option
from video_saliency.metrics.other_fixations import OTHER_RULES, OtherRule
from video_saliency.metrics.registry import METRICS


@dataclass(frozen=True)
class ScoringProtocol:
    """How predictions are scored: everything that changes a published number.

    The order is: read, quantize, resize to the truth, blur, score, average.

    Attributes:
        name: of the protocol.
        origin: whose scorer it follows.
        metrics: name in the results to metric key (`video_saliency.metrics.registry.METRICS`).
        reading: `"minmax"` scales prediction and density by `(x - min) / (max - min + 2^-23)` first.
        quantize: stores a float prediction with 8 bits first, as published ones were.
        resize: how a prediction comes to the size of the truth; `"error"` refuses another size.
        density_size: height and width to which prediction and density are resized, bilinear, for the metrics against
            the density; fixations stay on their own grid.
        blur_sigma: blurs the resized prediction by an 11 x 11 Gaussian of so many pixels.
        empty_frames: `"undefined"` scores NaN where the prediction is all zero, or the truth that a metric needs is
            all zero or has no fixation; `"scored"` keeps what the formula gives, 0 for SIM for instance.
        undefined: what an undefined frame counts in averages, see `ScoreAccumulator`.
        average: over what, see `ScoreAccumulator`.
        other_rule: which fixations shuffled AUC is scored against, see `OtherFixations`.
        num_other_frames: of the random rules.
        seed: of the random rules and of the choice of `max_frames`.
        skip_first: frames left out at the start of each clip.
        skip_last: frames left out at the end of each clip.
        max_frames: scores a random choice of so many frames if there are more.
        masked_frames: scores only the frames that the data set's own mask selects.
    """

    name: str
    origin: str
    metrics: Mapping[str, str]
    reading: Literal["as_is", "minmax"] = "as_is"
    quantize: Literal["none", "uint8_round", "uint8_trunc"] = "none"
    resize: Literal["bicubic", "bilinear", "error"] = "bicubic"
    density_size: tuple[int, int] | None = None
    blur_sigma: float | None = None
    empty_frames: Literal["undefined", "scored"] = "undefined"
    undefined: Undefined = "skip"
    average: Average = "frames"
    other_rule: OtherRule = "other_videos"
    num_other_frames: int = 10
    seed: int = 0
    skip_first: int = 0
    skip_last: int = 0
    max_frames: int | None = None
    masked_frames: bool = False

    def __post_init__(self) -> None:
        check_option("reading", self.reading, ("as_is", "minmax"))
        check_option("quantize", self.quantize, ("none", "uint8_round", "uint8_trunc"))
        check_option("resize", self.resize, ("bicubic", "bilinear", "error"))
        check_option("empty_frames", self.empty_frames, ("undefined", "scored"))
        check_option("undefined", self.undefined, UNDEFINED_RULES)
        check_option("average", self.average, AVERAGES)
        check_option("other_rule", self.other_rule, OTHER_RULES)
        for key in self.metrics.values():
            check_option("metric key", key, tuple(METRICS))

    def accumulator(self) -> ScoreAccumulator:
        """An empty accumulator that averages as the protocol does."""
        return ScoreAccumulator(average=self.average, undefined=self.undefined)

    def frames_to_score(self, num_frames: int) -> range:
        """Indices of the frames of one clip of `num_frames` that are scored."""
        return range(self.skip_first, max(num_frames - self.skip_last, self.skip_first))

    def choose_frames(self, num_frames: int) -> np.ndarray:
        """Indices, ascending, of the frames to score among `num_frames` of a whole data set: all, or `max_frames`."""
        if self.max_frames is None or num_frames <= self.max_frames:
            return np.arange(num_frames)
        return np.sort(np.random.default_rng(self.seed).choice(num_frames, self.max_frames, replace=False))


_MIT = {name: name for name in ("auc_judd", "sauc", "auc_borji", "nss", "cc", "sim", "kld", "ig")}
_DHF1K = {name: name for name in ("auc_judd", "sauc", "nss", "cc", "sim")}

PRESETS: dict[str, ScoringProtocol] = {
    protocol.name: protocol
    for protocol in (
        ScoringProtocol(
            name="mit",
            origin="MIT saliency benchmark code; its random jitter and splits replaced by their exact expectations",
            metrics=_MIT,
        ),
        ScoringProtocol(
            name="dhf1k",
            origin="DHF1K scorer; it scores 50,000 random frames if there are more (`max_frames`)",
            metrics=_DHF1K,
            quantize="uint8_round",
            empty_frames="scored",
            other_rule="random_frames",
        ),
        ScoringProtocol(
            name="stavis",
            origin="STAViS scorer for DIEM, AVAD, Coutrot1, Coutrot2, ETMD, SumMe; it blurs the maps (`blur_sigma=2`)",
            metrics=_DHF1K,
            average="splits",
            other_rule="clip_union",
        ),
        ScoringProtocol(
            name="avimos",
            origin="AViMoS challenge scorers of ECCV 2024 and NTIRE 2026",
            metrics={
                "auc_judd": "auc_judd_challenge",
                "nss": "nss_challenge",
                "cc": "cc_challenge",
                "sim": "sim_challenge",
            },
            reading="minmax",
            resize="bilinear",
            empty_frames="scored",
            undefined="error",
            average="videos",
        ),
        ScoringProtocol(
            name="unisal",
            origin="UNISAL code; it scores AUC on a random half of the frames, here all",
            metrics={"auc_judd": "auc_judd_unisal", "nss": "nss", "cc": "cc", "sim": "sim_sum"},
            resize="bilinear",
            average="videos",
            other_rule="random_videos",
        ),
        ScoringProtocol(
            name="vinet2",
            origin="ViNet v2 Python code; it blurs the maps that it predicts (`blur_sigma=2`)",
            metrics={"auc_judd": "auc_judd_vinet", "nss": "nss", "cc": "cc", "sim": "sim", "kld": "kld"},
            resize="bilinear",
            density_size=(256, 456),
            undefined="zero",
            other_rule="clip_union",
        ),
        ScoringProtocol(
            name="diffsal",
            origin="DiffSal code; it scores frames 9 to N - 24 only, here all (`skip_first`, `skip_last`)",
            metrics={"auc_judd": "auc_judd", "nss": "nss_ddof0", "cc": "cc", "sim": "sim"},
            quantize="uint8_trunc",
            undefined="propagate",
            average="videos",
        ),
        ScoringProtocol(
            name="meta",
            origin="DIEM-Meta and LEDOV-Meta: MIT metrics on the frames of their masks",
            metrics=_MIT,
            average="videos",
            masked_frames=True,
        ),
        ScoringProtocol(
            name="pysaliency",
            origin="pysaliency 0.2.22 functions",
            metrics={
                "auc": "auc_uniform",
                "auc_judd": "auc_pysaliency_judd",
                "sauc": "sauc_exact",
                "nss": "nss_list",
                "cc": "cc",
                "sim": "sim_sum",
                "kld": "kld_min1e-20",
                "ig": "ig_density",
            },
            resize="error",
            other_rule="all_others",
        ),
    )
}

ALIASES = {"eccv24": "avimos", "ntire26": "avimos", "vinet": "vinet2"}


def get_protocol(name: str) -> ScoringProtocol:
    """The protocol of a preset's name (`mit`, `dhf1k`, `stavis`, `avimos` = `eccv24` = `ntire26`, `unisal`, ...).

    Raises:
        ValueError: unknown name, with the known ones.
    """
    check_option("preset", name, (*PRESETS, *ALIASES))
    return PRESETS[ALIASES.get(name, name)]
