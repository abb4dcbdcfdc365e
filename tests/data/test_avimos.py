# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from dataset_factory import SIZE, density, make_avimos_clip

from video_saliency.data import check_dataset, open_dataset

NAMES = {
    "train": ["video_youtube_downloads_1_344", "video_youtube_downloads_1_1000"],
    "public_test": ["video_youtube_shorts_919"],
    "private_test": ["video_youtube_shorts_20"],
}


def make_challenge(root: Path, *, suffix: str = ".mp4", **keys: str) -> dict[str, list]:
    points = {}
    for split, names in NAMES.items():
        for name in names:
            points[name] = make_avimos_clip(root, "Train" if split == "train" else "Test", name, 3)
    lists = {keys.get(split, split): [f"{name}{suffix}" for name in names] for split, names in NAMES.items()}
    (root / "TrainTestSplit.json").write_text(json.dumps(lists))
    return points


@pytest.mark.parametrize("suffix", [".mp4", ""])
def test_clips_by_the_split_file(tmp_path: Path, suffix: str) -> None:
    points = make_challenge(tmp_path, suffix=suffix, public_test="public", private_test="private")
    found = {split: open_dataset("ntire26", tmp_path, split=split) for split in (*NAMES, "test")}
    assert {split: [item.id for item in found[split]] for split in NAMES} == NAMES
    assert [item.id for item in found["test"]] == ["video_youtube_shorts_20", "video_youtube_shorts_919"]
    item = found["train"][0]
    assert (item.num_frames, item.frame_rate, item.size, item.unmatched()) == (3, 30, SIZE, [])
    assert item.audio_path == tmp_path / "Videos" / f"{item.id}.mp4"
    for index, frame in enumerate(item.annotations()):
        assert frame.density.dtype == np.uint16
        assert np.array_equal(frame.density, density(index, SIZE, 876, np.uint16))
        assert frame.fixations.tolist() == points[item.id][index]  # repeated points are kept
    (sought,) = item.load_densities([2])
    assert np.array_equal(sought, density(2, SIZE, 876, np.uint16))


def test_clips_by_folder_without_a_split_file(tmp_path: Path, caplog) -> None:
    make_challenge(tmp_path)
    (tmp_path / "TrainTestSplit.json").unlink()
    with caplog.at_level(logging.WARNING):
        test = open_dataset("eccv24", tmp_path, split="test")
    assert [item.id for item in test] == ["video_youtube_shorts_20", "video_youtube_shorts_919"]
    assert test.name == "avimos" and "TrainTestSplit.json is missing: the clips of test are those" in caplog.text
    assert len(open_dataset("avimos", tmp_path, split="train")) == 2
    with pytest.raises(ValueError, match="TrainTestSplit.json is missing: only it tells .*huggingface.co"):
        open_dataset("ntire26", tmp_path, split="public_test")


@pytest.mark.parametrize("content", ["[]", "{", '{"train": [1]}', '{"validation": ["a.mp4"]}'])
def test_another_split_file_is_refused(tmp_path: Path, content: str) -> None:
    make_challenge(tmp_path)
    (tmp_path / "TrainTestSplit.json").write_text(content)
    with pytest.raises(ValueError, match="TrainTestSplit.json"):
        open_dataset("avimos", tmp_path, split="train")


def test_a_portrait_clip_shows_rows_and_columns_that_are_mixed_up(tmp_path: Path) -> None:
    size = (64, 36)
    make_avimos_clip(tmp_path, "Test", "upright", 2, size=size, points=[[[60, 30]], [[2, 35]]])
    make_avimos_clip(tmp_path, "Test", "mixed_up", 2, size=size, points=[[[30, 60]], [[35, 2]]])
    dataset = open_dataset("avimos", tmp_path, split="test")
    upright = dataset.item("upright")
    assert upright.size == size and [frame.fixations.tolist() for frame in upright.annotations()] == [
        [[60, 30]],
        [[2, 35]],
    ]
    with pytest.raises(ValueError, match="mixed_up, frame 0: .* 64 x 36 .* frame; rows and columns are mixed up"):
        next(dataset.item("mixed_up").annotations())


def test_empty_lists_and_lists_that_end_early(tmp_path: Path) -> None:
    make_avimos_clip(tmp_path, "Train", "a", 3, points=[[], [[1, 1]]])
    frames = list(open_dataset("avimos", tmp_path, split="train")[0].annotations())
    assert frames[0].fixations.shape == (0, 2) and not frames[0].has_fixations and frames[1].has_fixations
    assert frames[2].fixations is None and frames[2].has_density


def test_check_reads_headers_only(tmp_path: Path) -> None:
    make_challenge(tmp_path)
    make_avimos_clip(tmp_path, "Train", "short", 5)
    (tmp_path / "SaliencyTrain" / "Train" / "short.mp4").unlink()
    (tmp_path / "SaliencyTrain" / "Train" / "video_youtube_downloads_1_344.mp4").rename(
        tmp_path / "SaliencyTrain" / "Train" / "short.mp4"
    )
    lists = json.loads((tmp_path / "TrainTestSplit.json").read_text())
    lists["train"] += ["short.mp4", "absent.mp4"]
    (tmp_path / "TrainTestSplit.json").write_text(json.dumps(lists))
    (report,) = check_dataset("ntire26", tmp_path, split="train")
    assert [(row.what, row.found, row.expected) for row in report.rows] == [
        ("clips", 3, 1_200),
        ("frames", 11, None),
        ("densities", 6, 11),
        ("fixations", 11, 11),
    ]
    assert report.problems == [
        "absent is missing",
        "short: the density video has 3 frames of 5",
        "video_youtube_downloads_1_344: no densities",
    ]
