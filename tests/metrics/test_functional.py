# SPDX-License-Identifier: Apache-2.0
"""Metrics against values of independent implementations (the MIT code in Octave, pysaliency), by hand and by force."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from video_saliency.metrics import auc_judd, cc, nss

GOLDEN = Path(__file__).parents[1] / "golden" / "metrics"
CASES = json.loads((GOLDEN / "functional.json").read_text())["cases"]
SCORED_CASES = [name for name, case in CASES.items() if case["expect"] is not None]
REJECTED_CASES = [name for name in CASES if name not in SCORED_CASES]

# golden key -> how to ask for it
CALLS = {
    "nss": lambda pred, gt, fix: nss(pred, fix),
    "nss_ddof0": lambda pred, gt, fix: nss(pred, fix, ddof=0),
    "nss_list": lambda pred, gt, fix: nss(pred, fix, ddof=0, fixation_mode="list"),
    "cc": lambda pred, gt, fix: cc(pred, gt),
    "auc_judd": lambda pred, gt, fix: auc_judd(pred, fix),
    "auc_judd_nojitter": lambda pred, gt, fix: auc_judd(pred, fix, ties="none"),
    "auc_uniform": lambda pred, gt, fix: auc_judd(pred, fix, fixation_mode="list", negatives="all"),
}


def load_case(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    with np.load(GOLDEN / "functional.npz") as arrays:
        return arrays[f"{name}/pred"], arrays[f"{name}/gt"], arrays[f"{name}/fix"]


def as_mask(points: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[points[:, 0], points[:, 1]] = True
    return mask


@pytest.mark.parametrize("key", CALLS)
@pytest.mark.parametrize("name", SCORED_CASES)
def test_golden(name: str, key: str) -> None:
    expected = CASES[name]["expect"][key]
    score = CALLS[key](*load_case(name))
    assert isinstance(score, float)
    assert score == pytest.approx(math.nan if expected is None else expected, rel=1e-9, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("key", CALLS)
@pytest.mark.parametrize("name", REJECTED_CASES)
def test_golden_cases_to_reject(name: str, key: str) -> None:
    with pytest.raises(ValueError, match="NaN or infinity"):
        CALLS[key](*load_case(name))


@pytest.mark.parametrize("key", ["nss", "nss_ddof0", "auc_judd", "auc_judd_nojitter"])
@pytest.mark.parametrize("name", SCORED_CASES)
def test_a_mask_scores_like_its_points(name: str, key: str) -> None:
    pred, gt, points = load_case(name)
    from_points = CALLS[key](pred, gt, points)
    for mask in (as_mask(points, pred.shape), torch.from_numpy(as_mask(points, pred.shape))):
        assert CALLS[key](pred, gt, mask) == pytest.approx(from_points, rel=1e-12, nan_ok=True)


@pytest.mark.parametrize("key", CALLS)
def test_torch_equals_numpy(key: str) -> None:
    pred, gt, points = load_case("video_frame_45x80")
    score = CALLS[key](torch.from_numpy(pred), torch.from_numpy(gt), torch.from_numpy(points.astype(np.int64)))
    assert isinstance(score, torch.Tensor) and score.dtype == torch.float64 and score.shape == ()
    assert score.item() == pytest.approx(CALLS[key](pred, gt, points), rel=1e-12)


def make_batch() -> tuple[np.ndarray, np.ndarray, list[list[list[tuple[int, int]]]]]:
    rng = np.random.default_rng(5)
    pred, gt = rng.random((2, 3, 8, 9)), rng.random((2, 3, 8, 9))
    points = [
        [[(int(r), int(c)) for r, c in zip(rng.integers(0, 8, n), rng.integers(0, 9, n), strict=True)] for n in row]
        for row in ((1, 5, 0), (20, 3, 7))
    ]
    return pred, gt, points


@pytest.mark.parametrize("key", CALLS)
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_batch_equals_loop(key: str, kind: str) -> None:
    pred, gt, points = make_batch()
    convert = torch.from_numpy if kind == "torch" else np.asarray
    scores = CALLS[key](convert(pred), convert(gt), points)
    assert scores.shape == (2, 3)
    for i, j in itertools.product(range(2), range(3)):
        expected = CALLS[key](pred[i, j], gt[i, j], points[i][j])
        assert float(scores[i, j]) == pytest.approx(expected, rel=1e-12, nan_ok=True)


def test_points_of_a_batch_may_be_one_array() -> None:
    pred = np.random.default_rng(0).random((2, 6, 7))
    points = np.array([[[0, 1], [2, 3]], [[5, 6], [4, 4]]])
    np.testing.assert_allclose(nss(pred, points), [nss(pred[0], points[0]), nss(pred[1], points[1])], rtol=1e-12)


def test_scores_computed_by_hand() -> None:
    pred = np.array([[0.0, 1.0], [2.0, 3.0]])  # mean 1.5, variance 5/4 (ddof 0) or 5/3 (ddof 1)
    assert nss(pred, [(1, 1), (1, 0)]) == pytest.approx(1.0 / math.sqrt(5 / 3))
    assert nss(pred, [(1, 1), (1, 1), (1, 0)], ddof=0, fixation_mode="list") == pytest.approx(
        (1.5 + 1.5 + 0.5) / 3 / math.sqrt(5 / 4)
    )
    assert cc(pred, 7.0 + 100.0 * pred) == pytest.approx(1.0)
    # One fixation at the second highest of four: curve (0,0) (1/3,1) (1,1), area 1/6 + 2/3.
    assert auc_judd(pred, [(1, 0)]) == pytest.approx(5 / 6)
    # A constant map: the fixated pixel stands anywhere among the four, (0,0) (k/3,1) (1,1), mean area 1 - (k/3)/2.
    assert auc_judd(np.ones((2, 2)), [(1, 0)]) == pytest.approx(0.75)
    assert auc_judd(np.ones((2, 2)), [(1, 0)], negatives="all") == pytest.approx(0.5)


@pytest.mark.parametrize("fixation_mode", ["mask", "list"])
def test_expected_ties_are_the_mean_over_all_orders(fixation_mode: str) -> None:
    """Every order of six tied or untied pixels, ranked without ties, averaged: no formula shared with the code."""
    values = np.array([[1, 1, 1], [0, 0, 2]])
    points = [(0, 1), (0, 1), (0, 2), (1, 0), (1, 1), (1, 1), (1, 1)]
    scores = []
    for order in itertools.permutations(range(6)):
        untied = values + np.array(order).reshape(2, 3) / 10
        scores.append(roc_area(untied, points if fixation_mode == "list" else sorted(set(points))))
    expected = float(np.mean(scores))
    assert auc_judd(values, points, fixation_mode=fixation_mode) == pytest.approx(expected, rel=1e-12)


def roc_area(untied: np.ndarray, points: list[tuple[int, int]]) -> float:
    at_fixations = np.array([untied[point] for point in points])
    others = np.array([untied[index] for index in np.ndindex(untied.shape) if index not in points])
    curve = [(0.0, 0.0)]
    for threshold in sorted(set(at_fixations), reverse=True):
        curve.append((float((others >= threshold).mean()), float((at_fixations >= threshold).mean())))
    curve.append((1.0, 1.0))
    return sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in itertools.pairwise(curve))


def test_jitter_is_seeded_and_scatters_around_the_expectation() -> None:
    pred, _, points = load_case("ties_4levels_48x64")

    def draw(seed: int) -> float:
        return auc_judd(pred, points, ties="jitter", generator=np.random.default_rng(seed))

    draws = [draw(seed) for seed in range(60)]
    assert draw(3) == draws[3] and len(set(draws)) == 60
    assert abs(np.mean(draws) - auc_judd(pred, points)) < 4.5 * np.std(draws) / math.sqrt(60)


def test_scale_and_type_of_the_map_do_not_matter() -> None:
    pred, gt, points = load_case("uint8_60x80")
    for scaled in (
        pred.astype(np.int16),
        pred * 1e-200,
        pred.astype(np.float32) * 1e30,
        torch.from_numpy(pred).bfloat16(),
    ):
        assert float(nss(scaled, points)) == pytest.approx(nss(pred, points), rel=1e-6)
        assert float(cc(scaled, gt)) == pytest.approx(cc(pred, gt), rel=1e-6)
        assert float(auc_judd(scaled, points)) == pytest.approx(auc_judd(pred, points), rel=1e-6)


def test_every_pixel_fixated_has_no_auc() -> None:
    pred = np.arange(4.0).reshape(2, 2)
    assert math.isnan(auc_judd(pred, np.ones((2, 2))))
    assert auc_judd(pred, np.ones((2, 2)), negatives="all") == pytest.approx(0.5)


MAP = np.arange(12.0).reshape(3, 4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nss(MAP, [(3, 0)]), "outside the map of 3 rows and 4 columns"),
        (lambda: auc_judd(MAP, [(0, -1)]), "outside the map"),
        (lambda: nss(MAP, [(0.5, 1.0)]), "whole pixels"),
        (lambda: nss(MAP, [(0, 1, 2)]), r"pass \(row, column\) pairs"),
        (lambda: nss(MAP, ["here"]), "pairs of numbers"),
        (lambda: nss(MAP, np.ones((4, 3))), "fixation mask has shape"),
        (lambda: nss(MAP, np.full((3, 4), np.nan)), "fixations holds NaN"),
        (lambda: nss(MAP[None], [(0, 1), (1, 1)]), "one list of"),
        (lambda: nss(MAP[None, None], [3]), "one list of"),
        (lambda: nss(MAP[0], [(0, 1)]), "pass one map"),
        (lambda: nss(np.zeros((0, 4)), []), "not empty"),
        (lambda: nss(MAP.astype(complex), [(0, 1)]), "real numbers"),
        (lambda: nss(torch.ones(2, 2, dtype=torch.complex64), [(0, 1)]), "real numbers"),
        (lambda: nss(MAP, [(0, 1)], ddof=2), "ddof is 2"),
        (lambda: nss(MAP, [(0, 1)], fixation_mode="all"), "fixation_mode is 'all'"),
        (lambda: cc(MAP, MAP[:2]), "resize the prediction to"),
        (lambda: cc(MAP, MAP * np.inf), "density holds NaN or infinity"),
        (lambda: auc_judd(MAP, [(0, 1)], ties="half"), "ties is 'half'"),
        (lambda: auc_judd(MAP, [(0, 1)], negatives="others"), "negatives is 'others'"),
        (lambda: auc_judd(MAP, [(0, 1)], ties="none", negatives="all"), "rank AUC"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_wrong_input_is_refused_with_a_remedy(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
