# SPDX-License-Identifier: Apache-2.0
"""Peak memory against clip length, printed; the default run asserts the bound (`test_memory.py` one folder up)."""

from __future__ import annotations

import pytest
from test_memory import peak_memory, predicting

pytestmark = pytest.mark.benchmark


def test_peak_memory_against_length(tmp_path):
    peaks = {length: peak_memory(predicting(tmp_path / str(length), length)) for length in (200, 1000, 2000)}
    print()
    for length, peak in peaks.items():
        print(f"{length:5} frames: peak {peak / 2**20:.0f} MiB, {peak / peaks[200]:.3f} of that of 200 frames")
    assert peaks[2000] < 1.05 * peaks[200]
