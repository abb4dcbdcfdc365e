# SPDX-License-Identifier: Apache-2.0
"""Files that appear under their name only when they are whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A hidden path beside `path` to write to: it takes the name `path` on success and is removed on an exception.

    The hidden name is always the same, so that what a killed run left behind is overwritten by the next one. An older
    file of the name `path` stays as it is until the new one replaces it.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.stem}.tmp{target.suffix}")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
