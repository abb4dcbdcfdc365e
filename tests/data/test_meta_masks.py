# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
from dataset_factory import make_ledov_clip, make_stavis

from video_saliency.data import check_dataset, open_dataset
from video_saliency.data.meta_masks import read_masks


def write_masks(path: Path, marked: dict[str, tuple[int, set[int]]]) -> None:
    """Rows for each video: number of frames, and which of them are marked."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["video,frame,mask"]
    for name, (num_frames, frames) in marked.items():
        lines += [f"{name},{frame},{frame in frames}" for frame in range(num_frames)]
    path.write_text("\n".join(lines))


def test_masks_are_read(tmp_path: Path) -> None:
    write_masks(tmp_path / "m.csv", {"b": (20, {15, 17}), "a.mp4": (3, set())})
    assert read_masks(tmp_path / "m.csv") == {"b": (15, 17), "a": ()}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("video,frame\na,0", "lacks the columns mask: it needs video, frame, mask"),
        ("video,frame,mask\na,0,maybe", "line 2: expected a frame number, and True or False"),
        ("video,frame,mask\na,0,True\na,one,True", "line 3"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_masks(tmp_path / "m.csv")


def test_diem_meta(tmp_path: Path) -> None:
    clips = {"advert_bbc4_bees_1024x576": 20, "one_show_1280x712": 18, "DIY_SOS_1280x712": 5}
    make_stavis(tmp_path, "DIEM", clips, {}, "29.999700")
    with pytest.raises(ValueError, match=r"mask-diem.csv is missing: copy it from https://github.com/mtangemann"):
        open_dataset("diem_meta", tmp_path)
    masks = {"advert_bbc4_bees_1024x576": (20, {16, 19}), "one_show": (18, set()), "music_gummybear_880x720": (9, {8})}
    write_masks(tmp_path / "meta-benchmark" / "mask-diem.csv", masks)
    dataset = open_dataset("diem-meta", tmp_path)
    assert {item.id: item.scored_frames for item in dataset} == {
        "advert_bbc4_bees_1024x576": (16, 19),
        "one_show_1280x712": (),
    }
    assert dataset.missing_ids == ["music_gummybear_880x720"] and {item.dataset for item in dataset} == {"diem_meta"}
    assert [item.num_frames for item in dataset] == [20, 18]  # predictions are made for the whole clip
    (report,) = check_dataset("diem_meta", tmp_path)
    assert (report.rows[0].found, report.rows[0].expected) == (2, 3)


def test_ledov_meta_counts_at_30_frames_a_second(tmp_path: Path) -> None:
    make_ledov_clip(tmp_path, "cat", 8, [(1, 0, 30, 3, 4)], rate=24)
    make_ledov_clip(tmp_path, "dog", 8, [(1, 0, 30, 3, 4)], rate=60)
    write_masks(tmp_path / "mask-ledov-test-30hz.csv", {"dog": (4, {3}), "cat": (10, {9}), "eel": (5, set())})
    dataset = open_dataset("ledov_meta", tmp_path, split="test")
    assert [(item.id, item.num_frames, item.scored_frames) for item in dataset] == [
        ("cat", 10, (9,)),
        ("dog", 4, (3,)),
    ]
    for item in dataset:
        assert item.frame_rate == 30 and [frame.time for frame in item.frames()][:2] == [0, Fraction(1, 30)]
        assert [len(frame.fixations) for frame in item.annotations()][:3] == [1, 0, 0]
    assert dataset.missing_ids == ["eel"]
