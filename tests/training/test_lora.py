# SPDX-License-Identifier: Apache-2.0
"""Adapters in every architecture: what is trained, that folders load by themselves, that merging changes nothing."""

from __future__ import annotations

import copy
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from training_factory import losses, reset_accelerate, run, tiny_arguments, tiny_content
from transformers import AutoModel, pipeline

from video_saliency.defaults import DEFAULT_MODEL
from video_saliency.loading import load_config, load_model, load_processor
from video_saliency.models.visage.configuration_visage import ViSAGEConfig
from video_saliency.models.visage.modeling_visage import ViSAGEForVideoSaliency
from video_saliency.predictor import VideoSaliencyPredictor
from video_saliency.training.callbacks import TrainerCallback
from video_saliency.training.lora import (
    LORA_TARGETS,
    adapter_base,
    add_lora,
    decoder_modules,
    lora_targets,
    merge_adapter,
    resolved_base,
)
from video_saliency.training.recipe_files import make_arguments, merged, read_recipe
from video_saliency.training.training_arguments import LoraArguments
from video_saliency.training.training_model import TrainingModel, build_model, open_model
from video_saliency.training.training_run import RunOptions, train_recipe

RECIPES = Path(__file__).parents[2] / "examples" / "recipes"
RECIPE_OF = {
    "gfsalnet_saliency": "gfsalnet_video",
    "salfom_saliency": "salfom",
    "dtfsal_saliency": "dtfsal_audiovisual",
    "visage_saliency": "visage_expert1_stage1",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def tiny_model(model_type: str, tmp_path: Path, **lora):
    content = read_recipe(RECIPES / f"{RECIPE_OF[model_type]}.yaml", smoke=True)
    content["lora"] = {"enabled": True, "rank": 2, **lora}
    content["data"] = {}
    return build_model(make_arguments(content), tmp_path)


@pytest.mark.parametrize("model_type", sorted(LORA_TARGETS))
def test_adapters_are_in_the_backbone_and_the_decoder_is_trained_whole(model_type, tmp_path):
    training = tiny_model(model_type, tmp_path)
    targets = lora_targets(model_type)
    plain = load_model(training.base)
    trained = {name for name, value in training.model.named_parameters() if value.requires_grad}
    adapted = {name.split(".lora_")[0].removeprefix("base_model.model.") for name in trained if ".lora_" in name}
    assert adapted == {name for name, _ in plain.named_modules() if re.fullmatch(targets.modules, name)} != set()
    backbone = [name for name, _ in plain.named_modules() if re.fullmatch(targets.backbone, name)]
    decoder = {n for n, _ in plain.named_parameters() if not any(n.startswith(f"{b}.") for b in backbone)}
    whole = {re.sub(r"^base_model\.model\.|\.modules_to_save\.default", "", n) for n in trained if ".lora_" not in n}
    assert whole == decoder


@pytest.mark.parametrize("model_type", sorted(LORA_TARGETS))
def test_frozen_weights_can_be_held_in_bfloat16(model_type, tmp_path):
    content = read_recipe(RECIPES / f"{RECIPE_OF[model_type]}.yaml", smoke=True)
    content = merged(content, {"lora": {"enabled": True}, "model": {"dtype": "bfloat16"}, "data": {}})
    with pytest.raises(ValueError, match="set loop.precision=bf16, or drop model.dtype"):
        build_model(make_arguments(merged(content, {"loop": {"precision": "no"}})), tmp_path / "a")
    arguments = make_arguments(merged(content, {"loop": {"precision": "bf16"}}))
    parameters = list(build_model(arguments, tmp_path / "b").model.parameters())
    assert {value.dtype for value in parameters if value.requires_grad} == {torch.float32}
    assert torch.bfloat16 in {value.dtype for value in parameters if not value.requires_grad}


def test_batch_norms_train_beside_weights_in_bfloat16(data, tmp_path):
    changes = {"lora": {"enabled": True, "rank": 2}, "model": {"dtype": "bfloat16"}, "loop": {"precision": "bf16"}}
    run(tiny_arguments(data, **changes), tmp_path)
    assert len(losses(tmp_path)) == 6


@pytest.mark.parametrize("model_type", sorted(LORA_TARGETS))
def test_adapter_folders_load_and_merge(model_type, tmp_path):
    training = tiny_model(model_type, tmp_path)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in training.model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn_like(parameter))
    training.save(tmp_path / "adapter")
    merge_adapter(tmp_path / "adapter", tmp_path / "merged")

    clip = torch.randn(1, training.config.window_spec.num_frames, 3, *training.map_size)
    inputs = {"pixel_values_videos": clip}
    if (spec := getattr(training.config, "audio_spec", None)) is not None:
        inputs["audio_values"] = torch.randn(1, spec.num_slices, 1, *spec.size)
    loaded = {
        "peft": PeftModel.from_pretrained(AutoModel.from_pretrained(training.base), tmp_path / "adapter"),
        "auto": AutoModel.from_pretrained(tmp_path / "adapter"),
        "strict": load_model(str(tmp_path / "adapter")),
        "merged": load_model(str(tmp_path / "merged")),
    }
    with torch.no_grad():
        expected = training.model.eval()(**inputs).saliency_maps
        maps = {name: model.eval()(**inputs).saliency_maps for name, model in loaded.items()}
        base = load_model(training.base)(**inputs).saliency_maps
    for name in ("peft", "auto", "strict"):
        assert torch.allclose(maps[name], expected, atol=2e-6, rtol=1e-5), name
    assert torch.allclose(maps["merged"], expected, atol=1e-5, rtol=1e-5)
    assert (base - expected).abs().max() > 1e-3
    assert load_processor(str(tmp_path / "adapter")).size == training.processor.size


