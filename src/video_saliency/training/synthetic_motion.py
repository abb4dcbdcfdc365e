# SPDX-License-Identifier: Apache-2.0
"""Two consecutive frames made of still images: a camera that moves, and cut-outs that move or keep still.

Gaze on such clips was never recorded. The truth says what is known of motion and gaze: under a moving camera people
look where they looked at the still, and what moves against its surroundings draws gaze to it (Mital et al.,
"Clustering of gaze during dynamic scene viewing is predicted by motion", Cognitive Computation 2011).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from video_saliency.training.still_augmentation import StillAugmentation, degrade_images, random_views


@dataclass(frozen=True)
class SyntheticMotion:
    """How pairs are made. Shares are those of the pairs; lengths are in pixels of the result. All our choice.

    Attributes:
        photograph: share of pairs that are twice the same picture: stills must keep their map.
        still_camera, pan, zoom: shares of camera motions; the rest shakes.
        largest_pan: longest shift of the picture between the frames.
        largest_zoom: largest relative change of size.
        largest_shake: longest shift of a shaking camera, which also turns by up to a degree.
        cut_outs: share of pairs with cut-outs of other pictures pasted in: one that moves, usually, and as often as
            not the same one once more, which keeps still.
        mover: share of cut-outs that move.
        smallest_cut_out, largest_cut_out: their width and height as a share of the picture's height.
        slowest, fastest: how far a mover goes from frame to frame.
        mover_mass, still_mass: share of all gaze that a mover and a cut-out that keeps still draw.
    """

    photograph: float = 0.3
    still_camera: float = 0.35
    pan: float = 0.3
    zoom: float = 0.15
    largest_pan: float = 8.0
    largest_zoom: float = 0.04
    largest_shake: float = 2.0
    cut_outs: float = 0.6
    mover: float = 0.75
    smallest_cut_out: float = 0.1
    largest_cut_out: float = 0.35
    slowest: float = 0.6
    fastest: float = 8.0
    mover_mass: float = 0.3
    still_mass: float = 0.08


def synthetic_pairs(
    images: torch.Tensor,
    densities: torch.Tensor,
    size: tuple[int, int],
    *,
    generator: torch.Generator,
    motion: SyntheticMotion | None = None,
    augmentation: StillAugmentation | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Frames before, frames now, and the densities of gaze on the frames now.

    Args:
        images: uint8 `(batch, 3, height, width)`; cut-outs are taken from the neighbour in the batch.
        densities: float `(batch, height, width)`, of any resolution.
        size: (height, width) of the result.
        generator: source of all randomness, on the CPU.
        motion: how pairs are made; the default is `SyntheticMotion()`.
        augmentation: how pictures are changed, both frames of a pair alike; the default is `StillAugmentation()`.

    Returns:
        Two batches of float frames `(batch, 3, *size)` in 0..255, and densities `(batch, *size)` with sum 1.
    """
    motion, augmentation = motion or SyntheticMotion(), augmentation or StillAugmentation()
    batch = len(images)
    pictures = images.float()
    # the bars of a film keep still whatever its camera does, so they are drawn over both frames
    now = random_views(batch, generator, replace(augmentation, letterbox=0.0))
    is_photograph = torch.rand(batch, generator=generator) < motion.photograph
    step = _camera_steps(batch, size, generator, motion)
    step[is_photograph] = torch.eye(3)
    before = (_homogeneous(now) @ step)[:, :2]

    # what a camera sees beyond the edge of a still is its mirror image, at which nobody looks
    views = [_view(pictures, theta, size, padding_mode="reflection") for theta in (before, now)]
    truth = _view(densities[:, None], now, size)
    bars = _bars(batch, size, generator, augmentation.letterbox)
    truth = truth * bars
    truth = truth / truth.sum(dim=(1, 2, 3), keepdim=True).clamp(min=1e-9)
    with_cut_outs = torch.rand(batch, generator=generator) < motion.cut_outs
    for index in with_cut_outs.nonzero()[:, 0].tolist():
        cut_out = _cut_out(pictures[(index + 1) % batch], size, generator, motion)
        _paste(
            [view[index] for view in views],
            truth[index],
            cut_out,
            step[index],
            not bool(is_photograph[index]),
            generator,
            motion,
        )

    truth = truth * bars
    truth = truth / truth.sum(dim=(1, 2, 3), keepdim=True).clamp(min=1e-9)
    frames = degrade_images(
        torch.stack([view * bars for view in views], dim=1).flatten(0, 1), generator, augmentation, frames=2
    )
    first, second = frames.unflatten(0, (batch, 2)).unbind(dim=1)
    # a photograph stays one: its noise must not move either
    first = torch.where(is_photograph[:, None, None, None], second, first)
    return first, second, truth[:, 0]


