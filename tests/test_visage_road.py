# SPDX-License-Identifier: Apache-2.0
"""ViSAGE from files to maps: windows of a 30-fps file, pictures that reach the model, pipeline, command line."""

from __future__ import annotations

import json
import sys
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import tiny_gfsalnet, tiny_visage
from transformers import pipeline
from typer.testing import CliRunner
from video_factory import make_clip

from video_saliency import VideoSaliencyPredictor, VideoSaliencyProcessor, ViSAGEConfig, plan_windows
from video_saliency.cli.main import app
from video_saliency.map_io import map_to_uint8
from video_saliency.models.visage.configuration_visage import CLIP_MEAN, CLIP_STD
from video_saliency.video_io import probe

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden" / "visage"
EXAMPLE = ROOT / "examples" / "friday.mp4"
NUM_FRAMES = 31  # at 30 frames a second: five windows of six frames, and one of seven
RATE = 30


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The start of the example clip."""
    with av.open(str(EXAMPLE)) as source:
        pictures = [frame.to_ndarray(format="rgb24") for frame in islice(source.decode(video=0), NUM_FRAMES)]
    height, width = pictures[0].shape[:2]
    settings = {"num_frames": NUM_FRAMES, "rate": RATE, "height": height, "width": width, "pictures": pictures}
    return make_clip(tmp_path_factory.mktemp("clip") / "start.mp4", **settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A saved model with both experts and their adapters."""
    folder = tmp_path_factory.mktemp("model")
    for part in tiny_visage(lora=True):
        part.save_pretrained(folder)
    return str(folder)


def call(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("count", [131, 7])
def test_windows_of_a_30_fps_file_are_those_of_the_released_code(count: int, tmp_path: Path) -> None:
    expected = json.loads((GOLDEN / "inference_windows.json").read_text())[f"n{count}"]
    clip = make_clip(tmp_path / "clip.mp4", num_frames=count, rate=RATE, width=16, height=16)
    model, processor = tiny_visage()
    seen: list[torch.Tensor] = []

    class Watched(VideoSaliencyPredictor):
        def predict_windows(self, windows, *arguments, **options):
            seen.extend(windows)
            return super().predict_windows(windows, *arguments, **options)

    frames = list(Watched(model, processor, batch_size=4).stream(clip, with_frames=True))
    assert [frame.frame_index for frame in frames] == list(range(count))
    pictures = [processor.resize_frames(frame.frame.to_rgb()[None])[0] for frame in frames if frame.frame is not None]
    assert len(seen) == len(expected)
    planned = [
        list(window.frames) for window in plan_windows([frame.time for frame in frames], model.config.window_spec)
    ]
    assert sorted(planned) == sorted(expected)
    for window, indices in zip(seen, planned, strict=True):
        assert torch.equal(window, torch.stack([pictures[index] for index in indices]))


@pytest.mark.parametrize(("rate", "step"), [(25, 5), (50, 10), (Fraction(30000, 1001), 6), (5, 1)])
def test_other_rates_go_by_time(rate: Fraction, step: int) -> None:
    times = [Fraction(index) / rate for index in range(20 * step)]
    windows = plan_windows(times, ViSAGEConfig().window_spec)
    assert sorted(frame for window in windows for _, frame in window.maps) == list(range(20 * step))
    seconds = [float(times[after] - times[before]) for w in windows for before, after in pairwise(w.frames)]
    moving = [value for value in seconds if value]
    assert max(abs(value - 0.2) for value in moving) < 0.05 and len(moving) > 0.9 * len(seconds)


def test_pictures_reach_the_model_as_in_the_released_code() -> None:
    """A frame resized by Pillow to the square, divided by 255, CLIP's mean and deviation."""
    picture = np.random.RandomState(11).randint(0, 256, (90, 160, 3)).astype(np.uint8)
    processor = VideoSaliencyProcessor({"height": 224, "width": 224}, list(CLIP_MEAN), list(CLIP_STD))
    resized = np.asarray(Image.fromarray(picture).resize((224, 224), Image.Resampling.BILINEAR), dtype=np.float32)
    expected = torch.from_numpy((resized / 255 - np.float32(CLIP_MEAN)) / np.float32(CLIP_STD)).permute(2, 0, 1)
    found = processor(videos=picture[None])["pixel_values_videos"][0, 0]
    assert (found - expected).abs().max() < 1.01 / 255 / min(CLIP_STD)  # one grey level where rounding differs
    assert ((found - expected).abs() > 1e-5).float().mean() < 0.01
    golden = json.loads((GOLDEN / "preprocessing.json").read_text())
    assert (golden["mean"], golden["std"]) == (list(CLIP_MEAN), list(CLIP_STD))


@pytest.mark.parametrize("lora", [False, True])
def test_every_frame_gets_the_fused_map_of_its_window(lora: bool, clip: Path) -> None:
    model, processor = tiny_visage(lora=lora)
    model.config.output_auxiliary_maps = True
    predictor = VideoSaliencyPredictor(model, processor)
    frames = list(predictor.stream(clip, with_frames=True, extra_maps=["expert_maps", "auxiliary_maps"]))
    assert [frame.frame_index for frame in frames] == list(range(NUM_FRAMES))
    assert frames[0].extra_maps["expert_maps"].shape == (2, 28, 28)
    assert frames[0].extra_maps["auxiliary_maps"].shape == (3, 28, 28)
    pictures = [frames[min(index, NUM_FRAMES - 1)].frame.to_rgb() for index in range(0, 6 * 20, 6)]
    pictures = pictures[:6] + [pictures[5]] * 14  # the last frame of an offset stands for those that lack
    inputs = processor(videos=np.stack(pictures))
    with torch.no_grad():
        outputs = model(**inputs)
    for position, frame in enumerate(frames[::6]):
        torch.testing.assert_close(frame.model_map, outputs.saliency_maps[0, position], atol=1e-5, rtol=0)
        torch.testing.assert_close(
            frame.extra_maps["expert_maps"], outputs.expert_maps[0, position], atol=1e-5, rtol=0
        )


def test_pipeline(folder: str, clip: Path) -> None:
    pipe = pipeline("video-saliency", model=folder, device="cpu")
    result = pipe(str(clip), extra_maps=["expert_maps"])
    height, width = probe(clip).height, probe(clip).width
    assert result["saliency_maps"].shape == (NUM_FRAMES, height, width)
    assert result["saliency_maps"].dtype == torch.float32
    assert result["expert_maps"].shape == (NUM_FRAMES, 2, height, width)
    assert result["saliency_maps"].amax(dim=(1, 2)).sub(1).abs().max() < 1e-6


@pytest.mark.parametrize("options", [{"dtype": "bfloat16"}, {"device_map": "auto"}])
def test_pipeline_in_half_precision_and_on_automatic_devices(folder: str, clip: Path, options: dict[str, str]) -> None:
    expected = pipeline("video-saliency", model=folder, device="cpu")(str(clip), normalize=None)["saliency_maps"]
    pipe = pipeline("video-saliency", model=folder, **options)
    found = pipe(str(clip), normalize=None)["saliency_maps"]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=0.03 if "dtype" in options else 1e-5, rtol=0)


