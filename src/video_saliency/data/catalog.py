# SPDX-License-Identifier: Apache-2.0
"""All data sets that can be read, and the way in: `open_dataset`."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from video_saliency.data.action_clips import HOLLYWOOD2, UCF_SPORTS
from video_saliency.data.avimos import AVIMOS, NTIRE26
from video_saliency.data.base import listed
from video_saliency.data.clip_folder import CLIP_FOLDER
from video_saliency.data.dataset_info import DatasetInfo, Listing, SaliencyDataset, SplitInfo
from video_saliency.data.dhf1k import DHF1K
from video_saliency.data.ledov import LEDOV
from video_saliency.data.meta_masks import DIEM_META, LEDOV_META
from video_saliency.data.salicon import SALICON
from video_saliency.data.stavis_sets import AVAD, COUTROT1, COUTROT2, DIEM, ETMD, SUMME
from video_saliency.data.still_fixations import STILLS

logger = logging.getLogger(__name__)

_VIDEO = (DHF1K, HOLLYWOOD2, UCF_SPORTS, DIEM, AVAD, COUTROT1, COUTROT2, ETMD, SUMME, LEDOV, DIEM_META, LEDOV_META)
DATASETS: dict[str, DatasetInfo] = {
    info.name: info for info in (*_VIDEO, AVIMOS, NTIRE26, SALICON, CLIP_FOLDER, STILLS)
}
ALIASES = {"eccv24": "avimos", "hollywood-2": "hollywood2", "ucf-sports": "ucf_sports", "ucf": "ucf_sports"}


def open_dataset(
    name: str, root: str | os.PathLike[str], *, split: str | None = None, clips: Sequence[str] | None = None
) -> SaliencyDataset:
    """The items of a data set in a folder. Lists files and decodes nothing; warns of what is missing.

    Args:
        name: as in `DATASETS`; capitals and `-` for `_` do not matter.
        root: the folder that holds the layout of `DATASETS[name].layout`.
        split: part of it, see `DATASETS[name].splits`; `None` for the whole.
        clips: ids of the only items wanted, for a list that the package does not have.

    Raises:
        ValueError: for an unknown name or split, one whose list of clips is not public, or a folder with nothing in it
            that was expected or that is none; the message says where the owners publish the data.
    """
    info = dataset_info(name)
    folder = existing_folder(info, root)
    listing = read_listing(info, folder, split, clips)
    if not listing.items:
        raise ValueError(
            f"{folder} holds nothing of {info.title}{f', split {split}' if split else ''}"
            f"{''.join(f'; {note}' for note in listing.notes[:1])}: expected {info.layout}; {info.origin}"
        )
    dataset = SaliencyDataset(info.name, folder, split=split, listing=listing, info=info)
    for warning in incompleteness(dataset):
        logger.warning("%s in %s: %s", info.title, folder, warning)
    return dataset


def existing_folder(info: DatasetInfo, root: str | os.PathLike[str]) -> Path:
    """`root`, if it is a folder; else a ValueError that says what it should hold."""
    if not Path(root).is_dir():
        raise ValueError(
            f"{root} is not a folder: pass the one that holds {info.layout}; {info.title} is {info.origin}"
        )
    return Path(root)


def dataset_info(name: str) -> DatasetInfo:
    """What is known about a data set.

    Raises:
        ValueError: for an unknown name, with the known ones.
    """
    key = name.lower()
    key = ALIASES.get(key, key).replace("-", "_")
    if key not in DATASETS:
        raise ValueError(f"{name!r} is not a known data set: choose from {', '.join(DATASETS)}")
    return DATASETS[key]


def split_info(info: DatasetInfo, split: str) -> SplitInfo:
    """What is known about a part of a data set.

    Raises:
        ValueError: for an unknown split, with the known ones.
    """
    if split in info.splits:
        return info.splits[split]
    if info.has_own_splits:
        return info.splits["all"]
    raise ValueError(f"{info.title} has no split {split!r}: choose from {', '.join(info.splits)}")


def read_listing(info: DatasetInfo, root: Path, split: str | None, clips: Sequence[str] | None = None) -> Listing:
    """What is found of a split in a folder, see `open_dataset`; `None` joins the splits of the whole data set.

    Raises:
        ValueError: for an unknown split, or one whose list of clips is not public.
    """
    refusal = split_info(info, split).refusal if split is not None else ""
    if split is not None and refusal and clips is None:
        raise ValueError(f"{info.title}, split {split!r}: {refusal}")
    parts = info.whole if split is None or refusal else (split,)
    listing = _joined([info.read(root, part) for part in parts])
    if clips is None:
        return listing
    wanted = list(dict.fromkeys(clips))
    chosen = [item for item in listing.items if item.id in set(wanted)]
    if refusal and split is not None:
        chosen = [replace(item, split=split) for item in chosen]
    return Listing(chosen, wanted, listing.expected_frames, listing.notes)


def incompleteness(dataset: SaliencyDataset) -> list[str]:
    """What the names and numbers of items tell about a data set that is not whole, a line each; reads no files."""
    lines = list(dataset.notes)
    unit = dataset.info.unit if dataset.info is not None else "items"
    expected = _expected_items(dataset)
    if dataset.missing_ids:
        lines.append(f"{len(dataset.missing_ids)} {unit} are missing ({listed(dataset.missing_ids)})")
    elif expected is not None and len(dataset) < expected:
        lines.append(f"{len(dataset)} of {expected} {unit} are there")
    if without := [item.id for item in dataset if item.frame_files is None]:
        lines.append(f"{len(without)} {unit} have no frames ({listed(without)})")
    if without := [item.id for item in dataset if _has_truth(dataset, item.split) and item.fixation_files is None]:
        lines.append(f"{len(without)} {unit} have no fixations ({listed(without)})")
    return lines


def _has_truth(dataset: SaliencyDataset, split: str) -> bool:
    return dataset.info is not None and split in dataset.info.splits and dataset.info.splits[split].has_truth


def _expected_items(dataset: SaliencyDataset) -> int | None:
    info = dataset.info
    if info is None:
        return None
    counts = [split_info(info, part).items for part in ((dataset.split,) if dataset.split else info.whole)]
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _joined(listings: list[Listing]) -> Listing:
    if len(listings) == 1:
        return listings[0]
    return Listing(
        [item for listing in listings for item in listing.items],
        [name for listing in listings for name in listing.expected_ids],
        {name: frames for listing in listings for name, frames in listing.expected_frames.items()},
        [note for listing in listings for note in listing.notes],
    )
