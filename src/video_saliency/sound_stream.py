# SPDX-License-Identifier: Apache-2.0
"""The sound of a clip beside its frames: read once, on demand, and forgotten behind the windows.

The log-mel slices of overlapping windows are computed for each window anew. To share them, excerpts would have to
begin on a grid of 10 ms, which those of 24, 29.97 or 30 frames a second do not; moving them there would save 3 ms a
window on one core, next to nothing beside a forward of the model.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable, Generator, Iterator
from fractions import Fraction

import numpy as np

from video_saliency.audio_io import JITTER_S
from video_saliency.audio_windows import AUDIO_MODES, AudioSpec
from video_saliency.source_files import VideoError

logger = logging.getLogger(__name__)

# what `read_audio` gives, for a sampling rate; may be called several times
SoundReader = Callable[[int], Iterator[tuple[float, np.ndarray]]]
Pieces = Generator[tuple[int, np.ndarray], None, None]  # number of the first sample, mono samples

SHUFFLED_BY = (0.25, 0.75)  # of the sound's length: far from where it belongs, either way round
KEPT_S = 120  # at most, behind what was read: only a window with a pause inside reaches further back
SILENT_BELOW = 1e-4  # -80 dB of full scale
TOLD_FROM_S = 0.1  # shorter parts without sound are padding of a codec


def choose_audio_mode(mode: str | None, spec: AudioSpec | None) -> str:
    """`"on"`, `"off"` or `"shuffled"` for what was asked of a model that takes such sound, or `None` for the default.

    Raises:
        ValueError: for another word, or sound for a model that takes none.
    """
    if mode is None:
        return "off" if spec is None else "on"
    if mode not in AUDIO_MODES:
        raise ValueError(f"audio must be one of {', '.join(AUDIO_MODES)}, got {mode!r}")
    if mode != "off" and spec is None:
        raise ValueError(f"audio {mode!r}: this model does not listen, it takes frames alone: leave audio out")
    return mode


class SoundStream:
    """Gives each window its excerpt, and keeps no more sound than coming windows may need.

    Sound is placed by its time stamps; where there is none, excerpts are zero. That the sound is missing, silent, or
    shorter than the clip is logged once, as a warning.

    Args:
        read: reads the sound; `None` if the clip has none.
        spec: what the model takes.
        shuffle_seed: give each window sound of another place of the clip: all of it is moved ahead by one share of its
            length, drawn from a quarter to three quarters with this seed, and what leaves at the start comes back at
            the end. Costs one more pass over the sound to find its length. Default: the sound as it is.
    """

    def __init__(self, read: SoundReader | None, spec: AudioSpec, *, shuffle_seed: int | None = None) -> None:
        self.spec = spec
        self._pieces: Pieces | None = None
        if read is not None:
            rate = spec.sampling_rate
            self._pieces = sound_pieces(read, rate) if shuffle_seed is None else _moved(read, rate, shuffle_seed)
        self._kept: deque[tuple[int, np.ndarray]] = deque()
        self._needed_from: int | None = None
        self._first: int | None = None  # samples that there are, as far as was read
        self._end = 0
        self._peak = 0.0
        self._broken = False

    def excerpt(self, centre: Fraction) -> np.ndarray:
        """float32 `(spec.num_samples,)`: the sound around a time in seconds, the clip's first frame at 0."""
        start = self.spec.excerpt_start(centre)
        stop = start + self.spec.num_samples
        while self._pieces is not None and self._end < stop:
            self._read_on()
        excerpt = np.zeros(self.spec.num_samples, dtype=np.float32)
        for position, piece in self._kept:
            first, last = max(start, position), min(stop, position + len(piece))
            if first < last:
                excerpt[first - start : last - start] = piece[first - position : last - position]
        return excerpt

    def forget_before(self, time: Fraction) -> None:
        """No coming window has its centre before this time."""
        self._needed_from = self.spec.excerpt_start(time)
        self._forget()

    def tell(self, duration: Fraction) -> None:
        """Log what there is to say about the sound of a clip of so many seconds, all of whose windows were cut."""
        if self._broken:
            return  # that has been told
        if self._first is None:
            logger.warning("the clip has no sound: the model hears silence")
        elif self._peak < SILENT_BELOW:
            logger.warning("the sound of the clip is silent: the model hears silence")
        else:
            start, end = (Fraction(sample, self.spec.sampling_rate) for sample in (self._first, self._end))
            if start > TOLD_FROM_S or end < duration - TOLD_FROM_S:
                logger.warning(
                    "the clip lasts %.2f s and has sound from %.2f s to %.2f s: the model hears silence elsewhere",
                    *(float(duration), max(0.0, float(start)), float(end)),
                )

    def close(self) -> None:
        """Stop reading."""
        if self._pieces is not None:
            self._pieces.close()
        self._pieces = None

    def _read_on(self) -> None:
        assert self._pieces is not None
        try:
            position, piece = next(self._pieces)
        except StopIteration:
            self._pieces = None
            return
        except VideoError as error:
            logger.warning("the sound cannot be read, the model hears silence: %s", error)
            self._pieces, self._broken = None, True
            return
        self._first = position if self._first is None else self._first
        self._end = position + len(piece)
        self._peak = max(self._peak, float(np.abs(piece).max(initial=0)))
        self._kept.append((position, piece))
        self._forget()

    def _forget(self) -> None:
        needed_from = self._end - KEPT_S * self.spec.sampling_rate
        if self._needed_from is not None:
            needed_from = max(needed_from, self._needed_from)
        while self._kept and self._kept[0][0] + len(self._kept[0][1]) <= needed_from:
            self._kept.popleft()


def sound_pieces(read: SoundReader, sampling_rate: int) -> Pieces:
    """Mono sound with the number of its first sample, in order and without overlaps; sample 0 is at time 0.

    Stamps that are off by less than 20 ms are taken as rounded: the samples are then counted on.
    """
    following: int | None = None
    for time, block in read(sampling_rate):
        position = round(time * sampling_rate)
        if following is not None:
            if abs(position - following) <= JITTER_S * sampling_rate:
                position = following
            block = block[:, max(0, following - position) :]
            position = max(position, following)
        if block.shape[1]:
            yield position, block.mean(axis=0, dtype=np.float32)
            following = position + block.shape[1]


def _moved(read: SoundReader, sampling_rate: int, seed: int) -> Pieces:
    """The sound turned round in itself; see `SoundStream`."""
    first, end = None, 0
    for position, piece in sound_pieces(read, sampling_rate):
        first = position if first is None else first
        end = position + len(piece)
    if first is None:
        return
    cut = first + round(random.Random(seed).uniform(*SHUFFLED_BY) * (end - first))
    for position, piece in sound_pieces(read, sampling_rate):
        behind = piece[max(0, cut - position) :]
        if len(behind):
            yield max(position, cut) - (cut - first), behind
    for position, piece in sound_pieces(read, sampling_rate):
        if position >= cut:
            return
        yield position + (end - cut), piece[: cut - position]
