# SPDX-License-Identifier: Apache-2.0
"""The front end of VGGish: log-mel pictures of sound at 16 kHz, in float64 until the end.

Frames of 25 ms every 10 ms without padding, a periodic Hann window, magnitudes (not powers) of an FFT of 512, 64 mel
bands from 125 to 7,500 Hz on the HTK scale, and the logarithm of the band plus 0.01.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

SAMPLING_RATE = 16_000
FRAME_SAMPLES = 400
HOP_SAMPLES = 160
FFT_SAMPLES = 512
NUM_BANDS = 64
LOWEST_HZ, HIGHEST_HZ = 125.0, 7500.0
LOG_OFFSET = 0.01
EXAMPLE_FRAMES = 96  # of one picture for VGGish's own classifier, 0.96 s


def mel(hertz: torch.Tensor) -> torch.Tensor:
    """Frequencies on the HTK mel scale."""
    return 1127.0 * torch.log1p(hertz / 700.0)


@functools.cache
def mel_bands() -> torch.Tensor:
    """`(257, 64)` float64: the weight of a frequency in a band, triangles in mel with peak 1; constants have none."""
    frequencies = mel(torch.linspace(0, SAMPLING_RATE / 2, FFT_SAMPLES // 2 + 1, dtype=torch.float64))[:, None]
    lowest, highest = mel(torch.tensor([LOWEST_HZ, HIGHEST_HZ], dtype=torch.float64)).tolist()
    edges = torch.linspace(lowest, highest, NUM_BANDS + 2, dtype=torch.float64)
    start, peak, end = edges[:-2], edges[1:-1], edges[2:]
    rising, falling = (frequencies - start) / (peak - start), (end - frequencies) / (end - peak)
    bands = torch.minimum(rising, falling).clamp(min=0)
    bands[0] = 0
    return bands


def log_mel(samples: np.ndarray | torch.Tensor) -> torch.Tensor:
    """`(frames, 64)` float32, with `frames = 1 + (n - 400) // 160`, the lowest band first.

    Args:
        samples: `(n,)` mono sound at 16 kHz, floats in -1..1.

    Raises:
        ValueError: if it is not one-dimensional, no floats, or shorter than a frame of 400 samples.
    """
    sound = torch.as_tensor(samples)
    if sound.ndim != 1 or not sound.is_floating_point():
        raise ValueError(
            f"samples must be mono floats in -1..1 of shape (n,), got {tuple(sound.shape)} {sound.dtype}: average the "
            "channels, divide integers by their range"
        )
    if len(sound) < FRAME_SAMPLES:
        raise ValueError(f"the sound has {len(sound)} samples, a frame needs {FRAME_SAMPLES}: pad it with zeros")
    frames = sound.double().unfold(0, FRAME_SAMPLES, HOP_SAMPLES)
    window = torch.hann_window(FRAME_SAMPLES, periodic=True, dtype=torch.float64, device=sound.device)
    # the window ends where the zeros of the FFT begin: `torch.stft` would put it into the middle of them
    magnitudes = torch.fft.rfft(frames * window, n=FFT_SAMPLES).abs()
    return torch.log(magnitudes @ mel_bands().to(sound.device) + LOG_OFFSET).float()


def log_mel_windows(frames: torch.Tensor, *, length: int = EXAMPLE_FRAMES, hop: int = EXAMPLE_FRAMES) -> torch.Tensor:
    """`(windows, 1, length, 64)`: windows of log-mel frames; what is left over at the end is dropped.

    The defaults are those of VGGish's classifier; DTFSal and its predecessor DiffSal take 64 frames every 11.

    Args:
        frames: `(frames, 64)` from `log_mel`.
        length: frames of a window.
        hop: frames from the start of a window to that of the next.

    Raises:
        ValueError: if there are fewer frames than one window has.
    """
    if len(frames) < length:
        raise ValueError(f"the sound has {len(frames)} log-mel frames, a window needs {length}: pad it with zeros")
    return frames.unfold(0, length, hop).transpose(1, 2)[:, None]


def log_mel_slices(
    samples: np.ndarray | torch.Tensor,
    *,
    num_slices: int = 9,
    slice_frames: int = 64,
    hop_frames: int = 11,
    size: Sequence[int] = (112, 192),
) -> torch.Tensor:
    """`(num_slices, 1, *size)` float32: the first windows of the sound, resized bilinearly, not normalised.

    With the defaults 152 frames are used, 24,560 samples. Which ones belong to a clip is said by
    `video_saliency.audio_windows`.

    Args:
        samples: `(n,)` mono sound at 16 kHz, floats in -1..1.
        num_slices: how many windows.
        slice_frames: log-mel frames of a window.
        hop_frames: from the start of a window to that of the next.
        size: rows (time) and columns (mel) of a slice.

    Raises:
        ValueError: for sound that is too short, or not mono floats.
    """
    needed = slice_frames + (num_slices - 1) * hop_frames
    frames = log_mel(samples)
    if len(frames) < needed:
        raise ValueError(
            f"the sound has {len(frames)} log-mel frames, {num_slices} slices need {needed}: pad it with zeros to "
            f"{FRAME_SAMPLES + (needed - 1) * HOP_SAMPLES} samples"
        )
    windows = log_mel_windows(frames[:needed], length=slice_frames, hop=hop_frames)
    return F.interpolate(windows, size=tuple(size), mode="bilinear", align_corners=False)


__all__ = ["log_mel", "log_mel_slices", "log_mel_windows"]
