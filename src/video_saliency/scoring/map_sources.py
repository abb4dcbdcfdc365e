# SPDX-License-Identifier: Apache-2.0
"""Where predictions come from: folders of float maps, pictures or videos, a model, or a baseline."""

from __future__ import annotations

import contextlib
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from video_saliency.baselines import Baseline, BaselineFrame, CentreBias, HumanHalves
from video_saliency.data.base import AnnotatedFrame, listed
from video_saliency.data.densities import fixated_points, fixation_density
from video_saliency.data.numbered_files import (
    PICTURE_SUFFIXES,
    VIDEO_SUFFIXES,
    first_existing,
    frame_number,
    list_numbered,
    visible_files,
)
from video_saliency.data.picture_files import read_map
from video_saliency.data.video_seeking import stream_value_maps
from video_saliency.map_io import read_map_shards
from video_saliency.model_digest import model_digest
from video_saliency.predictor import VideoSaliencyPredictor
from video_saliency.scoring.scored_items import ScoredItem, observers_of

Maps = Iterator[tuple[int, np.ndarray]]


class MapSource(ABC):
    """Predictions for the items of a data set.

    Attributes:
        settings: all that decides about the maps, JSON types: a run goes on only with equal ones.
    """

    settings: dict[str, Any]

    @abstractmethod
    def maps(self, item: ScoredItem, wanted: Sequence[int]) -> Maps:
        """Frame index and map `(h, w)` in the order of the frames: at least the wanted ones that there are.

        Raises:
            ValueError: if they do not fit the item.
        """

    def without_maps(self, items: Sequence[ScoredItem]) -> list[str]:
        """Ids of the items that have no prediction at all, as far as that can be told beforehand."""
        return []

    def truth(self, item: ScoredItem, frame: AnnotatedFrame) -> AnnotatedFrame:
        """What the map of a frame is scored against; all that is known, unless the prediction is a part of it."""
        return frame


