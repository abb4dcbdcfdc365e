# SPDX-License-Identifier: Apache-2.0
"""Which frames form a window, and which maps come out of it: a plan that gives every input frame exactly one map.

Pure Python, no torch. A clip is first cut into *cells* of one model step: `step` frames, or `step_seconds` seconds of
presentation time. The j-th frames of all cells form *stream* j, so that a model which wants 5 frames a second sees a
30 fps clip as six interleaved streams (the protocol of ViSAGE), and a model with a step of one frame sees one stream.
Each stream is then covered by windows of `num_frames` slots.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, NamedTuple

logger = logging.getLogger(__name__)

OUTPUTS = ("all", "last", "middle")
HEAD_POLICIES = ("repeat", "reverse")
TAIL_POLICIES = ("repeat", "cycle")


@dataclass(frozen=True)
class WindowSpec:
    """How a model looks at time. Part of every model's config, as the JSON field `window`.

    Args:
        num_frames: frames in one window, all of them seen by one forward.
        step: distance between neighbouring frames of a window, in source frames. Not used with `step_seconds`.
        step_seconds: the same distance in seconds, for models trained at a fixed frame rate (ViSAGE: 0.2).
        hop: distance between the starts of neighbouring windows, in steps. Default: `num_frames` when a forward
            describes all of its frames, else 1. With a smaller hop windows overlap, and a frame's map comes from the
            window in whose middle it lies.
        output: the frames that one forward describes: `"all"`, the `"last"` (SalFoM, TASED-Net), or the `"middle"` one
            (position `num_frames // 2`).
        head_policy: what stands in for frames before the first one. `"repeat"`: the first frame. `"reverse"`: with
            `output="last"` the window runs backwards from the future, as in TASED-Net, so that the described frame is
            still the last (needs `2 * num_frames - 1` frames); with `"middle"` time is mirrored at the first frame
            (our choice). Clips that are too short for it fall back to `"repeat"` with a warning.
        tail_policy: what stands in for frames after the last one. `"repeat"`: the last frame (ViSAGE's inference).
            `"cycle"`: the window's own frames again from its first (ViSAGE's training clips).

    Raises:
        ValueError: for a value outside these choices.
    """

    num_frames: int = 1
    step: int = 1
    step_seconds: float | None = None
    hop: int | None = None
    output: str = "all"
    head_policy: str = "repeat"
    tail_policy: str = "repeat"

    def __post_init__(self) -> None:
        for name in ("num_frames", "step"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"window {name} must be a whole number of at least 1, got {value!r}")
        if self.step_seconds is not None and not self.step_seconds >= 1e-4:
            raise ValueError(
                f"window step_seconds must be a time in seconds of at least 0.0001, got {self.step_seconds!r}: "
                "use None for a step in frames"
            )
        if self.step_seconds is not None and self.step != 1:
            raise ValueError("a window has a step in frames or in seconds, not both: leave step at 1")
        for name, choices in (("output", OUTPUTS), ("head_policy", HEAD_POLICIES), ("tail_policy", TAIL_POLICIES)):
            if getattr(self, name) not in choices:
                raise ValueError(f"window {name} must be one of {choices}, got {getattr(self, name)!r}")
        if self.hop is not None and not 1 <= self.hop <= (self.num_frames if self.output == "all" else 1):
            raise ValueError(
                f"window hop {self.hop} would leave frames without a map: "
                f"use 1 to num_frames ({self.num_frames}) with output='all', else 1"
            )

    @property
    def hop_steps(self) -> int:
        """The hop with its default filled in, in steps."""
        if self.hop is not None:
            return self.hop
        return self.num_frames if self.output == "all" else 1

    @property
    def step_time(self) -> Fraction | None:
        """`step_seconds` as a rational."""
        return None if self.step_seconds is None else as_rational(self.step_seconds)

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON types; `WindowSpec(**spec.to_dict()) == spec`."""
        return asdict(self)


def as_rational(value: Fraction | float) -> Fraction:
    """A rational as it is; a float as the simple rational that it stands for: 0.2 is 1/5, also where the float is not.

    Denominators up to 100,000 tell all usual frame rates and clocks apart.
    """
    return value if isinstance(value, Fraction) else Fraction(value).limit_denominator(100_000)


