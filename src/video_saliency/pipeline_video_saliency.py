# SPDX-License-Identifier: Apache-2.0
"""`transformers.pipeline("video-saliency")`: a thin pipeline around the predictor."""

from __future__ import annotations

import logging
import os
import types
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import torch
from PIL import Image
from transformers import Pipeline, PreTrainedModel

from video_saliency.loading import warn_if_untrained
from video_saliency.placement import input_device, is_dispatched
from video_saliency.predictor import SaliencyFrame, VideoSaliencyPredictor
from video_saliency.sources import open_source
from video_saliency.video_io import TruncatedVideoError
from video_saliency.visualization import ContactSheet

logger = logging.getLogger(__name__)

LARGE_RESULT_BYTES = 2 * 2**30
FORWARD_PARAMETERS = {
    *("normalize", "smoothing", "extra_maps", "map_stride", "windows_per_batch", "progress", "audio", "audio_seed"),
}


@dataclass(frozen=True)
class _Video:
    """Carries one input through the base class, which would move a bare tensor to the model's device."""

    video: Any


class VideoSaliencyPipeline(Pipeline):
    """Predicts where people look in a video: one saliency map for every frame.

    Load it with [`pipeline`] and the task `"video-saliency"`, after `import video_saliency`. Without a model it uses
    the small one that is embedded in the package; transformers then warns that no model was supplied.

    Example:

    ```python
    >>> import numpy as np
    >>> from transformers import pipeline
    >>> import video_saliency
    >>> pipe = pipeline("video-saliency", device="cpu")
    >>> clip = np.zeros((3, 96, 128, 3), dtype=np.uint8)
    >>> pipe(clip)["saliency_maps"].shape
    torch.Size([3, 96, 128])
    >>> [frame.frame_index for frame in pipe.stream(clip)]
    [0, 1, 2]

    ```
    """

    _load_processor = True
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, model: PreTrainedModel, *args: Any, **kwargs: Any) -> None:
        places = getattr(model, "hf_device_map", None)
        if places is not None:  # the base class takes the device of the first part, which may be the disk
            model.hf_device_map = {"": input_device(model)}
        try:
            super().__init__(model, *args, **kwargs)
        finally:
            if places is not None:
                model.hf_device_map = places
        name = getattr(self.model, "name_or_path", "")
        if name and not getattr(self.model, "_hf_peft_config_loaded", False):  # an adapter trains what its base left
            warn_if_untrained(name)

    @overload
    def __call__(
        self, inputs: str | os.PathLike[str] | np.ndarray | torch.Tensor | dict[str, Any], **kwargs: Any
    ) -> dict[str, Any]: ...

    @overload
    def __call__(
        self,
        inputs: list[str] | list[os.PathLike[str]] | list[np.ndarray] | list[torch.Tensor] | list[dict[str, Any]],
        **kwargs: Any,
    ) -> list[dict[str, Any]]: ...

    @overload
    def __call__(self, inputs: Iterator[Any], **kwargs: Any) -> Iterator[dict[str, Any]]: ...

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """A dict for one video; a list of dicts for a list of videos; an iterator of dicts for a generator of videos.

        Args:
            inputs: a path or URL; a uint8 RGB array or tensor `(frames, height, width, 3)`; `{"frames": array or
                iterable of frames, "fps": rate}`, with sound as `"audio": samples, "sampling_rate": rate` if wanted;
                or a list or generator of these.
            normalize: scale of the maps, see `post_process_maps`: `"frame"` (default) divides each map by its maximum,
                `None` keeps the model's own scale, `"published"` does all that the model's authors do (SalFoM: blur
                and stretch to 0..1), if its processor says it.
            smoothing: standard deviation in source pixels of a Gaussian blur of the maps. Default: none.
            extra_maps: names of further outputs to return, such as `["gate_maps"]`, at source size and own scale;
                `["silent_maps"]`: the maps of a model that listens, predicted without sound.
            map_stride: predict every k-th map only and interpolate the rest.
            audio: what a model with sound hears: `"on"` (default), `"off"` (silence) or `"shuffled"` (sound of another
                place of the clip, drawn with `audio_seed`), see `VideoSaliencyPredictor.stream`.
            batch_size: windows in one forward of the model.
            progress: called with (frames done, frames in all or `None`) while a video is predicted.

        Returns:
            For each video, a dict with

            - **saliency_maps** (`torch.Tensor`): float32, `(frames, height, width)` at source size.
            - **frame_times** (`list[float]`): presentation time of each frame in seconds, the first at 0.
            - **visualization** (`PIL.Image.Image`): a contact sheet of at most 12 frames.
            - one tensor like `saliency_maps` for each name in `extra_maps`.

        Raises:
            ValueError: for a list of single frames or anything that is not a video, with the remedy.
        """
        if isinstance(inputs, (list, tuple)):
            inputs = _checked_list(inputs)
            if not inputs:
                return []
        elif isinstance(inputs, Iterator) and not isinstance(inputs, types.GeneratorType):
            inputs = (video for video in inputs)  # the base class knows generators, not other iterators
        batch_size = kwargs.pop("batch_size", None)
        if batch_size is None:
            batch_size = self._batch_size
        if kwargs.pop("num_workers", None):
            logger.info("num_workers is not used: one background thread reads ahead")
        # the base class batches videos; here a batch is made of windows of one video
        return super().__call__(inputs, windows_per_batch=batch_size, batch_size=1, num_workers=0, **kwargs)

    def stream(
        self, video: Any, *, batch_size: int | None = None, **options: Any
    ) -> Generator[SaliencyFrame, None, None]:
        """Maps of one video frame by frame, in bounded memory.

        Options are those of `VideoSaliencyPredictor.stream`; what the pipeline was made with holds here too.
        """
        options = {**self._forward_params, **options}
        batch_size = options.pop("windows_per_batch", None) if batch_size is None else batch_size
        return self._predictor(self._batch_size if batch_size is None else batch_size).stream(video, **options)

    def _predictor(self, batch_size: int | None) -> VideoSaliencyPredictor:
        device = None if is_dispatched(self.model) else self.device
        return VideoSaliencyPredictor(self.model, self.processor, device=device, batch_size=batch_size)

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        unknown = sorted(set(kwargs) - FORWARD_PARAMETERS)
        if unknown:
            raise ValueError(f"unknown arguments {unknown}: known are {sorted(FORWARD_PARAMETERS)}")
        return {}, kwargs, {}

    def preprocess(self, inputs: Any, **kwargs: Any) -> _Video:
        return _Video(inputs)

    def _forward(
        self,
        inputs: _Video,
        windows_per_batch: int | None = None,
        extra_maps: Sequence[str] = (),
        **options: Any,
    ) -> dict[str, Any]:
        source = open_source(inputs.video)
        names = ("saliency_maps", *extra_maps)
        stacks = {name: _MapStack(source.num_frames, len(names)) for name in names}
        times: list[float] = []
        sheet = ContactSheet()
        stream = self._predictor(windows_per_batch).stream(source, with_frames=True, extra_maps=extra_maps, **options)
        try:
            for frame in stream:
                stacks["saliency_maps"].add(frame.saliency_map)
                for name in extra_maps:
                    stacks[name].add(frame.extra_map_at_source(name))
                times.append(frame.time_s)
                if frame.frame is not None and sheet.wants(frame.frame_index):
                    sheet.add(frame.frame_index, frame.time_s, frame.frame.to_rgb(), frame.display_map())
        except TruncatedVideoError as error:
            logger.warning("%s; the result holds the %d frames before the break", error, len(times))
        return {name: stack.tensor() for name, stack in stacks.items()} | {"frame_times": times, "sheet": sheet}

    def postprocess(self, outputs: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        sheet = outputs.pop("sheet")
        return outputs | {"visualization": sheet.render()}


class _MapStack:
    """Maps of one video in one tensor, allocated once where the number of frames is known.

    Args:
        expected: frames as the file declares them, if it does.
        siblings: how many such stacks the result has.
    """

    def __init__(self, expected: int | None, siblings: int) -> None:
        self.expected, self.siblings, self.count = expected or 0, siblings, 0
        self.maps: torch.Tensor | None = None

    def add(self, saliency_map: torch.Tensor) -> None:
        if self.maps is None:
            self.maps = self._allocate(max(1, self.expected), saliency_map.shape)
        if self.count == len(self.maps):  # the file declared too few
            self.maps = torch.cat([self.maps, self._allocate(len(self.maps), saliency_map.shape)])
        self.maps[self.count] = saliency_map
        self.count += 1

    def tensor(self) -> torch.Tensor:
        if self.maps is None:
            raise ValueError("the video has no frames")
        # a copy where a view would keep much more memory than it shows
        return self.maps[: self.count].clone() if self.count < 0.9 * len(self.maps) else self.maps[: self.count]

    def _allocate(self, frames: int, shape: torch.Size) -> torch.Tensor:
        size = (self.count + frames) * shape.numel() * 4 * self.siblings
        if size > LARGE_RESULT_BYTES:
            logger.warning(
                "the maps of this video take %.1f GB of memory: use pipe.stream(video) to get them frame by frame",
                size / 1e9,
            )
        return torch.empty(frames, *shape)


def _checked_list(videos: Sequence[Any]) -> list[Any]:
    """The list of videos, unless it is a list of single frames."""
    for video in videos:
        if isinstance(video, Image.Image) or np.ndim(video) == 3:
            raise ValueError(
                "a list is a batch of videos, but this one holds single frames: stack them into one video first, "
                "as in pipe(np.stack(frames))"
            )
    return list(videos)


__all__ = ["VideoSaliencyPipeline"]
