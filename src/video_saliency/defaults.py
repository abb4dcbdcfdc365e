# SPDX-License-Identifier: Apache-2.0
"""Where the embedded default model lies."""

from __future__ import annotations

from pathlib import Path

DEFAULT_MODEL = str(Path(__file__).parent / "default_model")
