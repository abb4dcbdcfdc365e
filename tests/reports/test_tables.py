# SPDX-License-Identifier: Apache-2.0
"""Statistics of maps by hand-computed values, and the CSV files."""

from __future__ import annotations

import csv
import math
from dataclasses import astuple

import numpy as np
import pytest
import torch

from video_saliency.reports.tables import CSV_COLUMNS, CsvWriter, FrameStatistics, frame_statistics, join_csv

HEADER = "frame,time_s,peak_x,peak_y,centroid_x,centroid_y,spread,entropy\n"
ROW = FrameStatistics(1.0, 2.5, -0.25, 4.0, 5.0625, 0.5)

CASES = [
    # map, source size (height, width), (peak x, peak y, centroid x, centroid y, spread, entropy)
    pytest.param([[0, 0, 0], [0, 0, 7]], (2, 3), (2, 1, 2, 1, 0, 0), id="one cell, same size"),
    pytest.param([[0, 1], [0, 0]], (8, 16), (11.5, 1.5, 11.5, 1.5, 0, 0), id="cell centres by the half-pixel rule"),
    pytest.param([[0, 1, 0, 0]], (1, 2), (0.25, 0, 0.25, 0, 0, 0), id="map larger than the source"),
    pytest.param([[2, 2, 2, 2]], (1, 4), (0, 0, 1.5, 0, math.sqrt(1.25), 1), id="uniform, first of equal peaks"),
    pytest.param([[1, 0, 3]], (1, 3), (2, 0, 1.5, 0, math.sqrt(0.75), 0.8112781245 / math.log2(3)), id="weights 1:3"),
    pytest.param([[1, 0], [0, 1]], (2, 2), (0, 0, 0.5, 0.5, math.sqrt(0.5), 0.5), id="both axes add to the spread"),
    pytest.param([[5]], (9, 11), (5, 4, 5, 4, 0, 0), id="one cell in all"),
]


@pytest.mark.parametrize(("saliency_map", "source_size", "expected"), CASES)
@pytest.mark.parametrize("factor", [1, 1e-30, 1e30])
def test_hand_computed_statistics(saliency_map, source_size, expected, factor):
    statistics = frame_statistics(np.array(saliency_map) * float(factor), source_size)
    assert astuple(statistics) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_torch_maps(dtype):
    values = torch.tensor([[1, 0, 3], [2, 2, 0]], dtype=dtype, requires_grad=True)
    assert frame_statistics(values, (20, 30)) == frame_statistics(np.array([[1, 0, 3], [2, 2, 0]]), (20, 30))


def test_peak_and_centroid_agree_with_the_enlarged_map():
    y, x = np.mgrid[0:24, 0:32]
    small = torch.tensor(np.exp(-((x - 18) ** 2 + (y - 9) ** 2) / 18))
    large = torch.nn.functional.interpolate(small[None, None], size=(240, 320), mode="bilinear")[0, 0]
    of_small, of_large = frame_statistics(small, (240, 320)), frame_statistics(large, (240, 320))
    assert of_small.peak_x == 184.5
    assert abs(of_small.peak_x - of_large.peak_x) <= 0.5
    assert abs(of_small.peak_y - of_large.peak_y) <= 0.5
    assert of_small.centroid_x == pytest.approx(of_large.centroid_x, abs=0.1)
    assert of_small.centroid_y == pytest.approx(of_large.centroid_y, abs=0.1)
    assert of_small.spread == pytest.approx(of_large.spread, rel=0.02)


def test_zero_map_has_no_position():
    assert all(math.isnan(value) for value in astuple(frame_statistics(np.zeros((3, 4)), (30, 40))))


@pytest.mark.parametrize("seed", range(5))
def test_ranges(seed):
    values = np.random.default_rng(seed).random((9, 13)) ** 4
    statistics = frame_statistics(values, (90, 26))
    assert -0.5 <= statistics.peak_x <= 25.5
    assert -0.5 <= statistics.centroid_y <= 89.5
    assert 0 <= statistics.spread <= math.hypot(90, 26)
    assert 0 <= statistics.entropy <= 1


