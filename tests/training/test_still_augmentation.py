# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import torch

from video_saliency.training.still_augmentation import StillAugmentation, augment_stills


def test_augmented_density_follows_the_picture() -> None:
    """A picture that is bright where its density is: so must every view be, however cut or recoloured."""
    rows, columns = torch.meshgrid(torch.arange(40.0), torch.arange(56.0), indexing="ij")
    blob = torch.exp(-((rows - 12) ** 2 + (columns - 40) ** 2) / 50)
    images = (blob * 250).to(torch.uint8).expand(64, 3, 40, 56)
    views, densities = augment_stills(
        images, blob.expand(64, 40, 56), (30, 42), generator=torch.Generator().manual_seed(0)
    )
    assert views.shape == (64, 3, 30, 42) and densities.shape == (64, 30, 42)
    assert views.min() >= 0 and views.max() <= 255
    for view, density in zip(views.mean(dim=1), densities, strict=True):
        assert torch.corrcoef(torch.stack([view.flatten(), density.flatten()]))[0, 1] > 0.8


def test_the_same_generator_gives_the_same_views() -> None:
    images = torch.randint(0, 256, (6, 3, 20, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    views = [
        augment_stills(images, torch.ones(6, 10, 14), (16, 24), generator=torch.Generator().manual_seed(seed))[0]
        for seed in (7, 7, 8)
    ]
    assert torch.equal(views[0], views[1]) and not torch.equal(views[0], views[2])


@pytest.mark.parametrize("size", [(8, 8), (9, 40), (40, 9), (13, 22), (60, 80)])
def test_every_change_fits_small_pictures(size) -> None:
    changes = ("letterbox", "fade", "grey", "blur", "noise", "lower_resolution", "compression", "logo")
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 3, *size), dtype=torch.uint8, generator=generator)
    views, densities = augment_stills(
        images,
        torch.ones(40, *size),
        size,
        generator=generator,
        augmentation=StillAugmentation(**dict.fromkeys(changes, 1.0)),
    )
    assert views.shape == (40, 3, *size) and densities.shape == (40, *size)
    assert views.isfinite().all() and views.min() >= 0 and views.max() <= 255
