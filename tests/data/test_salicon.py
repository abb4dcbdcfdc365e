# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dataset_factory import SIZE, density, make_salicon_image, mask, write_mat, write_pictures

from video_saliency.data import check_dataset, open_dataset
from video_saliency.data.truth_files import SaliconFixations


def test_images_with_the_points_of_all_subjects(tmp_path: Path) -> None:
    points = [[[1, 1], [64, 36]], [[65, 2]], [], [[10, 20]]]  # (x, y) from 1; one lies beside the image
    names = [make_salicon_image(tmp_path, "val", number, points) for number in (1000, 9)]
    make_salicon_image(tmp_path, "train", 5, [])
    dataset = open_dataset("salicon", tmp_path, split="val")
    assert [item.id for item in dataset] == names[::-1]
    item = dataset[1]
    assert (item.num_frames, item.frame_rate, item.size) == (1, None, SIZE)
    (frame,) = item.annotations()
    assert frame.fixations.tolist() == [[0, 0], [35, 63], [19, 9]] and np.array_equal(frame.density, density(1000))
    assert item.fixation_files.size() == SIZE
    (nobody,) = open_dataset("salicon", tmp_path, split="train")[0].annotations()
    assert nobody.fixations.shape == (0, 2)
    (report,) = check_dataset("salicon", tmp_path, split="val")
    assert [(row.what, row.found, row.expected) for row in report.rows] == [
        ("images", 2, 5_000),
        ("frames", 2, 5_000),
        ("densities", 2, 5_000),
        ("fixations", 2, 5_000),
    ]


def test_masks_in_place_of_tracks_and_images_by_split(tmp_path: Path) -> None:
    name = make_salicon_image(tmp_path, "val", 9, [[[1, 1]]])
    (tmp_path / "fixations" / "val" / f"{name}.mat").unlink()
    write_pictures(tmp_path / "fixations" / "val", [f"{name}.png", "COCO_val2014_3.png"], [mask(9), mask(1)])
    (tmp_path / "images" / "val").mkdir()
    (tmp_path / "images" / f"{name}.jpg").rename(tmp_path / "images" / "val" / f"{name}.jpg")
    dataset = open_dataset("salicon", tmp_path, split="val")
    (frame,) = dataset[0].annotations()
    assert np.array_equal(frame.fixations, mask(9))
    assert dataset.notes == ["no image for COCO_val2014_3"]


def test_another_matlab_file_is_refused(tmp_path: Path) -> None:
    write_mat(tmp_path / "a.mat", I=np.ones((2, 2)))
    with pytest.raises(ValueError, match="no variables gaze and resolution"):
        SaliconFixations(tmp_path / "a.mat").load(0)
