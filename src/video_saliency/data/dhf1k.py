# SPDX-License-Identifier: Apache-2.0
"""DHF1K: 1000 clips of free viewing; maps and fixations of the last 300 are withheld.

Found as published, and as common training code rearranges it: with frames extracted, with or without zeros in front of
the numbers, with the truth beside the frames.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

from video_saliency.data.base import SaliencyItem
from video_saliency.data.dataset_info import DatasetInfo, Listing, SplitInfo
from video_saliency.data.frame_files import FrameFiles, PictureFrames, VideoFrames
from video_saliency.data.numbered_files import VIDEO_SUFFIXES, first_existing
from video_saliency.data.truth_files import PictureDensities, find_masks

FRAME_RATE = Fraction(30)
CLIPS = {"train": range(1, 601), "val": range(601, 701), "test": range(701, 1001)}


def read_dhf1k(root: Path, split: str) -> Listing:
    """The clips of a split that have anything in `root`."""
    items = [_read_clip(root, split, number) for number in CLIPS[split]]
    found = [item for item in items if item.frame_files or item.density_files or item.fixation_files]
    return Listing(found, expected_ids=[item.id for item in items])


def _read_clip(root: Path, split: str, number: int) -> SaliencyItem:
    name = f"{number:04d}"
    homes = [root / "annotation" / name, root / split / name, root / name]
    maps = first_existing([*(home / "maps" for home in homes), *_plain(root / "maps", number)])
    candidates = [*(home / "fixation" for home in homes), *_plain(root / "fixations", number)]
    masks = next((found for found in map(find_masks, candidates) if found is not None), None)
    return SaliencyItem(
        name,
        "dhf1k",
        split,
        _find_frames(root, homes, number),
        None if maps is None else PictureDensities(maps),
        masks,
    )


def _find_frames(root: Path, homes: list[Path], number: int) -> FrameFiles | None:
    folder = first_existing(
        [*(home / "images" for home in homes), root / "video" / f"{number:04d}", *_plain(root / "frames", number)]
    )
    if folder is not None:
        return PictureFrames(folder, FRAME_RATE)
    suffixes = (".AVI", *VIDEO_SUFFIXES)
    video = first_existing(root / "video" / f"{number:0{digits}d}{suffix}" for digits in (3, 4) for suffix in suffixes)
    return None if video is None else VideoFrames(video)


def _plain(folder: Path, number: int) -> list[Path]:
    return [folder / str(number), folder / f"{number:04d}"]


DHF1K = DatasetInfo(
    name="dhf1k",
    title="DHF1K",
    publisher="https://github.com/wenguanwang/DHF1K",
    layout="video/001.AVI (or frames in annotation/0001/images), annotation/0001/maps and annotation/0001/fixation",
    splits={
        "train": SplitInfo(600, 346_140),
        "val": SplitInfo(100, 60_273),
        "test": SplitInfo(300, 176_192, has_truth=False),
    },
    whole=("train", "val", "test"),
    read=read_dhf1k,
)
