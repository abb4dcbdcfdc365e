# SPDX-License-Identifier: Apache-2.0
"""Reading ahead and writing behind: order, bounds, errors, early ends."""

from __future__ import annotations

import threading
import time

import pytest

from video_saliency import background
from video_saliency.background import BackgroundWriter, prefetch


def workers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("video-saliency")]


def test_prefetch_keeps_order_and_is_bounded():
    made = []

    def items():
        for item in range(50):
            made.append(item)
            yield item

    ahead = prefetch(items(), depth=3)
    assert next(ahead) == 0
    time.sleep(0.05)
    assert len(made) <= 1 + 3 + 1
    assert list(ahead) == list(range(1, 50))
    assert workers() == []


def test_prefetch_raises_behind_the_items_before():
    def items():
        yield 1
        raise KeyError("broken")

    ahead = prefetch(items(), depth=3)
    assert next(ahead) == 1
    with pytest.raises(KeyError, match="broken"):
        next(ahead)
    assert workers() == []


def test_closing_prefetch_closes_its_items():
    closed = threading.Event()

    def items():
        try:
            while True:
                yield 0
        finally:
            closed.set()

    ahead = prefetch(items(), depth=2)
    next(ahead)
    ahead.close()
    assert closed.is_set()
    assert workers() == []


def test_closing_does_not_wait_for_ever_for_a_silent_source(monkeypatch):
    monkeypatch.setattr(background, "CLOSE_TIMEOUT_S", 0.05)
    release = threading.Event()

    def camera():
        yield 0
        release.wait(10)
        yield 1

    ahead = prefetch(camera(), depth=2)
    assert next(ahead) == 0
    start = time.monotonic()
    ahead.close()
    assert time.monotonic() - start < 5
    release.set()


def test_writer_writes_everything_in_order():
    written = []
    with BackgroundWriter(written.append, depth=2) as writer:
        for item in range(20):
            writer.put(item)
    assert written == list(range(20))


def test_writer_error_reaches_the_caller_and_stops_writing():
    written = []

    def write(item):
        if item == 3:
            raise OSError("disk full")
        written.append(item)

    with pytest.raises(OSError, match="disk full"), BackgroundWriter(write, depth=2) as writer:
        for item in range(100):
            writer.put(item)
    assert written == [0, 1, 2]
    assert workers() == []


def test_error_in_the_body_is_not_masked():
    with pytest.raises(RuntimeError, match="body"), BackgroundWriter(lambda item: None, depth=2) as writer:
        writer.put(1)
        raise RuntimeError("body")
    assert workers() == []
