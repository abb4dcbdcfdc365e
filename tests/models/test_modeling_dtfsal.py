# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from model_test_base import ModelTests
from tiny_models import TINY_DTFSAL
from torch.utils.flop_counter import FlopCounterMode

from video_saliency.cli.info import describe, operations_of
from video_saliency.losses import kl_minus_cc_loss
from video_saliency.models.dtfsal import modeling_dtfsal
from video_saliency.models.dtfsal.configuration_dtfsal import DTFSalConfig
from video_saliency.models.dtfsal.modeling_dtfsal import (
    SILENCE,
    DTFSalAdaptiveFusion,
    DTFSalDecoder,
    DTFSalForVideoSaliency,
    DTFSalNeck,
    DTFSalShift,
    DTFSalTokenBank,
    DTFSalTokenBlock,
)

STAGE_MAPS = [f"stage{number}_maps" for number in (1, 2, 3, 4)]


def tiny_config(**overrides: Any) -> DTFSalConfig:
    return DTFSalConfig(**{**TINY_DTFSAL, **overrides})


def tiny_model(seed: int = 0, **overrides: Any) -> DTFSalForVideoSaliency:
    torch.manual_seed(seed)
    return DTFSalForVideoSaliency(tiny_config(**overrides)).eval()


def clip(frames: int = 8, size: tuple[int, int] = (32, 48), batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, frames, 3, *size)


def sound(batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 2, 1, 16, 32)


def on_meta(**fields: Any) -> DTFSalForVideoSaliency:
    with torch.device("meta"):
        return DTFSalForVideoSaliency(DTFSalConfig(**fields)).eval()


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


class TestDTFSal(ModelTests):
    model_class = DTFSalForVideoSaliency
    num_frames = 8
    num_maps = 1

    def tiny_config(self, **overrides: Any) -> DTFSalConfig:
        return tiny_config(**{"freeze_audio_encoder": False, **overrides})

    def inputs(self, batch: int = 2, size: tuple[int, int] | None = None, seed: int = 0) -> dict[str, torch.Tensor]:
        audio = torch.randn(batch, 2, 1, 16, 32, generator=torch.Generator().manual_seed(seed))
        return {**super().inputs(batch, size, seed), "audio_values": audio}


class TestDTFSalVisual(ModelTests):
    model_class = DTFSalForVideoSaliency
    num_frames = 8
    num_maps = 1
    test_export_with_any_batch_size = None  # slow, and part of the audio-visual model's

    def tiny_config(self, **overrides: Any) -> DTFSalConfig:
        return tiny_config(audio=False, **overrides)


# the numbers of the paper's sizes are 40,730,000 and 49,080,000; those of the switches are of our reading
@pytest.mark.parametrize(
    ("fields", "parameters"),
    [
        ({}, 49_063_738),
        ({"audio": False}, 40_781_157),
        ({"audio": False, "num_tokens": 5}, 40_585_305),
        ({"audio": False, "shift_conv": "dense", "num_tokens": 5}, 41_575_449),
        ({"audio": False, "stage_norms": False}, 40_781_157 - 34_231_488 + 34_230_144 - 1536),  # no final norm either
        ({"audio_joining": "add"}, 47_447_482),
        ({"stream_weights": "channel"}, 49_394_359),
        ({"decoder": "single"}, 49_063_738 - 3 * 435_672 - 37),
        ({"decoder": "unet"}, 49_063_738 - 3 * 435_672 - 37 + 331_776 + 3 * 663_552),
        ({"fusion": "concat"}, 49_063_738 - 3_235_989 + 384 * 192 + 192),
        ({"fusion": "cross_attention"}, 49_063_738 - 3_235_989 + 4 * (192 * 192 + 192)),
        ({"audio": False, "share_tokens": True}, 40_781_157 - 3 * (129_024 + 331_968)),
        ({"audio": False, "token_blocks": ["none"] * 4}, 40_781_157 - 2_383_512 - 874_376),
        ({"local_kernel": [3, 3, 3], "global_kernel": [3, 5, 5]}, 49_063_738 + 2 * 663_552 + 2 * 1_843_200),
    ],
)
def test_parameters_of_the_papers_variants(fields: dict[str, Any], parameters: int) -> None:
    assert count(on_meta(**fields)) == parameters


