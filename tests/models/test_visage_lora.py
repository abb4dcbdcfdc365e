# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from visage_reference import reference_model
from visage_weights import tiny_clip

from video_saliency.models.visage.configuration_visage import ViSAGEConfig
from video_saliency.models.visage.modeling_visage import ViSAGEForVideoSaliency

GOLDEN = Path(__file__).parents[1] / "golden" / "visage"
SMALL = {"reduced_dim": 12, "dim": 8}
LORA = {"r": 2, "alpha": 4, "dropout": 0.0}
FIELDS = {
    "backbone_dim": 32,
    "backbone_depth": 4,
    "backbone_heads": 2,
    "backbone_drop_path": 0.0,
    "image_size": 28,
    "window": {"num_frames": 3},
}


def tiny_model(names: tuple[str, ...] = ("first", "second"), **overrides: Any) -> ViSAGEForVideoSaliency:
    """Experts of both types with adapters that have an effect, and blocks that have one, too."""
    torch.manual_seed(0)
    types = {"first": "modulated", "second": "multiscale"}
    experts = [{"name": name, "type": types[name], "options": SMALL, "lora": LORA} for name in names]
    model = ViSAGEForVideoSaliency(ViSAGEConfig(**{**FIELDS, "experts": experts, **overrides})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.any() or name.endswith("scale"):
                parameter.normal_(std=0.3)
    return model


def maps_of(model: ViSAGEForVideoSaliency, frames: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(frames).expert_maps


def adapters_of(model: torch.nn.Module, name: str) -> dict[str, torch.Tensor]:
    return {key: value for key, value in model.named_parameters() if f".{name}.weight" in key and "lora_" in key}


FRAMES = torch.randn(2, 3, 3, 28, 28, generator=torch.Generator().manual_seed(1))


def test_adapters_equal_the_reference() -> None:
    model, golden = reference_model(lora=True), load_file(GOLDEN / "experts.safetensors")
    with torch.no_grad():
        outputs = model(tiny_clip(4)[:1].transpose(1, 2), output_hidden_states=True)
    features = outputs.hidden_states[3].flatten(2).mT
    torch.testing.assert_close(features, golden["lora.enc_layer3"][:, 1:], atol=5e-5, rtol=1e-5)
    for index, name in enumerate(("lora.e1.map", "lora.e2.map")):
        maps = outputs.expert_maps[:, :, index, ::8, ::8]
        torch.testing.assert_close(maps, golden[name][:, 0], atol=5e-6, rtol=0)


def test_merged_adapters_equal_the_reference(tmp_path: Path) -> None:
    model = reference_model(lora=True, experts=("expert1",))
    model.merge_adapter()
    model.save_pretrained(tmp_path)
    loaded = ViSAGEForVideoSaliency.from_pretrained(tmp_path)
    assert not any("lora" in name or "base_layer" in name for name in loaded.state_dict())
    assert loaded.config.experts[0]["lora"] is None
    with torch.no_grad():
        maps = loaded(tiny_clip(4)[:1].transpose(1, 2)).saliency_maps[..., ::8, ::8]
    expected = load_file(GOLDEN / "experts.safetensors")["lora.e1.map"][:, 0]
    torch.testing.assert_close(maps, expected, atol=5e-5, rtol=0)


def test_the_released_adapters() -> None:
    with torch.device("meta"):
        model = ViSAGEForVideoSaliency(ViSAGEConfig(backbone_depth=4, experts=ViSAGEConfig(backbone_depth=4).experts))
    lora = model.config.experts[0]["lora"]
    assert lora == {"r": 64, "alpha": 128, "dropout": 0.05, "targets": ["qkv", "proj", "fc1", "fc2"]}
    shapes = {name: tuple(value.shape) for name, value in adapters_of(model, "expert1").items()}
    assert shapes["backbone.patch_embed.proj.lora_A.expert1.weight"] == (64, 3, 1, 14, 14)
    assert shapes["backbone.patch_embed.proj.lora_B.expert1.weight"] == (3200, 64, 1, 1, 1)
    assert shapes["backbone.blocks.3.mlp.fc2.lora_A.expert1.weight"] == (64, 12800)
    assert len(shapes) == 2 * (1 + 4 * 4)
    layer = model.backbone.blocks[0].attn.qkv
    assert layer.scaling == {"expert1": 2.0, "expert2": 2.0} and layer.lora_dropout["expert1"].p == 0.05
    # of all 48 blocks, and the adapter of an attention pool that the released files hold and nobody runs
    block = sum(value.numel() for name, value in adapters_of(model, "expert1").items() if "blocks.0." in name)
    patches = sum(value.numel() for name, value in adapters_of(model, "expert1").items() if "patch_embed" in name)
    assert round((48 * block + patches + 64 * (3200 + 768)) / 1e6, 2) == 157.78


def test_two_experts_hold_the_backbone_once() -> None:
    def storage(model: torch.nn.Module) -> int:
        storages = {value.untyped_storage().data_ptr(): value.untyped_storage() for value in model.parameters()}
        return sum(entry.nbytes() for entry in storages.values())

    one, two = tiny_model(("first",)), tiny_model()
    further = sum(value.nbytes for value in two.experts["second"].parameters())
    further += sum(value.nbytes for value in adapters_of(two, "second").values())
    assert storage(two) == storage(one) + further
    base = [value for name, value in two.backbone.named_parameters() if "lora_" not in name]
    assert sum(value.numel() for value in base) == sum(
        value.numel() for value in tiny_model((), experts=[{"name": "a", "type": "modulated"}]).backbone.parameters()
    )


def test_each_expert_runs_with_its_own_adapter() -> None:
    model = tiny_model()
    both = maps_of(model, FRAMES)
    for index, name in enumerate(("first", "second")):
        alone = tiny_model()
        alone.keep_experts([name])
        assert not any(adapters_of(alone, other) for other in {"first", "second"} - {name})
        assert alone.config.expert_names == [name]
        torch.testing.assert_close(maps_of(alone, FRAMES)[:, :, 0], both[:, :, index])
    with torch.no_grad():
        for value in adapters_of(model, "second").values():
            value.zero_()
    changed = maps_of(model, FRAMES)
    assert torch.equal(changed[:, :, 0], both[:, :, 0]) and not torch.allclose(changed[:, :, 1], both[:, :, 1])


def test_an_expert_without_an_adapter_beside_one_with() -> None:
    experts = [
        {"name": "first", "type": "modulated", "options": SMALL, "lora": LORA},
        {"name": "plain", "type": "multiscale", "options": SMALL},
    ]
    model = tiny_model(experts=experts)
    before = maps_of(model, FRAMES)
    model.config.active_experts = ["plain"]
    torch.testing.assert_close(maps_of(model, FRAMES)[:, :, 0], before[:, :, 1])
    with torch.no_grad():
        for value in adapters_of(model, "first").values():
            value.zero_()
    torch.testing.assert_close(maps_of(model, FRAMES)[:, :, 0], before[:, :, 1])


@pytest.mark.parametrize("recomputed", [False, True])
def test_both_adapters_get_their_gradients(recomputed: bool) -> None:
    labels = {"saliency_labels": torch.rand(2, 3, 28, 28)}
    expected: dict[str, torch.Tensor] = {}
    for name in ("first", "second"):
        alone = tiny_model().train()
        alone.config.active_experts = [name]
        alone(FRAMES, **labels).loss.backward()
        expected |= {key: value.grad for key, value in adapters_of(alone, name).items()}
    model = tiny_model().train()
    if recomputed:
        model.activation_checkpointing_enable()
    model(FRAMES, **labels).loss.backward()
    found = {key: value.grad for name in ("first", "second") for key, value in adapters_of(model, name).items()}
    assert found.keys() == expected.keys() and all(value is not None and value.any() for value in found.values())
    for key, value in found.items():
        torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=1e-6)
    base = [value for key, value in model.backbone.named_parameters() if "lora_" not in key]
    assert all(value.grad is None and not value.requires_grad for value in base)


def test_what_is_trained_does_not_depend_on_the_pass() -> None:
    model = tiny_model().train()
    for value in adapters_of(model, "first").values():
        value.requires_grad_(False)
    model(FRAMES, saliency_labels=torch.rand(2, 3, 28, 28)).loss.backward()
    assert all(value.grad is None for value in adapters_of(model, "first").values())
    assert all(value.grad is not None and value.requires_grad for value in adapters_of(model, "second").values())


def test_a_folder_holds_the_model_with_all_adapters(tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path)
    loaded, report = ViSAGEForVideoSaliency.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    assert torch.equal(maps_of(loaded, FRAMES), maps_of(model, FRAMES))
    assert loaded.config.to_dict()["experts"] == model.config.to_dict()["experts"]
    trained = {name for name, value in loaded.train().backbone.named_parameters() if value.requires_grad}
    assert trained == {name for name, _ in loaded.backbone.named_parameters() if "lora_" in name}
    halved = ViSAGEForVideoSaliency.from_pretrained(tmp_path, dtype="bfloat16", device_map="auto")
    cast = ViSAGEForVideoSaliency.from_pretrained(tmp_path).to("cpu", torch.bfloat16)
    kinds = {"lora_": torch.float32, "base_layer": torch.bfloat16, "experts.": torch.float32}
    for loaded in (halved, cast, halved.to(device="cpu", dtype=torch.bfloat16)):
        for part, dtype in kinds.items():
            assert {value.dtype for name, value in loaded.named_parameters() if part in name} == {dtype}
        assert all(value.dtype in (torch.float32, torch.int64) for value in loaded.experts.buffers())
        assert torch.equal(loaded.experts["first"].film_beta.weight, model.experts["first"].film_beta.weight)
    assert torch.equal(maps_of(cast, FRAMES.bfloat16()), maps_of(halved, FRAMES.bfloat16()))
    torch.testing.assert_close(maps_of(halved, FRAMES.bfloat16()), maps_of(model, FRAMES), atol=0.05, rtol=0)


def test_missing_adapters_are_initialised_without_effect() -> None:
    model = tiny_model()
    state = {name: value for name, value in model.state_dict().items() if "lora_" not in name}
    loaded = ViSAGEForVideoSaliency.from_pretrained(None, config=model.config, state_dict=state)
    for name, value in {**adapters_of(loaded, "first"), **adapters_of(loaded, "second")}.items():
        assert value.isfinite().all() and bool(value.any()) == ("lora_A" in name)
    plain = ViSAGEForVideoSaliency(ViSAGEConfig(**FIELDS, experts=without_adapters(model.config))).eval()
    plain.load_state_dict({name.replace(".base_layer", ""): value for name, value in state.items()})
    torch.testing.assert_close(maps_of(loaded, FRAMES), maps_of(plain, FRAMES))


def without_adapters(config: ViSAGEConfig) -> list[dict[str, Any]]:
    return [{**entry, "lora": None} for entry in config.experts]


def test_an_adapter_travels_from_model_to_model(tmp_path: Path) -> None:
    model = tiny_model()
    model.save_expert_adapter("second", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert settings["peft_type"] == "LORA" and settings["r"] == 2 and settings["lora_alpha"] == 4
    with torch.no_grad():
        expected = maps_of(model, FRAMES)
        for value in adapters_of(model, "second").values():
            value.normal_()
    model.load_expert_adapter("second", tmp_path)
    torch.testing.assert_close(maps_of(model, FRAMES), expected)
    # into an expert that had none
    model.keep_experts(["second"])
    bare = ViSAGEForVideoSaliency(ViSAGEConfig(**FIELDS, experts=without_adapters(model.config))).eval()
    state = {
        name.replace(".base_layer", ""): value for name, value in model.state_dict().items() if "lora" not in name
    }
    bare.load_state_dict(state)
    assert not torch.allclose(maps_of(bare, FRAMES)[:, :, 0], expected[:, :, 1])
    # PEFT by itself reads the folder, too
    by_peft = PeftModel.from_pretrained(bare, tmp_path)
    torch.testing.assert_close(maps_of(by_peft, FRAMES)[:, :, 0], expected[:, :, 1])
    by_peft.unload()
    bare.load_expert_adapter("second", tmp_path)
    torch.testing.assert_close(maps_of(bare, FRAMES)[:, :, 0], expected[:, :, 1])
    assert bare.config.experts[0]["lora"] == {**LORA, "targets": ["fc1", "fc2", "proj", "qkv"]}


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (["attn.proj"], ["attn.proj"]),
        (["attn.proj", "fc1"], ["attn.proj", "fc1"]),
        (["proj", "attn.qkv"], ["proj", "qkv"]),
        (["1.attn.qkv", "blocks.1.mlp.fc2"], ["1.attn.qkv", "1.mlp.fc2"]),
    ],
)
def test_an_adapter_of_some_layers_is_read_for_these(written: list[str], read: list[str], tmp_path: Path) -> None:
    plain = {"name": "only", "type": "modulated", "options": SMALL}
    model = tiny_model(experts=[{**plain, "lora": {**LORA, "targets": written}}])
    model.save_expert_adapter("only", tmp_path)
    bare = tiny_model(experts=[plain])
    bare.load_expert_adapter("only", tmp_path)
    assert bare.config.experts[0]["lora"]["targets"] == read
    assert set(adapters_of(bare, "only")) == set(adapters_of(model, "only"))
    for name, value in adapters_of(model, "only").items():
        assert torch.equal(adapters_of(bare, "only")[name], value), name
    # a layer of which the file has nothing is noticed
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    first = sorted(tensors)[0].rpartition(".lora_")[0]
    save_file(
        {name: value for name, value in tensors.items() if not name.startswith(f"{first}.")},
        tmp_path / "adapter_model.safetensors",
    )
    with pytest.raises(ValueError, match="differs in .*: its shape is None"):
        bare.load_expert_adapter("only", tmp_path)


