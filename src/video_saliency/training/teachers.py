# SPDX-License-Identifier: Apache-2.0
"""Finished models whose maps stand in for a part of the truth: the mean of several knows more than a few viewers."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from video_saliency.loading import load_model, load_processor

if TYPE_CHECKING:  # it brings PEFT, which the default model's training does without
    from video_saliency.training.training_model import TrainingModel

SAME_INPUT = ("size", "image_mean", "image_std", "rescale_factor")


def as_densities(maps: torch.Tensor) -> torch.Tensor:
    """Maps `(..., height, width)` divided by their sum; those of zeros stay."""
    return maps / maps.sum(dim=(-2, -1), keepdim=True).clamp(min=1e-9)


def mix_densities(truth: torch.Tensor, maps: torch.Tensor, share: float) -> torch.Tensor:
    """Densities of the truth, mixed with the mean density of the teachers (our choice).

    Args:
        truth: `(batch, ..., height, width)`, not negative.
        maps: `(teachers, batch, ..., height, width)`, not negative.
        share: of the teachers in the mixture, 0 to 1.
    """
    return torch.lerp(as_densities(truth), as_densities(maps).mean(dim=0), share)


class Teachers:
    """Models that see what the trained model sees.

    Args:
        names: their folders or Hub ids.
        share: of their maps in the labels.
        training: the trained model.
        device: where they run.

    Raises:
        ValueError: for a teacher with another input or other frames in its window.
    """

    def __init__(self, names: Sequence[str], share: float, training: TrainingModel, device: torch.device) -> None:
        self.share = share
        self.models: list[tuple[Any, set[str]]] = []
        for name in names:
            processor = load_processor(name)
            model = load_model(name).to(device).requires_grad_(False)
            different = [key for key in SAME_INPUT if getattr(processor, key) != getattr(training.processor, key)]
            if model.config.window_spec != training.config.window_spec:
                different.append("window")
            if different:
                raise ValueError(
                    f"model.teachers: {name} differs from the trained model in {', '.join(different)}: a teacher must "
                    "see the same frames"
                )
            self.models.append((model, set(inspect.signature(type(model).forward).parameters)))

    @torch.no_grad()
    def teach(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The inputs with mixed `saliency_labels`, whose sums stay."""
        truth = inputs["saliency_labels"]
        seen = {name: value for name, value in inputs.items() if not name.endswith("_labels")}
        maps = [
            model(**{name: value for name, value in seen.items() if name in accepted}).saliency_maps.float()
            for model, accepted in self.models
        ]
        if maps[0].shape != truth.shape:
            raise ValueError(
                f"model.teachers: maps {tuple(maps[0].shape)} do not fit labels {tuple(truth.shape)}: a teacher must "
                "give maps of the trained model's size"
            )
        mixed = mix_densities(truth, torch.stack(maps), self.share)
        return {**inputs, "saliency_labels": mixed * truth.sum(dim=(-2, -1), keepdim=True)}


__all__ = ["Teachers", "as_densities", "mix_densities"]
