# SPDX-License-Identifier: Apache-2.0
"""From files of other projects to model folders: strict, whole or not at all, with a record."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pwcnet_weights import GOLDEN, nvidia_checkpoint, pwcnet_checkpoint
from safetensors.torch import load_file, save_file
from seeded_weights import seeded_input, seeded_tensor
from transformers import AutoModel, AutoProcessor, ResNetConfig
from typer.testing import CliRunner

from video_saliency import GFSalNetConfig, GFSalNetForVideoSaliency
from video_saliency.backbones.resnet import ResNetTrunk
from video_saliency.cli.main import app
from video_saliency.conversion import convert_checkpoint
from video_saliency.loading import load_model
from video_saliency.models.gfsalnet.convert_gfsalnet import CONVERTER, resnet_name

TINY_ENCODER = {
    "layer_type": "basic",
    "embedding_size": 4,
    "hidden_sizes": [4, 6, 8, 10],
    "depths": [1, 1, 1, 1],
    "model_type": "resnet",
}
TINY = {
    "encoder_config": TINY_ENCODER,
    "main_deconv": [[6, 4, 2, 1], [4, 8, 4, 2]],
    "multi_level_deconv": [[4, 3, 1, 1]],
    "channel_attention_reduction": 1,
}
# torchvision's names of the tiny trunk, by hand
TORCHVISION_PREFIXES = {
    "conv1.": "embedder.embedder.convolution.",
    "bn1.": "embedder.embedder.normalization.",
    **{
        f"layer{stage + 1}.0.{theirs}.": f"encoder.stages.{stage}.layers.0.{ours}."
        for stage in range(4)
        for theirs, ours in {
            "conv1": "layer.0.convolution",
            "bn1": "layer.0.normalization",
            "conv2": "layer.1.convolution",
            "bn2": "layer.1.normalization",
            "downsample.0": "shortcut.convolution",
            "downsample.1": "shortcut.normalization",
        }.items()
    },
}


def torchvision_resnet() -> dict[str, torch.Tensor]:
    """A tiny ResNet by torchvision's names, with its head."""
    trunk = ResNetTrunk(ResNetConfig(**TINY_ENCODER)).state_dict()
    checkpoint = {}
    for theirs, ours in TORCHVISION_PREFIXES.items():
        for name, value in trunk.items():
            if name.startswith(ours):
                checkpoint[theirs + name.removeprefix(ours)] = seeded_tensor(name, tuple(value.shape))
    assert len(checkpoint) == len(trunk)
    return {**checkpoint, "fc.weight": torch.zeros(5, 10), "fc.bias": torch.zeros(5)}


@pytest.fixture(scope="module")
def pwcnet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "pwcnet.pth"
    torch.save(pwcnet_checkpoint(), path)
    return path


@pytest.fixture
def files(tmp_path: Path, pwcnet_file: Path) -> dict[str, Path]:
    """A config, a torchvision ResNet and a PWC-Net as files."""
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    torch.save(torchvision_resnet(), tmp_path / "resnet.pth")
    paths = {name: tmp_path / name for name in ("config.json", "resnet.pth")}
    return {**paths, "pwcnet.pth": pwcnet_file}


def convert(files: dict[str, Path], output: Path, **sources: Path) -> dict[str, Any]:
    return convert_checkpoint(CONVERTER, sources, output, config_file=files["config.json"])


