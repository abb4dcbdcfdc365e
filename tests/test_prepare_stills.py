# SPDX-License-Identifier: Apache-2.0
"""The script that makes the folder of stills, on miniature copies of the three repositories as it assumes them."""

from __future__ import annotations

import csv
import importlib.util
import io
import logging
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from video_saliency.data import StillFixations, hash_folder

savemat = pytest.importorskip("scipy.io", reason="MATLAB files need it: pip install scipy").savemat

SCRIPT = Path(__file__).parents[1] / "examples" / "prepare_stills.py"
SPLIT_LIST = "id,split\nosie_1001,train\nosie_1002,val\ncrowd_002,train\nscene_002,train\nscene_003,val\n"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("prepare_stills", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def cell(items: Sequence[Any], *, column: bool = False) -> np.ndarray:
    """A MATLAB cell array."""
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array[:, None] if column else array[None, :]


def subject(*points: Sequence[float]) -> dict[str, np.ndarray]:
    """An observer of OSIE or Crowd out of (x, y, milliseconds)."""
    x, y, duration = np.array(points, dtype=float).reshape(-1, 3).T
    return {"fix_x": x[None], "fix_y": y[None], "fix_duration": duration[None]}


def picture(path: Path, width: int, height: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(width + height).integers(
        0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8
    )
    Image.fromarray(pixels).resize((width, height)).save(path)


def write_fixations(path: Path, records: Sequence[Any], *, column: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, {"fixations": cell(records, column=column)})


def make_osie(clone: Path) -> None:
    for name in ("1001", "1002", "1003"):
        picture(clone / "data" / "stimuli" / f"{name}.jpg", 400, 300)
    first = [subject((1, 1, 100), (201, 151, 50), (401, 10, 60), (0.5, 10, 70), (400.9, 300.9, 80)), subject()]
    others = [subject((101, 31, 90)), subject((np.nan, 31, 90), (11, 16, 70))]
    records = [
        {"img": "1001.jpg", "subjects": cell([*first, np.empty((0, 0))])},
        {"img": "1002.jpg", "subjects": cell(others, column=True)},
        {"img": "1003.jpg", "subjects": cell(others)},
    ]
    write_fixations(clone / "data" / "eye" / "fixations.mat", records)
    (clone / "LICENSE").write_text("MIT, OSIE")


def make_crowd(clone: Path) -> None:
    """A struct array instead of a cell array, no durations, paths as names, one observer, maps beside the stimuli."""
    for name in ("002", "003"):
        picture(clone / "stimuli" / f"{name}.jpg", 100, 200)
        picture(clone / "maps" / f"{name}.jpg", 100, 200)
    array = np.empty((2, 1), dtype=[("img", object), ("subjects", object)])
    points = {"fix_x": np.array([[51.0], [26.0]]), "fix_y": np.array([[101.0], [21.0]])}
    array[0, 0] = ("stimuli\\002.jpg", cell([points]))
    array[1, 0] = ("stimuli/003.jpg", cell([points]))
    savemat(clone / "eye_fixations.mat", {"fixations": array})


def make_scene(clone: Path) -> None:
    """A file for each picture; 002 with durations."""
    picture(clone / "images" / "002.jpg", 256, 256)
    picture(clone / "images" / "003.jpg", 300, 226)
    (clone / "fixations").mkdir(parents=True)
    matrices = [
        np.array([[64.0, 128.0, 200.0], [255.9, 0.0, 300.0]]),
        np.empty((0, 0)),
        np.array([[300.0, 10.0, 1.0]]),
    ]
    savemat(clone / "fixations" / "002.mat", {"data": cell(matrices, column=True)})
    savemat(clone / "fixations" / "003.mat", {"data": np.array([[113.0, 75.0]])})


MAKERS: dict[str, Callable[[Path], None]] = {"osie": make_osie, "crowd": make_crowd, "scene": make_scene}


@pytest.fixture
def clones(tmp_path: Path) -> dict[str, Path]:
    for name, make in MAKERS.items():
        make(tmp_path / name)
    return {name: tmp_path / name for name in MAKERS}


@pytest.fixture(autouse=True)
def split_list(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "split.csv"
    path.write_text(SPLIT_LIST)
    monkeypatch.setattr(script, "SPLIT_LIST", path)
    return path


def run(script: ModuleType, clones: dict[str, Path], output: Path, *options: str) -> None:
    sources = [text for name, clone in clones.items() for text in (f"--{name}", str(clone))]
    script.main([*sources, "--output", str(output), *options])


def read_index(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "index.csv").open(newline="") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def test_coordinates_are_those_of_the_sources(script: ModuleType, clones: dict[str, Path], tmp_path: Path) -> None:
    run(script, clones, tmp_path / "stills")
    stills = StillFixations(tmp_path / "stills")
    assert [item.id for item in stills.items] == ["osie_1001", "osie_1002", "crowd_002", "scene_002", "scene_003"]
    expected = [
        [(0, 0), (200 / 400, 150 / 300), (399.9 / 400, 299.9 / 300)],
        [(100 / 400, 30 / 300), (10 / 400, 15 / 300)],
        [(50 / 100, 100 / 200), (25 / 100, 20 / 200)],
        [(128 / 256, 64 / 256), (0, 255.9 / 256)],
        [(75 / 300, 113 / 226)],
    ]
    for i in range(len(stills)):
        assert np.array_equal(stills.relative_points_xy(i), np.array(expected[i], dtype=np.float32)), stills.items[
            i
        ].id
    arrays = np.load(tmp_path / "stills" / "fixations.npz")
    assert arrays["image"].tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3, 4]
    assert arrays["observer"].tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 0, 0]
    assert arrays["order"].tolist() == [0, 1, 2, 0, 0, 0, 1, 0, 1, 0], "numbered after dropping"
    assert arrays["duration_ms"].tolist() == [100, 50, 80, 90, 70, 0, 0, 200, 300, 0]


def test_sizes_parts_and_counts(script: ModuleType, clones: dict[str, Path], tmp_path: Path) -> None:
    run(script, clones, tmp_path / "stills")
    index = read_index(tmp_path / "stills")
    names = ("dataset", "split", "width", "height", "source_width", "source_height", "observers", "fixations")
    assert {id_: tuple(row[name] for name in names) for id_, row in index.items()} == {
        "osie_1001": ("osie", "train", "320", "240", "400", "300", "3", "3"),
        "osie_1002": ("osie", "val", "320", "240", "400", "300", "2", "2"),
        "crowd_002": ("crowd", "train", "160", "320", "100", "200", "1", "2"),
        "scene_002": ("scene", "train", "256", "256", "256", "256", "3", "2"),
        "scene_003": ("scene", "val", "320", "241", "300", "226", "1", "1"),
    }
    assert index["osie_1001"]["source_file"] == "1001.jpg"
    stills = StillFixations(tmp_path / "stills")
    for i, item in enumerate(stills.items):
        row = index[item.id]
        assert stills.load_image(i).shape == (int(row["height"]), int(row["width"]), 3)
    encoded = io.BytesIO()
    with Image.open(clones["osie"] / "data" / "stimuli" / "1001.jpg") as image:
        image.resize((320, 240), Image.Resampling.LANCZOS).save(encoded, "JPEG", quality=85)
    assert np.array_equal(stills.load_image(0), np.array(Image.open(encoded)))
    assert (tmp_path / "stills" / "LICENSE.osie.txt").read_text() == "MIT, OSIE"


def test_all_takes_what_is_not_listed(script: ModuleType, clones: dict[str, Path], tmp_path: Path) -> None:
    run(script, clones, tmp_path / "stills", "--all")
    unlisted = StillFixations(tmp_path / "stills", split="unlisted")
    assert [item.id for item in unlisted.items] == ["osie_1003", "crowd_003"]
    assert len(StillFixations(tmp_path / "stills")) == 7


@pytest.mark.parametrize("left_behind", ["nothing", "index", "part"])
def test_a_run_can_be_repeated(
    script: ModuleType, clones: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left_behind: str
) -> None:
    run(script, clones, tmp_path / "once")
    output = tmp_path / "twice"
    if left_behind != "nothing":
        run(script, clones, output)
    if left_behind == "part":
        save = Image.Image.save
        calls = iter(range(10))

        def interrupt(image: Image.Image, path: Path, *arguments: Any, **options: Any) -> None:
            save(image, path, *arguments, **options)
            if next(calls) == 2:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Image.Image, "save", interrupt)
            run(script, clones, output)
        assert not (output / "index.csv").exists(), "an unfinished folder does not look finished"
        (output / "images" / ".osie_1001.tmp.jpg").write_text("half a pict")
    run(script, clones, output)
    assert hash_folder(output) == hash_folder(tmp_path / "once")
    assert sorted(path.name for path in output.iterdir()) == [
        "LICENSE.osie.txt",
        "fixations.npz",
        "images",
        "index.csv",
    ]