class Window(NamedTuple):
    """One forward of the model.

    Attributes:
        frames: source frame index for each of the `num_frames` positions, in the order in which the model sees them.
        maps: pairs `(output_index, frame_index)`: the forward's map number `output_index` (0 unless the model
            describes all frames) is the map of source frame `frame_index`. Other maps of this forward are dropped.
    """

    frames: tuple[int, ...]
    maps: tuple[tuple[int, int], ...]


class _Cell(NamedTuple):
    """The source frames `first .. first + size - 1` that lie in one model step; `fill` is shown where one lacks."""

    first: int
    size: int
    fill: int

    def frame(self, stream: int) -> int:
        return self.first + stream if stream < self.size else self.fill


class WindowPlanner:
    """Turns frames, as they come, into windows; holds no more than about two windows of bookkeeping.

    The rules, in full:

    - A cell is `step` frames; or, with `step_seconds`, the frames whose time since the first frame lies in
      `[k, k + 1) * step_seconds`, computed on rationals.
    - A cell that has no j-th frame (29.97 fps, variable rate) gives stream j its last frame; an empty cell gives the
      latest frame before it. Such fillers only feed the model: their maps are dropped.
    - The clip's last cell may be cut off by the end: streams that it does not reach end one cell earlier, and the
      `tail_policy` continues them (so 30 fps and 5-fps steps give ViSAGE's interleaved offsets exactly).
    - A run of empty cells longer than a window is shortened to one window (our choice: a recording with a long pause
      must not cost forwards that describe nothing).

    Example:

    ```python
    >>> planner = WindowPlanner(WindowSpec(num_frames=2))
    >>> planner.push(), planner.push(), planner.push(), planner.finish()
    ([], [Window(frames=(0, 1), maps=((0, 0), (1, 1)))], [], [Window(frames=(2, 2), maps=((0, 2),))])

    ```
    """

    def __init__(self, spec: WindowSpec) -> None:
        self.spec = spec
        self.num_frames = 0
        self._cells: dict[int, _Cell] = {}
        self._num_cells = 0  # opened so far
        self._num_closed = 0  # of which no further frame can join
        self._dropped_cells = 0  # removed from long pauses
        self._next = 0  # number of the next window ("all") or of the next described cell
        self._finished = self._warned = False
        self._first_time: Fraction | None = None
        self._last_time: Fraction | None = None

    def push(self, time: Fraction | float | None = None) -> list[Window]:
        """Windows that became complete with the next source frame, whose presentation time is `time` in seconds.

        `time` is needed only with `step_seconds`. Raises `ValueError` if it is missing then, or runs backwards.
        """
        if self._finished:
            raise ValueError("the plan is finished: make a new WindowPlanner for another clip")
        self._add(self._cell_number(time))
        self.num_frames += 1
        return self._collect()

    def finish(self) -> list[Window]:
        """The remaining windows, once the clip has ended."""
        if not self._finished:
            self._finished = True
            self._num_closed = self._num_cells
        return self._collect()

    @property
    def oldest_needed(self) -> int:
        """Frames before this index are in no future window, so a reader may forget them."""
        if self._num_cells == 0:
            return 0
        cell = self._cells.get(min(self._oldest_cell(), self._num_cells - 1))
        return self.num_frames if cell is None else (cell.first if cell.size else cell.fill)

    def _cell_number(self, time: Fraction | float | None) -> int:
        step_time = self.spec.step_time
        if step_time is None:
            return self.num_frames // self.spec.step
        if time is None:
            raise ValueError("this model takes frames by time: pass each frame's presentation time in seconds")
        time = as_rational(time)
        if self._first_time is None:
            self._first_time = self._last_time = time
        if self._last_time is not None and time < self._last_time:
            raise ValueError(f"frame {self.num_frames} is at {float(time)} s, before its predecessor: sort the frames")
        self._last_time = time
        number = (time - self._first_time) // step_time - self._dropped_cells
        pause = number - self._num_cells
        if pause > self.spec.num_frames:
            self._dropped_cells += pause - self.spec.num_frames
            number -= pause - self.spec.num_frames
        return number

    def _add(self, number: int) -> None:
        index = self.num_frames
        while self._num_cells < number:  # empty cells of a pause
            self._cells[self._num_cells] = _Cell(index, 0, index - 1)
            self._num_cells += 1
        if number == self._num_cells:
            self._cells[number] = _Cell(index, 1, index)
            self._num_cells += 1
        else:
            cell = self._cells[number]
            self._cells[number] = _Cell(cell.first, cell.size + 1, index)
        full = self.spec.step_time is None and self._cells[number].size == self.spec.step
        self._num_closed = self._num_cells if full else self._num_cells - 1

    def _collect(self) -> list[Window]:
        windows: list[Window] = []
        while self._next_is_ready():
            windows.extend(self._next_windows())
            self._next += 1
        oldest = self._oldest_cell()
        for number in [n for n in self._cells if n < oldest and n < self._num_cells - 1]:
            del self._cells[number]
        return windows

    def _next_is_ready(self) -> bool:
        spec, size = self.spec, self.spec.num_frames
        if spec.output == "all":
            start = self._next * spec.hop_steps
            if self._finished:
                previous_end = start - spec.hop_steps + size
                return start < self._num_cells and (self._next == 0 or previous_end < self._num_cells)
            # an overlapping window must know whether another follows it
            return self._num_closed >= start + size if spec.hop_steps == size else self._num_cells > start + size
        if self._finished:
            return self._next < self._num_cells
        if spec.output == "middle":
            middle = size // 2
            return self._num_closed >= max(self._next - middle + size, middle + 1)
        head_waits = spec.head_policy == "reverse" and self._next < size - 1
        return self._num_closed >= (2 * size - 1 if head_waits else self._next + 1)

    def _oldest_cell(self) -> int:
        """Number of the first cell that a future window reads."""
        spec = self.spec
        if spec.output == "all":
            return self._next * spec.hop_steps
        before = spec.num_frames - 1 if spec.output == "last" else spec.num_frames // 2
        return max(0, self._next - before)

    def _next_windows(self) -> Iterator[Window]:
        """The windows of all streams that belong to number `_next`; none for a stretch without frames to describe."""
        spec, size = self.spec, self.spec.num_frames
        if spec.output == "all":
            start = self._next * spec.hop_steps
            lead = (size - spec.hop_steps) // 2
            first = start + lead if self._next else 0
            is_last = self._finished and start + size >= self._num_cells
            described = range(first, min(start + size, self._num_cells) if is_last else start + lead + spec.hop_steps)
        else:
            start = self._next - (size - 1 if spec.output == "last" else size // 2)
            described = range(self._next, self._next + 1)
        described = range(described.start, min(described.stop, self._num_cells))
        for stream in range(max((self._cells[n].size for n in described), default=0)):
            frames = self._frames(start, stream)
            maps = tuple(
                (number - start if spec.output == "all" else 0, self._cells[number].first + stream)
                for number in described
                if stream < self._cells[number].size
            )
            yield Window(frames, maps)

    def _frames(self, start: int, stream: int) -> tuple[int, ...]:
        """Source frames of the window of `stream` whose first slot is cell `start` (negative: before the clip)."""
        spec, size = self.spec, self.spec.num_frames
        length = self._stream_length(stream)
        slots = range(start, start + size)
        if start < 0 and spec.head_policy == "reverse":
            needed = 2 * size - 1 if spec.output == "last" else size // 2 + 1
            if length < needed:
                if not self._warned:
                    self._warned = True
                    logger.warning(
                        "the clip has %d steps, head_policy='reverse' needs %d: falling back to 'repeat'",
                        length,
                        needed,
                    )
            elif spec.output == "last":
                slots = range(self._next + size - 1, self._next - 1, -1)
            else:
                return tuple(self._frame_at(abs(slot), 0, length, stream) for slot in slots)
        return tuple(self._frame_at(max(slot, 0), max(start, 0), length, stream) for slot in slots)

    def _stream_length(self, stream: int) -> int:
        """Cells up to the end of this stream, as far as is known."""
        if self._finished and stream >= self._cells[self._num_cells - 1].size:
            return self._num_cells - 1
        return self._num_cells

    def _frame_at(self, slot: int, window_start: int, length: int, stream: int) -> int:
        if slot >= length:
            behind = (slot - window_start) % (length - window_start) if self.spec.tail_policy == "cycle" else None
            slot = length - 1 if behind is None else window_start + behind
        return self._cells[slot].frame(stream)


def plan_windows(times: int | Iterable[Fraction | float], spec: WindowSpec) -> list[Window]:
    """The whole plan of a clip, given its number of frames or, for a step in seconds, their presentation times."""
    planner = WindowPlanner(spec)
    windows: list[Window] = []
    for time in [None] * times if isinstance(times, int) else times:
        windows.extend(planner.push(time))
    return windows + planner.finish()