def test_experts_trained_alone_become_one_model(tmp_path):
    size = {"backbone_dim": 16, "backbone_depth": 4, "backbone_heads": 2, "image_size": 28}
    options = {"reduced_dim": 8, "dim": 8}
    kinds = {"one": "modulated", "two": "multiscale"}
    experts = [{"name": name, "type": kind, "lora": None, "options": options} for name, kind in kinds.items()]
    both = ViSAGEForVideoSaliency(ViSAGEConfig(**size, experts=experts)).eval()
    clip, alone = torch.randn(1, 20, 3, 28, 28), []
    for name in kinds:
        model = copy.deepcopy(both)
        model.keep_experts([name])
        model.save_pretrained(tmp_path / f"base {name}")
        adapted = add_lora(model, LoraArguments(enabled=True, rank=2), base=str(tmp_path / f"base {name}")).eval()
        with torch.no_grad():
            for parameter in (value for value in adapted.parameters() if value.requires_grad):
                parameter.add_(0.02 * torch.randn_like(parameter))
            alone.append(adapted(clip).saliency_maps)
        adapted.save_pretrained(tmp_path / name)

    for name in kinds:
        both.load_expert_adapter(name, tmp_path / name)

    with torch.no_grad():
        maps = both(clip).expert_maps
    torch.testing.assert_close(maps, torch.stack(alone, dim=2), atol=2e-6, rtol=1e-5)
    with pytest.raises(ValueError, match="holds another expert than 'two' is"):
        both.load_expert_adapter("two", tmp_path / "one")
    with pytest.raises(ValueError, match="no expert 'three'"):
        both.load_expert_adapter("three", tmp_path / "one")


