# SPDX-License-Identifier: Apache-2.0
"""Files that carry the number of a frame in their name, and names in the order people expect."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")

_DIGITS = re.compile(r"(\d+)", re.ASCII)


def natural_key(name: str) -> tuple[Any, ...]:
    """Sort key that takes numbers as numbers: `shot_2` before `shot_10`, `999` before `1000`."""
    parts = _DIGITS.split(name)
    return tuple(int(part) if position % 2 else part for position, part in enumerate(parts)), name


def frame_number(name: str) -> int | None:
    """The last number in a file name without its suffix: 3 for `actionclip00001_00003.png`; `None` without one."""
    numbers = _DIGITS.findall(Path(name).stem)
    return int(numbers[-1]) if numbers else None


@dataclass(frozen=True)
class NumberedFiles:
    """The files of a folder by the frame number in their names.

    Attributes:
        folder: where they are.
        names: number to file name, ascending.
        numbers: the numbers, ascending.
    """

    folder: Path
    names: dict[int, str]
    numbers: tuple[int, ...]

    def path(self, number: int) -> Path | None:
        """The file of a number, if there is one."""
        name = self.names.get(number)
        return None if name is None else self.folder / name


def list_numbered(path: Path, suffixes: Collection[str]) -> NumberedFiles:
    """The numbered files with one of the suffixes in a folder; a file of its own is number 1.

    Hidden files and files without a number are left out.

    Raises:
        ValueError: if two files have the same number.
        OSError: if the folder cannot be read.
    """
    state = path.stat()
    return _list_numbered(path, tuple(suffixes), state.st_mtime_ns)


@lru_cache(maxsize=512)
def _list_numbered(path: Path, suffixes: tuple[str, ...], changed: int) -> NumberedFiles:
    """`changed` makes a folder be read again after files came or went."""
    if path.is_file():
        return NumberedFiles(path.parent, {1: path.name}, (1,))
    found: dict[int, str] = {}
    for name in visible_files(path, suffixes):
        number = frame_number(name)
        if number is None:
            continue
        if number in found:
            raise ValueError(f"{path} holds {found[number]} and {name}, both of frame {number}: keep one of them")
        found[number] = name
    return NumberedFiles(path, dict(sorted(found.items())), tuple(sorted(found)))


def visible_files(folder: Path, suffixes: Collection[str]) -> list[str]:
    """Names of the files with one of the suffixes (lower case, the files' case does not matter), natural order."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if _is_visible(entry.name, suffixes)]
    return sorted(names, key=natural_key)


def holds_files(folder: Path, suffixes: Collection[str]) -> bool:
    """Whether there is such a folder with at least one file with one of the suffixes."""
    if not folder.is_dir():
        return False
    with os.scandir(folder) as entries:
        return any(_is_visible(entry.name, suffixes) for entry in entries)


def _is_visible(name: str, suffixes: Collection[str]) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes


def subfolders(*folders: Path) -> list[str]:
    """Names of the folders inside any of `folders`, each once, in natural order; a missing one has none."""
    names = {
        path.name
        for folder in folders
        if folder.is_dir()
        for path in folder.iterdir()
        if not path.name.startswith(".")
        if path.is_dir()
    }
    return sorted(names, key=natural_key)


def first_existing(candidates: Iterable[Path]) -> Path | None:
    """The first path that exists."""
    return next((path for path in candidates if path.exists()), None)
