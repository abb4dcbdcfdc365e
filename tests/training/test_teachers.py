# SPDX-License-Identifier: Apache-2.0
"""Maps of finished models as a part of the truth."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from training_factory import losses, run, tiny_arguments

from video_saliency.training.teachers import Teachers, mix_densities
from video_saliency.training.training_model import build_model

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def teachers(data, tmp_path_factory):
    """Folders of two models of different seeds."""
    folders = []
    for seed in (1, 2):
        arguments = tiny_arguments(data, loop={"seed": seed})
        folders.append(str(tmp_path_factory.mktemp(f"teacher{seed}")))
        build_model(arguments, Path(folders[-1])).save(Path(folders[-1]))
    return folders


def test_densities_are_mixed_by_their_share():
    truth, maps = torch.rand(2, 1, 4, 6), torch.rand(3, 2, 1, 4, 6)
    densities = [(entry / entry.sum(dim=(-2, -1), keepdim=True)) for entry in maps]
    expected = 0.75 * truth / truth.sum(dim=(-2, -1), keepdim=True) + 0.25 * sum(densities) / 3
    torch.testing.assert_close(mix_densities(truth, maps, 0.25), expected)


def test_teachers_change_labels_but_not_their_sum(data, teachers, tmp_path):
    training = build_model(tiny_arguments(data), tmp_path)
    inputs = {"pixel_values_videos": torch.randn(2, 2, 3, 32, 48), "saliency_labels": 9 * torch.rand(2, 2, 32, 48)}
    inputs["saliency_labels"][1, 1] = 0  # nobody looked: nothing is to be learned
    taught = Teachers(teachers, 1.0, training, CPU).teach(inputs)
    labels, truth = taught["saliency_labels"], inputs["saliency_labels"]
    torch.testing.assert_close(labels.sum(dim=(-2, -1)), truth.sum(dim=(-2, -1)))
    assert not labels[1, 1].any() and not labels.requires_grad
    alone = [Teachers([name], 1.0, training, CPU).teach(inputs)["saliency_labels"] for name in teachers]
    assert (alone[0] - alone[1]).abs().max() > 1e-3
    torch.testing.assert_close(labels, (alone[0] + alone[1]) / 2)
    none = Teachers(teachers, 0.0, training, CPU).teach(inputs)["saliency_labels"]
    torch.testing.assert_close(none, truth)
    assert taught["pixel_values_videos"] is inputs["pixel_values_videos"]


def test_a_run_with_teachers_learns_their_maps(data, teachers, tmp_path):
    model = {"teachers": teachers[:1], "teacher_share": 1.0}
    run(tiny_arguments(data, model=model, loop={"steps": 20}), tmp_path / "taught")
    run(tiny_arguments(data, loop={"steps": 20}), tmp_path / "alone")
    taught, alone = losses(tmp_path / "taught"), losses(tmp_path / "alone")
    assert taught[20] < taught[1] and taught[1] != alone[1]


def test_a_teacher_must_see_the_same_frames(data, teachers, tmp_path):
    larger = build_model(tiny_arguments(data, model={"processor": {"size": {"height": 64, "width": 96}}}), tmp_path)
    with pytest.raises(ValueError, match="differs from the trained model in size: a teacher must see the same frames"):
        Teachers(teachers, 0.5, larger, CPU)
    with pytest.raises(ValueError, match="teacher_share must be 0 to 1, got 2"):
        tiny_arguments(data, model={"teacher_share": 2.0})
