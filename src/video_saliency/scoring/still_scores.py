# SPDX-License-Identifier: Apache-2.0
"""The scores of a model of stills as its card shows them: over all images of a prepared folder and for each set."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from video_saliency.data.still_fixations import StillFixations
from video_saliency.metrics import ScoreAccumulator
from video_saliency.predictor import VideoSaliencyPredictor
from video_saliency.scoring.map_sources import MapSource, ModelMaps
from video_saliency.scoring.scored_items import ScoredItem, StillAtSize
from video_saliency.scoring.scorer import DatasetScorer

CARD_METRICS = ("nss", "cc", "auc_judd")


class GivenMaps(MapSource):
    """Maps that are in memory, one for each still in their order."""

    def __init__(self, maps: Sequence[np.ndarray]) -> None:
        self.settings = {"predictions": "maps in memory"}
        self._maps = maps

    def maps(self, item: ScoredItem, wanted: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """See `MapSource`."""
        if not isinstance(item, StillAtSize):
            raise ValueError(f"maps in memory belong to stills, not to {item.dataset}: pass StillAtSize items")
        return iter([(0, self._maps[item.position])])


def score_stills(
    predictions: VideoSaliencyPredictor | Sequence[np.ndarray],
    stills: StillFixations,
    *,
    size: tuple[int, int] | None = None,
    metrics: Sequence[str] = CARD_METRICS,
    workers: int = 1,
) -> dict[str, dict[str, float]]:
    """Mean scores under the `mit` protocol by set, `"all"` first: number of images, then each metric.

    Fixations fall on the grid of the maps, and the true density is a Gaussian of a 24th of its height at each.

    Args:
        predictions: a model, or a map `(height, width)` for each still.
        stills: the images.
        size: height and width of the grid. Default: that of the maps; of a model its input size.
        metrics: names of metrics.
        workers: threads that score.

    Raises:
        ValueError: not one map for each still, or maps and stills that cannot be scored.

    Example:
        score_stills(VideoSaliencyPredictor.from_pretrained(folder), StillFixations(data, split="val"))["all"]["nss"]
    """
    source: MapSource
    if isinstance(predictions, VideoSaliencyPredictor):
        source = ModelMaps(predictions, "model")
        size = size or (predictions.processor.size["height"], predictions.processor.size["width"])
    else:
        if len(predictions) != len(stills):
            raise ValueError(f"there are {len(predictions)} maps for {len(stills)} stills: pass one for each")
        source = GivenMaps(predictions)
        size = size or (predictions[0].shape[0], predictions[0].shape[1])
    items = [StillAtSize(stills, position, size) for position in range(len(stills))]
    accumulators = {"all": ScoreAccumulator()}
    accumulators |= {name: ScoreAccumulator() for name in sorted({item.dataset for item in items})}
    with DatasetScorer(items, "mit", metrics=metrics, workers=workers) as scorer:
        for position, item in enumerate(items):
            for frame in scorer.score_item(position, source):
                for name in ("all", item.dataset):
                    accumulators[name].add(item.id, frame.scores)
    return {
        name: {"images": scores.num_frames, **{metric: scores.overall().get(metric, math.nan) for metric in metrics}}
        for name, scores in accumulators.items()
    }
