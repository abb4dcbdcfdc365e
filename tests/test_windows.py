# SPDX-License-Identifier: Apache-2.0
"""The plan of windows: every frame gets exactly one map, whatever the length, the policies and the frame rate."""

from __future__ import annotations

import json
import logging
from fractions import Fraction
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from video_saliency.windows import Window, WindowPlanner, WindowSpec, plan_windows

GOLDEN = json.loads((Path(__file__).parent / "golden" / "visage" / "inference_windows.json").read_text())
RATES = {
    "12.5": Fraction(25, 2),
    "24": Fraction(24),
    "25": Fraction(25),
    "29.97": Fraction(30000, 1001),
    "30": Fraction(30),
    "59.94": Fraction(60000, 1001),
    "60": Fraction(60),
}


def check_plan(windows: list[Window], num_frames: int, spec: WindowSpec) -> None:
    """What holds for every plan: one map a frame, full windows, the described frame in its place."""
    described = sorted(frame for window in windows for _, frame in window.maps)
    assert described == list(range(num_frames))
    for window in windows:
        assert len(window.frames) == spec.num_frames
        assert all(0 <= frame < num_frames for frame in window.frames)
        assert window.maps, "a window that describes nothing costs a forward for nothing"
        for output_index, frame in window.maps:
            position = {"all": output_index, "last": spec.num_frames - 1, "middle": spec.num_frames // 2}[spec.output]
            assert window.frames[position] == frame
            assert spec.output == "all" or output_index == 0


def check_streaming(times: list[Fraction | None], spec: WindowSpec) -> int:
    """A frame that `oldest_needed` gave up is never asked for again; returns the most frames held at a time."""
    planner, held = WindowPlanner(spec), 0
    for time in times:
        promised = planner.oldest_needed
        for window in planner.push(time):
            assert min(window.frames) >= promised
        held = max(held, planner.num_frames - planner.oldest_needed)
    promised = planner.oldest_needed
    for window in planner.finish():
        assert min(window.frames) >= promised
    return held


@pytest.mark.parametrize("head_policy", ["repeat", "reverse"])
@pytest.mark.parametrize("tail_policy", ["repeat", "cycle"])
@pytest.mark.parametrize("output", ["all", "last", "middle"])
@pytest.mark.parametrize("window", [1, 2, 5, 8])
def test_every_length_up_to_three_windows(window, output, head_policy, tail_policy):
    hops = range(1, window + 1) if output == "all" else [1]
    for step, hop in product((1, 3), hops):
        spec = WindowSpec(window, step, hop=hop, output=output, head_policy=head_policy, tail_policy=tail_policy)
        for length in range(1, 3 * window * step + 2):
            check_plan(plan_windows(length, spec), length, spec)
        assert check_streaming([None] * (6 * window * step), spec) <= 2 * window * step


@pytest.mark.parametrize("rate", RATES.values(), ids=RATES.keys())
@pytest.mark.parametrize("output", ["all", "last", "middle"])
def test_every_frame_rate_with_a_step_in_seconds(rate, output):
    spec = WindowSpec(4, step_seconds=0.2, output=output, head_policy="reverse")
    per_window = int(4 * rate / 5) + 1
    for length in [*range(1, 3 * per_window), 40 * per_window]:
        times = [Fraction(1, 7) + index / rate for index in range(length)]  # a clip may start at any time
        check_plan(plan_windows(times, spec), length, spec)
    assert check_streaming(times, spec) <= 2 * (per_window + rate)


@settings(max_examples=150, deadline=None)
@given(
    gaps=st.lists(st.fractions(Fraction(1, 1000), Fraction(3), max_denominator=1000), max_size=60),
    output=st.sampled_from(["all", "last", "middle"]),
    window=st.integers(1, 6),
    hop=st.integers(1, 6),
    head=st.sampled_from(["repeat", "reverse"]),
    tail=st.sampled_from(["repeat", "cycle"]),
)
def test_variable_frame_rate(gaps, output, window, hop, head, tail):
    hop = min(hop, window) if output == "all" else 1
    spec = WindowSpec(window, step_seconds=0.25, hop=hop, output=output, head_policy=head, tail_policy=tail)
    times = [sum(gaps[:index], Fraction(0)) for index in range(len(gaps) + 1)]
    check_plan(plan_windows(times, spec), len(times), spec)
    check_streaming(times, spec)


@pytest.mark.parametrize("name", ["n131", "n7"])
def test_visage_interleaved_offsets(name):
    length = int(name[1:])
    times = [Fraction(index, 30) for index in range(length)]
    for plan in (
        plan_windows(times, WindowSpec(20, step_seconds=0.2)),
        plan_windows([float(time) for time in times], WindowSpec(20, step_seconds=0.2)),
        plan_windows(length, WindowSpec(20, step=6)),
    ):
        assert sorted(window.frames for window in plan) == sorted(tuple(frames) for frames in GOLDEN[name])


def test_tased_head_runs_backwards_from_the_future():
    plan = plan_windows(7, WindowSpec(4, output="last", head_policy="reverse"))
    assert [window.frames for window in plan[:4]] == [(3, 2, 1, 0), (4, 3, 2, 1), (5, 4, 3, 2), (0, 1, 2, 3)]


def test_reverse_head_needs_two_windows_less_one(caplog):
    spec = WindowSpec(4, output="last", head_policy="reverse")
    with caplog.at_level(logging.WARNING):
        plan_windows(12, WindowSpec(16, 3, output="middle", head_policy="reverse"))
        assert len(caplog.records) == 1, "one clip, one warning"
        caplog.clear()
        plan = plan_windows(6, spec)
    assert [window.frames for window in plan[:2]] == [(0, 0, 0, 0), (0, 0, 0, 1)]
    assert [record.getMessage() for record in caplog.records] == [
        "the clip has 6 steps, head_policy='reverse' needs 7: falling back to 'repeat'"
    ]


@pytest.mark.parametrize(
    "tail_policy,expected", [("repeat", (4, 5, 5, 5)), ("cycle", (4, 5, 4, 5))], ids=["repeat", "cycle"]
)
def test_tail(tail_policy, expected):
    plan = plan_windows(6, WindowSpec(4, tail_policy=tail_policy))
    assert plan[-1] == Window(expected, ((0, 4), (1, 5)))


def test_short_clip_cycles_like_visage_training():
    assert plan_windows(3, WindowSpec(8, tail_policy="cycle"))[0].frames == (0, 1, 2, 0, 1, 2, 0, 1)


def test_overlapping_windows_keep_their_middle():
    plan = plan_windows(8, WindowSpec(4, hop=2))
    assert [[frame for _, frame in window.maps] for window in plan] == [[0, 1, 2], [3, 4], [5, 6, 7]]


def test_gap_is_filled_by_the_cells_last_frame_whose_map_is_dropped():
    # cells of 0.2 s at 12.5 fps hold 3, 2, 3, 2 frames: stream 2 lacks a frame in the second and the fourth
    plan = plan_windows([Fraction(2 * index, 25) for index in range(13)], WindowSpec(4, step_seconds=0.2))
    third = next(window for window in plan if window.frames[0] == 2)
    assert third == Window((2, 4, 7, 9), ((0, 2), (2, 7)))


def test_long_pause_costs_no_empty_forwards():
    times = [Fraction(0), Fraction(1, 5), Fraction(3600), Fraction(18001, 5)]
    plan = plan_windows(times, WindowSpec(3, step_seconds=0.2))
    assert [window.frames for window in plan] == [(0, 1, 1), (1, 1, 2), (3, 3, 3)]


@pytest.mark.parametrize(
    "options,message",
    [
        ({"num_frames": 0}, "num_frames must be a whole number of at least 1"),
        ({"num_frames": 2.0}, "num_frames must be a whole number"),
        ({"step": 0}, "step must be a whole number"),
        ({"step_seconds": 0.0}, "at least 0.0001"),
        ({"step_seconds": 1e-6}, "at least 0.0001"),
        ({"step_seconds": 0.2, "step": 2}, "not both"),
        ({"num_frames": 4, "hop": 5}, "would leave frames without a map"),
        ({"num_frames": 4, "hop": 2, "output": "last"}, "would leave frames without a map"),
        ({"output": "first"}, "output must be one of"),
        ({"head_policy": "mirror"}, "head_policy must be one of"),
        ({"tail_policy": "stop"}, "tail_policy must be one of"),
    ],
)
def test_wrong_spec_says_what_is_allowed(options, message):
    with pytest.raises(ValueError, match=message):
        WindowSpec(**options)


def test_wrong_use_says_what_to_do():
    planner = WindowPlanner(WindowSpec(2, step_seconds=0.2))
    with pytest.raises(ValueError, match="pass each frame's presentation time"):
        planner.push()
    planner.push(1)
    with pytest.raises(ValueError, match="sort the frames"):
        planner.push(0.5)
    planner.finish()
    with pytest.raises(ValueError, match="make a new WindowPlanner"):
        planner.push(2)


def test_spec_round_trip():
    spec = WindowSpec(16, step_seconds=0.2, output="last", head_policy="reverse", tail_policy="cycle")
    assert WindowSpec(**json.loads(json.dumps(spec.to_dict()))) == spec


def test_empty_clip_has_an_empty_plan():
    assert plan_windows(0, WindowSpec(4)) == []