def test_pictures_of_another_run_are_not_mixed_in(script: ModuleType, clones: dict[str, Path], tmp_path: Path) -> None:
    run(script, clones, tmp_path / "stills")
    with pytest.raises(SystemExit, match=r"has 3 files that this run does not write, for instance crowd_002\.jpg"):
        run(script, {"osie": clones["osie"]}, tmp_path / "stills")
    assert (tmp_path / "stills" / "index.csv").exists()


def test_the_report_compares(
    script: ModuleType, clones: dict[str, Path], tmp_path: Path, monkeypatch, caplog: pytest.LogCaptureFixture
) -> None:
    (clones["osie"] / "data" / "stimuli" / "1002.jpg").unlink()
    means = tuple(np.mean([(128 / 256, 64 / 256, 200), (0, 255.9 / 256, 300), (0.25, 0.5, 0)], axis=0))
    monkeypatch.setitem(script.SOURCES, "scene", script.Source(first_pixel=0, images=2, fixations=3, means=means))
    with caplog.at_level(logging.INFO):
        run(script, clones, tmp_path / "stills")
    messages = "\n".join(caplog.messages)
    assert "osie: 1 images (1 train), 3 fixations, 2 more outside" in messages
    assert "osie: 1 listed images were not found, for instance osie_1002" in messages
    assert "osie: not as in the folder of the default model: 1 listed images, 3 fixations" in messages
    assert "scene: 2 images (1 train, 1 val), 3 fixations, 1 more outside" in messages
    assert "scene: as in the folder of the default model (2 listed images, 3 fixations, mean x 0.2500" in messages
    assert "scene: not" not in messages and "scene: 0 listed" not in messages


