# SPDX-License-Identifier: Apache-2.0
"""Models whose parts accelerate has put on several devices or on disk, through predictor, pipeline and records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import tiny_dtfsal, tiny_gfsalnet, tiny_salfom, tiny_visage
from transformers import AutoModel, PreTrainedModel, pipeline

from video_saliency import VideoSaliencyPredictor, VideoSaliencyProcessor
from video_saliency.placement import input_device, is_dispatched

MAKERS = {
    "gfsalnet": tiny_gfsalnet,
    "dtfsal": tiny_dtfsal,
    "salfom": tiny_salfom,
    "visage": lambda: tiny_visage(lora=True),
}
CLIP = np.random.default_rng(3).integers(0, 256, (7, 30, 40, 3), dtype=np.uint8)


def save(folder: Path, name: str) -> tuple[PreTrainedModel, VideoSaliencyProcessor]:
    model, processor = MAKERS[name]()
    for part in (model, processor):
        part.save_pretrained(folder)
    return model, processor


def on_disk(model: PreTrainedModel, *, first: str = "disk") -> dict[str, str]:
    """Every part of the model on disk but the first one."""
    names = [name for name, _ in model.named_children()]
    return {name: "disk" if position else first for position, name in enumerate(names)}


def load_offloaded(folder: Path, model: PreTrainedModel, **options: Any) -> PreTrainedModel:
    placed = AutoModel.from_pretrained(
        folder, device_map=on_disk(model), offload_folder=folder / "offloaded", **options
    ).eval()
    assert all(value.is_meta for value in placed.parameters())
    return placed


def maps_of(predictor: VideoSaliencyPredictor) -> torch.Tensor:
    return torch.stack([frame.model_map for frame in predictor.stream({"frames": CLIP, "fps": 30})])


@pytest.mark.parametrize("name", MAKERS)
def test_a_model_on_disk_gives_the_same_maps(name: str, tmp_path: Path) -> None:
    model, processor = save(tmp_path, name)
    offloaded = load_offloaded(tmp_path, model)
    predictor = VideoSaliencyPredictor(offloaded, processor)
    assert torch.equal(maps_of(predictor), maps_of(VideoSaliencyPredictor(model, processor)))
    assert all(value.is_meta for value in offloaded.parameters())


@pytest.mark.parametrize(("name", "first"), [("salfom", "disk"), ("visage", "cpu")])
def test_pipeline_of_a_model_on_disk(name: str, first: str, tmp_path: Path) -> None:
    model, _ = save(tmp_path, name)
    places = on_disk(model, first=first)
    pipe = pipeline(
        "video-saliency",
        model=str(tmp_path),
        device_map=places,
        model_kwargs={"offload_folder": str(tmp_path / "offloaded")},
    )
    assert pipe.device == torch.device("cpu") and pipe.model.hf_device_map == places
    whole = pipeline("video-saliency", model=str(tmp_path), device="cpu")
    assert torch.equal(pipe(CLIP)["saliency_maps"], whole(CLIP)["saliency_maps"])
    assert len(list(pipe.stream(CLIP))) == len(CLIP)
    with pytest.raises(ValueError, match="discard the `device` argument"):
        pipeline("video-saliency", model=pipe.model, processor=pipe.processor, device="cpu")


def test_a_model_with_hooks_is_not_moved(tmp_path: Path) -> None:
    model, processor = save(tmp_path, "salfom")
    assert not is_dispatched(model) and input_device(model) == torch.device("cpu")
    offloaded = load_offloaded(tmp_path, model)
    assert is_dispatched(offloaded) and input_device(offloaded) == torch.device("cpu")
    VideoSaliencyPredictor(offloaded, processor, device="cpu", dtype=torch.float32)  # where and what it is
    with pytest.raises(ValueError, match=r"cannot be moved to meta, it runs from cpu: leave device away"):
        VideoSaliencyPredictor(offloaded, processor, device="meta")
    with pytest.raises(ValueError, match=r'cast to bfloat16, it is float32: load it with dtype="bfloat16"'):
        VideoSaliencyPredictor(offloaded, processor, dtype=torch.bfloat16)


def test_inputs_go_to_where_the_first_part_runs() -> None:
    """As accelerate tells it: parameters that wait on disk are on no device at all."""

    class Hook:
        execution_device: Any = None

    model = torch.nn.Sequential(torch.nn.Linear(2, 2, device="meta"), torch.nn.Linear(2, 2))
    model._hf_hook, model[0]._hf_hook = Hook(), Hook()
    model[0]._hf_hook.execution_device = "cuda:1"
    assert input_device(model) == torch.device("cuda:1")
