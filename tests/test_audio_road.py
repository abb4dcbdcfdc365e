# SPDX-License-Identifier: Apache-2.0
"""Each window hears its own moment: from a file or samples through predictor and pipeline."""

from __future__ import annotations

import logging
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
import torch
from tiny_models import HearingModel, echo_model, hearing_model
from video_factory import make_clip, make_sound, sample_picture, sine

from video_saliency.audio_windows import AudioSpec, cut_excerpt
from video_saliency.pipeline_video_saliency import VideoSaliencyPipeline
from video_saliency.predictor import SILENT_MAPS, VideoSaliencyPredictor
from video_saliency.processing_video_saliency import VideoSaliencyProcessor
from video_saliency.sound_stream import KEPT_S, SoundStream
from video_saliency.sources import open_source
from video_saliency.video_io import VideoError

BLACK = [np.zeros((48, 64, 3), np.uint8)] * 60
WINDOWS = {
    "single frames": {},
    "middle": {"num_frames": 8, "output": "middle"},
    "last": {"num_frames": 5, "output": "last"},
    "last, reversed head": {"num_frames": 4, "output": "last", "head_policy": "reverse"},
    "all": {"num_frames": 4, "output": "all", "hop": 1},
}


def click(time: Fraction | float, duration: Fraction | float, rate: int, channels: int = 1) -> np.ndarray:
    """Silence with 20 ms of a tone around one moment, `(channels, samples)`."""
    samples = np.zeros((channels, int(duration * rate)), np.float32)
    start = round((time - 0.01) * rate)
    samples[:, start : start + rate // 50] = 0.9 * np.sin(np.arange(rate // 50) * 2 * np.pi * 1000 / rate)
    return samples


def loudness(frames) -> np.ndarray:
    """What the model heard at each frame: its map rises to the right by it, starting from black."""
    return np.array([float(frame.model_map[0, 1] - frame.model_map[0, 0]) for frame in frames])


def predictor(**window) -> VideoSaliencyPredictor:
    return VideoSaliencyPredictor(*hearing_model(**window))


@pytest.mark.parametrize(
    ("name", "later"),  # by how many frames the described frame is behind the window's middle
    [("single frames", 0), ("middle", 0.5), ("last", 2)],
)
@pytest.mark.parametrize("rate", [Fraction(25), Fraction(30_000, 1001), Fraction(24)], ids=str)
def test_click_is_heard_at_its_frame(name, later, rate):
    times = [index / rate for index in range(40)]
    for frame_index in (3, 17, 36):
        sound = click(times[frame_index], 40 / rate, 16_000)
        video = {"frames": np.stack(BLACK[:40]), "fps": rate, "audio": sound, "sampling_rate": 16_000}
        heard = loudness(predictor(**WINDOWS[name]).stream(video))
        assert len(heard) == 40 and heard.max() > 1
        assert abs(int(heard.argmax()) - later - frame_index) <= 0.5
        assert np.count_nonzero(heard > 0.1) <= 3


@pytest.mark.parametrize(
    ("suffix", "codec", "sampling_rate", "channels"),
    [
        (".mkv", "pcm_s16le", 16_000, 1),
        (".mkv", "pcm_s16le", 8000, 2),
        (".mov", "pcm_f32le", 48_000, 6),
        (".mp4", "aac", 44_100, 2),
        (".mkv", "libmp3lame", 22_050, 1),
        (".mkv", "flac", 96_000, 2),
    ],
)
@pytest.mark.parametrize(("start", "audio_start"), [(0, 0), (3, Fraction(1, 5)), (3, Fraction(-1, 10))], ids=str)
def test_sound_of_a_file_is_in_step(tmp_path, suffix, codec, sampling_rate, channels, start, audio_start):
    path = make_clip(
        tmp_path / f"clip{suffix}",
        pictures=BLACK[:30],
        num_frames=30,
        start=Fraction(start),
        audio=codec,
        audio_rate=sampling_rate,
        audio_start=audio_start,
        # the click is at 0.6 s of the video: frame 15 of 25 a second
        sound=click(Fraction(3, 5) - audio_start, Fraction(6, 5) - audio_start, sampling_rate, channels),
    )
    heard = loudness(predictor().stream(path))
    assert int(heard.argmax()) == 15
    quiet = np.delete(heard, range(11, 20))
    assert heard[15] > 1 and np.abs(quiet).max() < 0.05 * heard[15]


def test_variable_rate(tmp_path):
    times = [Fraction(index, 25) for index in range(10)] + [Fraction(60 + index, 25) for index in range(10)]
    sound = click(times[13], 3.2, 16_000)
    path = make_clip(tmp_path / "clip.mkv", pictures=BLACK[:20], times=times, audio="pcm_s16le", audio_rate=16_000,
                     sound=sound)  # fmt: skip
    for window in ({}, {"num_frames": 4, "output": "middle"}):
        assert abs(int(loudness(predictor(**window).stream(path)).argmax()) - 13) <= 1


def test_stream_gives_the_samples_of_the_whole_sound():
    noise = np.random.default_rng(0).normal(0, 0.1, 40_000).astype(np.float32)
    spec = AudioSpec()
    stream = SoundStream(lambda rate: iter([(0.0, noise[None, :9000]), (9000 / 16_000, noise[None, 9000:])]), spec)
    for centre in [Fraction(index, 30) for index in range(0, 120, 7)]:
        stream.forget_before(centre)
        expected = cut_excerpt(noise, spec.excerpt_start(centre), spec.num_samples)
        assert np.array_equal(stream.excerpt(centre), expected)


def test_gaps_are_silent_and_rounded_stamps_are_not_gaps():
    ones = np.ones((2, 1600), np.float32)
    stamps = [0.0, 0.1005, 0.1998, 0.5, 0.55]  # rounded ones; a gap; an overlap of half a block
    stream = SoundStream(lambda rate: iter([(stamp, ones) for stamp in stamps]), AudioSpec())
    heard = stream.excerpt(Fraction(24_560, 32_000))
    assert heard[:4800].tolist() == [1.0] * 4800
    assert heard[4800:8000].max() == 0 and heard[8000:10_400].min() == 1 and heard[10_400:].max() == 0


def test_memory_of_the_stream_does_not_grow():
    block = np.zeros((1, 16_000), np.float32)
    read = []

    def second_by_second(rate):
        for second in range(4000):
            read.append(second)
            yield float(second), block.copy()

    stream = SoundStream(second_by_second, AudioSpec())
    tracemalloc.start()
    stream.excerpt(Fraction(3000))  # a pause of most of an hour
    in_pause = tracemalloc.get_traced_memory()
    for second in range(3001, 3500):
        stream.forget_before(Fraction(second))
        stream.excerpt(Fraction(second))
    behind = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert in_pause[1] < 1.2 * KEPT_S * 64_000 and behind < 10 * 64_000
    assert read[-1] <= 3501  # no more than is needed
    stream.close()


@pytest.mark.parametrize("map_stride", [1, 3])
@pytest.mark.parametrize("mode", ["on", "off", "shuffled"])
@pytest.mark.parametrize("name", ["single frames", "middle", "last, reversed head", "all"])
def test_resumed_run_is_equal_to_the_bit(tmp_path, name, mode, map_stride):
    path = make_clip(tmp_path / "clip.mp4", 30, audio="aac")
    window = WINDOWS[name]
    options = {"audio": mode, "map_stride": map_stride}
    if mode != "off":
        options["extra_maps"] = [SILENT_MAPS]
    whole = list(predictor(**window).stream(path, **options))
    for start in (1, 10, 29):
        resumed = list(predictor(**window).stream(path, start_frame=start, **options))
        assert [frame.frame_index for frame in resumed] == list(range(start, 30))
        for frame, expected in zip(resumed, whole[start:], strict=True):
            assert torch.equal(frame.model_map, expected.model_map)
            for extra in frame.extra_maps:
                assert torch.equal(frame.extra_maps[extra], expected.extra_maps[extra])


def test_modes(tmp_path):
    path = make_clip(
        tmp_path / "clip.mkv",
        50,
        pictures=BLACK[:50],
        audio="pcm_s16le",
        audio_rate=16_000,
        sound=click(Fraction(1, 2), 2, 16_000),
    )
    road = predictor()
    default, on, off, shuffled = (loudness(road.stream(path, audio=mode)) for mode in (None, "on", "off", "shuffled"))
    assert np.array_equal(default, on) and on.max() > 1
    assert np.abs(off).max() < 1e-4
    assert shuffled.max() > 1  # all sound is there, elsewhere
    moved = (int(on.argmax()) - int(shuffled.argmax())) % 50
    assert 12 <= moved <= 38
    assert np.array_equal(shuffled, loudness(road.stream(path, audio="shuffled", audio_seed=0)))
    assert not np.array_equal(shuffled, loudness(road.stream(path, audio="shuffled", audio_seed=1)))


def test_shuffled_sound_is_the_whole_sound_turned_round():
    noise = np.random.default_rng(0).normal(0, 0.1, 24_560).astype(np.float32)
    blocks = [(start / 16_000, noise[None, start : start + 1000]) for start in range(0, 24_560, 1000)]
    stream = SoundStream(lambda rate: iter(blocks), AudioSpec(), shuffle_seed=3)
    heard = stream.excerpt(Fraction(24_560, 32_000))
    cut = int(np.flatnonzero(noise == heard[0])[0])
    assert 6140 <= cut <= 18_420
    assert np.array_equal(heard, np.roll(noise, -cut))


@pytest.mark.parametrize("mode", ["on", "shuffled"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "the clip has no sound"),
        ({"audio": "pcm_s16le", "sound": np.zeros((1, 88_200), np.float32)}, "the sound of the clip is silent"),
        ({"audio": "pcm_s16le", "audio_duration": Fraction(1)}, "lasts 1.96 s and has sound from 0.00 s to 1.00 s"),
    ],
    ids=["none", "silent", "short"],
)
def test_sound_that_lacks_is_told_once(tmp_path, caplog, mode, options, message):
    path = make_clip(tmp_path / "clip.mkv", 50, pictures=BLACK[:50], **options)
    with caplog.at_level(logging.WARNING):
        heard = loudness(predictor().stream(path, audio=mode))
    assert len(heard) == 50 and np.isfinite(heard).all() and abs(heard[-1]) < 1e-4
    assert [message in record.getMessage() for record in caplog.records] == [True]


