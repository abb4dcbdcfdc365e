# SPDX-License-Identifier: Apache-2.0
"""Predict where people look in video."""

from __future__ import annotations

from video_saliency.version import __version__

__all__ = ["__version__"]
