# SPDX-License-Identifier: Apache-2.0
"""Picture files as frames, density maps and fixation masks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from video_saliency.source_files import VideoError, read_still

JPEG_THRESHOLD = 128  # of a mask: compression leaves small values around the fixated pixels


def read_picture(path: Path) -> np.ndarray:
    """uint8 RGB `(height, width, 3)`, upright.

    Raises:
        ValueError: if the file is damaged or no picture.
        FileNotFoundError, PermissionError: if it cannot be read.
    """
    found = read_still(path)
    if found is None:
        raise VideoError(f"{path} is no picture that can be read: copy or download it again")
    return found[0]


def read_map(path: Path) -> np.ndarray:
    """Grey values `(height, width)`: uint8, or uint16 for pictures of 16 bits. Colours are turned into grey.

    Raises:
        as `read_picture`.
    """
    with _opened(path) as image:
        if image.mode.startswith("I"):
            return np.asarray(image).astype(np.uint16)
        return np.array(image if image.mode == "L" else image.convert("L"))


def read_picture_mask(path: Path) -> np.ndarray:
    """Where a picture of fixations is above 0, in a JPEG at least 128: bool `(height, width)`.

    Raises:
        as `read_picture`.
    """
    with _opened(path) as image:
        is_jpeg = image.format in ("JPEG", "MPO")
        # a palette or RGB picture may hold a 1 that grey would round to 0
        values = np.asarray(image.convert("RGB") if image.mode in ("P", "PA", "RGBA", "LA") else image)
    values = values.max(axis=2) if values.ndim == 3 else values
    mask: np.ndarray = values >= JPEG_THRESHOLD if is_jpeg else values > 0
    return mask


def picture_size(path: Path) -> tuple[int, int]:
    """Height and width as stored in the header of a picture.

    Raises:
        as `read_picture`.
    """
    with _opened(path) as image:
        return image.height, image.width


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            yield image
    except (UnidentifiedImageError, SyntaxError, Image.DecompressionBombError) as error:
        raise VideoError(f"{path} is no picture that can be read: copy or download it again") from error
    except OSError as error:
        if error.filename:
            raise
        raise VideoError(f"{path} is a damaged picture ({error}): copy or download it again") from error
