# SPDX-License-Identifier: Apache-2.0
"""Data sets as tables of plain columns, one row an item, with paths relative to the data set's folder.

For filters, shuffles, shards and Parquet files of the library `datasets`. Frames are decoded by this package when an
item is asked for them, never by that library. Works row by row without it, too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from video_saliency.data.base import SaliencyItem
from video_saliency.data.dataset_info import Listing, SaliencyDataset
from video_saliency.data.frame_files import FrameFiles, PictureFrames, VideoFrames
from video_saliency.data.mat_files import INSTALL, MissingPackageError
from video_saliency.data.still_fixations import PreparedFixations
from video_saliency.data.truth_files import (
    Densities,
    Fixations,
    GaussianDensities,
    LedovFixations,
    MaskFiles,
    PictureDensities,
    PointListFile,
    SaliconFixations,
    VideoDensities,
)

# what the part of a kind behind "@" stands for: a rate, or a width in pixels
_FRAMES: dict[str, Callable[[Path, str, Fraction | None], FrameFiles]] = {
    "pictures": lambda path, _, rate: PictureFrames(path, rate),
    "video": lambda path, argument, _: VideoFrames(path, Fraction(argument) if argument else None),
}
_DENSITIES: dict[str, Callable[[Path, str], Densities]] = {
    "pictures": lambda path, _: PictureDensities(path),
    "video": lambda path, _: VideoDensities(path),
    "gaussian": lambda _, argument: GaussianDensities(float(argument) if argument else None),
}
_FIXATIONS: dict[str, Callable[[Path, str], Fixations]] = {
    "masks": lambda path, _: MaskFiles(path),
    "points": lambda path, _: PointListFile(path),
    "ledov": lambda path, argument: LedovFixations(path, Fraction(argument) if argument else None),
    "salicon": lambda path, _: SaliconFixations(path),
}

# column -> type name of the library `datasets`
COLUMNS = {
    "id": "string",
    "dataset": "string",
    "split": "string",
    "clip": "string",
    "frames": "string",
    "frames_kind": "string",
    "densities": "string",
    "densities_kind": "string",
    "fixations": "string",
    "fixations_kind": "string",
    "audio": "string",
    "num_frames": "int64",
    "max_frames": "int64",
    "frame_rate": "float64",
    "scored_frames": "list",
}


def to_rows(items: Iterable[SaliencyItem], root: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """One dict of plain values for each item, see `COLUMNS`. Counts frames and decodes none.

    Raises:
        ValueError: if a file of an item lies outside `root`.
    """
    return [_to_row(item, Path(root)) for item in items]


def from_row(row: Mapping[str, Any], root: str | os.PathLike[str]) -> SaliencyItem:
    """The item of a row, its files in `root`.

    Raises:
        ValueError: for a row that `to_rows` did not make.
    """
    missing = COLUMNS.keys() - row.keys()
    if missing:
        raise ValueError(f"the row lacks the columns {', '.join(sorted(missing))}: make manifests with to_manifest")
    home = Path(root)
    rate = row["frame_rate"]
    frame_rate = None if rate is None else Fraction(rate).limit_denominator(100_000)
    scored = row["scored_frames"]
    return SaliencyItem(
        row["id"],
        row["dataset"],
        row["split"],
        _build(_FRAMES, row, "frames", home, frame_rate),
        _build(_DENSITIES, row, "densities", home),
        _prepared(row, home) if row["fixations_kind"] == "prepared" else _build(_FIXATIONS, row, "fixations", home),
        None if row["audio"] is None else home / row["audio"],
        clip=row["clip"],
        max_frames=row["max_frames"],
        scored_frames=None if scored is None else tuple(scored),
    )


def to_manifest(items: Iterable[SaliencyItem], root: str | os.PathLike[str]) -> Any:
    """A `datasets.Dataset` with a row for each item and the columns `COLUMNS`.

    Example:
        manifest = to_manifest(dataset, dataset.root).filter(lambda row: row["num_frames"] >= 16)
        items = manifest.with_transform(...)  # or from_manifest(manifest, root)

    Raises:
        MissingPackageError: if the library `datasets` is not installed.
        ValueError: if a file of an item lies outside `root`.
    """
    library = _load_datasets()
    types = {
        name: library.List(library.Value("int64")) if kind == "list" else library.Value(kind)
        for name, kind in COLUMNS.items()
    }
    rows = to_rows(items, root)
    columns = {name: [row[name] for row in rows] for name in COLUMNS}
    return library.Dataset.from_dict(columns, features=library.Features(types))


def from_manifest(manifest: Iterable[Mapping[str, Any]], root: str | os.PathLike[str]) -> SaliencyDataset:
    """The data set of a manifest (or of rows), its files in `root`.

    Raises:
        ValueError: for rows that `to_rows` did not make, or none.
    """
    items = [from_row(row, root) for row in manifest]
    if not items:
        raise ValueError("the manifest has no rows: nothing to read")
    splits = {item.split for item in items}
    split = splits.pop() if len(splits) == 1 else None
    return SaliencyDataset(items[0].dataset, Path(root), split=split, listing=Listing(items))


def _to_row(item: SaliencyItem, root: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"id": item.id, "dataset": item.dataset, "split": item.split, "clip": item.clip}
    sources = {"frames": item.frame_files, "densities": item.density_files, "fixations": item.fixation_files}
    for name, files in sources.items():
        path = None if files is None or isinstance(files, GaussianDensities) else files.path
        row[name] = None if path is None else _relative(path, root)
        row[f"{name}_kind"] = None if files is None else files.kind
    rate = item.frame_rate
    return row | {
        "audio": None if item.audio_path is None else _relative(item.audio_path, root),
        "num_frames": item.num_frames,
        "max_frames": item.max_frames,
        "frame_rate": None if rate is None else float(rate),
        "scored_frames": None if item.scored_frames is None else list(item.scored_frames),
    }


def _relative(path: Path, root: Path) -> str:
    try:
        return path.relative_to(root).as_posix()
    except ValueError as error:
        raise ValueError(f"{path} is not in {root}: pass the folder that the data set was opened with") from error


def _build(kinds: Mapping[str, Callable[..., Any]], row: Mapping[str, Any], name: str, root: Path, *more: Any) -> Any:
    if row[f"{name}_kind"] is None:
        return None
    kind, _, argument = row[f"{name}_kind"].partition("@")
    if kind not in kinds:
        raise ValueError(f"{name} of kind {kind!r} are not known: make manifests with to_manifest")
    return kinds[kind](root / (row[name] or ""), argument, *more)


def _prepared(row: Mapping[str, Any], root: Path) -> PreparedFixations:
    return PreparedFixations(root / row["fixations"], row["id"], root / row["frames"])


def _load_datasets() -> Any:
    try:
        import datasets  # an extra, and slow to import
    except ImportError as error:
        raise MissingPackageError(f"manifests need the library datasets: {INSTALL}") from error
    return datasets
