# SPDX-License-Identifier: Apache-2.0
"""Flow of moved pictures is known: what the camera does is taken out, what moves by itself stays."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from video_saliency.backbones.lucas_kanade import LucasKanadeFlow

SIZE = (96, 128)


def texture(seed: int, size: tuple[int, int] = (140, 180)) -> torch.Tensor:
    """`(3, *size)` in 0..1: noise at several scales, as natural pictures have it."""
    generator = torch.Generator().manual_seed(seed)
    picture = torch.zeros(1, 3, *size)
    for scale in (2, 4, 8, 16):
        coarse = torch.rand(1, 3, size[0] // scale + 2, size[1] // scale + 2, generator=generator)
        picture += F.interpolate(coarse, size=size, mode="bicubic", align_corners=False)
    return (2.5 * (picture[0] / 4 - 0.5) + 0.5).clamp(0, 1)


def view(picture: torch.Tensor, shift_xy: tuple[float, float] = (0.0, 0.0), zoom: float = 1.0) -> torch.Tensor:
    """`(1, 3, *SIZE)`: what a camera sees that is moved by so many pixels."""
    height, width = picture.shape[-2:]
    theta = torch.tensor(
        [
            [SIZE[1] / width / zoom, 0.0, 2 * shift_xy[0] / width],
            [0.0, SIZE[0] / height / zoom, 2 * shift_xy[1] / height],
        ]
    )
    grid = F.affine_grid(theta[None], [1, 3, *SIZE], align_corners=False)
    return F.grid_sample(picture[None], grid, align_corners=False)


def with_square(frame: torch.Tensor, left: float, top: int = 40, side: int = 20) -> torch.Tensor:
    """The frame with a textured square; `left` may be a fraction."""
    square = F.interpolate(texture(9, (side, side))[None], size=(side, side))
    theta = torch.tensor(
        [
            [SIZE[1] / side, 0.0, (SIZE[1] - 2 * (left + side / 2)) / side],
            [0.0, SIZE[0] / side, (SIZE[0] - 2 * (top + side / 2)) / side],
        ]
    )
    grid = F.affine_grid(theta[None], [1, 3, *SIZE], align_corners=False)
    inside = (grid.abs() <= 1).all(dim=-1)[:, None].float()
    return frame * (1 - inside) + F.grid_sample(square, grid, align_corners=False) * inside


def flow_between(start: torch.Tensor, end: torch.Tensor, **options: bool) -> torch.Tensor:
    backend = LucasKanadeFlow(**options)
    return backend.match(backend.encode(start), backend.encode(end), SIZE)


@pytest.mark.parametrize("shift_xy", [(1.0, 0.0), (-0.5, 0.8), (5.0, -2.0), (11.0, 6.0)])
def test_a_pan_is_found_and_taken_out(shift_xy):
    picture = texture(0)
    start, end = view(picture), view(picture, shift_xy)
    # the camera goes right, so the picture goes left
    expected = -torch.tensor(shift_xy)
    found = flow_between(start, end, remove_camera=False)[0].flatten(1).median(dim=1).values
    torch.testing.assert_close(found, expected, atol=0.15, rtol=0.03)
    residual = flow_between(start, end)[0].norm(dim=0)
    assert residual.mean() < 0.05 * torch.tensor(shift_xy).norm()


def test_a_zoom_is_taken_out():
    picture = texture(1)
    residual = flow_between(view(picture), view(picture, zoom=1.04))[0].norm(dim=0)
    assert residual.mean() < 0.03 and residual[20:-20, 20:-20].max() < 0.5


@pytest.mark.parametrize("pan_xy", [(0.0, 0.0), (4.0, 1.0)], ids=["still camera", "panning camera"])
@pytest.mark.parametrize("step", [1.5, 3.0, 6.0])
def test_what_moves_by_itself_has_flow(step, pan_xy):
    """The square moves by `step` against the picture, whatever the camera does."""
    picture = texture(2)
    start = with_square(view(picture), 50.0)
    end = with_square(view(picture, pan_xy), 50.0 + step - pan_xy[0], top=40 - round(pan_xy[1]))
    flow = flow_between(start, end)[0]
    inside = flow[:, 44:56, 54:66].flatten(1).median(dim=1).values
    assert 0.1 * step < inside[0] < 1.5 * step and abs(inside[1]) < 0.35 * step
    magnitude = flow.norm(dim=0)
    surroundings = torch.cat([magnitude[:30].flatten(), magnitude[70:].flatten()])
    assert magnitude[42:58, 52:68].mean() > 5 * surroundings.mean()


def test_equal_frames_have_no_flow_at_all():
    frame = view(texture(3))
    assert torch.equal(flow_between(frame, frame), torch.zeros(1, 2, *SIZE))
    black = torch.zeros(2, 3, *SIZE)
    assert torch.equal(flow_between(black, black), torch.zeros(2, 2, *SIZE))


def test_a_cut_has_no_flow():
    assert torch.equal(flow_between(view(texture(4)), view(texture(5))), torch.zeros(1, 2, *SIZE))


@pytest.mark.parametrize(
    "change",
    [lambda x: 0.85 * x, lambda x: 0.5 * x, lambda x: 0.25 * x + 0.6, lambda x: (x + 0.1).clamp(0, 1)],
    ids=["fade", "quick fade", "fade to white", "flash"],
)
def test_light_that_changes_is_no_motion(change):
    frame = view(texture(6))
    assert flow_between(change(frame), frame)[0].norm(dim=0).mean() < 0.05
    assert flow_between(frame, change(frame))[0].norm(dim=0).mean() < 0.05


def test_noise_is_no_motion():
    generator = torch.Generator().manual_seed(0)
    frame = view(texture(7))
    noisy = [(frame + 0.02 * torch.randn(frame.shape, generator=generator)).clamp(0, 1) for _ in range(2)]
    assert flow_between(*noisy)[0].norm(dim=0).mean() < 0.05


def test_pairs_of_a_batch_do_not_see_each_other():
    frames = torch.cat([view(texture(8), (shift, 0.0)) for shift in (0.0, 2.0, 5.0)])
    together = flow_between(frames[:2], frames[1:], remove_camera=False)
    for index in range(2):
        alone = flow_between(frames[index : index + 1], frames[index + 1 : index + 2], remove_camera=False)
        torch.testing.assert_close(together[index : index + 1], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [(8, 8), (33, 47), (1, 5), (360, 640)])
def test_any_size_works(size):
    backend = LucasKanadeFlow()
    frames = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))
    encoded = backend.encode(frames)
    flow = backend.match([part[:1] for part in encoded], [part[1:] for part in encoded], size)
    assert flow.shape == (1, 2, *size) and torch.isfinite(flow).all()
