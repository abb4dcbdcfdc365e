# SPDX-License-Identifier: Apache-2.0
"""Saliency maps as files: float maps in a folder of NPZ shards, or one 8-bit PNG for each frame."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.lib import format as npy_format
from PIL import Image

from video_saliency.atomic_files import atomic_path

MAX_SHARD_BYTES = 16 * 2**20  # what waits in memory, and small enough to load whole anywhere
SHARD_OVERHEAD_BYTES = 4096  # more than the zip and npy headers of three arrays
BYTES_PER_FRAME = 16  # frame_index and time_s
SHARD_NAME = re.compile(r"maps-\d{8,}\.npz")
Quantization = Literal["round", "truncate", "raise"]
ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # fixed, so that equal maps give equal bytes


class MapShardWriter:
    """Writes float maps as uncompressed NPZ shards into `folder`, each whole as soon as it has its name.

    A shard is named by its first frame, `maps-00000000.npz`, and holds `frame_index` (int64, `(frames,)`), `time_s`
    (float64, `(frames,)`) and `saliency_maps` (float32, `(frames, height, width)`). Equal calls give equal bytes.
    Maps wait in memory until their shard is full; call `flush` behind the last one.

    Args:
        folder: where the shards go; made if missing.
        max_shard_bytes: no shard is larger, except that it holds at least one map.

    Raises:
        ValueError: from `write`, for a map that is not two-dimensional, or frames out of order.
    """

    def __init__(self, folder: str | os.PathLike[str], *, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
        self.folder = Path(folder)
        self.max_shard_bytes = max_shard_bytes
        self._indices: list[int] = []
        self._times: list[float] = []
        self._maps: list[np.ndarray] = []

    def write(self, frame_index: int, time_s: float, saliency_map: np.ndarray) -> None:
        """Take the `(height, width)` map of a frame; frames come in order."""
        if saliency_map.ndim != 2:
            raise ValueError(f"a map has the shape (height, width), got {saliency_map.shape}")
        if self._indices and frame_index <= self._indices[-1]:
            raise ValueError(f"frames must come in order, but frame {frame_index} follows {self._indices[-1]}")
        if self._maps and (saliency_map.shape != self._maps[0].shape or self._is_full()):
            self.flush()
        self._indices.append(frame_index)
        self._times.append(time_s)
        self._maps.append(np.array(saliency_map, dtype=np.float32))  # a copy: the caller may reuse its array

    def flush(self) -> None:
        """Close the current shard, if it holds maps: what was written until now is on disk and complete."""
        if not self._maps:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        rows: dict[str, list[np.ndarray]] = {
            "frame_index": [np.array(index, dtype=np.int64) for index in self._indices],
            "time_s": [np.array(time_s, dtype=np.float64) for time_s in self._times],
            "saliency_maps": self._maps,
        }
        with atomic_path(self.folder / f"maps-{self._indices[0]:08d}.npz") as path:
            _save_npz(path, rows)
        self._indices, self._times, self._maps = [], [], []

    def _is_full(self) -> bool:
        size = (len(self._maps) + 1) * (self._maps[0].nbytes + BYTES_PER_FRAME) + SHARD_OVERHEAD_BYTES
        return size > self.max_shard_bytes


def _save_npz(path: Path, rows: dict[str, list[np.ndarray]]) -> None:
    """`np.savez` of arrays given as lists of their rows, written row by row: no second copy of all maps in memory.

    The date of the members is fixed by us, not by what a numpy version happens to do.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, pieces in rows.items():
            shape = (len(pieces), *pieces[0].shape)
            header = {"descr": npy_format.dtype_to_descr(pieces[0].dtype), "fortran_order": False, "shape": shape}
            member = zipfile.ZipInfo(f"{name}.npy", date_time=ZIP_DATE)
            with archive.open(member, "w", force_zip64=True) as file:
                npy_format.write_array_header_1_0(file, header)
                for piece in pieces:
                    file.write(piece.tobytes())


