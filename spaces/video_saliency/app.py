# SPDX-License-Identifier: Apache-2.0
"""A Gradio Space: a video in, the same video under a heat map out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import gradio as gr
import numpy as np
from PIL import Image

from video_saliency.defaults import DEFAULT_MODEL
from video_saliency.predictor import VideoSaliencyPredictor
from video_saliency.video_io import TruncatedVideoError, probe, write_video
from video_saliency.visualization import ContactSheet, overlay

MAX_DURATION_S = 120.0

predictor = VideoSaliencyPredictor.from_pretrained(os.environ.get("VIDEO_SALIENCY_MODEL", DEFAULT_MODEL))


def predict(path: str, tell: Callable[[float], None]) -> tuple[str, Image.Image, str]:
    """The overlay video's path, the contact sheet, and a line of text; `tell` gets the share that is done.

    Raises:
        ValueError: for something that is not a video, or one that is too long for this machine.
    """
    info = probe(path)
    if info.duration_s is not None and info.duration_s > MAX_DURATION_S:
        raise ValueError(f"the clip lasts {info.duration_s:.0f} s: please keep it below {MAX_DURATION_S:.0f} s")
    sheet, notes, count = ContactSheet(), [], 0

    def pictures() -> Iterator[tuple[np.ndarray, Fraction]]:
        nonlocal count
        try:
            for frame in predictor.stream(path, with_frames=True):
                assert frame.frame is not None
                rgb = frame.frame.to_rgb()
                sheet.add(frame.frame_index, frame.time_s, rgb, frame.saliency_map)
                count += 1
                tell(count / max(count, info.num_frames or count))
                yield overlay(rgb, frame.saliency_map), frame.time
        except TruncatedVideoError as error:
            notes.append(str(error))

    # beside the upload: gradio gives each its own folder and clears it with its cache
    output = Path(path).with_name(f"{Path(path).stem}-saliency.mp4")
    sound = write_video(output, pictures(), time_base=info.time_base, frame_rate=info.frame_rate, audio_from=path)
    line = f"{count} frames of {info.width} x {info.height}; sound: {sound}"
    return str(output), sheet.render(), "\n".join([line, *notes])


def on_click(path: str | None, progress: gr.Progress = gr.Progress()) -> tuple[str, Image.Image, str]:  # noqa: B008
    if path is None:
        raise gr.Error("Please upload a video first.")
    try:
        return predict(path, lambda share: progress(share, desc="predicting"))
    except (ValueError, OSError) as error:
        raise gr.Error(str(error)) from error


with gr.Blocks(title="Video saliency", delete_cache=(3600, 3600)) as demo:
    gr.Markdown("# Where do people look?\nUpload a clip: bright is where eyes are likely to go.")
    with gr.Row():
        video_in = gr.Video(label="Your video", elem_id="video-in")
        video_out = gr.Video(label="Saliency", elem_id="video-out")
    button = gr.Button("Predict", variant="primary", elem_id="predict")
    sheet_out = gr.Image(label="Contact sheet", elem_id="sheet")
    text_out = gr.Textbox(label="What was done", elem_id="info")
    button.click(on_click, video_in, [video_out, sheet_out, text_out])

if __name__ == "__main__":
    demo.launch(server_port=int(os.environ.get("PORT", "7860")))