def test_command_line_writes_the_challenges_pictures(folder: str, clip: Path, tmp_path: Path) -> None:
    call("predict", clip, "--output", tmp_path, "--model", folder, "--save", "ntire,csv")
    pictures = sorted((tmp_path / clip.stem / "ntire").iterdir())
    assert [path.name for path in pictures] == [f"eyeMap_{number:05d}.png" for number in range(1, NUM_FRAMES + 1)]
    frames = VideoSaliencyPredictor.from_pretrained(folder).stream(clip)
    for path, frame in zip(pictures, frames, strict=True):
        with Image.open(path) as picture:
            expected = (frame.model_map.numpy() * np.float32(255)).astype(np.uint8)
            assert picture.mode == "L" and np.array_equal(np.asarray(picture), expected)
    text = call("info", folder)
    assert "ViSAGEForVideoSaliency" in text and "20 frames" in text


def test_challenge_pictures_of_another_scale_are_refused(tmp_path: Path) -> None:
    for part in tiny_gfsalnet(streams="appearance"):
        part.save_pretrained(tmp_path / "model")
    clip = make_clip(tmp_path / "clip.mp4", num_frames=2)
    options = ["--output", str(tmp_path / "out"), "--model", str(tmp_path / "model"), "--save", "ntire"]
    result = CliRunner().invoke(app, ["predict", str(clip), *options])
    assert result.exit_code != 0 and "(--save png; scale='maximum')" in " ".join(result.output.split())


def test_unit_scale_keeps_the_maps_own() -> None:
    values = np.array([[0.0, 0.4999, 0.5]])
    assert map_to_uint8(values, quantize="truncate", scale="unit").tolist() == [[0, 127, 127]]
    assert map_to_uint8(values, scale="unit").tolist() == [[0, 127, 128]]
    with pytest.raises(ValueError, match="the map reaches 1.5"):
        map_to_uint8(3 * values, scale="unit")


def test_submission_example(folder: str, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import ntire_submission

    (tmp_path / "maps" / clip.stem).mkdir(parents=True)
    (tmp_path / "maps" / clip.stem / "eyeMap_99999.png").write_bytes(b"of an earlier run")
    ntire_submission.main([str(clip), "--model", folder, "--output", str(tmp_path), "--device", "cpu"])
    pictures = sorted((tmp_path / "maps" / clip.stem).iterdir())
    assert len(pictures) == NUM_FRAMES and pictures[0].name == "eyeMap_00001.png"
    info = probe(tmp_path / "videos" / f"{clip.stem}.mp4")
    assert (info.codec, info.pixel_format, info.frame_rate) == ("h264", "yuv420p", RATE)
    assert (info.height, info.width) == (28, 28)
    with av.open(str(tmp_path / "videos" / f"{clip.stem}.mp4")) as video, Image.open(pictures[0]) as picture:
        decoded = next(video.decode(video=0)).to_ndarray(format="rgb24")[..., 0].astype(int)
        assert np.abs(decoded - np.asarray(picture).astype(int)).mean() < 4
    monkeypatch.setattr(ntire_submission, "count_frames", lambda path: 7)
    with pytest.raises(ValueError, match=f"the clip 7 frames, maps {NUM_FRAMES} frames, the video 7 frames"):
        ntire_submission.main([str(clip), "--model", folder, "--output", str(tmp_path), "--device", "cpu"])
    sys.modules.pop("ntire_submission")
