# SPDX-License-Identifier: Apache-2.0
"""Names and shapes of the published files, the list of what is dropped, and a conversion from file to maps."""

from __future__ import annotations

import json

import pytest
import torch
from salfom_weights import DEAD, layout, tiny_salfom_checkpoint, tiny_salfom_state, tiny_umt_checkpoint
from seeded_weights import seeded_tensor
from typer.testing import CliRunner

from video_saliency import SalFoMConfig, SalFoMForVideoSaliency
from video_saliency.backbones.umt import UMTEncoder, position_table
from video_saliency.checkpoints import drop
from video_saliency.cli.main import app
from video_saliency.conversion import convert_checkpoint
from video_saliency.loading import load_model, load_processor
from video_saliency.models.salfom.convert_salfom import (
    CONVERTER,
    PUBLISHED_MAPS,
    UMT_UNUSED,
    UNUSED,
    convert_salfom,
    convert_umt,
    make_config,
)

TINY_DECODER = {
    "tcfe_layers": [[8, 2, 1], [8, 2, 4], [8, 4, 4]],
    "tcfe_depth": 1,
    "dfd_layers": [[[8, 1, 1], [8, 2, 1]], [[8, 1, 2], [8, 2, 2]], [[8, 2, 2], [8, 2, 2]]],
    "sfd_layers": [[[8, 1]], [[8, 2], [8, 2]], [[8, 4]]],
    "fusion_channels": [],
}


def on_meta(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def test_all_names_and_shapes_of_the_released_model():
    shapes = layout("salfom")
    assert len(shapes) == 619
    kept, dropped = drop(on_meta(shapes), UNUSED)
    assert sorted(dropped) == sorted(name for name in shapes if DEAD.fullmatch(name))
    assert len(dropped) == 15 - 1 + 18  # what is never used, less the position table, and the tables of indices
    kept.pop("encoder.pos_embed")  # its values are looked at
    with torch.device("meta"):
        expected = SalFoMForVideoSaliency(SalFoMConfig()).state_dict()
    converted = convert_salfom(kept)
    assert {name: value.shape for name, value in converted.items()} == {n: v.shape for n, v in expected.items()}


@pytest.mark.parametrize(("name", "heads", "count"), [("l16", 16, 318), ("b16", 12, 162)])
def test_all_names_and_shapes_of_the_umt_files(name, heads, count):
    shapes = layout(f"umt_{name}")
    assert len(shapes) == count
    kept, dropped = drop(on_meta(shapes), UMT_UNUSED)
    assert sorted(dropped) == ["fc_norm.bias", "fc_norm.weight", "head.bias", "head.weight"]
    converted = convert_umt(kept)
    config = make_config(None, {"encoder": converted})
    assert config.encoder_heads == heads
    with torch.device("meta"):
        expected = UMTEncoder(dim=config.encoder_dim, depth=config.encoder_depth, heads=heads).state_dict()
    assert {name: value.shape for name, value in converted.items()} == {n: v.shape for n, v in expected.items()}


def test_queries_keys_and_values_come_from_their_rows():
    checkpoint = tiny_umt_checkpoint()
    converted = convert_umt(checkpoint)
    rows = checkpoint["blocks.1.attn.qkv.weight"]
    for number, part in enumerate(("query", "key", "value")):
        assert torch.equal(converted[f"blocks.1.attention.{part}.weight"], rows[64 * number : 64 * (number + 1)])
    assert "blocks.1.attention.key.bias" not in converted
    prefixed = {f"backbone.{name}": value for name, value in checkpoint.items()}
    assert convert_umt(prefixed).keys() == converted.keys()


@pytest.mark.parametrize("frames", [8, 16])
def test_position_tables_in_files_are_compared(frames):
    checkpoint = tiny_umt_checkpoint()
    table = position_table(frames, (14, 14), 64)[None]
    assert convert_umt({**checkpoint, "pos_embed": table.half()}).keys() == convert_umt(checkpoint).keys()
    fresh = torch.linspace(-1, 1, table.numel()).view(table.shape)
    for wrong in (fresh, table[:, :-1], table[:, :100]):
        with pytest.raises(ValueError, match="trained with other positions"):
            convert_umt({**checkpoint, "pos_embed": wrong})


@pytest.mark.parametrize("prefix", ["", "backbone.", "encoder."])
def test_the_command_makes_a_model_of_an_encoder_file(prefix, tmp_path):
    """UMT's file in half precision with its classifier; the decoder is new."""
    checkpoint = tiny_umt_checkpoint() | {"head.weight": torch.zeros(10, 64), "head.bias": torch.zeros(10)}
    checkpoint |= {"fc_norm.weight": torch.zeros(64), "fc_norm.bias": torch.zeros(64)}
    torch.save({prefix + name: value.half() for name, value in checkpoint.items()}, tmp_path / "umt.pth")
    (tmp_path / "config.json").write_text(json.dumps({"encoder_heads": 4, "num_frames": 4, **TINY_DECODER}))
    options = ["--source", f"encoder={tmp_path / 'umt.pth'}", "--config", str(tmp_path / "config.json")]
    result = CliRunner().invoke(app, ["convert", "salfom", *options, "--output", str(tmp_path / "model")])
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "model" / "conversion.json").read_text())
    assert record["sources"]["encoder"]["dropped_keys"] == [
        f"{prefix}head.weight",
        f"{prefix}head.bias",
        f"{prefix}fc_norm.weight",
        f"{prefix}fc_norm.bias",
    ]
    assert record["initialised"]["keys"] and all(name.startswith("decoder.") for name in record["initialised"]["keys"])
    model, processor = load_model(str(tmp_path / "model")), load_processor(str(tmp_path / "model"))
    assert model.dtype == torch.float32 and processor.size == {"height": 224, "width": 224}
    assert processor.published_maps == PUBLISHED_MAPS
    expected = convert_umt({name: value.half().float() for name, value in tiny_umt_checkpoint().items()})
    assert all(torch.equal(value, model.encoder.state_dict()[name]) for name, value in expected.items())


