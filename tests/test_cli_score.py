# SPDX-License-Identifier: Apache-2.0
"""`video-saliency score`: the challenge's numbers, models and baselines, comparisons, exit codes and messages."""

from __future__ import annotations

import csv
import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from dataset_factory import density, make_avimos_clip, make_dhf1k
from still_data_factory import make_still_folder
from tiny_models import tiny_gfsalnet
from typer.testing import CliRunner

from video_saliency.cli.main import app
from video_saliency.map_io import MapPngWriter, MapShardWriter

GOLDEN = Path(__file__).parent / "golden" / "metrics"


def call(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["score", *(str(argument) for argument in arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def one_line(text: str) -> str:
    lines = text.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), text
    return lines[0]


def read_scores(folder: Path) -> dict:
    return json.loads((folder / "scores.json").read_text())


def write_map_video(path: Path, values: np.ndarray, num_frames: int) -> None:
    """A map, uint8 or of 10 bits in uint16, in each frame of a lossless video of full range."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = values.shape
    pixel_format = "yuv420p" if values.dtype == np.uint8 else "yuv420p10le"
    with av.open(str(path), "w") as container:
        options = {"qp": "0", "preset": "ultrafast"}
        stream = container.add_stream(
            "libx264", rate=30, width=width, height=height, pix_fmt=pixel_format, options=options
        )
        stream.codec_context.color_range = 2
        for index in range(num_frames):
            frame = av.VideoFrame(width, height, pixel_format)
            frame.color_range = 2
            for number, plane in enumerate(frame.planes):
                rows = np.zeros((plane.height, plane.line_size // values.itemsize), dtype=values.dtype)
                rows[:, : plane.width] = values if number == 0 else 128 if values.dtype == np.uint8 else 512
                plane.update(rows.tobytes())
            frame.pts, frame.time_base = index, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.mark.parametrize("preset", ["avimos", "ntire26"])
def test_the_challenge_pipeline(tmp_path: Path, preset: str) -> None:
    with np.load(GOLDEN / "golden.npz") as arrays:
        pred, truth, points = (arrays[f"challenge/{name}"] for name in ("pred_uint8", "gt_uint16", "fix"))
    expected = json.loads((GOLDEN / "golden.json").read_text())["challenge_pipeline"]["value"]
    root, frames = tmp_path / "data", 3
    make_avimos_clip(root, "Test", "clip_1", frames, size=truth.shape, points=[points.tolist()] * frames)
    write_map_video(root / "SaliencyTest" / "Test" / "clip_1.mp4", truth // 64, frames)
    (root / "TrainTestSplit.json").write_text('{"train": [], "test": ["clip_1.mp4"]}')
    write_map_video(tmp_path / "maps" / "clip_1.mp4", pred, frames)
    options = ("--dataset", "avimos", "--split", "test", "--root", root, "--preset", preset)
    code, text = call("--predictions", tmp_path / "maps", *options, "--output", tmp_path / "out", "--workers", 2)
    assert code == 0, text
    assert read_scores(tmp_path / "out")["overall"]["videos"] == pytest.approx(expected, abs=1e-6)
    assert read_scores(tmp_path / "out")["frames"] == frames


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("dhf1k")
    make_dhf1k(root, {1: 3, 601: 4, 602: 3})
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    network, processor = tiny_gfsalnet(streams="appearance")
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("save", ["maps", "png"])
def test_what_predict_wrote_scores_as_the_model_does(tmp_path: Path, data: Path, model: Path, save: str) -> None:
    clips = [data / "video" / name for name in ("601.AVI", "602.AVI")]
    arguments = ["predict", *clips, "--output", tmp_path / "maps", "--model", model, "--save", save]
    assert CliRunner().invoke(app, [str(argument) for argument in arguments]).exit_code == 0
    options = ("--dataset", "dhf1k", "--split", "val", "--root", data, "--metrics", "nss,cc")
    assert call("--predictions", tmp_path / "maps", *options, "--output", tmp_path / "files")[0] == 0
    code, text = call("--predictions", model, *options, "--output", tmp_path / "direct")
    assert code == 0 and "mean over frames *" in text
    files, direct = (read_scores(tmp_path / name)["overall"] for name in ("files", "direct"))
    tolerance = 1e-5 if save == "maps" else 0.05
    for average in ("frames", "videos"):
        assert files[average] == pytest.approx(direct[average], abs=tolerance)
    call("--predictions", model, *options, "--output", tmp_path / "direct")
    assert read_scores(tmp_path / "direct")["overall"] == direct


def test_baselines_and_compare(tmp_path: Path, data: Path) -> None:
    options = ("--dataset", "dhf1k", "--split", "val", "--root", data)
    code, text = call("--predictions", "centre_bias", *options, "--compare", "--output", tmp_path / "bias")
    assert code == 0
    assert "SalFoM" in text and "ours (mit)" in text and "protocol there:" in text
    assert "not the protocol of this run (mit): compare with --preset vinet2" in text.replace("\n", " ")
    assert text.index("Table 3, variants") < text.index("test table")  # the table of this part first
    code, text = call(
        *("--predictions", "spectral_residual", *options, "--metrics", "ig,nss", "--preset", "mit"),
        *("--frames-format", "csv", "--output", tmp_path / "residual"),
    )
    assert code == 0
    with (tmp_path / "residual" / "frames.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 7 and all(row["ig"] and row["nss"] for row in rows)
    make_still_folder(tmp_path / "stills")
    stills = ("--dataset", "stills", "--root", tmp_path / "stills")
    code, text = call("--predictions", "uniform", *stills, "--compare", "--output", tmp_path / "uniform")
    assert code == 0 and "no published scores of stills are known here" in text
    scores = read_scores(tmp_path / "uniform")
    assert scores["overall"]["frames"]["nss"] is None and scores["undefined_frames"]["nss"] == 10


def test_an_interrupted_run_is_gone_on_with(tmp_path: Path, data: Path) -> None:
    for name, number in (("0601", 4), ("0602", 2)):
        writer = MapPngWriter(tmp_path / "maps" / name)
        for index in range(number):
            writer.write(index, 0.0, density(index).astype(np.float32))
    options = ("--predictions", tmp_path / "maps", "--dataset", "dhf1k", "--split", "val", "--root", data)
    output = ("--output", tmp_path / "out", "--metrics", "cc")
    code, text = call(*options, *output)
    assert code == 2 and "0602 has no prediction for frame 2 (from 0) and all after it" in one_line(text)
    assert [path.name for path in sorted((tmp_path / "out" / ".partial").glob("item*"))] == ["item-000000.csv"]
    code, text = call(*options, *output, "--allow-missing")
    assert code == 2 and "other settings (allow_missing)" in one_line(text)
    # the files changed, so that the first clip's may have as well
    MapPngWriter(tmp_path / "maps" / "0602").write(2, 0.0, density(2).astype(np.float32))
    code, text = call(*options, *output)
    assert code == 2 and "other settings (files)" in one_line(text)
    code, text = call(*options, "--output", tmp_path / "new", "--metrics", "cc")
    assert code == 0 and "2 items, 7 frames" in text
    assert read_scores(tmp_path / "new")["overall"]["videos"]["cc"] == pytest.approx(1.0, abs=1e-12)


def wrong_maps(folder: Path) -> Path:
    MapShardWriter(folder / "0601")
    writer = MapShardWriter(folder / "0601")
    writer.write(0, 0.0, np.full((4, 6), np.nan, dtype=np.float32))
    writer.flush()
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--dataset": "dhf2k"}, "'dhf2k' is not a known data set"),
        ({"--root": "nowhere"}, "nowhere is not a folder"),
        ({"--split": "holiday"}, "has no split 'holiday'"),
        ({"--preset": "best"}, "preset is 'best'"),
        ({"--metrics": "f1"}, "metric is 'f1'"),
        ({"--predictions": "no/such/model"}, "cannot load the model"),
        ({"--predictions": "human_halves"}, "whose each fixation is"),
        ({"--predictions": "empty"}, "is empty"),
        ({"--predictions": "file.mp4"}, "is a file"),
        ({"--workers": "0"}, "workers must be at least 1"),
        ({"--frames-format": "xls"}, "--frames-format must be one of"),
        ({"--preset": "meta"}, "has no masks"),
        ({"--predictions": "maps", "--output": "maps/scores"}, "lies in the folder of predictions"),
        ({"--predictions": "maps"}, "no maps for 1 of 2 items (0602)"),
        ({"--predictions": "maps", "--allow-missing": None}, "0601, frame 0: prediction holds NaN"),
    ],
)
def test_wrong_input_is_one_line_and_code_2(
    tmp_path: Path, data: Path, changes: dict, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    Path("empty").mkdir()
    Path("file.mp4").touch()
    wrong_maps(Path("maps"))
    options = {"--predictions": "uniform", "--dataset": "dhf1k", "--split": "val", "--root": data, "--output": "out"}
    arguments = [part for pair in (options | changes).items() for part in pair if part is not None]
    code, text = call(*arguments)
    assert code == 2
    assert message in one_line(text)
    assert not Path("out", "scores.json").exists()
