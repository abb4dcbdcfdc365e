# SPDX-License-Identifier: Apache-2.0
"""What the package knows about a published data set, and what reading one gives."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import overload

from video_saliency.data.base import SaliencyItem

SPLIT_LISTS = Path(__file__).parent / "split_lists"


@dataclass(frozen=True)
class SplitInfo:
    """A part of a data set as its owners or users count it; `None` where nobody tells.

    Attributes:
        items: clips, shots or images.
        frames: in all of them.
        videos: that the shots were cut from, for data sets of shots.
        has_truth: whether maps and fixations of it are to be expected; those of some test splits are withheld.
        refusal: why its list of clips is not known; then it opens only with a list from the user.
    """

    items: int | None
    frames: int | None = None
    videos: int | None = None
    has_truth: bool = True
    refusal: str = ""


@dataclass
class Listing:
    """What a reader found in a folder.

    Attributes:
        items: in natural order.
        expected_ids: ids that should be there, if they are known.
        expected_frames: frames that an item should have, if that is known.
        notes: what the user should know, a line each.
    """

    items: list[SaliencyItem]
    expected_ids: Sequence[str] = ()
    expected_frames: Mapping[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def missing_ids(self) -> list[str]:
        """Expected ids that were not found."""
        found = {item.id for item in self.items}
        return [name for name in self.expected_ids if name not in found]


@dataclass(frozen=True)
class DatasetInfo:
    """A data set that can be read.

    Attributes:
        name: as given to `open_dataset`.
        title: as papers call it.
        publisher: where the owners publish it; empty for the user's own data.
        layout: the folders and files that are expected, for messages.
        splits: by name; overlapping ones are alternatives.
        whole: the splits that together are the whole data set.
        read: called with the folder and a split.
        unit: what an item is.
        has_audio_files: whether it comes with sound in files of their own.
        has_densities: whether it comes with densities; else they are computed from the fixations.
        has_own_splits: whether a folder of it may have splits of its own, besides `splits`.
    """

    name: str
    title: str
    publisher: str
    layout: str
    splits: Mapping[str, SplitInfo]
    whole: tuple[str, ...]
    read: Callable[[Path, str], Listing]
    unit: str = "clips"
    has_audio_files: bool = False
    has_densities: bool = True
    has_own_splits: bool = False

    @property
    def origin(self) -> str:
        """Where the data come from, in words."""
        return f"published at {self.publisher}" if self.publisher else "your own data"


class SaliencyDataset(Sequence[SaliencyItem]):
    """The items of a data set or of one part of it.

    Attributes:
        name: of the data set.
        root: its folder.
        split: the part; `None` for the whole.
        items: in natural order.
        missing_ids: names of items that should be there.
        notes: what the user should know, a line each.

    Example:
        for item in open_dataset("dhf1k", "DHF1K", split="val"):
            for frame in item.annotations():
                frame.frame_index, frame.density, frame.fixations
    """

    def __init__(
        self, name: str, root: Path, *, split: str | None, listing: Listing, info: DatasetInfo | None = None
    ) -> None:
        self.name, self.root, self.split, self.info = name, root, split, info
        self.items = listing.items
        self.missing_ids = listing.missing_ids
        self.expected_frames = listing.expected_frames
        self.notes = listing.notes
        self._by_id = {item.id: item for item in listing.items}

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, index: int) -> SaliencyItem: ...

    @overload
    def __getitem__(self, index: slice) -> list[SaliencyItem]: ...

    def __getitem__(self, index: int | slice) -> SaliencyItem | list[SaliencyItem]:
        return self.items[index]

    def __iter__(self) -> Iterator[SaliencyItem]:
        return iter(self.items)

    def item(self, name: str) -> SaliencyItem:
        """The item of an id.

        Raises:
            ValueError: if there is none.
        """
        if name not in self._by_id:
            raise ValueError(f"{self.name} in {self.root} has no {name}: it has {len(self)} items, see `items`")
        return self._by_id[name]


@lru_cache(maxsize=16)
def split_lists(name: str) -> dict[str, list[str]]:
    """The lists of clip names of a data set that come with the package, by split."""
    content = json.loads((SPLIT_LISTS / f"{name}.json").read_text(encoding="utf-8"))
    return {split: names for split, names in content.items() if split != "source"}
