# SPDX-License-Identifier: Apache-2.0
"""Sounds of clips, kept in memory: a window needs a small part, but all of a file must be decoded for it."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np

from video_saliency.audio_io import read_audio
from video_saliency.audio_windows import to_mono

SOUND_BYTES = 1 << 28  # of samples in each process that loads data: 70 minutes at 16 kHz


class SoundCache:
    """Sounds of files. Each is decoded whole; those used last are kept.

    Args:
        limit: so many bytes of samples are kept, but at least the last sound.
    """

    def __init__(self, limit: int = SOUND_BYTES) -> None:
        self.limit, self.sounds = limit, OrderedDict[tuple[Path, int], tuple[np.ndarray, int]]()

    def read(self, path: Path, sampling_rate: int) -> tuple[np.ndarray, int]:
        """Samples of a file, mono, and the number of the first one; 0 is at the first frame."""
        key = (path, sampling_rate)
        if key not in self.sounds:
            self.sounds[key] = _read_sound(path, sampling_rate)
        self.sounds.move_to_end(key)
        while len(self.sounds) > 1 and sum(samples.nbytes for samples, _ in self.sounds.values()) > self.limit:
            self.sounds.popitem(last=False)
        return self.sounds[key]


def _read_sound(path: Path, sampling_rate: int) -> tuple[np.ndarray, int]:
    blocks = list(read_audio(str(path), sampling_rate))
    if not blocks:
        return np.zeros(0, dtype=np.float32), 0
    samples = np.concatenate([to_mono(values) for _, values in blocks])
    return samples, round(blocks[0][0] * sampling_rate)


__all__ = ["SoundCache"]
