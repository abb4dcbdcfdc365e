# SPDX-License-Identifier: Apache-2.0
"""Windows of clips as training samples: each is a pure function of its key, whoever asks for it and when.

So a run that goes on after a kill, several processes and any number of workers see the same
samples. Windows are cut by seeking; nothing before them is decoded.

Measured on 2 shared cores of x86_64 with torch 2.13.0+cpu by `pytest -s -m benchmark
tests/benchmarks/test_training_data_speed.py`: windows of 4 frames with their maps, both from 640 x 480 H.264 videos
of 400 frames with a key frame every 25, with augmentation, for an input of 192 x 144. 12.8, 12.4 and 20.4 windows a
second are loaded with 0, 1 and 2 workers, and 6.3 a second go through a training step (forward and backward on one
thread) of the compact appearance stream, so that two workers keep up with it on these cores. A faster device wants
more of them: `data.workers`. Reading 4 frames at the end of a video takes 33 ms by seeking, 498 ms by decoding from
the start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from video_saliency.audio_windows import AudioSpec, cut_excerpt, window_centre
from video_saliency.data import SaliencyItem, fixated_points, fixation_density, open_dataset
from video_saliency.data.catalog import dataset_info
from video_saliency.flow_files import read_flow_file
from video_saliency.processing_video_saliency import VideoSaliencyProcessor
from video_saliency.training.sound_cache import SoundCache
from video_saliency.training.still_augmentation import StillAugmentation, degrade_images
from video_saliency.training.synthetic_motion import synthetic_pairs
from video_saliency.training.training_arguments import DataArguments, DataSource
from video_saliency.training.training_batches import SampleKey, derived_seed
from video_saliency.training.window_places import WindowPlace, place_window, sample_name, window_span
from video_saliency.training.window_views import MARGIN, View, fixation_map, shrink
from video_saliency.windows import WindowSpec


@dataclass(frozen=True)
class WindowSettings:
    """How samples are made.

    Attributes:
        spec: the model's window, with the data's own way to fill up clips that are too short.
        size: (height, width) of the model's maps.
        windows: of each item in an epoch, or `"all"`.
        is_random: whether windows lie at random places, else evenly.
        flow_pair: `"next"` or `"previous"`: with windows of one frame its neighbour comes along, for the flow.
        augmentation: changes of the pictures; `"flip"` only mirrors.
        synthetic_motion: see `DataArguments`.
        density_sigma, fixation_radius, cache_stills: see `DataArguments`.
        flow_root: see `DataArguments`.
        audio: `AudioSpec` of a model that listens.
        seed: of all that is random.
    """

    spec: WindowSpec
    size: tuple[int, int]
    windows: int | str = 1
    is_random: bool = True
    flow_pair: str | None = None
    augmentation: StillAugmentation | str | None = None
    synthetic_motion: bool = False
    density_sigma: float | None = None
    fixation_radius: int = 0
    cache_stills: bool = False
    flow_root: Path | None = None
    audio: AudioSpec | None = None
    seed: int = 0


def open_sources(sources: Sequence[DataSource]) -> list[SaliencyItem]:
    """The items of several data sets, those with frames.

    Raises:
        ValueError: for a source without a folder or without any maps and fixations, or as `open_dataset`.
    """
    items: list[SaliencyItem] = []
    for source in sources:
        if source.root is None:
            raise ValueError(
                f"where is {source.dataset}? Pass --root {source.dataset}=FOLDER, or write root: in the recipe"
            )
        clips = None if source.clips is None else Path(source.clips).read_text(encoding="utf-8").split()
        found = open_dataset(source.dataset, source.root, split=source.split, clips=clips)
        with_frames = [item for item in found if item.frame_files is not None]
        if with_frames and not any(item.density_files or item.fixation_files for item in with_frames):
            info = dataset_info(source.dataset)
            raise ValueError(
                f"{source.root} has neither maps nor fixations of its {len(with_frames)} {info.unit} with frames, so "
                f"nothing can be learned or scored: expected {info.layout}"
            )
        items += with_frames
    return items


def parse_augmentation(value: str | dict[str, Any] | None) -> StillAugmentation | str | None:
    """What `DataArguments.augmentation` means. Raises `ValueError` for something unknown."""
    if value is None or value == "flip":
        return value
    try:
        if isinstance(value, dict):
            return StillAugmentation(**value)
    except TypeError as error:
        raise ValueError(f"data.augmentation must hold fields of StillAugmentation only: {error}") from error
    if value == "plain":
        return StillAugmentation()
    if value == "strong":
        return StillAugmentation.strong()
    raise ValueError(f"data.augmentation must be flip, plain, strong or fields of StillAugmentation, got {value!r}")


@dataclass
class _Loaded:
    """What is read of a window before it is changed."""

    frames: torch.Tensor  # (frames, 3, h, w) uint8, a little larger than the input if a view is drawn
    densities: torch.Tensor  # (described, h, w) float
    points: list[tuple[np.ndarray, tuple[int, int]]] = field(default_factory=list)  # (row, column) and their grid


class WindowDataset(Dataset[dict[str, Any]]):
    """Samples of windows: a dict of tensors, and `id` that names clip and frames.

    Args:
        items: clips and stills with frames.
        processor: of the model.
        settings: how windows are cut and changed.

    Raises:
        ValueError: for no items.
    """

    def __init__(
        self, items: Sequence[SaliencyItem], processor: VideoSaliencyProcessor, settings: WindowSettings
    ) -> None:
        if not items:
            raise ValueError("there is nothing to train on: choose data sets with frames")
        self.items, self.processor, self.settings = list(items), processor, settings
        self.has_fixations = any(item.fixation_files is not None for item in self.items)
        counts = [self._num_windows(item) for item in self.items]
        self._ends = np.cumsum(counts)
        self._cache: dict[int, _Loaded] = {}  # by position: ids are unique in one data set only
        self._sounds = SoundCache()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def position(self, key: SampleKey) -> int:
        """Which of the items a sample is of."""
        return int(np.searchsorted(self._ends, key.number, side="right"))

    def place(self, key: SampleKey) -> tuple[SaliencyItem, WindowPlace]:
        """The item and the frames of a sample."""
        position = self.position(key)
        item = self.items[position]
        number = key.number - (int(self._ends[position - 1]) if position else 0)
        settings = self.settings
        room = max(item.num_frames - window_span(item, settings.spec), 0)  # largest start
        if settings.windows == "all":
            start = min(number * window_span(item, settings.spec), room)
        elif settings.is_random:
            start = int(np.random.default_rng((settings.seed, key.epoch, key.number)).integers(0, room + 1))
        else:
            count = int(settings.windows)
            start = number * room // (count - 1) if count > 1 else room // 2
        return item, place_window(item, settings.spec, start)

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        item, place = self.place(key)
        generator = torch.Generator().manual_seed(derived_seed(self.settings.seed, key.epoch, key.number))
        try:
            sample = self._sample(self.position(key), place, generator)
        except (ValueError, OSError) as error:
            raise ValueError(f"{sample_name(item, place)}: {error}") from error
        sample["id"] = sample_name(item, place)
        return sample

    def _num_windows(self, item: SaliencyItem) -> int:
        if self.settings.windows != "all":
            return int(self.settings.windows)
        return max(1, item.num_frames // window_span(item, self.settings.spec))

    def _sample(self, position: int, place: WindowPlace, generator: torch.Generator) -> dict[str, Any]:
        settings, item = self.settings, self.items[position]
        input_size = (self.processor.size["height"], self.processor.size["width"])
        if settings.synthetic_motion:
            return self._synthetic_sample(position, place, generator, input_size)
        neighbours = self._neighbours(item, place)
        loaded = self._load(position, place, (*place.frames, *neighbours))
        augmentation = settings.augmentation
        view = View()
        if augmentation == "flip":
            view = View.draw_flip(generator)
        elif isinstance(augmentation, StillAugmentation):
            view = View.draw(augmentation, generator)
        frames = loaded.frames
        if isinstance(augmentation, StillAugmentation):
            seen = view.of_maps(frames.float(), input_size)
            frames = to_bytes(degrade_images(seen, generator, augmentation, frames=len(frames)))
        elif view.scale[0] < 0:
            frames = frames.flip(-1)
        sample: dict[str, Any] = {"frames": frames[: len(place.frames)].contiguous()}
        if neighbours:
            sample["neighbours"] = frames[len(place.frames) :].contiguous()
        sample["saliency_labels"] = view.of_maps(loaded.densities[:, None], settings.size)[:, 0]
        if self.has_fixations:
            sample["fixation_labels"] = torch.stack(
                [
                    fixation_map(
                        view.of_points(points, grid, settings.size), settings.size, radius=settings.fixation_radius
                    )
                    for points, grid in loaded.points
                ]
            )
        if settings.flow_root is not None:
            flow = view.of_flow(self._flow(item, place, settings.flow_root), input_size)
            sample["flow"] = flow
        if settings.audio is not None:
            sample["audio_values"] = self._audio(item, place)
        return sample

    def _synthetic_sample(
        self, position: int, place: WindowPlace, generator: torch.Generator, size: tuple[int, int]
    ) -> dict[str, Any]:
        """A still as the second frame of a pair with made-up motion."""
        loaded = self._load(position, place, place.frames[:1])
        augmentation = self.settings.augmentation
        before, frames, densities = synthetic_pairs(
            loaded.frames,
            loaded.densities[:1],
            size,
            generator=generator,
            augmentation=augmentation if isinstance(augmentation, StillAugmentation) else None,
        )
        # 8-bit, as frames of a video are
        return {
            "frames": to_bytes(frames),
            "neighbours": to_bytes(before),
            "saliency_labels": shrink(densities[:, None], self.settings.size)[:, 0],
        }

    def _neighbours(self, item: SaliencyItem, place: WindowPlace) -> tuple[int, ...]:
        """The frame to or from which the flow of a window of one frame leads; itself where there is none."""
        if self.settings.flow_pair is None or len(place.frames) > 1:
            return ()
        step = 1 if self.settings.flow_pair == "next" else -1
        return (min(max(place.frames[0] + step, 0), item.num_frames - 1),)

    def _load(self, position: int, place: WindowPlace, wanted: Sequence[int]) -> _Loaded:
        """Frames, densities and fixations; those of stills are kept if the settings say so."""
        if position in self._cache:
            return self._cache[position]
        settings, item = self.settings, self.items[position]
        is_changed = isinstance(settings.augmentation, StillAugmentation)
        unique = sorted(set(wanted))
        pictures = dict(zip(unique, item.load_frames(unique), strict=True))
        processor = self._enlarged if is_changed or settings.synthetic_motion else self.processor
        resized = {index: processor.resize_frames(picture[None])[0] for index, picture in pictures.items()}
        described = [place.frames[index] for index in place.described]
        points = self._points(item, described)
        loaded = _Loaded(
            torch.stack([resized[index] for index in wanted]), self._densities(item, described, points), points
        )
        if settings.cache_stills and item.num_frames == 1:
            self._cache[position] = loaded
        return loaded

    @property
    def _enlarged(self) -> VideoSaliencyProcessor:
        """Shrinks pictures to a little more than the model's input, from which views are cut."""
        size = {name: round(side * MARGIN) for name, side in self.processor.size.items()}
        return VideoSaliencyProcessor(size=size, resample=self.processor.resample)

    def _points(self, item: SaliencyItem, frames: Sequence[int]) -> list[tuple[np.ndarray, tuple[int, int]]]:
        found = []
        for fixations in item.load_fixations(frames):
            grid = item.size or self.settings.size
            if fixations is not None and fixations.dtype == bool:
                grid = (fixations.shape[0], fixations.shape[1])
            points = np.zeros((0, 2), dtype=np.int64) if fixations is None else fixated_points(fixations)
            found.append((points, (int(grid[0]), int(grid[1]))))
        return found

    def _densities(
        self, item: SaliencyItem, frames: Sequence[int], points: Sequence[tuple[np.ndarray, tuple[int, int]]]
    ) -> torch.Tensor:
        """`(frames, height, width)` float at most at twice the size of the maps; zero where nothing is known."""
        height, width = self.settings.size
        if self.settings.density_sigma is not None:
            half = (max(1, height // 2), max(1, width // 2))
            sigma = self.settings.density_sigma * half[0]
            maps = [
                fixation_density(View().of_points(places, grid, half), half, sigma=sigma) for places, grid in points
            ]
            return torch.stack([scale_density(density.numpy()) for density in maps])
        maps = [
            torch.zeros(height, width) if density is None else scale_density(density)
            for density in item.load_densities(frames)
        ]
        nearly = (round(height * MARGIN), round(width * MARGIN))
        sizes = nearly if isinstance(self.settings.augmentation, StillAugmentation) else (height, width)
        return torch.stack([shrink(density[None, None], sizes)[0, 0] for density in maps])

    def _flow(self, item: SaliencyItem, place: WindowPlace, root: Path) -> torch.Tensor:
        """`(frames, 2, h, w)` of `<flow_root>/<clip>/<name of the frame>.flo`."""
        files = [root / item.id / f"{item.frame_name(index)}.flo" for index in place.frames]
        return torch.stack([torch.from_numpy(read_flow_file(file)) for file in files])

    def _audio(self, item: SaliencyItem, place: WindowPlace) -> torch.Tensor:
        """Log-mel slices of the sound around the window's centre; silence for a clip without sound."""
        spec = self.settings.audio or AudioSpec()
        excerpt = np.zeros(spec.num_samples, dtype=np.float32)
        if item.audio_path is not None:
            samples, first = self._sounds.read(item.audio_path, spec.sampling_rate)
            centre = window_centre([item.frame_time(index) for index in place.frames])
            excerpt = cut_excerpt(samples, spec.excerpt_start(centre) - first, spec.num_samples)
        return self.processor.audio_slices(excerpt[None], spec)[0]


def scale_density(density: np.ndarray) -> torch.Tensor:
    """A density as float in 0..1: 8-bit values are divided by 255, others by their maximum."""
    peak = 255.0 if density.dtype == np.uint8 else max(float(density.max()), 1e-30)
    return torch.from_numpy(density.astype(np.float32)) / peak


def to_bytes(frames: torch.Tensor) -> torch.Tensor:
    """Float pictures 0..255 as uint8."""
    return frames.round().clamp(0, 255).to(torch.uint8)


def collate_windows(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Stacked tensors, and the list of `id`s."""
    return {
        name: [sample[name] for sample in samples]
        if name == "id"
        else torch.stack([sample[name] for sample in samples])
        for name in samples[0]
    }


def choose_evenly(items: Sequence[SaliencyItem], count: int | None) -> list[SaliencyItem]:
    """At most `count` items, evenly spaced."""
    if count is None or count >= len(items):
        return list(items)
    return [items[index * len(items) // count] for index in range(count)]


def make_settings(
    data: DataArguments,
    spec: WindowSpec,
    size: tuple[int, int],
    *,
    seed: int,
    flow_pair: str | None,
    audio: AudioSpec | None,
) -> WindowSettings:
    """The settings of the training windows.

    Raises:
        ValueError: for `data.short_clips` with a model that describes the last frame, or an unknown augmentation.
    """
    if data.short_clips is not None:
        if spec.output == "last":
            raise ValueError(
                f"data.short_clips={data.short_clips} does nothing for this model: it describes the last frame of a "
                "window, and short clips get their first frame repeated in front; leave it out"
            )
        spec = replace(spec, tail_policy=data.short_clips)
    return WindowSettings(
        spec=spec,
        size=size,
        windows=data.windows,
        flow_pair=flow_pair,
        augmentation=parse_augmentation(data.augmentation),
        synthetic_motion=data.synthetic_motion,
        density_sigma=data.density_sigma,
        fixation_radius=data.fixation_radius,
        cache_stills=data.cache_stills,
        flow_root=None if data.flow_root is None else Path(data.flow_root),
        audio=audio,
        seed=seed,
    )


__all__ = [
    "WindowDataset",
    "WindowSettings",
    "choose_evenly",
    "collate_windows",
    "make_settings",
    "open_sources",
]
