# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel, ResNetConfig

from video_saliency.models.auto import AutoModelForVideoSaliency
from video_saliency.models.gfsalnet.configuration_gfsalnet import GFSalNetConfig
from video_saliency.models.gfsalnet.modeling_gfsalnet import GFSalNetForVideoSaliency


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    encoder = {"layer_type": "basic", "embedding_size": 4, "hidden_sizes": [4, 6, 8, 10], "depths": [1, 1, 1, 1]}
    path = tmp_path_factory.mktemp("gfsalnet")
    GFSalNetForVideoSaliency(GFSalNetConfig.compact(encoder_config=encoder, streams="appearance")).save_pretrained(
        path
    )
    return path


def test_config_from_folder(folder: Path) -> None:
    config = AutoConfig.from_pretrained(folder)
    assert isinstance(config, GFSalNetConfig)
    assert config.streams == "appearance"


@pytest.mark.parametrize("auto_class", [AutoModel, AutoModelForVideoSaliency])
def test_model_from_folder_and_config(auto_class: type, folder: Path) -> None:
    model = auto_class.from_pretrained(folder)
    assert type(model) is GFSalNetForVideoSaliency
    expected = GFSalNetForVideoSaliency.from_pretrained(folder).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    assert type(auto_class.from_config(model.config)) is GFSalNetForVideoSaliency


def test_other_models_are_refused() -> None:
    with pytest.raises(ValueError, match="Unrecognized configuration class"):
        AutoModelForVideoSaliency.from_config(ResNetConfig())