@pytest.mark.parametrize(
    ("saliency_map", "source_size", "message"),
    [
        (np.zeros((1, 2, 2)), (4, 4), "shape"),
        (np.zeros((0, 2)), (4, 4), "shape"),
        (np.ones((2, 2)), (4, 0), "source_size"),
        (np.ones((2, 2)), (4, 4, 3), "source_size"),
        (np.array([[1.0, -1.0]]), (4, 4), "negative"),
        (np.array([[1.0, np.nan]]), (4, 4), "finite"),
        (np.array([[1.0, np.inf]]), (4, 4), "finite"),
    ],
)
def test_bad_input_is_refused(saliency_map, source_size, message):
    with pytest.raises(ValueError, match=message):
        frame_statistics(saliency_map, source_size)


def test_csv_bytes(tmp_path):
    path = tmp_path / "table.csv"
    with CsvWriter(path) as writer:
        writer.write(0, 0.0, ROW)
        writer.write(1, 1 / 30, FrameStatistics(*[math.nan] * 6))
        writer.write(2, 1e6 / 3, FrameStatistics(-0.0001, 1e-7, 639.5, 1919.0006, 0.0, 1.0))
    assert path.read_bytes().decode() == HEADER + (
        "0,0.000000,1.000,2.500,-0.250,4.000,5.062,0.500000\n"
        "1,0.033333,,,,,,\n"
        "2,333333.333333,0.000,0.000,639.500,1919.001,0.000,1.000000\n"
    )
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert rows[1]["peak_x"] == ""


def test_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "table.csv"
    with CsvWriter(path) as writer:
        writer.write(0, 0.0, ROW)
        assert not path.exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.csv"]


def test_exception_discards_the_new_file_and_keeps_the_old(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(RuntimeError), CsvWriter(path) as writer:
        writer.write(0, 0.0, ROW)
        raise RuntimeError
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.csv"]


def test_writing_outside_the_block_is_refused(tmp_path):
    writer = CsvWriter(tmp_path / "table.csv")
    with pytest.raises(ValueError, match="with CsvWriter"):
        writer.write(0, 0.0, ROW)
    with writer:
        pass
    with pytest.raises(ValueError, match="with CsvWriter"):
        writer.write(0, 0.0, ROW)
    assert (tmp_path / "table.csv").read_text() == HEADER


def test_missing_folder_is_an_error_of_the_file_system(tmp_path):
    with pytest.raises(FileNotFoundError), CsvWriter(tmp_path / "none" / "table.csv"):
        pass


def write_rows(path, indices):
    with CsvWriter(path) as writer:
        for index in indices:
            writer.write(index, index / 25, ROW)
    return path


def test_joined_parts_equal_one_file(tmp_path):
    whole = write_rows(tmp_path / "whole.csv", range(10))
    parts = [
        write_rows(tmp_path / f"part-{first}.csv", range(first, last)) for first, last in [(0, 4), (4, 8), (8, 10)]
    ]
    for _ in range(2):  # joining again, as after a kill behind the first time, changes nothing
        join_csv(parts, tmp_path / "joined.csv")
        assert (tmp_path / "joined.csv").read_bytes() == whole.read_bytes()
    assert all(part.exists() for part in parts)


def test_joining_nothing_gives_the_header(tmp_path):
    join_csv([], tmp_path / "joined.csv")
    assert (tmp_path / "joined.csv").read_text() == HEADER


def test_part_with_other_columns_is_refused(tmp_path):
    other = tmp_path / "other.csv"
    other.write_text("frame,x\n0,1\n")
    with pytest.raises(ValueError, match="other.csv"):
        join_csv([write_rows(tmp_path / "part.csv", range(2)), other], tmp_path / "joined.csv")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["other.csv", "part.csv"]
