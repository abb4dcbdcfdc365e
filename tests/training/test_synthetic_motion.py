# SPDX-License-Identifier: Apache-2.0
"""Pairs made of stills: the picture and its truth move together, cut-outs go where they are said to go."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from video_saliency.backbones.lucas_kanade import LucasKanadeFlow
from video_saliency.training.still_augmentation import StillAugmentation
from video_saliency.training.synthetic_motion import SyntheticMotion, synthetic_pairs

SIZE = (72, 96)
UNTOUCHED = StillAugmentation(
    smallest_side=1.0, aspect=0.0, letterbox=0.0, contrast=0.0, brightness=0.0, grey=0.0, blur=0.0, noise=0.0
)
NO_CUT_OUTS = SyntheticMotion(photograph=0.0, cut_outs=0.0)
MOVERS = SyntheticMotion(
    photograph=0.0, still_camera=1.0, cut_outs=1.0, mover=1.0, slowest=3.0, fastest=3.0, smallest_cut_out=0.25
)


def pictures(batch: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(batch, 3, 14, 18, generator=generator) * 255
    return torch.nn.functional.interpolate(coarse, size=(84, 112), mode="bicubic").clamp(0, 255).to(torch.uint8)


def pairs(motion: SyntheticMotion, batch: int = 16, seed: int = 0, **augmentation: float):
    return synthetic_pairs(
        pictures(batch),
        torch.rand(batch, 36, 48, generator=torch.Generator().manual_seed(1)),
        SIZE,
        generator=torch.Generator().manual_seed(seed),
        motion=motion,
        augmentation=dataclasses.replace(UNTOUCHED, **augmentation),
    )


def flow_of(before: torch.Tensor, now: torch.Tensor, **options: bool) -> torch.Tensor:
    backend = LucasKanadeFlow(**options)
    return backend.match(backend.encode(now / 255), backend.encode(before / 255), SIZE)


@pytest.mark.parametrize("motion", [NO_CUT_OUTS, MOVERS, SyntheticMotion()], ids=["camera", "movers", "all"])
def test_shapes_and_ranges(motion):
    before, now, truth = pairs(motion, letterbox=0.5, noise=0.5, compression=0.5, logo=0.5)
    assert before.shape == now.shape == (16, 3, *SIZE) and truth.shape == (16, *SIZE)
    assert min(before.min(), now.min()) >= 0 and max(before.max(), now.max()) <= 255
    torch.testing.assert_close(truth.sum(dim=(1, 2)), torch.ones(16))
    assert truth.min() >= 0


def test_photographs_keep_still_to_the_bit():
    before, now, _ = pairs(SyntheticMotion(photograph=1.0), noise=1.0)
    assert torch.equal(before, now)


def test_the_camera_moves_everything_and_nothing_else_moves():
    before, now, _ = pairs(dataclasses.replace(NO_CUT_OUTS, still_camera=0.0, pan=1.0, zoom=0.0), batch=32)
    assert (before - now).abs().mean(dim=(1, 2, 3)).min() > 0
    whole = flow_of(before, now, remove_camera=False)[:, :, 12:-12, 12:-12].norm(dim=1).mean(dim=(1, 2))
    residual = flow_of(before, now)[:, :, 12:-12, 12:-12].norm(dim=1).mean(dim=(1, 2))
    assert whole.median() > 1 and residual.median() < 0.1


def test_movers_go_as_far_as_they_are_told_and_gaze_follows():
    before, now, truth = pairs(MOVERS, batch=32)
    flow = flow_of(before, now)
    hits = 0
    for index in range(32):
        row, column = divmod(int(truth[index].argmax()), SIZE[1])
        hits += bool(1.5 < flow[index, :, row, column].norm() < 4.5)
    assert hits >= 24  # the rest lies at the border, or on a like background
    assert truth.flatten(1).max(dim=1).values.median() > 5 / (SIZE[0] * SIZE[1])


def test_bars_keep_still_and_are_not_looked_at():
    before, now, truth = pairs(dataclasses.replace(NO_CUT_OUTS, still_camera=0.0, pan=1.0, zoom=0.0), letterbox=1.0)
    bars = now.amax(dim=1) == 0
    assert bars.float().mean(dim=(1, 2)).min() > 0.05
    assert before.amax(dim=1)[bars].max() == 0 and truth[bars].max() == 0


def test_the_same_generator_gives_the_same_pairs():
    first, second, other = (pairs(SyntheticMotion(), seed=seed)[1] for seed in (3, 3, 4))
    assert torch.equal(first, second) and not torch.equal(first, other)