def test_backbone_and_flow_become_a_model_that_loads(tmp_path, files):
    record = convert(files, tmp_path / "out", backbone=files["resnet.pth"], flow=files["pwcnet.pth"])
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"config.json", "model.safetensors", "processor_config.json", "conversion.json", "README.md"}
    model, report = AutoModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert isinstance(model, GFSalNetForVideoSaliency) and not any(report.values())
    assert model.config.flow_backend == "pwcnet"
    assert AutoProcessor.from_pretrained(tmp_path / "out").size == {"height": 480, "width": 640}
    for stream in ("appearance", "motion"):
        for name, value in model.streams[stream].trunk.state_dict().items():
            assert torch.equal(value, seeded_tensor(name, tuple(value.shape)))
    assert torch.equal(model.flow.pyramid[0][0].weight, pwcnet_checkpoint()["moduleExtractor.moduleOne.0.weight"])
    assert not any(parameter.requires_grad for parameter in model.flow.parameters())
    with torch.no_grad():
        outputs = model(torch.rand(1, 2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
        still = model(torch.zeros(1, 2, 3, 64, 64))
    assert outputs.gate_maps.shape == (1, 2, 64, 64) and outputs.saliency_maps.isfinite().all()
    assert still.saliency_maps.isfinite().all()
    assert record == json.loads((tmp_path / "out" / "conversion.json").read_text())


def test_the_record_and_the_card_say_where_all_is_from(tmp_path, files):
    record = convert(files, tmp_path / "out", backbone=files["resnet.pth"], flow=files["pwcnet.pth"])
    backbone, flow = record["sources"]["backbone"], record["sources"]["flow"]
    assert backbone["file"] == "resnet.pth" and flow["file"] == "pwcnet.pth"
    for entry in (backbone, flow):
        assert entry["sha256"] == hashlib.sha256(files[entry["file"]].read_bytes()).hexdigest()
    assert backbone["dropped_keys"] == ["fc.weight", "fc.bias"]
    assert (backbone["keys"], backbone["tensors_in_model"]) == (len(torchvision_resnet()), 2 * 72)
    assert (flow["keys"], flow["tensors_in_model"], flow["licence"]) == (126, 126, "cc-by-nc-sa-4.0")
    initial = record["initialised"]["keys"]
    assert "streams.motion.head.layers.0.weight" in initial and "fusion.projection.weight" in initial
    assert not any(".trunk." in name or name.startswith("flow.") for name in initial)
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlicense: cc-by-nc-sa-4.0\n")
    for words in (backbone["sha256"], flow["sha256"], "resnet.pth", "pwcnet.pth", "non-commercial", "Train the model"):
        assert words in card
    assert str(tmp_path) not in card + json.dumps(record)


def test_equal_sources_give_equal_bytes_and_the_seed_decides_the_rest(tmp_path, files):
    def weights(name: str, seed: int) -> bytes:
        sources = {"backbone": files["resnet.pth"]}
        convert_checkpoint(CONVERTER, sources, tmp_path / name, config_file=files["config.json"], seed=seed)
        return (tmp_path / name / "model.safetensors").read_bytes()

    state = torch.random.get_rng_state()
    first, second, other = weights("a", 0), weights("b", 0), weights("c", 1)
    assert first == second
    assert first != other
    assert torch.equal(torch.random.get_rng_state(), state), "the caller's generator is left alone"


@pytest.mark.parametrize("spelling", ["net", "NVIDIA", "safetensors"])
def test_other_spellings_of_pwcnet_give_the_same_flow(tmp_path, files, spelling):
    checkpoint = nvidia_checkpoint() if spelling == "NVIDIA" else pwcnet_checkpoint()
    if spelling == "net":
        checkpoint = {name.replace("module", "net"): value for name, value in checkpoint.items()}
    path = tmp_path / ("other.safetensors" if spelling == "safetensors" else "other.pth.tar")
    if spelling == "safetensors":
        save_file(checkpoint, path)
    else:
        torch.save({"state_dict": checkpoint}, path)
    record = convert(files, tmp_path / "other", flow=path)
    assert record["sources"]["flow"]["dropped_keys"] == (
        ["deconv2.weight", "deconv2.bias"] if spelling == "NVIDIA" else []
    )
    convert(files, tmp_path / "port", flow=files["pwcnet.pth"])
    stored = [load_file(tmp_path / name / "model.safetensors") for name in ("other", "port")]
    assert all(torch.equal(stored[0][name], value) for name, value in stored[1].items() if name.startswith("flow."))


def test_a_model_file_is_taken_whole(tmp_path, files):
    torch.manual_seed(4)
    model = GFSalNetForVideoSaliency(GFSalNetConfig(**TINY)).eval()
    torch.save({"model": model.state_dict(), "epoch": 7}, tmp_path / "best.pt")
    record = convert(files, tmp_path / "out", model=tmp_path / "best.pt")
    loaded = load_model(str(tmp_path / "out"))
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())
    assert record["initialised"]["keys"] == []
    assert record["sources"]["model"]["ignored_entries"] == ["epoch"]
    assert "Not trained" not in (tmp_path / "out" / "README.md").read_text()
    # PWC-Net is added to a model that was trained with its flow
    record = convert(files, tmp_path / "both", model=tmp_path / "best.pt", flow=files["pwcnet.pth"])
    assert record["initialised"]["keys"] == []
    again = tmp_path / "both" / "model.safetensors"  # a file of our own is a source as well
    assert convert(files, tmp_path / "again", model=again)["sources"]["model"]["licence"] == "cc-by-nc-sa-4.0"
    with pytest.raises(ValueError, match=r"model=best.pt does not fit the model; unused: .*trunk"):
        convert(files, tmp_path / "twice", model=tmp_path / "best.pt", backbone=files["resnet.pth"])


def test_half_precision_on_request(tmp_path, files):
    sources = {"backbone": files["resnet.pth"]}
    record = convert_checkpoint(
        CONVERTER, sources, tmp_path / "out", config_file=files["config.json"], dtype=torch.bfloat16
    )
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.bfloat16, torch.int64}
    assert record["dtype"] == "bfloat16"
    assert load_model(str(tmp_path / "out")).dtype == torch.bfloat16


