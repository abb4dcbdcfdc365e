# SPDX-License-Identifier: Apache-2.0
"""Which frames of a clip a training window shows, and which of them the model describes."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

from video_saliency.data import SaliencyItem
from video_saliency.video_container import FALLBACK_FRAME_RATE
from video_saliency.windows import WindowSpec


class WindowPlace(NamedTuple):
    """Frames of a window and which of them the model describes.

    Attributes:
        frames: source frame of each position.
        described: positions whose maps the model gives.
    """

    frames: tuple[int, ...]
    described: tuple[int, ...]


def window_step(item: SaliencyItem, spec: WindowSpec) -> Fraction:
    """Source frames from one position of a window to the next; a step in seconds counts at the average rate."""
    if spec.step_time is None:
        return Fraction(spec.step)
    return max(spec.step_time * (item.frame_rate or FALLBACK_FRAME_RATE), Fraction(1, spec.num_frames))


def window_span(item: SaliencyItem, spec: WindowSpec) -> int:
    """Source frames from the first to the last position of a window, both included."""
    return int((spec.num_frames - 1) * window_step(item, spec)) + 1


def place_window(item: SaliencyItem, spec: WindowSpec, start: int) -> WindowPlace:
    """The window from frame `start` on; a clip that is too short is filled up as the spec's policies say.

    A model that describes the last frame gets the first one repeated in front; others get the clip's end continued.
    """
    step = window_step(item, spec)
    available = [start + int(position * step) for position in range(spec.num_frames)]
    available = [index for index in available if index < item.num_frames]
    lacking = spec.num_frames - len(available)
    if spec.output == "last":
        frames = [available[0]] * lacking + available
    elif spec.tail_policy == "cycle":
        frames = [available[position % len(available)] for position in range(spec.num_frames)]
    else:
        frames = available + [available[-1]] * lacking
    described = {"all": range(spec.num_frames), "last": (spec.num_frames - 1,), "middle": (spec.num_frames // 2,)}
    return WindowPlace(tuple(frames), tuple(described[spec.output]))


def sample_name(item: SaliencyItem, place: WindowPlace) -> str:
    """Data set, clip and frames, for messages."""
    return f"{item.dataset}/{item.id} frames {place.frames[0]}..{place.frames[-1]}"


__all__ = ["WindowPlace", "place_window", "sample_name", "window_span", "window_step"]
