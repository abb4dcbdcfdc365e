# SPDX-License-Identifier: Apache-2.0
"""The training script of the default model, on a dozen synthetic pictures and a tiny network."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from still_data_factory import make_still_folder
from transformers import AutoModel, AutoProcessor

import video_saliency  # noqa: F401  # registers the Auto classes

TINY_ENCODER = {
    "layer_type": "basic",
    "embedding_size": 8,
    "hidden_sizes": [8, 16, 24, 32],
    "depths": [1, 1, 1, 1],
}
SCRIPT = Path(__file__).parents[1] / "examples" / "train_default_model.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_default_model", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stills")
    make_still_folder(folder, num_images=15)
    return folder


def tiny_recipe(script: ModuleType, steps: int):
    return script.Recipe(
        steps=steps,
        batch_size=4,
        learning_rate=3e-3,
        warmup_steps=3,
        average_decay=0.8,
        height=48,
        width=64,
        cache_height=56,
        cache_width=72,
        config_overrides={"encoder_config": TINY_ENCODER},
    )


def test_a_short_run_learns_and_writes_a_model_that_loads(script: ModuleType, data: Path, tmp_path: Path) -> None:
    losses = script.run(data, tmp_path, tiny_recipe(script, steps=24))
    assert len(losses) == 24 and np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.1

    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json",
        "model.safetensors",
        "processor_config.json",
        "scores.json",
        "README.md",
    }
    stored = load_file(tmp_path / "model.safetensors")
    assert {value.dtype for value in stored.values() if value.ndim > 1} == {torch.float16}
    model, processor = AutoModel.from_pretrained(tmp_path).eval(), AutoProcessor.from_pretrained(tmp_path)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    inputs = processor(videos=np.full((2, 30, 40, 3), 128, np.uint8), return_tensors="pt")
    with torch.no_grad():
        maps = model(**inputs).saliency_maps
    assert maps.shape == (1, 2, 48, 64) and maps.min() >= 0 and torch.isfinite(maps).all()


def test_scores_and_card_say_what_was_measured(script: ModuleType, data: Path, tmp_path: Path) -> None:
    script.run(data, tmp_path, tiny_recipe(script, steps=2))
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert set(scores["val"]) == {"all", "left", "right"} and scores["val"]["all"]["images"] == 3
    assert set(scores["val"]["all"]) == {"images", "nss", "cc", "auc_judd"}
    # A square anywhere: the mean of the training images is no good guess, yet better than none.
    assert 0.5 < scores["val_centre_bias"]["all"]["auc_judd"] < 1
    assert scores["recipe"]["steps"] == 2 and len(scores["data"]["sha256"]) == 64

    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.license == "apache-2.0" and card.data.library_name == "transformers"
    assert card.data.eval_results[0].metric_value == round(scores["val"]["all"]["nss"], 4)
    assert f"{scores['val']['all']['nss']:.3f}" in card.text and scores["data"]["sha256"] in card.text
    assert "{{" not in card.text and "no motion" in card.text


def test_a_killed_run_resumes_exactly(script: ModuleType, data: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe(script, steps=6)
    stills = script.StillFixations(data, split="train")
    cache = script.StillCache.load(stills, recipe)

    class KilledError(Exception):
        pass

    def train(trainer, last_step: int) -> None:
        step = trainer.train_step

        def killed_step(cache) -> float:
            if trainer.step == last_step:
                raise KilledError
            return step(cache)

        trainer.train_step = killed_step
        script.train(trainer, cache, checkpoint=tmp_path / "run.pt", checkpoint_every=2)

    whole, killed, resumed = (script.Trainer(recipe) for _ in range(3))
    script.train(whole, cache, checkpoint=None, checkpoint_every=2)
    with pytest.raises(KilledError):
        train(killed, last_step=5)
    resumed.load_checkpoint(tmp_path / "run.pt")
    assert resumed.step == 4
    script.train(resumed, cache, checkpoint=None, checkpoint_every=2)
    assert [path.name for path in tmp_path.iterdir()] == ["run.pt"]
    for name, value in whole.average.items():
        assert torch.equal(value, resumed.average[name]), name

    with pytest.raises(ValueError, match="written with other options"):
        script.Trainer(tiny_recipe(script, steps=7)).load_checkpoint(tmp_path / "run.pt")
