# SPDX-License-Identifier: Apache-2.0
"""Miniature data on which a recipe can be tried: a bright spot wanders over grey clips, and people look at it."""

from __future__ import annotations

import csv
import json
import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (36, 64)
NUM_FRAMES = 24
CLIPS = {"train": ("clip_1", "clip_2", "clip_3"), "val": ("clip_4", "clip_5")}
FRAME_RATE, SAMPLING_RATE = 25, 16_000


def write_smoke_clips(root: Path) -> Path:
    """A plain folder of five clips with maps, fixations and sound, see `video_saliency.data.clip_folder`."""
    rng = np.random.default_rng(0)
    names = [name for part in CLIPS.values() for name in part]
    for name in names:
        places = _walk(rng, NUM_FRAMES)
        for index, place in enumerate(places):
            _write(root / "frames" / name / f"{index + 1:04d}.png", _picture(place, rng))
            _write(root / "maps" / name / f"{index + 1:04d}.png", np.rint(255 * _spot(place, 5.0)).astype(np.uint8))
        (root / "fixations").mkdir(parents=True, exist_ok=True)
        fixations = [
            (np.array(place) + offset).tolist() for place in places for offset in [[[0, 0], [1, -1], [-1, 2]]]
        ]
        (root / "fixations" / f"{name}.json").write_text(json.dumps(fixations))
        _write_sound(root / "audio" / f"{name}.wav", places)
    (root / "splits.json").write_text(json.dumps(CLIPS))
    (root / "frame_rates.json").write_text(json.dumps(FRAME_RATE))
    return root


def write_smoke_stills(root: Path) -> Path:
    """A prepared folder of ten stills with fixations, see `video_saliency.data.still_fixations`."""
    rng = np.random.default_rng(1)
    places = _walk(rng, 10)
    rows, images, points = [], [], []
    for index, place in enumerate(places):
        _write(root / "images" / f"{index:03d}.png", _picture(place, rng))
        rows.append((f"still_{index:03d}", "smoke", "val" if index % 3 == 2 else "train", f"images/{index:03d}.png"))
        spread = np.array(place) + rng.integers(-2, 3, (6, 2)) + 0.5
        points.append((spread / SIZE)[:, ::-1])
        images += [index] * len(spread)
    with (root / "index.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("id", "dataset", "split", "file"), *rows])
    x, y = np.concatenate(points).astype(np.float32).T
    np.savez(root / "fixations.npz", ids=np.array([row[0] for row in rows]), image=np.array(images), x=x, y=y)
    return root


def _walk(rng: np.random.Generator, steps: int) -> list[tuple[int, int]]:
    """(row, column) of each frame, away from the border."""
    moves = rng.integers(-2, 3, (steps, 2)).cumsum(axis=0) + rng.integers(8, 24, 2)
    places = np.clip(moves, 4, np.array(SIZE) - 5)
    return [(int(row), int(column)) for row, column in places]


def _spot(place: Sequence[int], sigma: float) -> np.ndarray:
    rows, columns = np.indices(SIZE)
    spot: np.ndarray = np.exp(-((rows - place[0]) ** 2 + (columns - place[1]) ** 2) / (2 * sigma**2))
    return spot


def _picture(place: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    noise = rng.integers(40, 90, (*SIZE, 3)).astype(np.float64)
    spot = _spot(place, 2.5)[:, :, None]
    return np.rint(noise * (1 - spot) + np.array([250, 220, 200]) * spot).astype(np.uint8)


def _write(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


def _write_sound(path: Path, places: Sequence[tuple[int, int]]) -> None:
    """A tone whose loudness is the column of the spot."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = SAMPLING_RATE * len(places) // FRAME_RATE
    loudness = np.interp(np.arange(samples), np.linspace(0, samples, len(places)), [place[1] for place in places])
    tone = np.sin(2 * np.pi * 440 * np.arange(samples) / SAMPLING_RATE) * loudness / SIZE[1]
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLING_RATE)
        file.writeframes((tone * 20_000).astype("<i2").tobytes())


__all__ = ["write_smoke_clips", "write_smoke_stills"]
