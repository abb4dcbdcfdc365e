# SPDX-License-Identifier: Apache-2.0
"""Recipes are read strictly, and single settings change them."""

from __future__ import annotations

import json
import math

import pytest

from video_saliency.training.recipe_files import changed, make_arguments, merged, read_recipe
from video_saliency.training.training_arguments import TrainingArguments


def test_defaults_and_round_trip():
    arguments = make_arguments({})
    assert arguments == TrainingArguments()
    assert make_arguments(json.loads(json.dumps(arguments.to_dict()))) == arguments


def test_sections_become_dataclasses():
    arguments = make_arguments(
        {
            "data": {"train": [{"dataset": "dhf1k", "split": "train"}], "windows": "all"},
            "optimizer": {"learning_rate": 1, "groups": [{"pattern": "lora_", "learning_rate": 1e-4}]},
            "loop": {"steps": None, "average_decay": 0.99},
        }
    )
    assert arguments.data.train[0].dataset == "dhf1k"
    assert arguments.optimizer.groups[0].learning_rate == 1e-4
    assert isinstance(arguments.optimizer.learning_rate, float)
    assert arguments.loop.average_decay == 0.99


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"loop": {"epoch": 3}}, "loop.epoch is unknown: choose from .*epochs"),
        ({"model": {"config": 3}}, "model.config must be"),
        ({"loop": {"epochs": "3"}}, "loop.epochs must be a whole number, got '3'"),
        ({"loop": {"epochs": True}}, "loop.epochs must be a whole number"),
        ({"loop": {"precision": "fp16"}}, "loop.precision must be one of no, bf16, got 'fp16'"),
        ({"data": {"train": [{"split": "train"}]}}, r"data.train\[0\] is incomplete.*dataset"),
        ({"data": {"train": "dhf1k"}}, "data.train must be"),
        ({"loop": {"batch_size": 0}}, "loop.batch_size must be at least 1, got 0"),
        ({"data": {"windows": "some"}}, "data.windows must be at least 1, or 'all'"),
        ({"validation": {"select_by": "emd"}}, "validation.select_by must be loss or one of"),
        ({"optimizer": []}, "optimizer must be a mapping"),
        ({"optimizer": {"betas": [0.9]}}, "optimizer.betas must be two numbers"),
        ({"optimizer": {"betas": [0.9, 1.0]}}, "optimizer.betas must be two numbers"),
        ({"optimizer": {"groups": [{"pattern": "(", "learning_rate": 1}]}}, r"optimizer.groups: '\(' is no regular"),
        ({"model": {"freeze": ["("]}}, r"model.freeze: '\(' is no regular expression"),
        ({"model": {"weights_from": {"(": "folder"}}}, r"model.weights_from: '\(' is no regular"),
        ({"lora": {"targets": "("}}, r"lora.targets: '\(' is no regular"),
        ({"data": {"short_clips": "stop"}}, "data.short_clips must be .*cycle"),
        ({"loop": {"seed": -1}}, "loop.seed must be 0 to 9223372036854775807, got -1"),
        ({"loop": {"seed": 2**63}}, "loop.seed must be 0 to 9223372036854775807, got 9223372036854775808"),
        ({"loop": {"average_decay": 1.5}}, "loop.average_decay must be 0 to below 1, got 1.5"),
        ({"loop": {"average_decay": 1.0}}, "loop.average_decay must be 0 to below 1, got 1.0"),
        ({"loop": {"average_decay": math.nan}}, "loop.average_decay must be 0 to below 1, got nan"),
        ({"loop": {"num_processes": 0}}, "loop.num_processes must be at least 1, got 0"),
        ({"validation": {"patience": 0}}, "validation.patience must be at least 1, got 0"),
        ({"validation": {"every": -1}}, "validation.every must be at least 0, got -1"),
        ({"validation": {"sample_maps": -1}}, "validation.sample_maps must be at least 0, got -1"),
        ({"data": {"validation_clips": 0}}, "data.validation_clips must be at least 1, got 0"),
        ({"data": {"validation_clips": -1}}, "data.validation_clips must be at least 1, got -1"),
        ({"data": {"fixation_radius": -1}}, "data.fixation_radius must be at least 0, got -1"),
        ({"data": {"density_sigma": 0}}, "data.density_sigma must be above 0, at most 1, got 0"),
        ({"data": {"density_sigma": math.nan}}, "data.density_sigma must be above 0, at most 1, got nan"),
        ({"data": {"density_sigma": 50.0}}, "data.density_sigma must be above 0, at most 1, got 50.0"),
        ({"data": {"workers": -1}}, "data.workers must be at least 0, got -1"),
        ({"model": {"teacher_share": 1.5}}, "model.teacher_share must be 0 to 1, got 1.5"),
        ({"lora": {"rank": 0}}, "lora.rank must be at least 1, got 0"),
        ({"lora": {"dropout": 1}}, "lora.dropout must be 0 to below 1, got 1"),
        ({"optimizer": {"learning_rate": -1}}, "optimizer.learning_rate must be at least 0, got -1"),
        ({"optimizer": {"learning_rate": math.nan}}, "optimizer.learning_rate must be at least 0, got nan"),
        ({"optimizer": {"learning_rate": math.inf}}, "optimizer.learning_rate must be finite, got inf"),
        ({"optimizer": {"epsilon": math.inf}}, "optimizer.epsilon must be finite, got inf"),
        ({"optimizer": {"warmup": math.inf}}, "optimizer.warmup must be finite, got inf"),
        ({"optimizer": {"warmup": -math.inf}}, "optimizer.warmup must be at least 0, got -inf"),
        ({"optimizer": {"max_grad_norm": 0}}, "optimizer.max_grad_norm must be above 0, got 0"),
        (
            {"optimizer": {"groups": [{"pattern": "a", "learning_rate": -1}]}},
            r"optimizer.groups\[0\].learning_rate must be at least 0, got -1",
        ),
        (
            {"optimizer": {"groups": [{"pattern": "a", "learning_rate": math.inf}]}},
            r"optimizer.groups\[0\].learning_rate must be finite, got inf",
        ),
    ],
)
def test_wrong_values_name_their_place(content, message):
    with pytest.raises(ValueError, match=message):
        make_arguments(content)


