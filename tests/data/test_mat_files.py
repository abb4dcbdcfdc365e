# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from dataset_factory import mask, write_mat, write_mat73

from video_saliency.data.mat_files import MissingPackageError, is_version_73, read_field, read_mask, read_names

WRITERS = {"5": write_mat, "7.3": write_mat73}


@pytest.mark.parametrize("version", WRITERS)
@pytest.mark.parametrize("key", ["I", "eyeMap", "something"])
def test_masks_are_read_from_both_versions(tmp_path: Path, version: str, key: str) -> None:
    WRITERS[version](tmp_path / "m.mat", **{key: mask(3).astype(np.uint8) * 2})
    assert is_version_73(tmp_path / "m.mat") == (version == "7.3")
    read = read_mask(tmp_path / "m.mat")
    assert read.dtype == bool and np.array_equal(read, mask(3))


def test_the_mask_is_found_among_other_variables(tmp_path: Path) -> None:
    write_mat(tmp_path / "m.mat", A=np.ones((2, 2)), eyeMap=mask(1).astype(np.uint8), note="x")
    assert np.array_equal(read_mask(tmp_path / "m.mat"), mask(1))
    write_mat(tmp_path / "n.mat", A=np.ones((2, 2)), B=np.ones((2, 2)))
    with pytest.raises(ValueError, match="expected a matrix I or eyeMap, found A, B"):
        read_mask(tmp_path / "n.mat")


@pytest.mark.parametrize("version", WRITERS)
def test_struct_fields_are_read(tmp_path: Path, version: str) -> None:
    rows = np.arange(10.0).reshape(2, 5)
    WRITERS[version](tmp_path / "d.mat", Data={"fixdata": rows, "VideoFrameRate": 25.0})
    assert np.array_equal(read_field(tmp_path / "d.mat", "Data", "fixdata"), rows)
    assert read_field(tmp_path / "d.mat", "Data", "VideoFrameRate").item() == 25
    with pytest.raises(ValueError, match="no Data.VideoSize"):
        read_field(tmp_path / "d.mat", "Data", "VideoSize")


def test_names_are_read(tmp_path: Path) -> None:
    names = ["animal_bear01", "b", "clip 3"]
    write_mat73(tmp_path / "a.mat", VideoNameList=names)
    write_mat(tmp_path / "b.mat", VideoNameList=np.array(names, dtype=object).reshape(-1, 1))
    write_mat(tmp_path / "c.mat", number=np.ones((2, 2)))
    assert read_names(tmp_path / "a.mat") == read_names(tmp_path / "b.mat") == names
    with pytest.raises(ValueError, match="no list of names"):
        read_names(tmp_path / "c.mat")


@pytest.mark.parametrize(
    ("writer", "module", "message"),
    [
        (
            write_mat73,
            "h5py",
            r"version 7\.3, which needs h5py: .* pip install 'video-saliency\[data\]'",
        ),
        (write_mat, "scipy.io", r"needs SciPy: .* pip install 'video-saliency\[data\]'"),
    ],
)
def test_a_missing_package_is_named(tmp_path: Path, monkeypatch, writer, module: str, message: str) -> None:
    writer(tmp_path / "m.mat", I=np.ones((2, 2)))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingPackageError, match=message) as caught:
        read_mask(tmp_path / "m.mat")
    assert isinstance(caught.value, ImportError) and isinstance(caught.value, ValueError)


@pytest.mark.parametrize("version", WRITERS)
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_damaged_files_are_refused(tmp_path: Path, version: str, keep: float) -> None:
    WRITERS[version](tmp_path / "m.mat", I=np.random.default_rng(0).integers(0, 2, (40, 40)))
    data = (tmp_path / "m.mat").read_bytes()
    (tmp_path / "m.mat").write_bytes(data[: int(keep * len(data))])
    with pytest.raises(ValueError, match=r"m\.mat is a damaged MATLAB file"):
        read_mask(tmp_path / "m.mat")
