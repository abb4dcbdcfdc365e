# SPDX-License-Identifier: Apache-2.0
"""Does a model follow what moves, and only that? Clips made of stills, whose answer is known, and their scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from video_saliency.metrics import nss
from video_saliency.predictor import VideoSaliencyPredictor
from video_saliency.training.synthetic_motion import ellipse_opacity, place_layer, shifted_view

CLIP_FRAMES = 9  # the first has no motion yet


@dataclass(frozen=True)
class DecoyClip:
    """A cut-out that moves, and the same one that keeps still, on one still picture.

    Attributes:
        frames: `(frames, height, width, 3)` uint8.
        mover_xy, decoy_xy: `(frames, 2)` centres of the two in pixels.
        cut_out_size: (height, width) of the cut-outs.
    """

    frames: np.ndarray
    mover_xy: np.ndarray
    decoy_xy: np.ndarray
    cut_out_size: tuple[int, int]


def decoy_clip(
    still: np.ndarray,
    cut_out: np.ndarray,
    *,
    mover_above: bool = True,
    velocity_xy: tuple[float, float] = (3.0, 0.0),
    pan_xy: tuple[float, float] = (0.0, 0.0),
    num_frames: int = CLIP_FRAMES,
) -> DecoyClip:
    """A clip of a mover above (or below) an identical decoy; the camera may pan.

    Args:
        still: `(height, width, 3)` uint8; the clip shows the middle 80 % of it, so that there is room to pan.
        cut_out: `(h, w, 3)` uint8, pasted as an ellipse.
        mover_above: whether the mover is in the upper half.
        velocity_xy: of the mover against the picture, in pixels a frame.
        pan_xy: of the camera, in pixels a frame; what is pasted moves with the picture.
        num_frames: length of the clip.
    """
    picture = torch.from_numpy(still).permute(2, 0, 1).float()
    height, width = round(0.8 * still.shape[0]), round(0.8 * still.shape[1])
    piece = torch.from_numpy(cut_out).permute(2, 0, 1).float()
    layer = torch.cat([piece, ellipse_opacity(*cut_out.shape[:2])[None]])
    middle = (num_frames - 1) / 2
    upper, lower = np.array([width / 2, 0.3 * height]), np.array([width / 2, 0.7 * height])
    mover, decoy = (upper, lower) if mover_above else (lower, upper)
    frames, mover_xy, decoy_xy = [], [], []
    for number in range(num_frames):
        # in the middle of the clip camera and mover are in the middle of their ways
        camera = np.array(pan_xy) * (number - middle)
        frame = shifted_view(picture, (float(camera[0]), float(camera[1])), (height, width))
        mover_xy.append(mover + np.array(velocity_xy) * (number - middle) - camera)
        decoy_xy.append(decoy - camera)
        for centre in (decoy_xy[-1], mover_xy[-1]):
            pasted = place_layer(layer, torch.tensor(centre, dtype=torch.float32), (height, width))
            frame = frame.lerp(pasted[:3], pasted[3:].expand_as(frame))
        frames.append(frame.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0))
    return DecoyClip(
        torch.stack(frames).numpy(), np.array(mover_xy), np.array(decoy_xy), (cut_out.shape[0], cut_out.shape[1])
    )


def mover_gets_more(predictor: VideoSaliencyPredictor, clip: DecoyClip) -> bool:
    """Whether more of the predicted mass lies on the mover than on the decoy, over all frames but the first."""
    masses = np.zeros(2)
    for frame in predictor.stream(clip.frames, normalize="sum"):
        if frame.frame_index == 0:
            continue
        for number, centres in enumerate((clip.mover_xy, clip.decoy_xy)):
            masses[number] += _mass_around(frame.saliency_map.numpy(), centres[frame.frame_index], clip.cut_out_size)
    return bool(masses[0] > masses[1])


def pan_clip(
    still: np.ndarray, points_xy: np.ndarray, *, pan_xy: tuple[float, float], num_frames: int = CLIP_FRAMES
) -> tuple[np.ndarray, list[np.ndarray]]:
    """A camera that pans over a still, `(frames, height, width, 3)` uint8, and each frame's fixations.

    Args:
        still: `(height, width, 3)` uint8; the clip shows the middle 80 % of it.
        points_xy: float `(N, 2)` fixations on the still, as fractions of its width and height.
        pan_xy: of the camera, in pixels a frame; (0, 0) keeps it still.
        num_frames: length of the clip.

    Returns:
        The clip, and for each frame int `(n, 2)` (row, column) pixels of the fixations within it.
    """
    picture = torch.from_numpy(still).permute(2, 0, 1).float()
    size = np.array([round(0.8 * still.shape[0]), round(0.8 * still.shape[1])])
    origin = (np.array(still.shape[:2]) - size) / 2
    frames, fixations = [], []
    for number in range(num_frames):
        camera = np.array(pan_xy) * (number - (num_frames - 1) / 2)
        frame = shifted_view(picture, (float(camera[0]), float(camera[1])), (int(size[0]), int(size[1])))
        frames.append(frame.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0))
        pixels = points_xy[:, ::-1] * np.array(still.shape[:2]) - origin - camera[::-1]
        pixels = np.floor(pixels).astype(np.int64)
        fixations.append(pixels[((pixels >= 0) & (pixels < size)).all(axis=1)])
    return torch.stack(frames).numpy(), fixations


def clip_nss(predictor: VideoSaliencyPredictor, clip: np.ndarray, fixations: Sequence[np.ndarray]) -> float:
    """Mean NSS of the frames from the second on, maps at source size; NaN if no frame has a fixation."""
    scores = [
        float(nss(frame.saliency_map.numpy(), fixations[frame.frame_index]))
        for frame in predictor.stream(clip)
        if frame.frame_index and len(fixations[frame.frame_index])
    ]
    return float(np.mean(scores)) if scores else float("nan")


def _mass_around(density: np.ndarray, centre_xy: np.ndarray, size: tuple[int, int]) -> float:
    """Sum of a map over a box a quarter larger than `size` (height, width) around the centre."""
    half = np.array(size) * 1.25 / 2
    top, left = np.maximum(np.round(centre_xy[::-1] - half), 0).astype(int)
    bottom, right = np.round(centre_xy[::-1] + half).astype(int)
    return float(density[top:bottom, left:right].sum())


__all__ = ["DecoyClip", "clip_nss", "decoy_clip", "mover_gets_more", "pan_clip"]
