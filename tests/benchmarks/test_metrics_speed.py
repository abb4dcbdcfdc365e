# SPDX-License-Identifier: Apache-2.0
"""CPU seconds of the metrics of one 360 x 640 frame with 100 fixations, against pysaliency and against a full sort.

Both sides run in turns in one process of their own with one thread, so that a busy machine slows both alike.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import pytest

pytestmark = pytest.mark.benchmark

SIZE = (360, 640)
NUM_FIXATIONS = 100
ROUNDS = 25
FIVE = ("auc_judd", "nss", "cc", "sim", "kld")


def made_up_frame() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Prediction and density in [0, 1] as sums of blobs, and (row, column) fixations drawn from the density."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]

    def blobs(count: int) -> np.ndarray:
        total = np.zeros(SIZE)
        for _ in range(count):
            row, column, width = rng.uniform(0, SIZE[0]), rng.uniform(0, SIZE[1]), rng.uniform(20, 80)
            total += rng.random() * np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / (2 * width**2))
        return total / total.max()

    prediction, density = blobs(8), blobs(6)
    flat = rng.choice(density.size, NUM_FIXATIONS, replace=False, p=density.ravel() / density.sum())
    return prediction, density, np.stack(np.divmod(flat, SIZE[1]), axis=1)


def full_sort_auc(saliency_map: np.ndarray, points: np.ndarray) -> float:
    """AUC-Judd on the values as they are, with all pixels sorted."""
    values = saliency_map.astype(np.float64)
    thresholds = np.sort(values[points[:, 0], points[:, 1]])[::-1]
    ordered = np.sort(values.ravel())
    order = np.arange(1, len(thresholds) + 1)
    above = values.size - np.searchsorted(ordered, thresholds)
    false_rate = np.concatenate(([0.0], (above - order) / (values.size - len(points)), [1.0]))
    return float(np.trapezoid(np.concatenate(([0.0], order / len(order), [1.0])), false_rate))


def cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def compare(ours: Callable[[], object], theirs: Callable[[], object]) -> dict[str, float]:
    """Median milliseconds of both, run in turns, and the median of their ratios."""
    ours(), theirs()
    pairs = [(cpu_seconds(ours), cpu_seconds(theirs)) for _ in range(ROUNDS)]
    return {
        "ours_ms": 1000 * statistics.median(a for a, _ in pairs),
        "theirs_ms": 1000 * statistics.median(b for _, b in pairs),
        "ratio": statistics.median(a / b for a, b in pairs),
    }


def as_types() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    prediction, density, _ = made_up_frame()
    as_8_bit = [np.round(255 * part).astype(np.uint8) for part in (prediction, density)]
    return {
        "float64": (prediction, density),
        "float32": (prediction.astype(np.float32), density.astype(np.float32)),
        "uint8": (as_8_bit[0], as_8_bit[1]),
        "uint8 against float32": (as_8_bit[0], density.astype(np.float32)),
    }


def measure_pysaliency() -> dict[str, dict[str, float]]:
    from pysaliency.metrics import CC, NSS, SIM, image_based_kl_divergence
    from pysaliency.roc import general_roc

    from video_saliency.metrics import FrameTruth, score_frame

    if not hasattr(np, "trapz"):
        np.trapz = np.trapezoid  # pysaliency 0.2.22 calls it by the name that numpy 2.4 dropped
    _, _, points = made_up_frame()
    rows, columns = points.T

    def five_of_pysaliency(prediction: np.ndarray, density: np.ndarray) -> dict[str, float]:
        unfixated = np.ones(SIZE, dtype=bool)
        unfixated[rows, columns] = False
        return {
            "auc_judd": float(general_roc(prediction[rows, columns], prediction[unfixated], judd=1)[0]),
            "nss": float(NSS(prediction, columns, rows).mean()),
            "cc": float(CC(prediction, density)),
            "sim": float(SIM(prediction, density)),
            "kld": float(image_based_kl_divergence(prediction, density)),
        }

    results = {}
    for name, (prediction, density) in as_types().items():
        truth = FrameTruth(density=density, fixations=points)
        scores, reference = score_frame(prediction, truth, metrics=FIVE), five_of_pysaliency(prediction, density)
        # the same work: definitions differ in std and ties, and in what they add before a logarithm
        assert all(abs(scores[key] - reference[key]) < 0.01 for key in ("auc_judd", "nss", "cc", "sim"))
        results[name] = compare(
            lambda p=prediction, t=truth: score_frame(p, t, metrics=FIVE),
            lambda p=prediction, d=density: five_of_pysaliency(p, d),
        )
    return results


def measure_full_sort() -> dict[str, dict[str, float]]:
    from video_saliency.metrics import auc_judd

    _, _, points = made_up_frame()
    results = {}
    for name, (prediction, _) in as_types().items():
        assert abs(auc_judd(prediction, points, ties="none") - full_sort_auc(prediction, points)) < 1e-12
        results[name] = compare(
            lambda p=prediction: auc_judd(p, points), lambda p=prediction: full_sort_auc(p, points)
        )
    return results


def measured(what: str) -> dict[str, dict[str, float]]:
    """Results of one of the two measurements, from a process with one thread."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [sys.executable, "-W", "ignore", __file__, what]
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **threads}, check=False)
    assert run.returncode == 0, run.stderr
    results = json.loads(run.stdout)
    print(f"\n{what}, {SIZE[0]} x {SIZE[1]}, {NUM_FIXATIONS} fixations, CPU ms, median of {ROUNDS}")
    for name, row in results.items():
        print(f"{name:24} ours {row['ours_ms']:7.2f}   theirs {row['theirs_ms']:7.2f}   ratio {row['ratio']:.3f}")
    return results


def test_five_metrics_against_pysaliency():
    pytest.importorskip("pysaliency", reason="to compare with it: pip install -c constraints.txt pysaliency==0.2.22")
    results = measured("pysaliency")
    assert results["float64"]["ratio"] <= 0.4
    assert results["float32"]["ratio"] <= 0.4
    assert results["uint8"]["ratio"] <= 0.2
    assert results["uint8 against float32"]["ratio"] <= 0.2


def test_auc_judd_against_a_full_sort():
    results = measured("full sort")
    assert results["uint8"]["ratio"] <= 0.1
    assert results["float64"]["ratio"] <= 0.4


if __name__ == "__main__":
    print(json.dumps(measure_pysaliency() if sys.argv[1] == "pysaliency" else measure_full_sort()))
