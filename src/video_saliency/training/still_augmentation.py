# SPDX-License-Identifier: Apache-2.0
"""Random variants of still images and their fixation densities, as tensors and in batches."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

# The quantisation tables of the JPEG standard (ITU-T T.81, annex K), brightness and colour, for quality 50.
_JPEG_BRIGHTNESS = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_JPEG_COLOUR = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *(((99,) * 8,) * 4),
)
_BLOCK = 8


@dataclass(frozen=True)
class StillAugmentation:
    """How strongly pictures are changed. Shares are those of the pictures that a change is applied to; all our choice.

    Attributes:
        smallest_side: smallest share of the picture that a crop keeps, as a side length; the largest is the whole.
        aspect: largest change of the aspect ratio, as a logarithm.
        letterbox: share with black bars above and below, or left and right.
        contrast, brightness: largest relative change of either.
        gamma: largest logarithm of the exponent of a gamma curve.
        fade: share that is faded towards black, as at the start of a film.
        grey, blur, noise: shares turned grey, smoothed by a pixel or two, and with Gaussian noise.
        lower_resolution: share that is shrunk to 25 to 70 % and enlarged again.
        compression: share with the block artefacts of a JPEG of quality 8 to 50.
        logo: share with a small sign of text-like strokes in a corner, at which nobody looks.
    """

    smallest_side: float = 0.7
    aspect: float = 0.15
    letterbox: float = 0.1
    contrast: float = 0.3
    brightness: float = 0.3
    gamma: float = 0.0
    fade: float = 0.0
    grey: float = 0.1
    blur: float = 0.15
    noise: float = 0.2
    lower_resolution: float = 0.0
    compression: float = 0.0
    logo: float = 0.0

    @classmethod
    def strong(cls) -> StillAugmentation:
        """For clips unlike the training pictures: other shapes, worse cameras and codecs, signs pasted in."""
        return cls(
            smallest_side=0.6,
            aspect=0.35,
            letterbox=0.15,
            contrast=0.4,
            brightness=0.4,
            gamma=0.4,
            fade=0.05,
            grey=0.15,
            blur=0.15,
            noise=0.25,
            lower_resolution=0.15,
            compression=0.25,
            logo=0.15,
        )


def augment_stills(
    images: torch.Tensor,
    densities: torch.Tensor,
    size: tuple[int, int],
    *,
    generator: torch.Generator,
    augmentation: StillAugmentation | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and densities at `size`: flipped, cropped, letterboxed alike; then the pictures' colours and quality.

    Args:
        images: uint8 `(batch, 3, height, width)`.
        densities: float `(batch, height, width)`, of any resolution.
        size: (height, width) of the result.
        generator: source of all randomness, on the CPU.
        augmentation: how strongly; the default is `StillAugmentation()`.

    Returns:
        Float images `(batch, 3, *size)` in 0..255, and densities `(batch, *size)` that no longer sum to 1.
    """
    augmentation = augmentation or StillAugmentation()
    theta = random_views(len(images), generator, augmentation)
    grid = F.affine_grid(theta, [len(images), 1, *size], align_corners=False)
    # Outside the picture: black bars, where nobody looks.
    views = F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    density_views = F.grid_sample(densities[:, None], grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return degrade_images(views, generator, augmentation), density_views[:, 0]


def degrade_images(
    images: torch.Tensor, generator: torch.Generator, augmentation: StillAugmentation, *, frames: int = 1
) -> torch.Tensor:
    """Float pictures 0..255 of the same shape `(batch, 3, height, width)`, changed in colour and quality.

    Args:
        images: float 0..255; changed in place.
        generator: source of all randomness, on the CPU.
        augmentation: how strongly.
        frames: this many neighbours in the batch are frames of one clip: they get the same colours, sign and
            resolution; noise is drawn anew for each.
    """
    clips = images.unflatten(0, (-1, frames))  # (clips, frames, 3, height, width)
    clips = _random_colours(clips, generator, augmentation)
    clips = _random_logo(clips, generator, augmentation.logo)
    clips = _lower_resolution(clips, generator, augmentation.lower_resolution)
    clips = _random_blur(clips, generator, augmentation.blur)
    clips = _random_noise(clips, generator, augmentation.noise)
    return _random_compression(clips.clamp(0, 255), generator, augmentation.compression).flatten(0, 1)


def random_views(batch: int, generator: torch.Generator, augmentation: StillAugmentation) -> torch.Tensor:
    """Affine maps `(batch, 2, 3)` from the result to the source: crop, shift, flip, or black bars."""
    side = _uniform(batch, augmentation.smallest_side, 1.0, generator)
    aspect = _uniform(batch, -augmentation.aspect, augmentation.aspect, generator).exp()
    scale = torch.stack([side * aspect, side / aspect], dim=1).clamp(max=1.0)  # x, y: share of the source that is seen
    shift = (1 - scale) * (2 * torch.rand(batch, 2, generator=generator) - 1)
    bars = _uniform(batch, 1.1, 1.45, generator)
    chosen = torch.rand(batch, generator=generator)
    letterboxed = chosen < augmentation.letterbox * 0.7
    pillarboxed = chosen > 1 - augmentation.letterbox * 0.3
    scale[:, 1] = torch.where(letterboxed, bars, scale[:, 1])
    scale[:, 0] = torch.where(pillarboxed, bars, scale[:, 0])
    shift[letterboxed, 1] = 0.0
    shift[pillarboxed, 0] = 0.0
    flip = 1.0 - 2.0 * (torch.rand(batch, generator=generator) < 0.5)
    theta = torch.zeros(batch, 2, 3)
    theta[:, 0, 0], theta[:, 0, 2] = scale[:, 0] * flip, shift[:, 0]
    theta[:, 1, 1], theta[:, 1, 2] = scale[:, 1], shift[:, 1]
    return theta


def _random_colours(clips: torch.Tensor, generator: torch.Generator, augmentation: StillAugmentation) -> torch.Tensor:
    """Contrast, brightness, a colour cast within 8 %, saturation from none to 150 %, gamma, fades."""
    batch = len(clips)

    def draw(low: float, high: float, channels: int = 1) -> torch.Tensor:
        return _uniform(batch * channels, low, high, generator).reshape(batch, 1, channels, 1, 1)

    def around_one(range_: float) -> torch.Tensor:
        return draw(1 - range_, 1 + range_)

    grey = clips.mean(dim=2, keepdim=True)
    saturation = torch.where(draw(0, 1) < augmentation.grey, torch.zeros(batch, 1, 1, 1, 1), draw(0.5, 1.5))
    mean = grey.mean(dim=(1, 3, 4), keepdim=True)
    clips = grey + (clips - grey) * saturation
    clips = mean + (clips - mean) * around_one(augmentation.contrast)
    clips = clips * around_one(augmentation.brightness) * draw(0.92, 1.08, channels=3)
    if augmentation.gamma:
        exponent = draw(-augmentation.gamma, augmentation.gamma).exp()
        clips = (clips.clamp(0, 255) / 255).pow(exponent) * 255
    if augmentation.fade:
        clips = torch.where(draw(0, 1) < augmentation.fade, clips * draw(0.1, 0.6), clips)
    return clips


def _random_logo(clips: torch.Tensor, generator: torch.Generator, share: float) -> torch.Tensor:
    """A sign of strokes in one corner, half transparent to opaque, the same in all frames of a clip."""
    height, width = clips.shape[-2:]
    for index in _chosen(len(clips), share, generator):
        rows, columns = (int(x) for x in torch.randint(6, 18, (2,), generator=generator))
        columns *= 2
        strokes = (torch.rand(1, 1, rows // 2, columns // 3, generator=generator) < 0.5).float()
        strokes = F.interpolate(strokes, size=(rows, columns), mode="nearest")[0]  # (1, rows, columns)
        colour = torch.randint(0, 2, (3, 1, 1), generator=generator) * 255.0
        opacity = strokes * float(_uniform(1, 0.4, 1.0, generator))
        margin = int(torch.randint(2, 10, (1,), generator=generator))
        down, right = torch.rand(2, generator=generator) < 0.5
        top = max(0, height - margin - rows) if down else margin
        left = max(0, width - margin - columns) if right else margin
        patch = clips[index, :, :, top : top + rows, left : left + columns]
        opacity = opacity[:, : patch.shape[-2], : patch.shape[-1]]  # of a sign larger than the picture
        patch.lerp_(colour.expand_as(patch), opacity.expand_as(patch))
    return clips


def _lower_resolution(clips: torch.Tensor, generator: torch.Generator, share: float) -> torch.Tensor:
    size = clips.shape[-2:]
    for index in _chosen(len(clips), share, generator):
        scale = float(_uniform(1, 0.25, 0.7, generator))
        small = F.interpolate(
            clips[index],
            size=[max(1, round(side * scale)) for side in size],
            mode="bilinear",
            antialias=True,
            align_corners=False,
        )
        clips[index] = F.interpolate(small, size=size, mode="bilinear", align_corners=False)
    return clips


def _random_blur(clips: torch.Tensor, generator: torch.Generator, share: float) -> torch.Tensor:
    chosen = _chosen(len(clips), share, generator)
    if chosen:
        soft = clips[chosen].flatten(0, 1)
        for _ in range(2):
            soft = F.avg_pool2d(soft, 3, stride=1, padding=1, count_include_pad=False)
        clips[chosen] = soft.unflatten(0, (-1, clips.shape[1]))
    return clips


def _random_noise(clips: torch.Tensor, generator: torch.Generator, share: float) -> torch.Tensor:
    chosen = _chosen(len(clips), share, generator)
    if chosen:
        noise = torch.randn(clips[chosen].shape, generator=generator)
        clips[chosen] += noise * _uniform(len(chosen), 2.0, 15.0, generator).reshape(-1, 1, 1, 1, 1)
    return clips


def _random_compression(clips: torch.Tensor, generator: torch.Generator, share: float) -> torch.Tensor:
    chosen = _chosen(len(clips), share, generator)
    if chosen:
        quality = _uniform(len(chosen), 8.0, 50.0, generator)
        frames = clips.shape[1]
        compressed = compress_images(clips[chosen].flatten(0, 1), quality.repeat_interleave(frames))
        clips[chosen] = compressed.unflatten(0, (-1, frames))
    return clips


def compress_images(images: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
    """What a JPEG file would keep of pictures `(batch, 3, height, width)`, float 0..255, without chroma subsampling.

    Args:
        images: float 0..255, sides of any length (an incomplete last block is filled up by repeating the border).
        quality: `(batch,)`, 1 to 50 as in libjpeg: the tables of the standard are scaled by 50 / quality.
    """
    height, width = images.shape[-2:]
    padding = (0, -width % _BLOCK, 0, -height % _BLOCK)
    to_ycc = images.new_tensor([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
    ycc = torch.einsum("ij,bjhw->bihw", to_ycc, F.pad(images - 128, padding, mode="replicate"))
    tables = images.new_tensor([_JPEG_BRIGHTNESS, _JPEG_COLOUR, _JPEG_COLOUR])
    steps = (tables * (50 / quality.reshape(-1, 1, 1, 1))).clamp(min=1)[:, :, None, :, None]  # (batch, 3, 1, 8, 1, 8)
    blocks = ycc.unflatten(-1, (-1, _BLOCK)).unflatten(-3, (-1, _BLOCK))  # (batch, 3, rows, 8, columns, 8)
    waves = _cosine_transform().to(images)
    coefficients = torch.einsum("ki,bcrisj,lj->bcrksl", waves, blocks, waves)
    kept = (coefficients / steps).round() * steps
    blocks = torch.einsum("ki,bcrksl,lj->bcrisj", waves, kept, waves)
    ycc = blocks.flatten(-2).flatten(-3, -2)
    rgb = torch.einsum("ij,bjhw->bihw", torch.linalg.inv(to_ycc), ycc)
    return (rgb + 128).clamp(0, 255)[..., :height, :width]


def _cosine_transform() -> torch.Tensor:
    """`(8, 8)`: the orthonormal discrete cosine transform, a row for each frequency."""
    positions = torch.arange(_BLOCK, dtype=torch.float64)
    waves = torch.cos(math.pi / _BLOCK * (positions + 0.5) * positions[:, None]) * math.sqrt(2 / _BLOCK)
    waves[0] /= math.sqrt(2)
    return waves.float()


def _chosen(count: int, share: float, generator: torch.Generator) -> list[int]:
    """Numbers of those of `count` clips that a change of this share is applied to."""
    draws = torch.rand(count, generator=generator) < share
    return [index for index, is_chosen in enumerate(draws.tolist()) if is_chosen]


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> torch.Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)
