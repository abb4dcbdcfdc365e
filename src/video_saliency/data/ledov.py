# SPDX-License-Identifier: Apache-2.0
"""LEDOV: 538 clips with the fixations of 32 people, `<clip>/<clip>.mp4` and `<clip>/Data.mat`.

Splits are numbers in `namelist.mat` that count the names in `VideoNameList.mat`, from 1. The release has no densities:
they are computed with the Gaussian of its scorer. Its further rules (each subject's first fixations in the centre do
not count, the distance map on predictions) are not followed here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from video_saliency.data.base import SaliencyItem
from video_saliency.data.dataset_info import DatasetInfo, Listing, SplitInfo
from video_saliency.data.frame_files import VideoFrames
from video_saliency.data.mat_files import read_names, read_variables
from video_saliency.data.numbered_files import VIDEO_SUFFIXES, first_existing, natural_key, subfolders
from video_saliency.data.truth_files import GaussianDensities, LedovFixations

SIGMA = round(80 / math.sqrt(8 * math.log(2)), 3)  # full width at half maximum of 80 pixels
LIST_VARIABLES = {"train": "trainlist", "val": "vaildlist", "test": "testlist"}  # the misspelt one is the owners'


def read_ledov(root: Path, split: str) -> Listing:
    """The clips of a split by the lists in the folder."""
    lists, names = root / "namelist.mat", root / "VideoNameList.mat"
    if not (lists.is_file() and names.is_file()):
        return Listing([], notes=[f"{lists} or {names} is missing: they hold the splits"])
    every_name = read_names(names)
    variables = read_variables(lists)
    if LIST_VARIABLES[split] not in variables:
        raise ValueError(f"{lists} has no variable {LIST_VARIABLES[split]}: restore the file of the release")
    numbers = np.unique(np.asarray(variables[LIST_VARIABLES[split]], dtype=np.int64))  # one is listed twice
    if len(numbers) and not 1 <= numbers[0] <= numbers[-1] <= len(every_name):
        raise ValueError(f"{lists} counts to {numbers[-1]}, {names} has {len(every_name)} names: restore both files")
    wanted = [_stem(every_name[number - 1]) for number in numbers]
    return Listing(ledov_clips(root, split, wanted), sorted(wanted, key=natural_key))


def ledov_clips(root: Path, split: str, names: Iterable[str], *, rate: Fraction | None = None) -> list[SaliencyItem]:
    """Those clips of a list that are there, natural order; with `rate` the videos get so many frames a second."""
    present = set(subfolders(root))
    return [_read_clip(root, split, name, rate) for name in sorted(set(names) & present, key=natural_key)]


def _read_clip(root: Path, split: str, name: str, rate: Fraction | None) -> SaliencyItem:
    home = root / name
    video = first_existing(home / f"{name}{suffix}" for suffix in VIDEO_SUFFIXES)
    truth = home / "Data.mat"
    item = SaliencyItem(name, "ledov", split, None if video is None else VideoFrames(video, rate), audio_path=video)
    if not truth.is_file():
        return item
    return replace(item, density_files=GaussianDensities(SIGMA), fixation_files=LedovFixations(truth, rate))


def _stem(name: str) -> str:
    return Path(name).stem if Path(name).suffix.lower() in VIDEO_SUFFIXES else name


LEDOV = DatasetInfo(
    name="ledov",
    title="LEDOV",
    publisher="https://github.com/remega/LEDOV-eye-tracking-database",
    layout="<clip>/<clip>.mp4, <clip>/Data.mat, namelist.mat and VideoNameList.mat",
    splits={
        "train": SplitInfo(461, 153_464),
        "val": SplitInfo(36, 12_094),
        "test": SplitInfo(41, 13_717),
    },
    whole=("train", "val", "test"),
    read=read_ledov,
    has_densities=False,
)