def test_parameters_of_the_parts() -> None:
    model = on_meta()
    assert {name: count(part) for name, part in model.named_children()} == {
        "encoder": 34_231_488,
        "neck": 553_728 + 995_328,
        "token_blocks": 2_383_512 + 874_376,
        "audio_encoder": 4_499_712,
        "audio_enhancement": 546_880,
        "audio_fusions": 3_235_989,
        "decoder": 1_742_688 + 37,
    }
    # table 2's sizes in MB, four bytes a parameter
    assert 4 * count(model) / 1e6 / 1.048576 == pytest.approx(187.26, rel=2e-3)
    assert 4 * count(on_meta(audio=False)) / 1e6 / 1.048576 == pytest.approx(155.37, rel=2e-3)


def test_shapes_and_cost_at_full_size() -> None:
    model = on_meta()
    with torch.device("meta"):
        frames, audio = torch.empty(1, 32, 3, 224, 384), torch.empty(1, 9, 1, 112, 192)
    features: list[tuple[int, ...]] = []
    for decoder in model.decoder.decoders:
        decoder.register_forward_pre_hook(lambda _, inputs: features.append(tuple(inputs[0].shape)))
    with FlopCounterMode(display=False) as counter:
        outputs = model(frames, audio, output_hidden_states=True)
    assert features == [(1, 192, 8, rows, columns) for rows, columns in ((56, 96), (28, 48), (14, 24), (7, 12))]
    assert [tuple(stage.shape[1:]) for stage in outputs.hidden_states] == [
        (96, 16, 56, 96),
        (192, 16, 28, 48),
        (384, 16, 14, 24),
        (768, 16, 7, 12),
    ]
    for name in ("saliency_maps", "logits", *STAGE_MAPS):
        assert outputs[name].shape == (1, 1, 224, 384)
    assert outputs.stream_scores.shape == (1, 1, 3)

    operations = counter.get_flop_counts()
    gigamacs = {
        name: sum(
            operations_of(part, f"DTFSalForVideoSaliency.{name}", operations)[kind]
            for kind in (torch.ops.aten.convolution, torch.ops.aten.addmm, torch.ops.aten.mm)
        )
        / 2e9
        for name, part in model.named_children()
    }
    assert gigamacs["encoder"] == pytest.approx(169.63, abs=0.05)
    assert gigamacs["neck"] == pytest.approx(2.97 + 18.73, abs=0.02)
    assert gigamacs["token_blocks"] == pytest.approx(28.54 + 7.13 + 1.78 + 0.50, abs=0.02)
    assert gigamacs["decoder"] == pytest.approx(12.50 + 3.14 + 0.79 + 0.20, abs=0.02)
    assert gigamacs["audio_encoder"] == pytest.approx(25.08, abs=0.02)
    assert gigamacs["audio_enhancement"] == pytest.approx(0.41, abs=0.01)


@pytest.mark.parametrize(("audio", "gigamacs"), [(False, 416.9), (True, 444.7)])
def test_cost_with_attention_written_out(audio: bool, gigamacs: float) -> None:
    model = on_meta(audio=audio, attn_implementation="eager")
    with torch.device("meta"):
        inputs = [torch.empty(1, 32, 3, 224, 384), torch.empty(1, 9, 1, 112, 192)][: 1 + audio]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(*inputs)
    assert counter.get_total_flops() / 2e9 == pytest.approx(gigamacs, abs=0.3)


def test_info_has_a_row_for_each_part() -> None:
    rows = describe(tiny_config(), {"height": 32, "width": 48}, "cpu", DTFSalForVideoSaliency)
    for name, part in tiny_model().named_children():
        assert rows[f"  {name}"].split()[0] == f"{count(part):,}"
    macs, with_attention = (float(value) for value in rows["  all"].split()[1:])
    assert 0 < macs < with_attention
    assert rows["GFLOP a map"].split()[0] == f"{2 * with_attention:.3g}"


