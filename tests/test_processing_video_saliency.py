# SPDX-License-Identifier: Apache-2.0
"""Frames to tensors as Pillow and the official code do it, and maps back to source size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

import video_saliency  # noqa: F401 - registers the processor
from video_saliency.audio_windows import AudioSpec
from video_saliency.map_io import Quantization
from video_saliency.modeling_outputs import VideoSaliencyOutput
from video_saliency.processing_video_saliency import (
    QUANTIZATIONS,
    VideoSaliencyProcessor,
    gaussian_blur,
    post_process_maps,
)

GOLDEN = json.loads((Path(__file__).parent / "golden" / "visage" / "preprocessing.json").read_text())


def clip(frames: int = 3, height: int = 30, width: int = 40, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(17, 23), (30, 40), (55, 90)], ids=["shrink", "same", "enlarge"])
@pytest.mark.parametrize("resample,pillow", [("bilinear", Image.BILINEAR), ("bicubic", Image.BICUBIC)])
def test_resize_is_pillows(size, resample, pillow):
    processor = VideoSaliencyProcessor(size={"height": size[0], "width": size[1]}, resample=resample)
    frames = clip()
    ours = processor.resize_frames(frames).permute(0, 2, 3, 1).numpy().astype(int)
    theirs = np.stack([np.asarray(Image.fromarray(frame).resize(size[::-1], pillow)) for frame in frames])
    assert np.abs(ours - theirs).max() <= 1


@pytest.mark.parametrize("name", ["small", "big"])
def test_resize_equals_the_official_preprocessing_of_visage(name):
    image = np.random.RandomState(11).randint(0, 256, (90, 160, 3)).astype(np.uint8)
    if name == "big":
        image = np.kron(image, np.ones((8, 8, 1), np.uint8))[:, :1272]
    resized = VideoSaliencyProcessor(size={"height": 224, "width": 224}).resize_frames(image[None])[0]
    resized = resized.permute(1, 2, 0).numpy().astype(int)
    picked = resized[[0, 100, 223]][:, [0, 50, 223]]
    assert np.abs(picked - GOLDEN["resized_rows_0_100_223_cols_0_50_223"][name]).max() <= 1
    assert resized.mean() == pytest.approx(GOLDEN["resized_mean"][name], abs=0.02)
    assert resized.std() == pytest.approx(GOLDEN["resized_std"][name], abs=0.02)


def test_values_are_rescaled_and_normalised():
    processor = VideoSaliencyProcessor({"height": 30, "width": 40}, [0.5, 0.4, 0.3], [0.2, 0.3, 0.4])
    frames = clip()
    expected = (torch.from_numpy(frames).double() / 255 - torch.tensor([0.5, 0.4, 0.3])) / torch.tensor(
        [0.2, 0.3, 0.4]
    )
    got = processor(videos=frames)["pixel_values_videos"]
    assert got.shape == (1, 3, 3, 30, 40)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got[0].double(), expected.permute(0, 3, 1, 2), atol=1e-6, rtol=0)


def test_every_way_to_pass_videos():
    processor = VideoSaliencyProcessor(size={"height": 12, "width": 16})
    frames = clip()
    single = processor(videos=frames)["pixel_values_videos"]
    assert torch.equal(single, processor(videos=torch.from_numpy(frames))["pixel_values_videos"])
    batch = np.stack([frames, clip(seed=1)])
    both = processor(videos=batch)["pixel_values_videos"]
    assert both.shape == (2, 3, 3, 12, 16)
    assert torch.equal(both, processor(videos=list(batch))["pixel_values_videos"])
    assert torch.equal(both[:1], single)
    mixed = processor(videos=[frames, clip(3, 20, 50)])["pixel_values_videos"]
    assert mixed.shape == (2, 3, 3, 12, 16)
    assert isinstance(processor(videos=frames, return_tensors="np")["pixel_values_videos"], np.ndarray)
    assert torch.equal(single, processor(videos=frames, audio=np.zeros(16000))["pixel_values_videos"])


def test_flow_becomes_a_colour_image():
    processor = VideoSaliencyProcessor({"height": 30, "width": 40}, [0.0] * 3, [1.0] * 3)
    flow = torch.zeros(3, 2, 30, 40)
    flow[1:, 0] = 2.0  # to the right: red
    values = processor(videos=clip(), flow=flow)["flow_values"]
    assert values.shape == (1, 3, 3, 30, 40)
    torch.testing.assert_close(values[0, 0], torch.ones(3, 30, 40))
    torch.testing.assert_close(values[0, 1, :, 5, 5], torch.tensor([1.0, 0.0, 0.0]), atol=0.01, rtol=0)


SOUND = {"num_slices": 2, "slice_frames": 10, "hop_frames": 5, "size": [6, 8]}


def test_sound_becomes_slices():
    processor = VideoSaliencyProcessor({"height": 12, "width": 16}, audio_settings=SOUND)
    spec = AudioSpec(**SOUND)
    sound = np.random.default_rng(0).normal(0, 0.1, (2, spec.num_samples)).astype(np.float32)
    inputs = processor(videos=clip(), audio=sound, sampling_rate=16_000)
    assert set(inputs) == {"pixel_values_videos", "audio_values"}
    values = inputs["audio_values"]
    assert values.shape == (1, 2, 1, 6, 8) and values.dtype == torch.float32
    torch.testing.assert_close(values, processor.audio_slices(sound.mean(axis=0)[None]))
    # the middle counts: what is further out is cut, what lacks is silent
    longer = np.pad(sound, ((0, 0), (50, 50)), constant_values=0.9)
    assert torch.equal(values, processor(videos=clip(), audio=longer, sampling_rate=16_000)["audio_values"])
    shorter, padded = sound[:, 200:-200], np.pad(sound[:, 200:-200], ((0, 0), (200, 200)))
    batch = processor(videos=[clip(), clip()], audio=[shorter, padded], sampling_rate=16_000)["audio_values"]
    assert batch.shape == (2, 2, 1, 6, 8) and torch.equal(batch[0], batch[1])
    silence = processor(videos=clip(), audio=np.zeros(0), sampling_rate=16_000)["audio_values"]
    torch.testing.assert_close(silence, torch.full_like(silence, float(np.log(0.01))))


@pytest.mark.parametrize(
    "options,message",
    [
        ({"audio": np.zeros(99)}, "got sampling_rate=None: resample it"),
        ({"audio": np.zeros(99), "sampling_rate": 44_100}, "must have 16000 samples a second"),
        ({"audio": [np.zeros(99)] * 2, "sampling_rate": 16_000}, "1 videos need as many sounds"),
        ({"audio": np.zeros((99, 2)), "sampling_rate": 16_000}, "transpose it"),
        ({"audio": np.full(99, np.inf), "sampling_rate": 16_000}, "99 of 99 samples are NaN"),
    ],
)
def test_wrong_sound_says_what_to_do(options, message):
    with pytest.raises(ValueError, match=message):
        VideoSaliencyProcessor(audio_settings=SOUND)(videos=clip(), **options)


def test_audio_settings_are_saved_and_checked(tmp_path):
    processor = VideoSaliencyProcessor(audio_settings={"num_slices": 3})
    processor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "processor_config.json").read_text())["audio_settings"]
    assert saved == AudioSpec(num_slices=3).to_dict()
    assert AutoProcessor.from_pretrained(tmp_path).audio_spec == AudioSpec(num_slices=3)
    assert VideoSaliencyProcessor(audio_settings={}).audio_spec == AudioSpec()
    assert VideoSaliencyProcessor().audio_spec is None
    assert "audio_settings" not in VideoSaliencyProcessor().to_dict()  # files of models that only see stay as they are
    with pytest.raises(ValueError, match="fields of AudioSpec only"):
        VideoSaliencyProcessor(audio_settings={"hop": 3})
    with pytest.raises(ValueError, match="must be 16000"):
        VideoSaliencyProcessor(audio_settings={"sampling_rate": 44_100})


@pytest.mark.parametrize(
    "videos,message",
    [
        (None, "nothing to process"),
        (clip().astype(np.float32), "scale 0..1 floats by 255"),
        (clip().transpose(0, 3, 1, 2), "move the channels last"),
        (clip()[0], "4 dimensions"),
        ([clip()[0], clip()[1]], "stack single frames into one array first"),
        ([], "empty list"),
        ("clip.mp4", "read files with the pipeline"),
        ([clip(3), clip(4)], "must have equal length"),
    ],
)
def test_wrong_videos_say_what_to_do(videos, message):
    with pytest.raises(ValueError, match=message):
        VideoSaliencyProcessor()(videos=videos)


@pytest.mark.parametrize(
    "options,message",
    [
        ({"size": {"height": 10}}, "size must be"),
        ({"size": {"height": 0, "width": 5}}, "size must be"),
        ({"resample": "nearest"}, "resample must be"),
        ({"published_maps": {"blur": 2.0}}, "published_maps must hold smoothing.* quantize only, got .'blur'"),
        (
            {"published_maps": {"quantize": "nonsense"}},
            "published_maps: quantize must be one of round, truncate, raise, got 'nonsense'",
        ),
    ],
)
def test_wrong_processor_options(options, message):
    with pytest.raises(ValueError, match=message):
        VideoSaliencyProcessor(**options)


def test_published_maps_may_be_quantised_as_pictures_can_be():
    assert get_args(Quantization) == QUANTIZATIONS
    for quantize in QUANTIZATIONS:
        assert VideoSaliencyProcessor(published_maps={"quantize": quantize}).published_quantize == quantize


def test_unknown_call_argument_is_not_swallowed():
    with pytest.raises(ValueError, match=r"unknown arguments \['sizes'\]"):
        VideoSaliencyProcessor()(videos=clip(), sizes=(1, 2))


def test_save_and_load_keeps_every_value(tmp_path):
    options = {
        "size": {"height": 14, "width": 18},
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.4, 0.5, 0.6],
        "rescale_factor": 0.5,
        "resample": "bicubic",
    }
    processor = VideoSaliencyProcessor(**options)
    processor.save_pretrained(tmp_path)
    for loaded in (VideoSaliencyProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert isinstance(loaded, VideoSaliencyProcessor)
        assert {name: getattr(loaded, name) for name in options} == options
        assert torch.equal(
            loaded(videos=clip())["pixel_values_videos"], processor(videos=clip())["pixel_values_videos"]
        )


def test_post_process_gives_one_tensor_a_video_at_its_size():
    maps = torch.rand(2, 3, 6, 8)
    outputs = VideoSaliencyOutput(saliency_maps=maps)
    first, second = VideoSaliencyProcessor().post_process_video_saliency(outputs, target_sizes=[(12, 16), (3, 4)])
    assert first.shape == (3, 12, 16)
    assert second.shape == (3, 3, 4)
    torch.testing.assert_close(first.amax((1, 2)), torch.ones(3))
    (kept, _) = VideoSaliencyProcessor().post_process_video_saliency(maps, normalize=None)
    assert torch.equal(kept, maps[0])
    with pytest.raises(ValueError, match="as many target_sizes"):
        VideoSaliencyProcessor().post_process_video_saliency(maps, target_sizes=[(12, 16)])
    with pytest.raises(ValueError, match="saliency_maps of shape"):
        VideoSaliencyProcessor().post_process_video_saliency(maps[0])


def test_normalizations():
    maps = torch.tensor([[[1.0, 3.0], [2.0, 2.0]], [[0.0, 0.0], [0.0, 0.0]]])
    assert post_process_maps(maps, normalize="frame").tolist() == [
        [[pytest.approx(1 / 3), 1.0], [pytest.approx(2 / 3), pytest.approx(2 / 3)]],
        [[0.0, 0.0], [0.0, 0.0]],
    ]
    assert post_process_maps(maps, normalize="minmax")[0].tolist() == [[0.0, 1.0], [0.5, 0.5]]
    assert post_process_maps(maps, normalize="sum")[0].tolist() == [[0.125, 0.375], [0.25, 0.25]]
    assert post_process_maps(maps, normalize="sum")[1].sum() == 0
    with pytest.raises(ValueError, match="normalize must be one of"):
        post_process_maps(maps, normalize="max")


def test_blur_of_a_point_is_the_gaussian():
    maps = torch.zeros(1, 1, 31, 31)
    maps[0, 0, 15, 15] = 1
    blurred = gaussian_blur(maps, 2.0)[0, 0]
    offsets = torch.arange(-15.0, 16)
    profile = torch.where(offsets.abs() <= 5, torch.exp(-(offsets**2) / 8), 0)
    profile /= profile.sum()
    torch.testing.assert_close(blurred, profile[:, None] * profile[None], atol=1e-7, rtol=0)


def test_blur_mirrors_at_the_border_and_keeps_a_constant():
    torch.testing.assert_close(gaussian_blur(torch.ones(1, 1, 4, 9), 3.0), torch.ones(1, 1, 4, 9))
