# SPDX-License-Identifier: Apache-2.0
"""Optical flow without weights: camera motion by direct alignment, then Lucas and Kanade on what remains.

Lucas and Kanade, "An iterative image registration technique", IJCAI 1981; the update that keeps the gradients of one
picture is that of Baker and Matthews, "Lucas-Kanade 20 years on", IJCV 2004. The order of the steps, the sizes and the
thresholds are our choice: this flow need not be exact, it has to say what moves against its surroundings, and to stay
silent otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from video_saliency.backbones.box_filter import box_mean

LUMINANCE = (0.299, 0.587, 0.114)
LEVELS = 3  # halves of the finest size, which is half the input
CAMERA_STEPS = (2, 4, 4)  # finest level first: there only little is left to do
FLOW_STEPS = 3
SEARCH_RADIUS = 3  # pixels at the middle level
NOISE = 0.02  # deviation of the noise of a picture in 0..1
CUT_CORRELATION = 0.3  # pictures that agree less than this do not follow each other


class LucasKanadeFlow(nn.Module):
    """Optical flow between neighbouring frames in plain torch; it has no weights.

    Args:
        remove_camera: whether the motion of the camera (an affine map of the whole picture) is taken out, so that only
            what moves by itself has flow.

    `encode` works on each frame once, `match` on two encoded frames: over a clip nothing is computed twice.
    """

    def __init__(self, *, remove_camera: bool = True) -> None:
        super().__init__()
        self.remove_camera = remove_camera

    def encode(self, frames: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What `match` needs of each frame: three sizes of its brightness less its local mean, finest first.

        Args:
            frames: `(frames, 3, height, width)` RGB in 0..1.
        """
        grey = torch.einsum("c,nchw->nhw", frames.new_tensor(LUMINANCE), frames)[:, None]
        levels = []
        for _ in range(LEVELS):
            grey = F.avg_pool2d(grey, 2, ceil_mode=True)
            # without the local mean fades and flashes do not look like motion
            levels.append(grey - box_mean(grey, 9))
        return tuple(levels)

    def match(self, start: Sequence[torch.Tensor], end: Sequence[torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
        """Flow `(frames, 2, height, width)` in pixels at `size`, x first, from the frames `start` to those of `end`.

        Args:
            start: encoded frames, on whose grid the flow lies.
            end: as many encoded frames.
            size: (height, width) of the flow; that of the frames, usually.
        """
        start, end = _same_contrast(start, end)
        camera = self._camera(start, end)
        aligned = [_sample(picture, _affine_field(camera, picture)) for picture in end]
        flow = self._search(start[1], aligned[1])
        for template, target in ((start[1], aligned[1]), (start[0], aligned[0])):
            flow = _enlarge(flow, template.shape[-2:])
            flow = _refine(flow, template, target)
        camera_field = _affine_field(camera, start[0])
        flow = flow * _confidence(flow, start[0], aligned[0]) * _seen_before(camera_field)
        follows = _correlation(start[0], _sample(aligned[0], flow)) > CUT_CORRELATION
        if not self.remove_camera:
            flow = flow + camera_field
        flow = torch.where(follows[:, None, None, None], flow, torch.zeros_like(flow))
        return _enlarge(flow, size)

    def _camera(self, start: Sequence[torch.Tensor], end: Sequence[torch.Tensor]) -> torch.Tensor:
        """Six numbers a pair, `(frames, 6)`: the affine map that brings most of the picture into line.

        They are shares of half the width and height, so that they hold at every size. A translation found by phase
        correlation is where the search starts, if it is better than none.
        """
        camera = _phase_shift(start[1], end[1])
        for template, target, steps in zip(reversed(start), reversed(end), reversed(CAMERA_STEPS), strict=True):
            camera = _align(camera, template, target, steps)
        return camera

    def _search(self, template: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Whole-pixel flow `(frames, 2, h, w)` that makes windows agree best; zero wherever it does nearly as well."""
        height, width = template.shape[-2:]
        side = 2 * SEARCH_RADIUS + 1
        padded = F.pad(target, [SEARCH_RADIUS] * 4, mode="replicate")
        shifted = padded.unfold(2, height, 1).unfold(3, width, 1)  # (frames, 1, side, side, height, width)
        shifted = shifted.reshape(-1, side * side, height, width)
        costs = box_mean(shifted.sub_(template).abs_(), 5)  # a copy already; in place, for it is large
        costs[:, side * side // 2] *= 0.75
        costs[:, side * side // 2] -= NOISE / 2
        best = costs.argmin(dim=1, keepdim=True)
        return torch.cat([best % side, best // side], dim=1).to(template.dtype) - SEARCH_RADIUS


def _same_contrast(
    start: Sequence[torch.Tensor], end: Sequence[torch.Tensor]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The two pictures with the contrast of the fainter one: in a quick fade all would seem to move otherwise."""
    spreads = [levels[1].square().mean(dim=(1, 2, 3), keepdim=True).sqrt() + NOISE / 4 for levels in (start, end)]
    fainter = torch.minimum(*spreads)
    first, second = (
        [level * (fainter / spread) for level in levels] for levels, spread in zip((start, end), spreads, strict=True)
    )
    return first, second


def _refine(flow: torch.Tensor, template: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Flow `(frames, 2, h, w)` in pixels, after some steps of Lucas and Kanade in windows of 5 x 5."""
    slope_x, slope_y = _slopes(template)
    xx, xy, yy = (box_mean(product, 5) for product in (slope_x * slope_x, slope_x * slope_y, slope_y * slope_y))
    # noise on the diagonal: where there is no texture the flow stays as it is
    xx, yy = xx + NOISE**2 / 4, yy + NOISE**2 / 4
    determinant = xx * yy - xy * xy
    for _ in range(FLOW_STEPS):
        error = _sample(target, flow) - template
        error_x, error_y = box_mean(slope_x * error, 5), box_mean(slope_y * error, 5)
        step = torch.cat([yy * error_x - xy * error_y, xx * error_y - xy * error_x], dim=1) / determinant
        flow = flow - step.clamp(-1, 1)
    return box_mean(flow, 3)


def _confidence(flow: torch.Tensor, template: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """How far the flow explains what zero flow cannot, `(frames, 1, h, w)` in 0..1."""
    still = box_mean((target - template).abs(), 5)
    moved = box_mean((_sample(target, flow) - template).abs(), 5)
    confidence = (2 * (still - moved - NOISE / 4) / (still + NOISE / 4)).clamp(0, 1)
    # specks of a few pixels are chance finds in fine texture
    return confidence * (4 * (box_mean(confidence, 7) - 0.3)).clamp(0, 1)


def _align(camera: torch.Tensor, template: torch.Tensor, target: torch.Tensor, steps: int) -> torch.Tensor:
    """A better camera `(frames, 6)`: weighted least squares on brightness, in which what moves counts little."""
    height, width = template.shape[-2:]
    slope_x, slope_y = _slopes(template)
    ones, x, y = _coordinates(template)
    scaled_x, scaled_y = slope_x * (width / 2), slope_y * (height / 2)
    # (frames, 6, height * width): change of brightness with each of the six numbers
    changes = torch.cat([scaled * part for scaled in (scaled_x, scaled_y) for part in (ones, x, y)], dim=1).flatten(2)
    for _ in range(steps):
        field = _affine_field(camera, template)
        error = (_sample(target, field) - template).flatten(2)  # (frames, 1, height * width)
        spread = error.abs().mean(dim=-1, keepdim=True) + NOISE / 4
        weights = _inside(field).flatten(2) / (1 + (error / spread).square())
        weighted = changes * weights
        normal = weighted @ changes.transpose(1, 2)
        # a picture without texture must not divide by zero
        damping = 1e-3 * normal.diagonal(dim1=1, dim2=2).mean(dim=-1)[:, None, None] + 1e-6
        normal = normal + damping * torch.eye(6, dtype=normal.dtype, device=normal.device)
        step = torch.linalg.solve(normal, (weighted * error).sum(dim=-1))
        camera = camera - step.clamp(-0.2, 0.2)
    return camera


def _phase_shift(template: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """A camera `(frames, 6)` that only shifts, by whole pixels; zero where that fits no worse."""
    height, width = template.shape[-2:]
    window = torch.hann_window(height, device=template.device)[:, None] * torch.hann_window(
        width, device=template.device
    )
    spectra = [torch.fft.rfft2(picture * window) for picture in (template, target)]
    product = spectra[1] * spectra[0].conj()
    peaks = torch.fft.irfft2(product / (product.abs() + 1e-9), s=(height, width))
    best = peaks.flatten(1).argmax(dim=1)
    down, right = best // width, best % width
    # the second half of the places stands for shifts to the left and up
    down = torch.where(down > height // 2, down - height, down)
    right = torch.where(right > width // 2, right - width, right)
    zero = torch.zeros_like(best, dtype=template.dtype)
    shifted = torch.stack([2 * right / width, zero, zero, 2 * down / height, zero, zero], dim=1)
    errors = []
    for camera in (torch.zeros_like(shifted), shifted):
        field = _affine_field(camera, template)
        inside = _inside(field)
        error = ((_sample(target, field) - template).abs() * inside).sum(dim=(1, 2, 3))
        errors.append(error / inside.sum(dim=(1, 2, 3)).clamp(min=1))
    return torch.where((errors[1] < 0.9 * errors[0])[:, None], shifted, torch.zeros_like(shifted))


def _affine_field(camera: torch.Tensor, picture: torch.Tensor) -> torch.Tensor:
    """Flow `(frames, 2, h, w)` of a camera, in pixels of the picture."""
    height, width = picture.shape[-2:]
    ones, x, y = _coordinates(picture)
    parts = camera[:, :, None, None]
    across = parts[:, 0:1] * ones + parts[:, 1:2] * x + parts[:, 2:3] * y
    down = parts[:, 3:4] * ones + parts[:, 4:5] * x + parts[:, 5:6] * y
    return torch.cat([across * (width / 2), down * (height / 2)], dim=1)


def _coordinates(picture: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ones, x and y in -1..1 (pixel centres), each `(1, 1, h, w)`."""
    height, width = picture.shape[-2:]
    x = (torch.arange(width, dtype=picture.dtype, device=picture.device) * 2 + 1) / width - 1
    y = (torch.arange(height, dtype=picture.dtype, device=picture.device) * 2 + 1) / height - 1
    across, down = x.expand(1, 1, height, width), y[:, None].expand(1, 1, height, width)
    return torch.ones_like(across), across, down


def _inside(flow: torch.Tensor) -> torch.Tensor:
    """1 where the flow ends within the picture, else 0; `(frames, 1, h, w)`."""
    height, width = flow.shape[-2:]
    _, x, y = _coordinates(flow)
    x, y = x + flow[:, :1] * (2 / width), y + flow[:, 1:] * (2 / height)
    return ((x.abs() <= 1) & (y.abs() <= 1)).to(flow.dtype)


def _seen_before(flow: torch.Tensor) -> torch.Tensor:
    """1 where a window's whole surroundings lie within the other picture, 0 where they have just come in."""
    return (box_mean(_inside(flow), 7) > 0.999).to(flow.dtype)


def _sample(picture: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """The picture `(frames, channels, h, w)` at the places that the flow leads to; the border is repeated outwards."""
    height, width = flow.shape[-2:]
    _, x, y = _coordinates(flow)
    grid = torch.cat([x + flow[:, :1] * (2 / width), y + flow[:, 1:] * (2 / height)], dim=1)
    return F.grid_sample(
        picture, grid.permute(0, 2, 3, 1), mode="bilinear", padding_mode="border", align_corners=False
    )


def _slopes(picture: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Central differences in x and y, a grey value per pixel."""
    padded = F.pad(picture, (1, 1, 1, 1), mode="replicate")
    across = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    down = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    return across, down


def _enlarge(flow: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Flow at another size, in pixels of that size."""
    height, width = size
    scale = flow.new_tensor([width / flow.shape[-1], height / flow.shape[-2]]).reshape(2, 1, 1)
    return F.interpolate(flow, size=(height, width), mode="bilinear", align_corners=False) * scale


def _correlation(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Pearson's correlation of each pair of pictures, `(frames,)`; 1 for two pictures without texture."""
    first, second = (x.flatten(1) - x.flatten(1).mean(dim=1, keepdim=True) for x in (first, second))
    product = (first * second).sum(dim=1)
    lengths = first.square().sum(dim=1) * second.square().sum(dim=1)
    return (product + 1e-6) / (lengths.sqrt() + 1e-6)


__all__ = ["LucasKanadeFlow"]
