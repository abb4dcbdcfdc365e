# SPDX-License-Identifier: Apache-2.0
"""Hollywood-2 and UCF-Sports as released together with DHF1K: a folder of pictures for each shot or clip.

`<root>/{training,testing}/<name>/{images,maps,fixation}`; masks as pictures in `fixation` or as MATLAB files in
`fixation/maps`. Frame numbers of a shot go on from the shot before it.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

from video_saliency.data.base import SaliencyItem
from video_saliency.data.dataset_info import DatasetInfo, Listing, SplitInfo, split_lists
from video_saliency.data.frame_files import PictureFrames
from video_saliency.data.numbered_files import subfolders
from video_saliency.data.truth_files import PictureDensities, find_masks

# the releases do not tell; what the UNISAL code assumes for both
FRAME_RATE = Fraction(24)
FOLDERS = {"train": "training", "test": "testing"}
PUBLISHER = "https://github.com/wenguanwang/DHF1K"

FREE_VIEWING_REFUSAL = (
    "the gated-fusion paper reports on 43 of the 47 test clips without naming the four that it leaves out, and on "
    "gaze of free viewing that the release does not hold: give the list with `clips` (--clips FILE) if you have it, "
    "or use split 'test', whose scores cannot be compared with that paper's"
)


def read_hollywood2(root: Path, split: str) -> Listing:
    """The shots of a split, natural order; `clip` of an item is the video that it was cut from."""
    folder = root / FOLDERS[split]
    return Listing([_read_clip(folder, name, "hollywood2", split) for name in subfolders(folder)])


def read_ucf_sports(root: Path, split: str) -> Listing:
    """The clips of a split, natural order: the 47 test clips by their list, or all others."""
    listed = split_lists("ucf_sports")["test"]
    if split == "test":
        folder = root / FOLDERS["test"]
        found = [name for name in listed if (folder / name).is_dir()]
        notes = [
            f"{folder / name} is not one of the 47 test clips and is left out"
            for name in subfolders(folder)
            if name not in listed
        ]
        return Listing([_read_clip(folder, name, "ucf_sports", split) for name in found], listed, notes=notes)
    folder = root / FOLDERS["train"]
    notes = [f"{folder / name} is a test clip and is left out" for name in subfolders(folder) if name in listed]
    names = [name for name in subfolders(folder) if name not in listed]
    return Listing([_read_clip(folder, name, "ucf_sports", split) for name in names], notes=notes)


def _read_clip(folder: Path, name: str, dataset: str, split: str) -> SaliencyItem:
    home = folder / name
    images, maps = home / "images", home / "maps"
    return SaliencyItem(
        name,
        dataset,
        split,
        PictureFrames(images, FRAME_RATE) if images.is_dir() else None,
        PictureDensities(maps) if maps.is_dir() else None,
        find_masks(home / "fixation"),
        clip=name.rpartition("_")[0] if dataset == "hollywood2" else "",
    )


HOLLYWOOD2 = DatasetInfo(
    name="hollywood2",
    title="Hollywood-2 (cut into shots)",
    publisher=PUBLISHER,
    layout="training/ and testing/ with actionclip...00001_1/{images,maps,fixation}",
    splits={
        "train": SplitInfo(2_699, 192_661, videos=747),
        "test": SplitInfo(3_558, 244_860, videos=884),
    },
    whole=("train", "test"),
    read=read_hollywood2,
    unit="shots",
)

UCF_SPORTS = DatasetInfo(
    name="ucf_sports",
    title="UCF-Sports",
    publisher=PUBLISHER,
    layout="training/ and testing/ with Diving-Side-001/{images,maps,fixation}",
    splits={
        "train": SplitInfo(103, 6_501),
        "test": SplitInfo(47, 2_929),
        "test43": SplitInfo(43, refusal=FREE_VIEWING_REFUSAL),
    },
    whole=("train", "test"),
    read=read_ucf_sports,
)