def test_counters_may_be_missing_and_nothing_else(tmp_path, files):
    checkpoint = torchvision_resnet()
    old = {name: value for name, value in checkpoint.items() if not name.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "old.pth")
    record = convert(files, tmp_path / "out", backbone=tmp_path / "old.pth")
    left_out = record["sources"]["backbone"]["optional_keys_left_at_initial_values"]
    assert len(left_out) == 2 * (len(checkpoint) - len(old))
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert not any(stored[name].any() for name in left_out)
    assert not set(left_out) & set(record["initialised"]["keys"])


def test_every_key_that_does_not_fit_is_listed_and_nothing_is_written(tmp_path, files):
    checkpoint, flow = torchvision_resnet(), pwcnet_checkpoint()
    del checkpoint["layer2.0.bn1.running_mean"], checkpoint["layer4.0.conv2.weight"]
    checkpoint |= {"layer5.0.conv1.weight": torch.zeros(1), "conv1.weight": torch.zeros(4, 3, 3, 3)}
    flow["moduleTwo.moduleTen.0.bias"] = flow.pop("moduleTwo.moduleTwo.0.bias")
    torch.save(checkpoint, tmp_path / "bad.pth")
    torch.save(flow, tmp_path / "flow.pth")
    with pytest.raises(ValueError, match="does not fit the model") as error:
        convert(files, tmp_path / "out", backbone=tmp_path / "bad.pth", flow=tmp_path / "flow.pth")
    message = str(error.value)
    for stream in ("appearance", "motion"):
        prefix = f"streams.{stream}.trunk."
        assert f"{prefix}encoder.stages.1.layers.0.layer.0.normalization.running_mean" in message
        assert f"{prefix}encoder.stages.3.layers.0.layer.1.convolution.weight" in message
        assert f"{prefix}embedder.embedder.convolution.weight is [4, 3, 3, 3] and should be [4, 3, 7, 7]" in message
    assert "unused: layer5.0.conv1.weight" in message
    assert "missing: flow.decoders.4.dense.1.bias; unused: moduleTwo.moduleTen.0.bias" in message
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "resnet.pth", "bad.pth", "flow.pth"}


def test_a_folder_appears_whole_or_not_at_all(tmp_path, files, monkeypatch):
    def fail(*args: object, **options: object) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk is full"):
        patch.setattr("video_saliency.conversion.write_shards", fail)
        convert(files, tmp_path / "deep" / "out", backbone=files["resnet.pth"])
    assert list((tmp_path / "deep").iterdir()) == []
    leftover = tmp_path / "deep" / ".out.tmp"  # of a killed run
    leftover.mkdir()
    (leftover / "junk").write_text("old")
    (tmp_path / "deep" / "out").mkdir()  # an empty folder is as good as none
    convert(files, tmp_path / "deep" / "out", backbone=files["resnet.pth"])
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]
    with pytest.raises(ValueError, match="is not empty: name a new folder"):
        convert(files, tmp_path / "deep" / "out", backbone=files["resnet.pth"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON file"),
        ("[1]", "no config of a gfsalnet_saliency model"),
        ('{"model_type": "resnet"}', "no config of a gfsalnet_saliency model"),
        ('{"stream": "both", "fussion": "conv"}', "does not know: fussion, stream"),
        ('{"streams": "three"}', "streams must be one of"),
    ],
)
def test_wrong_configs_are_refused(tmp_path, files, text, message):
    files["config.json"].write_text(text)
    with pytest.raises(ValueError, match=message):
        convert(files, tmp_path / "out", backbone=files["resnet.pth"])


