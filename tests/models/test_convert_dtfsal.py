# SPDX-License-Identifier: Apache-2.0
"""Names of published weights and ours, and from files to a model folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from dtfsal_weights import LAYOUTS, layout, mvitv2_checkpoint, mvitv2_weights
from released_files import TINY_CONFIGS
from seeded_weights import seeded_input, seeded_tensor
from transformers import AutoModel, AutoProcessor

from video_saliency.backbones.mvitv2 import MViTv2Encoder
from video_saliency.backbones.vggish import VGGishEncoder
from video_saliency.checkpoints import StateDict, drop
from video_saliency.conversion import convert_checkpoint
from video_saliency.models.dtfsal.configuration_dtfsal import DTFSalConfig
from video_saliency.models.dtfsal.convert_dtfsal import (
    CONVERTER,
    convert_mvitv2,
    convert_vggish,
    make_config,
    mvitv2_name,
    vggish_name,
)
from video_saliency.models.dtfsal.modeling_dtfsal import DTFSalForVideoSaliency

SOURCES = CONVERTER.sources
WEIGHT = torch.zeros(1)
AUDIO = {"audio_encoder.convolutions.0.bias": WEIGHT}
TINY = TINY_CONFIGS["dtfsal"]


def on_meta(names: str) -> StateDict:
    with torch.device("meta"):
        return {name: torch.empty(shape) for name, shape in layout(names).items()}


def shapes_of(tensors: StateDict) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in tensors.items()}


def tiny_vggish() -> StateDict:
    """A small VGGish by the names of the port, with what is left of its head."""
    numbers = (0, 3, 6, 8, 11, 13)
    weights = VGGishEncoder(TINY["audio_channels"]).state_dict()
    port = {f"features.{numbers[int(name.split('.')[1])]}.{name.split('.')[2]}": name for name in weights}
    checkpoint = {theirs: seeded_tensor(theirs, tuple(weights[ours].shape)) for theirs, ours in port.items()}
    return {**checkpoint, "embeddings.0.weight": torch.zeros(3, 5), "embeddings.0.bias": torch.zeros(3)}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A config, a small MViTv2 and a small VGGish as files."""
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    torch.save(mvitv2_checkpoint("tiny"), tmp_path / "mvitv2.pth")
    torch.save(tiny_vggish(), tmp_path / "vggish.pth")
    return {name: tmp_path / name for name in ("config.json", "mvitv2.pth", "vggish.pth")}


@pytest.mark.parametrize("names", LAYOUTS)
def test_all_mvitv2_names_of_three_layouts(names: str) -> None:
    checkpoint = on_meta(f"mvitv2_{names}")
    assert len(checkpoint) == 397
    kept, dropped = drop(checkpoint, SOURCES["encoder"].dropped)
    assert len(dropped) == 2 and all("head" in name for name in dropped)
    with torch.device("meta"):
        expected = shapes_of(MViTv2Encoder().state_dict())
    for stage in range(3):  # not in the files
        del expected[f"norms.{stage}.weight"], expected[f"norms.{stage}.bias"]
    assert shapes_of(convert_mvitv2(kept)) == expected


def test_the_parts_of_blocks_are_not_mixed_up():
    names = {  # torchvision, PySlowFast, ours
        ("attn.pool_k.pool.weight", "attn.pool_k.weight"): "attention.pool_key.convolution.weight",
        ("attn.pool_v.norm_act.0.bias", "attn.norm_v.bias"): "attention.pool_value.norm.bias",
        ("attn.pool_q.norm_act.0.weight", "attn.norm_q.weight"): "attention.pool_query.norm.weight",
        ("attn.rel_pos_t", "attn.rel_pos_t"): "attention.relative_time",
        ("attn.rel_pos_h", "attn.rel_pos_h"): "attention.relative_row",
        ("attn.rel_pos_w", "attn.rel_pos_w"): "attention.relative_column",
        ("attn.project.0.bias", "attn.proj.bias"): "attention.output.bias",
        ("project.weight", "proj.weight"): "shortcut.weight",
        ("mlp.0.weight", "mlp.fc1.weight"): "mlp.fc1.weight",
        ("mlp.3.bias", "mlp.fc2.bias"): "mlp.fc2.bias",
        ("norm1.weight", "norm1.weight"): "norm1.weight",
    }
    for theirs, ours in names.items():
        for name in theirs:
            assert mvitv2_name(f"blocks.14.{name}") == f"blocks.14.{ours}"
            assert mvitv2_name(f"backbone.blocks.14.{name}") == f"blocks.14.{ours}"
    for spelling in ("conv_proj", "patch_embed.proj", "patch_embed.project", "backbone.patch_embed.projection"):
        assert mvitv2_name(f"{spelling}.bias") == "patch_embedding.bias"
    assert mvitv2_name("norm.weight") == mvitv2_name("backbone.norm3.weight") == "norms.3.weight"
    assert mvitv2_name("backbone.norm1.weight") == "norms.1.weight"


