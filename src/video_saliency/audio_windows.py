# SPDX-License-Identifier: Apache-2.0
"""Which sound belongs to a window of frames: how long an excerpt is, where it lies, and what is outside of the sound.

The excerpt of a window is centred on the window's own centre, whatever the frame rate, and zero where there is no
sound. That is our reading of DTFSal, whose predecessor DiffSal cuts the same 9 slices, but from the start of a buffer
whose size depends on the sampling rate of the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

import numpy as np

SAMPLING_RATE = 16_000  # the one that the log-mel front end of VGGish is defined at
MEL_FRAME_SAMPLES = 400  # 25 ms
MEL_HOP_SAMPLES = 160  # 10 ms

AUDIO_MODES = ("on", "off", "shuffled")


@dataclass(frozen=True)
class AudioSpec:
    """The log-mel slices of sound that a model takes for one window. The defaults are DTFSal's: 9 slices in 1.535 s.

    Args:
        sampling_rate: of the excerpt in Hz; 16,000, for which the front end is defined.
        num_slices: slices of one window.
        slice_frames: mel frames (of 25 ms, every 10 ms) in a slice.
        hop_frames: mel frames from the start of a slice to the start of the next.
        size: `(time, mel)` to which each slice is resized.

    Raises:
        ValueError: for another sampling rate, or a number below 1.

    Example:

    ```python
    >>> spec = AudioSpec()
    >>> spec.num_mel_frames, spec.num_samples
    (152, 24560)

    ```
    """

    sampling_rate: int = SAMPLING_RATE
    num_slices: int = 9
    slice_frames: int = 64
    hop_frames: int = 11
    size: tuple[int, int] = (112, 192)

    def __post_init__(self) -> None:
        if self.sampling_rate != SAMPLING_RATE:
            raise ValueError(f"audio sampling_rate must be {SAMPLING_RATE}, got {self.sampling_rate!r}")
        object.__setattr__(self, "size", tuple(self.size))  # JSON has lists
        numbers = (self.num_slices, self.slice_frames, self.hop_frames, *self.size)
        if len(self.size) != 2 or not all(isinstance(number, int) and number >= 1 for number in numbers):
            raise ValueError(
                "audio num_slices, slice_frames, hop_frames and both of size must be whole numbers of at least 1, got "
                f"{self}"
            )

    @property
    def num_mel_frames(self) -> int:
        """Mel frames of one window, over all of its slices."""
        return self.slice_frames + (self.num_slices - 1) * self.hop_frames

    @property
    def num_samples(self) -> int:
        """Samples of one window's excerpt: as many as give `num_mel_frames` without padding."""
        return MEL_FRAME_SAMPLES + (self.num_mel_frames - 1) * MEL_HOP_SAMPLES

    def excerpt_start(self, centre: Fraction | float) -> int:
        """Number of the excerpt's first sample; sample 0 is at time 0. Negative where it begins before that.

        Args:
            centre: time in seconds in the middle of the excerpt; it is met to half a sample.
        """
        return round(centre * self.sampling_rate) - self.num_samples // 2

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON types; `AudioSpec(**spec.to_dict()) == spec`."""
        return asdict(self) | {"size": list(self.size)}


def window_centre(times: Sequence[Fraction]) -> Fraction:
    """Time in the middle of a window: the mean of those of its two middle frames, or that of the one.

    At a constant rate this is the middle between first and last frame. Where a window reaches over an end of the clip
    and repeats frames there, it stays at the frames that its map describes (our choice).

    Args:
        times: of the frames of the window in seconds, in the order in which the model sees them.
    """
    return (times[(len(times) - 1) // 2] + times[len(times) // 2]) / 2


def cut_excerpt(samples: np.ndarray, start: int, length: int) -> np.ndarray:
    """Samples `start .. start + length - 1` as float32 `(length,)`, zero outside of the sound.

    Args:
        samples: mono sound `(n,)`.
        start: may be negative, or behind the end.
        length: of the excerpt.
    """
    excerpt = np.zeros(length, dtype=np.float32)
    first, last = max(start, 0), min(start + length, len(samples))
    if first < last:
        excerpt[first - start : last - start] = samples[first:last]
    return excerpt


def centred_excerpt(samples: np.ndarray, spec: AudioSpec) -> np.ndarray:
    """The middle of the sound of a clip as float32 `(spec.num_samples,)`; shorter sound has zeros on both sides.

    Args:
        samples: mono sound of the clip `(n,)` at `spec.sampling_rate`.
        spec: of the model.
    """
    return cut_excerpt(samples, len(samples) // 2 - spec.num_samples // 2, spec.num_samples)


def to_mono(samples: Any) -> np.ndarray:
    """float32 `(n,)` in -1..1: the mean of the channels; 16- and 32-bit integers are divided by their range.

    Args:
        samples: `(n,)` or `(channels, n)`, array or tensor.

    Raises:
        ValueError: for another shape or type, samples in front of channels, or samples that are NaN or infinite.
    """
    sound = np.asarray(samples)
    if sound.ndim not in (1, 2) or (sound.ndim == 2 and sound.shape[0] > max(1, sound.shape[1])):
        raise ValueError(
            f"sound must be of shape (samples,) or (channels, samples), got {sound.shape}: transpose it, as in audio.T"
        )
    if sound.dtype in (np.int16, np.int32):
        sound = np.divide(sound, 2 ** (8 * sound.dtype.itemsize - 1), dtype=np.float64)
    elif sound.dtype.kind != "f":
        raise ValueError(f"sound must be floats in -1..1, int16 or int32, got {sound.dtype}")
    with np.errstate(over="ignore", invalid="ignore"):
        mono = np.ascontiguousarray(sound if sound.ndim == 1 else sound.mean(axis=0), dtype=np.float32)
    finite = np.isfinite(mono)
    if not finite.all():
        raise ValueError(
            f"sound must be numbers in -1..1: {np.count_nonzero(~finite)} of {mono.size} samples are NaN, infinite or "
            "too large for float32: find out where they come from, or set them to 0"
        )
    return mono
