# SPDX-License-Identifier: Apache-2.0
"""Sound on the clock of the video."""

from __future__ import annotations

import logging
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image
from video_factory import cut_file, make_clip, make_sound, sample_picture, sine

from video_saliency.audio_io import read_samples
from video_saliency.video_io import VideoError, read_audio


def whole_sound(path, sampling_rate=None):
    """Time of the first sample, and all samples; checks that the blocks follow each other."""
    blocks = list(read_audio(path, sampling_rate))
    start, samples = blocks[0][0], np.concatenate([block for _, block in blocks], axis=1)
    rate = sampling_rate or 44_100
    position = 0
    for time, block in blocks:
        assert block.dtype == np.float32 and time == pytest.approx(start + position / rate, abs=1.5e-3)
        position += block.shape[1]
    return start, samples


@pytest.mark.parametrize(
    ("suffix", "codec", "channels"),
    [
        *((".mkv", "pcm_s16le", channels) for channels in (1, 2, 6)),
        *((".mkv", "flac", channels) for channels in (1, 2)),  # the factory's layout of six is not one of FLAC's
        *((".mov", "pcm_f32le", channels) for channels in (1, 2, 6)),
    ],
)
def test_lossless_sound_comes_back(tmp_path, channels, suffix, codec):
    path = make_clip(tmp_path / f"clip{suffix}", audio=codec, audio_channels=channels)
    start, samples = whole_sound(path)
    expected = sine(samples.shape[1], 44_100, channels)
    assert start == pytest.approx(0, abs=1e-3)
    assert samples.shape == (channels, int(0.48 * 44_100))
    assert np.abs(samples - expected).max() < 1e-3


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "aac"), (".mkv", "libmp3lame"), (".mkv", "aac")])
def test_lossy_sound_is_in_step(tmp_path, suffix, codec):
    path = make_clip(tmp_path / f"clip{suffix}", audio=codec)
    start, samples = whole_sound(path)
    first = round(start * 44_100)
    expected = sine(samples.shape[1] + 2000, 44_100)
    middle = slice(4000, 16_000)
    lags = range(-60, 61)
    errors = [np.abs(samples[:, middle] - expected[:, 4000 + first + k : 16_000 + first + k]).mean() for k in lags]
    assert abs(lags[int(np.argmin(errors))]) <= 45  # one millisecond, the tick of Matroska
    assert min(errors) < 0.02


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize(
    ("video_start", "audio_start"),  # the sum is not negative: files have no negative times
    [(Fraction(0), Fraction(1, 4)), (Fraction(3), Fraction(1, 4)), (Fraction(3), Fraction(-1, 10))],
)
def test_times_count_from_the_first_frame(tmp_path, suffix, video_start, audio_start):
    path = make_clip(tmp_path / f"clip{suffix}", audio="aac", start=video_start, audio_start=audio_start)
    start = next(read_audio(path))[0]
    # a packet of 1,024 samples in front settles the decoder; it is played as silence where the sound starts late
    assert -0.026 < start - float(audio_start) <= 0.001


@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_resampling(tmp_path, rate):
    path = make_clip(tmp_path / "clip.mkv", audio="pcm_s16le")
    start, samples = whole_sound(path, rate)
    assert abs(start) < 1e-3 and samples.shape[0] == 2
    assert samples.shape[1] == pytest.approx(0.48 * rate, abs=40)
    expected = sine(samples.shape[1], rate)
    assert np.abs(samples - expected)[:, 200:-200].max() < 0.02


def test_no_sound_gives_no_block(tmp_path):
    Image.fromarray(sample_picture(0)).save(tmp_path / "a.png")
    assert list(read_audio(make_clip(tmp_path / "clip.mp4"))) == []
    assert list(read_audio(tmp_path / "a.png")) == []


@pytest.mark.parametrize(("suffix", "codec"), [(".wav", "pcm_s16le"), (".mp3", "libmp3lame"), (".m4a", "aac")])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_file_of_sound_alone_starts_at_0(tmp_path, suffix, codec, channels):
    path = make_sound(tmp_path / f"sound{suffix}", sine(22_050, 44_100, channels), 44_100, codec)
    start, samples = whole_sound(path, 16_000)
    assert start == pytest.approx(0, abs=1e-4) and samples.shape[0] == channels
    assert samples.shape[1] == pytest.approx(8000, abs=400)  # whole packets of a codec
    assert np.abs(samples - sine(samples.shape[1], 16_000, channels))[:, 1000:7000].mean() < 0.02


