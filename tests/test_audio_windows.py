# SPDX-License-Identifier: Apache-2.0
"""Where the sound of a window lies, to the sample."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest

from video_saliency.audio_windows import AudioSpec, centred_excerpt, cut_excerpt, to_mono, window_centre
from video_saliency.backbones.log_mel import log_mel


def test_defaults_are_the_152_mel_frames_of_dtfsal():
    spec = AudioSpec()
    assert (spec.num_mel_frames, spec.num_samples) == (64 + 8 * 11, 24_560)
    assert AudioSpec(num_slices=1, slice_frames=96).num_samples == 400 + 95 * 160


@pytest.mark.parametrize("spec", [AudioSpec(), AudioSpec(num_slices=2, slice_frames=5, hop_frames=3)], ids=str)
def test_an_excerpt_has_exactly_the_mel_frames_that_are_used(spec):
    assert len(log_mel(np.zeros(spec.num_samples, np.float32))) == spec.num_mel_frames
    assert len(log_mel(np.zeros(spec.num_samples - 1, np.float32))) == spec.num_mel_frames - 1


def test_spec_survives_json():
    spec = AudioSpec(num_slices=3, size=(8, 16))
    assert AudioSpec(**json.loads(json.dumps(spec.to_dict()))) == spec
    assert hash(AudioSpec(size=[112, 192])) == hash(AudioSpec())


@pytest.mark.parametrize(
    "options",
    [{"num_slices": 0}, {"slice_frames": 1.5}, {"hop_frames": -1}, {"size": (0, 4)}, {"size": (4,)}],
    ids=lambda options: str(options),
)
def test_wrong_numbers_are_refused(options):
    with pytest.raises(ValueError, match="whole numbers of at least 1"):
        AudioSpec(**options)


def test_other_sampling_rates_are_refused():
    with pytest.raises(ValueError, match="must be 16000, got 22050"):
        AudioSpec(sampling_rate=22_050)


@pytest.mark.parametrize(
    ("centre", "start"),
    [(0, -12_280), (Fraction(24_560, 32_000), 0), (1, 3720), (Fraction(1, 3), 5333 - 12_280), (3600, 57_587_720)],
)
def test_excerpt_is_centred(centre, start):
    assert AudioSpec().excerpt_start(centre) == start


@pytest.mark.parametrize(
    ("frames", "centre"),
    [
        ([0, 1, 2, 3], Fraction(3, 2)),  # the middle between the first and the last
        ([0, 1, 2], 1),
        ([5], 5),
        ([0, 0, 0, 1], 0),  # frames repeated in front of the clip
        ([7, 8, 9, 9, 9, 9], 9),  # and behind
        ([3, 2, 1, 0], Fraction(3, 2)),  # a window that runs backwards
    ],
)
def test_centre_of_a_window(frames, centre):
    assert window_centre([Fraction(frame) for frame in frames]) == centre


@pytest.mark.parametrize("start", range(-7, 9))
@pytest.mark.parametrize("length", [1, 4, 9])
def test_cut_is_zero_outside(start, length):
    sound = np.arange(1, 6, dtype=np.float32)
    expected = [sound[k] if 0 <= k < 5 else 0 for k in range(start, start + length)]
    assert cut_excerpt(sound, start, length).tolist() == expected


@pytest.mark.parametrize("length", [0, 1, 100, 24_559, 24_560, 24_561, 60_000])
def test_middle_of_a_clip_stays_in_the_middle(length):
    sound = np.zeros(length, np.float32)
    sound[length // 2 :][:1] = 1
    excerpt = centred_excerpt(sound, AudioSpec())
    assert excerpt.shape == (24_560,)
    assert np.flatnonzero(excerpt).tolist() == ([12_280] if length else [])


def test_mono_is_the_mean_of_the_channels():
    stereo = np.array([[0.5, 1.0, -1.0], [0.0, 1.0, 1.0]])
    assert to_mono(stereo).tolist() == [0.25, 1.0, 0.0]
    assert to_mono(stereo[0]).dtype == np.float32
    assert to_mono(np.array([[16384, -32768]], np.int16)).tolist() == [0.5, -1.0]
    assert to_mono(np.array([2**30, -(2**31)], np.int32)).tolist() == [0.5, -1.0]


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros((9, 2)), "transpose it"),
        (np.zeros((1, 2, 9)), "transpose it"),
        (np.zeros(9, np.uint8), "got uint8"),
        (np.zeros(9, np.complex64), "got complex64"),
        (np.array([0.1, np.nan, np.inf]), "2 of 3 samples are NaN, infinite"),
        (np.array([[0.1, 0.2], [np.nan, 0]], np.float32), "1 of 2 samples are NaN"),
        (np.array([0.1, 1e300]), "1 of 2 samples are NaN"),  # not a number in float32
    ],
)
def test_wrong_sound_is_refused(samples, message):
    with pytest.raises(ValueError, match=message):
        to_mono(samples)
