# SPDX-License-Identifier: Apache-2.0
"""Scores of frames, as they come, to scores of videos and of a data set, undefined frames counted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from video_saliency.metrics.metric_inputs import check_option

Average = Literal["frames", "videos", "splits"]
Undefined = Literal["skip", "zero", "propagate", "error"]

AVERAGES = ("frames", "videos", "splits")
UNDEFINED_RULES = ("skip", "zero", "propagate", "error")


@dataclass
class Tally:
    """What a mean needs to go on: the sum of the defined scores, their number, and that of the undefined ones."""

    total: float = 0.0
    num_defined: int = 0
    num_undefined: int = 0

    def add(self, score: float) -> None:
        """Count one frame's score; NaN is undefined."""
        if math.isnan(score):
            self.num_undefined += 1
        else:
            self.total += score
            self.num_defined += 1

    def merge(self, other: Tally) -> None:
        """Count all that `other` counted."""
        self.total += other.total
        self.num_defined += other.num_defined
        self.num_undefined += other.num_undefined

    def mean(self, undefined: str) -> float:
        """Mean under a rule for undefined frames; NaN if nothing is left to average."""
        num_counted = self.num_defined + (self.num_undefined if undefined == "zero" else 0)
        if not num_counted or (undefined == "propagate" and self.num_undefined):
            return math.nan
        return self.total / num_counted


class ScoreAccumulator:
    """Running averages of frame scores: constant memory per video, one call a frame.

    Args:
        average: what `overall` averages: all `"frames"` of all videos together, `"videos"` (frames within each first),
            or `"splits"` (videos within each split first).
        undefined: what a NaN score counts: `"skip"` leaves the frame out (and a video without any defined frame),
            `"zero"` counts it as 0, `"propagate"` makes every average over it NaN, `"error"` refuses it.

    Raises:
        ValueError: unknown option.

    Example:
        >>> scores = ScoreAccumulator(average="videos")
        >>> scores.add("a", {"cc": 0.5})
        >>> scores.add("a", {"cc": float("nan")})
        >>> scores.add("b", {"cc": 0.25})
        >>> scores.overall(), scores.num_undefined()
        ({'cc': 0.375}, {'cc': 1})
    """

    def __init__(self, *, average: Average = "frames", undefined: Undefined = "skip") -> None:
        check_option("average", average, AVERAGES)
        check_option("undefined", undefined, UNDEFINED_RULES)
        self.average = average
        self.undefined = undefined
        self._tallies: dict[tuple[str, str], dict[str, Tally]] = {}
        self._num_frames: dict[tuple[str, str], int] = {}

    def add(self, video: str, scores: Mapping[str, float], *, split: str = "") -> None:
        """Take in one frame's scores by metric.

        Args:
            video: name of the frame's video.
            scores: one number a metric, NaN where it is undefined; every frame of a video has the same metrics.
            split: name of the test split, for `average="splits"`.

        Raises:
            ValueError: a NaN score while `undefined` is `"error"`, or other metrics than before.
        """
        undefined = [metric for metric, score in scores.items() if math.isnan(score)]
        if undefined and self.undefined == "error":
            raise ValueError(
                f"a frame of {video} has no {', '.join(undefined)} (empty truth, or nothing fixated), where this "
                "protocol stops: leave the frame out, or pass another rule than undefined='error'"
            )
        tallies = self._tallies.setdefault((split, video), {metric: Tally() for metric in scores})
        if tallies.keys() != scores.keys():
            raise ValueError(f"{video} was scored with {sorted(tallies)} so far, now with {sorted(scores)}")
        for metric, score in scores.items():
            tallies[metric].add(float(score))
        self._num_frames[split, video] = self._num_frames.get((split, video), 0) + 1

    @property
    def num_frames(self) -> int:
        """Frames taken in."""
        return sum(self._num_frames.values())

    def videos(self) -> dict[str, dict[str, float]]:
        """Mean score of each metric for each video (of all splits that have it), in the order they came."""
        return {video: self._means(tallies) for video, tallies in self._by_video().items()}

    def overall(self, average: Average | None = None) -> dict[str, float]:
        """Score of each metric over everything, averaged as the accumulator is set up or as asked here.

        Raises:
            ValueError: unknown option.
        """
        average = average or self.average
        check_option("average", average, AVERAGES)
        if average == "splits":
            groups = [
                self._mean_of_videos(self._of_split(split)) for split in dict.fromkeys(s for s, _ in self._tallies)
            ]
            return self._mean_of_means(groups)
        if average == "videos":
            return self._mean_of_videos(self._by_video())
        return self._means(_merged(list(self._tallies.values())))

    def num_undefined(self) -> dict[str, int]:
        """Frames without a score, for each metric."""
        return {metric: tally.num_undefined for metric, tally in _merged(list(self._tallies.values())).items()}

    def merge(self, other: ScoreAccumulator) -> None:
        """Take in all that another accumulator took in, as of another process."""
        for key, tallies in other._tallies.items():
            own = self._tallies.setdefault(key, {metric: Tally() for metric in tallies})
            if own.keys() != tallies.keys():
                raise ValueError(f"{key[1]} was scored with {sorted(own)} here and with {sorted(tallies)} there")
            for metric, tally in tallies.items():
                own[metric].merge(tally)
            self._num_frames[key] = self._num_frames.get(key, 0) + other._num_frames[key]

    def state_dict(self) -> dict[str, Any]:
        """All it knows as JSON types, for `load_state_dict` of a resumed run."""
        return {
            "videos": [
                {
                    "split": split,
                    "video": video,
                    "num_frames": self._num_frames[split, video],
                    "metrics": {metric: asdict(tally) for metric, tally in tallies.items()},
                }
                for (split, video), tallies in self._tallies.items()
            ]
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned; what was taken in before is forgotten."""
        self._tallies = {
            (entry["split"], entry["video"]): {metric: Tally(**tally) for metric, tally in entry["metrics"].items()}
            for entry in state["videos"]
        }
        self._num_frames = {(entry["split"], entry["video"]): entry["num_frames"] for entry in state["videos"]}

    def _means(self, tallies: Mapping[str, Tally]) -> dict[str, float]:
        return {metric: tally.mean(self.undefined) for metric, tally in tallies.items()}

    def _by_video(self) -> dict[str, dict[str, Tally]]:
        parts: dict[str, list[dict[str, Tally]]] = {}
        for (_, video), tallies in self._tallies.items():
            parts.setdefault(video, []).append(tallies)
        return {video: _merged(groups) for video, groups in parts.items()}

    def _of_split(self, split: str) -> dict[str, dict[str, Tally]]:
        return {video: tallies for (name, video), tallies in self._tallies.items() if name == split}

    def _mean_of_videos(self, videos: Mapping[str, Mapping[str, Tally]]) -> dict[str, float]:
        return self._mean_of_means([self._means(tallies) for tallies in videos.values()])

    def _mean_of_means(self, groups: list[dict[str, float]]) -> dict[str, float]:
        tallies: dict[str, Tally] = {}
        for group in groups:
            for metric, mean in group.items():
                tallies.setdefault(metric, Tally()).add(mean)
        return self._means(tallies)


def _merged(groups: list[dict[str, Tally]]) -> dict[str, Tally]:
    merged: dict[str, Tally] = {}
    for tallies in groups:
        for metric, tally in tallies.items():
            merged.setdefault(metric, Tally()).merge(tally)
    return merged
