# SPDX-License-Identifier: Apache-2.0
"""DTFSal from files to maps, on the example clip with its sound and without: predictor, pipeline and command line."""

from __future__ import annotations

import csv
import json
import logging
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from tiny_models import tiny_dtfsal
from transformers import pipeline
from typer.testing import CliRunner
from video_factory import make_clip, sine

from video_saliency.cli.main import app
from video_saliency.models.dtfsal.modeling_dtfsal import SILENCE
from video_saliency.predictor import VideoSaliencyPredictor

EXAMPLE = Path(__file__).parents[1] / "examples" / "friday.mp4"
NUM_FRAMES = 21
RATE = 30
STRIDE = 7  # three windows


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """The start of the example clip, by whether it has its sound."""
    with av.open(str(EXAMPLE)) as source:
        pictures = [frame.to_ndarray(format="rgb24") for frame in islice(source.decode(video=0), NUM_FRAMES)]
    with av.open(str(EXAMPLE)) as source:
        rate = source.streams.audio[0].rate
        sound = np.concatenate([frame.to_ndarray() for frame in source.decode(audio=0)], axis=1)
    height, width = pictures[0].shape[:2]
    settings = {"num_frames": NUM_FRAMES, "rate": RATE, "height": height, "width": width, "pictures": pictures}
    folder = tmp_path_factory.mktemp("clips")
    sound = sound[:, : NUM_FRAMES * rate // RATE]
    return {
        True: make_clip(folder / "sounding.mp4", **settings, audio="aac", audio_rate=rate, sound=sound),
        False: make_clip(folder / "silent.mp4", **settings),
    }


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, str]:
    """Saved models, by whether they listen."""
    found = {}
    for audio in (True, False):
        folder = tmp_path_factory.mktemp("audio" if audio else "visual")
        for part in tiny_dtfsal(audio=audio):
            part.save_pretrained(folder)
        found[audio] = str(folder)
    return found


def call(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("audio", [True, False])
def test_every_frame_gets_the_map_of_its_own_window(audio: bool, clips: dict[bool, Path]) -> None:
    predictor = VideoSaliencyPredictor(*tiny_dtfsal(audio=audio))
    frames = list(predictor.stream(clips[True], map_stride=STRIDE, extra_maps=["stage1_maps", "stage4_maps"]))
    assert [frame.frame_index for frame in frames] == list(range(NUM_FRAMES))
    assert all(frame.saliency_map.shape == (480, 640) for frame in frames[::STRIDE])
    assert all(frame.model_map.isfinite().all() and frame.model_map.amin() >= 0 for frame in frames)
    assert not torch.allclose(frames[0].model_map, frames[2 * STRIDE].model_map)
    assert frames[STRIDE].extra_maps["stage4_maps"].shape == (32, 48)


def test_the_map_is_that_of_a_window_whose_middle_the_frame_is(clips: dict[bool, Path]) -> None:
    model, processor = tiny_dtfsal()
    predictor = VideoSaliencyPredictor(model, processor)
    frames = list(predictor.stream(clips[False], map_stride=STRIDE, with_frames=True))
    pictures = [frame.frame.to_rgb() for frame in frames[STRIDE - 4 : STRIDE + 4] if frame.frame is not None]
    inputs = processor(videos=[np.stack(pictures)], return_tensors="pt")
    silence = torch.full((1, 2, 1, 16, 32), SILENCE)
    with torch.no_grad():
        expected = model(inputs["pixel_values_videos"], silence).saliency_maps[0, 0]
    torch.testing.assert_close(frames[STRIDE].model_map, expected)


def test_sound_matters_to_a_model_that_listens_only(clips: dict[bool, Path]) -> None:
    def maps(audio_model: bool, clip: Path, audio: str | None) -> torch.Tensor:
        predictor = VideoSaliencyPredictor(*tiny_dtfsal(audio=audio_model))
        stream = predictor.stream(clip, map_stride=STRIDE, audio=audio)
        return torch.stack([frame.model_map for frame in stream])

    heard = maps(True, clips[True], "on")
    silent = maps(True, clips[True], "off")
    assert not torch.allclose(heard, silent)
    assert not torch.allclose(heard, maps(True, clips[True], "shuffled"))
    torch.testing.assert_close(maps(True, clips[False], None), silent)
    torch.testing.assert_close(maps(False, clips[True], None), maps(False, clips[False], None))


@pytest.mark.parametrize("audio", [True, False])
def test_pipeline(audio: bool, folders: dict[bool, str], clips: dict[bool, Path]) -> None:
    pipe = pipeline("video-saliency", model=folders[audio], device="cpu")
    results = [pipe(str(clip), map_stride=STRIDE, extra_maps=["stage2_maps"]) for clip in (clips[True], clips[False])]
    for result in results:
        assert result["saliency_maps"].shape == (NUM_FRAMES, 480, 640)
        assert result["stage2_maps"].shape == (NUM_FRAMES, 480, 640)
    assert torch.allclose(results[0]["saliency_maps"], results[1]["saliency_maps"]) == (not audio)


def test_command_line_with_sound(folders: dict[bool, str], clips: dict[bool, Path], tmp_path: Path) -> None:
    options = ("--output", tmp_path, "--model", folders[True], "--save", "csv,sound", "--map-stride", STRIDE)
    text = call("predict", clips[True], *options)
    assert "sound (on) against silence" in " ".join(text.split())
    with (tmp_path / "sounding" / "sound.csv").open() as file:
        assert len(list(csv.DictReader(file))) == NUM_FRAMES
    settings = json.loads((tmp_path / "sounding" / "run.json").read_text())
    assert "on" in json.dumps(settings)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_command_line_with_damaged_sound(
    value: float, folders: dict[bool, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sound = sine(int(0.8 * 44_100), 44_100)
    sound[:, 8000:9000] = value
    clip = make_clip(tmp_path / "damaged.mov", 20, audio="pcm_f32le", sound=sound)
    with caplog.at_level(logging.WARNING):
        call("predict", clip, "--output", tmp_path, "--model", folders[True], "--save", "overlay,csv,maps,sound")
    assert [f"2000 samples of the sound of {clip}" in record.getMessage() for record in caplog.records] == [True]
    with np.load(tmp_path / "damaged" / "maps" / "maps-00000000.npz") as maps:
        assert np.isfinite(maps["saliency_maps"]).all()
    with av.open(str(tmp_path / "damaged" / "overlay.mp4")) as written:
        assert len(written.streams.audio) == 1
    with (tmp_path / "damaged" / "sound.csv").open() as file:
        assert all(np.isfinite(float(value)) for row in csv.DictReader(file) for value in list(row.values())[1:])


def test_command_line_without_sound(folders: dict[bool, str], clips: dict[bool, Path], tmp_path: Path) -> None:
    for audio, clip in ((False, clips[True]), (True, clips[False])):
        out = tmp_path / str(audio)
        call("predict", clip, "--output", out, "--model", folders[audio], "--save", "csv", "--map-stride", STRIDE)
        with (out / clip.stem / "saliency.csv").open() as file:
            assert len(list(csv.DictReader(file))) == NUM_FRAMES


@pytest.mark.parametrize("audio", [True, False])
def test_info(audio: bool, folders: dict[bool, str]) -> None:
    text = call("info", folders[audio])
    for word in (
        "DTFSalForVideoSaliency",
        "8 frames in a row",
        "middle",
        "32 x 48",
        "encoder",
        "decoder",
        "with attention",
    ):
        assert word in text
    assert ("audio_encoder" in text) == audio