def test_token_identity() -> None:
    """A convolution for each token, and one for each frame, give the same, also in their gradients."""
    bank = DTFSalTokenBank(tiny_config(num_tokens=4)).double()
    for parameter in bank.parameters():
        torch.nn.init.normal_(parameter)
    weights = torch.randn(2, 5, 4, dtype=torch.float64).softmax(dim=-1)
    results = [function(weights, (9, 11)) for function in (bank.mix_convolved, bank.convolve_mixed)]
    assert results[0].shape == (2, bank.tokens.shape[1], 5, 9, 11)
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-12)
    gradients = [torch.autograd.grad(result.square().sum(), list(bank.parameters())) for result in results]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("frames", "cheaper"), [(3, "convolve_mixed"), (4, "mix_convolved"), (8, "mix_convolved")])
def test_tokens_take_the_cheaper_way(frames: int, cheaper: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    for name in ("convolve_mixed", "mix_convolved"):
        monkeypatch.setattr(DTFSalTokenBank, name, lambda *_, name=name: called.append(name))
    DTFSalTokenBank(tiny_config(num_tokens=4))(torch.ones(2, frames, 4), (9, 11))
    assert called == [cheaper]


def test_token_block_by_formula() -> None:
    config = tiny_config(num_tokens=3)
    model = tiny_model(num_tokens=3)
    block: Any = model.token_blocks["1"]
    features = torch.randn(2, config.hidden_size, 2, 8, 12)
    gate = torch.sigmoid(F.conv3d(features, block.gate.weight, block.gate.bias, padding=(0, 1, 1)))
    weights = block.token_weights(gate.mean(dim=(3, 4)).transpose(1, 2)).softmax(dim=-1)
    mixed = torch.einsum("btn,nchw->bcthw", weights, block.bank.tokens)
    enlarged = F.interpolate(mixed, size=(2, 8, 12), mode="trilinear", align_corners=False)
    expected = features * block.bank.projection(enlarged) + features
    torch.testing.assert_close(block(features, features, block.bank), expected)
    shifting = DTFSalTokenBlock(config, shift=True)
    shifting.load_state_dict(block.state_dict(), strict=False)
    torch.testing.assert_close(
        shifting(features, features, block.bank), expected - features + shifting.shift(features)
    )


def test_weights_for_a_clip_are_those_of_its_mean() -> None:
    block = DTFSalTokenBlock(tiny_config(token_weights="clip"), shift=False)
    one_frame = torch.randn(1, block.gate.in_channels, 1, 4, 6)
    block.bank.tokens.data.normal_()
    repeated = block(one_frame.expand(-1, -1, 5, -1, -1), one_frame.expand(-1, -1, 5, -1, -1), block.bank)
    torch.testing.assert_close(repeated[:, :, 3:4], block(one_frame, one_frame, block.bank))


@pytest.mark.parametrize(
    ("padding", "expected"),
    [
        ("zeros", [[3, 4, 0, 0], [2, 3, 4, 0], [1, 2, 3, 4], [0, 1, 2, 3], [0, 0, 1, 2]]),
        ("cyclic", [[3, 4, 1, 2], [2, 3, 4, 1], [1, 2, 3, 4], [4, 1, 2, 3], [3, 4, 1, 2]]),
    ],
)
def test_shift_by_hand(padding: str, expected: list[list[int]]) -> None:
    shift = DTFSalShift(tiny_config(hidden_size=10, fusion_heads=1, shift_padding=padding))
    row = torch.arange(1.0, 5.0).expand(1, 10, 1, 1, 4)
    wanted = torch.tensor(expected, dtype=torch.float32).repeat_interleave(2, dim=0)  # two channels in each group
    assert torch.equal(shift.shift(row, "width")[0, :, 0, 0], wanted)
    assert torch.equal(shift.shift(row.transpose(-1, -2), "height")[0, :, 0, :, 0], wanted)


@pytest.mark.parametrize(("groups", "sizes"), [(5, [3, 3, 3, 2, 1]), (9, [2, 2, 2, 1, 1, 1, 1, 1, 1]), (3, [4, 4, 4])])
def test_each_shift_group_has_channels(groups: int, sizes: list[int]) -> None:
    """Also where groups of equal size would be fewer: of 12 channels in 9 groups those moved by 2 to 4 would lack."""
    shift = DTFSalShift(tiny_config(shift_groups=groups))
    spot = F.one_hot(torch.tensor(4), 9).expand(1, 12, 1, 1, 9).float()
    moves = shift.shift(spot, "width")[0, :, 0, 0].argmax(dim=-1) - 4
    reach = groups // 2
    assert moves.tolist() == [
        move for move, size in zip(range(-reach, reach + 1), sizes, strict=True) for _ in range(size)
    ]


def test_shift_groups_of_the_paper_and_tiny_maps() -> None:
    shift = DTFSalShift(DTFSalConfig())
    moved = shift.shift(torch.ones(1, 192, 1, 1, 5), "width")[0, :, 0, 0]
    assert [int((moved.sum(dim=-1) == total).sum()) for total in (3, 4, 5)] == [39 + 36, 39 + 39, 39]
    # nothing of a single cell is left when it moves
    assert shift.shift(torch.ones(1, 192, 1, 1, 1), "width").sum() == 39
    assert shift(torch.randn(1, 192, 2, 1, 1)).shape == (1, 192, 2, 1, 1)


def test_neck_by_formula() -> None:
    neck = DTFSalNeck(tiny_config())
    channels = tiny_config().encoder_channels
    stages = [torch.randn(1, width, 6, 16 >> index, 24 >> index) for index, width in enumerate(channels)]

    def up(features: torch.Tensor, factor: int) -> torch.Tensor:
        scale = (1, factor, factor)
        return F.interpolate(features, scale_factor=scale, mode="trilinear", align_corners=False)

    lateral = [layer(stage) for layer, stage in zip(neck.laterals, stages, strict=True)]
    third = lateral[2] + up(lateral[3], 2)
    second = lateral[1] + up(third, 2) + up(lateral[3], 4)
    first = lateral[0] + up(second, 2) + up(lateral[3], 8)
    expected = [neck.smoothings[0](first), neck.smoothings[1](second), neck.smoothings[2](third), lateral[3]]
    enhanced, laterals = neck(stages)
    assert enhanced[0].shape[2] == 3
    for value, wanted in zip([*enhanced, *laterals], [*expected, *lateral], strict=True):
        torch.testing.assert_close(value, wanted)


@pytest.mark.parametrize(
    ("stage", "factors"), [(1, (2, 2, 1, 1)), (2, (2, 2, 2, 1)), (3, (2, 2, 2, 2)), (4, (2, 2, 2, 4))]
)
@pytest.mark.parametrize("frames", [8, 12, 15])
def test_decoder_by_formula(stage: int, factors: tuple[int, ...], frames: int) -> None:
    config = tiny_config()
    decoder = DTFSalDecoder(config, stage)
    features = torch.randn(1, config.hidden_size, frames, 64 >> (stage + 1), 96 >> (stage + 1))
    expected = features
    for layer, factor in zip([*decoder.convolutions, decoder.head], factors, strict=True):
        expected = layer(expected)
        expected = F.relu(expected) if layer is not decoder.head else expected
        expected = F.interpolate(expected, scale_factor=(1, factor, factor), mode="trilinear", align_corners=False)
    assert expected.shape == (1, 1, 1, 64, 96)
    torch.testing.assert_close(decoder(features, (64, 96)), expected[:, :, 0])


def test_fused_map_is_made_of_the_stages_maps() -> None:
    model = tiny_model(audio=False)
    with torch.no_grad():
        outputs = model(clip())
        fused = model.decoder.fusion(torch.cat([outputs[name] for name in STAGE_MAPS], dim=1))
    torch.testing.assert_close(outputs.logits, fused)
    torch.testing.assert_close(outputs.saliency_maps, fused.sigmoid())
    for name in STAGE_MAPS:
        assert ((outputs[name] > 0) & (outputs[name] < 1)).all()


def test_adaptive_fusion_by_formula() -> None:
    fusion: Any = tiny_model().audio_fusions["4"]
    visual, audio = torch.randn(2, 12, 2, 3, 4), torch.randn(2, 8, 2, 3, 4)
    joined = torch.cat([visual, audio], dim=1)
    local_stream, global_stream, adaptive_stream = fusion.streams
    kernel = adaptive_stream.kernel  # a plain convolution, as offsets start at zero
    plain = torch.stack([F.conv2d(frame, kernel.weight, kernel.bias, padding=1) for frame in joined.unbind(2)], dim=2)
    raw = (local_stream(joined), global_stream(joined), plain)
    streams = [F.relu(norm(stream)) for norm, stream in zip(fusion.norms, raw, strict=True)]
    weights = torch.sigmoid(fusion.scores(torch.cat([stream.mean(dim=(2, 3, 4)) for stream in streams], dim=1)))
    expected = sum(
        weight[:, None, None, None, None] * stream for weight, stream in zip(weights.T, streams, strict=True)
    )
    fused, scores = fusion(visual, audio)
    torch.testing.assert_close(fused, expected)
    torch.testing.assert_close(scores, weights)


def test_offsets_move_what_the_adaptive_stream_sees() -> None:
    fusion = DTFSalAdaptiveFusion(tiny_config())
    convolution: Any = fusion.streams[2]
    for parameter in convolution.offsets.parameters():
        torch.nn.init.zeros_(parameter)
    features = torch.randn(1, 20, 2, 5, 6)
    with torch.no_grad():
        convolution.offsets.bias[1::2] = 1.0  # every tap one column to the right
        moved = convolution(features)
        convolution.offsets.bias.zero_()
        torch.testing.assert_close(moved[..., 1:4], convolution(features)[..., 2:5])


def test_sound_changes_the_map_and_the_scores_are_told() -> None:
    model = tiny_model()
    frames = clip()
    with torch.no_grad():
        first, second = model(frames, sound()), model(frames, sound())
    assert not torch.allclose(first.saliency_maps, second.saliency_maps)
    torch.testing.assert_close(first.stage3_maps, second.stage3_maps)  # sound joins at stage 4
    assert first.stream_scores.shape == (1, 1, 3)
    assert ((first.stream_scores > 0) & (first.stream_scores < 1)).all()


def test_without_sound_there_is_silence_and_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    modeling_dtfsal._warn_of_silence.cache_clear()
    model, frames = tiny_model(), clip(batch=2)
    with torch.no_grad(), caplog.at_level(logging.WARNING):
        maps = [model(frames).saliency_maps for _ in range(2)][0]
        silent = model(frames, torch.full((2, 2, 1, 16, 32), SILENCE)).saliency_maps
    torch.testing.assert_close(maps, silent)
    assert sum("silence" in record.message for record in caplog.records) == 1


# every switch of the paper's ablations and of our readings, one by one
@pytest.mark.parametrize(
    "fields",
    [
        {"token_blocks": ["none"] * 4},
        {"token_blocks": ["lteb"] * 4},
        {"token_blocks": ["dltfb"] * 4},
        {"token_blocks": ["none", "lteb", "dltfb", "lteb"], "share_tokens": True},
        {"token_weights": "clip"},
        {"token_block_input": "lateral"},
        {"shift_padding": "cyclic", "shift_axes": ["height", "width"], "shift_groups": 3},
        {"shift_conv": "spatial", "shift_norm": "clip"},
        {"shift_conv": "dense"},
        {"stage_norms": False},
        {"lateral_kernel": 3, "lateral_stride": 1, "smoothing_kernel": [3, 3, 3], "smoothing_bias": True},
        {"fusion": "concat"},
        {"fusion": "cross_attention"},
        {"fusion_stages": [2, 4]},
        {"audio_joining": "add", "audio_hidden_size": 12},
        {"local_kernel": [3, 3, 3], "global_kernel": [3, 5, 5], "stream_weights": "channel"},
        {"fusion_norm": "channel"},
        {"audio_layers": 2},
        {"decoder": "single"},
        {"decoder": "unet"},
        {"decoder_frames": 12},
        {"window": {"num_frames": 8, "output": "last"}},
    ],
    ids=str,
)
def test_switches(fields: dict[str, Any], tmp_path: Path) -> None:
    model = tiny_model(**fields, freeze_audio_encoder=False).train()
    outputs = model(clip(), sound(), saliency_labels=torch.rand(1, 1, 32, 48))
    assert outputs.saliency_maps.shape == (1, 1, 32, 48)
    outputs.loss.backward()
    without = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert without == []
    has_stages = model.config.decoder == "multi"
    assert all((outputs.get(name) is not None) == has_stages for name in STAGE_MAPS)
    if model.config.fusion == "amfb":
        assert outputs.stream_scores.shape == (1, len(model.config.fusion_stages), 3)
    else:
        assert outputs.stream_scores is None
    model.eval().save_pretrained(tmp_path)
    frames, audio = clip(), sound()
    with torch.no_grad():
        loaded = DTFSalForVideoSaliency.from_pretrained(tmp_path)
        assert torch.equal(loaded(frames, audio).saliency_maps, model(frames, audio).saliency_maps)


@pytest.mark.parametrize("frames", [4, 5, 8, 16, 32, 48, 64])
def test_clip_lengths(frames: int) -> None:
    model = tiny_model(window={"num_frames": frames, "output": "middle"})
    assert model.config.window_spec.num_frames == frames
    with torch.no_grad():
        maps = model(clip(frames, size=(32, 32)), sound()).saliency_maps
    assert maps.shape == (1, 1, 32, 32) and maps.isfinite().all()


def test_eager_attention_equals_sdpa() -> None:
    for fields in ({}, {"fusion": "cross_attention"}):
        frames, audio = clip(), sound()
        with torch.no_grad():
            maps = [
                tiny_model(**fields, attn_implementation=name)(frames, audio).saliency_maps
                for name in ("eager", "sdpa")
            ]
        torch.testing.assert_close(maps[0], maps[1])


def test_loss_is_that_of_the_fused_map_and_by_choice_of_the_stages() -> None:
    frames, audio, labels = clip(), sound(), torch.rand(1, 1, 32, 48)
    with torch.no_grad():
        outputs = tiny_model()(frames, audio, saliency_labels=labels)
        torch.testing.assert_close(outputs.loss, kl_minus_cc_loss(outputs.saliency_maps, labels))
        stages = sum(kl_minus_cc_loss(outputs[name], labels) for name in STAGE_MAPS)
        deep = tiny_model(deep_supervision_weight=0.25)(frames, audio, saliency_labels=labels)
        torch.testing.assert_close(deep.loss, outputs.loss + 0.25 * stages)
        only_kl = tiny_model(cc_loss_weight=0.0)(frames, audio, saliency_labels=labels)
        torch.testing.assert_close(only_kl.loss, kl_minus_cc_loss(outputs.saliency_maps, labels, cc_weight=0.0))


def test_maps_and_losses_are_float32_in_bfloat16() -> None:
    """The sigmoid too is taken in float32: in bfloat16 few values are left near 1."""
    frames, audio, labels = clip(), sound(), torch.rand(1, 1, 32, 48)
    model = tiny_model(deep_supervision_weight=0.25)
    for parameter in model.decoder.fusion.parameters():
        torch.nn.init.constant_(parameter, 1.0)  # logits of 3 and more
    with torch.no_grad():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            trained = model(frames, audio, saliency_labels=labels)
        half = model.bfloat16()(frames.bfloat16(), audio.bfloat16(), saliency_labels=labels)
    for outputs in (trained, half):
        assert outputs.logits.dtype == torch.bfloat16
        maps = outputs.logits.float().sigmoid()
        assert torch.equal(outputs.saliency_maps, maps)
        assert len(maps.unique()) > len(maps.bfloat16().unique())
        stages = [outputs[name] for name in STAGE_MAPS]
        for stage in stages:
            assert stage.dtype == torch.float32 and not torch.equal(stage, stage.bfloat16().float())
        deep = sum(kl_minus_cc_loss(stage, labels) for stage in stages)
        torch.testing.assert_close(outputs.loss, kl_minus_cc_loss(maps, labels) + 0.25 * deep)


AUDIO_FUSION = {"audio_enhancement", "audio_fusions"}
VISUAL = {"encoder", "neck", "token_blocks", "decoder"}


def parts_with_gradients(model: DTFSalForVideoSaliency) -> set[str]:
    model.zero_grad()
    model.train()
    model(clip(), sound(), saliency_labels=torch.rand(1, 1, 32, 48)).loss.backward()
    parts = {name: [weight.grad is not None for weight in part.parameters()] for name, part in model.named_children()}
    assert all(all(given) or not any(given) for given in parts.values()), "a part is trained by halves"
    return {name for name, given in parts.items() if all(given)}


@pytest.mark.parametrize(
    ("strategy", "freeze_audio_encoder", "trained"),
    [
        ("full", True, VISUAL | AUDIO_FUSION),
        ("full", False, VISUAL | AUDIO_FUSION | {"audio_encoder"}),
        ("audio_fusion", True, AUDIO_FUSION),
        ("audio_fusion", False, AUDIO_FUSION | {"audio_encoder"}),
    ],
)
def test_strategies_of_table_11(strategy: str, freeze_audio_encoder: bool, trained: set[str], tmp_path: Path) -> None:
    model = tiny_model(freeze_audio_encoder=freeze_audio_encoder)
    for other in ("audio_fusion", "full", strategy):  # one strategy leaves nothing behind for the next
        model.freeze_for(other)
    assert parts_with_gradients(model) == trained
    model.save_pretrained(tmp_path)
    assert parts_with_gradients(DTFSalForVideoSaliency.from_pretrained(tmp_path)) == trained
    assert (
        parts_with_gradients(
            tiny_model(**{**TINY_DTFSAL, "training_strategy": strategy, "freeze_audio_encoder": freeze_audio_encoder})
        )
        == trained
    )


def test_freezing_by_hand_is_left_alone() -> None:
    model = tiny_model()
    model.decoder.requires_grad_(False)
    assert parts_with_gradients(model) == (VISUAL | AUDIO_FUSION) - {"decoder"}


def test_other_strategies_are_refused() -> None:
    with pytest.raises(ValueError, match="'full' or 'audio_fusion'"):
        tiny_model().freeze_for("half")
    with pytest.raises(ValueError, match="audio=True"):
        tiny_model(audio=False).freeze_for("audio_fusion")


def is_audio(name: str) -> bool:
    return name.split(".")[0] in ("audio_encoder", *AUDIO_FUSION)


def test_a_visual_model_becomes_audio_visual(tmp_path: Path) -> None:
    visual = tiny_model(seed=3, audio=False)
    visual.save_pretrained(tmp_path)
    model, report = DTFSalForVideoSaliency.from_pretrained(tmp_path, audio=True, output_loading_info=True)
    assert model.config.audio and model.config.audio_spec is not None
    weights = model.state_dict()
    assert set(report["missing_keys"]) == {name for name in weights if is_audio(name)}
    assert not report["unexpected_keys"]
    for name, weight in visual.state_dict().items():
        assert torch.equal(weights[name], weight)
    assert all(weight.isfinite().all() for weight in weights.values())
    frames = clip()
    with torch.no_grad():
        first, second = model(frames, sound()), visual(frames)
    torch.testing.assert_close(first.stage1_maps, second.stage1_maps)
    assert parts_with_gradients(model) == VISUAL | AUDIO_FUSION


def test_an_audio_visual_model_takes_over_visual_parts() -> None:
    visual, model = tiny_model(seed=3, audio=False), tiny_model(seed=4)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    model.copy_visual_parts(visual)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name] if is_audio(name) else visual.state_dict()[name])
    with pytest.raises(ValueError, match="differ in"):
        model.copy_visual_parts(tiny_model(audio=False, num_tokens=5))
    with pytest.raises(ValueError, match="differ in"):
        model.copy_visual_parts(tiny_model(audio=False, decoder="single"))


