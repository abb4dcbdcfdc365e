# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from still_data_factory import make_still_folder

from video_saliency.data import StillFixations, fixation_density, hash_folder, open_dataset


def test_reads_the_parts_and_sets(tmp_path: Path) -> None:
    make_still_folder(tmp_path, num_images=10)
    everything = StillFixations(tmp_path)
    train, val = StillFixations(tmp_path, split="train"), StillFixations(tmp_path, split="val")
    assert [item.id for item in everything.items] == [f"still_{i:03d}" for i in range(10)]
    assert (len(train), len(val)) == (8, 2) and {item.split for item in val.items} == {"val"}
    assert {item.dataset for item in StillFixations(tmp_path, datasets=["left"]).items} == {"left"}


def test_image_and_points_belong_together(tmp_path: Path) -> None:
    make_still_folder(tmp_path, num_images=6)
    stills = StillFixations(tmp_path, split="train")
    for index in range(len(stills)):
        image = stills.load_image(index)
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
        points = stills.fixation_points(index, image.shape[:2])
        assert points.dtype == np.int64 and points.shape[1] == 2
        # The people of these pictures look at the bright square.
        assert image[points[:, 0], points[:, 1]].mean() > 150 > image.mean()


def test_density_is_a_gaussian_at_each_fixation() -> None:
    density = fixation_density(np.array([[30, 20], [30, 20], [60, 90]]), (96, 128))
    assert density.shape == (96, 128) and density.dtype == torch.float32
    assert density.sum().item() == pytest.approx(1.0, abs=1e-5)
    assert divmod(int(density.argmax()), 128) == (30, 20)
    sigma = 96 / 24
    assert (density[30 + 4, 20] / density[30, 20]).item() == pytest.approx(np.exp(-0.5 * (4 / sigma) ** 2), rel=1e-4)
    assert (density[60, 90] / density[30, 20]).item() == pytest.approx(0.5, rel=1e-4)
    assert fixation_density(np.zeros((0, 2), dtype=np.int64), (12, 16)).sum() == 0


def test_hash_sees_names_and_contents(tmp_path: Path) -> None:
    hashes = []
    for name, content in (("a", b"bc"), ("a", b"bd"), ("ab", b"c")):
        folder = tmp_path / str(len(hashes))
        folder.mkdir()
        (folder / name).write_bytes(content)
        hashes.append(hash_folder(folder))
    assert len(set(hashes)) == 3 and all(len(value) == 64 for value in hashes)
    assert hashes[0] == hash_folder(tmp_path / "0")


def drop_columns(folder: Path) -> None:
    (folder / "index.csv").write_text("id,file\nstill_000,images/still_000.png\n")


def drop_arrays(folder: Path) -> None:
    np.savez(folder / "fixations.npz", ids=np.array(["still_000"]))


def forget_images(folder: Path) -> None:
    np.savez(folder / "fixations.npz", ids=np.array(["other"]), image=np.zeros(1, int), x=np.zeros(1), y=np.zeros(1))


def leave_the_picture(folder: Path) -> None:
    with np.load(folder / "fixations.npz") as arrays:
        np.savez(folder / "fixations.npz", **{**arrays, "x": arrays["x"] + 1})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "index.csv").unlink(), "index.csv is missing: pass the prepared folder"),
        (lambda folder: (folder / "fixations.npz").unlink(), "fixations.npz is missing"),
        (drop_columns, "lacks the columns dataset, split"),
        (drop_arrays, "lacks the arrays image, x, y"),
        (forget_images, "knows nothing of 5 images"),
        (leave_the_picture, "fractions of width and height"),
    ],
)
def test_a_damaged_folder_is_refused(tmp_path: Path, damage, message: str) -> None:
    make_still_folder(tmp_path, num_images=5)
    damage(tmp_path)
    with pytest.raises(ValueError, match=message):
        StillFixations(tmp_path)


def test_missing_part_and_missing_image_are_named(tmp_path: Path) -> None:
    make_still_folder(tmp_path, num_images=5)
    with pytest.raises(ValueError, match="no image with split='test'.*'train'"):
        StillFixations(tmp_path, split="test")
    stills = StillFixations(tmp_path)
    stills.items[0].path.write_text("no image")
    stills.items[1].path.unlink()
    for index in (0, 1):
        with pytest.raises(ValueError, match="restore the data folder"):
            stills.load_image(index)


def test_stills_as_items(tmp_path: Path) -> None:
    make_still_folder(tmp_path, num_images=10)
    stills = StillFixations(tmp_path, split="val")
    dataset = open_dataset("stills", tmp_path, split="val")
    assert list(dataset) == stills.saliency_items() and len(open_dataset("stills", tmp_path)) == 10
    for index, item in enumerate(dataset):
        (frame,) = item.annotations()
        assert (item.id, item.split, item.num_frames) == (stills.items[index].id, "val", 1)
        assert item.size == (48, 64) and np.array_equal(next(item.load_frames([0])), stills.load_image(index))
        points = stills.fixation_points(index, (48, 64))
        assert np.array_equal(frame.fixations, points)
        assert np.array_equal(frame.density, fixation_density(points, (48, 64)).numpy())
    with pytest.raises(ValueError, match="no image with split='test'"):
        open_dataset("stills", tmp_path, split="test")