@pytest.mark.parametrize(
    "name",
    ["blocks.0.attn.pool_x.weight", "blocks.0.attn.rel_pos_d", "blocks.x.norm1.weight", "norm4.weight", "head.weight"],
)
def test_unknown_names_stay_so_that_they_are_reported(name):
    assert mvitv2_name(name) == name


def test_all_vggish_names():
    kept, dropped = drop(on_meta("vggish_layout"), SOURCES["audio"].dropped)
    assert len(dropped) == 6
    with torch.device("meta"):
        assert shapes_of(convert_vggish(kept)) == shapes_of(VGGishEncoder().state_dict())
    assert vggish_name("features.1.weight") == "features.1.weight"
    assert vggish_name("features.13.running_mean") == "features.13.running_mean"


def test_a_weight_that_is_there_twice_is_refused():
    with pytest.raises(ValueError, match="same weight"):
        convert_mvitv2({"norm.weight": WEIGHT, "backbone.norm3.weight": WEIGHT})


@pytest.mark.parametrize(
    ("fields", "tensors", "audio"),
    [
        (None, {"encoder": {}}, False),
        (None, {"encoder": {}, "audio": {}}, True),
        (None, {"model": {"neck.weight": WEIGHT}}, False),
        (None, {"model": AUDIO}, True),
        ({"audio": True}, {"audio": {}}, True),
        ({"audio": True, "freeze_audio_encoder": False}, {"encoder": {}}, True),
        ({"audio": False}, {"encoder": {}}, False),
    ],
)
def test_the_config_follows_the_sources(fields: dict[str, Any] | None, tensors: dict[str, Any], audio: bool) -> None:
    assert make_config(fields, tensors).audio == audio