def test_an_adapter_can_be_added_for_the_second_stage() -> None:
    model = tiny_model(experts=[{"name": "only", "type": "multiscale", "options": SMALL}])
    before = maps_of(model, FRAMES)
    model.add_expert_adapter("only", r=3, alpha=6)
    assert torch.equal(maps_of(model, FRAMES), before)
    assert model.config.experts[0]["lora"]["r"] == 3
    assert model.config.experts[0]["lora"]["targets"] == ["qkv", "proj", "fc1", "fc2"]
    model.train()(FRAMES, saliency_labels=torch.rand(2, 3, 28, 28)).loss.backward()
    assert all(value.grad is not None for value in adapters_of(model, "only").values())
    with pytest.raises(ValueError, match="has an adapter already"):
        model.add_expert_adapter("only")


def test_use_adapter_switches_the_backbone() -> None:
    model, pixels = tiny_model(), FRAMES.transpose(1, 2)
    results = {}
    with torch.no_grad():
        for name in ("first", "second", None, "first"):
            model.use_adapter(name)
            features = model.backbone(pixels).features[0]
            assert name not in results or torch.equal(results[name], features)
            results[name] = features
    assert not torch.allclose(results["first"], results["second"])
    assert not torch.allclose(results["first"], results[None])


def test_merging_is_done_in_float32_and_for_one_expert() -> None:
    model = tiny_model()
    with pytest.raises(ValueError, match="choose one of first, second with keep_experts first"):
        model.merge_adapter()
    model.keep_experts(["first"])
    before = maps_of(model, FRAMES)
    with pytest.raises(ValueError, match="adapters are merged in float32"):
        tiny_model(("first",)).bfloat16().merge_adapter()
    model.merge_adapter()
    torch.testing.assert_close(maps_of(model, FRAMES), before, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="no adapter to merge"):
        model.merge_adapter()