def test_a_cover_picture_is_no_clock(tmp_path):
    path = tmp_path / "song.mp3"
    with av.open(str(path), "w") as container:
        track = container.add_stream("libmp3lame", rate=44_100, layout="mono")
        cover = container.add_stream("png", rate=1, width=64, height=48, pix_fmt="rgb24")
        cover.disposition = av.stream.Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(sine(22_050, 44_100, 1), format="fltp", layout="mono")
        frame.sample_rate = 44_100
        packets = [*track.encode(frame), *track.encode(None)]
        picture = cover.encode(av.VideoFrame.from_ndarray(sample_picture(0), format="rgb24")) + cover.encode(None)
        container.mux(packets + picture)
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 1
    start, samples = whole_sound(path)
    assert start == pytest.approx(0, abs=1e-4) and samples.shape[1] == pytest.approx(22_050, abs=1200)


@pytest.mark.parametrize("rate", [8000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_samples_in_memory_are_resampled(rate, channels):
    sound = np.stack([np.sin(2 * np.pi * 300 * np.arange(int(1.6 * rate)) / rate)] * channels)
    sound *= np.arange(channels)[:, None] / max(1, channels - 1) if channels > 1 else 1  # the mean is half the last
    blocks = list(read_samples(sound, rate, 16_000))
    samples = np.concatenate([block for _, block in blocks], axis=1)
    assert blocks[0][0] == 0 and samples.shape == (1, 25_600)
    expected = np.sin(2 * np.pi * 300 * np.arange(25_600) / 16_000) * (0.5 if channels > 1 else 1)
    assert np.abs(samples[0] - expected)[200:-200].max() < 1e-3
    position = 0
    for time, block in blocks:
        assert time == position / 16_000
        position += block.shape[1]


def test_no_samples_in_memory_give_no_block():
    assert list(read_samples(np.zeros(0), 44_100, 16_000)) == []


def test_a_truncated_clip_has_sound_up_to_the_break(tmp_path):
    path = make_clip(tmp_path / "clip.mkv", 50, audio="pcm_s16le")
    samples = whole_sound(path)[1]
    cut = whole_sound(cut_file(path, 0.5))[1]
    assert 0.3 < cut.shape[1] / samples.shape[1] < 0.7
    assert np.array_equal(cut, samples[:, : cut.shape[1]])


@pytest.mark.parametrize("codec", ["pcm_f32le", "pcm_f64le"])
@pytest.mark.parametrize("rate", [None, 16_000])
def test_samples_that_are_no_numbers_are_read_as_0(tmp_path, caplog, codec, rate):
    sound = sine(21_168, 44_100)
    expected = sound.copy()
    for channel, sample, value in ((0, 5000, np.nan), (1, 9000, np.inf), (0, 15_000, -np.inf), (1, 15_001, 3e38)):
        sound[channel, sample], expected[channel, sample] = value, 0
    damaged = make_clip(tmp_path / "damaged.mov", audio=codec, sound=sound)
    clean = make_clip(tmp_path / "clean.mov", audio=codec, sound=expected)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert np.array_equal(whole_sound(damaged, rate)[1], whole_sound(clean, rate)[1])
    (message,) = (record.getMessage() for record in caplog.records)
    assert message.startswith("4 samples") and "damaged.mov" in message and "read as 0" in message


def test_damaged_sound_is_told_where_reading_stops_early(tmp_path, caplog):
    sound = sine(21_168, 44_100)
    sound[:, 10] = np.nan
    blocks = read_audio(make_clip(tmp_path / "clip.mov", audio="pcm_f32le", sound=sound))
    next(blocks)
    assert caplog.records == []
    blocks.close()
    assert ["2 samples" in record.getMessage() for record in caplog.records] == [True]


def test_wrong_arguments(tmp_path):
    with pytest.raises(ValueError, match="sampling_rate must be at least 1"):
        next(read_audio(make_clip(tmp_path / "clip.mp4"), 0))
    with pytest.raises(FileNotFoundError, match="check the path"):
        next(read_audio(tmp_path / "none.mp4"))
    (tmp_path / "text.mp4").write_text("no video" * 99)
    with pytest.raises(VideoError, match="not a video"):
        next(read_audio(tmp_path / "text.mp4"))
