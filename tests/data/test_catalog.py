# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from dataset_factory import make_dhf1k

from video_saliency.data import DATASETS, check_dataset, open_dataset

EXPECTED = (
    "dhf1k hollywood2 ucf_sports diem avad coutrot1 coutrot2 etmd summe ledov diem_meta ledov_meta avimos ntire26 "
    "salicon folder stills"
)


def test_the_table_of_data_sets() -> None:
    assert list(DATASETS) == EXPECTED.split()
    for name, info in DATASETS.items():
        assert info.name == name and set(info.whole) <= set(info.splits)
        assert "://" in info.publisher or (info.has_own_splits and info.origin == "your own data")
        whole = [info.splits[split] for split in info.whole]
        assert all(split.items is None or split.items > 0 for split in whole)
    diem = DATASETS["diem"].splits
    assert diem["train"].frames + diem["test"].frames == diem["all"].frames == 236_459
    assert diem["train"].items + diem["test"].items == diem["all"].items == 81
    assert sum(split.frames for split in DATASETS["dhf1k"].splits.values()) == 582_605
    assert sum(DATASETS["ucf_sports"].splits[split].frames for split in ("train", "test")) == 9_430


@pytest.mark.parametrize("name", [name for name, info in DATASETS.items() if name != "stills"])
def test_a_folder_without_the_data_says_what_was_expected(tmp_path: Path, name: str) -> None:
    info = DATASETS[name]
    with pytest.raises(ValueError) as caught:
        open_dataset(name, tmp_path)
    message = str(caught.value)
    assert f"{tmp_path} holds nothing of {info.title}" in message and info.layout in message
    assert info.origin in message
    for report in check_dataset(name, tmp_path):
        assert report.rows[0].found == 0 and not report.is_complete
        assert report.problems[0] == f"nothing was found: expected {info.layout}"


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'dhf2k' is not a known data set: choose from dhf1k, hollywood2"):
        open_dataset("dhf2k", tmp_path)
    with pytest.raises(ValueError, match="DHF1K has no split 'vals': choose from train, val, test"):
        open_dataset("dhf1k", tmp_path, split="vals")
    for use in (open_dataset, check_dataset):
        with pytest.raises(ValueError, match=r"none is not a folder: .* published at https://github.com/wenguanwang"):
            use("dhf1k", tmp_path / "none")


def test_some_clips_only(tmp_path: Path) -> None:
    make_dhf1k(tmp_path, {601: 1, 602: 1, 603: 1})
    dataset = open_dataset("dhf1k", tmp_path, split="val", clips=["0603", "0601", "0601", "0777"])
    assert [item.id for item in dataset] == ["0601", "0603"] and dataset.missing_ids == ["0777"]
    assert dataset.item("0603") is dataset[1] and dataset[:1] == [dataset[0]]
    with pytest.raises(ValueError, match="has no 0602: it has 2 items"):
        dataset.item("0602")
    with pytest.raises(ValueError, match="holds nothing of DHF1K, split val"):
        open_dataset("dhf1k", tmp_path, split="val", clips=["0999"])


def test_importing_the_readers_is_cheap() -> None:
    code = (
        "import sys, video_saliency; before = set(sys.modules)\n"
        "import video_saliency.data; print(*sorted(set(sys.modules) - before))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    foreign = {name.partition(".")[0] for name in loaded} - {"video_saliency"}
    assert "video_saliency.data.catalog" in loaded and foreign <= set(sys.stdlib_module_names)