class FolderMaps(MapSource):
    """Files on disk: for each item a folder of its name with `maps/` or NPZ shards, `png/` or pictures, or a video.

    Pictures belong to the frame that has their name; else to the frame with their number; else, if the numbers do not
    fit, they count from 0 or 1. `video-saliency predict --save maps` or `png` writes such folders.

    Args:
        root: the folder.

    Raises:
        ValueError: if it is empty.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        self.settings = {"predictions": str(self.root.resolve()), "files": _fingerprint(self.root)}

    def without_maps(self, items: Sequence[ScoredItem]) -> list[str]:
        """Ids of the items without files."""
        return [item.id for item in items if self._find(item) is None]

    def maps(self, item: ScoredItem, wanted: Sequence[int]) -> Maps:
        """See `MapSource`; 8-bit files give uint8 maps."""
        path = self._find(item)
        if path is None:
            return iter(())
        if path.is_file() and path.suffix.lower() in VIDEO_SUFFIXES:
            return enumerate(stream_value_maps(path))
        if path.is_dir() and any(path.glob("maps-*.npz")):
            return ((index, saliency_map) for index, _, saliency_map in read_map_shards(path))
        return _picture_maps(path, item, wanted)

    def _find(self, item: ScoredItem) -> Path | None:
        """Float maps before pictures before a video."""
        names = dict.fromkeys([item.id, Path(item.id).name, *_file_names(item)])
        for home in [self.root / name for name in names]:
            for folder in (home / "maps", home):
                if folder.is_dir() and any(folder.glob("maps-*.npz")):
                    return folder
            for folder in (home / "png", home):
                if folder.is_dir() and visible_files(folder, PICTURE_SUFFIXES):
                    return folder
            suffixes = (*VIDEO_SUFFIXES, *(PICTURE_SUFFIXES if item.num_frames == 1 else ()))
            found = first_existing(home.with_name(home.name + suffix) for suffix in suffixes)
            if found is not None:
                return found
        return None


class ModelMaps(MapSource):
    """The maps of a model, at its own size and scale; no frame is written.

    Args:
        predictor: runs the model.
        name: of the model, for the record.
    """

    def __init__(self, predictor: VideoSaliencyPredictor, name: str) -> None:
        self.predictor = predictor
        self.settings = {
            "predictions": name,
            "config, processor and weights": model_digest(predictor.model, predictor.processor),
            "device": predictor.device.type,
            "dtype": str(predictor.model.dtype).removeprefix("torch."),
            "batch_size": predictor.batch_size,
        }

    def maps(self, item: ScoredItem, wanted: Sequence[int]) -> Maps:
        """See `MapSource`. Frames behind the last wanted one are not predicted."""
        with contextlib.closing(self.predictor.stream(item.source(), normalize=None)) as stream:
            for frame in stream:
                yield frame.frame_index, frame.model_map.numpy()
                if frame.frame_index == wanted[-1]:
                    return


class BaselineMaps(MapSource):
    """The maps of a baseline at the size of the truth.

    Args:
        baseline: the model.
        name: as in `BASELINES`, for the record.
    """

    def __init__(self, baseline: Baseline, name: str) -> None:
        self.baseline = baseline
        self.settings = {"predictions": name}
        if isinstance(baseline, CentreBias):
            self.settings["bias"] = hashlib.sha256(baseline.bias.tobytes()).hexdigest()[:16]

    def maps(self, item: ScoredItem, wanted: Sequence[int]) -> Maps:
        """See `MapSource`."""
        size = item.size
        if size is None:
            raise ValueError(f"{item.id} has neither frames nor maps that tell its size: restore the data set")
        if self.baseline.needs == "rgb":
            return self._of_pictures(item, size, wanted)
        if self.baseline.needs == "observers":
            return self._of_observers(item, wanted)
        always_the_same = self.baseline.predict(BaselineFrame(size))
        return ((index, always_the_same) for index in wanted)

    def truth(self, item: ScoredItem, frame: AnnotatedFrame) -> AnnotatedFrame:
        """The frame; for `HumanHalves` the half that is not the prediction."""
        if not isinstance(self.baseline, HumanHalves):
            return frame
        seen = _with_observers(item, frame)
        points = self.baseline.split(seen)[1]
        return AnnotatedFrame(frame.frame_index, fixation_density(points, seen.size).numpy(), points)

    def _of_pictures(self, item: ScoredItem, size: tuple[int, int], wanted: Sequence[int]) -> Maps:
        chosen = set(wanted)
        for frame in item.frames():
            if frame.index in chosen:
                yield frame.index, self.baseline.predict(BaselineFrame(size, rgb=frame.to_rgb()))
            if frame.index == wanted[-1]:
                return

    def _of_observers(self, item: ScoredItem, wanted: Sequence[int]) -> Maps:
        chosen = set(wanted)
        for frame in item.annotations():
            if frame.frame_index in chosen:
                yield frame.frame_index, self.baseline.predict(_with_observers(item, frame))


def check_complete(source: MapSource, items: Sequence[ScoredItem]) -> None:
    """Raises ValueError if items have no prediction at all."""
    without = source.without_maps(items)
    if without:
        raise ValueError(
            f"{source.settings['predictions']} holds no maps for {len(without)} of {len(items)} items "
            f"({listed(without)}): {_EXPECTED.format(id=without[0])}; to leave out what is not there pass "
            "--allow-missing"
        )


_EXPECTED = (
    "expected {id}/maps/maps-00000000.npz (as `video-saliency predict --save maps` writes it), {id}/00001.png or "
    "{id}.mp4"
)


def _file_names(item: ScoredItem) -> list[str]:
    """What `video-saliency predict` calls the folder of an item: after its file or folder of frames."""
    path: Path | None = getattr(item.frame_files, "path", None)
    return [] if path is None else [path.stem if path.is_file() else path.name]


def _picture_maps(path: Path, item: ScoredItem, wanted: Sequence[int]) -> Maps:
    files = list_numbered(path, PICTURE_SUFFIXES)
    if path.is_file() or (item.num_frames == 1 and len(files.names) == 1):
        numbers = {next(iter(files.names)): 0}
    else:
        numbers = _frames_by_number(files.names, item)
    beyond = [files.names[number] for number in files.names if number not in numbers]
    if beyond:
        raise ValueError(
            f"{path} holds maps that belong to no frame of {item.id}, which has {item.num_frames} ({listed(beyond)}): "
            "predict the same clip, or remove them"
        )
    chosen = set(wanted)
    return (
        (numbers[number], read_map(files.folder / name))
        for number, name in files.names.items()
        if numbers[number] in chosen
    )


def _frames_by_number(names: dict[int, str], item: ScoredItem) -> dict[int, int]:
    """The frame of each number in a file name, where there is one."""
    own = {frame_number(item.frame_name(index)): index for index in range(item.num_frames)}
    if names.keys() <= own.keys():
        return {number: own[number] for number in names}
    first = 0 if 0 in names else 1
    return {number: number - first for number in names if number - first < item.num_frames}


def _with_observers(item: ScoredItem, frame: AnnotatedFrame) -> BaselineFrame:
    if item.size is None or frame.fixations is None:
        raise ValueError(f"{item.id}, frame {frame.frame_index} has no fixations that could be divided")
    return BaselineFrame(
        item.size,
        points=fixated_points(frame.fixations),
        observers=observers_of(item, frame.frame_index),
        name=item.id,
        frame_index=frame.frame_index,
    )


def _fingerprint(root: Path) -> str:
    """Tells changed files from the same ones: their number, sizes and the newest time of change."""
    count, size, newest = 0, 0, 0
    for folder, _, names in os.walk(root):
        for name in names:
            state = os.stat(os.path.join(folder, name))
            count, size, newest = count + 1, size + state.st_size, max(newest, state.st_mtime_ns)
    if not count:
        raise ValueError(f"{root} is empty: pass the folder with the predicted maps")
    return f"{count} files, {size} bytes, changed {newest}"
