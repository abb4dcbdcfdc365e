# SPDX-License-Identifier: Apache-2.0
"""An exported repository loads and gives equal maps."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import pipeline

from video_saliency.defaults import DEFAULT_MODEL

sys.path.insert(0, str(Path(__file__).parent.parent / "hub_scripts"))

from export_model import main  # noqa: E402


def test_exported_repository_gives_equal_maps(tmp_path, capsys):
    assert main(["--output", str(tmp_path / "repo")]) == 0
    names = {path.name for path in (tmp_path / "repo").iterdir()}
    assert names == {"README.md", "config.json", "model.safetensors", "processor_config.json"}
    printed = capsys.readouterr().out
    assert all(name in printed for name in names)
    clip = np.random.default_rng(0).integers(0, 256, (2, 48, 64, 3), dtype=np.uint8)
    exported, default = (
        pipeline("video-saliency", model=str(folder), device="cpu")(clip)["saliency_maps"]
        for folder in (tmp_path / "repo", DEFAULT_MODEL)
    )
    assert torch.equal(exported, default)


@pytest.mark.parametrize("arguments", [[], ["--model", "/nonexistent-model-folder"]])
def test_wrong_use_is_told(tmp_path, capsys, arguments):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "file").write_text("stays")
    output = tmp_path / ("old" if not arguments else "new")
    assert main(["--output", str(output), *arguments]) == 2
    assert "error: " in capsys.readouterr().err
    assert (tmp_path / "old" / "file").read_text() == "stays"
