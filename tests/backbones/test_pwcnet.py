# SPDX-License-Identifier: Apache-2.0
"""PWC-Net against stored outputs of the published layout with seeded weights."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from pwcnet_weights import GOLDEN, pwcnet_checkpoint
from safetensors.torch import load_file
from seeded_weights import seeded_input

from video_saliency.backbones.pwcnet import PWCNetFlow, cost_volume, warp
from video_saliency.models.gfsalnet.convert_gfsalnet import convert_pwcnet

STORED = load_file(GOLDEN / "pwcnet.safetensors")
UNITS = {0: (2, 7, 6, 9), 1: (1, 40, 5, 12)}


@pytest.fixture(scope="module")
def network() -> PWCNetFlow:
    network = PWCNetFlow().requires_grad_(False)
    network.load_state_dict(convert_pwcnet(pwcnet_checkpoint()))
    return network


def bgr_pair(height: int, width: int) -> list[torch.Tensor]:
    names = [f"golden_pwcnet.{height}x{width}.{name}" for name in ("one", "two")]
    return [torch.sigmoid(seeded_input(name, (1, 3, height, width))) for name in names]


def assert_stored(value: torch.Tensor, name: str, atol: float) -> None:
    torch.testing.assert_close(value, STORED[name], atol=atol, rtol=0)


def test_it_has_the_published_number_of_weights(network):
    assert sum(parameter.numel() for parameter in network.parameters()) == 9_374_274
    assert len(network.state_dict()) == 126


@pytest.mark.parametrize("number", UNITS)
def test_cost_volume_and_warp_equal_the_stored_ones(number):
    first, second = (seeded_input(f"golden_pwcnet.corr{number}.{name}", UNITS[number]) for name in ("one", "two"))
    batch, _, height, width = UNITS[number]
    flow = 2.5 * seeded_input(f"golden_pwcnet.warp{number}.flow", (batch, 2, height, width))
    assert_stored(cost_volume(first, second), f"unit.corr{number}", 1e-5)
    assert_stored(warp(second, flow), f"unit.warp{number}", 1e-5)


def test_a_whole_pixel_warp_equals_the_stored_one():
    flow = torch.tensor([1.0, -2.0]).reshape(1, 2, 1, 1).expand(2, 2, 6, 9)
    features = seeded_input("golden_pwcnet.corr0.two", UNITS[0])
    assert_stored(warp(features, flow), "unit.warp_integer_u1_vminus2", 1e-5)
    assert torch.equal(warp(features, torch.zeros(2, 2, 6, 9)) != 0, features != 0), "borders live under zero flow"


def test_features_flows_and_residual_equal_the_stored_ones(network):
    first, second = (network.features(image) for image in bgr_pair(64, 64))
    for level, step in enumerate((4, 2, 1, 1, 1, 1), start=1):  # of the large levels every n-th channel is stored
        assert_stored(first[level - 1][:, ::step], f"native_64x64.feature_one_level{level}", 1e-5)
    flows, residual = network.estimate(first[1:], second[1:])
    for level, flow in zip((6, 5, 4, 3, 2), flows, strict=True):
        assert_stored(flow, f"native_64x64.flow_level{level}_unscaled", 1e-3)
    assert_stored(residual, "native_64x64.refiner_residual_unscaled", 1e-3)
    assert_stored(20 * (flows[-1] + residual), "native_64x64.network_output_quarter_res", 1e-3)


def test_flow_of_another_size_equals_the_stored_one(network):
    start, end = (network.encode(image.flip(1)) for image in bgr_pair(96, 128))  # `encode` takes RGB
    flow = network.match(start, end, (96, 128))
    assert_stored(flow[..., ::2, ::2], "resized_96x128.flow_full_res", 2e-3)


@pytest.mark.parametrize("shape", [(2, 5, 4, 17), (1, 3, 1, 1), (1, 2, 9, 8), (2, 4, 3, 7)])
def test_cost_volume_is_that_of_81_shifts(shape):
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    height, width = shape[-2:]
    padded = F.pad(second, [4] * 4)
    shifts = [
        (first * padded[..., dy : dy + height, dx : dx + width]).mean(dim=1) for dy in range(9) for dx in range(9)
    ]
    torch.testing.assert_close(cost_volume(first, second), torch.stack(shifts, dim=1))


@pytest.mark.parametrize("size", [(1, 1), (50, 70), (64, 130)])
def test_any_size_and_pairs_of_a_batch_do_not_see_each_other(network, size):
    frames = torch.rand(3, 3, *size, generator=torch.Generator().manual_seed(1))
    encoded = network.encode(frames)
    assert [part.shape[1] for part in encoded] == [32, 64, 96, 128, 196]
    start, end = [part[:2] for part in encoded], [part[1:] for part in encoded]
    together = network.match(start, end, size)
    assert together.shape == (2, 2, *size) and together.isfinite().all()
    pairs = [network.match(*(network.encode(frames[i : i + 1]) for i in (n, n + 1)), size) for n in range(2)]
    torch.testing.assert_close(together, torch.cat(pairs), atol=1e-3, rtol=1e-3)


def test_flow_is_in_pixels_of_the_size_that_is_asked_for(network):
    start, end = (network.encode(image) for image in bgr_pair(64, 64))
    flow, wide = network.match(start, end, (64, 64)), network.match(start, end, (64, 128))
    stretched = F.interpolate(flow, size=(64, 128), mode="bilinear", align_corners=False)
    # not the same sampling of the quarter-size flow, so only close to it
    assert (wide - stretched * torch.tensor([2.0, 1.0]).reshape(2, 1, 1)).abs().mean() < 0.03 * wide.abs().mean()


def test_half_precision_weights_compute_in_float32(network):
    half = PWCNetFlow().requires_grad_(False)
    half.load_state_dict(network.state_dict())
    rounded = PWCNetFlow().requires_grad_(False)
    rounded.load_state_dict({name: value.bfloat16().float() for name, value in network.state_dict().items()})
    start, end = bgr_pair(64, 64)
    flows = [net.match(net.encode(start), net.encode(end), (64, 64)) for net in (half.to(torch.bfloat16), rounded)]
    assert flows[0].dtype == torch.float32 and half.context[0].weight.dtype == torch.bfloat16
    assert torch.equal(*flows)
