# SPDX-License-Identifier: Apache-2.0
"""Work that overlaps with other work through bounded queues: reading ahead, and writing behind."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_END = object()
CLOSE_TIMEOUT_S = 1.0


class _Failure:
    """An exception on its way to the other thread."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


def prefetch(items: Iterable[T], depth: int) -> Iterator[T]:
    """The same items in the same order, made by a background thread that is at most `depth` items ahead.

    An exception of `items` is raised here, after the items before it. When this generator is closed early, the thread
    stops and closes `items`; a thread that is stuck in `items`, such as a camera that is silent, is left behind after
    a second and stops with the next item.
    """
    waiting: queue.Queue[Any] = queue.Queue(maxsize=depth)
    stop = threading.Event()

    def put(item: Any) -> bool:
        while not stop.is_set():
            with contextlib.suppress(queue.Full):
                waiting.put(item, timeout=0.1)
                return True
        return False

    def produce() -> None:
        iterator = iter(items)
        last: Any = _END
        try:
            for item in iterator:
                if not put(item):
                    break
        except BaseException as error:  # carried over, not hidden
            last = _Failure(error)
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()
            put(last)

    thread = threading.Thread(target=produce, name="video-saliency-read", daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not _END:
            if isinstance(item, _Failure):
                raise item.error
            yield item
    finally:
        stop.set()
        thread.join(timeout=CLOSE_TIMEOUT_S)


class BackgroundWriter(Generic[T]):
    """Calls `write(item)` in a background thread, at most `depth` items behind. A context manager.

    Leaving the context waits for what is queued. An exception of `write` is raised by the next `put`, or on leaving;
    what is queued behind it is dropped. If the body of the context fails, queued items are dropped too.
    """

    def __init__(self, write: Callable[[T], None], depth: int) -> None:
        self._write = write
        self._waiting: queue.Queue[Any] = queue.Queue(maxsize=depth)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._consume, name="video-saliency-write", daemon=True)

    def put(self, item: T) -> None:
        """Queue one item; waits while `depth` items are queued."""
        if self._error is not None:
            raise self._error
        self._waiting.put(item)

    def __enter__(self) -> BackgroundWriter[T]:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is not None and self._error is None:
            self._error = error
        self._waiting.put(_END)
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error

    def _consume(self) -> None:
        while (item := self._waiting.get()) is not _END:
            if self._error is not None:
                continue  # keep emptying the queue, so that put() never blocks for ever
            try:
                self._write(item)
            except BaseException as error:  # carried over, not hidden
                self._error = error
