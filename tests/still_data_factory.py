# SPDX-License-Identifier: Apache-2.0
"""A miniature folder of stills with fixations: grey noise with one bright square that everybody looks at."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image


def make_still_folder(folder: Path, num_images: int = 10, *, observers: int = 8, seed: int = 0) -> None:
    """Writes `num_images` pictures of the sets "left" and "right" (by where the square is); each fifth is val."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows, image_of_point, points = [], [], []
    for index in range(num_images):
        height, width, side = 48, 64, 12
        dataset = "left" if index % 2 == 0 else "right"
        top = int(rng.integers(2, height - side - 2))
        left = int(rng.integers(2, width // 2 - side)) + (width // 2 if dataset == "right" else 0)
        picture = rng.integers(40, 90, (height, width, 3), dtype=np.uint8)
        picture[top : top + side, left : left + side] = (250, 220, 200)
        name = f"images/still_{index:03d}.png"
        Image.fromarray(picture).save(folder / name)
        rows.append((f"still_{index:03d}", dataset, "val" if index % 5 == 4 else "train", name))
        points.append((rng.uniform(0.1, 0.9, (observers, 2)) * side + [left, top]) / [width, height])
        image_of_point += [index] * observers
    with (folder / "index.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("id", "dataset", "split", "file"), *rows])
    x, y = np.concatenate(points).astype(np.float32).T
    np.savez(
        folder / "fixations.npz", ids=np.array([row[0] for row in rows]), image=np.array(image_of_point), x=x, y=y
    )
