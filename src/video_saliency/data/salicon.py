# SPDX-License-Identifier: Apache-2.0
"""SALICON: 20,000 images with mouse tracks in place of gaze, `images`, `maps` and `fixations` by COCO name.

The editions of 2015 and 2017 differ in how fixations were found; the files do not tell which they are.
"""

from __future__ import annotations

from pathlib import Path

from video_saliency.data.base import SaliencyItem
from video_saliency.data.dataset_info import DatasetInfo, Listing, SplitInfo
from video_saliency.data.frame_files import PictureFrames
from video_saliency.data.numbered_files import PICTURE_SUFFIXES, visible_files
from video_saliency.data.truth_files import Fixations, MaskFiles, PictureDensities, SaliconFixations


def read_salicon(root: Path, split: str) -> Listing:
    """The images of a split, by name."""
    images = _by_stem(root / "images" / split) or {
        stem: path for stem, path in _by_stem(root / "images").items() if f"_{split}2014_" in stem
    }
    maps = _by_stem(root / "maps" / split)
    masks = _by_stem(root / "fixations" / split)
    tracks = _by_stem(root / "fixations" / split, (".mat",))
    items = []
    for stem, path in images.items():
        fixations: Fixations | None = None
        if stem in tracks:
            fixations = SaliconFixations(tracks[stem])
        elif stem in masks:
            fixations = MaskFiles(masks[stem])
        density = PictureDensities(maps[stem]) if stem in maps else None
        items.append(SaliencyItem(stem, "salicon", split, PictureFrames(path), density, fixations))
    strays = [stem for stem in (*maps, *masks, *tracks) if stem not in images]
    return Listing(items, notes=[f"no image for {stem}" for stem in dict.fromkeys(strays)])


def _by_stem(folder: Path, suffixes: tuple[str, ...] = PICTURE_SUFFIXES) -> dict[str, Path]:
    names = visible_files(folder, suffixes) if folder.is_dir() else []
    return {Path(name).stem: folder / name for name in names}


SALICON = DatasetInfo(
    name="salicon",
    title="SALICON",
    publisher="http://salicon.net (images: MS COCO 2014)",
    layout="images/ (or images/train ...), maps/{train,val}, fixations/{train,val}: COCO_train2014_000000000009.*",
    splits={
        "train": SplitInfo(10_000, 10_000),
        "val": SplitInfo(5_000, 5_000),
        "test": SplitInfo(5_000, 5_000, has_truth=False),
    },
    whole=("train", "val", "test"),
    read=read_salicon,
    unit="images",
)
