# SPDX-License-Identifier: Apache-2.0
"""Counts of what is in a data set's folder beside the counts that are expected."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from video_saliency.data.base import SaliencyItem
from video_saliency.data.catalog import dataset_info, existing_folder, read_listing, split_info
from video_saliency.data.dataset_info import DatasetInfo, Listing, SplitInfo


@dataclass(frozen=True)
class CountRow:
    """A line of a report: how much of what is there.

    Attributes:
        what: `"frames"` for instance.
        found: how many.
        expected: how many should be there; `None` if nobody tells.
    """

    what: str
    found: int
    expected: int | None

    @property
    def missing(self) -> int:
        return max(0, (self.expected or 0) - self.found)


@dataclass(frozen=True)
class CheckReport:
    """What was found of one split.

    Attributes:
        dataset: name of the data set.
        split: part of it.
        rows: the counts.
        problems: what does not fit, a line each.
        notes: what the user should know but does not make the data incomplete.
    """

    dataset: str
    split: str
    rows: list[CountRow]
    problems: list[str]
    notes: list[str]

    @property
    def is_complete(self) -> bool:
        """Whether all that is expected is there and fits together."""
        return not self.problems and not any(row.missing for row in self.rows)


def check_dataset(
    name: str, root: str | os.PathLike[str], *, split: str | None = None, clips: Sequence[str] | None = None
) -> list[CheckReport]:
    """A report for the split, or for each split whose list is known. Lists files and headers, and decodes nothing.

    Args:
        as `open_dataset`.

    Raises:
        ValueError: for an unknown name or split, one whose list of clips is not public, or a root that is no folder.
    """
    info = dataset_info(name)
    folder = existing_folder(info, root)
    names = [split] if split is not None else [part for part, known in info.splits.items() if not known.refusal]
    return [_check_split(info, folder, part, clips) for part in names]


def _check_split(info: DatasetInfo, root: Path, split: str, clips: Sequence[str] | None) -> CheckReport:
    expected = split_info(info, split) if clips is None else SplitInfo(len(set(clips)))
    listing = read_listing(info, root, split, clips)
    items = listing.items
    problems = [] if items else [f"nothing was found: expected {info.layout}"]
    problems += [f"{name} is missing" for name in listing.missing_ids]
    counts = {"frames": 0, "densities": 0, "fixations": 0}
    for item in items:
        try:
            counts["frames"] += item.num_frames if item.frame_files is not None else 0
            counts["densities"] += item.num_matched(item.density_files)
            counts["fixations"] += item.num_matched(item.fixation_files)
            problems += _problems_of(item, listing, has_truth=expected.has_truth)
        except (ValueError, OSError) as error:
            problems.append(f"{item.id}: {error}")
    number = expected.items if expected.items is not None else len(listing.expected_ids) or None
    rows = [CountRow(info.unit, len(items), number)]
    if expected.videos is not None:
        rows.append(CountRow("videos", len({item.clip for item in items}), expected.videos))
    num_frames = expected.frames if expected.frames is not None else counts["frames"] or None
    rows.append(CountRow("frames", counts["frames"], expected.frames))
    for what in ("densities", "fixations") if info.has_densities else ("fixations",):
        if expected.has_truth or counts[what]:
            rows.append(CountRow(what, counts[what], num_frames if expected.has_truth else None))
    if info.has_audio_files:
        rows.append(CountRow("sound files", sum(item.audio_path is not None for item in items), number or len(items)))
    return CheckReport(info.name, split, rows, problems, listing.notes)


def _problems_of(item: SaliencyItem, listing: Listing, *, has_truth: bool) -> list[str]:
    parts: dict[str, object] = {"frames": item.frame_files}
    if has_truth:
        parts |= {"densities": item.density_files, "fixations": item.fixation_files}
    without = [what for what, files in parts.items() if files is None]
    problems = [f"{item.id}: no {' and no '.join(without)}"] if without else []
    problems += item.unmatched()
    expected = listing.expected_frames.get(item.id)
    if expected is not None and item.frame_files is not None and item.num_frames != expected:
        problems.append(f"{item.id}: {item.num_frames} frames, its list says {expected}")
    return problems
