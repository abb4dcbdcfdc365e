# SPDX-License-Identifier: Apache-2.0
"""What every video saliency model returns."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput


@dataclass
class VideoSaliencyOutput(ModelOutput):
    """Saliency maps of a batch of clips.

    Attributes:
        loss: scalar training loss; only when labels were given.
        logits: `(batch, described frames, height, width)`, the maps before their last activation, on the model's own
            scale; `None` for a model that has no such tensor (its docstring says so).
        saliency_maps: `(batch, described frames, height, width)` float, 0 or more, on the model's own scale. The
            window of the model's config says which frames are described.
        hidden_states: features of the backbone, one tensor per stage; only when asked for.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    saliency_maps: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None


__all__ = ["VideoSaliencyOutput"]
