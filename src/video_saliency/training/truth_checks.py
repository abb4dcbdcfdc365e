# SPDX-License-Identifier: Apache-2.0
"""Whether the data hold what a loss or a metric needs: without it a run would learn nothing, or black maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from video_saliency.data import SaliencyItem
from video_saliency.data.base import listed
from video_saliency.data.truth_files import GaussianDensities
from video_saliency.metrics import get_protocol
from video_saliency.metrics.registry import METRICS
from video_saliency.training.training_arguments import ValidationArguments

DENSITY_TERMS = ("kl", "cc", "sim", "bce")
MAKE_DENSITIES = (
    "data.density_sigma=0.03, for instance, makes maps of fixations: Gaussians of that share of the height"
)


def has_density(item: SaliencyItem) -> bool:
    """Whether any frame has a density, a file or one that the data set computes of its fixations."""
    if isinstance(item.density_files, GaussianDensities):
        return has_fixations(item)
    return item.num_matched(item.density_files) > 0


def has_fixations(item: SaliencyItem) -> bool:
    """Whether for any frame it is known who looked where."""
    return item.num_matched(item.fixation_files) > 0


def needs_densities(config: Any) -> bool:
    """Whether the loss of a model compares with densities; only one of NSS alone does not."""
    weights = [getattr(config, f"{name}_loss_weight", None) for name in DENSITY_TERMS]
    return any(weights) or all(weight is None for weight in weights)


def check_truth(items: Sequence[SaliencyItem], config: Any, *, density_sigma: float | None) -> None:
    """Makes sure that every item has what the loss needs.

    Args:
        items: clips and stills.
        config: of the model.
        density_sigma: see `DataArguments`.

    Raises:
        ValueError: with the data set and the items that lack it.
    """
    if without := [item for item in items if not has_density(item) and not has_fixations(item)]:
        raise ValueError(
            f"{_names(without)}: there are neither maps nor fixations, so nothing can be learned: add them, or name "
            "the clips that have some in a file, as clips: of the data set"
        )
    if density_sigma is not None or not needs_densities(config):
        if without := [item for item in items if not has_fixations(item)]:
            reason = "data.density_sigma makes maps of fixations" if density_sigma is not None else "the loss is NSS"
            raise ValueError(f"{_names(without)}: there are no fixations, and {reason}: add them, or change that")
    elif without := [item for item in items if not has_density(item)]:
        raise ValueError(
            f"{_names(without)}: there are fixations but no maps, which the loss needs: add maps; {MAKE_DENSITIES}"
        )


def check_selection(
    items: Sequence[SaliencyItem], config: Any, arguments: ValidationArguments, *, density_sigma: float | None
) -> None:
    """Makes sure that the validation data can give the score by which models are compared.

    Args:
        items: of the validation.
        config: of the model.
        arguments: which score.
        density_sigma: see `DataArguments`; metrics are computed from the data's own truth all the same.

    Raises:
        ValueError: if they cannot, as all scores would be NaN.
    """
    name = arguments.select_by
    if name == "loss":
        check_truth(items, config, density_sigma=density_sigma)
        return
    protocol = get_protocol(arguments.protocol)
    metric = METRICS.get(protocol.metrics.get(name, name))
    if metric is None:  # the validator says so
        return
    is_there, what = (has_density, "maps") if metric.truth == "density" else (has_fixations, "fixations")
    if not any(map(is_there, items)):
        raise ValueError(
            f"{_names(items)}: the validation data have no {what}, so validation.select_by={name} has no score: "
            "add them, choose a metric that does without, or other validation data"
        )


def _names(items: Sequence[SaliencyItem]) -> str:
    """Data sets and items, a few of them."""
    datasets = sorted({item.dataset for item in items})
    return f"{', '.join(datasets)} ({listed([item.id for item in items])})"


__all__ = ["check_selection", "check_truth", "has_density", "has_fixations", "needs_densities"]
