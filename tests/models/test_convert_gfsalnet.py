# SPDX-License-Identifier: Apache-2.0
"""Names of published weights and ours, and which sources go with which config."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from pwcnet_weights import GOLDEN, nvidia_checkpoint, pwcnet_checkpoint

from video_saliency.backbones.pwcnet import PWCNetFlow
from video_saliency.models.gfsalnet.convert_gfsalnet import (
    CONVERTER,
    convert_pwcnet,
    convert_resnet,
    make_config,
    pwcnet_name,
    resnet_name,
)

WEIGHT = torch.zeros(1)
FLOW = {"flow.context.0.bias": WEIGHT}


def test_all_resnet50_names():
    names = json.loads((GOLDEN / "resnet50_names.json").read_text())
    assert len(names) == 318
    for torchvision_name, name in names.items():
        assert resnet_name(torchvision_name) == resnet_name(name) == resnet_name(f"resnet.{name}") == name


def test_all_pwcnet_names_in_three_spellings():
    checkpoint = pwcnet_checkpoint()
    converted = convert_pwcnet(checkpoint)
    shapes = {name: value.shape for name, value in PWCNetFlow().state_dict().items()}
    assert {name: value.shape for name, value in converted.items()} == shapes
    respelled = {name.replace("module", "net"): value for name, value in checkpoint.items()}
    nvidia = {name: value for name, value in nvidia_checkpoint().items() if not name.startswith("deconv2")}
    for other in (respelled, nvidia):
        assert not set(other) & set(checkpoint)
        assert {name: id(value) for name, value in convert_pwcnet(other).items()}.keys() == converted.keys()
        assert all(torch.equal(value, converted[name]) for name, value in convert_pwcnet(other).items())


@pytest.mark.parametrize(
    "name",
    [
        "moduleExtractor.moduleTen.0.weight",
        "moduleExtractor.moduleOne.1.weight",
        "moduleOne.moduleOne.0.weight",
        "moduleTwo.moduleSev.0.weight",
        "netRefiner.netMain.0.scale",
        "conv7a.0.weight",
        "conv2_5.0.weight",
        "internet.netTwo",
    ],
)
def test_unknown_names_stay_so_that_they_are_reported(name):
    assert pwcnet_name(name) == name


def test_a_weight_that_is_there_twice_is_refused():
    with pytest.raises(ValueError, match="same weight"):
        convert_resnet({"conv1.weight": WEIGHT, "embedder.embedder.convolution.weight": WEIGHT})


@pytest.mark.parametrize(
    ("fields", "tensors", "backend"),
    [
        (None, {"backbone": {}}, "lucas_kanade"),
        (None, {"backbone": {}, "flow": FLOW}, "pwcnet"),
        (None, {"model": FLOW}, "pwcnet"),
        ({"fusion": "conv"}, {"flow": FLOW}, "pwcnet"),
        ({"flow_backend": "pwcnet"}, {"model": FLOW}, "pwcnet"),
        ({"flow_backend": "dis"}, {"model": {}}, "dis"),
        ({"flow_backend": "pwcnet", "streams": "appearance"}, {"backbone": {}}, "pwcnet"),
    ],
)
def test_the_config_follows_the_sources(fields: dict[str, Any] | None, tensors: dict[str, Any], backend: str) -> None:
    assert make_config(fields, tensors).flow_backend == backend


@pytest.mark.parametrize(
    ("fields", "tensors", "message"),
    [
        ({"flow_backend": "dis"}, {"flow": FLOW}, "no place for PWC-Net's weights"),
        ({"streams": "appearance"}, {"flow": FLOW}, "no place for PWC-Net's weights"),
        ({"flow_backend": None}, {"model": FLOW}, "no place for PWC-Net's weights"),
        ({"flow_backend": "pwcnet"}, {"backbone": {}}, "add flow=FILE"),
        ({"flow_remove_camera": True}, {"flow": FLOW}, "for flow_backend='lucas_kanade' only"),
    ],
)
def test_configs_that_contradict_the_sources_are_refused(
    fields: dict[str, Any], tensors: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_config(fields, tensors)


def test_terms_name_the_non_commercial_licence_where_pwcnet_is_in():
    sources = CONVERTER.sources
    for terms in (sources["flow"].terms({}), sources["model"].terms(FLOW)):
        assert "non-commercial" in terms.text and terms.licence == "cc-by-nc-sa-4.0"
    for terms in (sources["backbone"].terms({}), sources["model"].terms({})):
        assert "non-commercial" not in terms.text and terms.licence is None
