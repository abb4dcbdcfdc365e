# SPDX-License-Identifier: Apache-2.0
"""What sound changes, on maps computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from video_saliency.metrics.functional import cc, kld
from video_saliency.reports.sound_difference import (
    SOUND_COLUMNS,
    SoundCsvWriter,
    SoundDifference,
    sound_difference,
    summarize_sound,
)


def test_equal_maps_on_any_scale_do_not_differ():
    values = np.random.default_rng(0).random((6, 8))
    difference = sound_difference(values, 7 * values)
    assert difference.cc == pytest.approx(1)
    assert difference.kl == pytest.approx(0, abs=1e-12)
    assert difference.total_variation == pytest.approx(0, abs=1e-12)


def test_values_by_hand():
    heard, silent = np.array([[3.0, 1.0]]), np.array([[0.25, 0.75]])
    difference = sound_difference(torch.tensor(heard, dtype=torch.float32), silent)
    assert difference.cc == pytest.approx(-1)
    assert difference.kl == pytest.approx(0.75 * math.log(3) - 0.25 * math.log(3))
    assert difference.total_variation == pytest.approx(0.5)
    assert sound_difference(np.eye(2), np.eye(2)[::-1].copy()).total_variation == 1


def test_direction_of_the_divergence_is_from_sound_to_silence():
    heard, silent = np.random.default_rng(1).random((2, 6, 8))
    difference = sound_difference(heard, silent)
    assert difference.kl == kld(silent, heard) and difference.kl != kld(heard, silent)
    assert difference.cc == cc(heard, silent)


def test_constant_and_empty_maps():
    assert math.isnan(sound_difference(np.ones((2, 2)), np.eye(2)).cc)
    assert sound_difference(np.ones((2, 2)), np.eye(2)).total_variation == 0.5
    assert math.isnan(sound_difference(np.zeros((2, 2)), np.eye(2)).total_variation)


@pytest.mark.parametrize(
    ("heard", "silent"),
    [(np.ones((2, 2)), np.ones((2, 3))), (-np.ones((2, 2)), np.eye(2)), (np.full((2, 2), np.nan), np.eye(2))],
)
def test_wrong_maps_are_refused(heard, silent):
    with pytest.raises(ValueError):
        sound_difference(heard, silent)


def test_table_and_summary(tmp_path):
    path = tmp_path / "sound.csv"
    with SoundCsvWriter(path) as writer:
        writer.write(0, 0.0, SoundDifference(0.5, 0.25, 0.125))
        writer.write(1, 0.04, SoundDifference(math.nan, 0.75, 0.25))
    assert path.read_bytes() == (
        b"frame,time_s,cc,kl,total_variation\n0,0.000000,0.500000,0.250000,0.125000\n1,0.040000,,0.750000,0.250000\n"
    )
    assert path.read_text().startswith(",".join(SOUND_COLUMNS))
    assert summarize_sound(path) == {"frames": 2, "cc": 0.5, "kl": 0.5, "total_variation": 0.1875}


def test_summary_of_nothing(tmp_path):
    with SoundCsvWriter(tmp_path / "sound.csv"):
        pass
    assert summarize_sound(tmp_path / "sound.csv") == {"frames": 0, "cc": None, "kl": None, "total_variation": None}


def test_closed_writer_is_refused(tmp_path):
    with pytest.raises(ValueError, match="with SoundCsvWriter"):
        SoundCsvWriter(tmp_path / "sound.csv").write(0, 0.0, SoundDifference(1, 0, 0))