def test_a_mean_that_is_off_by_a_pixel_is_seen(
    script: ModuleType, clones: dict[str, Path], tmp_path: Path, monkeypatch, caplog: pytest.LogCaptureFixture
) -> None:
    source = script.Source(first_pixel=1, images=1, fixations=2, means=(0.385, 0.3, 0.0))  # x is 0.375
    monkeypatch.setitem(script.SOURCES, "crowd", source)
    run(script, {"crowd": clones["crowd"]}, tmp_path / "stills")
    assert "crowd: not as in the folder of the default model" in caplog.text


def test_scene_in_one_file_and_in_a_folder_for_each_observer(
    script: ModuleType, clones: dict[str, Path], tmp_path: Path
) -> None:
    run(script, {"scene": clones["scene"]}, tmp_path / "per picture")
    expected = np.load(tmp_path / "per picture" / "fixations.npz")
    shutil.rmtree(clones["scene"] / "fixations")
    first, second = [[64.0, 128.0, 200.0], [255.9, 0.0, 300.0]], [[113.0, 75.0]]
    records = [{"img": "002.jpg", "subjects": cell([np.array(first)])}]
    records.append({"img": "003.jpg", "subjects": cell([np.array(second)])})
    write_fixations(clones["scene"] / "fix.mat", records)
    run(script, {"scene": clones["scene"]}, tmp_path / "one file")
    for observer, (stem, matrix) in {"a": ("002", first), "b": ("003", second)}.items():
        (clones["scene"] / "data" / observer).mkdir(parents=True)
        savemat(clones["scene"] / "data" / observer / f"{stem}.mat", {"m": np.array(matrix)})
    folder = str(clones["scene"] / "data")
    run(script, {"scene": clones["scene"]}, tmp_path / "per observer", "--scene-fixations", folder)
    for output in ("one file", "per observer"):
        arrays = np.load(tmp_path / output / "fixations.npz")
        assert all(np.array_equal(arrays[key], expected[key]) for key in expected)


