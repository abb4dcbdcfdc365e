# SPDX-License-Identifier: Apache-2.0
"""The log-mel front end against stored outputs of torchvggish and of DiffSal's windows."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from dtfsal_weights import GOLDEN
from safetensors.torch import load_file

from video_saliency.audio_windows import AudioSpec
from video_saliency.backbones.log_mel import log_mel, log_mel_slices, log_mel_windows, mel, mel_bands

STORED = load_file(GOLDEN / "vggish.safetensors")
WAVES = {  # samples; tones (amplitude, Hz, phase); chirps (amplitude, first Hz, Hz per second)
    "wave_2s": (32000, [(0.5, 440.0, 0.0), (0.25, 1320.0, 0.3), (0.05, 6100.0, 1.1)], [(0.2, 300.0, 1800.0)]),
    "wave_24560": (24560, [(0.1, 220.0, 0.5), (0.01, 3000.0, 0.0)], [(0.6, 100.0, 2500.0)]),
}
SILENCE = math.log(0.01)


def wave(name: str) -> np.ndarray:
    count, tones, chirps = WAVES[name]
    time = np.arange(count) / 16000
    sound = sum(amplitude * np.sin(2 * np.pi * hertz * time + phase) for amplitude, hertz, phase in tones)
    for amplitude, first, rate in chirps:
        sound += amplitude * np.sin(2 * np.pi * (first * time + rate * time**2 / 2))
    return sound


def tone(hertz: float, count: int = 4000) -> torch.Tensor:
    return torch.sin(2 * torch.pi * hertz * torch.arange(count, dtype=torch.float64) / 16000)


def assert_stored(value: torch.Tensor, name: str) -> None:
    value = value.contiguous()
    places = torch.linspace(0, value.numel() - 1, 64, dtype=torch.float64).long()
    torch.testing.assert_close(value.flatten()[places], STORED[f"{name}.at64"], atol=1e-5, rtol=0)
    values = value.double()
    numbers = [values.mean(), values.std(correction=0), values.abs().mean(), values.min(), values.max(), values.norm()]
    torch.testing.assert_close(torch.stack(numbers), STORED[f"{name}.stats"], atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("name", WAVES)
def test_frames_windows_and_slices_equal_the_stored_ones(name):
    sound = wave(name)
    frames = log_mel(sound)
    assert frames.dtype == torch.float32
    torch.testing.assert_close(frames, STORED[f"{name}.log_mel"], atol=1e-5, rtol=0)
    assert_stored(log_mel_windows(frames), f"{name}.examples_96_hop96")
    assert_stored(log_mel_windows(frames, length=64, hop=11), f"{name}.examples_64_hop11")
    slices = log_mel_slices(sound)
    assert slices.shape == (9, 1, 112, 192) and slices.dtype == torch.float32
    assert_stored(slices, f"{name}.slices_112x192_first9")


@pytest.mark.parametrize(("count", "frames"), [(400, 1), (559, 1), (560, 2), (24560, 152), (32000, 198)])
def test_number_of_frames(count, frames):
    assert log_mel(torch.zeros(count)).shape == (frames, 64)


def test_silence_is_the_logarithm_of_the_offset():
    torch.testing.assert_close(log_mel(torch.zeros(2000)), torch.full((11, 64), SILENCE))


@pytest.mark.parametrize("hertz", [300.0, 1000.0, 4000.0])
def test_a_tone_is_in_the_band_around_it(hertz):
    lowest, highest = (1127 * math.log(1 + edge / 700) for edge in (125, 7500))
    position = (1127 * math.log(1 + hertz / 700) - lowest) / (highest - lowest) * 65 - 1  # of the bands' peaks
    assert (log_mel(tone(hertz)).argmax(dim=1) - position).abs().max() <= 1


def test_bands_are_triangles_that_sum_to_one_between_the_outer_peaks():
    bands = mel_bands()
    assert bands.shape == (257, 64) and bands.dtype == torch.float64
    frequencies = mel(torch.linspace(0, 8000, 257, dtype=torch.float64))
    step = float(mel(torch.tensor(7500.0)) - mel(torch.tensor(125.0))) / 65
    first_peak, last_peak = float(mel(torch.tensor(125.0))) + step, float(mel(torch.tensor(7500.0))) - step
    inside = (frequencies > first_peak) & (frequencies < last_peak)
    torch.testing.assert_close(bands[inside].sum(dim=1), torch.ones(int(inside.sum()), dtype=torch.float64))
    assert not bands[0].any() and not bands[frequencies > last_peak + step].any()


def test_sound_may_be_an_array_or_a_tensor_of_any_float_type():
    sound = wave("wave_2s")[:4000]
    expected = log_mel(sound)
    assert torch.equal(log_mel(torch.from_numpy(sound)), expected)
    torch.testing.assert_close(log_mel(sound.astype(np.float32)), expected, atol=1e-4, rtol=0)


def test_the_excerpt_of_a_window_gives_its_slices_without_remainder():
    for spec in (AudioSpec(), AudioSpec(num_slices=2, slice_frames=16, hop_frames=5, size=(16, 32))):
        settings = {key: value for key, value in spec.to_dict().items() if key != "sampling_rate"}
        sound = tone(500, spec.num_samples)
        assert log_mel_slices(sound, **settings).shape == (spec.num_slices, 1, *spec.size)
        with pytest.raises(ValueError, match=f"pad it with zeros to {spec.num_samples} samples"):
            log_mel_slices(sound[1:], **settings)


def test_a_slice_is_an_enlarged_window():
    sound = tone(700, 3000)
    slices = log_mel_slices(sound, num_slices=2, slice_frames=8, hop_frames=3, size=(8, 64))
    frames = log_mel(sound)
    torch.testing.assert_close(slices[:, 0], torch.stack([frames[:8], frames[3:11]]))


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros(399), "a frame needs 400"),
        (np.zeros((2, 1000)), "average the channels"),
        (np.zeros(1000, dtype=np.int16), "divide integers"),
    ],
)
def test_wrong_sound_is_refused(samples, message):
    with pytest.raises(ValueError, match=message):
        log_mel(samples)


def test_too_few_frames_for_a_window_are_refused():
    with pytest.raises(ValueError, match="a window needs 96"):
        log_mel_windows(torch.zeros(95, 64))
