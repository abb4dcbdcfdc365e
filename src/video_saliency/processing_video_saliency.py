# SPDX-License-Identifier: Apache-2.0
"""Frames and sound to model tensors, and maps back to source size. One processor serves all models of this package.

It builds on torch alone: the video processors of transformers need torchvision, which stays optional here.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import BatchFeature, ProcessorMixin

from video_saliency.audio_windows import AudioSpec, centred_excerpt, to_mono
from video_saliency.backbones.log_mel import log_mel_slices
from video_saliency.modeling_outputs import VideoSaliencyOutput
from video_saliency.optical_flow import flow_to_image

logger = logging.getLogger(__name__)

IMAGENET_MEAN = [0.485, 0.456, 0.406]
IMAGENET_STD = [0.229, 0.224, 0.225]
NORMALIZATIONS = ("frame", "minmax", "sum", None)
PUBLISHED = "published"  # in the place of a normalisation: all of what the model's authors do to its maps
MAP_OPTIONS = ("smoothing", "antialias", "normalize")
PICTURE_OPTIONS = ("quantize",)  # of published maps only: what becomes of them in 8-bit pictures
QUANTIZATIONS = ("round", "truncate", "raise")  # those of `map_io`


def post_process_maps(
    maps: torch.Tensor,
    size: tuple[int, int] | None = None,
    *,
    smoothing: float | None = None,
    antialias: bool = True,
    normalize: str | None = "frame",
) -> torch.Tensor:
    """Float32 maps `(..., height, width)` at `size`, smoothed and normalised in this order.

    Args:
        maps: `(..., h, w)` float maps on the model's own scale.
        size: `(height, width)` to enlarge or shrink to, bilinearly (half-pixel centres).
        smoothing: standard deviation in pixels of a Gaussian blur at the new size, cut at 2.5 deviations and mirrored
            at the border without repeating it; 2.0 is the 11x11 blur of the SalFoM and TMFI-Net scripts.
        antialias: whether shrinking averages all that falls into a pixel; without it, it takes the two nearest rows
            and columns, as OpenCV's linear resize in those scripts does.
        normalize: `"frame"`: each map divided by its maximum, an all-zero map stays zero; `"minmax"`: stretched to
            0..1; `"sum"`: divided by its sum (a density); `None`: the model's own scale.

    Raises:
        ValueError: for an unknown `normalize` or a `smoothing` that is not positive.
    """
    if normalize not in NORMALIZATIONS:
        raise ValueError(f"normalize must be one of {NORMALIZATIONS}, got {normalize!r}")
    lead = maps.shape[:-2]
    maps = maps.float().reshape(-1, 1, *maps.shape[-2:])
    if size is not None and tuple(size) != tuple(maps.shape[-2:]):
        shrinks = size[0] < maps.shape[-2] or size[1] < maps.shape[-1]
        maps = F.interpolate(
            maps, size=tuple(size), mode="bilinear", align_corners=False, antialias=antialias and shrinks
        )
    if smoothing is not None:
        maps = gaussian_blur(maps, smoothing)
    if normalize == "frame":
        peak = maps.amax(dim=(-2, -1), keepdim=True)
        maps = maps / torch.where(peak > 0, peak, torch.ones_like(peak))
    elif normalize == "minmax":
        low, high = maps.amin(dim=(-2, -1), keepdim=True), maps.amax(dim=(-2, -1), keepdim=True)
        maps = (maps - low) / torch.where(high > low, high - low, torch.ones_like(high))
    elif normalize == "sum":
        total = maps.sum(dim=(-2, -1), keepdim=True)
        maps = maps / torch.where(total > 0, total, torch.ones_like(total))
    return maps.reshape(*lead, *maps.shape[-2:])


def gaussian_blur(maps: torch.Tensor, sigma: float) -> torch.Tensor:
    """Maps `(batch, 1, height, width)` blurred by a separable Gaussian of `sigma` pixels, mirrored at the border."""
    if not sigma > 0:
        raise ValueError(
            f"smoothing must be a positive standard deviation in pixels, got {sigma!r}: use None for none"
        )
    for axis in (-2, -1):
        radius = min(math.ceil(2.5 * sigma), maps.shape[axis] - 1)
        offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
        kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
        kernel = (kernel / kernel.sum()).to(maps.device, maps.dtype)
        vertical = axis == -2
        padding = (0, 0, radius, radius) if vertical else (radius, radius, 0, 0)
        weight = kernel.reshape(1, 1, -1, 1) if vertical else kernel.reshape(1, 1, 1, -1)
        maps = F.conv2d(F.pad(maps, padding, mode="reflect"), weight)
    return maps


class VideoSaliencyProcessor(ProcessorMixin):
    """Prepares frames and sound for a video saliency model, and brings its maps back to source size.

    All arguments may be given by position or by keyword (keyword-only arguments would be lost on loading).

    Args:
        size: `{"height": h, "width": w}` of the model input in pixels. The aspect ratio of the source is not kept, as
            in all four papers. Default 224 x 384.
        image_mean, image_std: per-channel RGB values, on the scale after rescaling. Default: ImageNet's.
        rescale_factor: what 8-bit values are multiplied by. Default 1/255.
        resample: `"bilinear"` or `"bicubic"`; both with antialias, rounded to 8 bit as Pillow does.
        audio_settings: fields of an `AudioSpec`, for models that listen; `{}` takes the defaults. Default: no sound.
        published_maps: what the model's authors do to its maps before they measure or save them, as options of
            `post_process_maps`, and `quantize` of `map_io.MapPngWriter` for 8-bit pictures of them; asked for with
            `normalize="published"`. Default: nothing is known of it.

    Raises:
        ValueError: for sizes below one pixel, an unknown `resample`, wrong `audio_settings` or `published_maps`.

    Example:

    ```python
    >>> import torch
    >>> from video_saliency import VideoSaliencyProcessor
    >>> processor = VideoSaliencyProcessor(size={"height": 24, "width": 32})
    >>> clip = torch.zeros(5, 48, 64, 3, dtype=torch.uint8)
    >>> processor(videos=clip, return_tensors="pt")["pixel_values_videos"].shape
    torch.Size([1, 5, 3, 24, 32])

    ```
    """

    def __init__(
        self,
        size: dict[str, int] | None = None,
        image_mean: list[float] | None = None,
        image_std: list[float] | None = None,
        rescale_factor: float = 1 / 255,
        resample: str = "bilinear",
        audio_settings: dict[str, Any] | None = None,
        published_maps: dict[str, Any] | None = None,
    ) -> None:
        self.size = dict(size) if size is not None else {"height": 224, "width": 384}
        if set(self.size) != {"height", "width"} or min(self.size.values()) < 1:
            raise ValueError(f'size must be {{"height": h, "width": w}} in pixels, got {size!r}')
        if resample not in ("bilinear", "bicubic"):
            raise ValueError(f"resample must be 'bilinear' or 'bicubic', got {resample!r}")
        self.image_mean = list(image_mean) if image_mean is not None else list(IMAGENET_MEAN)
        self.image_std = list(image_std) if image_std is not None else list(IMAGENET_STD)
        self.rescale_factor = rescale_factor
        self.resample = resample
        try:
            self.audio_settings = None if audio_settings is None else AudioSpec(**audio_settings).to_dict()
        except TypeError as error:
            raise ValueError(f"audio_settings must hold fields of AudioSpec only: {error}") from error
        if published_maps is not None and not set(published_maps) <= {*MAP_OPTIONS, *PICTURE_OPTIONS}:
            known = ", ".join([*MAP_OPTIONS, *PICTURE_OPTIONS])
            raise ValueError(f"published_maps must hold {known} only, got {sorted(published_maps)}")
        quantize = (published_maps or {}).get("quantize", "round")
        if quantize not in QUANTIZATIONS:
            choice = ", ".join(QUANTIZATIONS)
            raise ValueError(f"published_maps: quantize must be one of {choice}, got {quantize!r}")
        self.published_maps = None if published_maps is None else dict(published_maps)
        super().__init__()

    @property
    def model_input_names(self) -> list[str]:
        return ["pixel_values_videos", "flow_values", "audio_values"]

    def to_dict(self) -> dict[str, Any]:
        """What `processor_config.json` holds; of the optional settings those that there are, as files always were."""
        settings: dict[str, Any] = super().to_dict()
        for name in ("audio_settings", "published_maps"):
            if getattr(self, name) is None:
                settings.pop(name, None)
        return settings

    @property
    def audio_spec(self) -> AudioSpec | None:
        """The sound that is prepared, as an object; `None` if the processor was made for models that only see."""
        return None if self.audio_settings is None else AudioSpec(**self.audio_settings)

    @property
    def published_quantize(self) -> str:
        """How the model's authors make 8-bit pictures of its maps, the `quantize` of `map_io.MapPngWriter`."""
        return str((self.published_maps or {}).get("quantize", "round"))

    def __call__(
        self,
        videos: Any = None,
        audio: Any = None,
        flow: Any = None,
        return_tensors: str | None = "pt",
        sampling_rate: int | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Model inputs for one video or a batch of videos of equal length.

        Args:
            videos: uint8 RGB, `(frames, height, width, 3)`, array or tensor; or a batch of these, with one more axis
                in front; or a list of videos, whose source sizes may differ.
            audio: sound of the clips, `(samples,)` or `(channels, samples)`, floats in -1..1 or int16; a list for
                several videos. Its middle belongs to the middle of the clip: longer sound is cut on both sides,
                shorter sound gets silence there. Not used if the processor has no `audio_settings`, so that callers
                need not know whether a model listens.
            flow: per-frame optical flow in source pixels (x right, y down), `(frames, 2, height, width)` float, or a
                batch or list of these: becomes a Middlebury colour image. See `align_flow_pairs` for the order.
            return_tensors: `"pt"` or `"np"`.
            sampling_rate: of `audio`, in Hz. It must be that of the model, 16,000; the pipeline resamples by itself.

        Returns:
            `pixel_values_videos` `(batch, frames, 3, height, width)` float32; with `flow`, `flow_values` alike; with
            `audio`, `audio_values` `(batch, slices, 1, time, mel)` float32.

        Raises:
            ValueError: for other shapes or types, videos of different lengths, or sound of another rate or with
                samples that are NaN or infinite.
        """
        if kwargs:
            raise ValueError(
                f"unknown arguments {sorted(kwargs)}: set size, mean and the like on the processor itself"
            )
        if videos is None:
            raise ValueError("nothing to process: pass videos=, uint8 of shape (frames, height, width, 3)")
        data = {"pixel_values_videos": self._stack([self._prepare(clip) for clip in _as_clips(videos, 4, "videos")])}
        if flow is not None:
            images = [flow_to_image(torch.as_tensor(clip)).movedim(-3, -1) for clip in _as_clips(flow, 4, "flow")]
            data["flow_values"] = self._stack([self._prepare(clip) for clip in images])
        if audio is not None and self.audio_spec is None:
            logger.info("audio is not used: this processor has no audio_settings, its model does not listen")
        elif audio is not None:
            data["audio_values"] = self._prepare_audio(audio, sampling_rate, len(data["pixel_values_videos"]))
        return BatchFeature(data, tensor_type=return_tensors)

    def resize_frames(self, frames: torch.Tensor | np.ndarray) -> torch.Tensor:
        """uint8 frames `(frames, 3, height, width)` at model size, from uint8 RGB `(frames, h, w, 3)`."""
        frames = torch.as_tensor(frames).cpu()  # torch resizes 8-bit pictures on the CPU only
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != torch.uint8 or min(frames.shape) < 1:
            raise ValueError(
                "a video must be uint8 RGB of shape (frames, height, width, 3) with at least one frame, got "
                f"{frames.dtype} {tuple(frames.shape)}: move the channels last, scale 0..1 floats by 255"
            )
        size = (self.size["height"], self.size["width"])
        # uint8 in channels-last order is torch's fastest antialiased resize, and rounds as Pillow does
        return F.interpolate(frames.permute(0, 3, 1, 2), size=size, mode=self.resample, antialias=True)

    def normalize_frames(
        self, frames: torch.Tensor, *, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
    ) -> torch.Tensor:
        """Model input `(..., 3, height, width)` on `device`, from uint8 frames at model size."""
        frames = frames.to(device)  # 8-bit values travel, not floats
        mean = torch.tensor(self.image_mean, device=frames.device).reshape(3, 1, 1)
        std = torch.tensor(self.image_std, device=frames.device).reshape(3, 1, 1)
        # one multiplication and one subtraction: (x * rescale - mean) / std
        return torch.addcmul(-mean / std, frames.float(), self.rescale_factor / std).to(dtype)

    def audio_slices(self, excerpts: np.ndarray, spec: AudioSpec | None = None) -> torch.Tensor:
        """Log-mel slices `(batch, slices, 1, time, mel)` float32, from mono excerpts `(batch, samples)`.

        Args:
            excerpts: of `spec.num_samples` each, at `spec.sampling_rate`.
            spec: what the model takes. Default: the processor's own.
        """
        spec = spec or self.audio_spec or AudioSpec()
        settings: dict[str, Any] = {
            "num_slices": spec.num_slices,
            "slice_frames": spec.slice_frames,
            "hop_frames": spec.hop_frames,
            "size": spec.size,
        }
        return torch.stack([log_mel_slices(excerpt, **settings) for excerpt in excerpts])

    def map_options(self, *, smoothing: float | None = None, normalize: str | None = "frame") -> dict[str, Any]:
        """Options of `post_process_maps`: those given, or the published ones with `normalize="published"`.

        Raises:
            ValueError: if the published ones are not known, or `smoothing` is given beside them.
        """
        if normalize != PUBLISHED:
            return {"smoothing": smoothing, "normalize": normalize}
        if self.published_maps is None:
            raise ValueError(
                "normalize='published': the processor of this model has no published_maps: set them on the processor, "
                "or name smoothing and normalize yourself"
            )
        if smoothing is not None:
            raise ValueError(f"normalize='published' has a smoothing of its own: leave smoothing={smoothing} away")
        return {name: value for name, value in self.published_maps.items() if name in MAP_OPTIONS}

    def post_process_video_saliency(
        self,
        outputs: VideoSaliencyOutput | torch.Tensor,
        target_sizes: Sequence[tuple[int, int]] | torch.Tensor | None = None,
        *,
        smoothing: float | None = None,
        normalize: str | None = "frame",
    ) -> list[torch.Tensor]:
        """One float32 tensor `(frames, height, width)` for each video of the batch.

        Args:
            outputs: what the model returned, or its `saliency_maps` `(batch, frames, h, w)`.
            target_sizes: `(height, width)` of each source video; `None` keeps the model's size.
            smoothing, normalize: see `post_process_maps`; with `normalize="published"` all is as in the processor's
                `published_maps`.

        Raises:
            ValueError: if `target_sizes` does not name one size for each video, or the options are wrong.
        """
        maps = outputs if isinstance(outputs, torch.Tensor) else outputs.saliency_maps
        if maps is None or maps.ndim != 4:
            raise ValueError("outputs must carry saliency_maps of shape (batch, frames, height, width)")
        sizes = [None] * len(maps) if target_sizes is None else [(int(size[0]), int(size[1])) for size in target_sizes]
        if len(sizes) != len(maps):
            raise ValueError(f"{len(maps)} videos need as many target_sizes (height, width), got {len(sizes)}")
        options = self.map_options(smoothing=smoothing, normalize=normalize)
        return [post_process_maps(clip, size, **options) for clip, size in zip(maps, sizes, strict=True)]

    def _prepare_audio(self, audio: Any, sampling_rate: int | None, num_videos: int) -> torch.Tensor:
        spec = self.audio_spec
        assert spec is not None
        if sampling_rate != spec.sampling_rate:
            raise ValueError(
                f"sound must have {spec.sampling_rate} samples a second, got sampling_rate={sampling_rate}: resample "
                "it, or give it to the pipeline with its frames"
            )
        sounds = list(audio) if isinstance(audio, (list, tuple)) else [audio]
        if len(sounds) != num_videos:
            raise ValueError(f"{num_videos} videos need as many sounds, as a list, got {len(sounds)}")
        return self.audio_slices(np.stack([centred_excerpt(to_mono(sound), spec) for sound in sounds]))

    def _prepare(self, clip: Any) -> torch.Tensor:
        return self.normalize_frames(self.resize_frames(clip))

    @staticmethod
    def _stack(clips: list[torch.Tensor]) -> torch.Tensor:
        lengths = {len(clip) for clip in clips}
        if len(lengths) > 1:
            raise ValueError(
                f"videos of a batch must have equal length, got {sorted(lengths)} frames: process them one by one, or "
                "let the pipeline cut them into windows"
            )
        return torch.stack(clips)


def _as_clips(value: Any, ndim: int, name: str) -> list[Any]:
    """A list of clips of `ndim` dimensions from one clip, a stacked batch, or a list."""
    if isinstance(value, (list, tuple)):
        if not value:
            raise ValueError(f"{name} is an empty list: pass at least one")
        if any(np.ndim(clip) != ndim for clip in value):
            raise ValueError(
                f"a list in {name} is a batch of videos, so each entry needs {ndim} dimensions (frames first): "
                "stack single frames into one array first, as in np.stack(frames)"
            )
        return list(value)
    if not isinstance(value, (np.ndarray, torch.Tensor)) or value.ndim not in (ndim, ndim + 1):
        raise ValueError(
            f"{name} must be an array or tensor of {ndim} dimensions (one clip) or {ndim + 1} (a batch), or a list of "
            f"clips, got {type(value).__name__}{tuple(getattr(value, 'shape', ()))}: read files with the pipeline"
        )
    return [value] if value.ndim == ndim else list(value)


__all__ = ["VideoSaliencyProcessor", "post_process_maps"]
