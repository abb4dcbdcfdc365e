# SPDX-License-Identifier: Apache-2.0
"""Averages over frames, videos and splits, with undefined frames, against reference values and by hand."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metric_golden import GOLDEN, is_close

from video_saliency.metrics import PRESETS, ScoreAccumulator

AGGREGATION = GOLDEN["aggregation"]


def golden_accumulator(average: str, undefined: str) -> ScoreAccumulator:
    scores = ScoreAccumulator(average=average, undefined=undefined)
    for video, values in AGGREGATION["per_frame"].items():
        for value in values:
            scores.add(video, {"auc": math.nan if value is None else value})
    return scores


@pytest.mark.parametrize("name", AGGREGATION["expect"])
def test_golden(name: str) -> None:
    scores = golden_accumulator(*name.split("_"))
    entry = {"value": AGGREGATION["expect"][name], "tol": AGGREGATION["tol"]}
    assert is_close(scores.overall()["auc"], entry)
    assert scores.num_undefined() == {"auc": AGGREGATION["n_undefined"]}
    assert scores.num_frames == sum(map(len, AGGREGATION["per_frame"].values()))


def test_both_averages_from_one_pass() -> None:
    scores = golden_accumulator("videos", "skip")
    assert scores.overall("frames")["auc"] == pytest.approx(AGGREGATION["expect"]["frames_skip"])
    assert scores.overall("videos") == scores.overall()
    videos = scores.videos()
    assert list(videos) == list("abcd")
    assert math.isnan(videos["d"]["auc"])
    assert videos["c"]["auc"] == pytest.approx((0.403839711383 + 0.472479336831) / 2)


def test_an_undefined_frame_can_be_refused() -> None:
    scores = ScoreAccumulator(undefined="error")
    scores.add("clip", {"cc": 0.5, "nss": 1.0})
    with pytest.raises(ValueError, match="a frame of clip has no nss"):
        scores.add("clip", {"cc": 0.5, "nss": math.nan})


def test_splits_are_averaged_of_videos() -> None:
    scores = ScoreAccumulator(average="splits")
    for split, video, value in [
        ("1", "a", 0.0),
        ("1", "a", 1.0),
        ("1", "b", 0.1),
        ("2", "a", 0.9),
        ("3", "c", math.nan),
    ]:
        scores.add(video, {"cc": value}, split=split)
    assert scores.overall()["cc"] == pytest.approx(((0.5 + 0.1) / 2 + 0.9) / 2)
    assert scores.overall("videos")["cc"] == pytest.approx((1.9 / 3 + 0.1) / 2)
    assert scores.overall("frames")["cc"] == pytest.approx(0.5)


def test_nothing_is_no_score() -> None:
    scores = ScoreAccumulator(average="videos")
    assert scores.overall() == {} and scores.videos() == {} and scores.num_undefined() == {}
    scores.add("a", {"cc": math.nan})
    assert math.isnan(scores.overall()["cc"]) and math.isnan(scores.overall("frames")["cc"])


frames = st.lists(st.tuples(st.sampled_from("ab"), st.floats(-2, 2) | st.just(math.nan)), max_size=20)


@settings(max_examples=50, deadline=None)
@given(frames=frames, cut=st.integers(0, 20), undefined=st.sampled_from(["skip", "zero", "propagate"]))
def test_parts_merged_or_resumed_are_the_whole(frames, cut: int, undefined: str) -> None:
    def fill(part, scores: ScoreAccumulator) -> ScoreAccumulator:
        for video, value in part:
            scores.add(video, {"cc": value, "sim": 0.0})
        return scores

    whole, first, second, resumed = (ScoreAccumulator(undefined=undefined) for _ in range(4))
    fill(frames, whole)
    fill(frames[:cut], first)
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    first.merge(fill(frames[cut:], second))
    fill(frames[cut:], resumed)
    for scores in (first, resumed):
        assert scores.num_frames == whole.num_frames
        assert scores.num_undefined() == whole.num_undefined()
        for average in ("frames", "videos"):
            assert scores.overall(average) == pytest.approx(whole.overall(average), nan_ok=True)


def test_wrong_use() -> None:
    with pytest.raises(ValueError, match="average is 'all'"):
        ScoreAccumulator(average="all")
    with pytest.raises(ValueError, match="undefined is 'nan'"):
        ScoreAccumulator(undefined="nan")
    scores, other = ScoreAccumulator(), ScoreAccumulator()
    scores.add("a", {"cc": 1.0})
    other.add("a", {"sim": 1.0})
    with pytest.raises(ValueError, match="was scored with"):
        scores.add("a", {"cc": 1.0, "sim": 1.0})
    with pytest.raises(ValueError, match="was scored with"):
        scores.merge(other)
    with pytest.raises(ValueError, match="average is 'median'"):
        scores.overall("median")


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_make_their_accumulator(preset: str) -> None:
    protocol = PRESETS[preset]
    scores = protocol.accumulator()
    assert (scores.average, scores.undefined) == (protocol.average, protocol.undefined)
