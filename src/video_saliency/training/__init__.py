# SPDX-License-Identifier: Apache-2.0
"""What training needs besides the models and the data."""

from __future__ import annotations

from video_saliency.training.still_augmentation import augment_stills

__all__ = ["augment_stills"]
