# SPDX-License-Identifier: Apache-2.0
"""Metrics against values of independent implementations, by hand and by force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_golden import CALLS, CASES, GOLDEN, REJECTED_CASES, SCORED_CASES, as_mask, is_close, load_case

from video_saliency.metrics import auc_borji, auc_judd, cc, ig, kld, nss, sauc, sim
from video_saliency.metrics.compat import auc_judd_challenge, auc_judd_unisal, nss_challenge
from video_saliency.metrics.frame_maps import BLOCK

# keys that count each pixel once, and those that draw nothing
MASK_KEYS = sorted(set(CALLS) - {"nss_list", "nss_challenge", "auc_judd_challenge", "auc_pysaliency_judd"})
CLOSED_FORMS = sorted(key for key in CALLS if "seed" not in key)


def test_every_reference_value_has_a_call() -> None:
    assert set(CALLS) == set(GOLDEN["metric_keys"])
    assert all(set(CASES[name]) == set(CALLS) for name in SCORED_CASES)


@pytest.mark.parametrize("key", CALLS)
@pytest.mark.parametrize("name", SCORED_CASES)
def test_golden(name: str, key: str) -> None:
    expected = CASES[name][key]
    if isinstance(expected["value"], str):
        with pytest.raises(ValueError, match="negative values|original scorer stops"):
            CALLS[key](*load_case(name))
    else:
        score = CALLS[key](*load_case(name))
        assert isinstance(score, float)
        assert is_close(score, expected)


@pytest.mark.parametrize("key", CALLS)
@pytest.mark.parametrize("name", REJECTED_CASES)
def test_golden_cases_to_reject(name: str, key: str) -> None:
    with pytest.raises(ValueError, match="NaN or infinity"):
        CALLS[key](*load_case(name))


@pytest.mark.parametrize("key", MASK_KEYS)
@pytest.mark.parametrize("name", ["smooth_24x32", "all_same_pixel_40x60", "dense_fix_48x64"])
def test_a_mask_scores_like_its_points(name: str, key: str) -> None:
    pred, gt, points, baseline, other = load_case(name)
    if key in ("auc_uniform", "sauc_exact"):
        points, other = np.unique(points, axis=0), np.unique(other, axis=0)
    from_points = CALLS[key](pred, gt, points, baseline, other)
    for convert in (np.asarray, torch.from_numpy):
        masks = [convert(as_mask(xy, pred.shape)) for xy in (points, other)]
        score = CALLS[key](pred, gt, masks[0], baseline, masks[1])
        assert score == pytest.approx(from_points, rel=1e-12, nan_ok=True)


@pytest.mark.parametrize("key", CALLS)
def test_torch_equals_numpy(key: str) -> None:
    case = load_case("video_frame_45x80")
    score = CALLS[key](*(torch.from_numpy(part.astype(np.int64) if part.dtype == np.int32 else part) for part in case))
    assert isinstance(score, torch.Tensor) and score.dtype == torch.float64 and score.shape == ()
    assert score.item() == pytest.approx(CALLS[key](*case), rel=1e-12)


@pytest.mark.parametrize("key", CLOSED_FORMS)
@pytest.mark.parametrize("name", ["uint8_60x80", "uint8_dark_60x80", "ties_4levels_48x64"])
def test_8_bit_maps_score_as_their_values(name: str, key: str) -> None:
    pred, gt, points, baseline, other = load_case(name)
    stored = np.round(pred / pred.max() * 255).astype(np.uint8)
    truth = np.round(gt / gt.max() * 255).astype(np.uint8)
    expected = CALLS[key](stored.astype(np.float64), truth.astype(np.float64), points, baseline, other)
    for convert in (np.asarray, torch.from_numpy):
        score = CALLS[key](convert(stored), convert(truth), points, baseline, other)
        assert float(score) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def make_batch() -> tuple[np.ndarray, np.ndarray, list, np.ndarray, list]:
    rng = np.random.default_rng(5)
    pred, gt, baseline = rng.random((3, 2, 3, 8, 9))

    def points(counts: tuple[tuple[int, ...], ...]) -> list[list[list[tuple[int, int]]]]:
        return [[[(int(r), int(c)) for r, c in rng.integers(0, (8, 9), (n, 2))] for n in row] for row in counts]

    return pred, gt, points(((1, 5, 2), (20, 3, 7))), baseline, points(((4, 4, 30), (9, 2, 1)))


@pytest.mark.parametrize("key", CLOSED_FORMS)
@pytest.mark.parametrize("kind", ["numpy", "torch", "float32"])
def test_batch_equals_loop(key: str, kind: str) -> None:
    pred, gt, points, baseline, other = make_batch()
    pred, gt, baseline = (part.astype(np.float32) if kind == "float32" else part for part in (pred, gt, baseline))
    convert = torch.from_numpy if kind == "torch" else np.asarray
    scores = CALLS[key](convert(pred), convert(gt), points, convert(baseline), other)
    assert scores.shape == (2, 3)
    for i, j in itertools.product(range(2), range(3)):
        expected = CALLS[key](pred[i, j], gt[i, j], points[i][j], baseline[i, j], other[i][j])
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
    # Three tied levels 0 1 1 2, fixated 2 and one 1: curve (0,0) (0,1/2) (1/2,1) (1,1), area 3/8 + 1/2.
    assert auc_judd(np.array([[0, 1], [1, 2]]), [(1, 1), (0, 1)], ties="grouped") == pytest.approx(7 / 8)
    # One threshold a fixation: (0,0) (0,1/2) ((3-2)/2,1) (1,1) is the same here; one list entry more is not.
    assert auc_judd(np.array([[0, 1], [1, 2]]), [(1, 1), (0, 1)], ties="none") == pytest.approx(7 / 8)
    # A constant map: the fixated pixel stands anywhere among the four, (0,0) (k/3,1) (1,1), mean area 1 - (k/3)/2.
    assert auc_judd(np.ones((2, 2)), [(1, 0)]) == pytest.approx(0.75)
    assert auc_judd(np.ones((2, 2)), [(1, 0)], negatives="all") == pytest.approx(0.5)


def test_densities_scored_by_hand() -> None:
    pred, truth = np.array([[1.0, 2.0, 5.0]]), np.array([[0.0, 1.0, 1.0]])
    # min-max and sum: (0, 1, 4) / 5 against (0, 1, 1) / 2; sum only: (1, 2, 5) / 8
    assert sim(pred, truth) == pytest.approx(0.2 + 0.5)
    assert sim(pred, truth, normalize="sum") == pytest.approx(0.25 + 0.5)
    by_hand = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.625)
    assert kld(pred, truth) == pytest.approx(by_hand)
    assert kld(pred, truth, mode="add") == pytest.approx(by_hand)
    base = np.array([[0.0, 1.0, 1.0]])
    assert ig(pred, [(0, 2)], base) == pytest.approx(math.log2(0.8 / 0.5))
    twice = [(0, 2), (0, 2), (0, 1)]
    gains = math.log2(0.625 / 0.5), math.log2(0.25 / 0.5)
    assert ig(pred, twice, base, normalize="sum") == pytest.approx(sum(gains) / 2)
    assert ig(pred, twice, base, normalize="sum", fixation_mode="list") == pytest.approx((2 * gains[0] + gains[1]) / 3)


def test_sampled_negatives_by_hand() -> None:
    pred = np.array([[0.0, 0.25, 0.5, 1.0]])
    # Fixated 1.0 and 0.25, others 0.5 and 0: at the thresholds from 1.0 the true rate is 1/2 down to 0.3 and 1 from
    # 0.2, the false rate 0 down to 0.6 and 1/2 from 0.5, 1 at 0: area 1/2 * 1/2 + 1/2 * 1.
    assert sauc(pred, [(0, 3), (0, 1)], [(0, 2), (0, 0)]) == pytest.approx(0.75)
    # All four as negatives: (0,0) (1/4,1/2) (2/4,1/2) (3/4,1) (1,1).
    assert auc_borji(pred, [(0, 3), (0, 1)]) == pytest.approx(1 / 16 + 1 / 8 + 3 / 16 + 1 / 4)
    # pairs won: 1.0 beats both, 0.25 beats 0
    assert sauc(pred, [(0, 3), (0, 1)], [(0, 2), (0, 0)], method="exact") == pytest.approx(0.75)
    twice = [(0, 2), (0, 2), (0, 0)]
    assert sauc(pred, [(0, 1)], twice, method="exact", fixation_mode="list") == pytest.approx(1 / 3)
    assert sauc(pred, [(0, 1)], twice, method="exact") == pytest.approx(1 / 2)
    assert sauc(pred, [(0, 2)], [(0, 2)], method="exact") == pytest.approx(1 / 2)


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
    pred, _, points, _, _ = load_case("ties_4levels_48x64")

    def draw(seed: int) -> float:
        return auc_judd(pred, points, ties="jitter", generator=np.random.default_rng(seed))

    draws = [draw(seed) for seed in range(60)]
    assert draw(3) == draws[3] and len(set(draws)) == 60
    assert abs(np.mean(draws) - auc_judd(pred, points)) < 4.5 * np.std(draws) / math.sqrt(60)


def test_scale_and_type_of_the_map_do_not_matter() -> None:
    pred, gt, points, baseline, _ = load_case("uint8_60x80")
    for scaled in (
        pred.astype(np.int16),
        pred.astype(np.float64) * 1e-200,
        pred.astype(np.float32) * 1e30,
        torch.from_numpy(pred).bfloat16(),
    ):
        assert float(nss(scaled, points)) == pytest.approx(nss(pred, points), rel=1e-6)
        assert float(cc(scaled, gt)) == pytest.approx(cc(pred, gt), rel=1e-6)
        assert float(auc_judd(scaled, points)) == pytest.approx(auc_judd(pred, points), rel=1e-6)
        assert float(sim(scaled, gt)) == pytest.approx(sim(pred, gt), rel=1e-6)
        assert float(kld(scaled, gt)) == pytest.approx(kld(pred, gt), rel=1e-6)
        assert float(ig(scaled, points, baseline)) == pytest.approx(ig(pred, points, baseline), rel=1e-6)
        assert float(auc_borji(scaled, points)) == pytest.approx(auc_borji(pred, points), abs=1e-4)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_large_maps_are_scored_in_blocks_without_seams(dtype) -> None:
    """More pixels than one block holds, against formulas on whole arrays."""
    rng = np.random.default_rng(1)
    pred, truth = (rng.gamma(1.0, 20.0, (131, 240)).clip(0, 255).astype(dtype) for _ in range(2))
    assert pred.size > 2 * BLOCK
    points = rng.integers(0, pred.shape, (60, 2))
    p, q = (part.astype(np.float64) / part.sum(dtype=np.float64) for part in (pred, truth))
    assert cc(pred, truth) == pytest.approx(np.corrcoef(p.ravel(), q.ravel())[0, 1], rel=1e-9)
    assert sim(pred, truth, normalize="sum") == pytest.approx(np.minimum(p, q).sum(), rel=1e-12)
    epsilon = np.finfo(np.float64).eps
    assert kld(pred, truth) == pytest.approx((q * np.log(epsilon + q / (p + epsilon))).sum(), rel=1e-10)
    at_points = pred.astype(np.float64)[points[:, 0], points[:, 1]]
    expected = (at_points.mean() - pred.mean(dtype=np.float64)) / pred.std(dtype=np.float64)
    assert nss(pred, points, ddof=0, fixation_mode="list") == pytest.approx(expected, rel=1e-9)
    below = (at_points[:, None] > pred.ravel()).mean() + (at_points[:, None] == pred.ravel()).mean() / 2
    assert auc_judd(pred, points, fixation_mode="list", negatives="all") == pytest.approx(below, rel=1e-12)


maps_with_ties = st.lists(st.integers(0, 5), min_size=6, max_size=30)


@settings(max_examples=60, deadline=None)
@given(levels=maps_with_ties, data=st.data())
def test_auc_depends_on_the_order_only_and_8_bit_counts_like_floats(levels: list[int], data) -> None:
    pred = np.array(levels, dtype=np.uint8).reshape(1, -1)
    columns = data.draw(st.lists(st.integers(0, len(levels) - 1), min_size=1, max_size=12))
    points = [(0, column) for column in columns]
    curved = np.exp(3.0 * pred) - 7.0
    for options in ({}, {"ties": "grouped"}, {"ties": "none"}, {"negatives": "all"}):
        for mode in ("mask", "list"):
            score = auc_judd(pred, points, fixation_mode=mode, **options)
            assert auc_judd(curved, points, fixation_mode=mode, **options) == pytest.approx(score, nan_ok=True)
            assert auc_judd(pred / np.float32(8), points, fixation_mode=mode, **options) == pytest.approx(
                score, nan_ok=True
            )


@settings(max_examples=40, deadline=None)
@given(levels=maps_with_ties, data=st.data())
def test_exact_shuffled_auc_counts_pairs(levels: list[int], data) -> None:
    pred = np.array([levels], dtype=np.float64)
    positives, negatives = (
        data.draw(st.lists(st.integers(0, len(levels) - 1), min_size=1, max_size=9)) for _ in range(2)
    )
    won = [(levels[i] > levels[j]) + (levels[i] == levels[j]) / 2 for i in positives for j in negatives]
    points, other = ([(0, column) for column in columns] for columns in (positives, negatives))
    score = sauc(pred, points, other, method="exact", fixation_mode="list")
    assert score == pytest.approx(sum(won) / len(won))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(1e-3, 1e3))
def test_bounds_and_symmetries_of_density_scores(seed: int, scale: float) -> None:
    first, second = np.random.default_rng(seed).random((2, 5, 7))
    assert kld(first, second) >= 0.0 >= kld(second, second * scale) - 1e-9
    assert 0.0 <= sim(first, second) <= 1.0 + 1e-12
    assert sim(first, second) == pytest.approx(sim(second * scale, first))
    assert cc(first, second) == pytest.approx(cc(second * scale + 1.0, first))


@pytest.mark.parametrize("score", [sauc, auc_borji])
def test_draws_are_seeded_and_scatter_around_the_limit(score) -> None:
    pred, _, points, _, other = load_case("smooth_60x80")
    arguments = (pred, points, other) if score is sauc else (pred, points)

    def draw(seed: int) -> float:
        return score(*arguments, splits=5, generator=np.random.default_rng(seed))

    draws = [draw(seed) for seed in range(80)]
    assert draw(3) == draws[3] and len(set(draws)) > 70
    assert abs(np.mean(draws) - score(*arguments)) < 4.5 * np.std(draws) / math.sqrt(80)
    assert 0.0 < score(*arguments, splits=1) < 1.0


def test_fewer_others_than_fixations_are_all_drawn() -> None:
    pred = np.arange(12.0).reshape(3, 4)
    points, other = [(2, 3), (2, 2), (0, 3)], [(0, 1), (1, 1)]
    assert sauc(pred, points, other, splits=2) == pytest.approx(sauc(pred, points, other))


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
        (lambda: sim(MAP, MAP, normalize="max"), "normalize is 'max'"),
        (lambda: kld(MAP, MAP, mode="mit"), "mode is 'mit'"),
        (lambda: kld(MAP - 1, MAP), "saliency_map has negative values, down to -1"),
        (lambda: kld(MAP, MAP - 1), "density has negative values"),
        (lambda: ig(MAP, [(0, 1)], MAP - 1, normalize="sum"), "baseline has negative values"),
        (lambda: ig(MAP, [(0, 1)], MAP[:2]), "baseline has shape"),
        (lambda: sauc(MAP, [(0, 1)], [(3, 0)]), "outside the map"),
        (lambda: sauc(MAP, [(0, 1)], np.ones((2, 4))), "other mask has shape"),
        (lambda: sauc(MAP, [(0, 1)], [(0, 1)], method="rank"), "method is 'rank'"),
        (lambda: sauc(MAP, [(0, 1)], [(0, 1)], method="exact", splits=9), "splits are draws"),
        (lambda: auc_borji(MAP, [(0, 1)], splits=0), "splits is 0"),
        (lambda: nss_challenge(MAP, []), "original scorer stops"),
        (lambda: auc_judd_challenge(MAP, []), "original scorer stops"),
        (lambda: auc_judd_unisal(MAP * 0, [(0, 1)]), "original scorer stops"),
        (lambda: auc_judd(MAP, [(0, 1)], ties="half"), "ties is 'half'"),
        (lambda: auc_judd(MAP, [(0, 1)], negatives="others"), "negatives is 'others'"),
        (lambda: auc_judd(MAP, [(0, 1)], ties="none", negatives="all"), "rank AUC"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_wrong_input_is_refused_with_a_remedy(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
