# SPDX-License-Identifier: Apache-2.0
"""Data without what a loss or a score needs are refused before anything is trained."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from training_factory import clips, losses, run, tiny_arguments

from video_saliency import GFSalNetConfig
from video_saliency.data import open_dataset
from video_saliency.training.training_arguments import ValidationArguments
from video_saliency.training.truth_checks import check_selection, check_truth


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clips(tmp_path_factory.mktemp("data"))


def parts(data: Path, root: Path, *names: str) -> list[dict[str, str]]:
    """A data set with only these folders of the clips."""
    for name in ("frames", *names):
        shutil.copytree(data / name, root / name)
    return [{"dataset": "folder", "root": str(root)}]


def refused(message: str, home: Path, output: Path, /, **changes) -> None:
    with pytest.raises(ValueError, match=message):
        run(tiny_arguments(home, **changes), output)
    assert not list(output.glob("*"))  # the folder belongs to no run


@pytest.mark.parametrize("sigma", [None, 0.05])
def test_frames_alone_teach_nothing(data, tmp_path, sigma):
    train = parts(data, tmp_path / "plain")
    refused(
        "neither maps nor fixations of its 5 clips",
        data,
        tmp_path / "run",
        data={"train": train, "density_sigma": sigma},
    )


def test_a_single_clip_without_truth_is_named(data, tmp_path):
    train = parts(data, tmp_path / "some", "maps")
    shutil.rmtree(tmp_path / "some" / "maps" / "clip_2")
    refused(r"folder \(clip_2\): there are neither", data, tmp_path / "run", data={"train": train})
    (tmp_path / "some" / "maps" / "clip_2").mkdir()
    refused(r"folder \(clip_2\): there are neither", data, tmp_path / "run", data={"train": train})


@pytest.mark.parametrize("sigma", [None, 0.03])
def test_a_folder_of_fixations_alone_has_maps_made_of_them(data, tmp_path, sigma):
    train = parts(data, tmp_path / "points", "fixations")
    run(tiny_arguments(data, data={"train": train, "density_sigma": sigma}, loop={"steps": 1}), tmp_path / "run")
    assert losses(tmp_path / "run")[1] > 0.1


def test_other_fixations_alone_need_a_width_of_their_maps(data):
    items = [replace(item, density_files=None) for item in open_dataset("folder", data)]
    plain, nss_alone = GFSalNetConfig(), GFSalNetConfig(kl_loss_weight=0.0, nss_loss_weight=1.0)
    with pytest.raises(ValueError, match=r"folder \(clip_1.*\): there are fixations but no maps.*density_sigma=0.03"):
        check_truth(items, plain, density_sigma=None)
    check_truth(items, plain, density_sigma=0.03)
    check_truth(items, nss_alone, density_sigma=None)
    by_cc, by_loss = ValidationArguments(select_by="cc"), ValidationArguments(select_by="loss")
    with pytest.raises(ValueError, match=r"folder \(clip_1.*no maps, so validation.select_by=cc has no score"):
        check_selection(items, plain, by_cc, density_sigma=None)
    with pytest.raises(ValueError, match="fixations but no maps"):
        check_selection(items, plain, by_loss, density_sigma=None)
    check_selection(items, plain, by_loss, density_sigma=0.03)


def test_maps_alone_are_no_fixations(data, tmp_path):
    train = parts(data, tmp_path / "maps only", "maps")
    refused("no fixations, and data.density_sigma", data, tmp_path / "a", data={"train": train, "density_sigma": 0.03})
    nss_alone = {"kl_loss_weight": 0.0, "cc_loss_weight": 0.0, "nss_loss_weight": 1.0}
    refused("no fixations, and the loss", data, tmp_path / "b", data={"train": train}, model={"config": nss_alone})


@pytest.mark.parametrize(
    ("folders", "select_by", "message"),
    [
        ((), "cc", "neither maps nor fixations of its 5 clips"),
        (("maps",), "nss", "no fixations, so validation.select_by=nss"),
        ((), "loss", "neither maps nor fixations of its 5 clips"),
    ],
)
def test_validation_data_must_give_the_score_that_selects(data, tmp_path, folders, select_by, message):
    validation = parts(data, tmp_path / "validation", *folders)
    changes = {"data": {"validation": validation}, "validation": {"select_by": select_by, "patience": 2}}
    refused(message, data, tmp_path / "run", **changes)


def test_validation_data_with_maps_alone_select_by_cc(data, tmp_path):
    validation = parts(data, tmp_path / "validation", "maps")
    arguments = tiny_arguments(data, data={"validation": validation, "validation_windows": 1}, loop={"steps": 1})
    trainer = run(arguments, tmp_path / "run")
    assert trainer.state.best[0][0] == trainer.state.scores["cc"]
