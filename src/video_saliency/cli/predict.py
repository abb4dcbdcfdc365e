# SPDX-License-Identifier: Apache-2.0
"""`video-saliency predict`: clips in, overlays, maps and tables out."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from video_saliency.audio_windows import AUDIO_MODES
from video_saliency.background import BackgroundWriter
from video_saliency.cli.devices import pick_device, pick_dtype
from video_saliency.cli.errors import EXPECTED_ERRORS, RUN_BROKE_OFF, describe_error, one_line_errors, show_error
from video_saliency.cli.outputs import (
    EXTRA_MAPS,
    CsvOutput,
    FolderOutput,
    OutputFolder,
    OverlayOutput,
    SheetOutput,
    SoundOutput,
)
from video_saliency.defaults import DEFAULT_MODEL, DEFAULT_NAME, named_model
from video_saliency.loading import load_model, load_processor
from video_saliency.model_digest import model_digest
from video_saliency.predictor import VideoSaliencyPredictor
from video_saliency.processing_video_saliency import PUBLISHED
from video_saliency.sound_stream import choose_audio_mode
from video_saliency.version import __version__
from video_saliency.video_io import TruncatedVideoError, VideoInfo, probe

KINDS = ("overlay", "maps", "png", "ntire", "csv", "sheet", "gate", "sound")
VIDEO_SUFFIXES = {
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv"),
    *(".ogv", ".3gp", ".gif"),
}
GATED = ("both", "gated")  # streams and fusion of a GFSalNet that has a gate
WRITE_BEHIND = 8  # frames that may wait for the writer


@dataclass(frozen=True)
class Options:
    """What the command line asked for, checked."""

    model: str
    save: tuple[str, ...]
    map_size: str
    normalize: str
    map_stride: int
    segment_frames: int
    resume: bool
    audio: str | None
    audio_seed: int


def predict(
    inputs: Annotated[
        list[str], typer.Argument(help="Videos, stills, URLs, or folders of videos.", metavar="INPUT...")
    ],
    output: Annotated[Path, typer.Option(help="Folder to write to; each clip gets a folder of its own in it.")],
    model: Annotated[
        str, typer.Option(help=f"Folder, Hub id or '{DEFAULT_NAME}', the embedded model.")
    ] = DEFAULT_NAME,
    save: Annotated[str, typer.Option(help=f"What to write, with commas between: {','.join(KINDS)}.")] = "overlay",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16. Default: the model's own.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Windows in one forward. Default: 8 frames' worth.")] = None,
    map_stride: Annotated[int, typer.Option(help="Predict every k-th map and interpolate the rest.")] = 1,
    map_size: Annotated[str, typer.Option(help="Size of saved maps and PNGs: model or source.")] = "model",
    normalize: Annotated[
        str,
        typer.Option(
            help="Saved maps: frame (each divided by its maximum), none, or published (as the model's authors save "
            "them, blurred for instance, if its processor says how; at --map-size source)."
        ),
    ] = "frame",
    resume: Annotated[bool, typer.Option(help="Go on with a run that was interrupted; skip finished clips.")] = False,
    segment_frames: Annotated[int, typer.Option(help="Frames between points to resume from.")] = 250,
    audio: Annotated[
        str | None,
        typer.Option(
            help="What a model with sound hears: on (the clip's sound), off (silence) or shuffled (sound of another "
            "place of the clip). Default: on. --save sound reports what it changes against silence."
        ),
    ] = None,
    audio_seed: Annotated[int, typer.Option(help="Of the place that --audio shuffled takes.")] = 0,
) -> None:
    """Predict where people look: one saliency map for every frame of each clip."""
    with one_line_errors():
        model, kinds = named_model(model), _parse_save(save)
        options = Options(model, kinds, map_size, normalize, map_stride, segment_frames, resume, audio, audio_seed)
        _check_options(options)
        clips = find_clips(inputs, output)
        network, processor = load_model(model), load_processor(model)
        _check_gate(network, options)
        _check_audio(network, options)
        predictor = VideoSaliencyPredictor(
            network, processor, device=pick_device(device), dtype=pick_dtype(dtype), batch_size=batch_size
        )
        settings = run_settings(predictor, options)
        output.mkdir(parents=True, exist_ok=True)
    code = 0
    for clip, folder in clips.items():
        try:
            code = max(code, predict_clip(predictor, clip, folder, settings, options))
        except EXPECTED_ERRORS as error:  # the other clips of a batch are still wanted
            message, clip_code = describe_error(error)
            show_error(message if clip in message else f"{clip}: {message}")
            code = max(code, clip_code)
    if code:
        raise typer.Exit(code)


def predict_clip(
    predictor: VideoSaliencyPredictor, clip: str, folder: Path, settings: dict[str, Any], options: Options
) -> int:
    """Write all outputs of one clip; returns the exit code. Raises one of `EXPECTED_ERRORS` if it cannot."""
    info = probe(clip)
    settings = {"source": _fingerprint(clip), **settings}
    out = OutputFolder(
        folder,
        settings,
        segment_frames=options.segment_frames,
        resume=options.resume,
        retry_broken=_is_url(clip),
    )
    if out.is_complete:
        tell(f"{clip}: already done, see {folder}")
        return _tell_break(out)
    quantize = predictor.processor.published_quantize if options.normalize == PUBLISHED else "round"
    for kind in options.save:
        out.outputs[kind] = _make_output(kind, clip, info, out, options, quantize)
    if not out.is_predicted:
        _write_frames(predictor, clip, info, out, options)
    files = out.finish()
    tell(f"{clip}: {out.frames_done} frames")
    for kind, path in files.items():
        note = f" (sound: {out.outputs[kind].sound})" if kind == "overlay" else ""
        tell(f"  {kind:8}{path}{note}")
    if isinstance(sound := out.outputs.get("sound"), SoundOutput):
        _tell_sound(sound, settings["audio"])
    return _tell_break(out)


def _tell_sound(sound: SoundOutput, mode: str) -> None:
    summary = sound.summary or {}
    means = ", ".join(
        f"{name} {summary[key]:.4f}" if summary[key] is not None else f"{name} not defined"
        for name, key in (("CC", "cc"), ("KL", "kl"), ("total variation", "total_variation"))
    )
    tell(f"  sound ({mode}) against silence, mean over {summary['frames']} frames: {means}")


def _tell_break(out: OutputFolder) -> int:
    """The exit code of a clip whose files are made; says so if its video breaks off."""
    if out.note is None:
        return 0
    show_error(f"{out.note}; the files hold the frames before the break")
    return RUN_BROKE_OFF


def _write_frames(
    predictor: VideoSaliencyPredictor, clip: str, info: VideoInfo, out: OutputFolder, options: Options
) -> None:
    """Predict the frames that are not done and write their shares, the writer one thread behind the model."""
    with (
        out,
        progress_bar(Path(clip).name, info.num_frames, out.frames_done) as advance,
        BackgroundWriter(out.add, WRITE_BEHIND) as writer,
    ):
        stream = predictor.stream(
            clip,
            map_stride=options.map_stride,
            normalize=None if options.normalize == "none" else options.normalize,
            audio=options.audio,
            audio_seed=options.audio_seed,
            start_frame=out.frames_done,
            with_frames=any(output.needs_frames for output in out.outputs.values()),
            extra_maps=[EXTRA_MAPS[kind] for kind in options.save if kind in EXTRA_MAPS],
            progress=advance,
        )
        with contextlib.closing(stream):  # so that an error of the writer ends the reader at once
            try:
                for frame in stream:
                    writer.put(frame)
            except TruncatedVideoError as error:
                out.note = str(error)


def run_settings(predictor: VideoSaliencyPredictor, options: Options) -> dict[str, Any]:
    """All but the clip that decides about the bytes of the outputs, for `--resume`."""
    settings = {
        "model": options.model if options.model != DEFAULT_MODEL else "embedded default",
        "config, processor and weights": model_digest(predictor.model, predictor.processor),
        "device": predictor.device.type,
        "dtype": str(predictor.model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "batch_size": predictor.batch_size,
        "map_stride": options.map_stride,
        "map_size": options.map_size,
        "normalize": options.normalize,
        "save": list(options.save),
        "version": __version__,
    }
    if predictor.audio_spec is not None:
        mode = choose_audio_mode(options.audio, predictor.audio_spec)
        settings["audio"] = mode if mode != "shuffled" else f"shuffled with seed {options.audio_seed}"
    return settings


def find_clips(inputs: list[str], output: Path) -> dict[str, Path]:
    """Each clip with the folder for its files, in the order given; folders are taken as batches of videos.

    Raises:
        ValueError: for an empty folder, or clips that would share an output folder.
        FileNotFoundError: for a path that does not exist.
    """
    clips: list[str] = []
    for name in inputs:
        if _is_url(name):
            clips.append(name)
        elif Path(name).is_dir():
            found = sorted(str(path) for path in Path(name).iterdir() if _is_video(path))
            if not found:
                raise ValueError(f"the folder {name} holds no video: name a folder of clips, or the clips themselves")
            clips.extend(found)
        elif Path(name).exists():
            clips.append(name)
        else:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    clips = list(dict.fromkeys(clips))
    names = [Path(unquote(urlsplit(clip).path) if _is_url(clip) else os.path.abspath(clip)) for clip in clips]
    nameless = [clip for clip, name in zip(clips, names, strict=True) if name.name in ("", "..")]
    if nameless:
        raise ValueError(f"{nameless[0]} names no file: give the address of the video itself")
    stems = [name.stem for name in names]
    # clip.mp4 beside clip.mov: the folders take the whole name
    chosen = [name.name if stems.count(name.stem) > 1 else name.stem for name in names]
    twice = sorted({name for name in chosen if chosen.count(name) > 1})
    if twice:
        raise ValueError(f"several inputs are called {', '.join(twice)}: predict them into different --output folders")
    return {clip: output / name for clip, name in zip(clips, chosen, strict=True)}


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES and path.is_file() and not path.name.startswith(".")


def _make_output(kind: str, clip: str, info: VideoInfo, out: OutputFolder, options: Options, quantize: str) -> Any:
    if kind == "overlay":
        return OverlayOutput(out.work, clip, info)
    if kind == "csv":
        return CsvOutput(out.work)
    if kind == "sound":
        return SoundOutput(out.work)
    if kind == "sheet":
        return SheetOutput(out.work, Path(clip).name, out.frames_done)
    return FolderOutput(out.work, kind, options.map_size, quantize)


def _parse_save(save: str) -> tuple[str, ...]:
    kinds = tuple(dict.fromkeys(part.strip() for part in save.split(",") if part.strip()))
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise ValueError(f"--save {save!r}: choose from {','.join(KINDS)}, with commas between")
    return kinds


def _check_options(options: Options) -> None:
    if options.map_size not in ("model", "source"):
        raise ValueError(f"--map-size must be model or source, got {options.map_size!r}")
    if options.normalize not in ("frame", "none", PUBLISHED):
        raise ValueError(f"--normalize must be frame, none or {PUBLISHED}, got {options.normalize!r}")
    if options.normalize == PUBLISHED and options.map_size != "source":
        raise ValueError(f"--normalize {PUBLISHED} is made for maps of the video's size: add --map-size source")
    if options.audio is not None and options.audio not in AUDIO_MODES:
        raise ValueError(f"--audio must be one of {', '.join(AUDIO_MODES)}, got {options.audio!r}")
    if options.map_stride < 1 or options.segment_frames < 1:
        raise ValueError("--map-stride and --segment-frames must be at least 1")


def _check_gate(network: Any, options: Options) -> None:
    config = network.config
    if "gate" in options.save and (getattr(config, "streams", None), getattr(config, "fusion", None)) != GATED:
        raise ValueError(
            f"--save gate: the model {options.model!r} has no gate: it takes a GFSalNet with both streams and gated "
            "fusion"
        )


def _check_audio(network: Any, options: Options) -> None:
    spec = getattr(network.config, "audio_spec", None)
    if spec is None and (options.audio in ("on", "shuffled") or "sound" in options.save):
        asked = "--save sound" if "sound" in options.save else f"--audio {options.audio}"
        raise ValueError(f"{asked}: the model {options.model!r} does not listen, it takes frames alone: leave it out")
    if choose_audio_mode(options.audio, spec) == "off" and "sound" in options.save:
        raise ValueError("--save sound compares maps with and without sound: use --audio on or shuffled")


def _is_url(name: str) -> bool:
    return "://" in name


def _fingerprint(clip: str) -> str:
    """Tells a changed source from the same one: name, size and time of change; of a URL the address without query."""
    if _is_url(clip):
        return urlsplit(clip)._replace(query="", fragment="").geturl()
    state = os.stat(clip)
    return f"{Path(clip).name}, {state.st_size} bytes, changed {state.st_mtime_ns}"


@contextlib.contextmanager
def progress_bar(name: str, total: int | None, done: int) -> Iterator[Callable[[int, int | None], None]]:
    """A bar on stderr; gives the callback that moves it."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=total, completed=done)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def tell(line: str) -> None:
    Console().print(line, highlight=False, soft_wrap=True, markup=False)
