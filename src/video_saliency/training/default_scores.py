# SPDX-License-Identifier: Apache-2.0
"""What is measured of a trained default model: on still images as they are and spoiled, and on clips made of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from video_saliency.baselines import BaselineFrame, CentreGaussian, SpectralResidual
from video_saliency.data import StillFixations, fixation_density
from video_saliency.loading import load_model, load_processor
from video_saliency.predictor import VideoSaliencyPredictor
from video_saliency.processing_video_saliency import VideoSaliencyProcessor
from video_saliency.scoring import score_stills
from video_saliency.training.motion_checks import clip_nss, decoy_clip, mover_gets_more, pan_clip
from video_saliency.training.still_augmentation import compress_images

METRICS = ("nss", "cc", "auc_judd")
SPEEDS = (0.005, 0.025)  # of movers in `score_motion`: shares of the width a frame
SLOW_SPEEDS = (0.001, 0.002, 0.003, 0.004)


def load_trained(folder: Path) -> tuple[PreTrainedModel, VideoSaliencyProcessor]:
    """Model and processor of a folder, read back as a user would, strictly."""
    return load_model(str(folder)), load_processor(str(folder))


@torch.no_grad()
def predict_maps(
    model: PreTrainedModel,
    processor: VideoSaliencyProcessor,
    stills: StillFixations,
    *,
    spoil: Callable[[torch.Tensor], torch.Tensor] | None = None,
    output: str = "saliency_maps",
) -> list[np.ndarray]:
    """A map of each still, `(height, width)` float32 at the model's input size.

    Args:
        model: the model.
        processor: its processor.
        stills: the images.
        spoil: changes the pixels `(1, 3, height, width)`, float 0..255, at the model's input size.
        output: which of the model's maps.
    """
    maps = []
    for index in range(len(stills)):
        pixels = processor.resize_frames(stills.load_image(index)[None])
        if spoil is not None:
            pixels = spoil(pixels.float()).round().clamp(0, 255).to(torch.uint8)
        maps.append(model(processor.normalize_frames(pixels)[None])[output][0, 0].numpy())
    return maps


def centre_bias(stills: StillFixations, size: tuple[int, int]) -> np.ndarray:
    """The mean density of all images, `size`: what one predicts without looking at the picture."""
    densities = [fixation_density(stills.fixation_points(index, size), size) for index in range(len(stills))]
    bias: np.ndarray = torch.stack(densities).mean(dim=0).numpy()
    return bias


def weightless_maps(stills: StillFixations, size: tuple[int, int]) -> list[np.ndarray]:
    """What contrast and the middle of the picture tell by themselves: spectral residual times a centred Gaussian."""
    contrast, middle = SpectralResidual(), CentreGaussian().predict(BaselineFrame(size))
    pictures = map(stills.load_image, range(len(stills)))
    return [contrast.predict(BaselineFrame(size, rgb=picture)) * middle for picture in pictures]


def _compressed(pixels: torch.Tensor) -> torch.Tensor:
    return compress_images(pixels, torch.full((len(pixels),), 10.0))


def _quarter_resolution(pixels: torch.Tensor) -> torch.Tensor:
    size = pixels.shape[-2:]
    small = F.interpolate(pixels, scale_factor=0.25, mode="bilinear", antialias=True, align_corners=False)
    return F.interpolate(small, size=size, mode="bilinear", align_corners=False)


def _noisy(pixels: torch.Tensor) -> torch.Tensor:
    noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
    return pixels + 20 * noise


def _dark(pixels: torch.Tensor) -> torch.Tensor:
    return pixels * 0.25


def _grey(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.mean(dim=1, keepdim=True).expand_as(pixels)


SPOILED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "JPEG of quality 10": _compressed,
    "a quarter of the resolution": _quarter_resolution,
    "noise of deviation 20": _noisy,
    "a quarter of the brightness": _dark,
    "grey": _grey,
}


def score_spoiled(
    model: PreTrainedModel, processor: VideoSaliencyProcessor, stills: StillFixations
) -> dict[str, float]:
    """Mean NSS when the pictures are spoiled in one way or another."""
    return {
        name: score_stills(predict_maps(model, processor, stills, spoil=spoil), stills)["all"]["nss"]
        for name, spoil in SPOILED.items()
    }


def score_motion(
    model: PreTrainedModel, processor: VideoSaliencyProcessor, stills: StillFixations, *, seed: int = 0
) -> dict[str, Any]:
    """On clips made of each still: how often a mover beats an identical decoy, and NSS under a panning camera.

    Movers go 0.5 to 2.5 % of the width a frame (`SPEEDS`), up or down by at most 30 degrees; cameras pan up to 3 % a
    frame. Cut-outs come from the middle of another still, a seventh to a fifth of the height.
    """
    predictor = VideoSaliencyPredictor(model, processor)
    generator = np.random.default_rng(seed)
    wins: dict[str, list[bool]] = {"still_camera": [], "panning_camera": []}
    pairs = []
    for index in range(len(stills)):
        picture = stills.load_image(index)
        cut_out = _cut_out(stills, index, picture.shape[0], generator)
        width = picture.shape[1]
        speed = width * generator.uniform(*SPEEDS) * generator.choice([-1, 1])
        angle = generator.uniform(-np.pi / 6, np.pi / 6)
        pan = (width * generator.uniform(-0.03, 0.03), width * generator.uniform(-0.01, 0.01))
        for name, camera in (("still_camera", (0.0, 0.0)), ("panning_camera", pan)):
            clip = decoy_clip(
                picture,
                cut_out,
                mover_above=index % 4 != 3,
                velocity_xy=(speed * np.cos(angle), speed * np.sin(angle)),
                pan_xy=camera,
            )
            wins[name].append(mover_gets_more(predictor, clip))
        points = stills.relative_points_xy(index)
        pairs.append([clip_nss(predictor, *pan_clip(picture, points, pan_xy=camera)) for camera in ((0.0, 0.0), pan)])
    still_nss, pan_nss = np.nanmean(np.array(pairs), axis=0).tolist()
    return {
        "clips": len(stills),
        "speeds": list(SPEEDS),
        **{f"mover_wins_{name}": float(np.mean(won)) for name, won in wins.items()},
        "nss_still_camera": still_nss,
        "nss_panning_camera": pan_nss,
    }


def score_slow_motion(
    model: PreTrainedModel, processor: VideoSaliencyProcessor, stills: StillFixations, *, seed: int = 0
) -> dict[str, float]:
    """How often a mover beats its decoy before a still camera, by its speed as a share of the width a frame.

    Every still is shown once, the mover above the decoy in one half of the clips and below it in the other: what does
    not see the motion is right in about half of them.
    """
    predictor = VideoSaliencyPredictor(model, processor)
    generator = np.random.default_rng(seed)
    wins: dict[str, list[bool]] = {str(speed): [] for speed in SLOW_SPEEDS}
    for index in range(len(stills)):
        picture = stills.load_image(index)
        cut_out = _cut_out(stills, index, picture.shape[0], generator)
        for speed in SLOW_SPEEDS:
            velocity = (picture.shape[1] * speed, 0.0)
            clip = decoy_clip(picture, cut_out, mover_above=index % 2 == 0, velocity_xy=velocity)
            wins[str(speed)].append(mover_gets_more(predictor, clip))
    return {speed: float(np.mean(won)) for speed, won in wins.items()}


def _cut_out(stills: StillFixations, index: int, height: int, generator: np.random.Generator) -> np.ndarray:
    """The middle of another still, as high and wide as a seventh to a fifth of `height`."""
    other = stills.load_image((index + 7) % len(stills))
    side = int(height * generator.uniform(1 / 7, 1 / 5))
    top, left = (other.shape[0] - side) // 2, (other.shape[1] - side) // 2
    return other[top : top + side, left : left + side]


__all__ = [
    "METRICS",
    "centre_bias",
    "load_trained",
    "predict_maps",
    "score_motion",
    "score_slow_motion",
    "score_spoiled",
    "weightless_maps",
]
