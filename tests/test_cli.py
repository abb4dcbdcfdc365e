# SPDX-License-Identifier: Apache-2.0
"""The command line, in processes of their own: files, exit codes, messages, kills and resumes."""

from __future__ import annotations

import contextlib
import csv
import errno
import functools
import http.server
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_models import EchoConfig, HearingConfig, HearingModel, hearing_model, tiny_gfsalnet
from transformers import AutoConfig, AutoModel
from typer.testing import CliRunner
from video_factory import make_clip

from video_saliency.cli import outputs
from video_saliency.cli.info import PeakMemory, describe, describe_maps, describe_window
from video_saliency.cli.main import app
from video_saliency.map_io import read_map_shards
from video_saliency.predictor import VideoSaliencyPredictor
from video_saliency.video_io import read_frames
from video_saliency.windows import WindowSpec

ALL = "overlay,maps,png,csv,sheet"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    network, processor = tiny_gfsalnet(streams="appearance")
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def run(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "video_saliency.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, **options)


def call(*arguments: object) -> tuple[int, str]:
    """The command in this process: quick; exit code and everything that was printed."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def one_line(text: str) -> str:
    lines = text.strip().splitlines()
    assert len(lines) == 1, text
    assert "Traceback" not in text
    return lines[0]


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_every_output(tmp_path, model):
    clip = make_clip(tmp_path / "clip.mp4", num_frames=20, rate=10, audio="aac")
    code, text = call("predict", clip, "--output", tmp_path / "out", "--model", model, "--save", ALL)
    assert code == 0
    folder = tmp_path / "out" / "clip"
    assert {path.name for path in folder.iterdir()} == {
        "overlay.mp4",
        "maps",
        "png",
        "saliency.csv",
        "sheet.png",
        "run.json",
    }
    for name in ("overlay.mp4", "maps", "png", "saliency.csv", "sheet.png"):
        assert str(folder / name) in text.replace("\n", "")
    with av.open(str(folder / "overlay.mp4")) as video:
        assert len(video.streams.audio) == 1
        assert sum(1 for _ in video.decode(video=0)) == 20
    rows = list(csv.DictReader((folder / "saliency.csv").open()))
    assert [int(row["frame"]) for row in rows] == list(range(20))
    assert [float(row["time_s"]) for row in rows] == pytest.approx([index / 10 for index in range(20)])
    shards = list(read_map_shards(folder / "maps"))
    assert [index for index, _, _ in shards] == list(range(20))
    assert shards[0][2].shape == (32, 48)
    assert sorted(path.name for path in (folder / "png").iterdir())[0] == "eyeMap_00001.png"
    assert len(list((folder / "png").iterdir())) == 20
    with Image.open(folder / "sheet.png") as sheet:
        assert sheet.width > 100


def test_the_embedded_model_is_called_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clip = make_clip(tmp_path / "clip.mp4", num_frames=2)
    (tmp_path / "default").mkdir()  # `./default` would be this folder
    for name, options in (("named", ["--model", "default"]), ("left out", [])):
        code, text = call("predict", clip, "--output", name, "--save", "csv", *options)
        assert code == 0, text
    tables = [(tmp_path / name / "clip" / "saliency.csv").read_bytes() for name in ("named", "left out")]
    assert tables[0] == tables[1]
    code, text = call("info", "default")
    assert code == 0 and "4,701,499" in text
    code, text = call("predict", clip, "--output", "other", "--model", "./default")
    assert code == 2 and "default has no config.json" in text


def test_map_size_source(tmp_path, model):
    clip = make_clip(tmp_path / "clip.mp4", num_frames=3, width=70, height=50)
    options = ("--model", model, "--save", "maps,png", "--map-size", "source")
    assert call("predict", clip, "--output", tmp_path / "out", *options)[0] == 0
    assert next(read_map_shards(tmp_path / "out" / "clip" / "maps"))[2].shape == (50, 70)
    with Image.open(tmp_path / "out" / "clip" / "png" / "eyeMap_00001.png") as picture:
        assert picture.size == (70, 50)


def test_a_folder_is_a_batch_and_one_bad_file_does_not_stop_it(tmp_path, model):
    clips = tmp_path / "clips"
    clips.mkdir()
    for name in ("a.mp4", "c.mp4"):
        make_clip(clips / name, num_frames=3)
    (clips / "b.mp4").write_bytes(b"not a video at all" * 100)
    (clips / "notes.txt").write_text("left alone")
    code, text = call("predict", clips, "--output", tmp_path / "out", "--model", model, "--save", "csv")
    assert code == 2
    assert "b.mp4" in text
    assert (tmp_path / "out" / "a" / "saliency.csv").exists()
    assert (tmp_path / "out" / "c" / "saliency.csv").exists()
    assert not (tmp_path / "out" / "b").exists()


def test_equal_names_do_not_overwrite_each_other(tmp_path, model):
    make_clip(tmp_path / "clip.mp4", num_frames=2)
    make_clip(tmp_path / "clip.mkv", num_frames=3)
    inputs = (tmp_path / "clip.mp4", tmp_path / "clip.mkv")
    assert call("predict", *inputs, "--output", tmp_path / "out", "--model", model, "--save", "csv")[0] == 0
    assert (tmp_path / "out" / "clip.mp4" / "saliency.csv").exists()
    assert (tmp_path / "out" / "clip.mkv" / "saliency.csv").exists()
    (tmp_path / "more").mkdir()
    make_clip(tmp_path / "more" / "clip.mp4", num_frames=2)
    code, text = call(
        "predict", inputs[0], tmp_path / "more" / "clip.mp4", "--output", tmp_path / "o", "--model", model
    )
    assert code == 2
    assert "different --output folders" in text


@pytest.mark.parametrize("map_stride", [1, 3])
def test_killed_run_resumes_to_equal_bytes(tmp_path, model, map_stride):
    clip = make_clip(tmp_path / "clip.mp4", num_frames=120, width=96, height=64, audio="aac")
    options = ["--model", model, "--save", ALL, "--segment-frames", 25, "--batch-size", 4, "--map-stride", map_stride]
    assert call("predict", clip, "--output", tmp_path / "whole", *options)[0] == 0
    command = ["predict", clip, "--output", tmp_path / "killed", *options]
    progress = tmp_path / "killed" / "clip" / ".partial" / "progress.json"
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        if progress.exists() and json.loads(progress.read_text())["frames_done"] >= 50:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    assert not (tmp_path / "killed" / "clip" / "overlay.mp4").exists()
    done = json.loads(progress.read_text())["frames_done"]
    assert 50 <= done < 120
    assert call(*command, "--resume")[0] == 0
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")
    code, text = call(*command, "--resume")
    assert (code, "already done" in text) == (0, True)


SLOW = """
import sys, time
from video_saliency.cli import outputs
from video_saliency.cli.info import PeakMemory, describe
from video_saliency.cli.main import app
add = outputs.OutputFolder.add
outputs.OutputFolder.add = lambda self, frame: (time.sleep(0.02), add(self, frame))[1]
app(sys.argv[1:])
"""


class Killed(BaseException):
    """Nothing catches it: what it leaves behind is what a kill would leave."""


@pytest.mark.parametrize("stage", ["overlay", "maps", "png", "csv", "sheet"])
def test_kill_while_the_final_files_are_made(tmp_path, model, monkeypatch, stage):
    clip = make_clip(tmp_path / "clip.mp4", num_frames=12)
    options = ("--model", model, "--save", ALL, "--segment-frames", 5)
    assert call("predict", clip, "--output", tmp_path / "whole", *options)[0] == 0
    names = {"overlay": outputs.OverlayOutput, "csv": outputs.CsvOutput, "sheet": outputs.SheetOutput}
    target = names.get(stage, outputs.FolderOutput)
    finish = target.finish

    def die(self, folder):
        finish(self, folder)
        if getattr(self, "name", stage) == stage:
            raise Killed
        return folder

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(target, "finish", die)
        app(["predict", str(clip), "--output", str(tmp_path / "broken"), *map(str, options)], standalone_mode=False)
    assert call("predict", clip, "--output", tmp_path / "broken", *options, "--resume")[0] == 0
    assert files_of(tmp_path / "broken") == files_of(tmp_path / "whole")


def die_at(number: int, function):
    """The function, but with a kill instead of its n-th call."""
    calls = itertools.count(1)

    def call_or_die(*arguments, **options):
        if next(calls) == number:
            raise Killed
        return function(*arguments, **options)

    return call_or_die


@pytest.mark.parametrize("number", [1, 2, 3])
def test_kill_between_the_shares_and_the_progress(tmp_path, model, monkeypatch, number):
    clip = make_clip(tmp_path / "clip.mp4", num_frames=55)  # the sheet's stride doubles in the middle
    options = ("--model", model, "--save", ALL, "--segment-frames", 20)
    assert call("predict", clip, "--output", tmp_path / "whole", *options)[0] == 0
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(outputs, "_write_json", die_at(number, outputs._write_json))
        app(["predict", str(clip), "--output", str(tmp_path / "broken"), *map(str, options)], standalone_mode=False)
    assert call("predict", clip, "--output", tmp_path / "broken", *options, "--resume")[0] == 0
    assert files_of(tmp_path / "broken") == files_of(tmp_path / "whole")


@pytest.mark.parametrize("frames", [12, 15], ids=["a part of a segment left", "whole segments"])
def test_kill_while_the_working_folder_is_removed(tmp_path, model, monkeypatch, frames):
    clip = make_clip(tmp_path / "clip.mp4", num_frames=frames)
    options = ("--model", model, "--save", ALL, "--segment-frames", 5)
    assert call("predict", clip, "--output", tmp_path / "whole", *options)[0] == 0

    def remove_some(folder):
        for path in sorted(folder.glob("*00000*"))[:3]:
            path.unlink()
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(outputs.shutil, "rmtree", remove_some)
        app(["predict", str(clip), "--output", str(tmp_path / "broken"), *map(str, options)], standalone_mode=False)
    code, text = call("predict", clip, "--output", tmp_path / "broken", *options, "--resume")
    assert (code, "already done" in text) == (0, True)
    finished = {name: data for name, data in files_of(tmp_path / "broken").items() if ".partial" not in name}
    assert finished == files_of(tmp_path / "whole")


def test_resumed_run_predicts_only_what_is_left(tmp_path, model, monkeypatch):
    clip = make_clip(tmp_path / "clip.mp4", num_frames=40)
    options = ("--model", model, "--save", "csv", "--segment-frames", 10, "--batch-size", 5)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(outputs, "_write_json", die_at(4, outputs._write_json))  # 30 frames are done
        app(["predict", str(clip), "--output", str(tmp_path / "out"), *map(str, options)], standalone_mode=False)
    windows = []
    predict = VideoSaliencyPredictor.predict_windows
    monkeypatch.setattr(
        VideoSaliencyPredictor,
        "predict_windows",
        lambda self, batch, *args, **options: windows.append(len(batch)) or predict(self, batch, *args, **options),
    )
    assert call("predict", clip, "--output", tmp_path / "out", *options, "--resume")[0] == 0
    assert windows == [5, 5]


def test_source_that_changed_is_not_gone_on_with(tmp_path, model, monkeypatch):
    clip = make_clip(tmp_path / "clip.mp4", num_frames=12)
    options = ("--model", model, "--save", "csv", "--segment-frames", 5)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(outputs, "_write_json", die_at(2, outputs._write_json))
        app(["predict", str(clip), "--output", str(tmp_path / "out"), *map(str, options)], standalone_mode=False)
    make_clip(clip, num_frames=14)
    code, text = call("predict", clip, "--output", tmp_path / "out", *options, "--resume")
    assert code == 2
    assert "other settings (source)" in text


def test_weights_that_changed_are_not_gone_on_with(tmp_path, model, monkeypatch):
    clip = make_clip(tmp_path / "clip.mp4", num_frames=12)
    copy = shutil.copytree(model, tmp_path / "model")
    options = ("--model", copy, "--save", "csv", "--segment-frames", 5)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(outputs, "_write_json", die_at(2, outputs._write_json))
        app(["predict", str(clip), "--output", str(tmp_path / "out"), *map(str, options)], standalone_mode=False)
    weights = load_file(copy / "model.safetensors")
    name = list(weights)[-1]
    save_file({**weights, name: weights[name] + 0.01}, copy / "model.safetensors", {"format": "pt"})
    code, text = call("predict", clip, "--output", tmp_path / "out", *options, "--resume")
    assert code == 2
    assert "other settings (config, processor and weights)" in text.replace("\n", " ")
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    assert call("predict", clip, "--output", tmp_path / "out", *options, "--resume")[0] == 0


def test_resume_makes_missing_files_again_and_leaves_foreign_ones(tmp_path, model):
    clip = make_clip(tmp_path / "clip.mp4", num_frames=4)
    options = ("--output", tmp_path / "out", "--model", model, "--save", "csv,sheet", "--resume")
    folder = tmp_path / "out" / "clip"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text('{"somebody": "else"}')
    (folder / "notes.txt").write_text("stays")
    assert call("predict", clip, *options)[0] == 0
    (folder / "sheet.png").unlink()
    assert call("predict", clip, *options)[0] == 0
    assert (folder / "sheet.png").exists()
    assert (folder / "notes.txt").read_text() == "stays"


def test_resume_with_other_settings_is_refused(tmp_path, model, monkeypatch):
    clip = make_clip(tmp_path / "clip.mp4", num_frames=12)
    options = ["--output", tmp_path / "out", "--model", model, "--save", "csv", "--segment-frames", 5]

    def fail(self, folder):
        raise OSError(errno.ENOSPC, "No space left on device", str(folder))

    with monkeypatch.context() as patch:
        patch.setattr(outputs.CsvOutput, "finish", fail)
        code, text = call("predict", clip, *options)
    assert code == 1
    assert "the disk is full" in text
    assert "--resume" in text
    code, text = call("predict", clip, *options, "--map-stride", 2, "--resume")
    assert code == 2
    assert "other settings (map_stride)" in text
    assert call("predict", clip, *options, "--resume")[0] == 0


def test_without_resume_a_run_starts_again(tmp_path, model):
    make_clip(tmp_path / "clip.mp4", num_frames=12)
    options = ["--output", tmp_path / "out", "--model", model, "--save", "maps,png"]
    assert call("predict", tmp_path / "clip.mp4", *options)[0] == 0
    make_clip(tmp_path / "clip.mp4", num_frames=7)
    assert call("predict", tmp_path / "clip.mp4", *options)[0] == 0
    assert len(list((tmp_path / "out" / "clip" / "png").iterdir())) == 7
    assert len(list(read_map_shards(tmp_path / "out" / "clip" / "maps"))) == 7


def test_truncated_video_keeps_the_maps_up_to_the_break(tmp_path, model):
    whole = make_clip(tmp_path / "cut.mp4", num_frames=60, audio="aac", muxer_options={"movflags": "faststart"})
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    done = run(
        "predict", tmp_path / "cut.mp4", "--output", tmp_path / "out", "--model", model, "--save", "overlay,csv"
    )
    assert done.returncode == 1
    assert "before the break" in one_line(done.stderr)
    rows = (tmp_path / "out" / "cut" / "saliency.csv").read_text().splitlines()
    with av.open(str(tmp_path / "out" / "cut" / "overlay.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == len(rows) - 1 > 0
    options = ("--output", tmp_path / "out", "--model", model, "--save", "overlay,csv", "--resume")
    code, text = call("predict", tmp_path / "cut.mp4", *options)
    assert code == 1
    assert "already done" in text
    assert "before the break" in text


@pytest.mark.parametrize(
    "clip_options",
    [
        {"width": 51, "height": 37, "rotation": 90, "num_frames": 9, "pixel_format": "yuv444p"},
        {"times": [Fraction(n, 100) for n in (0, 4, 5, 30, 31, 70)]},
        {"num_frames": 1},
        {"pixel_format": "yuv420p10le", "num_frames": 5},
    ],
    ids=["odd size, rotated", "variable rate", "one frame", "10 bit"],
)
def test_odd_clips_through_all_outputs(tmp_path, model, clip_options):
    clip = make_clip(tmp_path / "clip.mp4", **clip_options)
    options = ("--model", model, "--save", ALL, "--segment-frames", 2, "--map-stride", 3)
    assert call("predict", clip, "--output", tmp_path / "out", *options)[0] == 0
    source, drawn = list(read_frames(clip)), list(read_frames(tmp_path / "out" / "clip" / "overlay.mp4"))
    assert [frame.time for frame in drawn] == [frame.time for frame in source]
    height, width = source[0].to_rgb().shape[:2]
    assert drawn[0].to_rgb().shape[:2] == (height + height % 2, width + width % 2)
    assert len(list(read_map_shards(tmp_path / "out" / "clip" / "maps"))) == len(source)


def test_a_still_is_a_clip_of_one_frame(tmp_path, model):
    Image.new("RGB", (60, 40), (200, 30, 30)).save(tmp_path / "still.png")
    options = ("--output", tmp_path / "out", "--model", model, "--save", ALL)
    assert call("predict", tmp_path / "still.png", *options)[0] == 0
    assert len(list(read_frames(tmp_path / "out" / "still" / "overlay.mp4"))) == 1


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_output_that_is_a_file(tmp_path, model, place):
    clip = make_clip(tmp_path / "clip.mp4", num_frames=2)
    (tmp_path / "file").write_text("stays")
    code, text = call("predict", clip, "--output", tmp_path / place, "--model", model)
    assert code == 2
    assert "name another --output" in one_line(text)
    assert (tmp_path / "file").read_text() == "stays"


def test_clip_named_twice_is_predicted_once(tmp_path, model):
    (tmp_path / "clips").mkdir()
    clip = make_clip(tmp_path / "clips" / "clip.mp4", num_frames=2)
    (tmp_path / "clips" / "._clip.mp4").write_bytes(b"of another system")
    (tmp_path / "clips" / "folder.mp4").mkdir()
    options = ("--output", tmp_path / "out", "--model", model, "--save", "csv")
    code, text = call("predict", clip, tmp_path / "clips", *options)
    assert code == 0
    assert text.count("2 frames") == 1


@pytest.mark.parametrize("url", ["https://example.org/", "https://example.org/x/.."])
def test_url_without_a_file_name_is_refused(tmp_path, model, url):
    code, text = call("predict", url, "--output", tmp_path / "out", "--model", model)
    assert code == 2
    assert "names no file" in one_line(text)


def test_url_is_predicted_into_a_folder_of_its_name(tmp_path, model):
    make_clip(tmp_path / "my clip.mp4", num_frames=3)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/my%20clip.mp4?token=secret"
        options = ("--output", tmp_path / "out", "--model", model, "--save", "overlay,csv")
        assert call("predict", url, *options)[0] == 0
        server.shutdown()
    assert len(list(read_frames(tmp_path / "out" / "my clip" / "overlay.mp4"))) == 3
    assert "secret" not in (tmp_path / "out" / "my clip" / "run.json").read_text()


@pytest.mark.parametrize(
    "make,message",
    [
        (lambda folder: folder / "missing.mp4", "does not exist"),
        (lambda folder: (folder / "empty").mkdir() or folder / "empty", "holds no video"),
        (lambda folder: write(folder / "noise.mp4", b"not a video" * 50), "noise.mp4"),
        (lambda folder: write(folder / "zero.mp4", b""), "zero.mp4"),
        (lambda folder: write(folder / "text.txt", b"hello " * 100), "text.txt"),
    ],
    ids=["missing", "empty folder", "not a video", "empty file", "text"],
)
def test_wrong_input_is_one_line_and_exit_code_2(tmp_path, model, make, message):
    code, text = call("predict", make(tmp_path), "--output", tmp_path / "out", "--model", model)
    assert code == 2
    assert message in one_line(text)
    assert not list((tmp_path / "out").rglob("*.mp4"))


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "options,message",
    [
        (("--save", "overlay,film"), "choose from"),
        (("--save", ""), "choose from"),
        (("--map-size", "huge"), "model or source"),
        (("--normalize", "sum"), "frame, none or published"),
        (("--map-stride", 0), "at least 1"),
        (("--batch-size", 0), "at least 1"),
        (("--device", "warp"), "--device cpu"),
        (("--dtype", "int8"), "float32, bfloat16, float16"),
    ],
)
def test_wrong_option_is_one_line_and_exit_code_2(tmp_path, model, options, message):
    clip = make_clip(tmp_path / "clip.mp4", num_frames=2)
    code, text = call("predict", clip, "--output", tmp_path / "out", "--model", model, *options)
    assert code == 2
    assert message in one_line(text)
    assert not (tmp_path / "out").exists()


def test_unknown_model_is_one_line_and_exit_code_2(tmp_path):
    clip = make_clip(tmp_path / "clip.mp4", num_frames=2)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = run("predict", clip, "--output", tmp_path / "out", "--model", "nobody/nothing", env=environment)
    assert done.returncode == 2
    assert "a folder or the id of a repository on the Hub" in one_line(done.stderr)


def test_folder_without_a_processor_is_refused(tmp_path, model):
    shutil.copytree(model, tmp_path / "model")
    (tmp_path / "model" / "processor_config.json").unlink()
    clip = make_clip(tmp_path / "clip.mp4", num_frames=2)
    code, text = call("predict", clip, "--output", tmp_path / "out", "--model", tmp_path / "model")
    assert code == 2
    assert "processor_config.json" in text


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """The body runs as an ordinary user: root may read and write everywhere."""
    if os.geteuid() != 0:
        yield
        return
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def test_no_permission(model):
    with tempfile.TemporaryDirectory() as name:  # unlike pytest's folders, others may be let into it
        folder = Path(name)
        clip = make_clip(folder / "clip.mp4", num_frames=2)
        shutil.copytree(model, folder / "model")
        (folder / "out").mkdir()
        for path in (folder, folder / "model", *(folder / "model").iterdir(), clip, folder / "out"):
            path.chmod(0o555)
        arguments = ("predict", clip, "--output", folder / "out", "--model", folder / "model")
        assert (
            call("predict", clip, "--output", folder / "warm", "--model", folder / "model")[0] == 0
        )  # all is imported
        with unprivileged():
            code, text = call(*arguments)
        assert code == 2
        assert f"no permission for {folder / 'out' / 'clip'}" in one_line(text)
        clip.chmod(0o000)
        with unprivileged():
            code, text = call(*arguments)
        assert code == 2
        assert str(clip) in one_line(text)
        assert "permission" in text
        assert list((folder / "out").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root; the error path is tested above too")
def test_full_disk_keeps_what_is_done_and_resumes(tmp_path, model):
    clip = make_clip(tmp_path / "clip.mp4", num_frames=60, width=96, height=64)
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("this machine lets nobody mount a small disk")
    try:
        options = ("--model", model, "--save", "overlay,maps,csv", "--segment-frames", 10)
        code, text = call("predict", clip, "--output", disk / "out", *options)
        assert code == 1
        assert "the disk is full" in one_line(text)
        folder = disk / "out" / "clip"
        assert [path.name for path in folder.iterdir()] == [".partial"]
        assert 0 < json.loads((folder / ".partial" / "progress.json").read_text())["frames_done"] < 60
        subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
        assert call("predict", clip, "--output", disk / "out", *options, "--resume")[0] == 0
        call("predict", clip, "--output", tmp_path / "whole", *options)
        assert files_of(folder) == files_of(tmp_path / "whole" / "clip")
    finally:
        subprocess.run(["umount", str(disk)], check=False)


@pytest.mark.parametrize("damage", ["lost tensor", "cut file", "wrong config", "wrong type"])
def test_damaged_model_is_refused(tmp_path, model, damage):
    broken = Path(shutil.copytree(model, tmp_path / "model"))
    weights = broken / "model.safetensors"
    if damage == "lost tensor":
        tensors = load_file(weights)
        tensors.pop("streams.appearance.head.layers.0.weight")
        save_file(tensors, weights, metadata={"format": "pt"})
    elif damage == "cut file":
        weights.write_bytes(weights.read_bytes()[:1000])
    else:
        config = json.loads((broken / "config.json").read_text())
        wrong = {"wrong config": {"streams": "three"}, "wrong type": {"kl_loss_weight": "two"}}[damage]
        (broken / "config.json").write_text(json.dumps(config | wrong))
    clip = make_clip(tmp_path / "clip.mp4", num_frames=2)
    code, text = call("predict", clip, "--output", tmp_path / "out", "--model", broken)
    assert code == 2
    expected = {
        "lost tensor": "streams.appearance.head.layers.0.weight",
        "wrong config": "streams must be one of",
        "wrong type": "is damaged (Validation error for field 'kl_loss_weight'",
    }
    assert expected.get(damage, "is damaged") in one_line(text)


def test_gflop_figure_is_that_of_a_count_by_hand():
    config = EchoConfig()
    row = describe(config, {"height": 6, "width": 8}, "cpu", ConvolutionModel)["GFLOP a map"]
    # one 3x3 convolution from 3 to 5 channels: 2 * 9 * 3 * 5 a pixel, 48 pixels
    assert row.split()[0] == f"{2 * 9 * 3 * 5 * 48 / 1e9:.3g}"


class ConvolutionModel(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 5, 3, padding=1)

    def forward(self, pixel_values_videos):
        return self.layer(pixel_values_videos.flatten(0, 1))


def test_info_tells_window_size_parameters_and_cost(model):
    code, text = call("info", model)
    assert code == 0
    for word in ("GFSalNetForVideoSaliency", "1 frame", "32 x 48", "parameters", "GFLOP a map", "MiB", "cpu"):
        assert word in text
    code, text = call("info")
    assert code == 0
    assert "144 x 192" in text and "lucas_kanade, the camera's motion removed" in text


@pytest.mark.parametrize(
    ("fields", "flow_pair", "window", "maps"),
    [
        ({}, "previous", "1 frame and the one before it", "one for each frame of a window"),
        ({}, None, "1 frame", "one for each frame of a window"),
        (
            {"num_frames": 20, "step_seconds": 0.2},
            None,
            "20 frames, 0.2 s apart",
            "one for each frame of a window; after a clip's end the last one is repeated",
        ),
        (
            {"num_frames": 16, "output": "last", "head_policy": "reverse"},
            None,
            "16 frames in a row",
            "one for each window, of its last frame; for a clip's first 15 frames the window runs backwards from the "
            "frames after them",
        ),
        (
            {"num_frames": 32, "output": "middle"},
            None,
            "32 frames in a row",
            "one for each window, of its middle frame; before a clip's first frame that one is repeated, after its "
            "last the last one is repeated",
        ),
        (
            {"num_frames": 4, "step": 2, "hop": 3, "tail_policy": "cycle"},
            None,
            "4 frames that are 2 frames apart",
            "one for each frame of a window, windows start every 3 of them; after a clip's end the window begins "
            "again",
        ),
    ],
)
def test_windows_in_words(fields, flow_pair, window, maps):
    spec = WindowSpec(**fields)
    assert (describe_window(spec, flow_pair), describe_maps(spec)) == (window, maps)


def test_peak_memory_counts_what_is_alive_at_once():
    with PeakMemory() as memory:
        first = torch.zeros(1000)
        second = first + 1
        del first
        third = second.view(10, 100) * 2
        del second, third
    assert memory.peak == 2 * 4000
    assert memory.current == 0


def test_version_and_help():
    assert call("--version")[1].strip() == "0.1.0"
    code, text = call("predict", "--help")
    assert code == 0
    assert "--map-stride" in text


@pytest.mark.parametrize("normalize", ["frame", "none"])
def test_float_maps_equal_the_streams(tmp_path, model, normalize):
    clip = make_clip(tmp_path / "clip.mp4", num_frames=5)
    options = ("--model", model, "--save", "maps,overlay", "--normalize", normalize)
    assert call("predict", clip, "--output", tmp_path / "out", *options)[0] == 0
    scale = None if normalize == "none" else normalize
    frames = VideoSaliencyPredictor.from_pretrained(model).stream(clip, normalize=scale)
    for (index, time_s, saved), frame in zip(read_map_shards(tmp_path / "out" / "clip" / "maps"), frames, strict=True):
        assert (index, time_s) == (frame.frame_index, frame.time_s)
        np.testing.assert_array_equal(saved, frame.map_at((32, 48)).numpy())


@pytest.fixture(scope="module")
def gated_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gated")
    network, processor = tiny_gfsalnet(streams="both")
    with torch.no_grad():  # a gate that differs from place to place
        network.fusion.projection.weight.copy_(torch.tensor([1.0, -2.0]).reshape(1, 2, 1, 1))
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("map_size", ["model", "source"])
def test_gate_is_written_on_its_own_scale(tmp_path, gated_model, map_size):
    clip = make_clip(tmp_path / "clip.mp4", num_frames=5, width=70, height=50)
    options = ("--model", gated_model, "--save", "gate,csv", "--map-size", map_size)
    code, text = call("predict", clip, "--output", tmp_path / "out", *options)
    assert code == 0 and "gate" in text
    pictures = sorted((tmp_path / "out" / "clip" / "gate").iterdir())
    assert [path.name for path in pictures] == [f"gate_{number:05d}.png" for number in range(1, 6)]
    frames = VideoSaliencyPredictor.from_pretrained(gated_model).stream(clip, extra_maps=["gate_maps"])
    for path, frame in zip(pictures, frames, strict=True):
        gate = frame.extra_maps["gate_maps"] if map_size == "model" else frame.extra_map_at_source("gate_maps")
        assert gate.std() > 0.01 and gate.max() < 0.98, "the gate of this test is neither flat nor full"
        with Image.open(path) as picture:
            assert picture.mode == "L"
            np.testing.assert_array_equal(np.asarray(picture), np.rint(255 * gate.numpy()).astype(np.uint8))


@pytest.mark.parametrize("switches", [{"streams": "appearance"}, {"fusion": "conv"}])
def test_gate_of_a_model_without_one_is_refused_at_once(tmp_path, switches):
    network, processor = tiny_gfsalnet(**switches)
    for part in (network, processor):
        part.save_pretrained(tmp_path / "model")
    clip = make_clip(tmp_path / "clip.mp4", num_frames=2)
    options = ("--model", tmp_path / "model", "--save", "csv,gate")
    code, text = call("predict", clip, "--output", tmp_path / "out", *options)
    assert code == 2
    assert "has no gate: it takes a GFSalNet with both streams and gated fusion" in one_line(text)
    assert not (tmp_path / "out").exists()


def test_gate_of_a_killed_run_is_gone_on_with(tmp_path, gated_model, monkeypatch):
    clip = make_clip(tmp_path / "clip.mp4", num_frames=12)
    options = ("--model", gated_model, "--save", "gate", "--segment-frames", 5)
    assert call("predict", clip, "--output", tmp_path / "whole", *options)[0] == 0
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(outputs, "_write_json", die_at(2, outputs._write_json))
        app(["predict", str(clip), "--output", str(tmp_path / "broken"), *map(str, options)], standalone_mode=False)
    assert call("predict", clip, "--output", tmp_path / "broken", *options, "--resume")[0] == 0
    assert files_of(tmp_path / "broken") == files_of(tmp_path / "whole")


@pytest.fixture(scope="module")
def listening_model(tmp_path_factory):
    AutoConfig.register(HearingConfig.model_type, HearingConfig, exist_ok=True)
    AutoModel.register(HearingConfig, HearingModel, exist_ok=True)
    folder = tmp_path_factory.mktemp("listening")
    network, processor = hearing_model(num_frames=4, output="middle")
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("mode", [None, "on", "shuffled"])
def test_what_sound_changes_is_reported(tmp_path, listening_model, mode):
    clip = make_clip(tmp_path / "clip.mp4", num_frames=12, audio="aac")
    options = ("--output", tmp_path / "out", "--model", listening_model, "--save", "csv,sound")
    code, text = call("predict", clip, *options, *(("--audio", mode) if mode else ()))
    assert code == 0
    folder = tmp_path / "out" / "clip"
    rows = list(csv.DictReader((folder / "sound.csv").open()))
    assert [int(row["frame"]) for row in rows] == list(range(12))
    record = json.loads((folder / "run.json").read_text())
    assert record["settings"]["audio"] == {None: "on", "shuffled": "shuffled with seed 0"}.get(mode, mode)
    assert record["sound"]["frames"] == 12
    for name in ("cc", "kl", "total_variation"):
        assert record["sound"][name] == pytest.approx(np.mean([float(row[name]) for row in rows]), abs=2e-6)
    assert 0 < record["sound"]["total_variation"] < 1 and record["sound"]["cc"] < 1
    assert f"sound ({record['settings']['audio']}) against silence, mean over 12 frames: CC " in text


def test_switched_off_sound_gives_other_maps(tmp_path, listening_model):
    clip = make_clip(tmp_path / "clip.mp4", num_frames=12, audio="aac")
    maps = {}
    for mode in ("on", "off", "shuffled"):
        options = ("--output", tmp_path / mode, "--model", listening_model, "--save", "maps", "--normalize", "none")
        assert call("predict", clip, *options, "--audio", mode)[0] == 0
        maps[mode] = np.stack([values for _, _, values in read_map_shards(tmp_path / mode / "clip" / "maps")])
    assert maps["on"].mean() > maps["off"].mean() + 0.1
    assert not np.array_equal(maps["on"], maps["shuffled"])


def test_clip_without_sound_is_told_and_changes_nothing(tmp_path, listening_model, caplog):
    clip = make_clip(tmp_path / "clip.mp4", num_frames=5)
    options = ("--output", tmp_path / "out", "--model", listening_model, "--save", "sound")
    code, text = call("predict", clip, *options)
    assert code == 0
    assert [record.getMessage() for record in caplog.records] == ["the clip has no sound: the model hears silence"]
    summary = json.loads((tmp_path / "out" / "clip" / "run.json").read_text())["sound"]
    assert summary == {"frames": 5, "cc": 1.0, "kl": pytest.approx(0, abs=1e-6), "total_variation": 0.0}
    assert "CC 1.0000" in text


def test_killed_run_with_sound_is_gone_on_with(tmp_path, listening_model, monkeypatch):
    clip = make_clip(tmp_path / "clip.mp4", num_frames=30, audio="aac")
    options = ("--model", listening_model, "--save", "maps,sound", "--audio", "shuffled", "--segment-frames", 10)
    assert call("predict", clip, "--output", tmp_path / "whole", *options)[0] == 0
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(outputs, "_write_json", die_at(2, outputs._write_json))
        call("predict", clip, "--output", tmp_path / "out", *options)
    code, text = call("predict", clip, "--output", tmp_path / "out", *options, "--resume", "--audio-seed", 1)
    assert code == 2 and "had other settings (audio)" in text.replace("\n", " ")
    assert call("predict", clip, "--output", tmp_path / "out", *options, "--resume")[0] == 0
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--audio", "on"), "--audio on: the model"),
        (("--audio", "shuffled"), "does not listen, it takes frames alone: leave it out"),
        (("--save", "sound"), "--save sound: the model"),
        (("--audio", "loud"), "--audio must be one of on, off, shuffled, got 'loud'"),
    ],
)
def test_sound_for_a_model_that_does_not_listen_is_refused(tmp_path, model, options, message):
    clip = make_clip(tmp_path / "clip.mp4", num_frames=2)
    code, text = call("predict", clip, "--output", tmp_path / "out", "--model", model, *options)
    assert code == 2 and message in one_line(text)
    assert not (tmp_path / "out").exists()
    assert call("predict", clip, "--output", tmp_path / "out", "--model", model, "--audio", "off")[0] == 0


def test_report_without_sound_is_refused(tmp_path, listening_model):
    clip = make_clip(tmp_path / "clip.mp4", num_frames=2)
    options = ("--output", tmp_path / "out", "--model", listening_model, "--save", "sound", "--audio", "off")
    code, text = call("predict", clip, *options)
    assert code == 2 and "use --audio on or shuffled" in one_line(text)