def test_a_saved_config_may_be_used(tmp_path, files):
    GFSalNetConfig(**TINY, streams="motion").save_pretrained(tmp_path / "saved")
    files["config.json"] = tmp_path / "saved" / "config.json"
    record = convert(files, tmp_path / "out", backbone=files["resnet.pth"])
    assert record["sources"]["backbone"]["tensors_in_model"] == 72


# the stored outputs are of both layouts, each seeded by its own names
@pytest.mark.parametrize("layout", ["torchvision", "transformers"])
def test_resnet50_files_of_both_layouts_give_the_stored_features(tmp_path, layout):
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in ResNetTrunk(ResNetConfig()).state_dict().items()}
    names = {name: name for name in shapes}
    if layout == "torchvision":
        names = {theirs: resnet_name(theirs) for theirs in json.loads((GOLDEN / "resnet50_names.json").read_text())}
    checkpoint = {theirs: seeded_tensor(theirs, shapes[ours]) for theirs, ours in names.items()}
    if layout == "torchvision":
        checkpoint |= {"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}
        torch.save(checkpoint, tmp_path / "resnet50.pth")
    else:
        checkpoint = {f"resnet.{name}": value for name, value in checkpoint.items()}
        checkpoint |= {"classifier.1.weight": torch.zeros(1000, 2048), "classifier.1.bias": torch.zeros(1000)}
        save_file(checkpoint, tmp_path / "resnet50.safetensors")
    config = {"streams": "appearance", "multi_level": False, "main_deconv": [[2, 4, 2, 1], [2, 8, 4, 2]]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    source = next(tmp_path.glob("resnet50.*"))
    convert_checkpoint(CONVERTER, {"backbone": source}, tmp_path / "out", config_file=tmp_path / "config.json")

    trunk = AutoModel.from_pretrained(tmp_path / "out").streams["appearance"].trunk
    with torch.no_grad():
        stages = trunk(seeded_input("golden_resnet50.pixel_values", (1, 3, 64, 64)))
    file = {"transformers": "resnet50.safetensors", "torchvision": "resnet50_torchvision.safetensors"}[layout]
    stored = load_file(GOLDEN / file)
    for stage, name in zip(stages, ("stage1", "stage2", "stage3", "stage4"), strict=True):
        step = stage.shape[1] // stored[name].shape[1]  # stored is every n-th channel only
        torch.testing.assert_close(stage[:, ::step], stored[name], atol=1e-4, rtol=1e-4)


def call(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_the_command_says_what_it_made_and_under_which_terms(tmp_path, files):
    options = ("--config", files["config.json"], "--output", tmp_path / "out")
    sources = ("--source", f"backbone={files['resnet.pth']}", "--source", f"flow={files['pwcnet.pth']}")
    code, text = call("convert", "gfsalnet", *sources, *options)
    assert code == 0
    for words in ("resnet.pth", "126 tensors", "dropped: fc.weight, fc.bias", "CC BY-NC-SA 4.0", "non-commercial use"):
        assert words in text
    assert load_model(str(tmp_path / "out")).config.flow_backend == "pwcnet"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gfsal", "--source", "backbone=a.pth"), "unknown system 'gfsal'"),
        (("gfsalnet", "--source", "a.pth"), "write name=FILE"),
        (("gfsalnet", "--source", "backbone="), "write name=FILE"),
        (("gfsalnet", "--source", "trunk=a.pth"), "unknown source 'trunk': use one of backbone, flow, model"),
        (("gfsalnet", "--source", "flow=a.pth", "--source", "flow=b.pth"), "given twice"),
        (("gfsalnet", "--source", "backbone=missing.pth"), "missing.pth does not exist"),
        (("gfsalnet", "--source", "backbone=.", "--config", "missing.json"), "missing.json does not exist"),
        (("gfsalnet", "--source", "backbone=a.pth", "--dtype", "int8"), "dtype 'int8' is unknown"),
    ],
)
def test_wrong_calls_are_one_line_and_exit_code_2(tmp_path, arguments, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, text = call("convert", *arguments, "--output", "out")
    assert code == 2
    assert message in text and len(text.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
