# SPDX-License-Identifier: Apache-2.0
"""DIEM-Meta and LEDOV-Meta: the frames of DIEM and LEDOV that a model of single images does not explain.

The masks are CSV files with the columns video, frame (from 0) and mask (True or False). Predictions are made for whole
clips; only the frames marked True are scored. Those of LEDOV count in videos resampled to 30 frames a second.
"""

from __future__ import annotations

import csv
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from video_saliency.data.base import SaliencyItem
from video_saliency.data.dataset_info import DatasetInfo, Listing, SplitInfo
from video_saliency.data.ledov import ledov_clips
from video_saliency.data.numbered_files import VIDEO_SUFFIXES, first_existing
from video_saliency.data.stavis_sets import DIEM, DIEM_SET, read_stavis_set, without_size

COLUMNS = ("video", "frame", "mask")
TRUTH = {"true": True, "false": False, "1": True, "0": False}
LEDOV_META_RATE = Fraction(30)
PUBLISHER = "https://github.com/mtangemann/deepgazemr"


def read_masks(path: Path) -> dict[str, tuple[int, ...]]:
    """The numbers of the frames marked True, ascending, for each video of a CSV file; none for some.

    Raises:
        ValueError: if the file is not as expected.
    """
    marked: dict[str, list[int]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{path} lacks the columns {', '.join(missing)}: it needs {', '.join(COLUMNS)}")
        for row in reader:
            name, flag = Path(row["video"]), TRUTH.get(str(row["mask"]).strip().lower())
            if flag is None or not str(row["frame"]).strip().isdecimal():
                raise ValueError(f"{path}, line {reader.line_num}: expected a frame number, and True or False")
            frames = marked.setdefault(name.stem if name.suffix.lower() in VIDEO_SUFFIXES else name.name, [])
            if flag:
                frames.append(int(row["frame"]))
    return {name: tuple(sorted(frames)) for name, frames in marked.items()}


def read_diem_meta(root: Path, split: str) -> Listing:
    """All clips of DIEM that the mask file in the folder names, with their marked frames."""
    masks = _find_masks(root, "mask-diem.csv")
    if isinstance(masks, Listing):
        return masks
    by_key = {without_size(name): name for name in masks}
    listing = read_stavis_set(DIEM_SET, root, "all")
    items = [
        _masked(item, "diem_meta", split, masks[by_key[without_size(item.id)]])
        for item in listing.items
        if without_size(item.id) in by_key
    ]
    found = {without_size(item.id): item.id for item in items}
    return Listing(items, [found.get(key, name) for key, name in by_key.items()], notes=listing.notes)


def read_ledov_meta(root: Path, split: str) -> Listing:
    """The clips of LEDOV that the mask file in the folder names, at 30 frames a second, with their marked frames."""
    masks = _find_masks(root, f"mask-ledov-{split}-30hz.csv")
    if isinstance(masks, Listing):
        return masks
    clips = ledov_clips(root, split, masks, rate=LEDOV_META_RATE)
    return Listing([_masked(item, "ledov_meta", split, masks[item.id]) for item in clips], list(masks))


def _masked(item: SaliencyItem, dataset: str, split: str, frames: tuple[int, ...]) -> SaliencyItem:
    return replace(item, dataset=dataset, split=split, scored_frames=frames)


def _find_masks(root: Path, name: str) -> dict[str, tuple[int, ...]] | Listing:
    path = first_existing([root / "meta-benchmark" / name, root / name])
    if path is None:
        return Listing([], notes=[f"{root / 'meta-benchmark' / name} is missing: copy it from {PUBLISHER}"])
    return read_masks(path)


DIEM_META = DatasetInfo(
    name="diem_meta",
    title="DIEM-Meta",
    publisher=f"masks (meta-benchmark/mask-diem.csv) at {PUBLISHER}; clips: {DIEM.publisher}",
    layout=f"meta-benchmark/mask-diem.csv, and DIEM: {DIEM.layout}",
    splits={"test": SplitInfo(None)},
    whole=("test",),
    read=read_diem_meta,
    has_audio_files=True,
)

LEDOV_META = DatasetInfo(
    name="ledov_meta",
    title="LEDOV-Meta",
    publisher=f"masks (meta-benchmark/mask-ledov-test-30hz.csv) at {PUBLISHER}; clips: "
    "https://github.com/remega/LEDOV-eye-tracking-database",
    layout="meta-benchmark/mask-ledov-{val,test}-30hz.csv, <clip>/<clip>.mp4 and <clip>/Data.mat",
    splits={"val": SplitInfo(36, 12_916), "test": SplitInfo(41, 14_438)},
    whole=("val", "test"),
    read=read_ledov_meta,
    has_densities=False,
)
