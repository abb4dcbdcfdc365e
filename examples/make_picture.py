# SPDX-License-Identifier: Apache-2.0
"""Makes a contact sheet small enough for the README: `make_picture.py SHEET.png PICTURE.jpg`."""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

WIDTH = 1100


def make_picture(sheet: Path, picture: Path) -> None:
    """Write `sheet` as a JPEG file of `WIDTH` pixels."""
    with Image.open(sheet) as image:
        height = round(image.height * WIDTH / image.width)
        small = image.convert("RGB").resize((WIDTH, height), Image.Resampling.LANCZOS)
    small.save(picture, quality=85, optimize=True)


if __name__ == "__main__":
    make_picture(Path(sys.argv[1]), Path(sys.argv[2]))
