# SPDX-License-Identifier: Apache-2.0
"""The Space's function and page, without a browser."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from video_factory import make_clip

from video_saliency.video_io import probe, read_frames

APP = Path(__file__).parent.parent / "spaces" / "video_saliency" / "app.py"


@pytest.fixture(scope="module")
def app():
    pytest.importorskip("gradio", reason="the Space needs the extra `demo`")
    spec = importlib.util.spec_from_file_location("space_app", APP)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_predict_keeps_frames_and_sound(app, tmp_path):
    clip = make_clip(tmp_path / "clip.mp4", num_frames=5, audio="aac")
    shares = []
    path, sheet, text = app.predict(str(clip), shares.append)
    assert len(list(read_frames(path))) == 5
    assert probe(path).has_audio
    assert sheet.width > 100
    assert "5 frames" in text
    assert shares[-1] == 1


def test_wrong_input_becomes_a_message(app, tmp_path):
    import gradio as gr

    with pytest.raises(gr.Error, match="upload a video"):
        app.on_click(None)
    (tmp_path / "text.mp4").write_bytes(b"no video" * 100)
    with pytest.raises(gr.Error, match="not a video"):
        app.on_click(str(tmp_path / "text.mp4"))


def test_page_has_the_parts_that_it_names(app):
    ids = {block.elem_id for block in app.demo.blocks.values()}
    assert {"video-in", "video-out", "predict", "sheet", "info"} <= ids
