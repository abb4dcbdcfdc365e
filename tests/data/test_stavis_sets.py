# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from dataset_factory import density, make_stavis, mask, picture

from video_saliency.data import DATASETS, check_dataset, open_dataset
from video_saliency.data.dataset_info import split_lists

DIEM_TEST = split_lists("diem")["test"]


def test_frames_maps_masks_and_sound_belong_together(tmp_path: Path) -> None:
    make_stavis(tmp_path, "DIEM", {DIEM_TEST[0]: 4, "50_people_1280x720": 3}, {}, "29.999700")
    dataset = open_dataset("diem", tmp_path, split="test")
    (item,) = dataset
    assert (item.id, item.num_frames, item.frame_rate) == (DIEM_TEST[0], 4, Fraction("29.9997"))
    assert item.audio_path == tmp_path / "video_audio" / "DIEM" / DIEM_TEST[0] / f"{DIEM_TEST[0]}.wav"
    assert item.frame_name(1) == "img_00002" and item.unmatched() == []
    for index, (frame, rgb) in enumerate(zip(item.annotations(), item.load_frames(range(4)), strict=True)):
        assert np.abs(frame.density.astype(int) - density(index)).mean() < 2  # JPEG
        assert np.array_equal(frame.fixations, mask(index)) and np.abs(rgb.astype(int) - picture(index)).mean() < 8
    (train,) = open_dataset("diem", tmp_path, split="train")
    assert train.id == "50_people_1280x720"
    assert len(open_dataset("diem", tmp_path)) == 2


def test_diem_lists(tmp_path: Path) -> None:
    lists = split_lists("diem")
    assert (len(lists["test"]), len(lists["test_borji"])) == (17, 20)
    assert {name.rpartition("_")[0] for name in lists["test"]} < set(lists["test_borji"])
    clips = {DIEM_TEST[0]: 305, "ami_ib4010_left_720x576": 2, "news_bee_parasites_768x576": 2}
    make_stavis(tmp_path, "DIEM", clips, {}, "29.999700")
    borji = open_dataset("diem", tmp_path, split="test_borji")
    assert [(item.id, item.num_frames) for item in borji] == [(DIEM_TEST[0], 300), ("ami_ib4010_left_720x576", 2)]
    assert len(borji.missing_ids) == 18 and "ami_ib4010_closeup" in borji.missing_ids
    assert len(list(borji[0].frames())) == len(list(borji[0].annotations())) == 300 and borji[0].unmatched() == []
    assert [item.id for item in open_dataset("diem", tmp_path, split="train")] == ["news_bee_parasites_768x576"]
    (report,) = check_dataset("diem", tmp_path, split="test_borji")
    assert [(row.found, row.expected) for row in report.rows[:2]] == [(2, 20), (302, 6_000)]
    assert report.problems[0].endswith("is missing") and len(report.problems) == 18
    assert "ami_ib4010_closeup" in DATASETS["diem"].publisher


# name, folder of the release, a clip's name by its listed one, clips tested in each split, all of them, never tested
SETS = [
    ("avad", "AVAD", "{}_Speech3", (15, 15, 15), 42),
    ("coutrot1", "Coutrot_db1", "{}", (20, 20, 20), 60),
    ("coutrot2", "Coutrot_db2", "{}", (5, 5, 5), 15),
    ("etmd", "ETMD_av", "{}", (4, 4, 4), 12),
    ("summe", "SumMe", "{}", (8, 7, 8), 23),
]


@pytest.mark.parametrize(("name", "folder", "pattern", "counts", "num_tested"), SETS)
def test_three_splits(tmp_path: Path, name: str, folder: str, pattern: str, counts: tuple, num_tested: int) -> None:
    lists = split_lists(name)
    tested = [lists[f"test_{number}"] for number in (1, 2, 3)]
    assert (
        tuple(map(len, tested))
        == counts
        == tuple(DATASETS[name].splits[f"test_{number}"].items for number in (1, 2, 3))
    )
    every = {clip for names in tested for clip in names}
    assert len(every) == num_tested
    untested = {"avad": ["V28", "V33", "V42"], "summe": ["Scuba", "St_Maarten_Landing"]}.get(name, [])
    clips = [pattern.format(clip) for clip in (*every, *untested)]
    for clip in clips:
        (tmp_path / "annotations" / folder / clip).mkdir(parents=True)
    assert len(clips) == DATASETS[name].splits["all"].items == len(open_dataset(name, tmp_path))
    for number in (1, 2, 3):
        test = {item.id for item in open_dataset(name, tmp_path, split=f"test_{number}")}
        train = {item.id for item in open_dataset(name, tmp_path, split=f"train_{number}")}
        assert test == {pattern.format(clip) for clip in tested[number - 1]} and not test & train
        assert len(train) == DATASETS[name].splits[f"train_{number}"].items


def test_rates_and_training_clips_come_from_the_fold_lists(tmp_path: Path, caplog) -> None:
    clips = {"Air_Force_One": 2, "Jumps": 3, "Scuba": 2}
    make_stavis(
        tmp_path / "data", "SumMe", clips, {"test_2": ["Air_Force_One"], "train_2": ["Jumps", "Cooking"]}, "25.5"
    )
    with caplog.at_level(logging.WARNING):
        test = open_dataset("summe", tmp_path, split="test_2")
    assert [(item.id, item.frame_rate) for item in test] == [("Air_Force_One", Fraction("25.5"))]
    assert "the fold list of test_2 in the folder is not the published one" in caplog.text
    train = open_dataset("summe", tmp_path, split="train_2")
    assert [item.id for item in train] == ["Jumps"] and train.missing_ids == ["Cooking"]
    other = open_dataset("summe", tmp_path, split="train_1")
    assert [item.frame_rate for item in other] == [Fraction("25.5"), Fraction("25.5"), None]
    assert "the frame rates of 1 clips are in no list: 25 is taken" in other.notes[0]
    assert other.item("Scuba").frame_time(25) == 1


def test_check_uses_the_frame_counts_of_the_lists(tmp_path: Path) -> None:
    clips = {"clip2": 3, "clip4": 2, "clip11": 2, "clip14": 2, "clip15": 2}
    make_stavis(tmp_path, "Coutrot_db2", clips, {"test_1": list(clips)}, "24.999750")
    (report,) = check_dataset("coutrot2", tmp_path, split="test_1")
    assert report.is_complete and report.problems == [] and report.notes == []
    assert [(row.what, row.found, row.expected) for row in report.rows] == [
        ("clips", 5, 5),
        ("frames", 11, None),
        ("densities", 11, 11),
        ("fixations", 11, 11),
        ("sound files", 5, 5),
    ]
    (tmp_path / "video_frames" / "Coutrot_db2" / "clip2" / "img_00003.jpg").unlink()
    (tmp_path / "video_audio" / "Coutrot_db2" / "clip4" / "clip4.wav").unlink()
    (report,) = check_dataset("coutrot2", tmp_path, split="test_1")
    assert report.problems == [
        "clip2: no frame for 1 files of density (3)",
        "clip2: no frame for 1 files of fixation mask (3)",
        "clip2: 2 frames, its list says 3",
    ]
    assert report.rows[-1].missing == 1
    (tmp_path / "fold_lists" / "Coutrot_db2_list_test_1_fps.txt").write_text("clip2 three 25")
    with pytest.raises(ValueError, match="'clip2 three 25' is not 'name frames fps'"):
        open_dataset("coutrot2", tmp_path, split="test_1")
