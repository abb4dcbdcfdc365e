# SPDX-License-Identifier: Apache-2.0
"""VGGish's convolutions against stored outputs of the published port with seeded weights."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from dtfsal_weights import GOLDEN, layout
from safetensors.torch import load_file
from seeded_weights import seeded_input, seeded_tensor

from video_saliency.backbones.vggish import VGGishEncoder
from video_saliency.checkpoints import drop
from video_saliency.models.dtfsal.convert_dtfsal import CONVERTER, convert_vggish

STORED = load_file(GOLDEN / "vggish.safetensors")
CASES = {"96x64": ("vggish.x0", 2), "112x192": ("vggish.x1", 2), "64x64": ("vggish.x2", 1)}


@pytest.fixture(scope="module")
def network() -> VGGishEncoder:
    shapes, _ = drop(layout("vggish_layout"), CONVERTER.sources["audio"].dropped)
    network = VGGishEncoder().requires_grad_(False)
    network.load_state_dict(convert_vggish({name: seeded_tensor(name, shape) for name, shape in shapes.items()}))
    return network


def log_mel_of(case: str) -> torch.Tensor:
    name, batch = CASES[case]
    return seeded_input(name, (batch, 1, *map(int, case.split("x"))))


def test_it_has_the_published_number_of_weights(network):
    assert sum(parameter.numel() for parameter in network.parameters()) == 4_499_712


@pytest.mark.parametrize("case", CASES)
def test_maps_equal_the_stored_ones(network, case):
    maps = network(log_mel_of(case))
    stored = f"map_{case}.features"
    assert maps.shape[2:] == tuple(int(side) // 16 for side in case.split("x"))
    places = torch.linspace(0, maps.numel() - 1, 64, dtype=torch.float64).long()
    torch.testing.assert_close(maps.flatten()[places], STORED[f"{stored}.at64"], atol=1e-5, rtol=0)
    values = maps.double()
    numbers = [values.mean(), values.std(correction=0), values.abs().mean(), values.min(), values.max(), values.norm()]
    torch.testing.assert_close(torch.stack(numbers), STORED[f"{stored}.stats"], atol=1e-5, rtol=1e-6)
    if stored in STORED:
        torch.testing.assert_close(maps, STORED[stored], atol=1e-5, rtol=0)


@pytest.mark.slow  # 68 million random numbers
def test_the_vector_of_the_published_network_follows_from_the_map(network):
    vector = network(log_mel_of("96x64")).permute(0, 2, 3, 1).flatten(1)
    shapes = layout("vggish_layout")
    for number in (0, 2, 4):
        weight, bias = (f"embeddings.{number}.{kind}" for kind in ("weight", "bias"))
        vector = F.relu(F.linear(vector, seeded_tensor(weight, shapes[weight]), seeded_tensor(bias, shapes[bias])))
    torch.testing.assert_close(vector, STORED["map_96x64.embedding"], atol=1e-5, rtol=0)


def test_sizes_that_16_does_not_divide_are_rounded_down():
    network = VGGishEncoder(channels=(2, 3, 4, 5))
    assert network(torch.zeros(2, 1, 40, 95)).shape == (2, 5, 2, 5)


def test_another_number_of_stages_is_refused():
    with pytest.raises(ValueError, match="4 values"):
        VGGishEncoder(channels=(2, 3, 4))
