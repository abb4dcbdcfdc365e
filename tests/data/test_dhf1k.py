# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from dataset_factory import SIZE, density, make_dhf1k, mask, picture, write_mat, write_pictures

from video_saliency.data import check_dataset, open_dataset
from video_saliency.data.frame_files import PictureFrames, VideoFrames

CLIPS = {601: 4, 602: 1, 700: 3}


@pytest.mark.parametrize("as_video", [True, False])
@pytest.mark.parametrize("masks", ["png", "mat"])
def test_clips_are_read_as_published_and_extracted(tmp_path: Path, as_video: bool, masks: str) -> None:
    make_dhf1k(tmp_path, CLIPS, as_video=as_video, masks=masks)
    dataset = open_dataset("DHF1K", tmp_path, split="val")
    assert [item.id for item in dataset] == ["0601", "0602", "0700"]
    assert [item.num_frames for item in dataset] == [4, 1, 3]
    for item in dataset:
        assert (item.dataset, item.split, item.frame_rate, item.size) == ("dhf1k", "val", 30, SIZE)
        assert isinstance(item.frame_files, VideoFrames if as_video else PictureFrames)
        for index, (frame, rgb) in enumerate(
            zip(item.annotations(), item.load_frames(item.frame_indices), strict=True)
        ):
            assert np.array_equal(frame.density, density(index)) and np.array_equal(frame.fixations, mask(index))
            assert np.abs(rgb.astype(int) - picture(index)).mean() < (8 if as_video else 0.01)
        assert item.frame_name(0) == "0001" and item.unmatched() == []
        assert [frame.time for frame in item.frames()] == [Fraction(i, 30) for i in range(item.num_frames)]


@pytest.mark.parametrize("layout", ["vinet", "tmfi", "tased", "integers"])
def test_rearranged_copies_are_found(tmp_path: Path, layout: str) -> None:
    names = [f"{number:04d}.png" for number in (1, 2, 3)]
    homes = {"vinet": tmp_path / "val" / "0601", "tmfi": tmp_path / "0601"}
    home = homes.get(layout, tmp_path / "annotation" / "0601")
    frames, maps, masks = home / "images", home / "maps", home / "fixation"
    if layout == "tased":
        frames = tmp_path / "video" / "0601"
    if layout == "integers":
        frames, maps, masks = (tmp_path / kind / "601" for kind in ("frames", "maps", "fixations"))
    write_pictures(frames, ["1.png", "2.png", "3.png"] if layout == "integers" else names, map(picture, range(3)))
    write_pictures(maps, names, map(density, range(3)))
    if layout == "vinet":
        for index, name in enumerate(names):
            write_mat(masks / "maps" / f"{Path(name).stem}.mat", I=mask(index).astype(np.uint8))
    else:
        write_pictures(masks, names, (mask(index) for index in range(3)))
    (item,) = open_dataset("dhf1k", tmp_path, split="val")
    for index, frame in enumerate(item.annotations()):
        assert np.array_equal(frame.density, density(index)) and np.array_equal(frame.fixations, mask(index))
    assert item.num_frames == 3 and np.array_equal(next(item.load_frames([2])), picture(2))


def test_long_clips_keep_their_order(tmp_path: Path) -> None:
    numbers = [1, 2, 998, 999, 1000, 1001]
    for kind, make in (("images", picture), ("maps", density)):
        # some tools write three digits, and text order puts 1000 before 999
        write_pictures(tmp_path / "annotation" / "0601" / kind, [f"{n:03d}.png" for n in numbers], map(make, numbers))
    (item,) = open_dataset("dhf1k", tmp_path, split="val")
    assert [item.frame_name(index) for index in item.frame_indices] == ["001", "002", "998", "999", "1000", "1001"]
    assert all(np.array_equal(f.density, density(n)) for f, n in zip(item.annotations(), numbers, strict=True))


def test_test_clips_have_no_truth(tmp_path: Path) -> None:
    make_dhf1k(tmp_path, {701: 2})
    for path in (tmp_path / "annotation").rglob("*.png"):
        path.unlink()
    for folder in sorted((tmp_path / "annotation").rglob("*"), reverse=True):
        folder.rmdir()
    (item,) = open_dataset("dhf1k", tmp_path, split="test")
    assert [(f.density, f.fixations) for f in item.annotations()] == [(None, None)] * 2
    (report,) = check_dataset("dhf1k", tmp_path, split="test")
    assert [row.what for row in report.rows] == ["clips", "frames"] and not any(
        "no dens" in p for p in report.problems
    )


def test_the_whole_data_set_and_what_is_missing(tmp_path: Path, caplog) -> None:
    make_dhf1k(tmp_path, {1: 2, 601: 2})
    with caplog.at_level(logging.WARNING):
        dataset = open_dataset("dhf1k", tmp_path)
    assert [(item.id, item.split) for item in dataset] == [("0001", "train"), ("0601", "val")]
    assert len(dataset.missing_ids) == 998
    assert "998 clips are missing (0002, 0003, 0004, 0005, 0006 and 993 more)" in caplog.text


def test_check_counts_and_names_what_does_not_fit(tmp_path: Path) -> None:
    make_dhf1k(tmp_path, CLIPS)
    (tmp_path / "annotation" / "0601" / "maps" / "0002.png").unlink()
    (tmp_path / "video" / "700.AVI").unlink()
    (report,) = check_dataset("dhf1k", tmp_path, split="val")
    assert [(row.what, row.found, row.expected) for row in report.rows] == [
        ("clips", 3, 100),
        ("frames", 5, 60_273),
        ("densities", 7, 60_273),
        ("fixations", 8, 60_273),
    ]
    assert report.rows[0].missing == 97 and not report.is_complete
    assert report.problems[:2] == ["0603 is missing", "0604 is missing"]
    assert report.problems[-2:] == ["0601: no density for 1 frames (2)", "0700: no frames"]
