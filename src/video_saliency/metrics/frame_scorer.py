# SPDX-License-Identifier: Apache-2.0
"""All metrics of a protocol for one frame: read, quantised and resized once, statistics and ranks shared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from video_saliency.metrics.compat import read_challenge_map
from video_saliency.metrics.frame_maps import FrameMap
from video_saliency.metrics.metric_inputs import (
    Array,
    Fixations,
    PixelCounts,
    check_option,
    fixations_per_frame,
    to_maps,
)
from video_saliency.metrics.presets import ScoringProtocol, get_protocol
from video_saliency.metrics.registry import METRICS, FrameParts, Metric
from video_saliency.metrics.resizing import gaussian_blur, quantize_map, resize_map

_NO_PIXELS = PixelCounts(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))


@dataclass(frozen=True)
class FrameTruth:
    """What people did in one frame; leave out what is not known, and with it the metrics that need it.

    Attributes:
        density: true density `(H, W)`, any scale.
        fixations: mask `(H, W)`, (row, column) pairs `(N, 2)`, or pixel counts; an empty list is a frame in which
            nobody fixated, None one for which it is not known.
        other: fixations of other frames on the same grid, for shuffled AUC.
        baseline: density `(H, W)` on the same grid to which information gain compares.
        size: height and width of the grid, needed if only points are given.
    """

    density: Array | None = None
    fixations: Fixations | PixelCounts | None = None
    other: Fixations | PixelCounts | None = None
    baseline: Array | None = None
    size: tuple[int, int] | None = None

    def grid(self) -> tuple[int, int]:
        """Height and width of the truth.

        Raises:
            ValueError: parts of different sizes, or nothing that has one.
        """
        maps = {"density": self.density, "baseline": self.baseline}
        sizes = {name: tuple(array.shape) for name, array in maps.items() if array is not None}
        if self.size is not None:
            sizes["size"] = (int(self.size[0]), int(self.size[1]))
        if len(set(sizes.values())) > 1:
            raise ValueError(f"the parts of the truth differ in size: {sizes}; bring them to one grid first")
        mask = self.fixations
        if not sizes and isinstance(mask, np.ndarray | torch.Tensor) and tuple(mask.shape[-1:]) != (2,):
            sizes["fixations"] = tuple(mask.shape)
        if not sizes:
            raise ValueError("points alone have no size: pass the height and width of their picture as `size`")
        size = next(iter(sizes.values()))
        if len(size) != 2:
            raise ValueError(f"the truth has shape {size}: pass one frame (height, width)")
        return size


def score_frame(
    prediction: Array,
    truth: FrameTruth,
    protocol: ScoringProtocol | str = "mit",
    *,
    metrics: Sequence[str] | None = None,
) -> dict[str, float]:
    """Scores of one frame by name, NaN where one is undefined.

    Args:
        prediction: saliency map `(h, w)`, of any size that the protocol resizes; uint8 maps are the fastest.
        truth: of the frame; its size is the size of scoring.
        protocol: a protocol or the name of a preset.
        metrics: names of the protocol's metrics, or metric keys, to compute; all that the truth allows if not given.

    Raises:
        ValueError: a metric that the protocol does not know or the truth does not allow, NaN or infinity, negative
            values where a density is meant (those that bicubic resizing brings into a non-negative map are cut off),
            another size than the truth's under `resize="error"`.

    Example:
        >>> import numpy as np
        >>> truth = FrameTruth(density=np.array([[0.0, 1.0], [2.0, 1.0]]), fixations=[(1, 0)])
        >>> scores = score_frame(np.array([[0.0, 1.0], [1.0, 2.0]]), truth, metrics=["sim", "auc_judd"])
        >>> {name: round(score, 4) for name, score in scores.items()}
        {'sim': 0.75, 'auc_judd': 0.75}
    """
    if isinstance(protocol, str):
        protocol = get_protocol(protocol)
    chosen = choose_metrics(protocol, truth, metrics)
    size = truth.grid()
    maps = to_maps(prediction, "prediction")
    if maps.ndim != 2:
        raise ValueError(f"prediction has shape {maps.shape}: pass one frame (height, width)")
    parts = _prepare(maps, truth, protocol, size, needs_density=any(m.truth == "density" for m in chosen.values()))
    empty = _empty_parts(FrameMap(maps), parts) if protocol.empty_frames == "undefined" else set()
    return {
        name: math.nan if {"prediction", metric.truth} & empty else metric.compute(parts)
        for name, metric in chosen.items()
    }


def choose_metrics(
    protocol: ScoringProtocol, truth: FrameTruth, names: Sequence[str] | None = None
) -> dict[str, Metric]:
    """Metrics by name: those asked for, or all of the protocol that the truth allows.

    Raises:
        ValueError: one that is not known or that the truth does not allow.
    """
    if names is None:
        known = {name: METRICS[key] for name, key in protocol.metrics.items()}
        return {name: metric for name, metric in known.items() if not _missing(metric, truth)}
    chosen = {}
    for name in names:
        key = protocol.metrics.get(name, name)
        check_option("metric", key, (*protocol.metrics, *METRICS))
        chosen[name] = METRICS[key]
        missing = _missing(METRICS[key], truth)
        if missing:
            raise ValueError(
                f"{name} needs {' and '.join(missing)}: give the truth that part, or leave the metric out"
            )
    return chosen


def _missing(metric: Metric, truth: FrameTruth) -> list[str]:
    needed = [metric.truth, *([metric.needs] if metric.needs else [])]
    return [part for part in needed if getattr(truth, part) is None]


def _empty_parts(prediction: FrameMap, parts: FrameParts) -> set[str]:
    empty = {"prediction"} if prediction.is_zero else set()
    if parts.density.is_zero:
        empty.add("density")
    if not len(parts.listed):
        empty.add("fixations")
    return empty


def _prepare(
    prediction: np.ndarray,
    truth: FrameTruth,
    protocol: ScoringProtocol,
    size: tuple[int, int],
    *,
    needs_density: bool,
) -> FrameParts:
    blank = np.zeros(size, dtype=np.uint8)
    density = to_maps(truth.density, "density") if truth.density is not None else blank
    can_clip = bool(prediction.min() >= 0)
    if protocol.reading == "minmax":
        prediction, density = read_challenge_map(prediction), read_challenge_map(density)
    if protocol.quantize != "none":
        prediction = quantize_map(prediction, rule=protocol.quantize)

    located = FrameMap(_fit(prediction, size, protocol))
    spread = located
    if protocol.density_size is not None and needs_density:
        density = resize_map(density, protocol.density_size, method="bilinear")
        if protocol.density_size != size:
            spread = FrameMap(_fit(prediction, protocol.density_size, protocol, method="bilinear"))
    return FrameParts(
        located=located,
        spread=spread,
        listed=_pixels(truth.fixations, size, "fixations"),
        density=FrameMap(density),
        others=_pixels(truth.other, size, "other"),
        baseline=FrameMap(to_maps(truth.baseline, "baseline") if truth.baseline is not None else blank),
        can_clip=can_clip,
    )


def _fit(
    prediction: np.ndarray, size: tuple[int, int], protocol: ScoringProtocol, *, method: str | None = None
) -> np.ndarray:
    method = method or protocol.resize
    if prediction.shape != size:
        if method == "error":
            raise ValueError(
                f"prediction has shape {prediction.shape}, the truth {size}, and protocol {protocol.name} does not "
                "resize: bring the prediction to the size of the truth first"
            )
        prediction = resize_map(prediction, size, method="bilinear" if method == "bilinear" else "bicubic")
    return prediction if protocol.blur_sigma is None else gaussian_blur(prediction, protocol.blur_sigma)


def _pixels(fixations: Fixations | PixelCounts | None, size: tuple[int, int], name: str) -> PixelCounts:
    if fixations is None:
        return _NO_PIXELS
    if isinstance(fixations, PixelCounts):
        return fixations
    return fixations_per_frame(fixations, size, name)[0]
