# SPDX-License-Identifier: Apache-2.0
"""The Space without a browser: what it does with a clip, its page, its front matter, and eight visitors at once."""

from __future__ import annotations

import importlib.util
import math
import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
import time
import types
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import SpaceCardData
from PIL import Image
from small_repositories import save_small_model
from space_server import EXAMPLE_CLIP, SpaceServer, guarded_environment
from tiny_models import tiny_dtfsal
from video_factory import cut_file, make_clip

from video_saliency.defaults import DEFAULT_MODEL
from video_saliency.map_io import read_map_shards
from video_saliency.predictor import VideoSaliencyPredictor
from video_saliency.video_io import probe, read_frames
from video_saliency.visualization import colorize

gradio = pytest.importorskip("gradio", reason="the Space needs the extra `demo`")
SPACE = Path(__file__).parent.parent / "spaces" / "video-saliency"
sys.path.insert(0, str(SPACE))

from prediction import LIMITS_ON_LENT_GPU, ClipError, Limits, check_clip, predict_clip  # noqa: E402


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_small_model("gfsalnet", tmp_path_factory.mktemp("models") / "small")


@pytest.fixture(scope="module")
def predictor(model) -> VideoSaliencyPredictor:
    return VideoSaliencyPredictor.from_pretrained(str(model), device="cpu")


def load_app(name: str = "space_app") -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(name, SPACE / "app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def app() -> types.ModuleType:
    return load_app()


def test_results_of_a_clip(predictor, tmp_path):
    clip = make_clip(tmp_path / "clip.mp4", num_frames=5, audio="aac")
    (tmp_path / "out").mkdir()
    told = []
    result = predict_clip(clip, predictor, tmp_path / "out", tell=lambda *progress: told.append(progress))
    assert told == [(count, 5) for count in range(1, 6)]
    assert len(list(read_frames(result.overlay))) == 5
    assert probe(result.overlay).has_audio
    assert len(result.csv.read_text().splitlines()) == 6
    expected = [frame.model_map for frame in predictor.stream(clip)]
    with zipfile.ZipFile(result.maps) as archive:
        archive.extractall(tmp_path / "unpacked")
    for index, _, saliency_map in read_map_shards(tmp_path / "unpacked"):
        assert torch.equal(torch.from_numpy(saliency_map), expected[index])
        assert np.array_equal(result.map_of_frame(index), saliency_map)
    assert result.notes == ["5 frames of 64 x 48 pixels, with sound."]


def test_a_model_that_listens_gets_the_sound_on_request(tmp_path):
    predictor = VideoSaliencyPredictor(*tiny_dtfsal(), device="cpu")
    clip = make_clip(tmp_path / "clip.mp4", num_frames=4, audio="aac")
    results = []
    for hears in (False, True):
        (tmp_path / f"out-{hears}").mkdir()
        results.append(predict_clip(clip, predictor, tmp_path / f"out-{hears}", hears=hears).map_of_frame(2))
        expected = list(predictor.stream(clip, audio="on" if hears else "off"))[2].model_map.numpy()
        assert np.array_equal(results[-1], expected)
    assert not np.array_equal(*results)


def test_maps_in_several_shards_are_found(predictor, tmp_path, monkeypatch):
    monkeypatch.setattr("prediction.MapShardWriter.__init__.__kwdefaults__", {"max_shard_bytes": 30_000})
    clip = make_clip(tmp_path / "clip.mp4", num_frames=9)
    (tmp_path / "out").mkdir()
    result = predict_clip(clip, predictor, tmp_path / "out")
    assert len(result.shards) > 2
    for frame in predictor.stream(clip):
        assert np.array_equal(result.map_of_frame(frame.frame_index), frame.model_map.numpy())


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"seconds": 0.3}, "lasts 0 seconds. Please cut it"),
        ({"frames": 11}, "has 12 frames. Please cut it"),
        ({"long_side": 63}, "has 64 x 48 pixels. Please scale it down to 63"),
        ({"megabytes": 0.001}, "Please keep it below 0.001 MB"),
    ],
)
def test_limits_are_told(predictor, tmp_path, limits, message):
    clip = make_clip(tmp_path / "clip.mp4")
    with pytest.raises(ValueError, match=message):
        predict_clip(clip, predictor, tmp_path, limits=Limits(**limits))
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