def read_map_shards(folder: str | os.PathLike[str]) -> Iterator[tuple[int, float, np.ndarray]]:
    """Frame index, time in seconds and float32 map `(height, width)` of each frame in order, one shard in memory.

    Raises:
        ValueError: if the folder holds no shards.
    """
    paths = sorted((path for path in Path(folder).glob("maps-*.npz") if SHARD_NAME.fullmatch(path.name)), key=_number)
    if not paths:
        raise ValueError(f"{folder} holds no map shards (maps-00000000.npz ...): pass the folder that `maps` wrote")
    for path in paths:
        with np.load(path) as shard:
            indices, times, maps = shard["frame_index"], shard["time_s"], shard["saliency_maps"]
        for index, time_s, saliency_map in zip(indices, times, maps, strict=True):
            yield int(index), float(time_s), saliency_map


def _number(path: Path) -> int:
    return int(path.stem.removeprefix("maps-"))


class MapPngWriter:
    """Writes each map as an 8-bit grey PNG into `folder`, each whole as soon as it has its name.

    Args:
        folder: where the pictures go; made if missing.
        pattern: file name with one `%d` for the frame's number, as data sets and challenges expect it.
        first_number: number of frame 0.
        quantize: `"round"`: to the nearest grey value; `"truncate"`: the fraction is cut off, as challenge code that
            casts to uint8 does; `"raise"`: half a grey value is added before rounding, as the script that SalFoM's
            authors name does, so that about half of the pixels are a level above the nearest one.
        scale: `"maximum"`: a map is divided by its maximum, which becomes 255; an all-zero map stays zero. `"unit"`:
            the map lies in 0..1 and 1 becomes 255, as in the NTIRE challenge.

    Raises:
        ValueError: for a pattern without exactly one number, an unknown `quantize` or `scale`; from `write`, for a map
            that is not two-dimensional, finite and non-negative, or with `scale="unit"` one above 1.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        pattern: str = "eyeMap_%05d.png",
        *,
        first_number: int = 1,
        quantize: Quantization = "round",
        scale: Literal["maximum", "unit"] = "maximum",
    ) -> None:
        if not re.fullmatch(r"[^%/\\]*%0?\d*d[^%/\\]*\.png", pattern):
            raise ValueError(
                f"pattern must be a .png name with one number, such as 'eyeMap_%05d.png', got {pattern!r}"
            )
        if quantize not in ("round", "truncate", "raise"):
            raise ValueError(f"quantize must be 'round', 'truncate' or 'raise', got {quantize!r}")
        if scale not in ("maximum", "unit"):
            raise ValueError(f"scale must be 'maximum' or 'unit', got {scale!r}")
        self.folder, self.pattern, self.first_number = Path(folder), pattern, first_number
        self.quantize, self.scale = quantize, scale

    def write(self, frame_index: int, time_s: float, saliency_map: np.ndarray) -> None:
        """Write the `(height, width)` map of a frame at once; `time_s` is not kept."""
        grey = map_to_uint8(saliency_map, quantize=self.quantize, scale=self.scale)
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(self.folder / (self.pattern % (frame_index + self.first_number))) as path:
            Image.fromarray(grey).save(path)


def map_to_uint8(
    saliency_map: np.ndarray,
    *,
    quantize: Quantization = "round",
    scale: Literal["maximum", "unit"] = "maximum",
) -> np.ndarray:
    """The `(height, width)` map as uint8; see `MapPngWriter`."""
    values = np.asarray(saliency_map, dtype=np.float32)
    if values.ndim != 2 or not np.isfinite(values).all() or (values < 0).any():
        raise ValueError(
            f"a map must be (height, width), finite and non-negative to be written as PNG, got shape {values.shape}"
        )
    maximum = values.max(initial=0)
    if scale == "unit" and maximum > 1:
        raise ValueError(
            f"the map reaches {maximum:.3g}, but pictures of this kind (scale='unit') are for maps in 0..1: write "
            "plain PNGs of this model's maps (--save png; scale='maximum')"
        )
    if scale == "maximum" and maximum > 0:
        values = values / maximum
    scaled = values * np.float32(255)
    if quantize == "raise":
        scaled = np.minimum(scaled + np.float32(0.5), 255)
    return (scaled if quantize == "truncate" else np.rint(scaled)).astype(np.uint8)
