# SPDX-License-Identifier: Apache-2.0
"""From collated samples to the arguments of a model's forward, on its device."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from video_saliency.training.training_model import TrainingModel


class InputMaker:
    """Makes inputs for one model.

    Args:
        training: the model and its processor.
        device: where it is.
    """

    def __init__(self, training: TrainingModel, device: torch.device) -> None:
        self.training, self.device = training, device
        # of the class: Accelerate may have wrapped that of the object
        self.accepted = set(inspect.signature(type(training.network).forward).parameters)

    def make(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Normalised frames, labels, and what else the model takes of `batch`.

        Args:
            batch: as `collate_windows` makes it: `frames` uint8 `(batch, frames, 3, h, w)` and so on.
        """
        normalize = self.training.processor.normalize_frames
        inputs = {"pixel_values_videos": normalize(batch["frames"], device=self.device)}
        for name in ("saliency_labels", "fixation_labels", "audio_values"):
            if name in batch and name in self.accepted:
                inputs[name] = batch[name].to(self.device)
        if "flow" in batch:
            inputs["flow_values"] = self.training.network.flow_values_from(batch["flow"].to(self.device))
        elif "neighbours" in batch:
            inputs["flow_values"] = self._flow(batch["frames"], batch["neighbours"])
        return inputs

    def _flow(self, frames: torch.Tensor, neighbours: torch.Tensor) -> torch.Tensor:
        """Flow images `(batch, 1, 3, h, w)` of windows of one frame, from it to its neighbour."""
        network = self.training.network
        encoded = [network.encode_for_flow(clip[:, 0].to(self.device).float() / 255) for clip in (frames, neighbours)]
        height, width = frames.shape[-2:]
        flow: torch.Tensor = network.flow_values_between(encoded[0], encoded[1], (height, width))
        return flow[:, None].float()


__all__ = ["InputMaker"]
