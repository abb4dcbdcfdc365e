# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import sys
from fractions import Fraction
from pathlib import Path

import datasets
import numpy as np
import pytest
from miniature_data_sets import MINIATURES, make_dhf1k_val, make_diem_meta
from torch.utils.data import DataLoader

from video_saliency.data import SaliencyItem, from_manifest, from_row, open_dataset, to_manifest, to_rows
from video_saliency.data.manifest import COLUMNS


@pytest.mark.parametrize("name", list(MINIATURES))
def test_items_come_back_from_rows(tmp_path: Path, name: str) -> None:
    root = tmp_path / "first"
    make, split = MINIATURES[name]
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
