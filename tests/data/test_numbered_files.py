# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from video_saliency.data.numbered_files import frame_number, list_numbered, natural_key, subfolders, visible_files


@pytest.mark.parametrize(
    "names",
    [
        ["clip_2", "clip_10", "clip_11"],
        ["actioncliptest00001_1", "actioncliptest00001_9", "actioncliptest00001_10", "actioncliptest00002_1"],
        ["999.png", "1000.png", "10000.png"],
        ["V1_Speech1", "V2_Speech2", "V10_Crowd"],
        ["1", "a", "a1", "b"],
        ["01", "1", "2"],  # equal numbers: in the order of the text
    ],
)
def test_numbers_are_sorted_as_numbers(names: list[str]) -> None:
    shuffled = random.Random(0).sample(names, len(names))
    assert sorted(shuffled, key=natural_key) == names


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("0001.png", 1),
        ("img_00010.jpg", 10),
        ("actioncliptrain00001_00003.png", 3),
        ("Diving-Side_001_042.png", 42),
        ("COCO_train2014_000000000009.jpg", 9),
        ("eye_tracks.mat", None),
        ("frame.0007", None),  # what follows the last point is a suffix
    ],
)
def test_the_last_number_of_a_name_counts(name: str, number: int | None) -> None:
    assert frame_number(name) == number


def test_files_are_listed_by_number(tmp_path: Path) -> None:
    for name in ("1000.png", "0999.png", "0002.PNG", "._0003.png", "0004.txt", "cover.png"):
        (tmp_path / name).touch()
    (tmp_path / "0005").mkdir()
    files = list_numbered(tmp_path, (".png",))
    assert files.names == {2: "0002.PNG", 999: "0999.png", 1000: "1000.png"} and files.numbers == (2, 999, 1000)
    assert files.path(999) == tmp_path / "0999.png" and files.path(5) is None
    assert visible_files(tmp_path, (".png",)) == ["0002.PNG", "0999.png", "1000.png", "cover.png"]
    assert subfolders(tmp_path, tmp_path / "none") == ["0005"]
    single = list_numbered(tmp_path / "cover.png", (".png",))
    assert single.names == {1: "cover.png"} and single.path(1) == tmp_path / "cover.png"


def test_new_files_are_seen(tmp_path: Path) -> None:
    (tmp_path / "1.png").touch()
    assert list_numbered(tmp_path, (".png",)).numbers == (1,)
    (tmp_path / "2.png").touch()
    os.utime(tmp_path, ns=(0, tmp_path.stat().st_mtime_ns + 1_000_000))  # clocks of some file systems are coarse
    assert list_numbered(tmp_path, (".png",)).numbers == (1, 2)


def test_two_files_of_one_frame_are_refused(tmp_path: Path) -> None:
    for name in ("1.png", "0001.png"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match="both of frame 1: keep one"):
        list_numbered(tmp_path, (".png",))
