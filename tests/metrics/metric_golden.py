# SPDX-License-Identifier: Apache-2.0
"""Reference values of the metrics, and how to ask this package for each."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from video_saliency.metrics import auc_borji, auc_judd, cc, ig, kld, nss, sauc, sim
from video_saliency.metrics.compat import (
    auc_judd_challenge,
    auc_judd_unisal,
    auc_judd_vinet,
    cc_challenge,
    nss_challenge,
    sim_challenge,
)

FOLDER = Path(__file__).parents[1] / "golden" / "metrics"
GOLDEN = json.loads((FOLDER / "golden.json").read_text(encoding="utf-8"))
CASES = {name: case["expect"] for name, case in GOLDEN["cases"].items()}
SCORED_CASES = [name for name, expect in CASES.items() if expect != "ValueError"]
REJECTED_CASES = [name for name in CASES if name not in SCORED_CASES]
PARTS = ("pred", "gt", "fix", "baseline", "other")

# golden key -> how to ask for it, from (prediction, density, fixations, baseline, other)
CALLS = {
    "nss": lambda p, g, f, b, o: nss(p, f),
    "nss_ddof0": lambda p, g, f, b, o: nss(p, f, ddof=0),
    "nss_list": lambda p, g, f, b, o: nss(p, f, ddof=0, fixation_mode="list"),
    "nss_challenge": lambda p, g, f, b, o: nss_challenge(p, f),
    "auc_judd": lambda p, g, f, b, o: auc_judd(p, f),
    "auc_judd_nojitter": lambda p, g, f, b, o: auc_judd(p, f, ties="none"),
    "auc_judd_vinet": lambda p, g, f, b, o: auc_judd_vinet(p, f),
    "auc_judd_unisal": lambda p, g, f, b, o: auc_judd_unisal(p, f),
    "auc_judd_challenge": lambda p, g, f, b, o: auc_judd_challenge(p, f),
    "auc_pysaliency_judd": lambda p, g, f, b, o: auc_judd(p, f, ties="grouped", fixation_mode="list"),
    "auc_uniform": lambda p, g, f, b, o: auc_judd(p, f, fixation_mode="list", negatives="all"),
    "sauc": lambda p, g, f, b, o: sauc(p, f, o),
    "sauc_seed0_100": lambda p, g, f, b, o: sauc(p, f, o, splits=100, generator=np.random.RandomState(0)),
    "sauc_exact": lambda p, g, f, b, o: sauc(p, f, o, method="exact", fixation_mode="list"),
    "auc_borji": lambda p, g, f, b, o: auc_borji(p, f),
    "auc_borji_seed0_100": lambda p, g, f, b, o: auc_borji(p, f, splits=100, generator=np.random.RandomState(0)),
    "cc": lambda p, g, f, b, o: cc(p, g),
    "cc_challenge": lambda p, g, f, b, o: cc_challenge(p, g),
    "sim": lambda p, g, f, b, o: sim(p, g),
    "sim_sum": lambda p, g, f, b, o: sim(p, g, normalize="sum"),
    "sim_challenge": lambda p, g, f, b, o: sim_challenge(p, g),
    "kld": lambda p, g, f, b, o: kld(p, g),
    "kld_min1e-20": lambda p, g, f, b, o: kld(p, g, mode="add"),
    "ig": lambda p, g, f, b, o: ig(p, f, b),
    "ig_density": lambda p, g, f, b, o: ig(p, f, b, normalize="sum"),
}


def load_case(name: str) -> tuple[np.ndarray, ...]:
    """Prediction, density, fixations, baseline, other fixations."""
    return tuple(load_arrays(*(f"{name}/{part}" for part in PARTS)))


def load_arrays(*names: str) -> list[np.ndarray]:
    with np.load(FOLDER / "golden.npz") as arrays:
        return [arrays[name] for name in names]


def is_close(score: float, entry: dict[str, Any]) -> bool:
    """Whether a score is the reference within its tolerance, NaN for an undefined one."""
    if entry["value"] is None:
        return math.isnan(score)
    return abs(score - entry["value"]) <= entry["tol"] * max(1.0, abs(entry["value"]))


def as_mask(points: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[points[:, 0], points[:, 1]] = True
    return mask
