# SPDX-License-Identifier: Apache-2.0
"""SalFoM from files to maps: its windows and head rules, frames embedded once, what becomes of its maps."""

from __future__ import annotations

import logging
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from salfom_weights import GOLDEN
from seeded_weights import seeded_input
from tiny_models import tiny_salfom
from transformers import pipeline
from typer.testing import CliRunner
from video_factory import make_clip

from video_saliency import SalFoMConfig, VideoSaliencyPredictor, VideoSaliencyProcessor, plan_windows
from video_saliency.cli.main import app
from video_saliency.map_io import map_to_uint8, read_map_shards
from video_saliency.models.salfom.convert_salfom import PUBLISHED_MAPS, processor_settings
from video_saliency.processing_video_saliency import post_process_maps
from video_saliency.video_io import read_frames

EXAMPLE = Path(__file__).parents[2] / "examples" / "friday.mp4"
LENGTHS = [1, 15, 16, 17]  # around one window


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """The first 33 frames of the example clip, `(33, 480, 640, 3)`."""
    return np.stack([frame.to_rgb() for frame in islice(read_frames(EXAMPLE), 33)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("salfom")
    for part in tiny_salfom():
        part.save_pretrained(path)
    return str(path)


def frames_of(windows, frame: int) -> list[int]:
    (found,) = [list(window.frames) for window in windows if window.maps == ((0, frame),)]
    return found


@pytest.mark.parametrize("num_frames", [31, 40])
def test_windows_of_the_paper(num_frames):
    """Time runs backwards for the first 15 frames, as in TASED-Net."""
    windows = plan_windows(num_frames, SalFoMConfig().window_spec)
    assert len(windows) == num_frames
    for frame in range(num_frames):
        expected = range(frame - 15, frame + 1) if frame >= 15 else range(frame + 15, frame - 1, -1)
        assert frames_of(windows, frame) == list(expected)


@pytest.mark.parametrize(
    ("num_frames", "rule", "warns"), [(1, "reverse", True), (30, "reverse", True), (30, "repeat", False)]
)
def test_windows_of_the_script(num_frames, rule, warns, caplog):
    """The first frame is repeated: if asked for, and, with a warning, where the clip is too short to be reversed."""
    with caplog.at_level(logging.WARNING, "video_saliency.windows"):
        windows = plan_windows(num_frames, SalFoMConfig(window={"head_policy": rule}).window_spec)
    for frame in range(num_frames):
        assert frames_of(windows, frame) == [max(0, index) for index in range(frame - 15, frame + 1)]
    expected = f"the clip has {num_frames} steps, head_policy='reverse' needs 31: falling back to 'repeat'"
    assert [record.getMessage() for record in caplog.records] == ([expected] if warns else [])


@pytest.mark.parametrize("num_frames", [*LENGTHS, 33])
def test_every_frame_gets_the_map_of_its_window(num_frames, pictures):
    model, processor = tiny_salfom()
    clip = pictures[:num_frames]
    results = list(VideoSaliencyPredictor(model, processor).stream(clip))
    assert [result.frame_index for result in results] == list(range(num_frames))
    assert all(result.saliency_map.shape == (480, 640) for result in results)
    pixels = processor(videos=clip)["pixel_values_videos"][0]
    for window in plan_windows(num_frames, model.config.window_spec):
        ((_, frame),) = window.maps
        if frame % 4 == 0 or frame == num_frames - 1:
            with torch.no_grad():
                expected = model(pixels[None, list(window.frames)]).saliency_maps[0, 0]
            torch.testing.assert_close(results[frame].model_map, expected, atol=1e-6, rtol=0)
    if num_frames > 1:
        assert not torch.equal(results[0].model_map, results[-1].model_map)


@pytest.mark.parametrize("num_frames", LENGTHS)
def test_short_clips_through_pipeline_and_command(num_frames, pictures, folder, tmp_path):
    clip = make_clip(
        tmp_path / "clip.mp4", num_frames=num_frames, width=640, height=480, pictures=pictures[:num_frames]
    )
    result = pipeline("video-saliency", model=folder)(str(clip), normalize=None)
    assert result["saliency_maps"].shape == (num_frames, 480, 640)
    assert result["saliency_maps"].isfinite().all()
    options = ["--model", folder, "--save", "maps,overlay", "--map-size", "source", "--normalize", "none"]
    done = CliRunner().invoke(app, ["predict", str(clip), "--output", str(tmp_path / "out"), *options])
    assert done.exit_code == 0, done.output
    maps = {index: saliency_map for index, _, saliency_map in read_map_shards(tmp_path / "out" / "clip" / "maps")}
    assert list(maps) == list(range(num_frames))
    for index, saliency_map in maps.items():
        np.testing.assert_allclose(saliency_map, result["saliency_maps"][index], atol=1e-6)
    assert (tmp_path / "out" / "clip" / "overlay.mp4").stat().st_size > 0


@pytest.mark.parametrize(("stride", "batch_size"), [(1, 1), (1, 3), (5, 2)])
def test_each_frame_is_embedded_once(stride, batch_size, pictures, monkeypatch):
    model, processor = tiny_salfom(window={"head_policy": "repeat"})
    predictor = VideoSaliencyPredictor(model, processor, batch_size=batch_size)
    embedded, real = [], model.embed_frames
    monkeypatch.setattr(model, "embed_frames", lambda frames: embedded.append(len(frames)) or real(frames))
    whole = [frame.model_map for frame in predictor.stream(pictures, map_stride=stride)]
    assert sum(embedded) <= 33  # with a stride, the last frames may be in no window
    assert sum(embedded) >= 33 - stride
    resumed = list(predictor.stream(pictures, map_stride=stride, start_frame=20))
    assert [frame.frame_index for frame in resumed] == list(range(20, 33))
    assert all(torch.equal(frame.model_map, whole[frame.frame_index]) for frame in resumed)


@pytest.mark.parametrize(("case", "size", "stride"), [("up", (360, 640), 4), ("down", (90, 160), 1)])
def test_maps_become_those_of_the_published_script(case, size, stride):
    golden = load_file(GOLDEN / "processing.safetensors")
    saliency_map = seeded_input(f"salfom/post/{case}", (224, 224)).sigmoid()
    resized = post_process_maps(saliency_map, size, antialias=False, normalize=None)
    blurred = post_process_maps(saliency_map, size, smoothing=2.0, antialias=False, normalize=None)
    for name, value in (("resized", resized), ("blurred", blurred)):
        expected = golden[f"post_{case}.{name}"]
        torch.testing.assert_close(value[::stride, ::stride], expected, atol=5e-5, rtol=0)
    processor = VideoSaliencyProcessor(**processor_settings(SalFoMConfig()))
    (final,) = processor.post_process_video_saliency(saliency_map[None, None], [size], normalize="published")
    assert final.min() == 0 and final.max() == 1
    expected_grey, quantize = golden[f"post_{case}.png_uint8"].numpy(), processor.published_quantize
    grey, ours = (map_to_uint8(final[0].numpy(), quantize=how)[::stride, ::stride] for how in (quantize, "round"))
    # adding a half before rounding turns at whole values; sums of another order may lie on the other side there
    levels = 255 * final[0].numpy()[::stride, ::stride]
    clear = np.abs(levels - np.rint(levels)) > 1e-3
    assert clear.mean() > 0.99 and np.array_equal(grey[clear], expected_grey[clear])
    assert 0.4 < (ours < expected_grey).mean() < 0.6 and (expected_grey - ours).max() == 1
    if case == "down":  # all of the blurred map is kept: no sum is made anew
        stretched = post_process_maps(golden["post_down.blurred"], normalize="minmax").numpy()
        assert np.array_equal(map_to_uint8(stretched, quantize=quantize), expected_grey)
    if case == "down":  # the default averages when it shrinks, which is another map
        assert (post_process_maps(saliency_map, size, normalize=None) - resized).abs().max() > 0.1


def test_the_command_writes_pictures_as_the_published_script(pictures, folder, tmp_path):
    clip = make_clip(tmp_path / "clip.mp4", num_frames=2, width=640, height=480, pictures=pictures[:2])
    options = ["--output", str(tmp_path), "--model", folder, "--save", "png", "--map-size", "source"]
    frames = list(VideoSaliencyPredictor.from_pretrained(folder).stream(clip, normalize="published"))
    for further, quantize in ((["--normalize", "published"], "raise"), ([], "round")):
        done = CliRunner().invoke(app, ["predict", str(clip), *options, *further])
        assert done.exit_code == 0, done.output
        with Image.open(tmp_path / "clip" / "png" / "eyeMap_00001.png") as picture:
            equal = np.asarray(picture) == map_to_uint8(frames[0].saliency_map.numpy(), quantize=quantize)
        assert equal.all() == bool(further)


@pytest.mark.parametrize(("case", "shape"), [("down", (360, 640, 3)), ("up", (90, 120, 3))])
def test_frames_become_those_of_the_published_script(case, shape):
    golden = load_file(GOLDEN / "processing.safetensors")
    picture = (50 * seeded_input(f"salfom/prep/{case}", shape) + 128).clamp(0, 255).to(torch.uint8)
    processor = VideoSaliencyProcessor(**processor_settings(SalFoMConfig()))
    resized = processor.resize_frames(picture[None])[0]
    expected = golden[f"prep_{case}.resized_uint8"].permute(2, 0, 1).int()
    assert (resized[:, ::2, ::2].int() - expected).abs().max() <= 1
    values = processor(videos=picture[None])["pixel_values_videos"][0, 0]
    torch.testing.assert_close(values[:, ::2, ::2], golden[f"prep_{case}.pixel_values"], atol=0.02, rtol=0)


def test_published_maps_on_request(pictures, folder, tmp_path):
    clip = make_clip(tmp_path / "clip.mp4", num_frames=2, width=640, height=480, pictures=pictures[:2])
    pipe = pipeline("video-saliency", model=folder)
    assert pipe.processor.published_maps == PUBLISHED_MAPS
    own = pipe(str(clip), normalize=None)["saliency_maps"]
    published = pipe(str(clip), normalize="published")["saliency_maps"]
    expected = post_process_maps(own, smoothing=2.0, normalize="minmax")
    torch.testing.assert_close(published, expected, atol=1e-4, rtol=0)
    options = ["--model", folder, "--save", "maps", "--map-size", "source", "--normalize", "published"]
    done = CliRunner().invoke(app, ["predict", str(clip), "--output", str(tmp_path / "out"), *options])
    assert done.exit_code == 0, done.output
    for index, _, saliency_map in read_map_shards(tmp_path / "out" / "clip" / "maps"):
        np.testing.assert_allclose(saliency_map, published[index], atol=1e-6)
    options[options.index("source")] = "model"
    done = CliRunner().invoke(app, ["predict", str(clip), "--output", str(tmp_path / "other"), *options])
    assert done.exit_code == 2 and "add --map-size source" in done.output


def test_published_maps_that_are_not_known_say_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="has no published_maps: set them"):
        VideoSaliencyProcessor().map_options(normalize="published")
    with pytest.raises(ValueError, match="leave smoothing=3.0 away"):
        tiny_salfom()[1].map_options(smoothing=3.0, normalize="published")
    with pytest.raises(ValueError, match="smoothing, antialias, normalize, quantize only"):
        VideoSaliencyProcessor(published_maps={"blur": 2.0})
    assert "published_maps" not in VideoSaliencyProcessor().to_dict()  # files of other models stay as they are
