# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from dataset_factory import SIZE, density, gaze, mask, picture, write_pictures, write_truth_video
from PIL import Image
from video_factory import make_clip

from video_saliency.data import check_dataset, open_dataset


def make_folder(root: Path) -> None:
    """A video with pictures, frames with a density video and points, a still, and a video without truth."""
    names = [f"{number:04d}.png" for number in (1, 2, 3)]
    (root / "videos").mkdir(parents=True)
    for name in ("a", "bare"):
        make_clip(root / "videos" / f"{name}.mp4", 3, width=SIZE[1], height=SIZE[0], rate=30)
    write_pictures(root / "maps" / "a", names, map(density, range(3)))
    write_pictures(root / "fixations" / "a", [f"{n}.png" for n in range(3)], map(mask, range(3)))
    write_pictures(root / "frames" / "b", names, map(picture, range(3)))
    write_truth_video(root / "maps" / "b.mp4", [density(i, SIZE, 876, np.uint16) for i in range(3)])
    (root / "fixations" / "b.json").write_text(json.dumps([[list(gaze(index))] for index in range(3)]))
    write_pictures(root / "images", ["still.jpg"], [picture(0)])
    Image.fromarray(density(0)).save(root / "maps" / "still.png")
    Image.fromarray(mask(0)).save(root / "fixations" / "still.png")
    (root / "audio").mkdir()
    (root / "audio" / "b.wav").touch()


def test_clips_and_stills_of_all_kinds(tmp_path: Path) -> None:
    make_folder(tmp_path)
    dataset = open_dataset("folder", tmp_path)
    assert [(item.id, item.num_frames, item.frame_rate) for item in dataset] == [
        ("a", 3, 30),
        ("b", 3, None),
        ("bare", 3, 30),
        ("still", 1, None),
    ]
    for index, frame in enumerate(dataset.item("a").annotations()):
        assert np.array_equal(frame.density, density(index)) and np.array_equal(frame.fixations, mask(index))
    for index, frame in enumerate(dataset.item("b").annotations()):
        assert np.array_equal(frame.density, density(index, SIZE, 876, np.uint16))
        assert frame.fixations.tolist() == [list(gaze(index))]
    (still,) = dataset.item("still").annotations()
    assert np.array_equal(still.density, density(0)) and np.array_equal(still.fixations, mask(0))
    assert all(frame.density is None for frame in dataset.item("bare").annotations())
    sounds = {item.id: item.audio_path and item.audio_path.relative_to(tmp_path).as_posix() for item in dataset}
    assert sounds == {"a": "videos/a.mp4", "b": "audio/b.wav", "bare": "videos/bare.mp4", "still": None}


def test_splits_and_rates_of_the_user(tmp_path: Path) -> None:
    make_folder(tmp_path)
    (tmp_path / "splits.json").write_text(json.dumps({"train": ["b", "gone"], "val": ["a"]}))
    (tmp_path / "frame_rates.json").write_text(json.dumps({"b": 29.97}))
    train = open_dataset("folder", tmp_path, split="train")
    assert [(item.id, item.split, item.frame_rate) for item in train] == [("b", "train", Fraction("29.97"))]
    assert train.missing_ids == ["gone"]
    with pytest.raises(ValueError, match="no split 'test': it has train, val, and 'all'"):
        open_dataset("folder", tmp_path, split="test")
    (tmp_path / "frame_rates.json").write_text("12.5")
    assert open_dataset("folder", tmp_path, split="train")[0].frame_time(5) == Fraction(2, 5)
    for wrong in ("[25]", '{"b": 0}', '"fast"'):
        (tmp_path / "frame_rates.json").write_text(wrong)
        with pytest.raises(ValueError, match="expected a positive number"):
            open_dataset("folder", tmp_path)
    (tmp_path / "frame_rates.json").write_text("{")
    with pytest.raises(ValueError, match="frame_rates.json is no JSON file"):
        open_dataset("folder", tmp_path)


def test_check_of_a_folder(tmp_path: Path) -> None:
    make_folder(tmp_path)
    (report,) = check_dataset("folder", tmp_path)
    assert report.is_complete  # truth is wanted, not needed
    assert [(row.what, row.found, row.expected) for row in report.rows] == [
        ("clips", 4, 4),
        ("frames", 10, None),
        ("densities", 7, None),
        ("fixations", 7, None),
    ]
    (tmp_path / "maps" / "a" / "0002.png").unlink()
    (report,) = check_dataset("folder", tmp_path)
    assert report.problems == ["a: no density for 1 frames (2)"] and not report.is_complete


def test_fixations_without_maps_get_maps(tmp_path: Path) -> None:
    make_folder(tmp_path)
    shutil.rmtree(tmp_path / "maps")
    dataset = open_dataset("folder", tmp_path)
    for name in ("a", "b"):
        for frame in dataset.item(name).annotations():
            assert frame.density.shape == SIZE and frame.density[gaze(frame.frame_index)] > frame.density.mean()
    assert all(frame.density is None for frame in dataset.item("bare").annotations())


def test_two_files_of_one_clip_are_refused(tmp_path: Path) -> None:
    make_folder(tmp_path)
    (tmp_path / "maps" / "a.png").touch()
    with pytest.raises(ValueError, match=r"maps holds a and a.png: keep one"):
        open_dataset("folder", tmp_path)
