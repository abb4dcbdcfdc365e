# SPDX-License-Identifier: Apache-2.0
"""The Space as a process of its own, for tests."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).parent.parent
EXAMPLE_CLIP = ROOT / "examples" / "friday.mp4"
START_S = 120


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class SpaceServer:
    """The running Space; a context manager. `folder` is where it keeps its temporary files, `log` what it printed."""

    def __init__(self, **environment: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._temporary = tempfile.TemporaryDirectory()
        self.folder = Path(self._temporary.name)
        self.log = self.folder / "space.log"
        variables = {"PORT": str(self.port), "TMPDIR": str(self.folder), "PYTHONPATH": str(ROOT / "src")}
        self._environment = {**os.environ, **variables, **environment}

    def __enter__(self) -> SpaceServer:
        app = ROOT / "spaces" / "video-saliency" / "app.py"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(app)], env=self._environment, stdout=log, stderr=subprocess.STDOUT
            )
        end = time.monotonic() + START_S
        while True:
            try:
                with urllib.request.urlopen(self.url, timeout=5):
                    return self
            except (urllib.error.URLError, OSError) as error:
                if self._process.poll() is not None or time.monotonic() > end:
                    self._process.kill()
                    raise RuntimeError(f"the Space does not start: {self.log.read_text()[-3000:]}") from error
                time.sleep(0.3)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(30)
        self._temporary.cleanup()