def test_without_peft_only_adapters_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    model = tiny_model(experts=[{"name": "only", "type": "modulated", "options": SMALL}])
    assert maps_of(model, FRAMES).isfinite().all()
    with pytest.raises(ValueError, match="need the package peft: pip install"):
        tiny_model()


def test_wrong_adapters_say_what_to_do(tmp_path: Path) -> None:
    model = tiny_model(experts=[{"name": "only", "type": "modulated", "options": SMALL}])
    with pytest.raises(ValueError, match="there is no expert 'other': this model has only"):
        model.use_adapter("other")
    with pytest.raises(ValueError, match="has no adapter: use_adapter"):
        model.use_adapter("only")
    with pytest.raises(ValueError, match="has no adapter to save"):
        model.save_expert_adapter("only", tmp_path)
    with pytest.raises(ValueError, match="has no adapter_config.json"):
        model.load_expert_adapter("only", tmp_path)
    with pytest.raises(ValueError, match="name an expert to keep"):
        model.keep_experts([])
    deeper = tiny_model(("first",), backbone_depth=5)
    deeper.save_expert_adapter("first", tmp_path)
    with pytest.raises(ValueError, match="adapts layers that the backbone lacks, such as blocks.4"):
        model.load_expert_adapter("only", tmp_path)


