# SPDX-License-Identifier: Apache-2.0
"""Names and shapes of the released files, and conversions from files to maps."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel
from typer.testing import CliRunner
from visage_weights import GOLDEN, layout, tiny_backbone, tiny_clip, tiny_expert

from video_saliency.checkpoints import drop, take_part
from video_saliency.cli.info import describe
from video_saliency.cli.main import app
from video_saliency.conversion import convert_checkpoint
from video_saliency.loading import load_model, load_processor
from video_saliency.models.visage.configuration_visage import ViSAGEConfig
from video_saliency.models.visage.convert_visage import CONVERTER, base_layer_name, make_config
from video_saliency.models.visage.modeling_visage import ViSAGEForVideoSaliency

# what files do not tell; the reference maps are 224 x 224, and of the GELU by tanh although all adapters are in use
TINY = {"backbone_heads": 4, "output_size": [224, 224], "backbone_activation": "gelu_pytorch_tanh"}
CLIP_LORA = "encoder.vision_encoder.base_model.model.clip_projector.cross_attn.proj"


def released_backbone(tensors: dict[str, torch.Tensor], folder: Path) -> Path:
    """A file as the released one: under `model`, with other encoders, and settings of a class that is not there."""
    module, settings_class = ModuleType("utils.easydict"), type("EasyDict", (dict,), {})
    settings_class.__module__, module.EasyDict = "utils.easydict", settings_class
    settings = settings_class(model=settings_class(vision_encoder={"name": "6B"}))
    settings.rate = 1e-4  # attributes, too
    content = {
        "model": {
            **{f"vision_encoder.{name}": value for name, value in tensors.items()},
            "text_encoder.embeddings.weight": torch.ones(3, 2),
            "audio_encoder.layers.0.weight": torch.ones(2, 2),
            "temp": torch.tensor(0.07),
        },
        "config": settings,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "utils", ModuleType("utils"))
        patch.setitem(sys.modules, "utils.easydict", module)
        torch.save(content, folder / "backbone.pt")
    return folder / "backbone.pt"


def without_effect(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Adapters of the MLP as the fused layers leave them: the second factor is zero."""
    return {name: value * 0 if ".mlp.fc" in name and ".lora_B." in name else value for name, value in tensors.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small files of all three sources, and a config."""
    folder = tmp_path_factory.mktemp("visage")
    released_backbone(tiny_backbone(), folder)
    for number in (1, 2):
        torch.save(tiny_expert(number), folder / f"expert{number}.pth")
    (folder / "config.json").write_text(json.dumps(TINY))
    return folder


def convert(folder: Path, output: Path, *sources: str, config: str | None = "config.json", **options: Any) -> Any:
    files = {name: folder / (f"{name}.pth" if name != "backbone" else "backbone.pt") for name in sources}
    config_file = None if config is None else folder / config
    return convert_checkpoint(CONVERTER, files, output, config_file=config_file, **options)


def on_meta(name: str) -> dict[str, torch.Tensor]:
    return {key: torch.empty(shape, device="meta") for key, shape in layout(name).items()}


def test_all_names_and_shapes_of_the_released_files(monkeypatch):
    """Nothing of 29 GB is held: shapes only."""
    names = {"backbone": "internvideo2_6b", "expert1": "expert1", "expert2": "expert2"}
    counts = {"backbone": (671, 43), "expert1": (472, 4), "expert2": (488, 2)}
    converted = {}
    for source, name in names.items():
        tensors = on_meta(name)
        kept, dropped = drop(tensors, CONVERTER.sources[source].dropped)
        assert (len(tensors), len(dropped)) == counts[source]
        converted[source] = CONVERTER.sources[source].convert(kept)
    monkeypatch.setattr("video_saliency.models.visage.convert_visage._adapts_mlp", lambda tensors: False)
    config = make_config(None, converted)
    assert config.to_dict() == ViSAGEConfig().to_dict(), "the released files make the default config"
    with torch.device("meta"):
        model = ViSAGEForVideoSaliency(config)
    expected = {name: value.shape for name, value in model.state_dict().items()}
    found = {f"backbone.{name}": value.shape for name, value in converted["backbone"].items()}
    found |= {name: value.shape for expert in ("expert1", "expert2") for name, value in converted[expert].items()}
    assert {base_layer_name(name, expected): shape for name, shape in found.items()} == expected
    assert sum(map(len, converted.values())) == len(found)
    for source, entry in CONVERTER.sources.items():
        (place,) = entry.places(config)
        fills = {name for name in found if name.startswith(place) and entry.fills(name.removeprefix(place))}
        assert fills == {place + name for name in converted[source]}


def test_what_is_dropped_of_the_released_files():
    backbone = drop(on_meta("internvideo2_6b"), CONVERTER.sources["backbone"].dropped)[1]
    assert {name.split(".")[0] for name in backbone} == {
        "clip_pos_embed",
        "clip_projector",
        "clip_decoder",
        "final_clip_decoder",
    }
    adapters = [f"{CLIP_LORA}.lora_{part}.default.weight" for part in "AB"]
    grids = ["decoder.center_bias.xx", "decoder.center_bias.yy"]
    assert sorted(drop(on_meta("expert1"), CONVERTER.sources["expert1"].dropped)[1]) == sorted(adapters + grids)
    assert sorted(drop(on_meta("expert2"), CONVERTER.sources["expert2"].dropped)[1]) == adapters


def test_files_become_the_maps_of_the_published_code(folder, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        record = convert(folder, tmp_path / "out", "backbone", "expert1", "expert2")
    assert "adapters of mlp.fc1 or mlp.fc2 in expert1 and expert2 are not zero" in caplog.text
    assert "backbone_activation='gelu_pytorch_tanh', which is kept" in caplog.text
    backbone = record["sources"]["backbone"]
    assert (backbone["wrapper"], backbone["ignored_entries"]) == ("model", ["config"])
    assert backbone["keys"] == len(tiny_backbone()) + 3
    others = ["text_encoder.embeddings.weight", "audio_encoder.layers.0.weight", "temp"]
    assert backbone["dropped_keys"][-3:] == others and "clip_pos_embed" in backbone["dropped_keys"]
    assert backbone["tensors_in_model"] == 4 + 4 * 13 and record["initialised"]["keys"] == []
    model, report = AutoModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report.values()), report
    assert model.config.expert_names == ["expert1", "expert2"]
    assert [expert["lora"]["r"] for expert in model.config.experts] == [4, 4]
    assert [expert["lora"]["alpha"] for expert in model.config.experts] == [8, 8]
    processor = load_processor(str(tmp_path / "out"))
    assert processor.size == {"height": 56, "width": 56} and processor.image_mean[0] == 0.48145466
    golden = load_file(GOLDEN / "encoder_tiny.safetensors")
    with torch.no_grad():
        outputs = model.eval()(tiny_clip(4)[:1].transpose(1, 2), output_hidden_states=True)
    last = outputs.hidden_states[3].flatten(2).mT
    torch.testing.assert_close(last, golden["lora.enc_layer3"][:, 1:], atol=5e-5, rtol=0)
    for number in (1, 2):
        maps = outputs.expert_maps[:, :, number - 1, ::8, ::8]
        torch.testing.assert_close(maps, golden[f"lora.e{number}.map"][:, 0], atol=2e-5, rtol=0)


def test_the_command_chooses_the_exact_gelu_where_adapters_say_so(folder, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"backbone_heads": 4}))
    sources = ["--source", f"backbone={folder / 'backbone.pt'}", "--source", f"expert2={folder / 'expert2.pth'}"]
    options = ["--config", str(tmp_path / "config.json"), "--output", str(tmp_path / "out"), "--dtype", "bfloat16"]
    result = CliRunner().invoke(app, ["convert", "visage", *sources, *options])
    assert result.exit_code == 0, result.output
    model = load_model(str(tmp_path / "out"))
    assert model.config.backbone_activation == "gelu" and model.config.expert_names == ["expert2"]
    assert model.dtype == torch.bfloat16 and model.config.dtype == torch.bfloat16
    base = model.backbone.blocks[0].attn.qkv
    assert base.base_layer.weight.dtype == torch.bfloat16 and base.lora_A["expert2"].weight.dtype == torch.float32
    assert model.backbone.patch_embed.position_table.dtype == torch.float32
    assert {value.dtype for value in model.experts.parameters()} == {torch.float32}
    expected = tiny_expert(2)
    name = "encoder.vision_encoder.base_model.model.blocks.0.block.attn.qkv.lora_A.default.weight"
    assert torch.equal(base.lora_A["expert2"].weight, expected[name])
    weight = tiny_backbone()["blocks.0.attn.qkv.weight"]
    assert torch.equal(base.base_layer.weight, weight.bfloat16())
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert stored["backbone.blocks.3.mlp.fc2.base_layer.weight"].dtype == torch.bfloat16
    assert stored["backbone.blocks.3.mlp.fc2.lora_B.expert2.weight"].dtype == torch.float32
    assert "  beside the weights, not read: config" in result.output


@pytest.mark.parametrize(
    ("effective", "activation", "words"),
    [
        ((), "gelu_pytorch_tanh", []),
        ((1, 2), "gelu", ["in expert1 and expert2 are not zero", "the model gets backbone_activation='gelu'"]),
        ((2,), "gelu", ["in expert2 are not zero", "those in expert1 are: convert them to a model of their own"]),
    ],
)
def test_the_activation_follows_the_adapters_of_the_mlp(caplog, effective, activation, words):
    tensors = {}
    for number in (1, 2):
        expert = tiny_expert(number)
        kept = drop(expert if number in effective else without_effect(expert), CONVERTER.sources["expert1"].dropped)[0]
        tensors[f"expert{number}"] = CONVERTER.sources[f"expert{number}"].convert(kept)
    with caplog.at_level(logging.WARNING):
        config = make_config({"backbone_depth": 4}, tensors)
    assert config.backbone_activation == activation
    assert all(word in caplog.text for word in words) and bool(caplog.text) == bool(words)


def test_files_of_stage_1_have_no_adapters(folder, tmp_path):
    torch.save(tiny_expert(1, lora=False), tmp_path / "expert1.pth")
    files = {"backbone": folder / "backbone.pt", "expert1": tmp_path / "expert1.pth"}
    convert_checkpoint(CONVERTER, files, tmp_path / "out", config_file=folder / "config.json")
    model = load_model(str(tmp_path / "out"))
    assert model.config.experts[0]["lora"] is None
    assert isinstance(model.backbone.blocks[0].attn.qkv, torch.nn.Linear)
    # the values of the layout's stage 2 without adapters; features are those of the encoder alone
    golden = load_file(GOLDEN / "encoder_tiny.safetensors")["enc4.layer3"]
    with torch.no_grad():
        states = model(tiny_clip(4).transpose(1, 2), output_hidden_states=True).hidden_states
    torch.testing.assert_close(states[-1].flatten(2).mT, golden[:, 1:], atol=1e-5, rtol=1e-5)


def test_the_backbone_alone_is_where_training_starts(folder, tmp_path):
    small = {"reduced_dim": 8, "dim": 8}
    experts = [{"name": "first", "type": "modulated", "options": small, "lora": {"r": 2, "alpha": 4}}]
    (tmp_path / "config.json").write_text(json.dumps({**TINY, "experts": experts}))
    record = convert_checkpoint(
        CONVERTER,
        {"backbone": folder / "backbone.pt"},
        tmp_path / "out",
        config_file=tmp_path / "config.json",
        dtype=torch.bfloat16,
    )
    initial = record["initialised"]["keys"]
    assert initial and all(name.startswith("experts.first.") or ".lora_" in name for name in initial)
    model = load_model(str(tmp_path / "out"))
    layer = model.backbone.blocks[1].mlp.fc1
    assert not layer.lora_B["first"].weight.any() and layer.lora_A["first"].weight.any()
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_the_table_is_for_as_many_frames_as_the_config_says(folder, tmp_path):
    """The length of a position table is frames times places; the file does not tell which."""
    tensors = tiny_backbone()
    table = tensors["pos_embed"]
    tensors["pos_embed"] = torch.cat([table, table[:, 1:]], dim=1)
    experts = [{"name": "first", "type": "modulated", "options": {"reduced_dim": 8, "dim": 8}}]
    (tmp_path / "config.json").write_text(json.dumps({**TINY, "backbone_table_frames": 8, "experts": experts}))
    files = {"backbone": released_backbone(tensors, tmp_path)}
    convert_checkpoint(CONVERTER, files, tmp_path / "out", config_file=tmp_path / "config.json")
    model = load_model(str(tmp_path / "out"))
    assert (model.config.image_size, model.config.backbone_table_frames) == (56, 8)
    assert torch.equal(model.backbone.patch_embed.position_table, tensors["pos_embed"])
    (tmp_path / "wrong.json").write_text(json.dumps({**TINY, "backbone_table_frames": 0}))
    with pytest.raises(ValueError, match="backbone_table_frames must be 1 or more, got 0"):
        convert_checkpoint(CONVERTER, files, tmp_path / "other", config_file=tmp_path / "wrong.json")


def changed(tensors: dict[str, torch.Tensor], change: str) -> dict[str, torch.Tensor]:
    if change == "unknown":
        return {**tensors, "decoder.sixth.weight": torch.zeros(2)}
    if change == "missing":
        return {name: value for name, value in tensors.items() if name != "dim_reducers.0.bias"}
    return {**tensors, "decoder.proj17.weight": torch.zeros(16, 31, 1, 1, 1)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("unknown", r"expert1=e\.pth does not fit the model; unused: decoder\.sixth\.weight$"),
        ("missing", r"missing: experts\.expert1\.reducers\.0\.bias$"),
        ("misshapen", r"misshapen: experts\.expert1\.projections\.2\.weight is \[16, 31, 1, 1, 1\] and should be"),
    ],
)
def test_files_that_do_not_fit_are_refused(folder, tmp_path, change, message):
    torch.save(changed(tiny_expert(1), change), tmp_path / "e.pth")
    files = {"backbone": folder / "backbone.pt", "expert1": tmp_path / "e.pth"}
    with pytest.raises(ValueError, match=message):
        convert_checkpoint(CONVERTER, files, tmp_path / "out", config_file=folder / "config.json")
    assert not (tmp_path / "out").exists()


def test_an_expert_without_a_place_is_refused(folder, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**TINY, "experts": [{"name": "mine", "type": "modulated"}]}))
    files = {"backbone": folder / "backbone.pt", "expert1": folder / "expert1.pth"}
    with pytest.raises(ValueError, match=r"expert1=expert1\.pth: a model of this config has no place for it"):
        convert_checkpoint(CONVERTER, files, tmp_path / "out", config_file=tmp_path / "config.json")


def test_experts_without_their_backbone_are_refused(folder, tmp_path, monkeypatch):
    """Before any file is read: nobody wants an expert of a random backbone."""
    monkeypatch.setattr("video_saliency.conversion.read_checkpoint", lambda *arguments, **options: pytest.fail("read"))
    message = r"without the source backbone \(InternVideo2 .*\) the model would hold random .*: add backbone=FILE"
    for names in (["expert1"], ["expert1", "expert2"]):
        with pytest.raises(ValueError, match=message):
            convert(folder, tmp_path / "out", *names)
    source, output = f"expert2={folder / 'expert2.pth'}", str(tmp_path / "out")
    result = CliRunner().invoke(app, ["convert", "visage", "--source", source, "--output", output])
    assert result.exit_code == 2 and "add backbone=FILE" in result.output.replace("\n", " ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wrapper", ["model", "module", None])
@pytest.mark.parametrize("prefix", ["vision_encoder.", ""])
def test_forms_of_the_backbones_file(folder, tmp_path, wrapper, prefix):
    tensors = {f"{prefix}{name}": value for name, value in tiny_backbone().items()}
    torch.save({wrapper: tensors} if wrapper else tensors, tmp_path / "backbone.pt")
    files = {"backbone": tmp_path / "backbone.pt", "expert1": folder / "expert1.pth"}
    record = convert_checkpoint(CONVERTER, files, tmp_path / "out", config_file=folder / "config.json")
    assert record["sources"]["backbone"]["tensors_in_model"] == 4 + 4 * 13


def test_the_cost_of_the_released_model_is_told_before_it_is_loaded():
    rows = describe(ViSAGEConfig(), {"height": 224, "width": 224}, "cpu", make_model=ViSAGEForVideoSaliency)
    assert rows["parameters"] == "6,299,280,649"
    # two passes of 48 blocks: four products with weights and two among 5121 tokens
    blocks = 2 * 48 * (5121 * 3200 * 3200 * 12 + 2 * 5121 * 5121 * 3200) * 2
    gflop = float(rows["GFLOP a map"].split()[0])
    assert 1.0 < gflop / (blocks / 20 / 1e9) < 1.1  # adapters and experts come on top
    weights, half = (float(rows[name].split()[0]) / 2**10 for name in ("memory", "  in bfloat16"))
    assert weights == pytest.approx(6_299_280_649 * 4 / 2**30, rel=1e-3)
    assert 11.5 < half < 12.6 and rows["window"] == "20 frames, 0.2 s apart"


def test_a_part_of_a_larger_model():
    tensors = {name: torch.zeros(1) for name in ("a.x", "a.y", "b.x")}
    assert list(take_part(tensors, "a.")[0]) == ["x", "y"] and take_part(tensors, "a.")[1] == ["b.x"]
    assert take_part(tensors, "c.") == (tensors, [])
    assert take_part(tensors, "") == (tensors, [])
