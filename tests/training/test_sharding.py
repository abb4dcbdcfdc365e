# SPDX-License-Identifier: Apache-2.0
"""Every class that a model names in `_no_split_modules` can be split over processes by itself, and trains.

FSDP through Accelerate needs GPUs; what it wraps is tried here on two CPU processes.
"""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import PartialState
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from training_factory import in_processes

from video_saliency.training.recipe_files import make_arguments, read_recipe
from video_saliency.training.training_model import build_model

RECIPES = Path(__file__).parents[2] / "examples" / "recipes"


TRAINED = ("gfsalnet_video", "salfom", "dtfsal_audiovisual", "visage_expert1_stage1", "visage_expert2_stage1")


def train_in_shards(recipe: str, output: Path) -> None:
    """A few steps of a tiny model, each class of `_no_split_modules` a unit of its own; the loss must fall."""
    content = read_recipe(RECIPES / f"{recipe}.yaml", smoke=True)
    model = build_model(make_arguments({**content, "data": {}}), output).model
    mesh = init_device_mesh("cpu", (2,))
    names = set(model._no_split_modules)
    wrapped = set()
    for module in reversed(list(model.modules())):  # from the inside to the outside
        if type(module).__name__ in names:
            fully_shard(module, mesh=mesh)
            wrapped.add(type(module).__name__)
    fully_shard(model, mesh=mesh)
    assert wrapped, "no class of _no_split_modules is in the model"
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    torch.manual_seed(torch.distributed.get_rank())
    size = content["model"]["processor"]["size"]
    spec = model.config.window_spec
    inputs = {"pixel_values_videos": torch.randn(1, spec.num_frames, 3, size["height"], size["width"])}
    described = spec.num_frames if spec.output == "all" else 1
    inputs["saliency_labels"] = torch.rand(1, described, size["height"], size["width"])
    if (audio := getattr(model.config, "audio_spec", None)) is not None:
        inputs["audio_values"] = torch.randn(1, audio.num_slices, 1, *audio.size)
    losses = []
    for _ in range(4):
        loss = model(**inputs).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def train_all(folder: Path) -> None:
    PartialState(cpu=True)  # joins the processes by gloo
    for recipe in TRAINED:
        train_in_shards(recipe, folder / recipe)
        (folder / f"{recipe}.done").touch()


def test_every_unit_of_a_model_can_be_split(tmp_path):
    in_processes(2, train_all, tmp_path)
    assert {path.stem for path in tmp_path.glob("*.done")} == set(TRAINED)