def _camera_steps(
    batch: int, size: tuple[int, int], generator: torch.Generator, motion: SyntheticMotion
) -> torch.Tensor:
    """`(batch, 3, 3)`: where a place of the frame before lies in the frame now, in coordinates -1..1."""
    height, width = size
    kind = torch.rand(batch, generator=generator)
    pans = (kind >= motion.still_camera) & (kind < motion.still_camera + motion.pan)
    zooms = (kind >= motion.still_camera + motion.pan) & (kind < motion.still_camera + motion.pan + motion.zoom)
    shakes = kind >= motion.still_camera + motion.pan + motion.zoom
    longest = motion.largest_pan * pans + motion.largest_shake * (shakes | zooms)
    angle = torch.rand(batch, generator=generator) * 2 * torch.pi
    length = longest * torch.rand(batch, generator=generator)
    turn = torch.deg2rad(2 * torch.rand(batch, generator=generator) - 1) * shakes
    zoom = 1 + motion.largest_zoom * (2 * torch.rand(batch, generator=generator) - 1) * zooms
    steps = torch.eye(3).repeat(batch, 1, 1)
    steps[:, 0, 0] = steps[:, 1, 1] = zoom * turn.cos()
    steps[:, 0, 1] = -zoom * turn.sin() * height / width
    steps[:, 1, 0] = zoom * turn.sin() * width / height
    steps[:, 0, 2] = length * angle.cos() * 2 / width
    steps[:, 1, 2] = length * angle.sin() * 2 / height
    return steps


def _homogeneous(theta: torch.Tensor) -> torch.Tensor:
    last_row = torch.tensor([0.0, 0.0, 1.0]).expand(len(theta), 1, 3)
    return torch.cat([theta, last_row], dim=1)


def _view(
    pictures: torch.Tensor, theta: torch.Tensor, size: tuple[int, int], *, padding_mode: str = "zeros"
) -> torch.Tensor:
    grid = F.affine_grid(theta, [len(pictures), 1, *size], align_corners=False)
    return F.grid_sample(pictures, grid, mode="bilinear", padding_mode=padding_mode, align_corners=False)


def _bars(batch: int, size: tuple[int, int], generator: torch.Generator, share: float) -> torch.Tensor:
    """`(batch, 1, *size)`: 0 on the black bars above and below, or left and right, that a share of frames has."""
    widths = 0.05 + 0.1 * torch.rand(batch, generator=generator)
    chosen = torch.rand(batch, generator=generator)
    inside = torch.ones(batch, 1, *size)
    for axis, has_bars in ((0, chosen < 0.7 * share), (1, chosen > 1 - 0.3 * share)):
        distance = ((torch.arange(size[axis]) + 0.5) / size[axis] - 0.5).abs()
        seen = (distance < 0.5 - (widths * has_bars)[:, None]).float()  # (batch, side)
        inside *= seen[:, None, :, None] if axis == 0 else seen[:, None, None, :]
    return inside


def _cut_out(
    picture: torch.Tensor, size: tuple[int, int], generator: torch.Generator, motion: SyntheticMotion
) -> torch.Tensor:
    """`(4, height, width)`: a piece of the picture in 0..255, and its opacity in 0..1 (an ellipse with soft rim)."""
    shares = motion.smallest_cut_out + (motion.largest_cut_out - motion.smallest_cut_out) * torch.rand(
        2, generator=generator
    )
    height, width = (max(6, int(share * size[0])) for share in shares)
    top = int(torch.randint(0, picture.shape[1] - height, (1,), generator=generator))
    left = int(torch.randint(0, picture.shape[2] - width, (1,), generator=generator))
    piece = picture[:, top : top + height, left : left + width]
    # between an ellipse (power 2) and nearly a rectangle (power 8)
    opacity = ellipse_opacity(height, width, power=2 + 6 * float(torch.rand(1, generator=generator)))
    return torch.cat([piece, opacity[None]])


def ellipse_opacity(height: int, width: int, *, power: float = 2.0) -> torch.Tensor:
    """`(height, width)` in 0..1: an ellipse with a soft rim; a higher power makes it more like a rectangle."""
    rows, columns = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)
    return ((1 - rows.abs() ** power - columns.abs() ** power) * 4).clamp(0, 1)


