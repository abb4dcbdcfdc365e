# SPDX-License-Identifier: Apache-2.0
"""InternVideo2's encoder against stored outputs of the published code, and what it does with other clips."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch.utils.checkpoint import checkpoint
from visage_weights import GOLDEN, tiny_backbone, tiny_clip

from video_saliency.backbones.internvideo2 import (
    InternVideo2Block,
    InternVideo2Encoder,
    InternVideo2Features,
    init_internvideo2_weights,
    resize_positions,
    sine_cosine_positions,
)
from video_saliency.checkpoints import drop
from video_saliency.models.visage.convert_visage import BACKBONE_UNUSED, convert_backbone

TINY = {"hidden_size": 96, "depth": 4, "heads": 4, "image_size": 56}
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


def encoder(*, gain: float = 0.0, **overrides: object) -> InternVideo2Encoder:
    model = InternVideo2Encoder(**{**TINY, **overrides}).eval()
    model.load_state_dict(convert_backbone(drop(tiny_backbone(gain=gain), BACKBONE_UNUSED)[0]))
    return model


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "encoder_tiny.safetensors")


def tokens(outputs: InternVideo2Features) -> list[torch.Tensor]:
    """`(batch, 1 + steps * rows * columns, channels)` each, as the published code has them."""
    pairs = zip(outputs.class_tokens, outputs.features, strict=True)
    return [torch.cat([token[:, None], features.flatten(2).mT], dim=1) for token, features in pairs]


@pytest.mark.parametrize("attn_implementation", ["sdpa", "eager"])
@torch.no_grad()
def test_features_are_those_of_the_published_code(golden, attn_implementation):
    outputs = encoder()(tiny_clip(4), range(4), attn_implementation=attn_implementation)
    assert [tuple(features.shape) for features in outputs.features] == [(2, 96, 4, 4, 4)] * 4
    for number, state in enumerate(tokens(outputs)):
        torch.testing.assert_close(state, golden[f"enc4.layer{number}"], **TOLERANCE)
    torch.testing.assert_close(outputs.class_tokens[-1], golden["enc4.cls"], **TOLERANCE)


@torch.no_grad()
def test_features_of_a_longer_clip(golden):
    first, last = tokens(encoder()(tiny_clip(6), [0, 3]))
    torch.testing.assert_close(first, golden["enc6.layer0"], **TOLERANCE)
    torch.testing.assert_close(last, golden["enc6.layer3"], **TOLERANCE)


@torch.no_grad()
def test_features_where_branches_weigh_more(golden):
    """Mistakes inside a block show here: an exact GELU, norms of each head, another epsilon."""
    first, last = tokens(encoder(gain=1.0)(tiny_clip(4)[:1], [0, 3]))
    torch.testing.assert_close(first, golden["gain.enc_layer0"], atol=5e-5, rtol=0)
    torch.testing.assert_close(last, golden["gain.enc_layer3"], atol=5e-5, rtol=0)
    for mistake in ({"hidden_act": "gelu"}, {"norm_eps": 1e-5}):
        (other,) = tokens(encoder(gain=1.0, **mistake)(tiny_clip(4)[:1]))
        assert (other - golden["gain.enc_layer3"]).abs().max() > 1e-4


@torch.no_grad()
def test_bfloat16_rounds_where_the_fused_kernels_do(golden):
    (state,) = tokens(encoder().bfloat16()(tiny_clip(4)[:1]))
    assert state.dtype == torch.bfloat16
    error = state.float() - golden["bf16.enc_layer3"]
    # bfloat16 itself is 5.5e-3 (mean square) and 0.041 away from float32
    assert error.square().mean().sqrt() < 2e-3 and error.abs().max() <= 0.0313
    assert (error == 0).float().mean() > 0.8


def test_positions_in_time(golden):
    table = tiny_backbone()["pos_embed"]
    torch.testing.assert_close(resize_positions(table, 4, 6, (4, 4)), golden["enc6.pos_embed"], **TOLERANCE)
    of_a_patch = resize_positions(table, 4, 20, (4, 4))[0, 1:].unflatten(0, (20, 16))[:, 5]
    torch.testing.assert_close(of_a_patch, golden["enc20.pos_embed_tok5"], **TOLERANCE)
    assert torch.equal(resize_positions(table, 4, 4, (4, 4)), table)


def test_positions_in_time_then_in_space():
    table = tiny_backbone()["pos_embed"]
    frames = table[0, 1:].view(4, 4, 4, 96)
    # the centres of two halves of the clip lie between steps 0 and 1, and 2 and 3
    halved = torch.stack([(frames[0] + frames[1]) / 2, (frames[2] + frames[3]) / 2])
    expected = F.interpolate(halved.permute(0, 3, 1, 2), size=(7, 7), mode="bicubic", align_corners=False)
    resized = resize_positions(table, 4, 2, (7, 7))
    assert resized.shape == (1, 1 + 2 * 49, 96)
    assert torch.equal(resized[:, 0], table[:, 0]), "the class token has no place"
    torch.testing.assert_close(resized[0, 1:].view(2, 7, 7, 96), expected.permute(0, 2, 3, 1))
    assert resize_positions(table.bfloat16(), 4, 2, (7, 7)).dtype == torch.float32


def test_initial_positions():
    table = sine_cosine_positions(4, 3, 32)
    assert table.shape == (1, 1 + 4 * 9, 32) and not table[0, 0].any()
    step, row, column = 2, 1, 2
    expected = torch.tensor([step, step / 100]).double(), torch.tensor([column, row]).double()
    values = table[0, 1 + (step * 3 + row) * 3 + column].double()
    parts = values.split([8, 12, 12])  # time, column, row: sines, then cosines
    frequency = 10000 ** (-torch.arange(4).double() / 4)
    torch.testing.assert_close(parts[0][:4], (step * frequency).sin(), atol=1e-6, rtol=0)
    torch.testing.assert_close(parts[0][4], expected[0][0].cos(), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.stack([parts[1][0], parts[2][0]]), expected[1].sin(), atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="a hidden_size that 16 divides, got 40"):
        sine_cosine_positions(4, 3, 40)


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 14, 14), (5, 56, 56), (20, 28, 28), (3, 70, 42)])
@torch.no_grad()
def test_any_number_of_frames_and_any_size(frames, height, width):
    video = torch.randn(2, 3, frames, height, width, generator=torch.Generator().manual_seed(0))
    model = encoder()
    (features,) = model(video).features
    assert features.shape == (2, 96, frames, height // 14, width // 14) and features.isfinite().all()
    torch.testing.assert_close(model(video[1:]).features[0], features[1:])


@torch.no_grad()
def test_only_blocks_that_are_needed_are_run():
    model = encoder()
    expected = model(tiny_clip(4), [1, 3])
    for block in model.blocks[2:]:
        block.attn.proj.weight.fill_(torch.nan)
    (features,) = model(tiny_clip(4), [1]).features
    assert torch.equal(features, expected.features[0])
    assert model(tiny_clip(4)).features[0].isnan().any()


@pytest.mark.parametrize(
    ("layers", "shape", "message"),
    [
        ([4], (1, 3, 4, 56, 56), "ascending numbers from 0 to 3, got"),
        ([1, 1], (1, 3, 4, 56, 56), "ascending numbers"),
        ([], (1, 3, 4, 56, 56), "ascending numbers"),
        ([-1], (1, 3, 4, 56, 56), "ascending numbers"),
        (None, (1, 3, 4, 56, 50), "4 frames of 56x50 cannot be cut into patches of 1 frames of 14x14: set the proc"),
        (None, (1, 3, 0, 56, 56), "cannot be cut into patches"),
        (None, (1, 4, 3, 56, 56), r"clips must be \(batch, 3, frames, height, width\), got \(1, 4, 3, 56, 56\)"),
    ],
)
def test_wrong_input_is_refused(layers, shape, message):
    with pytest.raises(ValueError, match=message):
        encoder()(torch.zeros(shape), layers)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"heads": 7}, "7 heads do not divide 96 channels"),
        ({"hidden_act": "relu"}, "hidden_act must be one of gelu_pytorch_tanh, gelu, got 'relu'"),
        ({"image_size": 60}, r"tubelet_size \(1\) must divide the one and patch_size \(14\) the other"),
        ({"num_frames": 3, "tubelet_size": 2}, "for 3 frames of side 56"),
    ],
)
def test_wrong_sizes_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        InternVideo2Encoder(**{**TINY, **fields})


def test_tubelets_of_two_frames():
    model = InternVideo2Encoder(**TINY, tubelet_size=2, num_frames=8)
    assert model(tiny_clip(4)).features[0].shape == (2, 96, 2, 4, 4)


def test_stochastic_depth_drops_branches_of_whole_clips():
    block = InternVideo2Block(
        32, 2, mlp_ratio=2, layer_scale_init=1.0, drop_path=0.4, hidden_act="gelu", norm_eps=1e-6
    )
    inputs = torch.randn(200, 3, 32, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    with torch.no_grad():
        branch, residual = block.train()(inputs)
        kept = (branch != 0).flatten(1)
        assert torch.equal(kept.any(1), kept.all(1)), "a clip is dropped as a whole"
        assert 0.5 < kept.all(1).float().mean() < 0.7
        assert 0.5 < (residual != inputs).flatten(1).all(1).float().mean() < 0.7
        whole = block.eval()(inputs)[1] - inputs
        taken = (residual != inputs).flatten(1).all(1)
        torch.testing.assert_close((residual - inputs)[taken], whole[taken] / 0.6, atol=1e-5, rtol=1e-5)
    rates = [layer.drop_path for layer in InternVideo2Encoder(**TINY).blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activation_checkpointing_changes_nothing(dtype):
    reference = encoder(gain=1.0, drop_path_rate=0.5).to(dtype).train()
    results = []
    for checkpointed in (False, True):
        model = copy.deepcopy(reference)
        model.gradient_checkpointing = checkpointed
        model._gradient_checkpointing_func = lambda *inputs: checkpoint(*inputs, use_reentrant=False)
        torch.manual_seed(1)
        outputs = model(tiny_clip(4), [1, 3])
        sum(features.float().square().mean() for features in outputs.features).backward()
        results.append((outputs.features, [parameter.grad for parameter in model.parameters()]))
    for first, second in zip(results[0][0], results[1][0], strict=True):
        assert torch.equal(first, second)
    assert all(gradient is not None and gradient.any() for gradient in results[0][1])
    for first, second in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-7)


def test_initial_weights_are_those_that_the_rule_for_transformers_gives():
    torch.manual_seed(0)
    model = InternVideo2Encoder(**TINY)
    fixed = {name: value.clone() for name, value in model.state_dict().items() if "scale" in name or "norm" in name}
    fixed["patch_embed.position_table"] = model.patch_embed.position_table.detach().clone()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
        model.apply(init_internvideo2_weights)
    state = model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in fixed.items()) and len(fixed) == 6 * 4 + 1
    untouched = sorted(name for name, value in state.items() if value.isnan().any())
    assert untouched == ["patch_embed.proj.bias", "patch_embed.proj.weight"], "convolutions are the model's business"
    assert 0.015 < state["blocks.0.attn.qkv.weight"].std() < 0.025
    assert (state["blocks.0.ls1.scale"] == 1e-5).all()


def test_size_of_the_published_model():
    with torch.device("meta"):
        model = InternVideo2Encoder()
    assert sum(parameter.numel() for parameter in model.blocks.parameters()) == 5_900_083_200
    # nothing of the pretraining is built
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"patch_embed", "blocks"}
