# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from seeded_weights import seeded_input

from video_saliency.losses import (
    correlation_coefficient,
    kl_divergence,
    kl_minus_cc_loss,
    normalized_scanpath_saliency,
    saliency_loss,
)


def random_maps(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_kl_by_hand() -> None:
    # P = (1/4, 3/4), S = (1/2, 1/2): 1/2 log 2 + 1/2 log 2/3
    value = kl_divergence(torch.tensor([[1.0, 3.0]]), torch.tensor([[5.0, 5.0]]))
    assert value.item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), abs=1e-6)


def test_cc_by_hand() -> None:
    maps = torch.tensor([[1.0, 2.0, 3.0]])
    assert correlation_coefficient(maps, 2 * maps + 5).item() == pytest.approx(1, abs=1e-6)
    assert correlation_coefficient(maps, -maps).item() == pytest.approx(-1, abs=1e-6)
    # centred (-1, 0, 1) and (-1, 2, -1): orthogonal
    assert correlation_coefficient(maps, torch.tensor([[0.0, 3.0, 0.0]])).item() == pytest.approx(0, abs=1e-6)


def test_nss_by_hand() -> None:
    # mean 2, deviation with N - 1 is 1: the fixated pixels have 1 and 0
    maps, fixations = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0.0, 4.0, 1.0]])
    assert normalized_scanpath_saliency(maps, fixations).item() == pytest.approx(0.5, abs=1e-6)


def test_against_float64_formulas_of_the_benchmark_code() -> None:
    maps, densities = random_maps(3, 48, 64), random_maps(3, 48, 64, seed=1) ** 4
    fixations = (random_maps(3, 48, 64, seed=2) > 0.99).float()
    tiny = np.finfo(np.float64).eps
    for index in range(3):
        p, s, f = (value[index].double().numpy() for value in (maps, densities, fixations))
        p_sum, s_sum = p / p.sum(), s / s.sum()
        assert kl_divergence(maps, densities)[index].item() == pytest.approx(
            (s_sum * np.log(tiny + s_sum / (p_sum + tiny))).sum(),
            rel=5e-3,  # the larger constant of float32
        )
        assert correlation_coefficient(maps, densities)[index].item() == pytest.approx(
            np.corrcoef(p.ravel(), s.ravel())[0, 1], abs=1e-5
        )
        standardised = (p - p.mean()) / p.std(ddof=1)
        assert normalized_scanpath_saliency(maps, fixations)[index].item() == pytest.approx(
            standardised[f > 0].mean(), abs=1e-5
        )


@pytest.mark.parametrize("function", [kl_divergence, correlation_coefficient, normalized_scanpath_saliency])
def test_one_value_per_map_whatever_the_leading_shape_and_scale(function) -> None:
    maps, labels = random_maps(2, 3, 8, 9), (random_maps(2, 3, 8, 9, seed=1) > 0.7).float()
    values = function(maps, labels)
    assert values.shape == (2, 3)
    torch.testing.assert_close(values[1, 2], function(maps[1, 2], labels[1, 2]))
    torch.testing.assert_close(values, function(100 * maps, labels), rtol=1e-4, atol=1e-5)
    assert function(maps.bfloat16(), labels).dtype == torch.float32


@pytest.mark.parametrize("constant", [0.0, 1.0])
def test_constant_and_empty_maps_have_finite_losses_and_gradients(constant: float) -> None:
    maps = torch.full((1, 4, 8, 8), constant, requires_grad=True)
    densities, fixations = random_maps(1, 4, 8, 8), (random_maps(1, 4, 8, 8) > 0.9).float()
    saliency_loss(maps, densities, fixations, cc_weight=1.0).backward()
    assert maps.grad.isfinite().all()


def test_weights() -> None:
    maps, densities = random_maps(2, 2, 8, 9), random_maps(2, 2, 8, 9, seed=1)
    fixations = (densities > 0.9).float()
    kl = kl_divergence(maps, densities).mean()
    nss = normalized_scanpath_saliency(maps, fixations).mean()
    cc = correlation_coefficient(maps, densities).mean()
    torch.testing.assert_close(saliency_loss(maps, densities, fixations), kl - 0.1 * nss)
    torch.testing.assert_close(saliency_loss(maps, densities), kl)
    loss = saliency_loss(maps, densities, fixations, kl_weight=2.0, nss_weight=0.5, cc_weight=3.0)
    torch.testing.assert_close(loss, 2 * kl - 0.5 * nss + 3 * (1 - cc))


def test_unlabelled_maps_are_skipped() -> None:
    maps, densities = random_maps(1, 3, 8, 9), random_maps(1, 3, 8, 9, seed=1)
    fixations = (densities > 0.9).float()
    fixations[0, 1] = 0
    expected_nss = normalized_scanpath_saliency(maps[:, [0, 2]], fixations[:, [0, 2]]).mean()
    torch.testing.assert_close(saliency_loss(maps, densities, fixations, kl_weight=0.0, nss_weight=1.0), -expected_nss)
    densities[0, 1] = 0
    expected = saliency_loss(maps[:, [0, 2]], densities[:, [0, 2]], cc_weight=1.0)
    torch.testing.assert_close(saliency_loss(maps, densities, cc_weight=1.0), expected)


def test_nothing_labelled_gives_zero_loss_and_gradients() -> None:
    maps = random_maps(1, 2, 8, 9).requires_grad_()
    empty = torch.zeros(1, 2, 8, 9)
    loss = saliency_loss(maps, empty, empty, cc_weight=1.0)
    loss.backward()
    assert loss.item() == 0
    assert not maps.grad.any()


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="size of the maps"):
        saliency_loss(torch.zeros(1, 2, 8, 8), torch.zeros(1, 2, 4, 4))


def dtfsal_maps() -> tuple[torch.Tensor, torch.Tensor]:
    shape = (2, 1, 14, 24)
    return seeded_input("loss.pred", shape).sigmoid(), seeded_input("loss.gt", shape).relu()


@pytest.mark.parametrize(
    ("weights", "value"),
    [
        ({"cc_weight": 0.0}, 1.0085855912),
        ({"kl_weight": 0.0}, -0.0145593654),
        ({}, 0.9940262258),
        ({"kl_weight": 2.0, "cc_weight": 3.0}, 2 * 1.0085855912 - 3 * 0.0145593654),
    ],
)
def test_kl_minus_cc_against_values_in_float64(weights: dict[str, float], value: float) -> None:
    assert kl_minus_cc_loss(*dtfsal_maps(), **weights).item() == pytest.approx(value, abs=1e-6)


def test_kl_minus_cc_skips_unlabelled_maps_and_checks_shapes() -> None:
    maps, densities = dtfsal_maps()
    expected = kl_minus_cc_loss(maps[:1], densities[:1])
    densities[1] = 0
    torch.testing.assert_close(kl_minus_cc_loss(maps, densities), expected)
    assert kl_minus_cc_loss(maps, torch.zeros_like(maps)).item() == 0
    with pytest.raises(ValueError, match="size of the maps"):
        kl_minus_cc_loss(maps, densities[..., :-1])


def test_kl_minus_cc_has_finite_gradients_for_maps_near_zero() -> None:
    logits = torch.full((1, 1, 8, 8), -80.0, requires_grad=True)
    kl_minus_cc_loss(logits.sigmoid(), random_maps(1, 1, 8, 8)).backward()
    assert logits.grad.isfinite().all()
