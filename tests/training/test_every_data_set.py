# SPDX-License-Identifier: Apache-2.0
"""Training reads each data set by its name."""

from __future__ import annotations

import pytest
from miniature_data_sets import MINIATURES
from training_factory import losses, run, tiny_arguments

from video_saliency.data import DATASETS

SAME_LAYOUT = {"avad": "diem", "coutrot2": "diem", "etmd": "diem", "summe": "diem"}  # by the same reader


def test_every_data_set_with_truth_is_tried():
    assert set(DATASETS) == set(MINIATURES) | set(SAME_LAYOUT) | {"folder"}  # folders are what other tests train on


@pytest.mark.parametrize("name", list(MINIATURES))
def test_training_and_validation_read_it(tmp_path, name):
    make, split = MINIATURES[name]
    make(tmp_path / "data")
    source = {"dataset": name, "split": split, "root": str(tmp_path / "data")}
    arguments = tiny_arguments(
        tmp_path / "others",
        data={"train": [source], "validation": [source], "validation_windows": 1},
        loop={"steps": 2},
        validation={"every": 2, "unit": "steps", "metrics": ["cc", "nss"], "select_by": "cc"},
    )
    trainer = run(arguments, tmp_path / "run")
    assert len(losses(tmp_path / "run")) == 2
    assert set(trainer.state.scores) >= {"cc", "nss"}
