# SPDX-License-Identifier: Apache-2.0
"""A Gradio Space: a video in, the same video under a heat map out, with curves, raw maps and files.

`VIDEO_SALIENCY_MODELS` offers other models, as `LABEL=FOLDER_OR_ID` separated by `;`. `VIDEO_SALIENCY_CONCURRENCY` is
how many clips are predicted at once; by default one for every two cores. `PORT` is where the page is.
"""

from __future__ import annotations

import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported

# ZeroGPU hardware of the Hub lends a GPU to each call. Its package `spaces` can be imported anywhere and tells by this
# variable where it is; there it has to be imported before torch.
if os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true"):
    from spaces import GPU
else:
    GPU = None

import math
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pandas as pd
import torch
from PIL import Image
from prediction import LIMITS_ON_LENT_GPU, ClipError, Limits, Prediction, check_clip, predict_clip

from video_saliency.defaults import DEFAULT_MODEL, named_model
from video_saliency.predictor import VideoSaliencyPredictor
from video_saliency.video_io import VideoInfo
from video_saliency.visualization import colorize, format_time

HERE = Path(__file__).resolve().parent
LIMITS = LIMITS_ON_LENT_GPU if GPU is not None else Limits()
KEPT_SECONDS = 3600  # results of a visitor who is gone
RAW_MAP_SIDE = 640
CURVES = {"spread": "spread (% of the diagonal)", "entropy": "entropy (% of its maximum)"}

TITLE = f"""# Where do people look?
Give it a clip: it comes back under a heat map of where eyes are likely to go, frame by frame.

Clips {LIMITS.describe()}.
"""
ABOUT_CURVES = """**Spread**: how far the predicted gaze lies from its centre, as a share of the picture's diagonal;
low where all look at one place. **Entropy**: 0 % if all look at one point, 100 % if every place is equally likely."""
ABOUT = """The maps are those of a model, not of people: it was trained on what groups of people looked at, likes the
middle of the picture and faces, and can be wrong. Clips are deleted after an hour."""

CSS = """
.gradio-container { max-width: 1180px !important; margin: 0 auto !important; }
#clip video, #overlay video { max-height: 380px; background: black; }
#overlay { min-height: 240px; }
footer { opacity: 0.7; }
footer > .divider:last-child { display: none; }
"""
FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]  # none that has to be downloaded
THEME = gr.themes.Soft(primary_hue="orange", neutral_hue="stone", font=FONTS, font_mono=["ui-monospace", "monospace"])


def offered_models() -> dict[str, str]:
    """Folder or Hub id of each model, by the label that the page shows."""
    models = {"Embedded default": DEFAULT_MODEL}
    for entry in filter(None, os.environ.get("VIDEO_SALIENCY_MODELS", "").split(";")):
        label, equals, name_or_path = entry.partition("=")
        if not (label and equals and name_or_path):
            raise ValueError(f"VIDEO_SALIENCY_MODELS has {entry!r}: write LABEL=FOLDER_OR_ID;LABEL=FOLDER_OR_ID")
        models[label.strip()] = named_model(name_or_path.strip())
    return models


MODELS = offered_models()
PREDICTORS: dict[str, VideoSaliencyPredictor] = {}
LOADING = threading.Lock()


def predictor_of(label: str) -> VideoSaliencyPredictor:
    """The model with this label, loaded once however many ask at the same time. Raises `gr.Error` if unknown."""
    if label not in list(MODELS):  # a client may send what has no hash
        raise gr.Error(f"There is no model {label!r}: choose one of the list.", print_exception=False)
    if label not in PREDICTORS:
        with LOADING:
            if label not in PREDICTORS:
                device = "cuda" if torch.cuda.is_available() else "cpu"
                PREDICTORS[label] = VideoSaliencyPredictor.from_pretrained(MODELS[label], device=device)
    return PREDICTORS[label]


# where a GPU is lent to each call, models have to be loaded before the first visitor comes
for first_label in list(MODELS)[: 1 if GPU is None else None]:
    predictor_of(first_label)


def predictions_at_once() -> int:
    """How many clips are predicted at the same time."""
    text = os.environ.get("VIDEO_SALIENCY_CONCURRENCY")
    if text is None:  # the cores of this process: the machine of a container may have more
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, cores // 2)
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"VIDEO_SALIENCY_CONCURRENCY is {text!r}: write a number of clips, 1 or more")
    return int(text)


@contextmanager
def messages_for_visitors() -> Iterator[None]:
    """Turns what goes wrong into `gr.Error`, the one error that also comes back from a lent GPU as it is."""
    try:
        yield
    except gr.Error:
        raise
    except ClipError as error:
        raise gr.Error(str(error), print_exception=False) from error
    except (ValueError, OSError) as error:  # a fault of ours, whose words hold paths: they go to the log
        raise gr.Error("Something went wrong here. Please try again, or try another clip.") from error


