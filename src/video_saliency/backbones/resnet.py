# SPDX-License-Identifier: Apache-2.0
"""ResNet as a trunk: the feature maps of its four stages."""

from __future__ import annotations

import torch
from transformers import ResNetConfig, ResNetModel


class ResNetTrunk(ResNetModel):
    """Returns the outputs of the four stages of a ResNet; no pooling, no classifier.

    The parameter names are those of `transformers.ResNetModel`, so its checkpoints load as they are.

    Under activation checkpointing each stage is run a second time in the backward pass: losses and gradients are
    equal, but in training mode the running statistics of the batch norms move twice per step.
    """

    supports_gradient_checkpointing = True

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__(config)
        del self.pooler
        self.gradient_checkpointing = False

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Feature maps `(batch, hidden_sizes[i], height / stride, width / stride)`, strides 4, 8, 16, 32, rounded up.

        Args:
            pixel_values: `(batch, 3, height, width)` normalised pictures of any size.
        """
        hidden_states = self.embedder(pixel_values)
        stages = []
        for stage in self.encoder.stages:
            if self.gradient_checkpointing and self.training:
                hidden_states = self._gradient_checkpointing_func(stage.__call__, hidden_states)
            else:
                hidden_states = stage(hidden_states)
            stages.append(hidden_states)
        return tuple(stages)


__all__ = ["ResNetTrunk"]
