# SPDX-License-Identifier: Apache-2.0
"""Gives the frames of a stream their flow images, for models that compute flow themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Protocol, TypeVar

import torch

from video_saliency.placement import input_device


class SmallFrame(Protocol):
    """What is read and written of a frame: its number, `(3, h, w)` uint8 pixels, and its normalised flow image."""

    index: int
    pixels: torch.Tensor | None
    flow: torch.Tensor | None


FrameT = TypeVar("FrameT", bound=SmallFrame)
Features = tuple[torch.Tensor, ...]  # of some frames, as the model's flow backend encodes them


def add_flow(
    frames: Iterable[FrameT],
    model: Any,
    *,
    frames_per_batch: int,
    first_wanted: int = 0,
    is_wanted: Callable[[int], bool] = lambda index: True,
) -> Iterator[FrameT]:
    """The same frames in the same order, each wanted one with its `flow`, a normalised image `(3, h, w)`.

    Each frame is encoded once, for the pairs with both of its neighbours. A frame waits for its batch and, with
    `flow_pair="next"`, for its successor.

    Args:
        frames: consecutive frames from number 0 on.
        model: has `encode_for_flow`, `flow_values_between`, `zero_flow_values` and `config.flow_pair`.
        frames_per_batch: as many are encoded and matched together. Batches begin at multiples of it, whatever is
            wanted, so that a resumed run computes what an unbroken one does, to the bit.
        first_wanted: batches of earlier frames only are passed on as they are.
        is_wanted: whether the frame of a number needs its flow.
    """
    to_next = model.config.flow_pair == "next"
    source = iter(frames)
    previous: FrameT | None = None  # the last frame of the batch before, with "next" not given out yet
    encoded_previous: Features = ()
    last_pair: tuple[Features, Features] | None = None
    while batch := list(islice(source, frames_per_batch)):
        if batch[-1].index + 1 < first_wanted:
            yield from batch
            continue
        encoded, size = _encode(model, batch), _size(batch[0])
        chain = batch
        if previous is not None:
            chain = [previous, *batch]
            encoded = tuple(torch.cat(parts) for parts in zip(encoded_previous, encoded, strict=True))
        elif not to_next:
            batch[0].flow = _zero_flow(model, batch[0])
        receivers = chain[:-1] if to_next else chain[1:]
        chosen = [place for place, frame in enumerate(receivers) if is_wanted(frame.index)]
        if chosen:
            neighbours = [place + 1 for place in chosen]
            start, end = (chosen, neighbours) if to_next else (neighbours, chosen)
            flow = model.flow_values_between(_pick(encoded, start), _pick(encoded, end), size)
            for place, image in zip(chosen, flow, strict=True):
                receivers[place].flow = image.clone()  # so that one frame that is kept does not keep its batch
        yield from chain[:-1] if to_next else batch
        previous, encoded_previous = batch[-1], _pick(encoded, [-1])
        last_pair = (_pick(encoded, [-2]), encoded_previous) if len(chain) > 1 else None
    if to_next and previous is not None:
        if last_pair is None:
            previous.flow = _zero_flow(model, previous)
        else:
            previous.flow = model.flow_values_between(*last_pair, _size(previous))[0]
        yield previous


def _encode(model: Any, frames: list[FrameT]) -> Features:
    # 8-bit values travel, not floats
    pixels = torch.stack([_pixels(frame) for frame in frames]).to(input_device(model))
    encoded: Features = model.encode_for_flow(pixels.float() / 255)
    return encoded


def _zero_flow(model: Any, frame: SmallFrame) -> torch.Tensor:
    image: torch.Tensor = model.zero_flow_values(_pixels(frame).to(input_device(model), model.dtype))
    return image


def _pick(encoded: Features, places: list[int]) -> Features:
    return tuple(part[places] for part in encoded)


def _size(frame: SmallFrame) -> tuple[int, int]:
    height, width = _pixels(frame).shape[-2:]
    return height, width


def _pixels(frame: SmallFrame) -> torch.Tensor:
    if frame.pixels is None:
        raise ValueError(f"the pixels of frame {frame.index} are gone: add flow before frames are used up")
    return frame.pixels


__all__ = ["add_flow"]
