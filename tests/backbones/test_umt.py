# SPDX-License-Identifier: Apache-2.0
"""UMT against tensors of the published code, and at sizes that it was not made for."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from salfom_weights import GOLDEN, tiny_umt_checkpoint
from seeded_weights import seeded_input, seeded_tensor

from video_saliency.backbones.umt import UMTEncoder, position_table
from video_saliency.models.salfom.convert_salfom import convert_umt

FIRST_ROWS = [0, 1, 13, 14, 195, 196]
ROWS_OF_8 = [*FIRST_ROWS, 197, 783, 784, 1371, 1372, 1567]
ROWS_OF_16 = [*FIRST_ROWS, 197, 392, 588, 1567, 1568, 2939, 2940, 3135]
TOLERANCE = {"atol": 1e-5, "rtol": 1e-4}


@pytest.fixture(scope="module")
def encoder() -> UMTEncoder:
    encoder = UMTEncoder(dim=64, depth=2, heads=4).eval()
    encoder.load_state_dict(convert_umt(tiny_umt_checkpoint()))
    return encoder


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "umt_tiny.safetensors")


@pytest.mark.parametrize("attn_implementation", ["sdpa", "eager"])
@torch.no_grad()
def test_features_are_those_of_the_published_code(encoder, golden, attn_implementation):
    video = seeded_input("salfom/umt_tiny/video", (2, 3, 4, 32, 32)).transpose(1, 2)
    embedded = encoder.embed_frames(video)
    torch.testing.assert_close(embedded.flatten(1, 2), golden["patch_tokens"], **TOLERANCE)
    torch.testing.assert_close(position_table(4, (2, 2), 64), golden["pos_embed"][0], atol=2e-5, rtol=0)
    states = encoder(embedded, (2, 2), attn_implementation=attn_implementation, output_hidden_states=True)
    assert [tuple(state.shape) for state in states] == [(2, 4, 64, 2, 2)] * 2
    for number, state in enumerate(states):
        tokens = state.permute(0, 1, 3, 4, 2).flatten(1, 3)
        torch.testing.assert_close(tokens, golden[f"block_{number}"], **TOLERANCE)
    torch.testing.assert_close(tokens, golden["tokens"], **TOLERANCE)
    (last,) = encoder(embedded, (2, 2), attn_implementation=attn_implementation)
    assert torch.equal(last, states[-1])
    # the classifier of UMT on top: mean over tokens, norm, linear
    norm, head = (
        [seeded_tensor(f"{name}.{kind}", shape) for kind, shape in shapes.items()]
        for name, shapes in {
            "fc_norm": {"weight": (64,), "bias": (64,)},
            "head": {"weight": (10, 64), "bias": (10,)},
        }.items()
    )
    logits = F.linear(F.layer_norm(tokens.mean(dim=1), (64,), *norm, eps=1e-6), *head)
    torch.testing.assert_close(logits, golden["logits"], **TOLERANCE)


@torch.no_grad()
def test_the_attention_alone(encoder, golden):
    video = seeded_input("salfom/umt_tiny/video", (2, 3, 4, 32, 32)).transpose(1, 2)
    tokens = encoder.embed_frames(video).flatten(1, 2) + position_table(4, (2, 2), 64)
    block = encoder.blocks[0]
    torch.testing.assert_close(block.attention(block.norm1(tokens)), golden["block_0_attn"], **TOLERANCE)


@torch.no_grad()
def test_epsilon_of_the_norms(encoder, golden):
    probe = 0.002 * seeded_input("salfom/umt_tiny/video/eps_probe", (1, 6, 64))
    torch.testing.assert_close(encoder.blocks[0](probe), golden["eps_probe.block_0"], **TOLERANCE)


@pytest.mark.parametrize(
    ("name", "frames", "grid", "dim", "rows", "tolerance"),
    [
        ("f8_14x14_d64_every8", 8, (14, 14), 64, slice(None, None, 8), 1e-6),
        ("f16_14x14_d64_every16", 16, (14, 14), 64, slice(None, None, 16), 1e-6),
        ("f8_14x14_d1024_rows", 8, (14, 14), 1024, ROWS_OF_8, 1e-6),
        ("f16_14x14_d1024_rows", 16, (14, 14), 1024, ROWS_OF_16, 1e-6),
        ("f16_14x14_d768_rows", 16, (14, 14), 768, ROWS_OF_16, 1e-6),
        ("f4_2x2_d64_full", 4, (2, 2), 64, slice(None), 2e-5),
        ("f8_24x24_d64_every32", 8, (24, 24), 64, slice(None, None, 32), 2e-5),
        ("f16_7x7_d64_every8", 16, (7, 7), 64, slice(None, None, 8), 2e-5),
    ],
)
def test_positions_are_those_of_the_published_code(name, frames, grid, dim, rows, tolerance):
    table = position_table(frames, grid, dim)
    assert table.shape == (frames * grid[0] * grid[1], dim)
    torch.testing.assert_close(table[rows], load_file(GOLDEN / "positions.safetensors")[name], atol=tolerance, rtol=0)


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 16, 16), (3, 32, 80), (16, 48, 16)])
@torch.no_grad()
def test_any_number_of_frames_and_any_grid(encoder, frames, height, width):
    video = torch.randn(2, frames, 3, height, width, generator=torch.Generator().manual_seed(0))
    grid = (height // 16, width // 16)
    (features,) = encoder(encoder.embed_frames(video), grid)
    assert features.shape == (2, frames, 64, *grid) and features.isfinite().all()
    (alone,) = encoder(encoder.embed_frames(video[1:]), grid)
    torch.testing.assert_close(features[1:], alone)


def test_positions_follow_size_precision_and_device():
    encoder = UMTEncoder(dim=16, depth=1, heads=2)
    calls = []
    for device in ("meta", "cpu"):
        for dtype in (torch.float32, torch.bfloat16):
            like = torch.zeros(1, device=device, dtype=dtype)
            with torch.device(device), torch.inference_mode():
                table = encoder._position_table(4, (2, 3), like)
            assert encoder._position_table(4, (2, 3), like) is table
            assert (table.device.type, table.dtype, table.is_inference()) == (device, dtype, False)
            calls.append(table)
    assert calls[-1].shape == (24, 16) and encoder._position_table(2, (2, 3), calls[-1]).shape == (12, 16)
    torch.testing.assert_close(encoder._position_table(4, (2, 3), torch.zeros(1)), position_table(4, (2, 3), 16))


def test_sides_that_patches_do_not_fill_are_refused(encoder):
    with pytest.raises(ValueError, match="30x32 cannot be cut into patches of 16: set the processor's size"):
        encoder.embed_frames(torch.zeros(1, 4, 3, 30, 32))
    with pytest.raises(ValueError, match="3 heads do not divide 64"):
        UMTEncoder(dim=64, depth=1, heads=3)
