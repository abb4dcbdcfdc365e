# SPDX-License-Identifier: Apache-2.0
"""A tiny copy of every data set that has frames and truth, in the layout in which it is published."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from dataset_factory import (
    make_action_clip,
    make_avimos_clip,
    make_dhf1k,
    make_ledov_clip,
    make_salicon_image,
    make_stavis,
    write_mat,
    write_mat73,
)
from still_data_factory import make_still_folder

from video_saliency.data.dataset_info import split_lists

LEDOV_ROWS = [(1, 0, 30, 3, 4), (2, 0, 300, 9, 4)]  # subject, start ms, duration ms, x, y


def make_dhf1k_val(root: Path) -> None:
    make_dhf1k(root, {601: 3, 602: 1})


def make_diem(root: Path) -> None:
    make_stavis(root, "DIEM", {"one_show_1280x712": 3}, {}, "29.999700")


def make_diem_meta(root: Path) -> None:
    make_diem(root)
    (root / "mask-diem.csv").write_text("video,frame,mask\none_show_1280x712,1,True\none_show_1280x712,2,True\n")


def make_ledov_meta(root: Path) -> None:
    make_ledov_clip(root, "cat", 8, LEDOV_ROWS, rate=24)
    (root / "mask-ledov-test-30hz.csv").write_text("video,frame,mask\ncat,0,False\n")


def make_hollywood2(root: Path) -> None:
    make_action_clip(root / "testing" / "actioncliptest00001_1", "actioncliptest00001_{:05d}", range(3, 6))


def make_avimos(root: Path) -> None:
    make_avimos_clip(root, "Test", "clip", 3)


def make_salicon(root: Path) -> None:
    make_salicon_image(root, "val", 9, [[[1, 2]]])


def make_stills(root: Path) -> None:
    make_still_folder(root, num_images=5)


def make_coutrot1(root: Path) -> None:
    make_stavis(root, "Coutrot_db1", {"clip_1": 3}, {}, "25.0")


def make_ucf_sports(root: Path) -> None:
    name = split_lists("ucf_sports")["test"][0]
    make_action_clip(root / "testing" / name, f"{name[:-4]}_{name[-3:]}_{{:03d}}", range(1, 4))


def make_ledov(root: Path) -> None:
    make_ledov_clip(root, "animal_bear01", 4, LEDOV_ROWS)
    write_mat73(root / "VideoNameList.mat", VideoNameList=["animal_bear01"])
    write_mat(root / "namelist.mat", testlist=[[1]], vaildlist=[[1]], trainlist=[[1]])


def make_ntire26(root: Path) -> None:
    make_avimos_clip(root, "Train", "clip", 3)
    lists = {"train": ["clip.mp4"], "public_test": [], "private_test": []}
    (root / "TrainTestSplit.json").write_text(json.dumps(lists))


MINIATURES: dict[str, tuple[Callable[[Path], None], str]] = {
    "dhf1k": (make_dhf1k_val, "val"),
    "hollywood2": (make_hollywood2, "test"),
    "ucf_sports": (make_ucf_sports, "test"),
    "diem": (make_diem, "test_borji"),
    "diem_meta": (make_diem_meta, "test"),
    "coutrot1": (make_coutrot1, "all"),
    "ledov": (make_ledov, "train"),
    "ledov_meta": (make_ledov_meta, "test"),
    "avimos": (make_avimos, "test"),
    "ntire26": (make_ntire26, "train"),
    "salicon": (make_salicon, "val"),
    "stills": (make_stills, "val"),
}
