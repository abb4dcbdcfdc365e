# SPDX-License-Identifier: Apache-2.0
"""The one loop that the pipeline, the command line and the Space use: a clip in, a map for every frame out.

A background thread decodes, and shrinks each frame once. The planner says which frames form a window; windows are
batched across time; maps leave in frame order. Memory does not grow with the clip: only frames that a coming window
needs are kept, as small 8-bit pictures, and source frames (for overlays) wait as decoded YUV.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel

from video_saliency.audio_windows import AudioSpec, window_centre
from video_saliency.background import prefetch
from video_saliency.flow_stream import add_flow
from video_saliency.loading import load_model, load_processor
from video_saliency.modeling_outputs import VideoSaliencyOutput
from video_saliency.placement import check_placement, input_device, is_dispatched
from video_saliency.processing_video_saliency import VideoSaliencyProcessor, post_process_maps
from video_saliency.sound_stream import SoundStream, choose_audio_mode
from video_saliency.sources import Frame, Source, open_source
from video_saliency.video_io import TruncatedVideoError, VideoError
from video_saliency.windows import Window, WindowPlanner

logger = logging.getLogger(__name__)

FRAMES_PER_BATCH = 8  # enough to keep two cores busy, small enough for a laptop
MAX_KEPT_BYTES = 512 * 2**20
SILENT_MAPS = "silent_maps"  # the further map that is made here: the saliency map of the same window without sound
CLEAR_PEAK = 10.0  # times the mean; the default model on scenes with something to look at: 8 to 80, on a bare floor 5


@dataclass
class SaliencyFrame:
    """The prediction for one source frame.

    Attributes:
        frame_index: 0-based number of the source frame.
        time: its presentation time in seconds, first frame 0, as a rational.
        model_map: `(h, w)` float32, at the model's size and on its own scale.
        source_size: `(height, width)` of the source.
        extra_maps: further maps by name, `(h, w)` float32, such as `gate_maps`.
        frame: the source frame, if it was asked for; `frame.to_rgb()` is `(height, width, 3)` uint8.
    """

    frame_index: int
    time: Fraction
    model_map: torch.Tensor
    source_size: tuple[int, int]
    extra_maps: dict[str, torch.Tensor] = field(default_factory=dict)
    frame: Frame | None = None
    smoothing: float | None = None
    normalize: str | None = "frame"
    antialias: bool = True

    @property
    def time_s(self) -> float:
        """Presentation time in seconds."""
        return float(self.time)

    @cached_property
    def saliency_map(self) -> torch.Tensor:
        """`(height, width)` float32 at source size; by default divided by its maximum. Made on first use."""
        return self.map_at(self.source_size)

    def map_at(self, size: tuple[int, int]) -> torch.Tensor:
        """The map at any `(height, width)`, smoothed and normalised as the stream was asked to."""
        return post_process_maps(
            self.model_map, size, smoothing=self.smoothing, antialias=self.antialias, normalize=self.normalize
        )

    def display_map(self, size: tuple[int, int] | None = None) -> torch.Tensor:
        """`(height, width)` in 0..1 for pictures, whatever `normalize` the stream has; at source size by default.

        The peak is 1, except on a map so flat that no place stands out (peak below `CLEAR_PEAK` times the mean, as on
        an empty floor): it is drawn as faint as it is flat. Files keep the map as it is.
        """
        if size is None and self.normalize == "frame":
            display = self.saliency_map
        else:
            display = post_process_maps(
                self.model_map, size or self.source_size, smoothing=self.smoothing, normalize="frame"
            )
        clearness = float(self.model_map.amax()) / (CLEAR_PEAK * max(float(self.model_map.mean()), 1e-12))
        return display if clearness >= 1 else display * clearness

    def extra_map_at_source(self, name: str) -> torch.Tensor:
        """`(height, width)`: the further map `name` enlarged to source size, on its own scale."""
        return post_process_maps(self.extra_maps[name], self.source_size, normalize=None)


@dataclass
class _Shown:
    """What is remembered of a source frame until its map is ready."""

    index: int
    time: Fraction
    size: tuple[int, int]
    pixels: torch.Tensor | None  # (3, h, w) uint8 at model size
    frame: Frame | None
    flow: torch.Tensor | None = None  # (3, h, w) normalised flow image, on the model's device


class _BatchItem(NamedTuple):
    """A window that waits for its batch."""

    window: Window
    pixels: list[torch.Tensor]
    flow: list[torch.Tensor]
    excerpt: np.ndarray | None  # of the sound


_Maps = tuple[torch.Tensor, dict[str, torch.Tensor]]


class VideoSaliencyPredictor:
    """Runs a video saliency model over clips of any length.

    Args:
        model: a model of this package, or one whose config has a `window_spec` and whose output has `saliency_maps`.
        processor: its `VideoSaliencyProcessor`.
        device: where the model runs. Default: where it is. A model that was loaded with a `device_map` over several
            devices, or with parts on disk, stays where it is.
        dtype: precision of the model's weights and inputs; maps are float32 always. Default: as loaded.
        batch_size: windows in one forward. Default: as many as hold 8 frames.
        max_kept_bytes: source frames that wait for their maps may take this much memory; beyond it they are dropped
            and decoded a second time when they are due.

    Raises:
        ValueError: for a model without a window, a batch size below 1, a processor that was saved for other sound
            than the model takes, or another device or dtype for a model with a `device_map`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: VideoSaliencyProcessor,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        batch_size: int | None = None,
        max_kept_bytes: int = MAX_KEPT_BYTES,
    ) -> None:
        spec = getattr(model.config, "window_spec", None)
        if spec is None:
            raise ValueError(
                f"{type(model).__name__} has no window in its config, so it is not a video saliency model: "
                "load one with AutoModel.from_pretrained after `import video_saliency`"
            )
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if is_dispatched(model):
            check_placement(model, device, dtype)
        else:
            model = model.to(device=device or model.device, dtype=dtype)
        self.model = model.eval()
        self.processor = processor
        self.spec = spec
        self.audio_spec: AudioSpec | None = getattr(model.config, "audio_spec", None)
        if None not in (self.audio_spec, processor.audio_spec) and self.audio_spec != processor.audio_spec:
            raise ValueError(
                f"the processor prepares sound as {processor.audio_spec}, the model takes {self.audio_spec}: load the "
                "processor that was saved with the model"
            )
        self.batch_size = batch_size or max(1, FRAMES_PER_BATCH // spec.num_frames)
        self.max_kept_bytes = max_kept_bytes

    @classmethod
    def from_pretrained(cls, name_or_path: str, **options: Any) -> VideoSaliencyPredictor:
        """A predictor with the model and processor of a folder or Hub id; `options` as for the class.

        Raises `ValueError` if they cannot be loaded, or weights are missing or unused.
        """
        return cls(load_model(name_or_path), load_processor(name_or_path), **options)

    def stream(
        self,
        video: Any,
        *,
        map_stride: int = 1,
        start_frame: int = 0,
        with_frames: bool = False,
        extra_maps: Sequence[str] = (),
        smoothing: float | None = None,
        normalize: str | None = "frame",
        audio: str | None = None,
        audio_seed: int = 0,
        progress: Callable[[int, int | None], None] | None = None,
    ) -> Generator[SaliencyFrame, None, None]:
        """One `SaliencyFrame` for every source frame, in order, as soon as it is known.

        Args:
            video: see `open_source`: path, URL, array, tensor, or `{"frames": iterable, "fps": rate}`, with sound if
                wanted.
            map_stride: predict the map of every `map_stride`-th frame only and interpolate the others linearly in
                time; behind the last predicted map it is held. Windows that describe no such frame are not run.
            start_frame: first frame to be given out. Earlier ones are read again but predicted only where a batch
                reaches across, so that the maps are those of an unbroken run, to the bit.
            with_frames: also give out the source frames.
            extra_maps: names of further outputs of the model to give out, for instance `["gate_maps"]`; or
                `["silent_maps"]`, the saliency maps of the same windows without sound, for a second forward each.
            smoothing, normalize: how `saliency_map` is made; see `post_process_maps`. `normalize="published"`: as the
                model's authors make it, if its processor says how.
            audio: what a model that listens hears in each window. `"on"` (default): the sound around the window's
                centre, silence where there is none. `"off"`: silence. `"shuffled"`: sound of another place of the
                clip, see `SoundStream`; it tells what it matters that the sound belongs to the picture.
            audio_seed: of the place that `"shuffled"` takes.
            progress: called with (frames given out so far, frames in all or `None` if unknown).

        Raises:
            ValueError: for a wrong argument or source, or sound for a model that does not listen.
            TruncatedVideoError: after the maps of all readable frames, if the video breaks off.
        """
        if map_stride < 1 or start_frame < 0:
            raise ValueError(f"map_stride must be at least 1 and start_frame at least 0: {map_stride}, {start_frame}")
        if getattr(self.model.config, "streams", "appearance") != "appearance" and not self.computes_flow:
            logger.warning("this model's motion stream sees zero flow: its config names no flow_backend")
        mode = choose_audio_mode(audio, self.audio_spec)
        shuffle_seed = audio_seed if mode == "shuffled" else None
        if SILENT_MAPS in extra_maps and mode == "off":
            raise ValueError(f"{SILENT_MAPS} are compared with maps of a model that hears sound: set audio='on'")
        source = open_source(video)
        sound = None
        if self.audio_spec is not None and mode != "off":
            sound = SoundStream(source.sound, self.audio_spec, shuffle_seed=shuffle_seed)
        run = _Run(self, source, map_stride, start_frame, with_frames, tuple(extra_maps), sound)
        options = self.processor.map_options(smoothing=smoothing, normalize=normalize)
        return self._stream(run, source, options, progress)

    def _stream(
        self, run: _Run, source: Source, options: dict[str, Any], progress: Callable[[int, int | None], None] | None
    ) -> Generator[SaliencyFrame, None, None]:
        done = run.start_frame
        for shown, (model_map, extras) in run.frames_with_maps():
            # coming windows may still need the small picture, but nobody the source frame
            frame, shown.frame = shown.frame, None
            yield SaliencyFrame(shown.index, shown.time, model_map, shown.size, extras, frame, **options)
            done += 1
            if progress is not None:
                progress(done, source.num_frames)

    @property
    def device(self) -> torch.device:
        """Where the model takes its inputs."""
        return input_device(self.model)

    @property
    def computes_flow(self) -> bool:
        """Whether the model has a flow backend, so that each frame gets a flow image before it is predicted."""
        return getattr(self.model, "flow", None) is not None

    @property
    def embeds_frames(self) -> bool:
        """Whether the model can take frames that were embedded once for all windows that they are in."""
        return hasattr(self.model, "embed_frames")

    @torch.inference_mode()
    def embed_frame(self, pixels: torch.Tensor) -> torch.Tensor:
        """The model's embedding of one uint8 frame `(3, h, w)` at model size."""
        frame = self.processor.normalize_frames(pixels, device=self.device, dtype=self.model.dtype)
        embedded: torch.Tensor = self.model.embed_frames(frame[None])[0]
        return embedded

    def predict_windows(
        self,
        windows: torch.Tensor,
        extra_maps: Sequence[str] = (),
        *,
        flow_values: torch.Tensor | None = None,
        frame_embeddings: torch.Tensor | None = None,
        sound: np.ndarray | None = None,
    ) -> list[torch.Tensor]:
        """The model's maps for uint8 windows `(batch, frames, 3, h, w)` at model size.

        Args:
            windows: see above.
            extra_maps: names of further outputs.
            flow_values: normalised flow images of the shape of `windows`, for models that take them.
            frame_embeddings: `(batch, frames, ...)` from `embed_frame`; the pixels of `windows` are not used then.
            sound: mono excerpts `(batch, samples)` for models that listen. Default for these: silence.

        Returns:
            `saliency_maps`, then each of `extra_maps`: float32 `(batch, described frames, h, w)` on the CPU.

        Raises:
            ValueError: if the model gives out no map of such a name.
        """
        device, dtype = self.device, self.model.dtype
        if frame_embeddings is not None:
            inputs = {"frame_embeddings": frame_embeddings}
        else:
            pixels = self.processor.normalize_frames(windows, device=device, dtype=dtype)
            inputs = {"pixel_values_videos": pixels}
        if flow_values is not None:
            inputs["flow_values"] = flow_values
        if self.audio_spec is not None:
            if sound is None:
                sound = np.zeros((1, self.audio_spec.num_samples), dtype=np.float32)
            values = self.processor.audio_slices(sound, self.audio_spec).to(device, dtype)
            inputs["audio_values"] = values.expand(len(windows), *values.shape[1:])
        with torch.inference_mode():
            outputs: VideoSaliencyOutput = self.model(**inputs)
        results = []
        for name in ("saliency_maps", *extra_maps):
            if name == SILENT_MAPS:
                results += self.predict_windows(windows, flow_values=flow_values, frame_embeddings=frame_embeddings)
                continue
            maps = outputs.get(name)
            if maps is None:
                known = [key for key, value in outputs.items() if key.endswith("_maps") and value is not None]
                raise ValueError(f"this model gives out no {name}: it has {', '.join(known)}")
            results.append(maps.float().cpu())
        return results


class _Run:
    """One pass over one clip: from frames to windows to batches to maps in frame order."""

    def __init__(
        self,
        predictor: VideoSaliencyPredictor,
        source: Source,
        map_stride: int,
        start_frame: int,
        with_frames: bool,
        extra_maps: tuple[str, ...],
        sound: SoundStream | None,
    ) -> None:
        self.predictor, self.source, self.sound = predictor, source, sound
        self.map_stride, self.start_frame, self.extra_maps = map_stride, start_frame, extra_maps
        self.first_map = start_frame // map_stride * map_stride  # interpolation starts from here
        self.keep_frames = with_frames
        self.with_frames = with_frames
        self.planner = WindowPlanner(predictor.spec)
        self.buffer: deque[_Shown] = deque()  # frames that coming windows may need
        self.waiting: deque[_Shown] = deque()  # frames whose map has not been given out
        self.kept_bytes = 0  # of source frames in waiting and in the queue
        self.kept_bytes_lock = threading.Lock()
        self.truncated: TruncatedVideoError | None = None
        self.batch: list[_BatchItem] = []
        self.embedded: dict[int, torch.Tensor] = {}  # the frames of the last batch, if the model embeds frames
        self.last_time = Fraction(0)
        self.maps: dict[int, _Maps] = {}
        self.previous: tuple[Fraction, _Maps] | None = None
        self.rewound: Iterator[Frame] | None = None

    def frames_with_maps(self) -> Iterator[tuple[_Shown, _Maps]]:
        depth = self.predictor.batch_size * self.predictor.spec.num_frames + 2
        reader = prefetch(self.read(), depth)
        try:
            for shown in self.with_flow(self.up_to_the_break(reader)):
                self.remember(shown)
                yield from self.advance(self.planner.push(shown.time))
            if self.planner.num_frames == 0 and self.truncated is None:
                raise ValueError("the video has no frames")
            yield from self.advance(self.planner.finish())
            self.run_batch()
            if self.sound is not None:
                self.sound.tell(self.last_time)
            yield from self.ready(at_end=True)
        finally:
            reader.close()  # type: ignore[attr-defined]
            if self.sound is not None:
                self.sound.close()
            if self.rewound is not None:
                self.rewound.close()  # type: ignore[attr-defined]
        if self.truncated is not None:
            raise self.truncated

    def up_to_the_break(self, reader: Iterator[_Shown]) -> Iterator[_Shown]:
        """All frames of a video that breaks off; the error is kept for later."""
        try:
            yield from reader
        except TruncatedVideoError as error:
            self.truncated = error

    def with_flow(self, frames: Iterator[_Shown]) -> Iterator[_Shown]:
        """The same frames, with their flow images if the model computes flow."""
        predictor = self.predictor
        if not predictor.computes_flow:
            return frames
        frames_per_batch = predictor.batch_size * predictor.spec.num_frames
        if predictor.spec.num_frames > 1:
            return add_flow(frames, predictor.model, frames_per_batch=frames_per_batch)
        return add_flow(
            frames,
            predictor.model,
            frames_per_batch=frames_per_batch,
            # the first batch that is run may begin a batch before the first map
            first_wanted=max(0, self.first_map - frames_per_batch * self.map_stride),
            is_wanted=lambda index: index % self.map_stride == 0,
        )

    def read(self) -> Iterator[_Shown]:
        """Runs in the background thread: decode, shrink, and account for the source frames that are kept."""
        for frame in self.source.frames():
            rgb = frame.to_rgb()
            pixels = self.predictor.processor.resize_frames(rgb[None])[0]
            shown = _Shown(frame.index, frame.time, (rgb.shape[0], rgb.shape[1]), pixels, None)
            if self.keep_frames:
                self.count_kept(frame.nbytes)
                over_limit = self.kept_bytes > self.predictor.max_kept_bytes
                if over_limit and self.source.can_rewind:
                    logger.info("source frames in waiting exceed %d bytes: decoding a second time", self.kept_bytes)
                    self.keep_frames = False
                else:
                    shown.frame = frame
            yield shown

    def count_kept(self, size: int) -> None:
        with self.kept_bytes_lock:
            self.kept_bytes += size

    def remember(self, shown: _Shown) -> None:
        self.buffer.append(shown)
        self.waiting.append(shown)
        self.last_time = shown.time
        if self.with_frames and not self.keep_frames:
            for other in self.waiting:
                other.frame = None

    def advance(self, windows: list[Window]) -> Iterator[tuple[_Shown, _Maps]]:
        """Batch the windows, run full batches, give out what is ready, forget what is not needed any more."""
        for window in windows:
            if not any(frame % self.map_stride == 0 for _, frame in window.maps):
                continue
            first = self.buffer[0].index
            # frames are numbered without gaps, so a frame's place in the buffer follows from its index
            frames = [self.buffer[index - first] for index in window.frames]
            pixels = [frame.pixels for frame in frames if frame.pixels is not None]
            flow = [frame.flow for frame in frames if frame.flow is not None]
            excerpt = None
            if self.sound is not None:
                excerpt = self.sound.excerpt(window_centre([frame.time for frame in frames]))
            self.batch.append(_BatchItem(window, pixels, flow, excerpt))
            if len(self.batch) == self.predictor.batch_size:
                self.run_batch()
                yield from self.ready()
        while self.buffer and self.buffer[0].index < self.planner.oldest_needed:
            used_up = self.buffer.popleft()
            used_up.pixels = used_up.flow = None
        if self.sound is not None and self.buffer:
            self.sound.forget_before(self.buffer[0].time)

    def run_batch(self) -> None:
        """Predict the collected windows, unless all that they describe lies before the start."""
        batch, self.batch = self.batch, []
        wanted = {
            (row, output_index): frame
            for row, item in enumerate(batch)
            for output_index, frame in item.window.maps
            if frame % self.map_stride == 0 and frame >= self.first_map
        }
        if not wanted:
            return
        windows = torch.stack([torch.stack(item.pixels) for item in batch])
        flow = torch.stack([torch.stack(item.flow) for item in batch]) if self.predictor.computes_flow else None
        excerpts = [item.excerpt for item in batch if item.excerpt is not None]
        sound = np.stack(excerpts) if excerpts else None
        embedded = self.embed(batch) if self.predictor.embeds_frames else None
        maps, *extras = self.predictor.predict_windows(
            windows, self.extra_maps, flow_values=flow, frame_embeddings=embedded, sound=sound
        )
        for (row, output_index), frame in wanted.items():
            # clones, so that one map that is kept does not keep its batch
            further = {
                name: extra[row, output_index].clone() for name, extra in zip(self.extra_maps, extras, strict=True)
            }
            self.maps[frame] = (maps[row, output_index].clone(), further)

    def embed(self, batch: list[_BatchItem]) -> torch.Tensor:
        """`(batch, frames, ...)`: frames that the batch before had are not embedded again.

        One by one, so that a resumed run computes what an unbroken one does, to the bit.
        """
        before, self.embedded = self.embedded, {}
        for item in batch:
            for index, pixels in zip(item.window.frames, item.pixels, strict=True):
                if index not in self.embedded:
                    self.embedded[index] = before[index] if index in before else self.predictor.embed_frame(pixels)
        return torch.stack([torch.stack([self.embedded[index] for index in item.window.frames]) for item in batch])

    def ready(self, at_end: bool = False) -> Iterator[tuple[_Shown, _Maps]]:
        """Frames whose maps are known, in order: up to the next predicted map, or all at the end of the clip."""
        while self.waiting:
            head = self.waiting[0].index
            anchor = -(-head // self.map_stride) * self.map_stride  # the first predicted frame from here on
            if head < self.first_map:
                self.give_out()
                continue
            if anchor not in self.maps and not (at_end and anchor > self.waiting[-1].index):
                return
            shown = self.give_out()
            if shown.index == anchor:
                self.previous = (shown.time, self.maps.pop(anchor))
                maps = self.previous[1]
            else:
                maps = self.between(shown, anchor)
            if shown.index >= self.start_frame:
                yield self.with_frame(shown), maps

    def between(self, shown: _Shown, anchor: int) -> _Maps:
        """Maps of a frame between two predicted ones, linear in time; behind the last predicted one it is held."""
        assert self.previous is not None  # the first frame of a clip is always predicted
        start, (map_before, extras_before) = self.previous
        if anchor not in self.maps:
            return map_before, extras_before
        map_after, extras_after = self.maps[anchor]
        end = next(other.time for other in self.waiting if other.index == anchor)
        weight = float((shown.time - start) / (end - start))
        extras = {name: torch.lerp(extras_before[name], extras_after[name], weight) for name in extras_before}
        return torch.lerp(map_before, map_after, weight), extras

    def give_out(self) -> _Shown:
        shown = self.waiting.popleft()
        if shown.frame is not None:
            self.count_kept(-shown.frame.nbytes)
        return shown

    def with_frame(self, shown: _Shown) -> _Shown:
        """The frame itself, decoded a second time if it could not be kept."""
        if self.with_frames and shown.frame is None:
            if self.rewound is None:
                self.rewound = self.source.frames()
            try:
                shown.frame = next(frame for frame in self.rewound if frame.index == shown.index)
            except (StopIteration, TruncatedVideoError) as error:
                raise VideoError(
                    f"frame {shown.index} could not be read a second time: copy the video to a local disk first"
                ) from error
        return shown