def test_default_window_and_sound() -> None:
    config = DTFSalConfig()
    spec, audio = config.window_spec, config.audio_spec
    assert (spec.num_frames, spec.output, spec.step, spec.hop_steps) == (32, "middle", 1, 1)
    assert audio is not None and (audio.num_slices, audio.slice_frames, audio.hop_frames) == (9, 64, 11)
    assert tuple(audio.size) == (112, 192) and audio.sampling_rate == 16000


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"token_blocks": ["lteb"] * 3}, "token_blocks must have 4"),
        ({"token_blocks": ["lteb"] * 3 + ["swin"]}, "token_blocks must hold"),
        ({"fusion": "sum"}, "fusion must be one of"),
        ({"decoder": "fpn"}, "decoder must be one of"),
        ({"shift_axes": ["time"]}, "shift_axes must hold"),
        ({"shift_axes": []}, "shift_axes must name an axis"),
        ({"shift_groups": 4}, "must be odd"),
        ({"local_kernel": [1, 2, 3]}, "odd sides"),
        ({"encoder_channels": [8, 16, 16]}, "4 values"),
        ({"fusion_stages": [0]}, "stages from 1 to 4"),
        ({"fusion_stages": []}, "stages from 1 to 4"),
        ({"audio_size": [8, 32]}, "16 x 16"),
        ({"audio_sampling_rate": 44100}, "sampling_rate"),
        ({"audio_joining": "add"}, "equal to hidden_size"),
        ({"audio_heads": 3}, "multiple of audio_heads"),
        ({"decoder_frames": 16}, "8 to 15"),
        ({"num_tokens": 0}, "at least 1"),
        ({"audio_layers": -1}, "audio_layers must be at least 0"),
        ({"loss_epsilon": -1.0}, "loss_epsilon must be a finite number above 0, got -1.0"),
        ({"loss_epsilon": 0.0}, "loss_epsilon must be a finite number above 0"),
        ({"loss_epsilon": math.nan}, "loss_epsilon must be a finite number above 0"),
        ({"shift_norm_eps": -1e-5}, "shift_norm_eps must be a finite number above 0"),
        ({"kl_loss_weight": -2.0}, "kl_loss_weight must be a finite number of at least 0, got -2.0"),
        ({"cc_loss_weight": math.inf}, "cc_loss_weight must be a finite number of at least 0"),
        ({"deep_supervision_weight": math.nan}, "deep_supervision_weight must be a finite number"),
        ({"encoder_depths": [1, 1, 1.5, 1]}, "whole numbers of at least 1"),
        ({"token_size": ["2", 3]}, "whole numbers of at least 1"),
        ({"encoder_heads": [3, 2, 2, 4]}, "multiples of encoder_heads"),
        ({"audio": False, "training_strategy": "audio_fusion"}, "set audio=True"),
        ({"window": {"num_frames": 3, "output": "middle"}}, "at least 4"),
        ({"window": {"num_frames": 8, "output": "all"}}, "'middle' or 'last'"),
        ({"window": {"frames": 8}}, "fields of WindowSpec"),
    ],
)
def test_config_refuses(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_config(**fields)


def test_inputs_are_checked() -> None:
    model = tiny_model()
    with torch.no_grad():
        for frames, audio, message in (
            (torch.zeros(1, 3, 8, 32, 48), None, "batch, frames, 3"),
            (clip(3), None, "at least 4"),
            (clip(), torch.zeros(1, 9, 1, 16, 32), "audio_values must be"),
            (clip(batch=2), sound(), "audio_values must be"),
        ):
            with pytest.raises(ValueError, match=message):
                model(frames, audio)
        with pytest.raises(ValueError, match="visual model"):
            tiny_model(audio=False)(clip(), sound())
        with pytest.raises(ValueError, match="size of the maps"):
            model(clip(), sound(), saliency_labels=torch.zeros(1, 8, 32, 48))