@pytest.mark.parametrize(
    ("limits", "note"),
    [
        ({"seconds": 0.2}, "Only the first 0.2 seconds were used."),  # 0 to 0.2 s at 25 frames a second
        ({"frames": 6}, "Only the first 6 frames were used."),
    ],
)
def test_a_recording_that_does_not_tell_its_length_is_cut(predictor, tmp_path, monkeypatch, limits, note):
    clip = make_clip(tmp_path / "clip.mp4")
    info = probe(clip)
    unknown = type(info)(**{**info.__dict__, "duration_s": None, "num_frames": None})
    monkeypatch.setattr("prediction.probe", lambda path: unknown)
    (tmp_path / "out").mkdir()
    result = predict_clip(clip, predictor, tmp_path / "out", limits=Limits(**limits))
    assert len(result.times) == 6
    assert result.notes[1:] == [note]
    assert len(list(read_frames(result.overlay))) == 6


def test_a_truncated_clip_gives_its_frames(predictor, tmp_path):
    clip = cut_file(make_clip(tmp_path / "clip.mkv", num_frames=40), 0.6)
    (tmp_path / "out").mkdir()
    result = predict_clip(clip, predictor, tmp_path / "out")
    assert 0 < len(result.times) < 40
    assert any("ends early" in note for note in result.notes)


def clip_info(clip: Path, **changes):
    """What `probe` says of a clip, but for some changes."""
    info = probe(clip)
    return type(info)(**{**info.__dict__, **changes})


@pytest.mark.parametrize(("width", "height"), [(64, 48), (1280, 720), (1920, 1080), (1920, 1920)])
def test_a_lent_gpu_is_asked_for_as_long_as_a_clip_may_need(tmp_path, width, height):
    clip = make_clip(tmp_path / "clip.mp4")
    leases = []
    for frames in (10, 200, 10_000, None):  # of a recording that does not say, the longest is expected
        info = clip_info(clip, width=width, height=height, num_frames=frames)
        leases.append(LIMITS_ON_LENT_GPU.lease_of(info))
    assert leases[0] < leases[1] < leases[2] == leases[3] <= 120
    # what was measured with the default model, in seconds a frame
    assert leases[1] > 200 * (0.036 + 0.045 * width * height / 1e6)


def test_a_clip_too_large_for_a_lent_gpu_is_told_so(tmp_path, predictor, monkeypatch):
    clip = make_clip(tmp_path / "clip.mp4")
    large = clip_info(clip, width=1920, height=1920, num_frames=500)
    monkeypatch.setattr("prediction.probe", lambda path: large)
    assert check_clip(clip, Limits()) is large
    with pytest.raises(ClipError, match=r"500 frames of 1920 x 1920 pixels.*shared GPU. Please cut it to \d+ frames"):
        check_clip(clip, LIMITS_ON_LENT_GPU)
    most = LIMITS_ON_LENT_GPU.frames_of(large)
    fits = clip_info(clip, width=1920, height=1920, num_frames=most)
    monkeypatch.setattr("prediction.probe", lambda path: fits)
    assert check_clip(clip, LIMITS_ON_LENT_GPU) is fits
    assert LIMITS_ON_LENT_GPU.lease_of(fits) <= LIMITS_ON_LENT_GPU.lease_s

    unknown = clip_info(clip, width=1920, height=1920, num_frames=None, duration_s=None)
    monkeypatch.setattr("prediction.probe", lambda path: unknown)
    (tmp_path / "out").mkdir()
    limits = Limits(lease_s=12.0)  # two seconds of work for frames of that size: fewer than the clip has
    assert len(predict_clip(clip, predictor, tmp_path / "out", limits=limits).times) == limits.frames_of(unknown) == 7


