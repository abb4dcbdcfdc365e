# SPDX-License-Identifier: Apache-2.0
"""Differentiable saliency losses: pure functions on maps `(..., height, width)`, one value per map.

Everything is computed in float32, whatever the precision of the maps. The constants that keep divisions finite are
those of float32: the evaluation code of the MIT saliency benchmark, whose forms are used here, has 2.2e-16 in float64.
"""

from __future__ import annotations

import torch

EPSILON = 1e-7
DTFSAL_EPSILON = 2.2204e-16  # of the public code that DTFSal builds on


def kl_divergence(maps: torch.Tensor, densities: torch.Tensor, *, epsilon: float = EPSILON) -> torch.Tensor:
    """Kullback-Leibler divergence of each map from its true density, `(...)`, 0 or more up to rounding.

    `sum S log(epsilon + S / (P + epsilon))` with both maps divided by their sums (GFSalNet section III-E; the place of
    epsilon is that of the MIT benchmark's code).

    Args:
        maps: predicted `(..., height, width)`, not negative, any scale.
        densities: true maps, same shape, any scale. An all-zero one gives 0.
        epsilon: keeps the quotients finite.
    """
    predicted, true = _sum_to_one(maps, epsilon), _sum_to_one(densities, epsilon)
    return (true * (epsilon + true / (predicted + epsilon)).log()).sum(dim=(-2, -1))


def correlation_coefficient(maps: torch.Tensor, densities: torch.Tensor, *, epsilon: float = EPSILON) -> torch.Tensor:
    """Pearson's correlation over the pixels of each map with its true density, `(...)`, in -1..1; 0 for constant maps.

    Args:
        maps: predicted `(..., height, width)`, any scale.
        densities: true maps, same shape, any scale.
        epsilon: smallest length of a centred map.
    """
    predicted, true = _centred_unit(maps, epsilon), _centred_unit(densities, epsilon)
    return (predicted * true).sum(dim=(-2, -1))


def normalized_scanpath_saliency(
    maps: torch.Tensor, fixations: torch.Tensor, *, epsilon: float = EPSILON
) -> torch.Tensor:
    """Mean of the standardised map over the fixated pixels, `(...)`; 0 for a map without any fixation.

    The deviation divides by N - 1, as in the MIT benchmark's code.

    Args:
        maps: predicted `(..., height, width)`, any scale.
        fixations: same shape; above 0 where somebody looked. A pixel counts once, however large its value.
        epsilon: smallest standard deviation.
    """
    maps = maps.float()
    centred = maps - maps.mean(dim=(-2, -1), keepdim=True)
    # the root of a sum with epsilon inside has a finite slope at a constant map; that of torch.std is NaN
    variance = centred.square().sum(dim=(-2, -1), keepdim=True) / (maps.shape[-2] * maps.shape[-1] - 1)
    standardised = centred / (variance + epsilon**2).sqrt()
    fixated = (fixations > 0).float()
    return (standardised * fixated).sum(dim=(-2, -1)) / fixated.sum(dim=(-2, -1)).clamp(min=1)


def saliency_loss(
    maps: torch.Tensor,
    densities: torch.Tensor,
    fixations: torch.Tensor | None = None,
    *,
    kl_weight: float = 1.0,
    nss_weight: float = 0.1,
    cc_weight: float = 0.0,
) -> torch.Tensor:
    """Scalar `kl_weight * KL - nss_weight * NSS + cc_weight * (1 - CC)`, each term a mean over maps.

    The default weights are GFSalNet's (section III-E: alpha 1, beta 0.1, no CC term). Maps whose density is all zero
    take no part in KL and CC, maps without fixations none in NSS; a term to which nothing is left is 0.

    Args:
        maps: predicted `(..., height, width)`, not negative.
        densities: true densities, same shape, any scale.
        fixations: fixation maps, same shape; `None` leaves the NSS term out.
        kl_weight, nss_weight, cc_weight: a term with weight 0 is not computed.

    Raises:
        ValueError: for different shapes.
    """
    for name, labels in (("densities", densities), ("fixations", fixations)):
        if labels is not None:
            _check_shape(name, labels, maps)
    loss = maps.new_zeros((), dtype=torch.float32)
    has_density = densities.flatten(-2).amax(dim=-1) > 0
    if kl_weight:
        loss = loss + kl_weight * _mean_where(kl_divergence(maps, densities), has_density)
    if cc_weight:
        loss = loss + cc_weight * _mean_where(1 - correlation_coefficient(maps, densities), has_density)
    if nss_weight and fixations is not None:
        has_fixations = fixations.flatten(-2).amax(dim=-1) > 0
        loss = loss - nss_weight * _mean_where(normalized_scanpath_saliency(maps, fixations), has_fixations)
    return loss


def kl_minus_cc_loss(
    maps: torch.Tensor,
    densities: torch.Tensor,
    *,
    kl_weight: float = 1.0,
    cc_weight: float = 1.0,
    epsilon: float = DTFSAL_EPSILON,
) -> torch.Tensor:
    """Scalar `kl_weight * KL - cc_weight * CC`, each term a mean over maps (DTFSal eq. 17-19).

    Maps whose density is all zero take no part; if all are, the loss is 0.

    Args:
        maps: predicted `(..., height, width)`, not negative.
        densities: true densities, same shape, any scale.
        kl_weight, cc_weight: a term with weight 0 is not computed.
        epsilon: of KL. With the default float32 maps must be above 0, as those of a sigmoid are.

    Raises:
        ValueError: for different shapes.
    """
    _check_shape("densities", densities, maps)
    loss = maps.new_zeros((), dtype=torch.float32)
    has_density = densities.flatten(-2).amax(dim=-1) > 0
    if kl_weight:
        loss = loss + kl_weight * _mean_where(kl_divergence(maps, densities, epsilon=epsilon), has_density)
    if cc_weight:
        loss = loss - cc_weight * _mean_where(correlation_coefficient(maps, densities), has_density)
    return loss