KEPT: dict[Path, float] = {}  # when the results in each folder were done


def remove_folder(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    KEPT.pop(folder, None)


def remove_results(state: Prediction | None) -> None:
    """Delete the files behind a visitor's results."""
    if state is not None:
        remove_folder(state.overlay.parent)


def remove_old_results() -> None:
    """Delete results that no page shows any more, also those that no state knows.

    Of two clips that a visitor sends at the same time, only the results of the later one are in the state.
    """
    for folder, done in list(KEPT.items()):
        if time.monotonic() - done > KEPT_SECONDS:
            remove_folder(folder)


def lease_seconds(info: VideoInfo, *_: object) -> int:
    """For how long `maps_and_overlay` borrows a GPU; it gets the same arguments."""
    return LIMITS.lease_of(info)


def on_gpu(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function itself, or on ZeroGPU hardware one that borrows a GPU for as long as the clip may need."""
    return function if GPU is None else GPU(duration=lease_seconds)(function)


@on_gpu
def maps_and_overlay(
    info: VideoInfo, path: str, label: str, hears: bool, folder: Path, progress: gr.Progress
) -> Prediction:
    """All that needs the model. On a lent GPU it runs in another process: arguments and result are pickled."""

    def tell(done: int, total: int | None) -> None:
        share = done / max(done, total or done)
        progress(share, desc=f"frame {done}" + (f" of {total}" if total else ""))

    with messages_for_visitors():
        return predict_clip(Path(path), predictor_of(label), folder, hears=hears, limits=LIMITS, tell=tell)


def predict(
    path: str | None,
    label: str,
    hears: bool,
    old: Prediction | None,
    progress: gr.Progress = gr.Progress(),  # noqa: B008
) -> tuple[Any, ...]:
    """Everything that the page shows of a clip. Raises `gr.Error` with a message for the visitor."""
    if not path:
        raise gr.Error("Please upload or record a clip first.", print_exception=False)
    progress(0.0, desc="reading the clip")
    remove_old_results()
    with messages_for_visitors():
        predictor_of(label)
        info = check_clip(Path(path), LIMITS)  # before a GPU is lent
        folder = Path(tempfile.mkdtemp(prefix="video-saliency-"))
    try:
        result = maps_and_overlay(info, path, label, hears, folder, progress)
        raw_map, line = show_frame(result, 0)
    except BaseException:
        remove_folder(folder)
        raise
    KEPT[folder] = time.monotonic()
    remove_results(old)  # not before: until a new clip is done, the page shows these
    last = len(result.times) - 1
    return (
        str(result.overlay),
        show_curve(result, "spread"),
        "spread",
        gr.Slider(maximum=max(1, last), value=0, interactive=last > 0),
        raw_map,
        line,
        str(result.maps),
        str(result.csv),
        " ".join(result.notes),
        result,
        gr.Column(visible=True),
        gr.Row(visible=True),
    )


def share_of_diagonal(pixels: float, result: Prediction) -> float:
    """A distance in percent of the picture's diagonal."""
    return 100 * pixels / math.hypot(*result.size)


def show_curve(result: Prediction | None, name: str) -> gr.LinePlot:
    """How one number goes over the time of the clip. Raises `gr.Error` for a number that there is not."""
    if name not in list(CURVES):
        raise gr.Error(f"There is no curve {name!r}: choose spread or entropy.", print_exception=False)
    if result is None:
        return gr.LinePlot(y=name, y_title=CURVES[name])
    spread = np.array([share_of_diagonal(row.spread, result) for row in result.statistics])
    entropy = np.array([row.entropy for row in result.statistics]) * 100
    rows = pd.DataFrame({"seconds": result.times, "spread": spread.round(2), "entropy": entropy.round(2)})
    return gr.LinePlot(rows, y=name, y_title=CURVES[name])


def picture_file(result: Prediction, index: int, raw: np.ndarray) -> Path:
    """The raw map of a frame as a PNG file among the results, drawn once and never half there.

    Of an array Gradio writes a file that all visitors with the same picture share, and writes it again for each of
    them, also while another one downloads it. Its copy of a file goes by content and name, so each visitor has
    names of their own.
    """
    folder = result.overlay.parent
    path = folder / f"{folder.name}-frame-{index}.png"
    if path.exists():
        return path
    scale = RAW_MAP_SIDE / max(result.size)
    size = (max(1, round(result.size[0] * scale)), max(1, round(result.size[1] * scale)))
    picture = Image.fromarray(colorize(raw / max(float(raw.max()), 1e-12), size=size))
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
        picture.save(file, "PNG", compress_level=1)
    os.replace(file.name, path)
    return path


@messages_for_visitors()
def show_frame(result: Prediction | None, index: float) -> tuple[str | None, str]:
    """The file of the raw map's picture and a line about it. Raises `gr.Error` for a frame that there is not."""
    if result is None:
        return None, "Predict a clip first."
    last = len(result.times) - 1
    if not isinstance(index, (int, float)) or not index >= 0:
        raise gr.Error(f"There is no frame {index}: choose one from 0 to {last}.", print_exception=False)
    index = int(min(index, last))
    try:
        raw, row = result.map_of_frame(index), result.statistics[index]
        picture = str(picture_file(result, index, raw))
    except FileNotFoundError as error:
        raise gr.Error("These results were deleted. Please predict the clip again.", print_exception=False) from error
    line = f"Frame {index} at {format_time(result.times[index])}: "
    if math.isnan(row.peak_x):
        return picture, line + "no place stands out."
    line += f"peak at x {row.peak_x:.0f}, y {row.peak_y:.0f} pixels from the top left; "
    spread = share_of_diagonal(row.spread, result)
    line += f"spread {spread:.0f} % of the diagonal, entropy {100 * row.entropy:.0f} %. "
    line += f"The map has {raw.shape[1]} x {raw.shape[0]} cells, values {raw.min():.3g} to {raw.max():.3g}."
    return picture, line


def listens(label: str) -> gr.Checkbox:
    """The switch for sound, which only a model that listens has."""
    with messages_for_visitors():
        hears = predictor_of(label).audio_spec is not None
    info = "The model also gets the sound of the clip." if hears else "The chosen model sees but does not listen."
    return gr.Checkbox(interactive=hears, value=hears, info=info)


def example_clip() -> str:
    """The clip that comes with the Space, or lies in the package's checkout."""
    places = (HERE / "friday.mp4", HERE.parent.parent / "examples" / "friday.mp4")
    return str(next(place for place in places if place.is_file()))


def build() -> gr.Blocks:
    """The page."""
    with gr.Blocks(title="Video saliency", delete_cache=(600, KEPT_SECONDS)) as page:
        gr.Markdown(TITLE)
        results = gr.State(time_to_live=KEPT_SECONDS, delete_callback=remove_results)
        with gr.Row():
            with gr.Column():
                clip = gr.Video(label="Your clip", sources=["upload", "webcam"], elem_id="clip")
                with gr.Row():
                    example = gr.Button("Use the example clip", elem_id="example")
                    button = gr.Button("Predict", variant="primary", elem_id="predict")
                label = gr.Dropdown(list(MODELS), value=next(iter(MODELS)), label="Model", elem_id="model")
                hears = gr.Checkbox(label="The model hears the sound", elem_id="sound")
            with gr.Column():
                shown = gr.Video(label="Heat map", interactive=False, elem_id="overlay")
                with gr.Column(visible=False) as files:
                    summary = gr.Textbox(label="Result", interactive=False, elem_id="summary", lines=1)
                    with gr.Row():
                        maps = gr.DownloadButton("Maps (ZIP of NPZ)", elem_id="maps")
                        table = gr.DownloadButton("Table (CSV)", elem_id="table")
        with gr.Row(visible=False) as details:
            with gr.Column():
                curve_name = gr.Radio(
                    [("Spread", "spread"), ("Entropy", "entropy")],
                    value="spread",
                    label="Attention over time",
                    elem_id="curve-name",
                )
                curve = gr.LinePlot(x="seconds", y="spread", y_title=CURVES["spread"], elem_id="curve", height=300)
                gr.Markdown(ABOUT_CURVES, elem_id="about-curves")
            with gr.Column():
                frame = gr.Slider(0, 1, 0, step=1, label="Frame", interactive=False, elem_id="frame")
                raw_map = gr.Image(label="Raw map", elem_id="raw-map", interactive=False)
                about_frame = gr.Textbox(show_label=False, interactive=False, elem_id="about-frame", lines=2)
        gr.Markdown(ABOUT)

        outputs = [
            shown,
            curve,
            curve_name,
            frame,
            raw_map,
            about_frame,
            maps,
            table,
            summary,
            results,
            files,
            details,
        ]
        button.click(predict, [clip, label, hears, results], outputs, show_progress_on=shown, api_name="predict")
        example.click(example_clip, None, clip, api_name=False)
        quiet = {"show_progress": "hidden", "api_name": False}
        frame.change(show_frame, [results, frame], [raw_map, about_frame], concurrency_limit=None, **quiet)
        curve_name.input(show_curve, [results, curve_name], curve, **quiet)
        label.change(listens, label, hears, **quiet)
        page.load(listens, label, hears, **quiet)
    return page


demo = build()
demo.queue(max_size=32, default_concurrency_limit=predictions_at_once())

if __name__ == "__main__":
    demo.launch(
        server_port=int(os.environ.get("PORT", "7860")),
        max_file_size=f"{LIMITS.megabytes:g}mb",
        theme=THEME,
        css=CSS,
        footer_links=["api", "gradio"],
        ssr_mode=False,
    )
