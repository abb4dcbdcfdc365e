# SPDX-License-Identifier: Apache-2.0
"""Every class that a model names in `_no_split_modules` can be split over processes by itself, trains, and is scored.

FSDP through Accelerate needs GPUs; what it wraps is tried here on two CPU processes.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from accelerate import Accelerator, PartialState
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from training_factory import clips, in_processes, reset_accelerate, tiny_arguments, with_validation

from video_saliency.training import training_validation
from video_saliency.training.callbacks import SamplePictures
from video_saliency.training.recipe_files import make_arguments, read_recipe
from video_saliency.training.training_data import make_settings, open_sources
from video_saliency.training.training_model import build_model
from video_saliency.training.training_validation import Validator

RECIPES = Path(__file__).parents[2] / "examples" / "recipes"


def split(model: Any) -> None:
    """Over two processes, each class of `_no_split_modules` a unit of its own."""
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


TRAINED = ("gfsalnet_video", "salfom", "dtfsal_audiovisual", "visage_expert1_stage1", "visage_expert2_stage1")


def train_in_shards(recipe: str, output: Path) -> None:
    """A few steps of a tiny model that is split; the loss must fall."""
    content = read_recipe(RECIPES / f"{recipe}.yaml", smoke=True)
    model = build_model(make_arguments({**content, "data": {}}), output).model
    split(model)
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


def validate(folder: Path, *, in_shards: bool) -> dict[str, Any]:
    """Scores of an untrained model on three batches, and pictures as the trainer has them made."""
    accelerator = Accelerator(cpu=True)
    arguments = tiny_arguments(folder / "data", data=with_validation(folder / "data"), validation={"sample_maps": 1})
    training = build_model(arguments, folder / "run")
    if in_shards:
        split(training.model)
    size = training.map_size
    settings = make_settings(arguments.data, training.config.window_spec, size, seed=0, flow_pair=None, audio=None)
    items = open_sources(arguments.data.validation)
    options = {"windows": 3, "arguments": arguments.validation, "batch_size": 2, "accelerator": accelerator}
    validator = Validator(items, training, settings, **options)
    output = folder / ("shards" if in_shards else "whole")
    own = {"model": training.model, "validator": validator, "accelerator": accelerator}
    trainer = SimpleNamespace(**own, arguments=arguments, output=output, state=SimpleNamespace(step=1))
    with mock.patch.object(training_validation, "is_sharded", return_value=in_shards):  # as with FSDP of Accelerate
        result = validator.run(training.model)
        SamplePictures().on_validation(trainer, result)
    return {**result.scores, "frames": result.num_frames}


def work(folder: Path) -> None:
    PartialState(cpu=True)  # joins the processes by gloo
    for recipe in TRAINED:
        train_in_shards(recipe, folder / recipe)
        (folder / f"{recipe}.done").touch()
    scores = validate(folder, in_shards=True)
    (folder / f"scores-{torch.distributed.get_rank()}.json").write_text(json.dumps(scores))


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left."""
    folder = tmp_path_factory.mktemp("shards")
    clips(folder / "data")
    in_processes(2, work, folder)
    return folder


def test_every_unit_of_a_model_can_be_split(worked):
    assert {path.stem for path in worked.glob("*.done")} == set(TRAINED)


def test_a_split_model_is_validated_as_a_whole_one(worked):
    """One process has a batch less than the other one, and only one writes pictures."""
    reset_accelerate()
    expected = validate(worked, in_shards=False)
    reset_accelerate()
    for process in (0, 1):
        scores = json.loads((worked / f"scores-{process}.json").read_text())
        assert scores == pytest.approx(expected, abs=1e-5)
    whole, shards = ([path.name for path in (worked / name).rglob("*.png")] for name in ("whole", "shards"))
    assert len(whole) == 1 and shards == whole