def shifted_view(picture: torch.Tensor, shift_xy: tuple[float, float], size: tuple[int, int]) -> torch.Tensor:
    """A part `(3, *size)` of a picture `(3, height, width)`, around a place `shift_xy` pixels from its middle."""
    height, width = picture.shape[-2:]
    theta = torch.tensor(
        [[size[1] / width, 0.0, 2 * shift_xy[0] / width], [0.0, size[0] / height, 2 * shift_xy[1] / height]]
    )
    return _view(picture[None], theta[None], size, padding_mode="reflection")[0]


def _paste(
    frames: list[torch.Tensor],
    truth: torch.Tensor,
    cut_out: torch.Tensor,
    camera: torch.Tensor,
    may_move: bool,
    generator: torch.Generator,
    motion: SyntheticMotion,
) -> None:
    """Pastes a cut-out, or the same at two places, into both frames of a pair, and gives it gaze; all in place."""
    height, width = truth.shape[-2:]
    moves = may_move and float(torch.rand(1, generator=generator)) < motion.mover
    twice = float(torch.rand(1, generator=generator)) < 0.5
    angle = float(torch.rand(1, generator=generator)) * 2 * torch.pi
    # slow motion is as frequent as fast motion on a scale of ratios
    length = motion.slowest * (motion.fastest / motion.slowest) ** float(torch.rand(1, generator=generator))
    velocity = torch.tensor([float(torch.cos(torch.tensor(angle))), float(torch.sin(torch.tensor(angle)))]) * length
    places = _places(2 if twice else 1, cut_out, (height, width), generator)
    scale = torch.tensor([width / 2, height / 2])
    drawn = torch.zeros(1, height, width)
    for number, centre in enumerate(places):
        is_mover = moves and number == 0
        now = centre
        # where the place was before the camera moved, and the mover with it
        relative = now / scale - 1
        was = (torch.linalg.solve(camera[:2, :2], relative - camera[:2, 2]) + 1) * scale
        before = was - velocity if is_mover else was
        for frame, place in zip(frames, (before, now), strict=True):
            layer = place_layer(cut_out, place, (height, width))
            frame.lerp_(layer[:3], layer[3:].expand_as(frame))
        truth *= 1 - layer[3:]
        mass = motion.mover_mass if is_mover else motion.still_mass
        drawn += mass * _blob(cut_out, now, (height, width))
    truth.mul_((1 - drawn.sum()) / truth.sum().clamp(min=1e-9)).add_(drawn)


def _places(
    count: int, cut_out: torch.Tensor, size: tuple[int, int], generator: torch.Generator
) -> list[torch.Tensor]:
    """Centres (x, y) in pixels that lie within the picture; two of them in different halves of it."""
    height, width = size
    margin = torch.tensor([cut_out.shape[2] / 2 + 2, cut_out.shape[1] / 2 + 2])
    room = torch.tensor([width, height]) - 2 * margin
    centres = [margin + room * torch.rand(2, generator=generator) for _ in range(count)]
    if count == 2:
        axis = int(torch.randint(0, 2, (1,), generator=generator))  # beside or above each other
        halves = torch.rand(2, generator=generator)
        first_is_low = bool(torch.rand(1, generator=generator) < 0.5)
        span = (room[axis] - 2 * margin[axis]).clamp(min=0) / 2
        for centre, share, is_low in zip(centres, halves, (first_is_low, not first_is_low), strict=True):
            centre[axis] = margin[axis] + share * span if is_low else margin[axis] + room[axis] - share * span
    return centres


def place_layer(cut_out: torch.Tensor, centre: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """A cut-out `(channels, h, w)` around a centre (x, y), which may be a fraction of pixels: `(channels, *size)`, 0
    elsewhere.
    """
    height, width = size
    rows, columns = cut_out.shape[1:]
    theta = torch.tensor(
        [
            [width / columns, 0.0, (width - 2 * float(centre[0])) / columns],
            [0.0, height / rows, (height - 2 * float(centre[1])) / rows],
        ]
    )
    return _view(cut_out[None], theta[None], size)[0]


def _blob(cut_out: torch.Tensor, centre: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Gaze on a cut-out, `(1, *size)` with sum 1: a Gaussian a little narrower than it, but not than the truth's."""
    height, width = size
    sigma_y, sigma_x = (max(side / 4, height / 32) for side in cut_out.shape[1:])
    rows = torch.exp(-0.5 * ((torch.arange(height) + 0.5 - centre[1]) / sigma_y) ** 2)
    columns = torch.exp(-0.5 * ((torch.arange(width) + 0.5 - centre[0]) / sigma_x) ** 2)
    blob = rows[:, None] * columns
    return (blob / blob.sum().clamp(min=1e-9))[None]
