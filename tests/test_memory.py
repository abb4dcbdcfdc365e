# SPDX-License-Identifier: Apache-2.0
"""Memory does not grow with the clip: everything is written for a short and a long one, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from video_factory import make_clip

SCRIPT = """
import sys
from video_saliency.cli import outputs
from video_saliency.cli.main import app
kept = []
if sys.argv[3] == "leak":
    add = outputs.OutputFolder.add
    outputs.OutputFolder.add = lambda self, frame: (kept.append(frame.saliency_map), add(self, frame))[1]
app(["predict", sys.argv[1], "--output", sys.argv[2], "--save", "overlay,maps,csv,sheet"], standalone_mode=False)
# not ru_maxrss: a new process inherits that of its parent
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM:")).split()[1])
"""

needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")


def predicting(folder: Path, num_frames: int, mode: str = "as it is") -> subprocess.Popen[str]:
    """A process that predicts a clip of so many frames and writes all kinds of files."""
    folder.mkdir(exist_ok=True)
    make_clip(folder / "clip.mp4", num_frames=num_frames, width=160, height=120)
    command = [sys.executable, "-c", SCRIPT, str(folder / "clip.mp4"), str(folder / "out"), mode]
    # One thread: idle threads of a busy machine would only wait for each other. Few arenas: else glibc keeps a cache
    # for each thread, whose size depends on the timing.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def peak_memory(process: subprocess.Popen[str]) -> int:
    """Its peak resident bytes, once it has ended."""
    printed = process.communicate()[0]
    assert process.returncode == 0
    return int(printed.splitlines()[-1]) * 1024


@pytest.fixture(scope="module")
def peaks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Peaks in bytes of processes that run side by side."""
    runs = {"short": (300,), "long": (2300,), "leak": (900, "leak")}
    processes = {name: predicting(tmp_path_factory.mktemp(name), *what) for name, what in runs.items()}
    return {name: peak_memory(process) for name, process in processes.items()}


@needs_proc
def test_peak_memory_does_not_grow_with_length(peaks):
    assert peaks["long"] < 1.05 * peaks["short"], f"bytes: {peaks}"


@needs_proc
def test_a_leak_of_small_maps_would_be_seen(peaks):
    # 75 kB a frame: what the maps of a clip of 160 x 120 take
    assert peaks["leak"] > 1.05 * peaks["short"], f"bytes: {peaks}"
