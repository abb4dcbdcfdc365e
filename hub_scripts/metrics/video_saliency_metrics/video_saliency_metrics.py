# SPDX-License-Identifier: Apache-2.0
"""Saliency metrics for the `evaluate` library, computed by the `video_saliency` package."""

from __future__ import annotations

import math
from typing import Any

import datasets
import evaluate
import numpy as np

from video_saliency.metrics import (
    FrameTruth,
    ScoreAccumulator,
    auc_borji,
    auc_judd,
    cc,
    get_protocol,
    ig,
    kld,
    nss,
    sauc,
    score_frame,
    sim,
)

_DESCRIPTION = """
Scores of saliency maps against human fixations. Load one metric by its name, or, without a name, the five that most
papers report: AUC-Judd, NSS, CC, SIM and KL divergence.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: list of saliency maps, each (height, width); they may differ in size.
    references: one for each prediction. For `auc_judd`, `sauc`, `auc_borji`, `nss` and `ig` a list of (row, column)
        fixations; for `cc`, `sim` and `kld` the true density (height, width); without a name of a metric a dict of
        both, {"fixations": ..., "density": ...}.
    other: for `sauc`, the fixations of other frames for each prediction, (row, column).
    baseline: for `ig`, the baseline density for each prediction, (height, width).
    undefined: "skip" leaves frames without a score out of the mean, "zero" counts them as 0, "propagate" lets them
        spoil it, "error" refuses them.
    return_frames: also returns the score of each frame.
    preset: without a name of a metric, the protocol by which frames are scored ("mit", "avimos", ...).
    Other options of a metric's function in `video_saliency.metrics`, `ddof=0` for `nss` for instance.
Returns:
    The mean over the frames under the metric's name, and under <name>_undefined the number of frames without a score.
Examples:
    >>> nss = evaluate.load("video_saliency_metrics", "nss")
    >>> nss.compute(predictions=[[[0.0, 0.0], [0.0, 1.0]]], references=[[[1, 1]]])
    {'nss': 1.5, 'nss_undefined': 0}
"""

_CITATION = """
@article{bylinskii2019metrics,
  title = {What Do Different Evaluation Metrics Tell Us About Saliency Models?},
  author = {Bylinskii, Zoya and Judd, Tilke and Oliva, Aude and Torralba, Antonio and Durand, Fr{\\'e}do},
  journal = {IEEE Transactions on Pattern Analysis and Machine Intelligence},
  volume = {41},
  number = {3},
  pages = {740--757},
  year = {2019},
}
"""

_AGAINST_FIXATIONS = {"auc_judd": auc_judd, "sauc": sauc, "auc_borji": auc_borji, "nss": nss, "ig": ig}
_AGAINST_DENSITY = {"cc": cc, "sim": sim, "kld": kld}
_FUNCTIONS = {**_AGAINST_FIXATIONS, **_AGAINST_DENSITY}
_MORE_INPUTS = {"sauc": "other", "ig": "baseline"}
_WITHOUT_NAME = ("auc_judd", "nss", "cc", "sim", "kld")


def _map() -> datasets.Sequence:
    return datasets.Sequence(datasets.Sequence(datasets.Value("float64")))


def _points() -> datasets.Sequence:
    return datasets.Sequence(datasets.Sequence(datasets.Value("int64")))


class VideoSaliencyMetrics(evaluate.Metric):
    """One saliency metric, or the usual five, over a list of frames."""

    def _info(self) -> evaluate.MetricInfo:
        name = self.config_name
        if name != "default" and name not in _FUNCTIONS:
            raise ValueError(f"metric {name!r} is not known: name one of {', '.join(_FUNCTIONS)}, or none")
        features: dict[str, Any] = {"predictions": _map()}
        if name in _AGAINST_FIXATIONS:
            features["references"] = _points()
        elif name in _AGAINST_DENSITY:
            features["references"] = _map()
        else:
            features["references"] = {"fixations": _points(), "density": _map()}
        if name == "sauc":
            features["other"] = _points()
        if name == "ig":
            features["baseline"] = _map()
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(features),
            reference_urls=["https://github.com/cvzoya/saliency"],
        )

    def _compute(
        self,
        predictions: list[Any],
        references: list[Any],
        *,
        other: list[Any] | None = None,
        baseline: list[Any] | None = None,
        undefined: str = "skip",
        return_frames: bool = False,
        preset: str | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        if self.config_name == "default":
            if options:
                raise ValueError(f"options {sorted(options)} belong to one metric: load it by its name")
            frames = [
                _score_five(prediction, reference, preset or "mit")
                for prediction, reference in zip(predictions, references, strict=True)
            ]
        else:
            if preset is not None:
                raise ValueError("a preset is for all metrics at once: load the module without a metric's name")
            function = _FUNCTIONS[self.config_name]
            more = other if other is not None else baseline
            columns = (predictions, references) if more is None else (predictions, references, more)
            frames = [
                {self.config_name: float(function(np.asarray(prediction), *map(_as_array, rest), **options))}
                for prediction, *rest in zip(*columns, strict=True)
            ]
        return _average(frames, undefined, return_frames)


def _as_array(values: Any) -> np.ndarray:
    array = np.asarray(values)
    return array if array.size else np.zeros((0, 2), dtype=np.int64)


def _score_five(prediction: Any, reference: dict[str, Any], preset: str) -> dict[str, float]:
    truth = FrameTruth(density=np.asarray(reference["density"]), fixations=_as_array(reference["fixations"]))
    protocol = get_protocol(preset)
    names = [name for name in protocol.metrics if name in _WITHOUT_NAME]
    return score_frame(np.asarray(prediction), truth, protocol, metrics=names)


def _average(frames: list[dict[str, float]], undefined: str, return_frames: bool) -> dict[str, Any]:
    scores = ScoreAccumulator(undefined=undefined)
    for frame in frames:
        scores.add("all frames", frame)
    result: dict[str, Any] = {}
    counts = scores.num_undefined()
    for name, mean in scores.overall().items():
        result[name] = mean
        result[f"{name}_undefined"] = counts[name]
        if return_frames:
            result[f"{name}_frames"] = [None if math.isnan(frame[name]) else frame[name] for frame in frames]
    return result
