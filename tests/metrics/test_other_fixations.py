# SPDX-License-Identifier: Apache-2.0
"""Where shuffled AUC's negatives come from: the reference clip, every rule by hand, seeds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from metric_golden import GOLDEN, is_close, load_arrays

from video_saliency.metrics import FrameTruth, OtherFixations, get_protocol, sauc, score_frame
from video_saliency.metrics.other_fixations import OTHER_RULES


def test_golden_clip() -> None:
    maps, points = load_arrays("clip/preds", "clip/fix")  # points: frame, row, column
    size = maps.shape[1:]
    by_frame = [points[points[:, 0] == index, 1:] for index in range(len(maps))]
    pool = OtherFixations()
    for index, xy in enumerate(by_frame):
        pool.add("clip", index, xy, size)
    for index, expected in enumerate(GOLDEN["clip_shuffle"]["frames"]):
        union, others = (pool.other(rule, "clip", index, size) for rule in ("clip_union", "clip_others"))
        assert len(union) == expected["shuffle_pixels"]
        truth = FrameTruth(fixations=by_frame[index], other=union, size=size)
        stavis = score_frame(maps[index], truth, "stavis")["sauc"]
        assert is_close(stavis, {"value": expected["sauc_stavis_expected"], "tol": 1e-9})
        exact = score_frame(maps[index], replace(truth, other=others), "pysaliency")["sauc"]
        assert is_close(exact, {"value": expected["sauc_exact_other_frames"], "tol": 1e-9})
        as_list = sauc(maps[index], by_frame[index], np.argwhere(as_counts(union, size) > 0))
        assert stavis == pytest.approx(as_list, nan_ok=True)


def as_counts(pixels, size: tuple[int, int]) -> np.ndarray:
    counts = np.zeros(size, dtype=np.int64)
    counts.ravel()[pixels.pixels] = pixels.counts
    return counts


def small_pool(seed: int = 0) -> OtherFixations:
    pool = OtherFixations(seed=seed)
    pool.add("a", 0, [(0, 0), (1, 1)], (2, 2))
    pool.add("a", 1, [(1, 1), (1, 1), (0, 1)], (2, 2))
    pool.add("b", 7, [(3, 5), (0, 2)], (4, 6))
    pool.add("c", 0, [], (2, 2))
    return pool


# other-map of frame 0 of clip a on a grid of 2 x 2; the points of b shrink to (1, 1) and (0, 0)
BY_HAND = {
    "clip_union": [[0, 1], [0, 0]],
    "clip_others": [[0, 1], [0, 2]],
    "all_others": [[1, 1], [0, 3]],
    "other_videos": [[1, 0], [0, 1]],
}


@pytest.mark.parametrize("rule", BY_HAND)
def test_rules_by_hand(rule: str) -> None:
    others = small_pool().other(rule, "a", 0, (2, 2))
    assert as_counts(others, (2, 2)).tolist() == BY_HAND[rule]


def test_points_are_rescaled_by_cutting_off() -> None:
    others = small_pool().other("other_videos", "a", 0, (8, 3))
    assert np.argwhere(as_counts(others, (8, 3))).tolist() == [[0, 1], [6, 2]]


@pytest.mark.parametrize("rule", ["random_frames", "random_videos"])
def test_random_rules_depend_on_seed_and_frame_only(rule: str) -> None:
    def build(order: list[int], seed: int) -> OtherFixations:
        rng = np.random.default_rng(3)
        frames = [(f"v{n % 12}", n // 12, rng.integers(0, 50, (5, 2))) for n in range(120)]
        pool = OtherFixations(seed=seed)
        for position in order:
            pool.add(*frames[position], (50, 50))
        return pool

    pool = build(list(range(120)), 1)
    first = pool.other(rule, "v3", 2, (50, 50), num_frames=4)
    assert first.counts.sum() == 20
    np.testing.assert_array_equal(
        build(list(range(120)), 1).other(rule, "v3", 2, (50, 50), num_frames=4).pixels, first.pixels
    )
    drawn = [pool.other(rule, "v3", index, (50, 50), num_frames=4).pixels.tolist() for index in range(10)]
    assert len({tuple(pixels) for pixels in drawn}) == 10
    assert build(list(range(120)), 2).other(rule, "v3", 2, (50, 50), num_frames=4).pixels.tolist() != drawn[2]


def test_random_videos_take_one_frame_each() -> None:
    pool = small_pool()
    counts = as_counts(pool.other("random_videos", "a", 0, (2, 2), num_frames=9), (2, 2))
    assert counts.sum() - 2 in (2, 3)  # all of b and c, one frame of a


@pytest.mark.parametrize("rule", OTHER_RULES)
def test_a_protocol_can_name_every_rule(rule: str) -> None:
    protocol = replace(get_protocol("mit"), other_rule=rule)
    others = small_pool(protocol.seed).other(protocol.other_rule, "a", 1, (2, 2), num_frames=protocol.num_other_frames)
    assert (others.counts > 0).all()


def test_wrong_input() -> None:
    pool = small_pool()
    with pytest.raises(ValueError, match="added before"):
        pool.add("a", 1, [], (2, 2))
    with pytest.raises(ValueError, match="not known: add all frames"):
        pool.other("all_others", "d", 0, (2, 2))
    with pytest.raises(ValueError, match="rule is 'some'"):
        pool.other("some", "a", 0, (2, 2))
    with pytest.raises(ValueError, match="outside the map"):
        pool.add("a", 2, [(2, 0)], (2, 2))
