# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from dataset_factory import SIZE, make_ledov_clip, write_mat, write_mat73

from video_saliency.data import check_dataset, open_dataset
from video_saliency.data.truth_files import LedovFixations

NAMES = ["animal_bear01", "animal_bear02", "man_talk10", "man_talk9"]
# subject, start ms, duration ms, x, y (from 1)
ROWS = [
    (1, 0, 100, 1, 1),  # frames 1 to 3 of 24 a second, the first pixel
    (1, 100, 20, 64, 36),  # frame 3, the last pixel
    (2, 50, 10, 65, 10),  # beside the frame
    (2, 125, 0, 10, 20),  # exactly at the start of frame 4 from 1, which is the end of frame 3
    (3, 190, 500, 5, 6.4),  # to beyond the end
]
EXPECTED = [[(0, 0)], [(0, 0)], [(0, 0), (35, 63), (19, 9)], [], [(5, 4)], [(5, 4)]]


def make_lists(root: Path) -> None:
    write_mat73(root / "VideoNameList.mat", VideoNameList=NAMES)
    write_mat(root / "namelist.mat", testlist=[[4, 1]], vaildlist=[[2]], trainlist=[[3, 3]])


@pytest.mark.parametrize("v73", [False, True])
def test_fixations_last_over_frames(tmp_path: Path, v73: bool) -> None:
    make_ledov_clip(tmp_path, "c", 6, ROWS, v73=v73)
    fixations = LedovFixations(tmp_path / "c" / "Data.mat")
    assert fixations.size() == SIZE
    assert [[tuple(point) for point in fixations.load(index).tolist()] for index in range(6)] == EXPECTED
    # 60 a second: a frame begins every 16.7 ms
    doubled = LedovFixations(tmp_path / "c" / "Data.mat", Fraction(60))
    assert [(35, 63) in map(tuple, doubled.load(i).tolist()) for i in range(10)] == [i in (5, 6, 7) for i in range(10)]


def test_splits_by_the_lists_of_the_release(tmp_path: Path) -> None:
    for name in NAMES[:3]:
        make_ledov_clip(tmp_path, name, 6, ROWS)
    make_lists(tmp_path)
    test = open_dataset("ledov", tmp_path, split="test")
    assert [item.id for item in test] == ["animal_bear01"] and test.missing_ids == ["man_talk9"]
    assert [item.id for item in open_dataset("ledov", tmp_path, split="val")] == ["animal_bear02"]
    assert [item.id for item in open_dataset("ledov", tmp_path, split="train")] == ["man_talk10"]
    item = test[0]
    assert (item.num_frames, item.frame_rate, item.size, item.audio_path) == (6, 24, SIZE, item.frame_files.path)
    frames = list(item.annotations())
    assert [[tuple(point) for point in frame.fixations.tolist()] for frame in frames] == EXPECTED
    assert np.unravel_index(frames[0].density.argmax(), SIZE) == (0, 0) and not frames[3].density.any()
    (report,) = check_dataset("ledov", tmp_path, split="test")
    assert [(row.what, row.found, row.expected) for row in report.rows] == [
        ("clips", 1, 41),
        ("frames", 6, 13_717),
        ("fixations", 6, 13_717),
    ]


def test_lists_that_do_not_fit(tmp_path: Path) -> None:
    make_ledov_clip(tmp_path, NAMES[0], 2, ROWS)
    with pytest.raises(ValueError, match="namelist.mat or .* is missing: they hold the splits: expected <clip>"):
        open_dataset("ledov", tmp_path, split="test")
    make_lists(tmp_path)
    write_mat(tmp_path / "namelist.mat", testlist=[[5]])
    with pytest.raises(ValueError, match="counts to 5, .* has 4 names"):
        open_dataset("ledov", tmp_path, split="test")
    with pytest.raises(ValueError, match="no variable vaildlist"):
        open_dataset("ledov", tmp_path, split="val")


def test_another_matlab_file_is_refused(tmp_path: Path) -> None:
    write_mat(tmp_path / "Data.mat", Data={"fixdata": np.zeros((3, 2))})
    with pytest.raises(ValueError, match=r"expected \(fixations, 5\)"):
        LedovFixations(tmp_path / "Data.mat").size()