def visage_loss(
    maps: torch.Tensor,
    densities: torch.Tensor,
    fixations: torch.Tensor | None = None,
    *,
    kl_weight: float = 10.0,
    cc_weight: float = 2.0,
    sim_weight: float = 1.0,
    bce_weight: float = 1.0,
    nss_weight: float = 0.0,
    fixation_weight: float = 3.0,
) -> torch.Tensor:
    """Scalar `kl_weight * KL + cc_weight * (1 - CC) + sim_weight * (1 - SIM) + bce_weight * BCE - nss_weight * NSS`.

    The loss of ViSAGE's released code, with its weights: NSS is off. Its auxiliary maps have neither BCE nor
    fixations. Terms are means over maps; an all-zero density costs KL 0, CC 1, SIM 1.

    Args:
        maps: predicted `(..., height, width)` in 0..1.
        densities: true densities, same shape, in 0..1: what lies outside is clipped.
        fixations: fixation maps, same shape, 0 or more; `None` weighs all pixels of BCE alike and leaves NSS out.
        kl_weight, cc_weight, sim_weight, bce_weight, nss_weight: a term with weight 0 is not computed.
        fixation_weight: BCE of a pixel is multiplied by `1 + fixation_weight * fixation`.

    Raises:
        ValueError: for different shapes.
    """
    for name, labels in (("densities", densities), ("fixations", fixations)):
        if labels is not None:
            _check_shape(name, labels, maps)
    maps, densities = maps.float().clamp(EPSILON, 1 - EPSILON), densities.float().clamp(0, 1)
    loss = maps.new_zeros(())
    if kl_weight:
        loss = loss + kl_weight * kl_divergence(maps, densities).mean()
    if cc_weight:
        predicted = maps - maps.mean(dim=(-2, -1), keepdim=True)
        true = densities - densities.mean(dim=(-2, -1), keepdim=True)
        # unlike `correlation_coefficient`, epsilon is added to the product of the variances
        variances = predicted.square().sum(dim=(-2, -1)) * true.square().sum(dim=(-2, -1))
        loss = loss + cc_weight * (1 - (predicted * true).sum(dim=(-2, -1)) / (variances + EPSILON).sqrt()).mean()
    if sim_weight:
        shared = torch.minimum(_sum_to_one(maps, EPSILON), _sum_to_one(densities, EPSILON)).sum(dim=(-2, -1))
        loss = loss + sim_weight * (1 - shared).mean()
    if bce_weight:
        # written out: F.binary_cross_entropy refuses to run under autocast
        entropy = -(densities * maps.log() + (1 - densities) * (-maps).log1p())
        if fixations is not None:
            entropy = entropy * (1 + fixation_weight * fixations.float())
        loss = loss + bce_weight * entropy.mean()
    if nss_weight and fixations is not None:
        has_fixations = fixations.sum(dim=(-2, -1)) > 0.5
        loss = loss - nss_weight * _mean_where(_density_weighted_nss(maps, densities, fixations), has_fixations)
    return loss


def _density_weighted_nss(maps: torch.Tensor, densities: torch.Tensor, fixations: torch.Tensor) -> torch.Tensor:
    """NSS as in ViSAGE's code: fixations count as the density there says; mean and deviation have no gradient."""
    mean = maps.detach().mean(dim=(-2, -1), keepdim=True)
    deviation = maps.detach().flatten(-2).std(dim=-1)[..., None, None]
    shares = fixations.float() * densities
    return ((maps - mean) / (deviation + EPSILON) * shares).sum(dim=(-2, -1)) / (shares.sum(dim=(-2, -1)) + EPSILON)


def _check_shape(name: str, labels: torch.Tensor, maps: torch.Tensor) -> None:
    if labels.shape != maps.shape:
        raise ValueError(
            f"{name} have shape {tuple(labels.shape)}, the maps {tuple(maps.shape)}: bring labels to the size of "
            "the maps first (scale fixation points, do not resize a binary map)"
        )


def _sum_to_one(maps: torch.Tensor, epsilon: float) -> torch.Tensor:
    maps = maps.float()
    return maps / (maps.sum(dim=(-2, -1), keepdim=True) + epsilon)


def _centred_unit(maps: torch.Tensor, epsilon: float) -> torch.Tensor:
    maps = maps.float()
    centred = maps - maps.mean(dim=(-2, -1), keepdim=True)
    return centred / (centred.square().sum(dim=(-2, -1), keepdim=True) + epsilon**2).sqrt()


def _mean_where(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of the values where `mask`, 0 if there is none; no branch on tensor values, so that it can be exported."""
    return torch.where(mask, values, torch.zeros_like(values)).sum() / mask.sum().clamp(min=1)


__all__ = [
    "correlation_coefficient",
    "kl_divergence",
    "kl_minus_cc_loss",
    "normalized_scanpath_saliency",
    "saliency_loss",
    "visage_loss",
]
