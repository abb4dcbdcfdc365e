# SPDX-License-Identifier: Apache-2.0
"""Checks what the installed wheel wrote for the example clip: every kind of output, and every frame in it.

Usage: check_outputs.py FOLDER CHECKOUT
"""

from __future__ import annotations

import sys
from pathlib import Path

import av
import numpy as np
from PIL import Image

import video_saliency


def main() -> None:
    folder, checkout = Path(sys.argv[1]), Path(sys.argv[2]).resolve()
    installed = Path(video_saliency.__file__).resolve()
    assert checkout not in installed.parents, f"{installed} is the checkout, not the wheel"
    with av.open(str(folder / "overlay.mp4")) as video:
        assert len(video.streams.audio) == 1, "the sound is lost"
        frames = sum(1 for _ in video.decode(video=0))
    indices = np.concatenate([np.load(path)["frame_index"] for path in sorted((folder / "maps").glob("*.npz"))])
    assert frames > 100
    assert indices.tolist() == list(range(frames))
    assert len((folder / "saliency.csv").read_text().splitlines()) == frames + 1
    assert len(list((folder / "png").glob("eyeMap_*.png"))) == frames
    with Image.open(folder / "sheet.png") as sheet:
        sheet.verify()
    print(f"{frames} frames in every output")


if __name__ == "__main__":
    main()
