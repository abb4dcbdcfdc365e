# SPDX-License-Identifier: Apache-2.0
"""Predict where people look in video."""

from __future__ import annotations

from video_saliency.version import __version__
from video_saliency.windows import Window, WindowPlanner, WindowSpec, plan_windows

__all__ = ["Window", "WindowPlanner", "WindowSpec", "__version__", "plan_windows"]
