# SPDX-License-Identifier: Apache-2.0
"""What can be said about a video file without FFmpeg: whether it may be read, is a still picture, or is cut off."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

Source = str | os.PathLike[str]

STILL_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")  # MPO, of many phones, opens as JPEG
ALWAYS_STILL = ("JPEG", "MPO", "TIFF")  # further pictures in them are thumbnails or pages, not frames


class VideoError(ValueError):
    """The source is not a video that can be read; the message is one line and says what to do."""


class TruncatedVideoError(VideoError):
    """The video ends early. Raised after the last good frame."""


def is_url(source: Source) -> bool:
    """Whether `source` names a protocol, such as `https://`."""
    return isinstance(source, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", source) is not None


def check_file(source: Source) -> None:
    """Raises, unless `source` is a file that can be read.

    Raises:
        FileNotFoundError, PermissionError: with the remedy.
        VideoError: for a folder, a pipe or device, or an empty file.
    """
    try:
        mode = os.stat(source).st_mode
        if stat.S_ISREG(mode):
            with open(source, "rb"):
                pass
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{source} does not exist: check the path") from error
    except NotADirectoryError as error:
        raise FileNotFoundError(f"{source} does not exist: a part of the path is a file; check the path") from error
    except PermissionError as error:
        raise PermissionError(f"{source} must not be read by this user: change its permissions or copy it") from error
    if stat.S_ISDIR(mode):
        raise VideoError(f"{source} is a folder: pass a video file in it")
    if not stat.S_ISREG(mode):
        raise VideoError(f"{source} is not a regular file: save the video to a file first")
    if os.stat(source).st_size == 0:
        raise VideoError(f"{source} is empty: copy or download it again")


def read_still(source: Source) -> tuple[np.ndarray, str] | None:
    """A local picture file as upright `(height, width, 3)` uint8 RGB and its format; `None` for everything else.

    Pillow reads them, not FFmpeg, which takes a `%` in the name for a numbered series and honours the orientation in
    EXIF only in newer versions.
    """
    if is_url(source):
        return None
    check_file(source)
    Image.init()  # else Pillow knows only a few formats by name
    try:
        with Image.open(source, formats=STILL_FORMATS) as image:
            if getattr(image, "n_frames", 1) > 1 and image.format not in ALWAYS_STILL:
                return None
            name = (image.format or "picture").lower()
            upright = ImageOps.exif_transpose(image)
    except UnidentifiedImageError:
        return None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise VideoError(f"{source} is a damaged picture ({error}): copy or download it again") from error
    if upright.mode.startswith("I;16"):  # Pillow would clip 16-bit grey to white
        upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
    return np.array(upright.convert("RGB")), name  # a copy, which torch may write to


def missing_bytes(source: Source) -> str | None:
    """Tells if a local Matroska or AVI file is shorter than its header says; their readers just stop."""
    if is_url(source):
        return None
    path = Path(source)
    with path.open("rb") as file:
        head = file.read(4096)
    declared = None
    if head[:4] == b"RIFF":
        declared = 8 + int.from_bytes(head[4:8], "little")
    elif head[:4] == b"\x1aE\xdf\xa3":
        segment = head.find(b"\x18\x53\x80\x67")
        if segment >= 0:
            length, body = _ebml_length(head, segment + 4)
            declared = None if length is None else body + length
    missing = 0 if declared is None else declared - path.stat().st_size
    return f"{missing} bytes are missing at its end" if missing > 0 else None


def _ebml_length(data: bytes, position: int) -> tuple[int | None, int]:
    """The EBML number at a position and the position behind it; `None` for "unknown", as live recordings have it."""
    if position >= len(data) or data[position] == 0:
        return None, position
    size = 9 - data[position].bit_length()
    value = int.from_bytes(data[position : position + size], "big") & ((1 << 7 * size) - 1)
    return (None if value == (1 << 7 * size) - 1 else value), position + size