def test_wrong_input_becomes_a_message_and_leaves_no_file(app, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    label = next(iter(app.MODELS))
    with pytest.raises(gradio.Error, match="upload or record"):
        app.predict(None, label, False, None)
    (tmp_path / "text.mp4").write_bytes(b"no video" * 100)
    with pytest.raises(gradio.Error, match="not a video"):
        app.predict(str(tmp_path / "text.mp4"), label, False, None)
    with pytest.raises(gradio.Error, match="no model 'other'"):
        app.predict(str(tmp_path / "text.mp4"), "other", False, None)
    assert list((tmp_path / "temporary").iterdir()) == []


def test_results_are_removed_with_the_next_clip_and_when_the_visitor_is_gone(app, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    clip, label = str(make_clip(tmp_path / "clip.mp4", num_frames=2)), next(iter(app.MODELS))
    first = app.predict(clip, label, False, None)[9]
    second = app.predict(clip, label, False, first)[9]
    assert not first.overlay.exists() and second.overlay.exists()
    state = next(block for block in app.demo.blocks.values() if isinstance(block, gradio.State))
    assert state.time_to_live == app.KEPT_SECONDS
    state.delete_callback(second)
    assert list((tmp_path / "temporary").iterdir()) == []


def test_results_that_no_state_knows_are_removed_later(app, tmp_path, monkeypatch):
    """Of two clips that one visitor sends at the same time, both get the same old state: one is in no state then."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    clip, label = str(make_clip(tmp_path / "clip.mp4", num_frames=2)), next(iter(app.MODELS))
    forgotten, known = (app.predict(clip, label, False, None)[9] for _ in range(2))
    assert forgotten.overlay.exists() and known.overlay.exists()
    later = time.monotonic() + app.KEPT_SECONDS + 1
    monkeypatch.setattr(app, "time", types.SimpleNamespace(monotonic=lambda: later))
    last = app.predict(clip, label, False, known)[9]
    assert list((tmp_path / "temporary").iterdir()) == [last.overlay.parent]
    with pytest.raises(gradio.Error, match="were deleted. Please predict the clip again"):
        app.show_frame(known, 0)
    app.remove_results(last)
    assert app.KEPT == {}


def test_results_stay_until_a_new_clip_is_done(app, tmp_path):
    """After a clip that cannot be read, the page still shows the one before."""
    clip, label = str(make_clip(tmp_path / "clip.mp4", num_frames=3)), next(iter(app.MODELS))
    first = app.predict(clip, label, False, None)[9]
    (tmp_path / "text.mp4").write_bytes(b"no video" * 100)
    with pytest.raises(gradio.Error, match="not a video"):
        app.predict(str(tmp_path / "text.mp4"), label, False, first)
    assert app.show_frame(first, 2)[1].startswith("Frame 2 at")
    assert all(path.exists() for path in (first.overlay, first.csv, first.maps))
    app.remove_results(first)


def test_a_damaged_clip_is_told_without_a_path(app, predictor, tmp_path, monkeypatch):
    whole = make_clip(tmp_path / "clip.mkv", num_frames=40)
    info = probe(whole)
    clip = cut_file(whole, 0.02)
    with pytest.raises(gradio.Error, match="not a video that can be read") as error:
        app.predict(str(clip), next(iter(app.MODELS)), False, None)
    assert str(tmp_path) not in error.value.message
    monkeypatch.setattr("prediction.probe", lambda path: info)  # as of a clip whose head is whole
    clip.write_bytes(b"no video" * 100)
    (tmp_path / "out").mkdir()
    with pytest.raises(ClipError, match="damaged or cut. Please upload it again") as error:
        predict_clip(clip, predictor, tmp_path / "out")
    assert str(tmp_path) not in str(error.value)


def test_a_fault_of_the_server_is_told_without_a_path(app, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise OSError(28, "No space left on device", str(tmp_path))

    monkeypatch.setattr(app, "predict_clip", fail)
    with pytest.raises(gradio.Error, match="Something went wrong here") as error:
        app.predict(str(make_clip(tmp_path / "clip.mp4")), next(iter(app.MODELS)), False, None)
    assert str(tmp_path) not in error.value.message
    assert error.value.print_exception, "the log must say what it was"


def test_a_client_that_sends_anything_gets_a_message(app, predictor, tmp_path):
    (tmp_path / "out").mkdir()
    result = predict_clip(make_clip(tmp_path / "clip.mp4", num_frames=3), predictor, tmp_path / "out")
    for index in (-1, float("nan"), None, "2"):
        with pytest.raises(gradio.Error, match=f"no frame {index}: choose one from 0 to 2"):
            app.show_frame(result, index)
    for index in (2, 3, 1e9, float("inf")):  # the slider may still be that of a longer clip
        assert app.show_frame(result, index)[1].startswith("Frame 2 at")
    for label in ("nope", None, ["nope"], {}):
        with pytest.raises(gradio.Error, match="There is no model"):
            app.listens(label)
        with pytest.raises(gradio.Error, match="There is no model"):
            app.predict(str(tmp_path / "clip.mp4"), label, False, None)
    for name in ("nope", None, ["spread"]):
        with pytest.raises(gradio.Error, match="There is no curve"):
            app.show_curve(result, name)


def test_the_picture_of_a_frame_is_a_file_of_one_visitor_that_is_written_once(app, tmp_path):
    """Gradio writes pictures to one file for all visitors who see the same, while one of them downloads it."""
    clip, label = str(make_clip(tmp_path / "clip.mp4", num_frames=3)), next(iter(app.MODELS))
    first, second = (app.predict(clip, label, False, None)[9] for _ in range(2))
    page_part = next(block for block in app.demo.blocks.values() if block.elem_id == "raw-map")
    shown = [page_part.postprocess(app.show_frame(result, 1)[0]).path for result in (first, first, second)]
    assert shown[0] == shown[1] and Path(shown[0]).parent == first.overlay.parent
    assert Path(shown[0]).read_bytes() == Path(shown[2]).read_bytes()
    assert Path(shown[0]).name != Path(shown[2]).name
    raw = first.map_of_frame(1)
    with Image.open(shown[0]) as picture:
        assert picture.size == (640, 480)
        assert np.array_equal(np.array(picture), colorize(raw / raw.max(), size=(480, 640)))

    written = Path(shown[0]).stat()
    app.show_frame(first, 1)
    assert Path(shown[0]).stat().st_mtime_ns == written.st_mtime_ns, "written again, under the eyes of a reader"
    for result in (first, second):
        app.remove_results(result)
        assert not result.overlay.parent.exists()


def test_a_picture_is_whole_whenever_it_is_there(app, predictor, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    result = predict_clip(make_clip(tmp_path / "clip.mp4", num_frames=3), predictor, tmp_path / "out")

    def fail(picture, file, *arguments, **options):
        file.write(b"half a picture")
        raise OSError(28, "No space left on device", str(tmp_path))

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", fail)
        with pytest.raises(gradio.Error, match="Something went wrong here") as error:
            app.show_frame(result, 1)
    assert str(tmp_path) not in error.value.message
    with Image.open(app.show_frame(result, 1)[0]) as picture:
        picture.load()


def test_the_words_about_a_frame_have_the_units_of_the_curve(app, predictor, tmp_path):
    (tmp_path / "out").mkdir()
    result = predict_clip(make_clip(tmp_path / "clip.mp4", num_frames=3), predictor, tmp_path / "out")
    curve = app.show_curve(result, "spread")
    drawn = [row[curve.value["columns"].index("spread")] for row in curve.value["data"]]
    assert drawn == pytest.approx([row.spread / 0.8 for row in result.statistics], abs=0.01)  # a diagonal of 80 pixels
    assert f"spread {drawn[1]:.0f} % of the diagonal" in app.show_frame(result, 1)[1]


def test_limits_are_told_before_a_clip_is_given(app):
    texts = [block.value for block in app.demo.blocks.values() if isinstance(block, gradio.Markdown)]
    assert app.LIMITS.describe() in texts[0], "above the upload"


def test_page_has_the_parts_that_it_names(app):
    ids = {block.elem_id for block in app.demo.blocks.values()}
    assert {"clip", "overlay", "predict", "model", "sound", "curve", "frame", "raw-map", "maps", "table"} <= ids
    video = next(block for block in app.demo.blocks.values() if block.elem_id == "clip")
    assert video.sources == ["upload", "webcam"]
    assert Path(app.example_clip()).read_bytes() == EXAMPLE_CLIP.read_bytes()
    assert app.listens(next(iter(app.MODELS))).interactive is False
    assert app.show_frame(None, 3)[0] is None


def test_other_models_by_environment(monkeypatch, model):
    monkeypatch.setenv("VIDEO_SALIENCY_MODELS", f"Small={model};")
    app = load_app("space_app_with_models")
    assert list(app.MODELS)[1:] == ["Small"]
    assert app.predictor_of("Small").model.num_parameters() < 1_000_000
    assert app.predictor_of("Small") is app.predictor_of("Small")
    assert list(app.PREDICTORS) == list(app.MODELS)
    monkeypatch.setenv("VIDEO_SALIENCY_MODELS", "Again=default;Other=org/default")
    assert list(app.offered_models().values()) == [DEFAULT_MODEL, DEFAULT_MODEL, "org/default"]
    monkeypatch.setenv("VIDEO_SALIENCY_MODELS", "nonsense")
    with pytest.raises(ValueError, match="LABEL=FOLDER_OR_ID"):
        load_app("space_app_with_wrong_models")


def test_a_model_is_loaded_once_for_visitors_who_come_together(monkeypatch, model):
    monkeypatch.setenv("VIDEO_SALIENCY_MODELS", f"Small={model}")
    app = load_app("space_app_with_visitors")
    load, loaded, together = VideoSaliencyPredictor.from_pretrained, [], threading.Barrier(4)

    def slowly(name, **options):
        loaded.append(name)
        time.sleep(0.2)
        return load(name, **options)

    def visit(_):
        together.wait(300)
        return app.predictor_of("Small")

    monkeypatch.setattr(app.VideoSaliencyPredictor, "from_pretrained", slowly)
    with ThreadPoolExecutor(4) as threads:
        assert len({id(predictor) for predictor in threads.map(visit, range(4))}) == 1
    assert loaded == [str(model)]


class LentGPU:
    """Stands in for `spaces.GPU` on ZeroGPU hardware: asks how long, then works on pickles, as in a process forked.

    Of errors only `gr.Error` comes back as it is.
    """

    def __init__(self) -> None:
        self.leases: list[tuple[str, float]] = []

    def __call__(self, *, duration):
        def decorate(function):
            def on_lease(*arguments):
                self.leases.append((function.__name__, duration(*arguments)))
                try:
                    return pickle.loads(pickle.dumps(function(*pickle.loads(pickle.dumps(arguments)))))
                except gradio.Error as error:
                    raise pickle.loads(pickle.dumps(error)) from None
                except Exception as error:
                    raise gradio.Error(type(error).__name__) from None

            return on_lease

        return decorate


def test_zero_gpu_gets_all_models_at_start_and_lends_a_gpu_for_what_a_clip_needs(monkeypatch, model, tmp_path):
    gpu = LentGPU()
    monkeypatch.setitem(sys.modules, "spaces", types.SimpleNamespace(GPU=gpu))
    monkeypatch.setenv("VIDEO_SALIENCY_MODELS", f"Small={model}")
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    app = load_app("space_app_on_zero_gpu")
    assert list(app.PREDICTORS) == list(app.MODELS)
    assert app.LIMITS == LIMITS_ON_LENT_GPU

    clip = make_clip(tmp_path / "clip.mp4", num_frames=4)
    result = app.predict(str(clip), "Small", False, None)[9]
    assert gpu.leases == [("maps_and_overlay", app.LIMITS.lease_of(probe(clip)))]
    assert len(result.times) == 4
    app.remove_results(result)

    (tmp_path / "text.mp4").write_bytes(b"no video" * 100)
    with pytest.raises(gradio.Error, match="not a video"):
        app.predict(str(tmp_path / "text.mp4"), "Small", False, None)
    assert len(gpu.leases) == 1, "what is wrong with a clip is told before a GPU is lent"
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(b"no video" * 100)
    monkeypatch.setattr("prediction.probe", lambda path: probe(clip))
    with pytest.raises(gradio.Error, match="damaged or cut") as error:
        app.predict(str(damaged), "Small", False, None)
    assert not error.value.print_exception
    assert list((tmp_path / "temporary").iterdir()) == []


def test_elsewhere_the_package_of_zero_gpu_changes_nothing(monkeypatch, model):
    """It can be imported anywhere."""
    gpu = LentGPU()
    monkeypatch.setitem(sys.modules, "spaces", types.SimpleNamespace(GPU=gpu))
    monkeypatch.setenv("VIDEO_SALIENCY_MODELS", f"Small={model}")
    monkeypatch.delenv("SPACES_ZERO_GPU", raising=False)
    app = load_app("space_app_with_package")
    assert app.GPU is None and math.isinf(app.LIMITS.lease_s)
    assert list(app.PREDICTORS) == [next(iter(app.MODELS))], "others are loaded when they are asked for"


def test_the_package_of_zero_gpu_is_imported_before_torch(tmp_path):
    (tmp_path / "spaces.py").write_text("import sys; sys.exit(not {'torch', 'transformers'}.isdisjoint(sys.modules))")
    paths = os.pathsep.join((str(tmp_path), str(SPACE.parent.parent / "src")))
    environment = {**os.environ, "PYTHONPATH": paths, "SPACES_ZERO_GPU": "true"}
    done = subprocess.run([sys.executable, str(SPACE / "app.py")], env=environment, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_clips_at_once_are_counted_by_the_cores_of_the_process(app, monkeypatch):
    monkeypatch.delenv("VIDEO_SALIENCY_CONCURRENCY", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)  # of the machine around a container
    for cores, expected in ((1, 1), (2, 1), (6, 3)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)), raising=False)
        assert app.predictions_at_once() == expected
    monkeypatch.delattr(os, "sched_getaffinity")
    assert app.predictions_at_once() == 32
    monkeypatch.setenv("VIDEO_SALIENCY_CONCURRENCY", "3")
    assert app.predictions_at_once() == 3
    for wrong in ("0", "two", "-1", ""):
        monkeypatch.setenv("VIDEO_SALIENCY_CONCURRENCY", wrong)
        with pytest.raises(ValueError, match="write a number of clips, 1 or more"):
            app.predictions_at_once()


def test_front_matter_and_requirements_are_those_of_a_space():
    front_matter = re.match(r"---\n(.*?)\n---\n", (SPACE / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    fields = yaml.safe_load(front_matter.group(1))
    card = SpaceCardData(**fields)
    assert card.sdk == "gradio" and (SPACE / card.app_file).is_file()
    assert card.sdk_version == gradio.__version__, "the Space is tested with the version it asks for"
    assert len(card.short_description) <= 60, "the Hub's limit"
    assert {line.split(">")[0] for line in (SPACE / "requirements.txt").read_text().split()} == {
        "video-saliency",
        "torch",
    }


def test_analytics_are_off(app):
    assert gradio.analytics.analytics_enabled() is False
    assert app.demo.analytics_enabled is False


REACH_OUT = """
import socket
for call in (
    lambda: socket.create_connection(("192.0.2.1", 80), timeout=5),
    lambda: socket.getaddrinfo("example.org", 80),
    lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 80)),
):
    try:
        call()
    except OSError as error:
        print(error)