def test_a_trained_adapter_runs_in_the_pipeline(data, tmp_path):
    arguments = tiny_arguments(
        data,
        lora={"enabled": True, "rank": 2, "merge": True},
        model={"config": {"streams": "both"}},
        optimizer={"groups": [{"pattern": "lora_", "learning_rate": 1e-2}]},
    )
    trainer = run(arguments, tmp_path)
    folder = tmp_path / "model"
    assert {path.name for path in folder.iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    frames = np.random.default_rng(0).integers(0, 255, (3, 40, 60, 3), dtype=np.uint8)
    maps = pipeline("video-saliency", model=str(folder), device="cpu")(frames)["saliency_maps"]
    base = pipeline("video-saliency", model=trainer.training.base, device="cpu")(frames)["saliency_maps"]
    assert maps.shape == (3, 40, 60) and not torch.allclose(maps, base)
    # what the trainer holds in memory is what was written
    held = VideoSaliencyPredictor(trainer.training.network, trainer.training.processor, device="cpu")
    expected = torch.stack([torch.as_tensor(frame.saliency_map) for frame in held.stream(frames)])
    torch.testing.assert_close(maps, expected, atol=2e-6, rtol=1e-5)
    state = load_file(folder / "adapter_model.safetensors")
    assert any(".lora_B." in name and value.abs().max() > 0 for name, value in state.items())
    checkpoint = load_file(tmp_path / "checkpoints" / "step-00000006" / "model.safetensors")
    assert not any(name.endswith("base_layer.weight") for name in checkpoint)  # frozen weights are not kept twice


TWO_STREAMS = {"streams": "both", "flow_backend": "lucas_kanade", "flow_remove_camera": False}


def first_models(data: Path, folder: Path) -> dict[str, str]:
    """Folders of untrained models: two of one stream, one of two streams."""
    changes: dict[str, dict[str, Any]] = {
        "one": {"loop": {"seed": 1}},
        "other": {"loop": {"seed": 2}},
        "both": {"model": {"config": TWO_STREAMS}},
    }
    for name, change in changes.items():
        open_model(tiny_arguments(data, **change)).save(folder / name)
    return {name: str(folder / name) for name in changes}


class Hold(TrainerCallback):
    """Keeps the trainer of a run."""

    def on_start(self, trainer):
        self.trainer = trainer


# the model of `first_models` that a run starts from, and what its recipe changes of it
CHANGED_BASES = {
    "nothing": ("one", {}),
    "model.weights_from": ("one", {"weights_from": {r"streams\.appearance\.trunk\..*": "other"}}),
    "model.copy_appearance": ("both", {"copy_appearance": True}),
    "model.first_gate": ("both", {"first_gate": 2.0}),
    "model.config.output_activation": ("one", {"config": {"output_activation": "relu"}}),
    "model.config.streams": ("one", {"config": TWO_STREAMS, "new_layers": [r"streams\.motion\..*", r"fusion\..*"]}),
    "the same config": ("both", {"config": TWO_STREAMS}),
}


def changed_content(data: Path, names: dict[str, str], change: str) -> dict[str, Any]:
    first, model = CHANGED_BASES[change]
    weights = {pattern: names[name] for pattern, name in model.get("weights_from", {}).items()}
    lora = {"enabled": True, "rank": 2, "merge": True}
    content = tiny_content(data, lora=lora, loop={"steps": 2}, optimizer={"learning_rate": 1e-3})
    return {**content, "model": {"name_or_path": names[first], **model, "weights_from": weights}}


@pytest.mark.parametrize("change", CHANGED_BASES)
def test_a_run_writes_the_model_that_it_trained(data, tmp_path, change):
    names = first_models(data, tmp_path)
    content, hold, output = changed_content(data, names, change), Hold(), tmp_path / "run"
    (tmp_path / "recipe.yaml").write_text(json.dumps(content))
    reset_accelerate()
    train_recipe(RunOptions(tmp_path / "recipe.yaml", output), callbacks=[hold])
    is_changed = change.startswith("model.")
    assert (output / "base").exists() == is_changed
    assert adapter_base(output / "model") == (str(output / "base") if is_changed else content["model"]["name_or_path"])
    clip = {"pixel_values_videos": torch.randn(1, 2, 3, 32, 48)}
    if hold.trainer.training.config.streams == "both":
        clip["flow_values"] = torch.randn(1, 2, 3, 32, 48)
    with torch.no_grad():
        trained = hold.trainer.training.model.eval()(**clip).saliency_maps
        written = {name: load_model(str(output / name))(**clip).saliency_maps for name in ("model", "merged")}
    torch.testing.assert_close(written["model"], trained, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(written["merged"], written["model"], atol=1e-5, rtol=1e-5)


def test_another_base_is_not_named_for_adapters_of_a_changed_model(data, tmp_path):
    names = first_models(data, tmp_path)
    for change in CHANGED_BASES:
        content = merged(changed_content(data, names, change), {"lora": {"base_model": "someone/base"}})
        if change.startswith("model."):
            with pytest.raises(ValueError, match=rf"someone/base is not .*{change}.* change .*drop lora.base_model"):
                build_model(make_arguments(content), tmp_path / change)
        else:
            build_model(make_arguments(content), tmp_path / change).save(tmp_path / "adapter")
            assert adapter_base(tmp_path / "adapter") == "someone/base"
        assert not (tmp_path / change / "base").exists()
    fresh = tiny_arguments(data, lora={"enabled": True, "base_model": "someone/base"})
    with pytest.raises(ValueError, match="it starts from fresh weights"):
        build_model(fresh, tmp_path / "fresh")


def test_the_embedded_model_is_a_base_by_its_folder():
    assert resolved_base("default") == str(Path(DEFAULT_MODEL).resolve())
    assert resolved_base("someone/base") == "someone/base"


def test_an_adapter_loads_from_everywhere(data, tmp_path, monkeypatch):
    first_models(data, tmp_path)
    monkeypatch.chdir(tmp_path)
    for name, lora in (("adapter", {}), ("named", {"base_model": "other"})):
        content = tiny_content(data, lora={"enabled": True, "rank": 2, **lora})
        training = build_model(make_arguments({**content, "model": {"name_or_path": "one"}}), tmp_path)
        training.save(tmp_path / name)
    training.model.save_pretrained("by hand")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for name, base in (("adapter", "one"), ("named", "other"), ("by hand", "one")):
        assert adapter_base(tmp_path / name) == str(tmp_path / base)
        load_model(str(tmp_path / name))
    merge_adapter(tmp_path / "adapter", tmp_path / "merged")


@pytest.mark.parametrize("is_adapted", [False, True])
def test_training_does_not_start_from_an_adapter(data, tmp_path, is_adapted):
    build_model(tiny_arguments(data, lora={"enabled": True, "rank": 2}), tmp_path).save(tmp_path / "adapter")
    content = tiny_content(data, lora={"enabled": is_adapted})
    for config in ({}, {"output_activation": "relu"}):
        content["model"] = {"name_or_path": str(tmp_path / "adapter"), "config": config}
        with pytest.raises(ValueError, match=r"adapter is an adapter: start from the merged model.*lora\.merge=true"):
            open_model(make_arguments(content))


def test_a_run_with_adapters_goes_on(data, tmp_path):
    changes = {"lora": {"enabled": True, "rank": 2, "dropout": 0.1}}
    run(tiny_arguments(data, **changes), tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "half")
    shutil.rmtree(tmp_path / "half" / "checkpoints" / "step-00000006")
    shutil.rmtree(tmp_path / "half" / "model")
    run(tiny_arguments(data, **changes), tmp_path / "half")
    assert losses(tmp_path / "half") == losses(tmp_path / "whole")
    first, second = (load_file(tmp_path / name / "model" / "adapter_model.safetensors") for name in ("whole", "half"))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("mistake", [{"data": {"augmentation": "foo"}}, {"model": {"freeze": ["wings"]}}])
def test_the_base_is_that_of_the_run_and_not_of_a_try_before_it(data, tmp_path, mistake):
    with pytest.raises(ValueError, match=r"augmentation|freeze"):
        run(tiny_arguments(data, lora={"enabled": True}, loop={"seed": 0}, **mistake), tmp_path)
    arguments = tiny_arguments(data, lora={"enabled": True, "rank": 2}, loop={"seed": 7, "steps": 1})
    trainer = run(arguments, tmp_path)
    expected, base = open_model(arguments).model.state_dict(), load_model(trainer.training.base).state_dict()
    assert all(torch.equal(expected[name], value) for name, value in base.items())


def test_a_base_appears_when_it_is_whole(data, tmp_path, monkeypatch):
    arguments = tiny_arguments(data, lora={"enabled": True, "rank": 2}, loop={"steps": 1})
    save = TrainingModel.save

    def save_half(self, folder, **options):
        save(self, folder, **options)
        (folder / "model.safetensors").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(TrainingModel, "save", save_half)
        with pytest.raises(KeyboardInterrupt):
            run(arguments, tmp_path)
    assert not (tmp_path / "base").exists()
    (tmp_path / ".base.tmp").rename(tmp_path / "base")  # as versions before left it
    run(arguments, tmp_path)
    load_model(str(tmp_path / "model"))


def test_statistics_of_the_backbone_stay(data, tmp_path):
    trainer = run(tiny_arguments(data, lora={"enabled": True, "rank": 2}, loop={"steps": 2}), tmp_path)
    base = load_model(trainer.training.base)
    own = dict(trainer.training.network.named_buffers())
    for name, value in base.named_buffers():
        if "running" in name and ".trunk." in name:
            assert torch.equal(value, own[name]), name


def test_wrong_targets_and_architectures(data, tmp_path):
    with pytest.raises(ValueError, match="no list of LoRA targets for bert"):
        lora_targets("bert")
    training = build_model(tiny_arguments(data), tmp_path)
    with pytest.raises(ValueError, match="No modules were targeted"):
        add_lora(training.model, LoraArguments(targets="nothing"), base="base")
    with pytest.raises(ValueError, match="no module of the model matches"):
        decoder_modules(training.model, "encoder")


def test_loading_an_adapter_names_what_is_wrong(tmp_path):
    training = tiny_model("gfsalnet_saliency", tmp_path)
    training.save(tmp_path / "adapter")
    assert load_config(str(tmp_path / "adapter")).model_type == "gfsalnet_saliency"
    settings = tmp_path / "adapter" / "adapter_config.json"
    content = json.loads(settings.read_text())
    settings.write_text(json.dumps({**content, "base_model_name_or_path": str(tmp_path / "gone")}))
    message = r"gone', which cannot be loaded: set base_model_name_or_path in adapter_config\.json .*no folder"
    with pytest.raises(ValueError, match=message):
        load_model(str(tmp_path / "adapter"))
    with pytest.raises(ValueError, match=message):
        merge_adapter(tmp_path / "adapter", tmp_path / "merged")
    settings.write_text(json.dumps(content))
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    state = load_file(weights)
    state.pop(next(name for name in state if "lora_B" in name))
    save_file(state, weights, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="missing keys"):
        load_model(str(tmp_path / "adapter"))
    with pytest.raises(ValueError, match="is no adapter"):
        merge_adapter(training.base, tmp_path / "merged")
