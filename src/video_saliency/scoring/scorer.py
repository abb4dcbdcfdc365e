# SPDX-License-Identifier: Apache-2.0
"""Scores of the frames of one item after the other: truth and prediction meet, a few frames in memory at a time."""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType

import numpy as np

from video_saliency.baselines import BaselineFrame, CentreBias
from video_saliency.data.base import AnnotatedFrame
from video_saliency.data.densities import fixated_points
from video_saliency.metrics import FrameTruth, OtherFixations, ScoringProtocol, get_protocol, score_frame
from video_saliency.metrics.frame_scorer import choose_metrics
from video_saliency.scoring.map_sources import MapSource
from video_saliency.scoring.scored_items import ScoredItem

FRAMES_PER_WORKER = 2  # in waiting: enough that nobody idles
OWN_CLIP_RULES = ("clip_union", "clip_others")
_ONE = np.ones((1, 1))
_EVERYTHING = FrameTruth(density=_ONE, fixations=_ONE, other=_ONE, baseline=_ONE)


@dataclass(frozen=True)
class ScoredFrame:
    """Scores of one frame by metric, NaN where one is undefined."""

    frame_index: int
    scores: dict[str, float]


class DatasetScorer:
    """Scores predictions for the items of a data set under a protocol. A context manager around the scoring.

    Frames are scored by a pool of threads and come out in order, so that their number changes nothing in the scores.

    Args:
        items: all items, from which the protocol draws frames and the fixations of shuffled AUC.
        protocol: a protocol or the name of a preset.
        metrics: names of the protocol's metrics, or metric keys. Default: all of the protocol's that the truth allows,
            without information gain unless there is a `centre_bias`.
        centre_bias: what information gain compares to.
        workers: threads.
        allow_missing: leave out frames without a prediction instead of refusing them.

    Attributes:
        protocol: the protocol.
        metrics: the names of the metrics that are computed.

    Raises:
        ValueError: no items, unknown names, or metrics that the data set's truth does not allow.
    """

    def __init__(
        self,
        items: Sequence[ScoredItem],
        protocol: ScoringProtocol | str = "mit",
        *,
        metrics: Sequence[str] | None = None,
        centre_bias: CentreBias | None = None,
        workers: int = 1,
        allow_missing: bool = False,
    ) -> None:
        if not items:
            raise ValueError("there are no items to score: choose a part of the data set that is there")
        if workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        self.items = list(items)
        self.protocol = get_protocol(protocol) if isinstance(protocol, str) else protocol
        self.centre_bias = centre_bias
        self.workers, self.allow_missing = workers, allow_missing
        self._chosen = self._choose(metrics)
        self.metrics = tuple(self._chosen)
        self._pool: ThreadPoolExecutor | None = None
        self._everyone: OtherFixations | None = None
        self._bias_at: tuple[tuple[int, int], np.ndarray] | None = None

    def __enter__(self) -> DatasetScorer:
        if self.workers > 1:
            self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix="score")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def frames_of(self, position: int) -> list[int]:
        """Numbers of the frames of an item that the protocol scores."""
        return self._frames[position] if self._frames is not None else self._eligible(self.items[position])

    def score_item(self, position: int, source: MapSource) -> Iterator[ScoredFrame]:
        """Scores of the frames of an item in order.

        Raises:
            ValueError: predictions that are missing or do not fit, damaged files, or an undefined frame under a
                protocol that allows none.
        """
        item, wanted = self.items[position], self.frames_of(position)
        if not wanted:
            return
        others = self._other_fixations(item)
        with contextlib.closing(self._pairs(item, source, wanted)) as pairs:
            tasks = (self._task(item, frame, saliency_map, others) for frame, saliency_map in pairs)
            yield from self._in_order(tasks)

    def _choose(self, names: Sequence[str] | None) -> dict[str, set[str]]:
        """What each metric needs of the truth."""
        available: set[str] = set()
        if any(item.density_files is not None for item in self.items):
            available.add("density")
        if any(item.fixation_files is not None for item in self.items):
            available |= {"fixations", "other"}
        if self.centre_bias is not None:
            available.add("baseline")
        known = choose_metrics(self.protocol, _EVERYTHING, names)
        needs: dict[str, set[str]] = {
            name: {metric.truth, *([metric.needs] if metric.needs else [])} for name, metric in known.items()
        }
        allowed = {name: parts for name, parts in needs.items() if parts <= available}
        refused = [name for name in known if name not in allowed]
        if refused and (names is not None or not allowed):
            lacking = sorted(set.union(*(needs[name] for name in refused)) - available)
            raise ValueError(
                f"{', '.join(refused)} cannot be scored here, there is no {' and no '.join(lacking)}: choose among "
                f"{', '.join(allowed) or 'other data sets'}"
            )
        return allowed

    def _eligible(self, item: ScoredItem) -> list[int]:
        frames = self.protocol.frames_to_score(item.num_frames)
        if not self.protocol.masked_frames:
            return list(frames)
        if item.scored_frames is None:
            raise ValueError(
                f"protocol {self.protocol.name} scores the frames that a mask selects, and {item.dataset} has no "
                "masks: score diem_meta or ledov_meta, or choose another preset"
            )
        return [index for index in item.scored_frames if index in frames]

    @cached_property
    def _frames(self) -> list[list[int]] | None:
        """The frames of all items if the protocol draws some of them all; else each item is asked when it is due."""
        if self.protocol.max_frames is None:
            return None
        eligible = [self._eligible(item) for item in self.items]
        chosen = set(self.protocol.choose_frames(sum(map(len, eligible))).tolist())
        frames, start = [], 0
        for indices in eligible:
            frames.append([index for number, index in enumerate(indices, start) if number in chosen])
            start += len(indices)
        return frames

    def _pairs(
        self, item: ScoredItem, source: MapSource, wanted: Sequence[int]
    ) -> Generator[tuple[AnnotatedFrame, np.ndarray], None, None]:
        """Truth and map of each wanted frame."""
        chosen = set(wanted)
        with contextlib.ExitStack() as stack:
            maps = source.maps(item, wanted)
            annotations = item.annotations(0, wanted[-1] + 1)
            for generator in (maps, annotations):  # they hold files open
                if hasattr(generator, "close"):
                    stack.callback(generator.close)
            predicted = next(maps, None)
            for frame in annotations:
                if frame.frame_index not in chosen:
                    continue
                while predicted is not None and predicted[0] < frame.frame_index:
                    predicted = next(maps, None)
                if predicted is not None and predicted[0] == frame.frame_index:
                    yield source.truth(item, frame), predicted[1]
                elif not self.allow_missing:
                    raise ValueError(
                        f"{item.id} has no prediction for frame {frame.frame_index} (from 0)"
                        f"{' and all after it' if predicted is None else ''}: predict the whole clip, or pass "
                        "--allow-missing to leave such frames out"
                    )
            last = max([-1 if predicted is None else predicted[0], *(index for index, _ in maps)])
        if last >= item.num_frames:
            raise ValueError(
                f"the prediction for {item.id} has frame {last}, the clip only {item.num_frames} frames (from 0): "
                "predict the same clip"
            )

    def _task(
        self, item: ScoredItem, frame: AnnotatedFrame, saliency_map: np.ndarray, others: OtherFixations | None
    ) -> Callable[[], ScoredFrame]:
        """The scoring of one frame, ready to be run in any thread: what needs an order is done here."""
        truth = self._truth(item, frame, others)
        known = {part for part in ("density", "fixations", "other", "baseline") if getattr(truth, part) is not None}
        names = [name for name, needs in self._chosen.items() if needs <= known]

        def score() -> ScoredFrame:
            scores = dict.fromkeys(self.metrics, math.nan)
            try:
                if names:
                    scores |= score_frame(saliency_map, truth, self.protocol, metrics=names)
            except ValueError as error:
                raise ValueError(f"{item.id}, frame {frame.frame_index}: {error}") from error
            undefined = [name for name, value in scores.items() if math.isnan(value)]
            if undefined and self.protocol.undefined == "error":
                raise ValueError(
                    f"{item.id}, frame {frame.frame_index} has no {', '.join(undefined)} (empty truth, or nothing "
                    f"fixated), where protocol {self.protocol.name} stops: choose another preset"
                )
            return ScoredFrame(frame.frame_index, scores)

        return score

    def _truth(self, item: ScoredItem, frame: AnnotatedFrame, others: OtherFixations | None) -> FrameTruth:
        points = None if frame.fixations is None else fixated_points(frame.fixations)
        sizes = [
            part.shape for part in (frame.density, frame.fixations) if part is not None and part.shape[1:] != (2,)
        ]
        size = sizes[0] if sizes else item.size
        if size is None:
            raise ValueError(f"{item.id} has neither frames nor maps that tell its size: restore the data set")
        grid = (int(size[0]), int(size[1]))
        other = None
        if others is not None and points is not None:
            rule, number = self.protocol.other_rule, self.protocol.num_other_frames
            other = others.other(rule, item.id, frame.frame_index, grid, num_frames=number)
        baseline = None if self.centre_bias is None else self._bias(self.centre_bias, grid)
        return FrameTruth(frame.density, points, other, baseline, grid)

    def _bias(self, centre_bias: CentreBias, grid: tuple[int, int]) -> np.ndarray:
        if self._bias_at is None or self._bias_at[0] != grid:
            self._bias_at = (grid, centre_bias.predict(BaselineFrame(grid)))
        return self._bias_at[1]

    def _other_fixations(self, item: ScoredItem) -> OtherFixations | None:
        """The pool of shuffled AUC: of the clip alone where the protocol needs no more, else of everything."""
        if not any("other" in needs for needs in self._chosen.values()):
            return None
        if self.protocol.other_rule in OWN_CLIP_RULES:
            return self._pool_of([item])
        if self._everyone is None:
            self._everyone = self._pool_of(self.items)
        return self._everyone

    def _pool_of(self, items: Sequence[ScoredItem]) -> OtherFixations:
        pool = OtherFixations(seed=self.protocol.seed)
        for item in items:
            for index, fixations in enumerate(item.load_fixations(range(item.num_frames))):
                points = np.zeros((0, 2), dtype=np.int64) if fixations is None else fixated_points(fixations)
                is_mask = fixations is not None and fixations.dtype == bool
                size = fixations.shape if fixations is not None and is_mask else item.size
                if size is not None:
                    pool.add(item.id, index, points, (size[0], size[1]))
        return pool

    def _in_order(self, tasks: Iterable[Callable[[], ScoredFrame]]) -> Iterator[ScoredFrame]:
        if self._pool is None:
            yield from (task() for task in tasks)
            return
        waiting: deque[Future[ScoredFrame]] = deque()
        try:
            for task in tasks:
                waiting.append(self._pool.submit(task))
                if len(waiting) > self.workers * FRAMES_PER_WORKER:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
