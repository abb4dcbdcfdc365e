# SPDX-License-Identifier: Apache-2.0
"""What `import video_saliency` adds to the transformers imports that it needs."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.benchmark

THEIRS = "from transformers import AutoModel, AutoProcessor; import transformers.pipelines"


def seconds(statement: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - start


def test_import_time():
    """Pairs of fresh processes; and, from within one process, the share that is ours."""
    seconds("import video_saliency")  # warm the disk cache
    ratios = [seconds("import video_saliency") / seconds(THEIRS) for _ in range(5)]
    code = (
        f"import time; a = time.perf_counter(); {THEIRS}; b = time.perf_counter(); import video_saliency; "
        "c = time.perf_counter(); print((c - b) / (b - a))"
    )
    added = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
        for _ in range(5)
    ]
    print(
        f"\nimport video_saliency / the same transformers imports: median {statistics.median(ratios):.3f} "
        f"of {len(ratios)} pairs of processes; added on top in one process: {100 * statistics.median(added):.1f} %"
    )
    assert statistics.median(added) < 0.10
