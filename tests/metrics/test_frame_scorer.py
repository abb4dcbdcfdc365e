# SPDX-License-Identifier: Apache-2.0
"""Whole frames under a protocol: reference values, resizing, the challenge's pipeline, empty frames, wrong input."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from metric_golden import CASES, GOLDEN, SCORED_CASES, as_mask, is_close, load_arrays, load_case

from video_saliency.metrics import PRESETS, FrameTruth, cc, get_protocol, kld, nss, score_frame, sim
from video_saliency.metrics.registry import METRICS
from video_saliency.metrics.resizing import quantize_map, resize_map

AS_GIVEN = replace(get_protocol("mit"), empty_frames="scored")


def truth_of(name: str) -> tuple[np.ndarray, FrameTruth]:
    pred, gt, points, baseline, other = load_case(name)
    return pred, FrameTruth(density=gt, fixations=points, baseline=baseline, other=other)


@pytest.mark.parametrize("name", SCORED_CASES)
def test_golden(name: str) -> None:
    pred, truth = truth_of(name)
    keys = [key for key, entry in CASES[name].items() if not isinstance(entry["value"], str)]
    challenge = [key for key in keys if key.endswith("challenge")]
    scores = score_frame(pred, truth, AS_GIVEN, metrics=[key for key in keys if key not in challenge])
    scores |= score_frame(pred, truth, "avimos", metrics=challenge)
    assert [key for key in keys if not is_close(scores[key], CASES[name][key])] == []


@pytest.mark.parametrize("name", ["no_fix_40x60", "constant_pred_40x60"])
def test_where_an_original_scorer_stops_a_frame_is_undefined(name: str) -> None:
    pred, truth = truth_of(name)
    stopped = [key for key, entry in CASES[name].items() if isinstance(entry["value"], str)]
    assert "auc_judd_unisal" in stopped
    assert all(math.isnan(score_frame(pred, truth, AS_GIVEN, metrics=[key])[key]) for key in stopped)


def test_presets_choose_the_reference_metrics() -> None:
    assert set(METRICS) == set(GOLDEN["metric_keys"])
    for name, metrics in GOLDEN["presets"].items():
        assert get_protocol(name).metrics == metrics


@pytest.mark.parametrize("method", ["bicubic", "bilinear"])
def test_resized_prediction(method: str) -> None:
    pred, gt, points = load_arrays("resize/pred_28x48", "resize/gt_90x160", "resize/fix")
    expected = {key.removesuffix("_clipped0"): value for key, value in GOLDEN["resize"]["metrics"][method].items()}
    protocol = replace(AS_GIVEN, resize=method)
    scores = score_frame(pred, FrameTruth(density=gt, fixations=points), protocol, metrics=list(expected))
    assert scores == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("colour", [False, True])
def test_challenge_pipeline(colour: bool) -> None:
    pred, gt, points = load_arrays("challenge/pred_uint8", "challenge/gt_uint16", "challenge/fix")
    if colour:
        pred, gt = (np.repeat(picture[..., None], 3, axis=2).mean(axis=2) for picture in (pred, gt))
    expected = GOLDEN["challenge_pipeline"]["value"]
    assert score_frame(pred, FrameTruth(density=gt, fixations=points), "avimos") == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_scores_a_frame(preset: str) -> None:
    pred, truth = truth_of("video_frame_45x80")
    protocol = get_protocol(preset)
    scores = score_frame(pred, truth, preset)
    assert set(scores) == set(protocol.metrics)
    assert all(math.isfinite(score) for score in scores.values())
    same = score_frame(torch.from_numpy(pred), replace(truth, density=torch.from_numpy(truth.density)), protocol)
    assert same == pytest.approx(scores, rel=1e-12)


def test_metrics_that_the_truth_does_not_allow_are_left_out() -> None:
    pred, truth = truth_of("smooth_24x32")
    only_density = FrameTruth(density=truth.density)
    only_points = FrameTruth(fixations=truth.fixations, size=pred.shape)
    assert set(score_frame(pred, only_density)) == {"cc", "sim", "kld"}
    assert set(score_frame(pred, only_points)) == {"auc_judd", "auc_borji", "nss"}
    assert set(score_frame(pred, replace(only_points, other=truth.other, baseline=truth.baseline))) == {
        *("auc_judd", "auc_borji", "nss", "sauc", "ig")
    }
    mask = as_mask(truth.fixations, pred.shape)
    for fixations in (mask, torch.from_numpy(mask)):
        assert score_frame(pred, FrameTruth(fixations=fixations))["nss"] == pytest.approx(nss(pred, mask))


EMPTY = {
    "prediction": ({"auc_judd", "nss", "cc", "sim", "kld"}, "zero_pred_40x60"),
    "density": ({"cc", "sim", "kld"}, "zero_gt_40x60"),
    "fixations": ({"auc_judd", "nss"}, "no_fix_40x60"),
}


@pytest.mark.parametrize("what", EMPTY)
def test_empty_frames_are_undefined_unless_the_protocol_scores_them(what: str) -> None:
    undefined, name = EMPTY[what]
    pred, truth = truth_of(name)
    names = ["auc_judd", "nss", "cc", "sim", "kld"]
    scores = score_frame(pred, truth, "mit", metrics=names)
    assert {metric for metric, score in scores.items() if math.isnan(score)} == undefined
    as_given = score_frame(pred, truth, AS_GIVEN, metrics=names)
    if what == "density":
        assert (as_given["sim"], as_given["kld"]) == (0.0, 0.0)  # the MIT code's
    if what == "prediction":
        assert as_given["sim"] == 0.0 and as_given["kld"] > 20.0
    unquantized = replace(get_protocol("dhf1k"), quantize="none")
    assert score_frame(pred, truth, unquantized)["sim"] == as_given["sim"]


def test_a_uniform_prediction_is_scored() -> None:
    pred, truth = truth_of("constant_pred_40x60")
    assert score_frame(pred, truth, metrics=["auc_judd"])["auc_judd"] == pytest.approx(0.5 + 1 / 42)


def test_density_metrics_on_a_grid_of_their_own() -> None:
    pred, truth = truth_of("video_frame_45x80")
    protocol = replace(get_protocol("vinet2"), density_size=(20, 30))
    scores = score_frame(pred, truth, protocol)
    small = [resize_map(part, (20, 30), method="bilinear") for part in (pred, truth.density)]
    assert scores["cc"] == pytest.approx(cc(*small))
    assert scores["kld"] == pytest.approx(kld(*small))
    assert scores["nss"] == pytest.approx(nss(pred, truth.fixations))


def test_quantized_before_resizing() -> None:
    pred, truth = truth_of("smooth_24x32")
    small = resize_map(pred, (12, 16))
    stored = resize_map(quantize_map(small), pred.shape)
    assert score_frame(small, truth, "dhf1k")["sim"] == pytest.approx(sim(stored, truth.density), rel=1e-12)
    as_picture = score_frame(quantize_map(small), truth, "dhf1k")
    assert as_picture == score_frame(small, truth, "dhf1k")


def test_blur_changes_the_scored_map() -> None:
    pred, truth = truth_of("smooth_60x80")
    blurred = replace(get_protocol("stavis"), blur_sigma=2.0)
    assert score_frame(pred, truth, blurred)["nss"] < score_frame(pred, truth, "stavis")["nss"]


MAP = np.arange(12.0).reshape(3, 4)
POINTS = FrameTruth(fixations=[(0, 1)], size=(3, 4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: score_frame(MAP, FrameTruth(fixations=[(0, 1)])), "pass the height and width"),
        (lambda: score_frame(MAP, replace(POINTS, density=MAP[:2])), "differ in size"),
        (lambda: score_frame(MAP[None], POINTS), "pass one frame"),
        (lambda: score_frame(MAP, FrameTruth(density=MAP[None])), "pass one frame"),
        (lambda: score_frame(MAP, POINTS, metrics=["cc"]), "cc needs density"),
        (lambda: score_frame(MAP, POINTS, metrics=["sauc"]), "sauc needs other"),
        (lambda: score_frame(MAP, POINTS, metrics=["f1"]), "metric is 'f1'"),
        (lambda: score_frame(MAP, POINTS, "mit2"), "preset is 'mit2'"),
        (lambda: score_frame(MAP[:2], POINTS, "pysaliency"), "does not resize"),
        (lambda: score_frame(MAP * np.nan, POINTS), "prediction holds NaN"),
        (lambda: score_frame(MAP - 1, FrameTruth(density=MAP), metrics=["kld"]), "negative values"),
        (lambda: score_frame(MAP, replace(POINTS, fixations=[(5, 1)])), "outside the map"),
        (lambda: replace(get_protocol("mit"), metrics={"auc": "auc"}), "metric key is 'auc'"),
        (lambda: replace(get_protocol("mit"), resize="nearest"), "resize is 'nearest'"),
    ],
)
def test_wrong_input_is_refused_with_a_remedy(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_frames_that_a_protocol_scores() -> None:
    protocol = replace(get_protocol("diffsal"), skip_first=8, skip_last=24, max_frames=5)
    assert list(protocol.frames_to_score(40)) == list(range(8, 16))
    assert list(protocol.frames_to_score(10)) == []
    chosen = protocol.choose_frames(100)
    assert len(set(chosen)) == 5 and list(chosen) == sorted(chosen)
    assert list(protocol.choose_frames(100)) == list(chosen)
    assert list(protocol.choose_frames(4)) == [0, 1, 2, 3]
    assert list(get_protocol("mit").choose_frames(3)) == [0, 1, 2]