@pytest.mark.parametrize("experts", [None, [{"name": "first", "type": "modulated", "options": SMALL}]])
def test_a_refused_adapter_leaves_the_model_as_it_was(experts: list[dict[str, Any]] | None, tmp_path: Path) -> None:
    """Into an expert with an adapter of its own, and into one without."""
    tiny_model().save_expert_adapter("first", tmp_path / "good")
    tensors = load_file(tmp_path / "good" / "adapter_model.safetensors")
    settings = json.loads((tmp_path / "good" / "adapter_config.json").read_text())
    name = "base_model.model.backbone.blocks.0.attn.proj.lora_A.weight"
    changes: list[tuple[str, dict[str, Any], dict[str, torch.Tensor]]] = [
        (f"{name}: its shape is .1, 32. and must be .2, 32.", {}, {**tensors, name: tensors[name][:1].clone()}),
        (f"{name}: its shape is None", {}, {key: value for key, value in tensors.items() if key != name}),
        ("its shape is .2, 32. and must be .3, 32.", {"r": 3}, tensors),
        ("r of at least 1, dropout in 0..1", {"lora_dropout": 1.0}, tensors),
        ("holds another expert", {}, {**tensors, "base_model.model.experts.first.head.weight": torch.zeros(2)}),
        ("has a rank_pattern or alpha_pattern", {"alpha_pattern": {"qkv": 9}}, tensors),
        ("has a rank_pattern or alpha_pattern", {"rank_pattern": {"qkv": 1}}, tensors),
    ]
    model = tiny_model() if experts is None else tiny_model(experts=experts)
    config, state = model.config.to_dict(), {name: value.clone() for name, value in model.state_dict().items()}
    for message, changed, weights in changes:
        (tmp_path / "bad").mkdir(exist_ok=True)
        (tmp_path / "bad" / "adapter_config.json").write_text(json.dumps({**settings, **changed}))
        save_file(weights, tmp_path / "bad" / "adapter_model.safetensors")
        with pytest.raises(ValueError, match=message):
            model.load_expert_adapter("first", tmp_path / "bad")
        assert model.config.to_dict() == config
        assert list(model.state_dict()) == list(state)
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    model.load_expert_adapter("first", tmp_path / "good")
    assert torch.equal(model.state_dict()["backbone.blocks.0.attn.proj.lora_A.first.weight"], tensors[name])


