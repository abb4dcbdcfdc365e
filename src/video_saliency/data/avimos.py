# SPDX-License-Identifier: Apache-2.0
"""AViMoS of the ECCV 2024 challenge and its successor of NTIRE 2026: clips with sound and mouse tracks.

`Videos/<clip>.mp4`, `SaliencyTrain/Train/<clip>.mp4` (density videos of 10 bits; `SaliencyTest/Test` likewise),
`FixationsTrain/Train/<clip>/fixations.json` (lists over frames of [row, column] points) and `TrainTestSplit.json`.
The mask pictures beside the lists are lossy and not read.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from video_saliency.data.base import SaliencyItem
from video_saliency.data.dataset_info import DatasetInfo, Listing, SplitInfo
from video_saliency.data.frame_files import VideoFrames
from video_saliency.data.numbered_files import VIDEO_SUFFIXES, natural_key, subfolders, visible_files
from video_saliency.data.truth_files import PointListFile, VideoDensities

SPLIT_FILE = "TrainTestSplit.json"
PARTS = ("Train", "Test")
# keys of the split file that make a split; both spellings are in use
SPLIT_KEYS = {
    "train": ("train",),
    "test": ("test", "public_test", "public", "private_test", "private"),
    "public_test": ("public_test", "public"),
    "private_test": ("private_test", "private"),
}


def read_avimos(dataset: str, root: Path, split: str) -> Listing:
    """The clips of a split: by `TrainTestSplit.json`, else by the folder that their truth lies in."""
    videos = _videos_by_stem(root)
    densities = {part: _by_stem(root / f"Saliency{part}" / part) for part in PARTS}
    points = {part: _points_by_clip(root / f"Fixations{part}" / part) for part in PARTS}
    expected = _listed_clips(root, split)
    notes = []
    if expected is None and split.endswith("_test"):
        return Listing([], notes=[f"{root / SPLIT_FILE} is missing: only it tells which test clips are public"])
    if expected is None:
        part = "Train" if split == "train" else "Test"
        expected = sorted({*densities[part], *points[part]}, key=natural_key)
        notes.append(f"{root / SPLIT_FILE} is missing: the clips of {split} are those with truth in the folder {part}")
    items = []
    for name in expected:
        density = next((found[name] for found in densities.values() if name in found), None)
        fixations = next((found[name] for found in points.values() if name in found), None)
        video = videos.get(name)
        if density or fixations or video:
            items.append(
                SaliencyItem(
                    name,
                    dataset,
                    split,
                    None if video is None else VideoFrames(video),
                    None if density is None else VideoDensities(density),
                    None if fixations is None else PointListFile(fixations),
                    audio_path=video,
                )
            )
    return Listing(items, expected, notes=notes)


def _listed_clips(root: Path, split: str) -> list[str] | None:
    """Names without suffix, natural order; `None` if the folder has no split file."""
    path = root / SPLIT_FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_bytes())
        names = {Path(name).stem for key in SPLIT_KEYS[split] for name in content.get(key, [])}
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is not an object with lists of names: restore the file of the release") from error
    if not names:
        raise ValueError(f"{path} has no list {' or '.join(SPLIT_KEYS[split])}: it is not of this edition")
    return sorted(names, key=natural_key)


def _videos_by_stem(root: Path) -> dict[str, Path]:
    """The clips in `Videos`, and in folders inside it."""
    home = root / "Videos"
    folders = [home, *(home / name for name in subfolders(home))]
    return {stem: path for folder in folders for stem, path in _by_stem(folder).items()}


def _by_stem(folder: Path) -> dict[str, Path]:
    names = visible_files(folder, VIDEO_SUFFIXES) if folder.is_dir() else []
    return {Path(name).stem: folder / name for name in names}


def _points_by_clip(folder: Path) -> dict[str, Path]:
    found = {name: folder / name / "fixations.json" for name in subfolders(folder)}
    return {name: path for name, path in found.items() if path.is_file()}


_LAYOUT = (
    "Videos/<clip>.mp4, Saliency{Train,Test}/{Train,Test}/<clip>.mp4, "
    f"Fixations{{Train,Test}}/{{Train,Test}}/<clip>/fixations.json and {SPLIT_FILE}"
)

AVIMOS = DatasetInfo(
    name="avimos",
    title="AViMoS (ECCV 2024 challenge)",
    publisher="https://huggingface.co/datasets/ANDRYHA/AudioVisualMouseSaliency",
    layout=_LAYOUT,
    splits={"train": SplitInfo(1_000), "test": SplitInfo(500)},
    whole=("train", "test"),
    read=partial(read_avimos, "avimos"),
)

NTIRE26 = DatasetInfo(
    name="ntire26",
    title="Video saliency challenge of NTIRE 2026",
    publisher="https://huggingface.co/datasets/ANDRYHA/VideoSaliencyChallenge",
    layout=_LAYOUT,
    splits={
        "train": SplitInfo(1_200),
        "test": SplitInfo(800),
        "public_test": SplitInfo(300),
        "private_test": SplitInfo(500),
    },
    whole=("train", "test"),
    read=partial(read_avimos, "ntire26"),
)