@pytest.mark.parametrize(
    ("fields", "tensors", "message"),
    [
        ({"audio": False}, {"audio": {}}, "no place for weights of the audio branch"),
        ({"audio": False}, {"model": AUDIO}, "no place for weights of the audio branch"),
        ({"audio": True}, {"encoder": {}}, "add audio=FILE"),
        ({"num_tokens": 0}, {"encoder": {}}, "num_tokens must be at least 1"),
    ],
)
def test_configs_that_contradict_the_sources_are_refused(
    fields: dict[str, Any], tensors: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_config(fields, tensors)


def test_a_folder_of_both_encoders(files, tmp_path):
    sources = {"encoder": files["mvitv2.pth"], "audio": files["vggish.pth"]}
    record = convert_checkpoint(CONVERTER, sources, tmp_path / "out", config_file=files["config.json"])
    assert record["sources"]["encoder"]["dropped_keys"] == ["head.1.weight", "head.1.bias"]
    assert record["sources"]["encoder"]["optional_keys_left_at_initial_values"] == [
        f"encoder.norms.{stage}.{kind}" for stage in range(3) for kind in ("weight", "bias")
    ]
    assert record["sources"]["audio"]["dropped_keys"] == ["embeddings.0.weight", "embeddings.0.bias"]
    assert {name.split(".")[0] for name in record["initialised"]["keys"]} == {
        "neck",
        "token_blocks",
        "audio_enhancement",
        "audio_fusions",
        "decoder",
    }
    model = AutoModel.from_pretrained(tmp_path / "out")
    assert isinstance(model, DTFSalForVideoSaliency) and model.config.audio
    weights = {**mvitv2_weights("tiny"), **convert_vggish(drop(tiny_vggish(), SOURCES["audio"].dropped)[0])}
    loaded = {**model.encoder.state_dict(), **model.audio_encoder.state_dict()}
    assert all(torch.equal(loaded[name], value) for name, value in weights.items())
    assert all((loaded[f"norms.{stage}.weight"] == 1).all() for stage in range(3))
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    assert processor.size == {"height": 224, "width": 384}
    assert processor.audio_spec == model.config.audio_spec


@pytest.mark.parametrize("names", ["slowfast", "mmaction2"])
def test_wrapped_files_give_the_same_encoder(names, files, tmp_path):
    """The small network by other names, with what such files hold beside it."""
    theirs, ours = on_meta(f"mvitv2_{names}"), mvitv2_weights("tiny")
    checkpoint = {name: ours[mvitv2_name(name)] for name in theirs if mvitv2_name(name) in ours}
    wide = ["blocks.5.shortcut.weight", "blocks.5.shortcut.bias"]  # of the small network only
    checkpoint |= {name.replace("shortcut", "proj"): ours[name] for name in wide}
    missing = [name for name in ours if name not in map(mvitv2_name, checkpoint)]
    assert missing == []
    wrapper, beside = {
        "slowfast": ("model_state", {"epoch": 200, "optimizer_state": {"state": {}}, "cfg": "TRAIN: True"}),
        "mmaction2": ("state_dict", {"meta": {"epoch": 200}}),
    }[names]
    torch.save({wrapper: checkpoint, **beside}, tmp_path / "wrapped.pth")
    for name in ("mvitv2.pth", "wrapped.pth"):
        sources = {"encoder": tmp_path / name}
        record = convert_checkpoint(CONVERTER, sources, tmp_path / f"{name}.out", config_file=files["config.json"])
    assert record["sources"]["encoder"]["wrapper"] == wrapper
    assert record["sources"]["encoder"]["ignored_entries"] == sorted(beside)
    models = [AutoModel.from_pretrained(tmp_path / f"{name}.out").eval() for name in ("mvitv2.pth", "wrapped.pth")]
    assert not models[0].config.audio
    frames = seeded_input("converted", (1, 8, 3, 32, 48))
    with torch.no_grad():
        first, second = (model(frames).saliency_maps for model in models)
    assert torch.equal(first, second)


def test_weights_that_are_missing_or_unknown_are_named(files, tmp_path):
    checkpoint = dict(mvitv2_checkpoint("tiny"))
    del checkpoint["blocks.3.attn.rel_pos_t"]
    checkpoint["blocks.3.attn.rel_pos_x"] = WEIGHT
    torch.save(checkpoint, files["mvitv2.pth"])
    with pytest.raises(ValueError) as error:
        convert_checkpoint(
            CONVERTER, {"encoder": files["mvitv2.pth"]}, tmp_path / "out", config_file=files["config.json"]
        )
    assert "missing: encoder.blocks.3.attention.relative_time" in str(error.value)
    assert "unused: blocks.3.attn.rel_pos_x" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_state_dict_of_the_whole_model(files, tmp_path):
    torch.manual_seed(0)
    model = DTFSalForVideoSaliency(DTFSalConfig(**TINY)).eval()
    torch.save(model.state_dict(), tmp_path / "model.pth")
    record = convert_checkpoint(
        CONVERTER, {"model": tmp_path / "model.pth"}, tmp_path / "out", config_file=files["config.json"]
    )
    assert record["initialised"]["keys"] == []
    loaded = AutoModel.from_pretrained(tmp_path / "out").state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in model.state_dict().items())


def test_terms_name_where_weights_are_from():
    assert "Kinetics-400" in SOURCES["encoder"].terms({}).text
    assert "YouTube" in SOURCES["audio"].terms({}).text
    assert all(source.terms({}).licence is None for source in SOURCES.values())
