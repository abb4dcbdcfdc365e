# SPDX-License-Identifier: Apache-2.0
"""`video-saliency data`: tables and exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest
from dataset_factory import make_dhf1k, make_stavis
from typer.testing import CliRunner

from video_saliency.cli.main import app
from video_saliency.data import DATASETS

CLIPS = {"clip2": 3, "clip4": 2, "clip11": 2, "clip14": 2, "clip15": 2}


def call(*arguments: object) -> tuple[int, str]:
    """Exit code and everything that was printed."""
    result = CliRunner().invoke(app, ["data", *map(str, arguments)], env={"COLUMNS": "200"})
    return result.exit_code, result.output


def cells(output: str, what: str) -> list[str]:
    """The cells of a table's line."""
    line = next(line for line in output.splitlines() if f" {what} " in line and "│" in line)
    return [cell.strip() for cell in line.split("│")[1:-1]]


def test_list_names_every_data_set_split_layout_and_publisher() -> None:
    code, output = call("list")
    assert code == 0
    for info in DATASETS.values():
        assert info.title in output and info.publisher in output and all(split in output for split in info.splits)
        assert f"  layout        {info.layout}\n" in output
    assert "yourself" not in output
    assert "100 clips, 60,273 frames" in output and "3,558 shots, of 884 videos" in output
    assert "truth withheld" in output and "43 of the 47 test clips" in output


def test_a_complete_split(tmp_path: Path) -> None:
    make_stavis(tmp_path, "Coutrot_db2", CLIPS, {"test_1": list(CLIPS)}, "24.999750")
    code, output = call("check", "coutrot2", "--root", tmp_path, "--split", "test_1")
    assert code == 0 and output.rstrip().endswith("complete") and "incomplete" not in output
    assert cells(output, "clips") == ["clips", "5", "5", ""]
    assert cells(output, "frames") == ["frames", "11", "unknown", ""]
    assert cells(output, "sound files") == ["sound files", "5", "5", ""]


def test_an_incomplete_split(tmp_path: Path) -> None:
    make_dhf1k(tmp_path, {601: 3, 602: 2})
    (tmp_path / "annotation" / "0602" / "maps" / "0001.png").unlink()
    code, output = call("check", "DHF1K", "--root", tmp_path, "--split", "val", "--show", 2)
    assert code == 1
    assert cells(output, "clips") == ["clips", "2", "100", "98"]
    assert cells(output, "densities") == ["densities", "4", "60,273", "60,269"]
    assert "  0603 is missing\n  0604 is missing\n  ... and 97 more problems (--show)\n" in output
    assert "incomplete; published at https://github.com/wenguanwang/DHF1K" in output
    code, output = call("check", "dhf1k", "--root", tmp_path, "--split", "val", "--show", 200)
    assert "0602: no density for 1 frames (1)" in output and "more problems" not in output


def test_every_split_in_turn_and_lists_of_the_user(tmp_path: Path) -> None:
    make_dhf1k(tmp_path, {601: 3, 602: 2})
    code, output = call("check", "dhf1k", "--root", tmp_path)
    assert code == 1 and [output.count(f"dhf1k, {split}") for split in ("train", "val", "test")] == [1, 1, 1]
    (tmp_path / "mine.txt").write_text("0601\n0602\n")
    code, output = call("check", "dhf1k", "--root", tmp_path, "--split", "val", "--clips", tmp_path / "mine.txt")
    assert code == 0 and cells(output, "clips") == ["clips", "2", "2", ""]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("dhf2k", "--root", "."), "error: 'dhf2k' is not a known data set: choose from dhf1k"),
        (("dhf1k", "--root", "none"), "error: none is not a folder"),
        (("dhf1k", "--root", ".", "--split", "x"), "error: DHF1K has no split 'x'"),
        (
            ("ucf_sports", "--root", ".", "--split", "test43"),
            "error: UCF-Sports, split 'test43': the gated-fusion",
        ),
        (("dhf1k", "--root", ".", "--clips", "none.txt"), "error: none.txt does not exist: check the path"),
    ],
)
def test_wrong_input_is_one_line_and_code_2(tmp_path: Path, monkeypatch, arguments: tuple, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    code, output = call("check", *arguments)
    assert code == 2 and output.startswith(message) and output.count("\n") == 1
