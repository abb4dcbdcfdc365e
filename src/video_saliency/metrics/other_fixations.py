# SPDX-License-Identifier: Apache-2.0
"""Where the negatives of shuffled AUC come from: fixations of other frames, chosen as the published protocols do."""

from __future__ import annotations

import zlib
from typing import Any, Literal

import numpy as np

from video_saliency.metrics.metric_inputs import PixelCounts, check_option, checked_points

OtherRule = Literal["clip_union", "clip_others", "random_frames", "random_videos", "all_others", "other_videos"]

OTHER_RULES = ("clip_union", "clip_others", "random_frames", "random_videos", "all_others", "other_videos")


class OtherFixations:
    """The fixations of all frames of a data set, handed out as the other-map of any one of them.

    Points are kept as (row, column) pairs, 8 bytes each; frames of another size are rescaled by cutting off. Random
    choices depend on the seed, the video's name and the frame's index alone, so that a resumed or divided run scores
    every frame as one run does.

    Args:
        seed: of the random rules.

    Example:
        >>> pool = OtherFixations()
        >>> pool.add("a", 0, [(0, 0), (1, 1)], (2, 2))
        >>> pool.add("a", 1, [(1, 1), (1, 0)], (2, 2))
        >>> pool.other("clip_union", "a", 0, (2, 2)).pixels
        array([2])
    """

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed
        self._points: list[np.ndarray] = []
        self._sizes: list[tuple[int, int]] = []
        self._frames_of_video: dict[str, dict[int, int]] = {}
        self._counts: dict[tuple[str | None, tuple[int, int]], np.ndarray] = {}

    def add(self, video: str, frame_index: int, points: Any, size: tuple[int, int]) -> None:
        """Take in a frame's (row, column) fixations `(N, 2)` on a grid of `size` (height, width).

        Raises:
            ValueError: a frame given twice, or points that `nss` would refuse.
        """
        frames = self._frames_of_video.setdefault(video, {})
        if frame_index in frames:
            raise ValueError(f"frame {frame_index} of {video} was added before: add each frame once")
        frames[frame_index] = len(self._points)
        self._points.append(checked_points(points, size).astype(np.int32))
        self._sizes.append((int(size[0]), int(size[1])))
        self._counts.clear()

    def other(
        self, rule: OtherRule, video: str, frame_index: int, size: tuple[int, int], *, num_frames: int = 10
    ) -> PixelCounts:
        """Other-map of a frame on a grid of `size` (height, width).

        Args:
            rule: `"clip_union"`: pixels fixated in any frame of the same clip, less those of this frame (STAViS and
                ViNet on DIEM); `"clip_others"`: all fixations of the clip's other frames; `"random_frames"`:
                `num_frames` frames drawn from all frames of the data set, this clip and even this frame among them
                (the DHF1K scorer; its swapped row and column factors are not imitated); `"random_videos"`: one random
                frame of each of `num_frames` random videos (UNISAL); `"all_others"`: all fixations of all other frames
                (pysaliency); `"other_videos"`: all fixations of all other videos, which is the same for stills.
            video: name of the frame's video, as given to `add`.
            frame_index: of the frame, as given to `add`.
            size: height and width of the map to be scored.
            num_frames: for the random rules.

        Raises:
            ValueError: unknown rule, or a frame that was not added.
        """
        check_option("rule", rule, OTHER_RULES)
        if frame_index not in self._frames_of_video.get(video, {}):
            raise ValueError(f"frame {frame_index} of {video} is not known: add all frames before asking for others")
        own = self._frames_of_video[video][frame_index]
        if rule == "random_frames":
            counts = self._counts_of(self._random_frames(video, frame_index, num_frames), size)
        elif rule == "random_videos":
            counts = self._counts_of(self._random_videos(video, frame_index, num_frames), size)
        elif rule == "clip_union":
            counts = np.where(self._counts_of([own], size) > 0, 0, self._total(video, size))
        elif rule == "other_videos":
            counts = self._total(None, size) - self._total(video, size)
        else:
            counts = self._total(video if rule == "clip_others" else None, size) - self._counts_of([own], size)
        pixels = np.flatnonzero(counts)
        return PixelCounts(pixels, counts[pixels])

    def _random_frames(self, video: str, frame_index: int, num_frames: int) -> list[int]:
        generator = self._generator(video, frame_index)
        return list(generator.choice(len(self._points), min(num_frames, len(self._points)), replace=False))

    def _random_videos(self, video: str, frame_index: int, num_frames: int) -> list[int]:
        generator = self._generator(video, frame_index)
        videos = sorted(self._frames_of_video)
        chosen = generator.choice(len(videos), min(num_frames, len(videos)), replace=False)
        frames = [sorted(self._frames_of_video[videos[position]].items()) for position in chosen]
        return [frames_of_one[generator.integers(len(frames_of_one))][1] for frames_of_one in frames]

    def _generator(self, video: str, frame_index: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, zlib.crc32(video.encode()), frame_index])

    def _total(self, video: str | None, size: tuple[int, int]) -> np.ndarray:
        """Fixations on each pixel `(H * W,)` of one clip, or of all: kept, because every frame asks for it again."""
        key = (video, size)
        if key not in self._counts:
            if video is not None:  # frames come clip by clip: the totals of earlier clips only take up room
                self._counts = {kept: counts for kept, counts in self._counts.items() if kept[0] is None}
            frames = range(len(self._points)) if video is None else self._frames_of_video[video].values()
            self._counts[key] = self._counts_of(list(frames), size)
        return self._counts[key]

    def _counts_of(self, frames: list[int], size: tuple[int, int]) -> np.ndarray:
        flat = [np.zeros(0, dtype=np.int64)]
        for frame in frames:
            rows, columns = self._points[frame].astype(np.int64).T
            height, width = self._sizes[frame]
            flat.append(rows * size[0] // height * size[1] + columns * size[1] // width)
        return np.bincount(np.concatenate(flat), minlength=size[0] * size[1])
