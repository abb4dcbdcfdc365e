# SPDX-License-Identifier: Apache-2.0
"""A loaded model is the one that the recipe means, and keeps what the recipe does not change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import video_saliency
from video_saliency.loading import load_processor
from video_saliency.training.recipe_files import make_arguments, merged, read_recipe
from video_saliency.training.training_model import TrainingModel, open_model

RECIPES = Path(__file__).parents[2] / "examples" / "recipes"


def open_recipe(name: str, **changes: Any) -> TrainingModel:
    """The miniature model of a recipe with other settings of its section `model`."""
    content = read_recipe(RECIPES / f"{name}.yaml", smoke=True)
    return open_model(make_arguments({"model": merged(content["model"], changes)}))


def test_a_model_of_another_architecture_is_refused():
    message = "trains a salfom_saliency model .* is a gfsalnet_saliency model: start from another one"
    with pytest.raises(ValueError, match=message):
        open_recipe("salfom", name_or_path=video_saliency.DEFAULT_MODEL)
    unnamed = make_arguments({"model": {"name_or_path": video_saliency.DEFAULT_MODEL}})
    assert open_model(unnamed).config.model_type == "gfsalnet_saliency"


def test_a_preset_must_be_that_of_the_loaded_model(tmp_path):
    loaded = {"name_or_path": str(tmp_path)}
    open_recipe("salfom").save(tmp_path)
    small = {"encoder_dim": 16, "encoder_depth": 2, "encoder_heads": 2}
    for config, names in (({}, "encoder_dim, .*num_frames"), (small, "num_frames")):
        section = {"architecture": "salfom_saliency", "preset": "umt_base", "config": config, **loaded}
        with pytest.raises(
            ValueError, match=f"'umt_base' is not what .* differs in {names}, window: set model.preset"
        ):
            open_model(make_arguments({"model": section}))
    assert open_recipe("salfom", preset="umt_base", **loaded).config.encoder_dim == 16
    with pytest.raises(ValueError, match="SalFoMConfig has no preset 'tiny'"):
        open_recipe("salfom", preset="tiny", **loaded)


def test_fields_of_a_wrong_type_are_told(tmp_path):
    message = "config.*field 'cc_loss_weight': .*got str"
    with pytest.raises(ValueError, match=message):
        open_recipe("salfom", config={"cc_loss_weight": "much"})
    open_recipe("salfom").save(tmp_path)
    with pytest.raises(ValueError, match=f"{message}.* Take a recipe that leaves the config as it is"):
        open_recipe("salfom", config={"cc_loss_weight": "much"}, name_or_path=str(tmp_path))
    assert open_recipe("salfom", config={"cc_loss_weight": 2}).config.cc_loss_weight == 2


def test_a_recipe_with_a_preset_goes_on_with_the_model_of_its_first_step(tmp_path):
    open_recipe("default_appearance").save(tmp_path)
    assert len(open_recipe("default_fusion", name_or_path=str(tmp_path)).model.streams) == 2
    larger = {"preset": "compact", "name_or_path": str(tmp_path)}  # without the recipe's own small encoder
    with pytest.raises(ValueError, match="'compact' is not what .* differs in encoder_config: set"):
        open_model(make_arguments({"model": larger}))


def test_a_processor_keeps_what_the_recipe_does_not_change(tmp_path):
    first = open_recipe("salfom")
    first.save(tmp_path)
    processor = {"size": {"height": 64, "width": 96}, "image_mean": [0.0, 0.0, 0.0]}
    second = open_model(make_arguments({"model": {"name_or_path": str(tmp_path), "processor": processor}})).processor
    assert first.processor.published_maps is not None
    assert second.to_dict() == {**first.processor.to_dict(), **processor}


def test_a_processor_prepares_the_sound_of_its_model(tmp_path):
    open_recipe("dtfsal_visual").save(tmp_path / "visual")
    assert load_processor(str(tmp_path / "visual")).audio_spec is None
    both = open_recipe("dtfsal_audiovisual", name_or_path=str(tmp_path / "visual"))
    both.save(tmp_path / "both")
    assert load_processor(str(tmp_path / "both")).audio_spec == both.config.audio_spec is not None
    other = {"name_or_path": str(tmp_path / "both"), "config": {"audio_hop_frames": 5}}
    assert open_model(make_arguments({"model": other})).processor.audio_spec.hop_frames == 5