def test_every_target_of_an_adapter_must_be_there() -> None:
    plain = [{"name": "only", "type": "modulated", "options": SMALL}]
    for targets in (["qkv", "porj"], ["qkv", "attn"], ["kv"]):
        with pytest.raises(
            ValueError, match="ends in the LoRA target '(porj|attn|kv)': choose from fc1, fc2, proj, qkv"
        ):
            tiny_model(experts=[{**plain[0], "lora": {**LORA, "targets": targets}}])
        model = tiny_model(experts=plain)
        with pytest.raises(ValueError, match="LoRA target"):
            model.add_expert_adapter("only", targets=targets)
        assert model.config.experts[0]["lora"] is None
    adapters = adapters_of(tiny_model(experts=[{**plain[0], "lora": {**LORA, "targets": ["attn.proj"]}}]), "only")
    assert len(adapters) == 2 * FIELDS["backbone_depth"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_parts_that_wait_on_disk_give_the_same_maps(dtype: str, tmp_path: Path) -> None:
    """The placement of `device_map="auto"` on a device that is too small."""
    tiny_model().save_pretrained(tmp_path / "model")
    blocks = {f"backbone.blocks.{number}": "disk" for number in range(FIELDS["backbone_depth"])}
    offloaded = ViSAGEForVideoSaliency.from_pretrained(
        tmp_path / "model",
        dtype=dtype,
        device_map={"backbone.patch_embed": "cpu", **blocks, "experts.first": "disk", "experts.second": "cpu"},
        offload_folder=tmp_path / "offloaded",
    )
    assert all(
        value.is_meta for value in [*offloaded.backbone.blocks.parameters(), *offloaded.experts["first"].parameters()]
    )
    whole = ViSAGEForVideoSaliency.from_pretrained(tmp_path / "model", dtype=dtype)
    assert torch.equal(maps_of(offloaded, FRAMES), maps_of(whole, FRAMES))
    whole.save_expert_adapter("first", tmp_path / "adapter")
    changes: list[Any] = [
        lambda: offloaded.save_expert_adapter("first", tmp_path / "other"),
        lambda: offloaded.load_expert_adapter("first", tmp_path / "adapter"),
        lambda: (offloaded.keep_experts(["second"]), offloaded.merge_adapter()),
    ]
    for change in changes:
        with pytest.raises(ValueError, match="wait on disk or in memory .* load the model without device_map"):
            change()
    assert not (tmp_path / "other").exists()
    assert torch.equal(maps_of(offloaded, FRAMES), maps_of(whole, FRAMES)[:, :, 1:])


def test_adapters_join_the_mode_of_the_model(tmp_path: Path) -> None:
    """In a model that is evaluated nothing is dropped."""
    lora = {**LORA, "dropout": 0.5}
    experts = [{"name": "first", "type": "modulated", "options": SMALL, "lora": lora}]
    tiny_model(experts=experts).save_expert_adapter("first", tmp_path)
    model = tiny_model(experts=[{**experts[0], "lora": None}])
    model.load_expert_adapter("first", tmp_path)
    assert not any(module.training for module in model.modules())
    assert torch.equal(maps_of(model, FRAMES), maps_of(model, FRAMES))
    model.train()
    assert not torch.equal(maps_of(model, FRAMES), maps_of(model, FRAMES))
    model = tiny_model(experts=[{**experts[0], "lora": None}]).train()
    model.add_expert_adapter("first", **lora)
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize(
    ("weights", "kept", "expected"),
    [
        ([0.2, 0.5, 0.3], ["third", "first"], [0.3, 0.2]),
        ([0.2, 0.8, 0.0], ["second"], None),  # one alone needs no weight
        ([1.0, 0.0, 0.0], ["second"], None),
        ([1.0, 0.0, 0.0], ["second", "third"], None),  # nothing is known of their weights but that they are equal
        (None, ["second", "third"], None),
    ],
)
def test_fusion_weights_follow_the_experts_that_are_kept(
    weights: list[float] | None, kept: list[str], expected: list[float] | None, tmp_path: Path
) -> None:
    kinds = {"first": "modulated", "second": "multiscale", "third": "multiscale"}
    experts = [{"name": name, "type": kind, "options": SMALL, "lora": LORA} for name, kind in kinds.items()]
    model = tiny_model(experts=experts, fusion_weights=weights, active_experts=["first"])
    model.keep_experts(kept)
    assert model.config.fusion_weights == expected and model.config.active_experts is None
    assert model.config.expert_names == kept and set(model.experts) == set(kept)
    model.save_pretrained(tmp_path)
    loaded = ViSAGEForVideoSaliency.from_pretrained(tmp_path).eval()
    assert torch.equal(maps_of(loaded, FRAMES), maps_of(model, FRAMES))


def test_export_keeps_each_adapter() -> None:
    model = tiny_model()
    program = torch.export.export(model, (), kwargs={"pixel_values_videos": FRAMES}, strict=False)
    other = torch.randn(FRAMES.shape)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(pixel_values_videos=other).expert_maps, maps_of(model, other))


def test_passes_with_all_adapters_are_one_graph() -> None:
    model = tiny_model()
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for frames in (FRAMES, torch.randn(FRAMES.shape)):  # the second one begins with the adapter that ran last
        torch.testing.assert_close(maps_of(compiled, frames), maps_of(model, frames))
    torch.compiler.reset()
