# SPDX-License-Identifier: Apache-2.0
"""Optical flow in `.flo` files, the format of the Middlebury benchmark."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np

from video_saliency.atomic_files import atomic_path

MAGIC = struct.pack("<f", 202021.25)  # the bytes PIEH
HEADER = struct.Struct("<4sii")  # magic, width, height
MAX_SIDE = 2**20  # beyond it the header is no header


def read_flow_file(path: str | os.PathLike[str]) -> np.ndarray:
    """Flow `(2, height, width)` float32 in pixels, x (right) first.

    Components beyond 1e9 mean that the flow of a pixel is unknown; they stay as they are, and `flow_to_image` paints
    such pixels black. Stack the flow of a clip's frames for `VideoSaliencyProcessor(flow=...)`.

    Raises:
        ValueError: if it is no such file, or one that is cut off or too long.
        FileNotFoundError: if there is none.
    """
    data = Path(path).read_bytes()
    if len(data) < HEADER.size or data[: len(MAGIC)] != MAGIC:
        raise ValueError(f"{path} is no .flo file: it does not begin with the number 202021.25 (the bytes PIEH)")
    _, width, height = HEADER.unpack_from(data)
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise ValueError(f"{path} is no .flo file, or a damaged one: its header says {width} x {height} pixels")
    expected = HEADER.size + 8 * width * height
    if len(data) != expected:
        raise ValueError(
            f"{path} is damaged: {width} x {height} pixels of flow take {expected} bytes, it has {len(data)}: make or "
            "copy it again"
        )
    flow = np.frombuffer(data, dtype="<f4", offset=HEADER.size).reshape(height, width, 2)
    return np.ascontiguousarray(flow.transpose(2, 0, 1), dtype=np.float32)


def write_flow_file(path: str | os.PathLike[str], flow: np.ndarray) -> None:
    """Write flow `(2, height, width)`, x first, as a `.flo` file, which appears under its name when it is whole.

    Raises:
        ValueError: for another shape, or numbers that are not floats.
    """
    flow = np.asarray(flow)
    if flow.ndim != 3 or flow.shape[0] != 2 or min(flow.shape) < 1 or not np.issubdtype(flow.dtype, np.floating):
        raise ValueError(f"flow must be float (2, height, width), got {flow.dtype} {flow.shape}")
    _, height, width = flow.shape
    with atomic_path(path) as temporary:
        temporary.write_bytes(
            HEADER.pack(MAGIC, width, height)
            + np.ascontiguousarray(flow.transpose(1, 2, 0)).astype("<f4", copy=False).tobytes()
        )


__all__ = ["read_flow_file", "write_flow_file"]