def test_places_can_be_given(script: ModuleType, clones: dict[str, Path], tmp_path: Path) -> None:
    crowd = clones["crowd"]
    (crowd / "stimuli").rename(crowd / "pictures")
    (crowd / "eye_fixations.mat").rename(crowd / "gaze.mat")
    with pytest.raises(SystemExit, match=r"called like 002\.jpg under .*maps, .*pictures: .* with --crowd-pictures"):
        run(script, {"crowd": crowd}, tmp_path / "stills")
    options = ["--crowd-pictures", str(crowd / "pictures")]
    with pytest.raises(SystemExit, match=r'expected a \.mat file with "fix" in its name .* with --crowd-fixations'):
        run(script, {"crowd": crowd}, tmp_path / "stills", *options)
    run(script, {"crowd": crowd}, tmp_path / "stills", *options, "--crowd-fixations", str(crowd / "gaze.mat"))
    assert len(StillFixations(tmp_path / "stills")) == 1


def swap_first_subject(clone: Path, value: Any) -> None:
    records = [{"img": "1001.jpg", "subjects": cell([value, subject((1, 1, 1))])}]
    write_fixations(clone / "data" / "eye" / "fixations.mat", records)


def replace_mat(clone: Path, **variables: Any) -> None:
    savemat(clone / "data" / "eye" / "fixations.mat", variables)


def git_lfs(clone: Path) -> None:
    (clone / "data" / "eye" / "fixations.mat").write_text("version https://git-lfs.github.com/spec/v1\n")


