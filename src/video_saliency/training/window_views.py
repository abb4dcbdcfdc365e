# SPDX-License-Identifier: Apache-2.0
"""One view of a clip, the same for everything that lies on its frames: pictures, densities, fixations and flow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from video_saliency.training.still_augmentation import StillAugmentation, random_views

NO_CHANGE = StillAugmentation(
    smallest_side=1.0, aspect=0.0, letterbox=0.0, contrast=0.0, brightness=0.0, grey=0.0, blur=0.0, noise=0.0
)
MARGIN = 7 / 6  # what is cropped is first brought to this multiple of its final size: a crop keeps 6/7 on average


@dataclass(frozen=True)
class View:
    """Where in the source a place of the result lies: along x and y, source = scale * result + shift, each in -1..1.

    Attributes:
        scale: of x and y; a negative one of x mirrors.
        shift: of x and y.
    """

    scale: tuple[float, float] = (1.0, 1.0)
    shift: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def draw(cls, augmentation: StillAugmentation, generator: torch.Generator) -> View:
        """A random one: crop, shift, flip, or black bars."""
        theta = random_views(1, generator, augmentation)[0].tolist()
        return cls((theta[0][0], theta[1][1]), (theta[0][2], theta[1][2]))

    @classmethod
    def draw_flip(cls, generator: torch.Generator) -> View:
        """The whole picture, mirrored every second time."""
        return cls((1.0 if torch.rand((), generator=generator) < 0.5 else -1.0, 1.0))

    @property
    def keeps_all(self) -> bool:
        """Whether the result shows the whole source, mirrored or not."""
        return (abs(self.scale[0]), self.scale[1], *self.shift) == (1.0, 1.0, 0.0, 0.0)

    def of_maps(self, maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Float maps or pictures `(count, channels, *size)` of `(count, channels, height, width)`; 0 outside."""
        if self.keeps_all:
            seen = maps.flip(-1) if self.scale[0] < 0 else maps
            return shrink(seen, size)
        nearly = [max(1, round(side * MARGIN)) for side in size]
        larger = shrink(maps, (nearly[0], nearly[1]))
        theta = torch.tensor([[self.scale[0], 0.0, self.shift[0]], [0.0, self.scale[1], self.shift[1]]])
        grid = F.affine_grid(theta.expand(len(maps), 2, 3), [len(maps), 1, *size], align_corners=False)
        return F.grid_sample(larger, grid, mode="bilinear", padding_mode="zeros", align_corners=False)

    def of_points(self, points: np.ndarray, source: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
        """(row, column) pixels of the result, without those outside `(M, 2)`, for those of the source `(N, 2)`."""
        # centres of pixels, x first, in -1..1
        places = (points[:, ::-1] + 0.5) / np.array(source[::-1]) * 2 - 1
        seen = (places - np.array(self.shift)) / np.array(self.scale)
        pixels = np.floor((seen + 1) / 2 * np.array(size[::-1]) + 1e-9).astype(np.int64)[:, ::-1]
        inside = ((pixels >= 0) & (pixels < np.array(size))).all(axis=1)
        found: np.ndarray = pixels[inside]
        return found

    def of_flow(self, flow: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """Flow `(count, 2, *size)` in pixels of the result, of `(count, 2, height, width)` in pixels of its own."""
        height, width = flow.shape[-2:]
        # a step of one source pixel is so many pixels of the result; a mirrored view turns it round
        per_pixel = flow.new_tensor([size[1] / width / self.scale[0], size[0] / height / self.scale[1]])
        return self.of_maps(flow, size) * per_pixel[:, None, None]


def shrink(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Float maps `(count, channels, *size)`, bilinear with antialias."""
    if tuple(maps.shape[-2:]) == size:
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False, antialias=True)


def fixation_map(points: np.ndarray, size: tuple[int, int], *, radius: int = 0) -> torch.Tensor:
    """How many fixations each pixel has, float `size`; with a `radius` the largest count of the square around it.

    Args:
        points: (row, column) pixels `(N, 2)` inside `size`.
        size: (height, width).
        radius: 1 gives the 3 x 3 marks of the official ViSAGE code.
    """
    counts = np.bincount(points[:, 0] * size[1] + points[:, 1], minlength=size[0] * size[1])
    marks = torch.from_numpy(counts.reshape(1, *size)).float()
    if radius:
        marks = F.max_pool2d(marks, 2 * radius + 1, stride=1, padding=radius)
    return marks[0]


__all__ = ["MARGIN", "NO_CHANGE", "View", "fixation_map", "shrink"]