def test_full_sound_and_switched_off_sound_are_not_told(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        list(predictor().stream(make_clip(tmp_path / "clip.mp4", 30, audio="aac")))
        list(predictor().stream(make_clip(tmp_path / "mute.mp4", 10), audio="off"))
    assert caplog.records == []


def test_sound_that_cannot_be_read_is_told_and_silent(caplog):
    def broken(rate):
        yield 0.0, np.ones((1, 100), np.float32)
        raise VideoError("the codec is unknown")

    stream = SoundStream(broken, AudioSpec())
    assert stream.excerpt(Fraction(0)).sum() == 100
    stream.tell(Fraction(10))
    assert ["the codec is unknown" in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize("mode", ["on", "shuffled"])
def test_samples_that_are_no_numbers_are_silence_and_told_once(tmp_path, caplog, mode):
    sound = sine(52_920, 44_100)
    expected = sound.copy()
    sound[:, 20_000:24_000], expected[:, 20_000:24_000] = np.nan, 0
    damaged = make_clip(tmp_path / "damaged.mov", 30, pictures=BLACK, audio="pcm_f32le", sound=sound)
    clean = make_clip(tmp_path / "clean.mov", 30, pictures=BLACK, audio="pcm_f32le", sound=expected)
    with caplog.at_level(logging.WARNING):
        heard = loudness(predictor().stream(damaged, audio=mode))
    assert np.isfinite(heard).all() and heard.max() > 0.1
    assert np.array_equal(heard, loudness(predictor().stream(clean, audio=mode)))
    assert ["samples of the sound of" in record.getMessage() for record in caplog.records] == [True]


def test_sound_beside_frames(tmp_path):
    sound = click(0.6, 1.2, 44_100, 2)
    path = make_sound(tmp_path / "sound.wav", sound, 44_100)
    frames = np.stack(BLACK[:30])
    videos = [
        {"frames": frames, "fps": 25, "audio": sound, "sampling_rate": 44_100},
        {"frames": iter(frames), "fps": 25, "audio": torch.from_numpy(sound), "sampling_rate": 44_100},
        {"frames": frames, "fps": 25, "audio": (sound[0] * 32_767).astype(np.int16), "sampling_rate": 44_100},
        {"frames": frames, "fps": 25, "audio": path},
        {"frames": frames, "fps": 25, "audio": str(path), "sampling_rate": None},
    ]
    for video in videos:
        assert int(loudness(predictor().stream(video)).argmax()) == 15
    assert np.abs(loudness(predictor().stream({"frames": frames, "fps": 25}))).max() < 1e-4


@pytest.mark.parametrize(
    ("extra", "error", "message"),
    [
        ({"audio": np.zeros(9)}, ValueError, "needs its 'sampling_rate'"),
        ({"audio": np.zeros(9), "sampling_rate": 0}, ValueError, "needs its 'sampling_rate'"),
        ({"audio": np.zeros((9, 2)), "sampling_rate": 8000}, ValueError, "transpose it"),
        ({"audio": np.full(9, np.nan), "sampling_rate": 8000}, ValueError, "9 of 9 samples are NaN"),
        ({"audio": "none.wav"}, FileNotFoundError, "check the path"),
        ({"sound": np.zeros(9)}, ValueError, "for sound 'audio' and 'sampling_rate'"),
    ],
)
def test_wrong_sound_beside_frames(extra, error, message):
    with pytest.raises(error, match=message):
        open_source({"frames": np.stack(BLACK[:2]), "fps": 25, **extra})


@pytest.mark.parametrize("mode", ["on", "shuffled"])
def test_sound_for_a_model_that_does_not_listen_is_refused(mode):
    deaf = VideoSaliencyPredictor(*echo_model())
    with pytest.raises(ValueError, match="does not listen"):
        deaf.stream(np.stack(BLACK[:2]), audio=mode)
    assert len(list(deaf.stream(np.stack(BLACK[:2]), audio="off"))) == 2


def test_wrong_modes_are_refused():
    with pytest.raises(ValueError, match="audio must be one of on, off, shuffled, got 'loud'"):
        predictor().stream(np.stack(BLACK[:2]), audio="loud")
    with pytest.raises(ValueError, match="set audio='on'"):
        predictor().stream(np.stack(BLACK[:2]), audio="off", extra_maps=[SILENT_MAPS])


def test_a_processor_for_other_sound_is_refused():
    model, processor = hearing_model()
    settings = model.config.audio_spec.to_dict()
    fitting = VideoSaliencyProcessor(processor.size, audio_settings=settings)
    assert VideoSaliencyPredictor(model, fitting).audio_spec == fitting.audio_spec
    with pytest.raises(ValueError, match="load the processor that was saved with the model"):
        VideoSaliencyPredictor(model, VideoSaliencyProcessor(processor.size, audio_settings={}))


def test_silent_maps_are_those_of_a_run_without_sound(tmp_path):
    path = make_clip(tmp_path / "clip.mp4", 20, audio="aac")
    road = predictor(**WINDOWS["middle"])
    frames = list(road.stream(path, extra_maps=[SILENT_MAPS]))
    silent = list(road.stream(path, audio="off"))
    for frame, expected in zip(frames, silent, strict=True):
        assert torch.equal(frame.extra_maps[SILENT_MAPS], expected.model_map)
        assert not torch.equal(frame.model_map, expected.model_map)


def test_batches_do_not_change_what_is_heard(tmp_path):
    path = make_clip(tmp_path / "clip.mp4", 20, audio="aac")
    model, processor = hearing_model(num_frames=4, output="middle")
    one, many = (VideoSaliencyPredictor(model, processor, batch_size=size).stream(path) for size in (1, 7))
    for frame, other in zip(one, many, strict=True):
        torch.testing.assert_close(frame.model_map, other.model_map)


def test_pipeline_takes_the_same_words(tmp_path):
    path = make_clip(tmp_path / "clip.mp4", 12, audio="aac")
    model, processor = hearing_model()
    pipe = VideoSaliencyPipeline(model=model, processor=processor, task="video-saliency")
    on = pipe(str(path), normalize=None, extra_maps=[SILENT_MAPS])
    off = pipe(str(path), normalize=None, audio="off")
    shuffled = pipe(str(path), normalize=None, audio="shuffled", audio_seed=2)
    torch.testing.assert_close(on[SILENT_MAPS], off["saliency_maps"])
    assert not torch.equal(on["saliency_maps"], off["saliency_maps"])
    assert not torch.equal(on["saliency_maps"], shuffled["saliency_maps"])
    given = {
        "frames": np.stack([sample_picture(index) for index in range(4)]),
        "fps": 25,
        "audio": sine(8000, 16_000),
        "sampling_rate": 16_000,
    }
    assert pipe(given)["saliency_maps"].shape == (4, 48, 64)
    assert isinstance(pipe.model, HearingModel)
