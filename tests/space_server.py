# SPDX-License-Identifier: Apache-2.0
"""The Space as a process of its own, for tests."""

from __future__ import annotations

import itertools
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
START_S = 200  # seconds, far more than a slow machine needs

# Python runs a module of this name at its start
NETWORK_GUARD = """
import os, sys

LOCAL = {{None, "", "localhost", "127.0.0.1", "::1", "0.0.0.0", "::", b"localhost", b"127.0.0.1"}}

def guard(event, values):
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = values[1]
        host = address[0] if isinstance(address, tuple) else None  # else a socket in the file system
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = values[0]
    else:
        return
    if host not in LOCAL:
        with open({log!r}, "a") as log:
            log.write(f"{{event}} {{host}}\\n")
        raise OSError(f"this test lets nobody reach {{host}}")

sys.addaudithook(guard)
"""

# Starts the Space with predictions that write when they begin and end, and wait in between until a file is there
HELD_SPACE = """
import runpy, sys, threading, time
from pathlib import Path

app, log, go_on = map(Path, sys.argv[1:])
sys.path.insert(0, str(app.parent))
import prediction

predict, lock = prediction.predict_clip, threading.Lock()

def write(change):
    with lock, log.open("a") as file:
        file.write(f"{change}\\n")

def held(*arguments, **options):
    write(1)
    try:
        while not go_on.exists():
            time.sleep(0.02)
        return predict(*arguments, **options)
    finally:
        write(-1)

prediction.predict_clip = held
runpy.run_path(str(app), run_name="__main__")
"""


def guarded_environment(folder: Path, log: Path) -> dict[str, str]:
    """Variables with which a Python process reaches no other machine; `log` gets a line for every attempt."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(NETWORK_GUARD.format(log=str(log)), encoding="utf-8")
    return {"PYTHONPATH": os.pathsep.join((str(folder), str(ROOT / "src")))}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class SpaceServer:
    """The running Space; a context manager that lets it reach no other machine.

    `folder` is where it keeps its temporary files, `log` what it printed. With `held`, predictions begin and wait for
    `let_go`.
    """

    def __init__(self, *, held: bool = False, **environment: str) -> None:
        self._held = held
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._temporary = tempfile.TemporaryDirectory()
        self.folder = Path(self._temporary.name)
        self.log = self.folder / "space.log"
        self._network_log = self.folder / "network.log"
        variables = {"PORT": str(self.port), "TMPDIR": str(self.folder)}
        variables |= guarded_environment(self.folder / "guard", self._network_log)
        self._environment = {**os.environ, **variables, **environment}

    def network_attempts(self) -> list[str]:
        """What the Space tried to reach beside its own machine."""
        return self._network_log.read_text().splitlines() if self._network_log.exists() else []

    def at_once(self) -> list[int]:
        """How many predictions were under way after each that began or ended; of a server with `held`."""
        log = self.folder / "held.log"
        changes = map(int, log.read_text().split()) if log.exists() else ()
        return list(itertools.accumulate(changes, initial=0))

    def let_go(self, count: int) -> None:
        """Lets all predictions go on, once `count` have begun and one more would have had the time to."""
        end = time.monotonic() + START_S
        while self.at_once()[-1] < count and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(1)
        (self.folder / "go-on").touch()

    def _command(self) -> list[str]:
        app = ROOT / "spaces" / "video-saliency" / "app.py"
        if not self._held:
            return [sys.executable, str(app)]
        script = self.folder / "held_space.py"
        script.write_text(HELD_SPACE, encoding="utf-8")
        return [sys.executable, str(script), str(app), str(self.folder / "held.log"), str(self.folder / "go-on")]

    def __enter__(self) -> SpaceServer:
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command(), env=self._environment, stdout=log, stderr=subprocess.STDOUT
            )
        end = time.monotonic() + START_S
        while True:
            try:
                with urllib.request.urlopen(self.url, timeout=60):
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
        self._process.wait(120)
        self._temporary.cleanup()
