# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from dataset_factory import density, make_action_clip, mask, picture

from video_saliency.data import DATASETS, check_dataset, open_dataset
from video_saliency.data.dataset_info import split_lists


@pytest.mark.parametrize("masks", ["mat", "png"])
def test_hollywood_shots_with_numbers_that_are_not_padded(tmp_path: Path, masks: str) -> None:
    start = 3  # frame numbers go on through the video, with a gap between shots
    for shot in (1, 2, 9, 10, 11):
        video, count = "actioncliptest00001", 1 if shot == 2 else 3
        home = tmp_path / "testing" / f"{video}_{shot}"
        make_action_clip(home, f"{video}_{{:05d}}", range(start, start + count), masks=masks)
        start += count + 3
    dataset = open_dataset("hollywood2", tmp_path, split="test")
    assert [item.id.rpartition("_")[2] for item in dataset] == ["1", "2", "9", "10", "11"]
    assert {item.clip for item in dataset} == {"actioncliptest00001"}
    assert [item.num_frames for item in dataset] == [3, 1, 3, 3, 3]
    for item in dataset:
        assert item.frame_rate == 24 and item.unmatched() == []
        for index, frame in enumerate(item.annotations()):
            assert np.array_equal(frame.density, density(index)) and np.array_equal(frame.fixations, mask(index))
    assert dataset.item("actioncliptest00001_1").frame_name(0) == "actioncliptest00001_00003"
    assert dataset.item("actioncliptest00001_2").frame_name(0) == "actioncliptest00001_00009"
    (report,) = check_dataset("hollywood2", tmp_path, split="test")
    assert [(row.what, row.found, row.expected) for row in report.rows] == [
        ("shots", 5, 3_558),
        ("videos", 1, 884),
        ("frames", 13, 244_860),
        ("densities", 13, 244_860),
        ("fixations", 13, 244_860),
    ]
    assert report.problems == [] and not report.is_complete


def make_ucf(root: Path, test: list[str], train: list[str]) -> None:
    for part, names in (("testing", test), ("training", train)):
        for name in names:
            make_action_clip(root / part / name, f"{name[:-4]}_{name[-3:]}_{{:03d}}", range(1, 3))


def test_ucf_sports_by_the_list_of_47(tmp_path: Path, caplog) -> None:
    listed = split_lists("ucf_sports")["test"]
    assert len(listed) == len(set(listed)) == DATASETS["ucf_sports"].splits["test"].items == 47
    make_ucf(tmp_path, [*listed[:3], "Diving-Side-009"], ["Diving-Side-005", "Walk-Front-010", "Lifting-001"])
    with caplog.at_level(logging.WARNING):
        dataset = open_dataset("ucf-sports", tmp_path, split="test")
    assert [item.id for item in dataset] == listed[:3] and dataset.missing_ids == listed[3:]
    assert "Diving-Side-009 is not one of the 47 test clips" in caplog.text
    assert "44 clips are missing (Diving-Side-004, Golf-Swing-Back-001" in caplog.text
    frame = next(dataset[0].annotations(1))
    assert np.array_equal(frame.density, density(1)) and np.array_equal(frame.fixations, mask(1))
    assert dataset[0].frame_name(1) == "Diving-Side_001_002"
    assert np.array_equal(next(dataset[0].load_frames([1])), picture(1))
    train = open_dataset("ucf_sports", tmp_path, split="train")
    assert [item.id for item in train] == ["Diving-Side-005", "Walk-Front-010"]
    assert "Lifting-001 is a test clip" in train.notes[0]
    (report,) = check_dataset("ucf_sports", tmp_path, split="train")
    assert (report.rows[0].found, report.rows[0].expected) == (2, 103)


def test_the_43_clips_are_refused_by_name_unless_the_user_has_the_list(tmp_path: Path) -> None:
    listed = split_lists("ucf_sports")["test"]
    make_ucf(tmp_path, listed[:6], ["Walk-Front-010"])
    with pytest.raises(
        ValueError, match="43 of the 47 test clips without naming the four .* give the list with `clips`"
    ):
        open_dataset("ucf_sports", tmp_path, split="test43")
    with pytest.raises(ValueError, match="43 of the 47"):
        check_dataset("ucf_sports", tmp_path, split="test43")
    mine = [*listed[1:4], "Walk-Front-007"]
    dataset = open_dataset("ucf_sports", tmp_path, split="test43", clips=mine)
    assert [item.id for item in dataset] == listed[1:4] and dataset.missing_ids == ["Walk-Front-007"]
    assert {item.split for item in dataset} == {"test43"}
    (report,) = check_dataset("ucf_sports", tmp_path, split="test43", clips=mine)
    assert (report.rows[0].found, report.rows[0].expected) == (3, 4)
    assert [report.split for report in check_dataset("ucf_sports", tmp_path)] == ["train", "test"]
