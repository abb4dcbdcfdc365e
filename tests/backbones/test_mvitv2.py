# SPDX-License-Identifier: Apache-2.0
"""MViTv2 against stored outputs of three published implementations with seeded weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from dtfsal_weights import GOLDEN, TINY_MVITV2, mvitv2_head, mvitv2_weights
from safetensors.torch import load_file
from seeded_weights import seeded_input

from video_saliency.backbones.mvitv2 import MViTv2Attention, MViTv2Encoder, relative_vectors

STORED = load_file(GOLDEN / "mvitv2.safetensors")
CASES = {  # layout of the weights, name and shape of the input
    "tiny_native": ("tiny", "mvit.tiny.x0", (2, 3, 8, 64, 64)),
    "tiny_interp": ("tiny", "mvit.tiny.x1", (1, 3, 12, 64, 96)),
    "tiny_odd": ("tiny", "mvit.tiny.x2", (1, 3, 6, 72, 104)),
    "small_8x64x96": ("torchvision", "mvit.small.x0", (1, 3, 8, 64, 96)),
    "small_16x224x224": ("torchvision", "mvit.small.x1", (1, 3, 16, 224, 224)),
    "small_32x224x384": ("torchvision", "mvit.small.x2", (1, 3, 32, 224, 384)),
    "slowfast_8x64x96": ("slowfast", "mvit.sf.x0", (1, 3, 8, 64, 96)),
    "mmaction2_8x64x96": ("mmaction2", "mvit.mm.x0", (1, 3, 8, 64, 96)),
}
LARGE = ("small_16x224x224", "small_32x224x384")


def network(layout: str = "tiny", **settings: Any) -> MViTv2Encoder:
    """With the weights of a layout; what they do not fill are the norms of the first three stages."""
    with torch.device("meta"):
        encoder = MViTv2Encoder(**{**(TINY_MVITV2 if layout == "tiny" else {}), **settings})
    weights = mvitv2_weights(layout)
    for stage, norm in enumerate(encoder.norms[:3]):
        for name, value in norm.state_dict().items():
            weights[f"norms.{stage}.{name}"] = torch.full(value.shape, float(name == "weight"))
    wanted = {name: value for name, value in weights.items() if name in encoder.state_dict()}
    encoder.load_state_dict(wanted, assign=True)
    return encoder.requires_grad_(False).eval()


def statistics(value: torch.Tensor) -> torch.Tensor:
    value = value.double()
    numbers = (value.mean(), value.std(correction=0), value.abs().mean(), value.min(), value.max(), value.norm())
    return torch.stack(numbers)


def assert_stored(value: torch.Tensor, name: str) -> None:
    """64 values, six statistics and, of small tensors, all values."""
    value = value.contiguous()
    places = torch.linspace(0, value.numel() - 1, min(64, value.numel()), dtype=torch.float64).long()
    torch.testing.assert_close(value.flatten()[places], STORED[f"{name}.at64"], atol=1e-4, rtol=0)
    torch.testing.assert_close(statistics(value), STORED[f"{name}.stats"], atol=1e-4, rtol=1e-5)
    if name in STORED:
        torch.testing.assert_close(value, STORED[name], atol=1e-4, rtol=0)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("case", [pytest.param(name, marks=[pytest.mark.slow] * (name in LARGE)) for name in CASES])
def test_all_stages_equal_the_stored_ones(case: str, attention: str) -> None:
    layout, name, shape = CASES[case]
    encoder = network(layout, stage_norms=False)
    seen: list[torch.Tensor] = []
    encoder.blocks[-1].register_forward_hook(lambda block, inputs, output: seen.append(output))
    stages = encoder(seeded_input(name, shape), attn_implementation=attention)
    for number, stage in enumerate(stages, start=1):
        assert_stored(stage, f"{case}.F{number}")
    weights = mvitv2_weights(layout)
    tokens = F.layer_norm(seen[0], seen[0].shape[-1:], weights["norms.3.weight"], weights["norms.3.bias"], 1e-6)
    assert_stored(tokens[:, 1:].transpose(1, 2).reshape(stages[3].shape), f"{case}.F4_norm")
    if f"{case}.cls_F4" in STORED:
        assert_stored(seen[0][:, 0], f"{case}.cls_F4")
    if f"{case}.logits" in STORED:
        assert_stored(F.linear(tokens[:, 0], *mvitv2_head(layout)), f"{case}.logits")


def test_the_last_norm_is_that_of_the_network_and_the_trunk_sees_none():
    frames = seeded_input(*CASES["tiny_interp"][1:])
    plain, normed = network(stage_norms=False), network()
    for norm in normed.norms[:3]:
        norm.weight.fill_(3.0)
        norm.bias.fill_(0.5)
    raw, stages = plain(frames), normed(frames)
    assert_stored(stages[3], "tiny_interp.F4_norm")
    for before, behind in zip(raw[:3], stages[:3], strict=True):
        expected = F.layer_norm(before.movedim(1, -1), before.shape[1:2], eps=1e-6).movedim(-1, 1)
        torch.testing.assert_close(behind, 3 * expected + 0.5)


@pytest.mark.parametrize(("settings", "parameters"), [({}, 34_231_488), ({"stage_norms": False}, 34_228_608)])
def test_it_has_the_published_number_of_weights(settings, parameters):
    with torch.device("meta"):
        encoder = MViTv2Encoder(**settings)
    assert sum(parameter.numel() for parameter in encoder.parameters()) == parameters
    assert encoder.channels == (96, 192, 384, 768)


@pytest.mark.parametrize("size", [(1, 1, 1), (2, 31, 33), (5, 45, 70), (3, 97, 20)])
def test_any_clip_length_and_size(size):
    stages = network()(torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0)))
    frames, height, width = (side + 1 for side in size)
    for number, stage in enumerate(stages):
        step = 4 << number
        expected = (frames // 2, -(-(height - 1) // step), -(-(width - 1) // step))
        assert stage.shape == (1, TINY_MVITV2["channels"][number], *expected) and stage.isfinite().all()


def test_clips_of_a_batch_do_not_see_each_other():
    encoder, frames = network(), seeded_input("clips", (2, 3, 4, 32, 40))
    alone = [torch.cat(stages) for stages in zip(encoder(frames[:1]), encoder(frames[1:]), strict=True)]
    for stage, expected in zip(encoder(frames), alone, strict=True):
        torch.testing.assert_close(stage, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("query_side", "key_side", "rows"),
    [
        (3, 3, [[2, 1, 0], [3, 2, 1], [4, 3, 2]]),
        (4, 2, [[2, 0], [3, 1], [4, 2], [5, 3]]),  # a key is two queries wide
        (2, 4, [[3, 2, 1, 0], [5, 4, 3, 2]]),
        (5, 2, [[2, 0], [3, 1], [4, 2], [5, 3], [6, 4]]),  # 2.5 queries wide: cut off
        (1, 1, [[0]]),
    ],
)
def test_which_row_of_the_table_a_pair_gets(query_side, key_side, rows):
    table = torch.arange(2.0 * max(query_side, key_side) - 1)[:, None]
    assert relative_vectors(table, query_side, key_side)[..., 0].tolist() == rows


def test_tables_of_another_length_are_interpolated_once():
    table = torch.tensor([[0.0], [2.0], [4.0]])
    vectors = relative_vectors(table, 3, 3)[..., 0]
    # five rows of three, at (number + 0.5) * 3 / 5 - 0.5, not beyond the ends
    rows = [0.0, 0.8, 2.0, 3.2, 4.0]
    expected = torch.tensor([[rows[2 + query - key] for key in range(3)] for query in range(3)])
    torch.testing.assert_close(vectors, expected)


def test_each_axis_has_a_table_of_its_own_length():
    attention = MViTv2Attention(8, 8, heads=2, query_stride=1, key_stride=2, grid=(4, 6, 10))
    tables = (attention.relative_time, attention.relative_row, attention.relative_column)
    assert [tuple(table.shape) for table in tables] == [(7, 4), (11, 4), (19, 4)]


def test_the_class_token_gets_no_positions():
    """Huge tables change what cells attend to, but not what the class token takes."""
    torch.manual_seed(0)
    attention = MViTv2Attention(8, 8, heads=2, query_stride=1, key_stride=2, grid=(2, 4, 6)).requires_grad_(False)
    attention.output.weight.copy_(torch.eye(8))
    tokens = torch.randn(1, 1 + 48, 8)
    for implementation in ("sdpa", "eager"):
        before = attention(tokens, (2, 4, 6), implementation)
        tables = (attention.relative_time, attention.relative_row, attention.relative_column)
        saved = [table.clone() for table in tables]
        for table in tables:
            table.normal_(std=20)
        behind = attention(tokens, (2, 4, 6), implementation)
        torch.testing.assert_close(behind[:, 0], before[:, 0])
        assert (behind[:, 1:] - before[:, 1:]).abs().mean() > 0.1
        for table, value in zip(tables, saved, strict=True):
            table.copy_(value)


def test_gradients_of_both_attentions_are_equal():
    frames = seeded_input("gradients", (1, 3, 4, 32, 48))
    gradients = []
    for attention in ("sdpa", "eager"):
        encoder = network().double().requires_grad_(True)
        stages = encoder(frames.double(), attn_implementation=attention)
        sum((stage**2).sum() * weight for weight, stage in enumerate(stages, start=1)).backward()
        gradients.append({name: parameter.grad for name, parameter in encoder.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient.any(), name
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-6, atol=1e-6)


def test_bfloat16():
    frames = seeded_input("half", (1, 3, 8, 64, 64))
    expected, stages = network()(frames), network().bfloat16()(frames.bfloat16())
    for stage, wanted in zip(stages, expected, strict=True):
        assert stage.dtype == torch.bfloat16
        assert torch.corrcoef(torch.stack([stage.float().flatten(), wanted.flatten()]))[0, 1] > 0.99


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depths": (1, 1, 1)}, "4 values each"),
        ({"depths": (1, 0, 1, 1)}, "at least 1"),
        ({"heads": (1, 2, 5, 8)}, "do not divide"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        MViTv2Encoder(**{**TINY_MVITV2, **settings})