def test_the_command_makes_a_model_of_a_released_file(tmp_path):
    """A small one with all kinds of entries that the released file has, dead ones and the position table included."""
    fields = {"encoder_heads": 4, **TINY_DECODER, "tcfe_depth": 6, "fusion_channels": [8, 8]}
    fields["sfd_layers"] = [[[8, 1]] * 3, [[8, 2], [8, 2], [8, 1]], [[8, 2], [8, 2], [8, 1]]]
    expected = tiny_salfom_state(fields)
    dead = [name for name in layout("salfom") if DEAD.fullmatch(name)]
    torch.save(tiny_salfom_checkpoint(fields), tmp_path / "salfom.pth")
    (tmp_path / "config.json").write_text(json.dumps(fields))
    options = ["--source", f"model={tmp_path / 'salfom.pth'}", "--config", str(tmp_path / "config.json")]
    result = CliRunner().invoke(app, ["convert", "salfom", *options, "--output", str(tmp_path / "model")])
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "model" / "conversion.json").read_text())
    assert sorted(record["sources"]["model"]["dropped_keys"]) == sorted(dead)
    assert record["initialised"]["keys"] == []
    state = load_model(str(tmp_path / "model")).state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state.items())


def test_only_the_listed_names_are_dropped():
    unknown = [
        "transformer_4.norm.bias",
        "transformer_1.norm.extra",
        "conv_t3_3.extra",
        "final_map.extra",
        "encoder.head.zzz",
        "encoder.fc_norm.extra",
        "encoder.blocks.0.attn.relative_position_index",
        "transformer_1.layers.0.blocks.6.attn.relative_position_index",
    ]
    assert drop(on_meta(dict.fromkeys(unknown, (1,))), UNUSED)[1] == []
    assert drop(on_meta({"head.zzz": (1,), "decoder.head.weight": (1,)}), UMT_UNUSED)[1] == []


def test_a_narrow_encoder_does_not_tell_its_heads():
    shapes = {"patch_embedding.weight": (32, 3, 16, 16), "blocks.0.norm1.weight": (32,)}
    tensors = {"encoder": {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}}
    with pytest.raises(ValueError, match=r"encoder_heads \(0\) must divide encoder_dim \(32\): set it in the config"):
        make_config(None, tensors)
    assert make_config({"encoder_heads": 2}, tensors).encoder_heads == 2


def test_a_released_file_with_entries_that_are_not_known_is_refused(tmp_path):
    shapes = dict.fromkeys(("conv_10.weight", "transformer_4.norm.bias"), (8,))
    torch.save({name: seeded_tensor(name, shape) for name, shape in shapes.items()}, tmp_path / "model.pth")
    refusal = r"missing: .*decoder\.fusion\.0\.weight.*unused: conv_10\.weight, transformer_4\.norm\.bias"
    with pytest.raises(ValueError, match=refusal):
        convert_checkpoint(CONVERTER, {"model": tmp_path / "model.pth"}, tmp_path / "out", config_file=None)
    assert not (tmp_path / "out").exists()
