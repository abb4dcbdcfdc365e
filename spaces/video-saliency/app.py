# SPDX-License-Identifier: Apache-2.0
"""A Gradio Space: a video in, the same video under a heat map out, with curves, raw maps and files.

`VIDEO_SALIENCY_MODELS` offers other models, as `LABEL=FOLDER_OR_ID` separated by `;`. `PORT` is where the page is.
"""

from __future__ import annotations

import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read when gradio is imported

import math
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pandas as pd
import torch
from prediction import ClipError, Limits, Prediction, predict_clip

from video_saliency.defaults import DEFAULT_MODEL
from video_saliency.predictor import VideoSaliencyPredictor
from video_saliency.visualization import colorize, format_time

try:
    from spaces import GPU  # on ZeroGPU hardware of the Hub only
except ImportError:
    GPU = None

HERE = Path(__file__).resolve().parent
LIMITS = Limits()
KEPT_SECONDS = 3600  # results of a visitor who is gone
RAW_MAP_SIDE = 640
CURVES = {"spread": "spread (% of the picture's diagonal)", "entropy": "entropy (% of the largest possible)"}

TITLE = """# Where do people look?
Give it a clip: it comes back under a heat map of where eyes are likely to go, frame by frame.
"""
ABOUT = f"""Clips {LIMITS.describe()}. The maps are those of a model, not of people: it was trained on what groups of
people looked at, likes the middle of the picture and faces, and can be wrong. Clips are deleted after an hour."""

CSS = """
.gradio-container { max-width: 1180px !important; margin: 0 auto !important; }
#clip video, #overlay video { max-height: 380px; background: black; }
#overlay { min-height: 240px; }
footer { opacity: 0.7; }
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
        models[label.strip()] = name_or_path.strip()
    return models


MODELS = offered_models()


@cache
def predictor_of(label: str) -> VideoSaliencyPredictor:
    """The model with this label, loaded once."""
    return VideoSaliencyPredictor.from_pretrained(MODELS[label], device="cuda" if torch.cuda.is_available() else "cpu")


predictor_of(next(iter(MODELS)))
if GPU is not None:  # there, models have to be loaded before the first visitor comes
    for other_label in MODELS:
        predictor_of(other_label)


def on_gpu(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function itself, or on ZeroGPU hardware one that borrows a GPU for two minutes at most."""
    return function if GPU is None else GPU(duration=120)(function)


def remove_results(state: Prediction | None) -> None:
    """Delete the files behind a visitor's results."""
    if state is not None:
        shutil.rmtree(state.overlay.parent, ignore_errors=True)


@on_gpu
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
    if label not in MODELS:
        raise gr.Error(f"There is no model {label!r}: choose one of the list.", print_exception=False)
    progress(0.0, desc="reading the clip")

    def tell(done: int, total: int | None) -> None:
        share = done / max(done, total or done)
        progress(share, desc=f"frame {done}" + (f" of {total}" if total else ""))

    folder = Path(tempfile.mkdtemp(prefix="video-saliency-"))
    try:
        result = predict_clip(Path(path), predictor_of(label), folder, hears=hears, limits=LIMITS, tell=tell)
        raw_map, line = show_frame(result, 0)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, ClipError):
            raise gr.Error(str(error), print_exception=False) from error
        if isinstance(error, (ValueError, OSError)):  # a fault of ours, whose words hold paths: they go to the log
            raise gr.Error("Something went wrong here. Please try again, or try another clip.") from error
        raise
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
        gr.Row(visible=True),
        gr.Row(visible=True),
    )


def show_curve(result: Prediction | None, name: str) -> gr.LinePlot:
    """How one number goes over the time of the clip."""
    if result is None:
        return gr.LinePlot(y=name, y_title=CURVES[name])
    spread = np.array([row.spread for row in result.statistics]) * 100 / math.hypot(*result.size)
    entropy = np.array([row.entropy for row in result.statistics]) * 100
    rows = pd.DataFrame({"seconds": result.times, "spread": spread.round(2), "entropy": entropy.round(2)})
    return gr.LinePlot(rows, y=name, y_title=CURVES[name])


def show_frame(result: Prediction | None, index: float) -> tuple[np.ndarray | None, str]:
    """The raw map of a frame as a picture, and a line about it."""
    if result is None:
        return None, "Predict a clip first."
    index = min(int(index), len(result.times) - 1)
    raw, row = result.map_of_frame(index), result.statistics[index]
    scale = RAW_MAP_SIDE / max(result.size)
    size = (max(1, round(result.size[0] * scale)), max(1, round(result.size[1] * scale)))
    picture = colorize(raw / max(float(raw.max()), 1e-12), size=size)
    line = f"Frame {index} at {format_time(result.times[index])}: "
    line += "no place stands out." if math.isnan(row.peak_x) else f"peak at x {row.peak_x:.0f}, y {row.peak_y:.0f}; "
    if not math.isnan(row.peak_x):
        line += f"spread {row.spread:.0f} pixels, entropy {100 * row.entropy:.0f} %. "
        line += f"Raw values {raw.min():.3g} to {raw.max():.3g}, {raw.shape[1]} x {raw.shape[0]} cells."
    return picture, line


def listens(label: str) -> gr.Checkbox:
    """The switch for sound, which only a model that listens has."""
    hears = predictor_of(label).audio_spec is not None
    info = "The model also gets the sound of the clip." if hears else "The chosen model sees and does not listen."
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
                hears = gr.Checkbox(label="Sound", elem_id="sound")
            with gr.Column():
                shown = gr.Video(label="Where people look", interactive=False, elem_id="overlay")
                summary = gr.Textbox(label="Result", interactive=False, elem_id="summary", lines=2)
                with gr.Row(visible=False) as files:
                    maps = gr.DownloadButton("Maps (NPZ)", elem_id="maps")
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
demo.queue(max_size=32, default_concurrency_limit=max(1, (os.cpu_count() or 1) // 2))

if __name__ == "__main__":
    demo.launch(
        server_port=int(os.environ.get("PORT", "7860")),
        max_file_size=f"{LIMITS.megabytes:g}mb",
        theme=THEME,
        css=CSS,
        footer_links=["api", "gradio"],
        ssr_mode=False,
    )
