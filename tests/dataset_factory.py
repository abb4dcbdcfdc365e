# SPDX-License-Identifier: Apache-2.0
"""Miniature copies of published data sets: in each frame people look at one place, which moves from frame to frame."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image
from video_factory import make_clip

SIZE = (36, 64)


def gaze(index: int, size: tuple[int, int] = SIZE) -> tuple[int, int]:
    """(row, column) that is looked at in a frame."""
    return (3 + 2 * index) % size[0], (5 + 3 * index) % size[1]


def density(index: int, size: tuple[int, int] = SIZE, peak: int = 255, dtype: Any = np.uint8) -> np.ndarray:
    """`(height, width)`: a Gaussian around `gaze`, its maximum `peak`."""
    rows, columns = np.indices(size)
    row, column = gaze(index, size)
    return np.rint(peak * np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 18)).astype(dtype)


def mask(index: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """bool `(height, width)`: `gaze` and the top left pixel."""
    found = np.zeros(size, dtype=bool)
    found[gaze(index, size)] = found[0, 0] = True
    return found


def picture(index: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """uint8 RGB `(height, width, 3)`: its first pixel holds the index."""
    rgb = np.full((*size, 3), 40, dtype=np.uint8)
    row, column = gaze(index, size)
    rgb[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3] = (250, 200, 120)
    rgb[0, 0] = (index % 256, index // 256, 0)
    return rgb


def write_pictures(folder: Path, names: Sequence[str], pictures: Iterable[np.ndarray]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in zip(names, pictures, strict=True):
        Image.fromarray(values).save(folder / name)


def write_mat(path: Path, **variables: Any) -> None:
    """A MATLAB file of version 5."""
    from scipy.io import savemat

    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, variables)


def write_mat73(path: Path, **variables: Any) -> None:
    """A MATLAB file of version 7.3 with matrices, cell arrays of strings (lists) and structs (dicts)."""
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in variables.items():
            if isinstance(value, dict):
                group = file.create_group(name)
                for field, content in value.items():
                    group[field] = np.atleast_2d(content).T
            elif isinstance(value, list):
                cells = file.create_dataset(name, (1, len(value)), dtype=h5py.ref_dtype)
                for place, text in enumerate(value):
                    entry = file.create_dataset(f"#refs#/{place}", data=np.array([[ord(c)] for c in text], "uint16"))
                    entry.attrs["MATLAB_class"] = np.bytes_("char")
                    cells[0, place] = entry.ref
            else:
                file[name] = np.asarray(value).T
    head = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, HDF5 schema 1.00 ."
    with path.open("r+b") as file:
        file.write(head.ljust(124, b" ") + b"\x00\x02IM")


def write_truth_video(
    path: Path,
    maps: Sequence[np.ndarray],
    *,
    codec: str = "libx264",
    pixel_format: str = "yuv420p10le",
) -> Path:
    """A lossless video whose luma holds `maps` (uint16, up to 876), limited range; full range for grey formats."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = maps[0].shape
    rate = 30
    options = {"qp": "0", "preset": "ultrafast"} if codec == "libx264" else {}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            codec, rate=rate, width=width, height=height, pix_fmt=pixel_format, options=options
        )
        for index, values in enumerate(maps):
            frame = av.VideoFrame(width, height, pixel_format)
            for plane in frame.planes:
                plane.update(np.full(plane.buffer_size // 2, 512, "<u2").tobytes())
            plane = frame.planes[0]
            rows = np.zeros((height, plane.line_size // 2), "<u2")
            rows[:, :width] = values + (0 if pixel_format.startswith("gray") else 64)
            plane.update(rows.tobytes())
            frame.pts, frame.time_base = index, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def make_dhf1k(root: Path, clips: dict[int, int], *, as_video: bool = True, masks: str = "png") -> None:
    """Clips by number with so many frames; frames in an AVI, or else in `images`."""
    for number, num_frames in clips.items():
        home = root / "annotation" / f"{number:04d}"
        names = [f"{frame:04d}.png" for frame in range(1, num_frames + 1)]
        if as_video:
            (root / "video").mkdir(parents=True, exist_ok=True)
            make_avi(root / "video" / f"{number:03d}.AVI", num_frames)
        else:
            write_pictures(home / "images", names, map(picture, range(num_frames)))
        write_pictures(home / "maps", names, map(density, range(num_frames)))
        if masks == "png":
            write_pictures(home / "fixation", names, (mask(i).astype(np.uint8) * 255 for i in range(num_frames)))
        else:
            for index in range(num_frames):
                write_mat(home / "fixation" / "maps" / f"{index + 1:04d}.mat", I=mask(index).astype(np.uint8))


def make_avi(path: Path, num_frames: int) -> None:
    made = make_clip(
        path.with_suffix(".avi"),
        num_frames,
        width=SIZE[1],
        height=SIZE[0],
        rate=30,
        time_base=Fraction(1, 30),
        codec="mpeg4",
        codec_options={"qscale": "2"},
        pictures=map(picture, range(num_frames)),
    )
    made.rename(path)


def make_action_clip(home: Path, pattern: str, numbers: Sequence[int], *, masks: str = "mat") -> None:
    """A shot of Hollywood-2 or a clip of UCF-Sports, `pattern` the names of its files with a place for the number."""
    names = [f"{pattern.format(number)}.png" for number in numbers]
    indices = range(len(numbers))
    write_pictures(home / "images", names, map(picture, indices))
    write_pictures(home / "maps", names, map(density, indices))
    if masks == "png":
        write_pictures(home / "fixation", names, (mask(index).astype(np.uint8) for index in indices))
    else:
        for index, name in enumerate(names):
            write_mat(home / "fixation" / "maps" / f"{Path(name).stem}.mat", I=mask(index).astype(np.uint8))


def make_stavis(root: Path, database: str, clips: dict[str, int], lists: dict[str, Sequence[str]], fps: str) -> None:
    """A set as the STAViS authors publish it; `lists` by split without `_fps.txt`."""
    for name, num_frames in clips.items():
        indices = range(num_frames)
        frames = [f"img_{index + 1:05d}.jpg" for index in indices]
        write_pictures(root / "video_frames" / database / name, frames, map(picture, indices))
        truth = root / "annotations" / database / name
        write_pictures(truth / "maps", [f"eyeMap_{i + 1:05d}.jpg" for i in indices], map(density, indices))
        for index in indices:
            write_mat(truth / f"fixMap_{index + 1:05d}.mat", eyeMap=mask(index).astype(np.float64))
        write_mat(truth / "eye_tracks.mat", eye_tracks=np.zeros((2, 3)))
        sound = root / "video_audio" / database / name / f"{name}.wav"
        sound.parent.mkdir(parents=True)
        sound.write_bytes(b"RIFF")
    (root / "fold_lists").mkdir(parents=True, exist_ok=True)
    for split, names in lists.items():
        lines = [f"{name} {clips.get(name, 100)} {fps}" for name in names]
        # some of the published files hold an empty line, and none at the end
        (root / "fold_lists" / f"{database}_list_{split}_fps.txt").write_text("\n".join([*lines[:1], "", *lines[1:]]))


def make_ledov_clip(
    root: Path, name: str, num_frames: int, fixations: Any, *, rate: int = 24, v73: bool = False
) -> None:
    """A clip with rows (subject, start ms, duration ms, x, y)."""
    (root / name).mkdir(parents=True)
    make_clip(root / name / f"{name}.mp4", num_frames, width=SIZE[1], height=SIZE[0], rate=rate)
    content = {
        "fixdata": np.array(fixations, dtype=np.float64),
        "VideoFrames": float(num_frames),
        "VideoFrameRate": float(rate),
        "VideoSize": np.array([SIZE[1], SIZE[0]], dtype=np.float64),
    }
    (write_mat73 if v73 else write_mat)(root / name / "Data.mat", Data=content)


def make_salicon_image(root: Path, split: str, number: int, points_xy: Sequence[Sequence[Sequence[float]]]) -> str:
    """An image with points (x, y), from 1, of several subjects; returns its name."""
    name = f"COCO_{split}2014_{number:012d}"
    write_pictures(root / "images", [f"{name}.jpg"], [picture(number)])
    write_pictures(root / "maps" / split, [f"{name}.png"], [density(number)])
    gaze_of_subjects = np.zeros((len(points_xy), 1), dtype=[("location", "O"), ("timestamp", "O"), ("fixations", "O")])
    for place, points in enumerate(points_xy):
        gaze_of_subjects[place, 0] = (np.zeros((3, 2)), np.zeros((3, 1)), np.array(points, dtype=np.float64))
    write_mat(root / "fixations" / split / f"{name}.mat", gaze=gaze_of_subjects, resolution=np.array([SIZE]))
    return name


def make_avimos_clip(
    root: Path, part: str, name: str, num_frames: int, *, size: tuple[int, int] = SIZE, points: Any = None
) -> list[list[list[int]]]:
    """A clip of the challenge with its truth; returns the points of its JSON file."""
    (root / "Videos").mkdir(parents=True, exist_ok=True)
    make_clip(root / "Videos" / f"{name}.mp4", num_frames, width=size[1], height=size[0], rate=30, audio="aac")
    maps = [density(index, size, 876, np.uint16) for index in range(num_frames)]
    write_truth_video(root / f"Saliency{part}" / part / f"{name}.mp4", maps)
    if points is None:
        points = [[list(gaze(index, size))] * 2 + [[1, 2]] for index in range(num_frames)]
    home = root / f"Fixations{part}" / part / name
    home.mkdir(parents=True)
    (home / "fixations.json").write_text(json.dumps(points))
    return points