def test_recipe_files(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("optimizer: {learning_rate: 1e-4}\nloop: {epochs: 3, seed: 1}\nsmoke: {loop: {steps: 2}}\n")
    assert read_recipe(path) == {"optimizer": {"learning_rate": 1e-4}, "loop": {"epochs": 3, "seed": 1}}
    assert read_recipe(path, smoke=True)["loop"] == {"epochs": 3, "seed": 1, "steps": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [("loop: {", "is not a YAML file"), ("- 1", "sections of a recipe"), ("loop: {}", "no section `smoke`")],
)
def test_damaged_recipe_files(tmp_path, text, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_recipe(path, smoke=True)


def test_merging():
    assert merged({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"c": 3}, "d": [2]}) == {"a": {"b": 1, "c": 3}, "d": [2]}
    assert merged({"a": {"b": 1}}, {"a": {}}) == {"a": {}}
    assert merged({}, {"a": {"b": 1}}) == {"a": {"b": 1}}


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("loop.epochs=3", {"loop": {"epochs": 3, "seed": 1}}),
        ("loop.seed=1e-3", {"loop": {"seed": 1e-3}}),
        (
            "model.config.window={num_frames: 2}",
            {"loop": {"seed": 1}, "model": {"config": {"window": {"num_frames": 2}}}},
        ),
        ("title=", {"loop": {"seed": 1}, "title": None}),
        ("loop.precision=no", {"loop": {"seed": 1, "precision": "no"}}),  # false in YAML 1.1
        ("lora.enabled=true", {"loop": {"seed": 1}, "lora": {"enabled": True}}),
    ],
)
def test_single_settings(setting, expected):
    assert changed({"loop": {"seed": 1}}, setting) == expected


@pytest.mark.parametrize("setting", ["loop.epochs", "=3", "a={"])
def test_wrong_settings(setting):
    with pytest.raises(ValueError, match=r"loop.epochs=3|is not YAML"):
        changed({}, setting)
