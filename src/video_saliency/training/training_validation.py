# SPDX-License-Identifier: Apache-2.0
"""Validation in the middle of training: the project's metrics on evenly spaced windows, shared out over processes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from PIL import Image

from video_saliency.data import SaliencyItem, fixated_points
from video_saliency.metrics import FrameTruth, get_protocol, score_frame
from video_saliency.metrics.registry import METRICS
from video_saliency.training.training_arguments import ValidationArguments
from video_saliency.training.training_batches import SampleKey
from video_saliency.training.training_checkpoints import is_sharded
from video_saliency.training.training_data import (
    WindowDataset,
    WindowSettings,
    collate_windows,
)
from video_saliency.training.training_inputs import InputMaker
from video_saliency.training.training_model import TrainingModel
from video_saliency.visualization import colorize


@dataclass(frozen=True)
class ValidationResult:
    """Scores of a validation.

    Attributes:
        scores: means over clips of their means over frames, by name; `loss` is the training loss without changes of
            the pictures. NaN where nothing could be scored.
        num_frames: scored.
        num_clips: scored.
    """

    scores: dict[str, float]
    num_frames: int
    num_clips: int


class Validator:
    """Scores a model on windows of clips.

    Args:
        items: clips and stills.
        training: the model.
        settings: of the training windows; nothing is drawn and nothing changed here, and the model's window counts.
        windows: of each clip.
        arguments: which metrics.
        batch_size: windows in one forward.
        accelerator: of the run.
    """

    def __init__(
        self,
        items: Sequence[SaliencyItem],
        training: TrainingModel,
        settings: WindowSettings,
        *,
        windows: int,
        arguments: ValidationArguments,
        batch_size: int,
        accelerator: Accelerator,
    ) -> None:
        even = replace(
            settings,
            spec=training.config.window_spec,
            windows=windows,
            is_random=False,
            augmentation=None,
            synthetic_motion=False,
        )
        self.dataset = WindowDataset(items, training.processor, even)
        self.training, self.arguments, self.accelerator = training, arguments, accelerator
        self.protocol = get_protocol(arguments.protocol)
        self._check_metrics()
        self.batch_size = batch_size
        self.inputs = InputMaker(training, accelerator.device)

    def run(self, model: Any) -> ValidationResult:
        """Scores of the model as it is now; the same in all processes, and all must call it.

        Args:
            model: as Accelerate prepared it.
        """
        network = self._evaluated(model)
        rows: list[tuple[int, int, dict[str, float]]] = []
        losses: list[tuple[float, int]] = []
        for keys, batch in self._batches():
            with torch.no_grad(), self.accelerator.autocast():
                outputs = network(**self.inputs.make(batch))
            maps = outputs.saliency_maps.float().cpu().numpy()
            losses += [(float(outputs.loss), len(keys))] if keys else []
            for key, predicted in zip(keys, maps[: len(keys)], strict=True):
                rows += self._score(key, predicted)
        return self._averages(gather_object(rows), gather_object(losses))

    def value(self, result: ValidationResult) -> float:
        """The score by which models are compared: larger is better."""
        name = self.arguments.select_by
        is_lower_better = name == "loss" or METRICS[self.protocol.metrics.get(name, name)].lower_is_better
        return -result.scores[name] if is_lower_better else result.scores[name]

    def _check_metrics(self) -> None:
        for name in self.arguments.metrics:
            metric = METRICS.get(self.protocol.metrics.get(name, name))
            if metric is None or metric.needs:
                reason = "it is unknown" if metric is None else f"it needs {metric.needs}: use `score` after training"
                raise ValueError(f"validation.metrics {name!r} cannot be scored here, {reason}")

    def _evaluated(self, model: Any) -> Any:
        """What computes the maps, in evaluation mode and with the statistics of the main process, which are saved.

        Not the wrapper of several processes: its forwards wait for each other, and there may be fewer batches than
        processes. A model that is split over processes has no other forward.
        """
        if self.accelerator.num_processes > 1:
            for buffer in self.training.model.buffers():
                if buffer.is_floating_point():
                    torch.distributed.broadcast(buffer, 0)
        network = model if is_sharded(self.accelerator) else self.training.model
        network.eval()  # returns nothing with DeepSpeed
        return network

    def _batches(self) -> Iterator[tuple[list[SampleKey], dict[str, Any]]]:
        """Batches of this process: every n-th.

        Of a model that is split, all processes must compute equally often: who has no batch left takes the first one,
        without keys, because it is another process's.
        """
        process, count = self.accelerator.process_index, self.accelerator.num_processes
        starts = range(0, len(self.dataset), self.batch_size)
        own = [(start, True) for start in starts[process::count]]
        if is_sharded(self.accelerator):
            own += [(0, False)] * (math.ceil(len(starts) / count) - len(own))
        for start, is_counted in own:
            keys = [SampleKey(0, number) for number in range(start, min(start + self.batch_size, len(self.dataset)))]
            yield keys if is_counted else [], collate_windows([self.dataset[key] for key in keys])

    def _score(self, key: SampleKey, predicted: np.ndarray) -> Iterator[tuple[int, int, dict[str, float]]]:
        """The item's position, the frame and its scores, for each described frame; a repeated one counts once.

        They are scored against the truth at its own size.
        """
        item, place = self.dataset.place(key)
        frames = [place.frames[position] for position in place.described]
        truths = zip(frames, item.load_densities(frames), item.load_fixations(frames), predicted, strict=True)
        seen: set[int] = set()
        for frame, density, fixations, saliency_map in truths:
            if frame in seen:
                continue
            seen.add(frame)
            points = None if fixations is None else fixated_points(fixations)
            size = density.shape if density is not None else item.size
            if fixations is not None and fixations.dtype == bool:
                size = fixations.shape
            if size is None or (density is not None and density.shape != tuple(size)):
                continue
            truth = FrameTruth(density, points, size=(int(size[0]), int(size[1])))
            keys = {name: self.protocol.metrics.get(name, name) for name in self.arguments.metrics}
            names = [name for name, metric in keys.items() if _allows(truth, metric)]
            if names:
                scores = score_frame(saliency_map, truth, self.protocol, metrics=names)
                yield self.dataset.position(key), frame, scores

    def _averages(
        self, rows: list[tuple[int, int, dict[str, float]]], losses: list[tuple[float, int]]
    ) -> ValidationResult:
        clips: dict[int, dict[str, list[float]]] = {}
        for clip, _, scores in sorted(rows, key=lambda row: row[:2]):
            for name, score in scores.items():
                if not math.isnan(score):
                    clips.setdefault(clip, {}).setdefault(name, []).append(score)
        averages = {}
        for name in self.arguments.metrics:
            means = [math.fsum(parts[name]) / len(parts[name]) for parts in clips.values() if name in parts]
            averages[name] = math.fsum(means) / len(means) if means else math.nan
        weight = sum(count for _, count in losses)
        averages["loss"] = math.fsum(loss * count for loss, count in losses) / weight if weight else math.nan
        return ValidationResult(averages, len(rows), len(clips))

    def sample_pictures(self, model: Any, count: int) -> list[tuple[str, Image.Image]]:
        """Name and picture of some windows: the described frame, people's density and the prediction in a row.

        All processes must call it: a model that is split over them computes in all of them.

        Args:
            model: as Accelerate prepared it.
            count: of windows.
        """
        network = self._evaluated(model)
        pictures = []
        numbers = [index * len(self.dataset) // count for index in range(min(count, len(self.dataset)))]
        for number in numbers:
            sample = self.dataset[SampleKey(0, number)]
            with torch.no_grad(), self.accelerator.autocast():
                outputs = network(**self.inputs.make(collate_windows([sample])))
            _, place = self.dataset.place(SampleKey(0, number))
            middle = len(place.described) // 2
            frame = sample["frames"][place.described[middle]].permute(1, 2, 0).numpy()
            maps = [sample["saliency_labels"][middle].numpy(), outputs.saliency_maps[0, middle].float().cpu().numpy()]
            row = [frame, *(_coloured(values, frame.shape[:2]) for values in maps)]
            pictures.append((sample["id"], Image.fromarray(np.concatenate(row, axis=1))))
        return pictures


def _allows(truth: FrameTruth, name: str) -> bool:
    """Whether a frame's truth suffices for a metric."""
    if METRICS[name].truth == "density":
        return truth.density is not None and bool(np.any(truth.density))
    return truth.fixations is not None and len(truth.fixations) > 0


def _coloured(values: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """uint8 RGB of a map at `size`, its maximum the brightest colour."""
    peak = float(values.max())
    return colorize(values / peak if peak > 0 else values, size=(size[0], size[1]))


__all__ = ["ValidationResult", "Validator"]
