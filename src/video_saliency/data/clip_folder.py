# SPDX-License-Identifier: Apache-2.0
"""A plain folder of one's own clips or stills with maps and fixations.

    videos/<clip>.mp4            or  frames/<clip>/0001.png ...   or  images/<clip>.png for stills
    maps/<clip>/0001.png ...     or  maps/<clip>.mp4              or  maps/<clip>.png
    fixations/<clip>/0001.png .. or  fixations/<clip>.json        or  fixations/<clip>.png
    audio/<clip>.wav             only if the sound is not in the video
    splits.json                  optional: {"train": ["clip", ...], "val": [...]}; without it all clips are "all"
    frame_rates.json             optional, for folders of frames: {"clip": 29.97, ...} or one number for all

Files are matched by names and by the numbers in them, which may start at 0 or 1. Masks may be MATLAB files, too; the
JSON file is a list over frames of lists of [row, column] pixels. Only frames are needed to predict; training needs
maps or fixations as well. Fixations without maps get maps: Gaussians, sigma a 24th of the height.
"""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

from video_saliency.data.base import SaliencyItem
from video_saliency.data.dataset_info import DatasetInfo, Listing, SplitInfo
from video_saliency.data.frame_files import FrameFiles, PictureFrames, VideoFrames
from video_saliency.data.numbered_files import PICTURE_SUFFIXES, VIDEO_SUFFIXES, natural_key
from video_saliency.data.truth_files import (
    Densities,
    Fixations,
    GaussianDensities,
    MaskFiles,
    PictureDensities,
    PointListFile,
    VideoDensities,
)

AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".m4a", ".aac", ".ogg")


def read_clip_folder(root: Path, split: str) -> Listing:
    """The clips of a split of `splits.json`, or all of them."""
    rates = _read_json(root / "frame_rates.json")
    frames = {
        **_frames_of(root / "images", None),
        **_frames_of(root / "frames", rates),
        **{
            name: VideoFrames(path)
            for name, path in _entries(root / "videos", VIDEO_SUFFIXES).items()
            if path.is_file()
        },
    }
    maps, fixations = _entries(root / "maps", (*PICTURE_SUFFIXES, *VIDEO_SUFFIXES)), _entries(root / "fixations")
    sounds = _entries(root / "audio", AUDIO_SUFFIXES)
    names = sorted({*frames, *maps, *fixations}, key=natural_key)
    listed = _names_of(root, split)
    items = [
        _item(name, split, frames.get(name), maps.get(name), fixations.get(name), sounds.get(name))
        for name in names
        if listed is None or name in listed
    ]
    return Listing(items, names if listed is None else listed)


def _item(
    name: str, split: str, frames: FrameFiles | None, density: Path | None, fixations: Path | None, sound: Path | None
) -> SaliencyItem:
    if sound is None and isinstance(frames, VideoFrames):
        sound = frames.path
    densities = _densities(density)
    if densities is None and fixations is not None:
        densities = GaussianDensities()
    return SaliencyItem(name, "folder", split, frames, densities, _fixations(fixations), sound)


def _densities(path: Path | None) -> Densities | None:
    if path is None:
        return None
    return VideoDensities(path) if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file() else PictureDensities(path)


def _fixations(path: Path | None) -> Fixations | None:
    if path is None:
        return None
    return PointListFile(path) if path.suffix.lower() == ".json" else MaskFiles(path)


def _frames_of(folder: Path, rates: Any) -> dict[str, FrameFiles]:
    """Clips in folders of pictures, stills in pictures."""
    found: dict[str, FrameFiles] = {}
    for name, path in _entries(folder, PICTURE_SUFFIXES).items():
        found[name] = PictureFrames(path, _frame_rate(rates.get(name) if isinstance(rates, dict) else rates))
    return found


def _frame_rate(rate: Any) -> Fraction | None:
    if rate is None:
        return None
    if not isinstance(rate, int | float) or not 0 < rate < math.inf:
        raise ValueError(f"frame_rates.json has the rate {rate!r}: expected a positive number, or one for each clip")
    return Fraction(rate).limit_denominator(100_000)


def _entries(folder: Path, suffixes: tuple[str, ...] = (*PICTURE_SUFFIXES, ".json", ".mat")) -> dict[str, Path]:
    """Folders, and files with one of the suffixes, by name without suffix."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        is_wanted = path.is_dir() or path.suffix.lower() in suffixes
        if path.name.startswith(".") or not is_wanted:
            continue
        name = path.name if path.is_dir() else path.stem
        if name in found:
            raise ValueError(f"{folder} holds {found[name].name} and {path.name}: keep one of them")
        found[name] = path
    return found


def _names_of(root: Path, split: str) -> list[str] | None:
    """The clips of a split; `None` for all."""
    splits = _read_json(root / "splits.json")
    if split == "all":
        return None
    if not isinstance(splits, dict) or split not in splits:
        known = sorted(splits) if isinstance(splits, dict) else []
        raise ValueError(
            f"{root / 'splits.json'} has no split {split!r}: it has {', '.join(known) or 'none'}, and 'all'"
        )
    return [str(name) for name in splits[split]]


def _read_json(path: Path) -> Any:
    """The content of a JSON file; `None` if there is no such file."""
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no JSON file: {error}") from error


CLIP_FOLDER = DatasetInfo(
    name="folder",
    title="a plain folder of clips or stills",
    publisher="",
    layout="videos/<clip>.mp4, frames/<clip>/0001.png ... or images/<clip>.png; maps/<clip>/0001.png ..., "
    "maps/<clip>.mp4 or maps/<clip>.png; fixations/<clip>.json, a list over frames of lists of [row, column], or "
    "masks in fixations/<clip>/; and only if wanted audio/<clip>.wav, splits.json and frame_rates.json",
    splits={"all": SplitInfo(None, has_truth=False)},
    whole=("all",),
    read=read_clip_folder,
    has_own_splits=True,
)
