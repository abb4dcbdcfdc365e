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


def peak_memory(folder: Path, num_frames: int, mode: str = "as it is") -> int:
    """Peak resident bytes of a process that predicts a clip of `num_frames` frames and writes all kinds of files."""
    clip = folder / f"clip{num_frames}.mp4"
    make_clip(clip, num_frames=num_frames, width=160, height=120)
    command = [sys.executable, "-c", SCRIPT, str(clip), str(folder / "out"), mode]
    # One thread: idle threads of a busy machine would only wait for each other. Few arenas: else glibc keeps a cache
    # for each thread, whose size depends on the timing.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return int(done.stdout.splitlines()[-1]) * 1024


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    return peak_memory(tmp_path_factory.mktemp("short"), 300)


@needs_proc
def test_peak_memory_does_not_grow_with_length(tmp_path, short):
    long = peak_memory(tmp_path, 2300)
    assert long < 1.05 * short, f"{long / 2**20:.0f} MiB for 2,300 frames, {short / 2**20:.0f} MiB for 300"


@needs_proc
def test_a_leak_of_small_maps_would_be_seen(tmp_path, short):
    # 75 kB a frame: what the maps of a clip of 160 x 120 take
    assert peak_memory(tmp_path, 900, "leak") > 1.05 * short
