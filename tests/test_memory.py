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


RUNS = {"short": (300, "as it is"), "long": (2300, "as it is"), "leak": (900, "leak")}


@pytest.fixture(scope="module")
def peaks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Peak resident MiB of processes that predict clips and write all kinds of files, side by side."""
    # One thread: idle threads of a busy machine would only wait for each other. Few arenas: else glibc keeps a cache
    # for each thread, whose size depends on the timing.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
    processes = {}
    for name, (num_frames, mode) in RUNS.items():
        folder = tmp_path_factory.mktemp(name)
        make_clip(folder / "clip.mp4", num_frames=num_frames, width=160, height=120)
        command = [sys.executable, "-c", SCRIPT, str(folder / "clip.mp4"), str(folder / "out"), mode]
        processes[name] = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    printed = {name: process.communicate()[0] for name, process in processes.items()}
    assert not any(process.returncode for process in processes.values())
    return {name: int(text.splitlines()[-1]) // 1024 for name, text in printed.items()}


@needs_proc
def test_peak_memory_does_not_grow_with_length(peaks):
    assert peaks["long"] < 1.05 * peaks["short"], f"MiB: {peaks}"


@needs_proc
def test_a_leak_of_small_maps_would_be_seen(peaks):
    # 75 kB a frame: what the maps of a clip of 160 x 120 take
    assert peaks["leak"] > 1.05 * peaks["short"], f"MiB: {peaks}"