server = socket.create_server(("127.0.0.1", 0))
socket.create_connection(server.getsockname(), timeout=5)
"""


def test_the_guard_of_the_tests_notices_and_refuses_other_hosts(tmp_path):
    log = tmp_path / "network.log"
    environment = {**os.environ, **guarded_environment(tmp_path / "guard", log)}
    done = subprocess.run(
        [sys.executable, "-c", REACH_OUT], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("lets nobody reach") == 3
    assert [line.split()[-1] for line in log.read_text().splitlines()] == ["192.0.2.1", "example.org", "192.0.2.1"]


@pytest.mark.parametrize("limit", [1, 3])
def test_eight_clips_at_once_and_one_of_them_broken(predictor, model, tmp_path, monkeypatch, limit):
    """Each comes back with its own maps, the broken one with its own message; `limit` are predicted at a time."""
    client_api = pytest.importorskip("gradio_client")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # the client leaves folders there
    clips = [make_clip(tmp_path / f"{count}.mp4", num_frames=count, audio="aac") for count in range(5, 12)]
    clips.insert(3, tmp_path / "broken.mp4")
    clips[3].write_bytes(b"no video" * 100)

    settings = {"VIDEO_SALIENCY_MODELS": f"Small={model}", "VIDEO_SALIENCY_CONCURRENCY": str(limit)}
    with SpaceServer(held=True, **settings) as server:

        def send(clip: Path) -> tuple[str, int, str]:
            patient = {"httpx_kwargs": {"timeout": 300}, "verbose": False}
            client = client_api.Client(server.url, download_files=str(tmp_path / f"got-{clip.stem}"), **patient)
            try:
                answer = client.predict(client_api.handle_file(str(clip)), "Small", False, api_name="/predict")
            except client_api.exceptions.AppError as error:
                return clip.stem, 0, str(error)
            overlay = answer[0]["video"] if isinstance(answer[0], dict) else answer[0]
            archive = next(part for part in answer if isinstance(part, str) and part.endswith("maps.zip"))
            shutil.unpack_archive(archive, tmp_path / f"maps-{clip.stem}")
            return clip.stem, len(list(read_frames(overlay))), overlay

        with ThreadPoolExecutor(8) as threads:
            coming = threads.map(send, clips)
            server.let_go(limit)
            answers = {name: (count, more) for name, count, more in coming}
        assert max(server.at_once()) == limit
        log = server.log.read_text()
        assert "Traceback" not in log, log
        assert server.network_attempts() == [], "the Space asked another host"
    assert "not a video" in answers.pop("broken")[1]
    for name, (count, overlay) in answers.items():
        assert count == int(name) == probe(overlay).num_frames
        expected = [frame.model_map for frame in predictor.stream(tmp_path / f"{name}.mp4")]
        maps = list(read_map_shards(tmp_path / f"maps-{name}"))
        assert len(maps) == count
        for index, _, saliency_map in maps:
            torch.testing.assert_close(torch.from_numpy(saliency_map), expected[index], atol=1e-5, rtol=1e-4)
