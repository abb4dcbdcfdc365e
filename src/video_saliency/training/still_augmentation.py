# SPDX-License-Identifier: Apache-2.0
"""Random variants of still images and their fixation densities, as tensors and in batches."""

from __future__ import annotations

import torch
import torch.nn.functional as F

# Share of the pictures that each change is applied to; the strengths are in the functions. Our choice.
LETTERBOX_SHARE = 0.1
GREY_SHARE = 0.1
BLUR_SHARE = 0.15
NOISE_SHARE = 0.2


def augment_stills(
    images: torch.Tensor, densities: torch.Tensor, size: tuple[int, int], *, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and densities at `size`: flipped, cropped, letterboxed alike; then colours, blur and noise.

    Args:
        images: uint8 `(batch, 3, height, width)`.
        densities: float `(batch, height, width)`, of any resolution.
        size: (height, width) of the result.
        generator: source of all randomness, on the CPU.

    Returns:
        Float images `(batch, 3, *size)` in 0..255, and densities `(batch, *size)` that no longer sum to 1.
    """
    theta = _random_views(len(images), generator)
    grid = F.affine_grid(theta, [len(images), 1, *size], align_corners=False)
    # Outside the picture: black bars, where nobody looks.
    views = F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    density_views = F.grid_sample(densities[:, None], grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    views = _random_noise(_random_blur(_random_colours(views, generator), generator), generator)
    return views.clamp(0, 255), density_views[:, 0]


def _random_views(batch: int, generator: torch.Generator) -> torch.Tensor:
    """Affine maps `(batch, 2, 3)` from the result to the source: crop of 70 to 100 %, shift, flip, or black bars."""
    side = _uniform(batch, 0.7, 1.0, generator)
    aspect = _uniform(batch, -0.15, 0.15, generator).exp()
    scale = torch.stack([side * aspect, side / aspect], dim=1).clamp(max=1.0)  # x, y: share of the source that is seen
    shift = (1 - scale) * (2 * torch.rand(batch, 2, generator=generator) - 1)
    bars = _uniform(batch, 1.1, 1.45, generator)
    chosen = torch.rand(batch, generator=generator)
    letterboxed, pillarboxed = chosen < LETTERBOX_SHARE * 0.7, (chosen > 1 - LETTERBOX_SHARE * 0.3)
    scale[:, 1] = torch.where(letterboxed, bars, scale[:, 1])
    scale[:, 0] = torch.where(pillarboxed, bars, scale[:, 0])
    shift[letterboxed, 1] = 0.0
    shift[pillarboxed, 0] = 0.0
    flip = 1.0 - 2.0 * (torch.rand(batch, generator=generator) < 0.5)
    theta = torch.zeros(batch, 2, 3)
    theta[:, 0, 0], theta[:, 0, 2] = scale[:, 0] * flip, shift[:, 0]
    theta[:, 1, 1], theta[:, 1, 2] = scale[:, 1], shift[:, 1]
    return theta


def _random_colours(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Contrast and brightness within 30 %, a colour cast within 8 %, saturation from none to 150 %."""
    batch = len(images)

    def draw(low: float, high: float, channels: int = 1) -> torch.Tensor:
        return _uniform(batch * channels, low, high, generator).reshape(batch, channels, 1, 1)

    grey = images.mean(dim=1, keepdim=True)
    saturation = torch.where(draw(0, 1) < GREY_SHARE, torch.zeros(batch, 1, 1, 1), draw(0.5, 1.5))
    mean = grey.mean(dim=(2, 3), keepdim=True)
    images = grey + (images - grey) * saturation
    images = mean + (images - mean) * draw(0.7, 1.3)
    return images * draw(0.7, 1.3) * draw(0.92, 1.08, channels=3)


def _random_blur(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    chosen = torch.rand(len(images), generator=generator) < BLUR_SHARE
    if chosen.any():
        soft = F.avg_pool2d(images[chosen], 3, stride=1, padding=1, count_include_pad=False)
        images[chosen] = F.avg_pool2d(soft, 3, stride=1, padding=1, count_include_pad=False)
    return images


def _random_noise(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    chosen = torch.rand(len(images), generator=generator) < NOISE_SHARE
    if chosen.any():
        noise = torch.randn(images[chosen].shape, generator=generator)
        images[chosen] += noise * _uniform(int(chosen.sum()), 2.0, 15.0, generator).reshape(-1, 1, 1, 1)
    return images


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> torch.Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)