def version_73(clone: Path) -> None:
    (clone / "data" / "eye" / "fixations.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(600))


TWICE = [{"img": "1001.jpg", "subjects": cell([subject((1, 1, 1))])}] * 2
LENGTHS = {"fix_x": np.ones((1, 3)), "fix_y": np.ones((1, 2))}
TABLE = {"fix_x": np.ones((2, 3)), "fix_y": np.ones((2, 3))}
OUTSIDE = subject((900, 10, 1), (10, 900, 1))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda clone: shutil.rmtree(clone), "is not a folder: pass a clone"),
        (lambda clone: shutil.rmtree(clone / "data" / "stimuli"), r"1001\.jpg under .*, found none: unpack archives"),
        (lambda clone: shutil.rmtree(clone / "data" / "eye"), "with --osie-fixations"),
        (git_lfs, r"begins with 'MATLAB 5\.0', found b'version ht': fetch it again"),
        (version_73, "save it again with -v7"),
        (lambda clone: replace_mat(clone, gaze=1, other=2), "expected a variable `fixations`, found gaze, other"),
        (lambda clone: replace_mat(clone, fixations=np.ones((2, 3))), r"found a float64 array of shape \(2, 3\)"),
        (lambda clone: replace_mat(clone, fixations=cell([{"image": "1001.jpg"}])), "`img`, found a struct .* image$"),
        (lambda clone: replace_mat(clone, fixations=cell([{"img": 1001}])), "expected a file name, found"),
        (lambda clone: replace_mat(clone, fixations=cell([{"img": "1001.jpg"}])), "the field `subjects`, found a str"),
        (lambda clone: replace_mat(clone, fixations=cell(TWICE)), "every image once, found 1001 again"),
        (lambda clone: swap_first_subject(clone, {"x": 1, "y": 2}), "subject 1: .* `fix_x`, found .* fields x, y"),
        (
            lambda clone: swap_first_subject(clone, np.ones((4, 3))),
            r"`fix_x`, found a float64 array of shape \(4, 3\)",
        ),
        (lambda clone: swap_first_subject(clone, LENGTHS), "fix_x, fix_y of the same length, found 3, 2"),
        (lambda clone: swap_first_subject(clone, TABLE), r"row or column of numbers, found .* shape \(2, 3\)"),
        (lambda clone: swap_first_subject(clone, OUTSIDE), "found 2 of 3 outside: are x and y swapped"),
        (lambda clone: (clone / "data" / "stimuli" / "1001.jpg").write_text("version"), "is no picture: fetch it"),
    ],
)
def test_what_is_not_as_assumed_is_named(
    script: ModuleType, tmp_path: Path, spoil: Callable[[Path], Any], message: str
) -> None:
    make_osie(tmp_path / "osie")
    spoil(tmp_path / "osie")
    with pytest.raises(SystemExit, match=message):
        run(script, {"osie": tmp_path / "osie"}, tmp_path / "stills")
    assert not (tmp_path / "stills").exists()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"a": np.ones((2, 3)), "b": 1}, "expected one variable, found a, b"),
        ({"a": np.ones((2, 5))}, r"the columns y, x\[, duration\], found a float64 array of shape \(2, 5\)"),
        ({"a": cell([np.ones((2, 3)), "text"])}, "observer 2: expected a matrix"),
        (
            {"a": cell([subject((1, 1, 1))])},
            "observer 1: .* found a struct with the fields fix_x, fix_y, fix_duration",
        ),
    ],
)
def test_wrong_matrices_are_named(script: ModuleType, tmp_path: Path, variables: dict[str, Any], message: str) -> None:
    make_scene(tmp_path / "scene")
    savemat(tmp_path / "scene" / "fixations" / "002.mat", variables)
    with pytest.raises(SystemExit, match=message):
        run(script, {"scene": tmp_path / "scene"}, tmp_path / "stills")


def test_pictures_without_fixations_are_no_set(script: ModuleType, clones: dict[str, Path], tmp_path: Path) -> None:
    write_fixations(clones["osie"] / "data" / "eye" / "fixations.mat", [{"img": "x7.jpg", "subjects": cell([])}])
    with pytest.raises(SystemExit, match="found pictures like 1001 and fixations like x7"):
        run(script, {"osie": clones["osie"]}, tmp_path / "stills")


def test_without_scipy_the_message_says_what_to_install(
    script: ModuleType, clones: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(SystemExit, match="needs SciPy: install it with: pip install"):
        run(script, {"osie": clones["osie"]}, tmp_path / "stills")


def test_no_set_is_an_error_and_the_help_names_what_is_assumed(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(script, {}, tmp_path / "stills")
    assert "pass at least one of --osie, --crowd and --scene" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        script.main(["--help"])
    assert "it has not been run on the downloads" in capsys.readouterr().out


def test_the_list_has_the_images_that_the_script_expects(script: ModuleType) -> None:
    with SCRIPT.with_name("nus_fixations_split.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({row["id"] for row in rows}) == len(rows) == 1360
    for name, (train, val) in {"osie": (490, 70), "crowd": (350, 50), "scene": (350, 50)}.items():
        parts = [row["split"] for row in rows if row["id"].startswith(f"{name}_")]
        assert (parts.count("train"), parts.count("val")) == (train, val)
        assert len(parts) == script.SOURCES[name].images
