# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import sys
from fractions import Fraction
from pathlib import Path

import datasets
import numpy as np
import pytest
from dataset_factory import (
    make_action_clip,
    make_avimos_clip,
    make_dhf1k,
    make_ledov_clip,
    make_salicon_image,
    make_stavis,
)
from still_data_factory import make_still_folder
from torch.utils.data import DataLoader

from video_saliency.data import SaliencyItem, from_manifest, from_row, open_dataset, to_manifest, to_rows
from video_saliency.data.manifest import COLUMNS


def make_dhf1k_val(root: Path) -> None:
    make_dhf1k(root, {601: 3, 602: 1})


def make_diem(root: Path) -> None:
    make_stavis(root, "DIEM", {"one_show_1280x712": 3}, {}, "29.999700")


def make_diem_meta(root: Path) -> None:
    make_diem(root)
    (root / "mask-diem.csv").write_text("video,frame,mask\none_show_1280x712,1,True\none_show_1280x712,2,True\n")


def make_ledov_meta(root: Path) -> None:
    make_ledov_clip(root, "cat", 8, [(1, 0, 30, 3, 4)], rate=24)
    (root / "mask-ledov-test-30hz.csv").write_text("video,frame,mask\ncat,0,False\n")


def make_hollywood2(root: Path) -> None:
    make_action_clip(root / "testing" / "actioncliptest00001_1", "actioncliptest00001_{:05d}", range(3, 6))


def make_avimos(root: Path) -> None:
    make_avimos_clip(root, "Test", "clip", 3)


def make_salicon(root: Path) -> None:
    make_salicon_image(root, "val", 9, [[[1, 2]]])


def make_stills(root: Path) -> None:
    make_still_folder(root, num_images=5)


MAKERS = [
    ("dhf1k", make_dhf1k_val, "val"),
    ("diem", make_diem, "test_borji"),
    ("diem_meta", make_diem_meta, "test"),
    ("ledov_meta", make_ledov_meta, "test"),
    ("hollywood2", make_hollywood2, "test"),
    ("avimos", make_avimos, "test"),
    ("salicon", make_salicon, "val"),
    ("stills", make_stills, "val"),
]


@pytest.mark.parametrize(("name", "make", "split"), MAKERS, ids=[name for name, _, _ in MAKERS])
def test_items_come_back_from_rows(tmp_path: Path, name: str, make, split: str) -> None:
    root = tmp_path / "first"
    make(root)
    dataset = open_dataset(name, root, split=split)
    manifest = to_manifest(dataset, root)
    assert manifest.column_names == list(COLUMNS) and manifest.num_rows == len(dataset)
    assert str(tmp_path) not in json.dumps(manifest[:])
    manifest.to_parquet(str(tmp_path / "manifest.parquet"))
    root.rename(tmp_path / "second")  # paths are relative to the folder
    stored = datasets.Dataset.from_parquet(str(tmp_path / "manifest.parquet"), cache_dir=str(tmp_path / "cache"))
    again = from_manifest(stored, tmp_path / "second")
    assert (again.name, again.split) == (name, split)
    assert list(again) == list(open_dataset(name, tmp_path / "second", split=split))
    for item, row in zip(again, stored, strict=True):
        assert item.num_frames == row["num_frames"] == len(list(item.frames()))
        assert all(frame.fixations is not None for frame in item.annotations())


def test_rows_are_plain(tmp_path: Path) -> None:
    make_diem_meta(tmp_path)
    (row,) = to_rows(open_dataset("diem_meta", tmp_path), tmp_path)
    assert row == {
        "id": "one_show_1280x712",
        "dataset": "diem_meta",
        "split": "test",
        "clip": "",
        "frames": "video_frames/DIEM/one_show_1280x712",
        "frames_kind": "pictures",
        "densities": "annotations/DIEM/one_show_1280x712/maps",
        "densities_kind": "pictures",
        "fixations": "annotations/DIEM/one_show_1280x712",
        "fixations_kind": "masks",
        "audio": "video_audio/DIEM/one_show_1280x712/one_show_1280x712.wav",
        "num_frames": 3,
        "max_frames": None,
        "frame_rate": 29.9997,
        "scored_frames": [1, 2],
    }
    assert from_row(row, tmp_path).frame_rate == Fraction("29.9997")


def test_manifests_feed_a_data_loader(tmp_path: Path) -> None:
    make_dhf1k_val(tmp_path)
    dataset = open_dataset("dhf1k", tmp_path, split="val")
    manifest = to_manifest(dataset, tmp_path).filter(lambda row: row["num_frames"] > 1)

    def read(batch: dict) -> dict:
        rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        return {"frames": [np.stack(list(from_row(row, tmp_path).load_frames([0, 2]))) for row in rows]}

    (batch,) = DataLoader(manifest.with_transform(read), batch_size=1)
    assert np.array_equal(batch["frames"][0].numpy(), np.stack(list(dataset[0].load_frames([0, 2]))))


def test_wrong_rows_and_folders(tmp_path: Path, monkeypatch) -> None:
    make_dhf1k_val(tmp_path)
    dataset = open_dataset("dhf1k", tmp_path, split="val")
    with pytest.raises(ValueError, match="is not in .*other: pass the folder"):
        to_rows(dataset, tmp_path / "other")
    row = to_rows(dataset, tmp_path)[0]
    with pytest.raises(ValueError, match="lacks the columns frame_rate, num_frames"):
        from_row({key: row[key] for key in row if key not in ("num_frames", "frame_rate")}, tmp_path)
    with pytest.raises(ValueError, match="frames of kind 'hologram' are not known"):
        from_row({**row, "frames_kind": "hologram"}, tmp_path)
    with pytest.raises(ValueError, match="no rows"):
        from_manifest([], tmp_path)
    assert from_manifest([row, {**row, "split": "train"}], tmp_path).split is None
    assert to_rows([SaliencyItem("empty", "x", "y")], tmp_path)[0]["frames_kind"] is None
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'video-saliency\[data\]'"):
        to_manifest(dataset, tmp_path)
