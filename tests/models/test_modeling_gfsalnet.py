# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from model_test_base import ModelTests
from safetensors.torch import load_file
from seeded_weights import seeded_input, seeded_state_dict
from torch.utils.flop_counter import FlopCounterMode
from transformers import ResNetConfig, ResNetModel

from video_saliency.backbones.resnet import ResNetTrunk
from video_saliency.losses import saliency_loss
from video_saliency.models.gfsalnet.configuration_gfsalnet import GFSalNetConfig
from video_saliency.models.gfsalnet.modeling_gfsalnet import (
    GFSalNetForVideoSaliency,
    GFSalNetLevelFusion,
    GFSalNetOutput,
    GFSalNetStream,
)
from video_saliency.optical_flow import flow_to_image

GOLDEN = Path(__file__).parent.parent / "golden" / "gfsalnet"

TINY_ENCODER = {"layer_type": "basic", "embedding_size": 4, "hidden_sizes": [4, 6, 8, 10], "depths": [1, 1, 1, 1]}


def tiny_config(**overrides: Any) -> GFSalNetConfig:
    fields = {
        "encoder_config": TINY_ENCODER,
        "main_deconv": [[6, 4, 2, 1], [4, 8, 4, 2]],
        "multi_level_deconv": [[4, 3, 1, 1], [4, 3, 1, 1]],
        "channel_attention_reduction": 1,  # two hidden units may both be dead at the start
        "output_activation": "softplus",
        "centre_prior": True,
        "centre_prior_size": [3, 4],
    }
    return GFSalNetConfig(**{**fields, **overrides})


def tiny_model(seed: int = 0, **overrides: Any) -> GFSalNetForVideoSaliency:
    torch.manual_seed(seed)
    return GFSalNetForVideoSaliency(tiny_config(**overrides)).eval()


class TestGFSalNet(ModelTests):
    model_class = GFSalNetForVideoSaliency

    def tiny_config(self, **overrides: Any) -> GFSalNetConfig:
        return tiny_config(**overrides)

    def inputs(self, batch: int = 2, size: tuple[int, int] | None = None, seed: int = 0) -> dict[str, torch.Tensor]:
        frames = super().inputs(batch, size, seed)["pixel_values_videos"]
        flow_images = super().inputs(batch, size, seed + 1)["pixel_values_videos"]
        return {"pixel_values_videos": frames, "flow_values": flow_images}


class TestGFSalNetAppearance(ModelTests):
    """The compact default's form: one stream."""

    model_class = GFSalNetForVideoSaliency

    def tiny_config(self, **overrides: Any) -> GFSalNetConfig:
        return GFSalNetConfig.compact(**{"encoder_config": TINY_ENCODER, "streams": "appearance", **overrides})


# the paper's variants; numbers of our reading
@pytest.mark.parametrize(
    ("switches", "parameters"),
    [
        ({}, 74_952_631),
        ({"spatial_attention": False}, 74_948_533),
        ({"channel_attention": False}, 74_943_175),
        ({"spatial_attention": False, "channel_attention": False}, 74_939_077),
        ({"multi_level": False}, 65_907_623),
        ({"fusion": "conv"}, 74_952_631),
        ({"streams": "appearance"}, 37_476_314),
        ({"streams": "motion"}, 37_476_314),
    ],
)
def test_parameters_of_the_papers_variants(switches: dict[str, Any], parameters: int) -> None:
    with torch.device("meta"):
        model = GFSalNetForVideoSaliency(GFSalNetConfig(**switches))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_parameters_of_a_full_streams_blocks_and_sizes_at_640_x_480() -> None:
    with torch.device("meta"):
        stream = GFSalNetStream(GFSalNetConfig()).eval()
        maps, stages = stream(torch.empty(1, 3, 480, 640))
    counts = {name: sum(p.numel() for p in block.parameters()) for name, block in stream.named_children()}
    assert counts == {
        "trunk": 23_508_032,
        "spatial_attention": 2_049,
        "multi_level": 4_130_560,
        "multi_level_deconv": 387_296,
        "main_deconv": 9_437_504,
        "channel_attention": 4_728,
        "head": 6_145,
        "centre_prior": 0,
    }
    assert maps.shape == (1, 480, 640)
    assert [tuple(stage.shape[1:]) for stage in stages] == [
        (256, 120, 160),
        (512, 60, 80),
        (1024, 30, 40),
        (2048, 15, 20),
    ]


def test_compact_is_small() -> None:
    for streams, parameters, gflops in (("both", 5e6, 1.6), ("appearance", 2.5e6, 0.8)):
        with torch.device("meta"):
            model = GFSalNetForVideoSaliency(GFSalNetConfig.compact(streams=streams)).eval()
            with FlopCounterMode(display=False) as counter:
                model(torch.empty(1, 1, 3, 144, 192))
        assert sum(parameter.numel() for parameter in model.parameters()) <= parameters
        assert counter.get_total_flops() <= gflops * 1e9


def test_compact_fields_and_overrides() -> None:
    config = GFSalNetConfig.compact(streams="appearance", window={"num_frames": 4})
    assert (config.output_activation, config.centre_prior, config.flow_pair) == ("softplus", True, "previous")
    assert config.streams == "appearance"
    assert config.window_spec.num_frames == 4
    assert GFSalNetConfig().window_spec.num_frames == 1


def test_config_with_other_values_survives_json(tmp_path: Path) -> None:
    config = tiny_config(fusion="conv", flow_pair="previous", flow_mean=[0.1, 0.2, 0.3], window={"num_frames": 3})
    config.save_pretrained(tmp_path)
    loaded = GFSalNetConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert loaded.encoder_config.hidden_sizes == TINY_ENCODER["hidden_sizes"]
    assert loaded.main_deconv == [[6, 4, 2, 1], [4, 8, 4, 2]]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"streams": "sound"}, "streams must be one of"),
        ({"fusion": "mean"}, "fusion must be one of"),
        ({"flow_pair": "first"}, "flow_pair must be one of"),
        ({"output_activation": "sigmoid"}, "output_activation must be one of"),
        ({"main_deconv": [[4, 4, 2, 1]]}, "must be 32"),
        ({"multi_level_deconv": [[4, 4, 2, 1]]}, "must be 4"),
        ({"main_deconv": [[4, 3, 2, 1], [4, 8, 4, 2]]}, "kernel - 2 \\* padding"),
        ({"head_deconv": [[2, 8, 4, 2]]}, "1 channel"),
        ({"head_deconv": []}, "at least one"),
        ({"encoder_config": {**TINY_ENCODER, "hidden_sizes": [4, 6, 8], "depths": [1, 1, 1]}}, "four stages"),
        ({"encoder_config": {**TINY_ENCODER, "downsample_in_first_stage": True}}, "stride 4"),
        ({"centre_prior_size": [3]}, "rows, columns"),
        ({"centre_exponent": -0.5}, "centre_exponent must be 0"),
        ({"centre_exponent": math.nan}, "centre_exponent must be 0"),
        ({"channel_attention_reduction": 0}, "at least 1"),
        ({"flow_std": [0.0, 1.0, 1.0]}, "above 0"),
        ({"flow_std": [math.nan, 1.0, 1.0]}, "above 0"),
        ({"flow_mean": [0.5, math.inf, 0.5]}, "finite"),
        ({"flow_max_magnitude": math.nan}, "flow_max_magnitude must be above 0"),
        ({"flow_min_magnitude": math.nan}, "flow_min_magnitude at least 0"),
        ({"centre_prior_size": [1.5, 2]}, "rows, columns"),
        ({"main_deconv": [[6.5, 4, 2, 1], [4, 8, 4, 2]]}, "whole numbers"),
        ({"kl_loss_weight": -1.0}, "kl_loss_weight must be a finite number of at least 0, got -1.0"),
        ({"nss_loss_weight": math.nan}, "nss_loss_weight must be a finite number"),
        ({"cc_loss_weight": math.inf}, "cc_loss_weight must be a finite number"),
        ({"window": {"frames": 3}}, "WindowSpec"),
        ({"window": {"num_frames": 0}}, "num_frames"),
    ],
)
def test_config_refuses(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_config(**fields)


def test_config_checks_types() -> None:
    with pytest.raises(Exception, match="spatial_attention"):
        GFSalNetConfig(spatial_attention="no")


# other sizes that obey the stride rules, as a released checkpoint might have them
@pytest.mark.parametrize(
    "deconvolutions",
    [
        {
            "main_deconv": [[6, 8, 4, 2], [4, 8, 4, 2]],
            "multi_level_deconv": [[4, 4, 2, 1]],
            "head_deconv": [[1, 4, 2, 1]],
        },
        {
            "main_deconv": [[6, 16, 8, 4], [4, 8, 4, 2]],
            "multi_level_deconv": [[4, 4, 2, 1], [4, 4, 2, 1]],
            "head_deconv": [[1, 3, 1, 1]],
        },
        {"multi_level": False, "main_deconv": [[4, 4, 4, 0]], "head_deconv": [[4, 4, 2, 1], [1, 8, 4, 2]]},
    ],
)
@pytest.mark.parametrize("size", [(64, 96), (45, 70)])
def test_other_deconvolutions(deconvolutions: dict[str, Any], size: tuple[int, int]) -> None:
    model = tiny_model(streams="appearance", **deconvolutions)
    with torch.no_grad():
        assert model(torch.randn(1, 1, 3, *size)).saliency_maps.shape == (1, 1, *size)


@pytest.mark.parametrize(
    "switches",
    [
        {"spatial_attention": False},
        {"channel_attention": False},
        {"multi_level": False},
        {"output_activation": "relu"},
        {"centre_prior": False},
    ],
)
def test_each_switch_changes_the_maps_of_the_same_weights(switches: dict[str, Any]) -> None:
    frames = torch.randn(1, 2, 3, 32, 48)
    model, other = tiny_model(streams="appearance"), tiny_model(streams="appearance", **switches)
    with torch.no_grad():
        model.streams["appearance"].centre_prior.weight.fill_(0.5)
        shapes = {name: value.shape for name, value in other.state_dict().items()}
        shared = {name: value for name, value in model.state_dict().items() if shapes.get(name) == value.shape}
        other.load_state_dict(shared, strict=False)  # what the switch adds or removes differs
        maps, other_maps = model(frames).saliency_maps, other(frames).saliency_maps
    assert other_maps.isfinite().all() and (other_maps >= 0).all()
    assert not torch.allclose(maps, other_maps, rtol=1e-3)


def test_gate_weighs_the_two_streams() -> None:
    model = tiny_model()
    frames, flow_images = torch.randn(2, 1, 3, 3, 32, 48)
    with torch.no_grad():
        outputs = model(frames, flow_images)
        torch.testing.assert_close(outputs.saliency_maps, (outputs.appearance_maps + outputs.motion_maps) / 2)
        model.fusion.projection.weight.copy_(torch.tensor([3.0, -2.0]).reshape(1, 2, 1, 1))
        outputs = model(frames, flow_images)
    gate = outputs.gate_maps
    assert gate.shape == (1, 3, 32, 48)
    assert (gate >= 0).all() and (gate <= 1).all() and gate.std() > 0
    torch.testing.assert_close(gate, torch.sigmoid(3 * outputs.appearance_maps - 2 * outputs.motion_maps))
    torch.testing.assert_close(
        outputs.saliency_maps, gate * outputs.appearance_maps + (1 - gate) * outputs.motion_maps
    )


def test_static_fusion_starts_as_the_mean_and_has_no_gate() -> None:
    with torch.no_grad():
        outputs = tiny_model(fusion="conv")(torch.randn(1, 2, 3, 32, 48))
    assert outputs.gate_maps is None
    torch.testing.assert_close(outputs.saliency_maps, (outputs.appearance_maps + outputs.motion_maps) / 2)


def test_one_stream_gives_its_own_map() -> None:
    images = torch.randn(1, 2, 3, 32, 48)
    with torch.no_grad():
        appearance = tiny_model(streams="appearance")(images)
        motion = tiny_model(streams="motion")(flow_values=images)
    assert isinstance(appearance, GFSalNetOutput)
    assert torch.equal(appearance.saliency_maps, appearance.appearance_maps)
    assert appearance.motion_maps is None and appearance.gate_maps is None
    assert torch.equal(motion.saliency_maps, motion.motion_maps)
    assert motion.appearance_maps is None
    # same seed, same structure: only the input decides
    torch.testing.assert_close(appearance.saliency_maps, motion.saliency_maps)


def test_frames_do_not_see_each_other() -> None:
    model, frames = tiny_model(), torch.randn(1, 3, 3, 32, 48)
    with torch.no_grad():
        clip = model(frames).saliency_maps
        singles = torch.cat([model(frames[:, i : i + 1]).saliency_maps for i in range(3)], dim=1)
    torch.testing.assert_close(clip, singles)


def test_missing_flow_means_a_white_image() -> None:
    model = tiny_model(flow_mean=[0.2, 0.4, 0.6], flow_std=[0.1, 0.2, 0.5])
    frames = torch.randn(1, 2, 3, 32, 48)
    white = (torch.ones(3) - torch.tensor([0.2, 0.4, 0.6])) / torch.tensor([0.1, 0.2, 0.5])
    with torch.no_grad():
        without = model(frames)
        with_white = model(frames, white[:, None, None].expand_as(frames))
    torch.testing.assert_close(without.motion_maps, with_white.motion_maps, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(without.saliency_maps, with_white.saliency_maps, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("streams", "inputs", "message"),
    [
        ("appearance", {"pixel_values_videos": (1, 1, 3, 8, 8), "flow_values": (1, 1, 3, 8, 8)}, "no motion stream"),
        ("motion", {}, "takes flow_values"),
        ("both", {"flow_values": (1, 1, 3, 8, 8)}, "pixel_values_videos is missing"),
        ("both", {"pixel_values_videos": (1, 1, 3, 8, 8), "flow_values": (1, 2, 3, 8, 8)}, "must have the shape"),
        ("both", {"pixel_values_videos": (1, 3, 8, 8)}, "batch, frames, 3, height, width"),
        ("both", {"pixel_values_videos": (1, 1, 8, 8, 3)}, "batch, frames, 3, height, width"),
        ("both", {"pixel_values_videos": (1, 1, 3, 8, 8), "fixation_labels": (1, 1, 8, 8)}, "need saliency_labels"),
        ("both", {"pixel_values_videos": (1, 1, 3, 8, 8), "saliency_labels": (1, 1, 4, 4)}, "size of the maps"),
    ],
)
def test_forward_refuses(streams: str, inputs: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_model(streams=streams)(**{name: torch.zeros(shape) for name, shape in inputs.items()})


def test_loss_uses_the_weights_of_the_config() -> None:
    model = tiny_model(kl_loss_weight=0.5, nss_loss_weight=0.2, cc_loss_weight=0.3)
    frames, densities = torch.randn(1, 2, 3, 32, 48), torch.rand(1, 2, 32, 48)
    fixations = (densities > 0.9).float()
    with torch.no_grad():
        outputs = model(frames, saliency_labels=densities, fixation_labels=fixations)
        without_fixations = model(frames, saliency_labels=densities)
    weights = {"kl_weight": 0.5, "nss_weight": 0.2, "cc_weight": 0.3}
    assert torch.equal(outputs.loss, saliency_loss(outputs.saliency_maps, densities, fixations, **weights))
    assert torch.equal(without_fixations.loss, saliency_loss(outputs.saliency_maps, densities, **weights))


def test_a_one_stream_checkpoint_starts_both_streams(tmp_path: Path) -> None:
    single = tiny_model(streams="appearance", seed=3)
    single.save_pretrained(tmp_path)
    double = GFSalNetForVideoSaliency.from_pretrained(tmp_path, streams="both").eval()
    images = torch.randn(1, 2, 3, 32, 48)
    with torch.no_grad():
        assert not torch.equal(double(images, images).motion_maps, double(images, images).appearance_maps)
        double.copy_appearance_to_motion()
        outputs = double(images, images)
        torch.testing.assert_close(outputs.motion_maps, outputs.appearance_maps)
        torch.testing.assert_close(outputs.saliency_maps, single(images).saliency_maps)
    streams = double.streams
    pairs = zip(streams["appearance"].parameters(), streams["motion"].parameters(), strict=True)
    assert all(a.data_ptr() != b.data_ptr() for a, b in pairs)
    with pytest.raises(ValueError, match="one stream"):
        single.copy_appearance_to_motion()


@pytest.mark.parametrize("size", [(6, 8), (5, 7)])
def test_level_fusion_equals_enlarging_before_the_convolution(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    fusion = GFSalNetLevelFusion(deep_channels=8, shallow_channels=4)
    deep, shallow = torch.randn(2, 8, 3, 4), torch.randn(2, 4, *size)
    enlarged = F.interpolate(deep, size=size, mode="bilinear", align_corners=False)
    weight = torch.cat([fusion.deep.weight, fusion.shallow.weight], dim=1)
    expected = F.conv2d(torch.cat([enlarged, shallow], dim=1), weight, fusion.shallow.bias)
    torch.testing.assert_close(fusion(deep, shallow), expected)


def test_initial_values_that_keep_the_paper_model_alive() -> None:
    model = tiny_model(output_activation="relu")
    stream = model.streams["appearance"]
    assert (stream.channel_attention.excite.bias == 1).all()
    assert (stream.head.layers[-1].bias == 0.01).all()
    assert not stream.centre_prior.weight.any()
    assert not model.fusion.projection.weight.any() and not model.fusion.projection.bias.any()
    with torch.no_grad():
        assert model(torch.randn(1, 1, 3, 64, 96)).saliency_maps.max() > 0


def test_centre_prior_is_added_before_the_activation() -> None:
    model = tiny_model(streams="appearance")
    frames = torch.randn(1, 1, 3, 45, 70)
    with torch.no_grad():
        before = model(frames).saliency_maps
        model.streams["appearance"].centre_prior.weight.fill_(0.5)
        after = model(frames).saliency_maps
    torch.testing.assert_close(after, F.softplus(before.expm1().log() + 0.5), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("streams", ["both", "appearance"])
def test_maps_are_multiplied_by_a_centred_gaussian(streams: str) -> None:
    model = tiny_model(streams=streams)
    frames = torch.randn(1, 2, 3, 45, 70)
    with torch.no_grad():
        before = model(frames)
        model.config.centre_exponent = 0.5
        after = model(frames)
        half = model.bfloat16()(frames.bfloat16()).saliency_maps
    rows, columns = (((np.arange(side) + 0.5) / side - 0.5) / 0.25 for side in (45, 70))
    gaussian = torch.from_numpy(np.exp(-0.5 * (rows[:, None] ** 2 + columns**2))).float()
    assert gaussian.max() > 0.99 and gaussian.min() < 0.03
    assert half.dtype == torch.bfloat16
    for name in ("saliency_maps", "appearance_maps"):
        torch.testing.assert_close(after[name], before[name] * gaussian.sqrt(), rtol=1e-5, atol=1e-7)
    if streams == "both":
        torch.testing.assert_close(after.motion_maps, before.motion_maps * gaussian.sqrt(), rtol=1e-5, atol=1e-7)
        assert torch.equal(after.gate_maps, before.gate_maps)


def test_trunk_reproduces_resnet50() -> None:
    golden = load_file(GOLDEN / "resnet50.safetensors")
    trunk = ResNetTrunk(ResNetConfig()).eval()
    trunk.load_state_dict(seeded_state_dict(trunk.state_dict()))
    with torch.no_grad():
        stages = trunk(seeded_input("golden_resnet50.pixel_values", (1, 3, 64, 64)))
    steps = {"stage1": 32, "stage2": 32, "stage3": 32, "stage4": 8}  # stored is every n-th channel only
    for (name, step), stage in zip(steps.items(), stages, strict=True):
        torch.testing.assert_close(stage[:, ::step], golden[name], atol=1e-4, rtol=1e-4)


def test_trunk_has_the_parameter_names_of_transformers() -> None:
    with torch.device("meta"):
        assert list(ResNetTrunk(ResNetConfig()).state_dict()) == list(ResNetModel(ResNetConfig()).state_dict())


PAPER_VARIANTS = [
    {},
    {"spatial_attention": False},
    {"channel_attention": False},
    {"spatial_attention": False, "channel_attention": False},
    {"multi_level": False},
    {"fusion": "conv"},
    {"streams": "appearance"},
    {"streams": "motion"},
]


@pytest.mark.parametrize("switches", PAPER_VARIANTS, ids=str)
def test_each_variant_of_the_paper_learns_at_a_size_that_is_no_multiple_of_32(switches: dict[str, Any]) -> None:
    """The paper's own form, with the ReLU that can die; see `test_parameters_of_the_papers_variants`."""
    torch.manual_seed(2)
    wide = [[8, 4, 2, 1], [12, 8, 4, 2]]  # so that not all units of an attention are dead by chance
    config = tiny_config(output_activation="relu", centre_prior=False, main_deconv=wide, **switches)
    model = GFSalNetForVideoSaliency(config).train()
    frames, flow_images = torch.randn(2, 2, 2, 3, 45, 70)
    densities = torch.rand(2, 2, 45, 70) ** 4
    inputs = {"pixel_values_videos": frames, "flow_values": flow_images}
    if config.streams != "both":
        inputs.pop("flow_values" if config.streams == "appearance" else "pixel_values_videos")
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for step in range(5):
        outputs = model(**inputs, saliency_labels=densities, fixation_labels=(densities > 0.8).float())
        assert outputs.saliency_maps.shape == (2, 2, 45, 70)
        optimizer.zero_grad()
        outputs.loss.backward()
        if step == 0:
            gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
            assert [name for name, gradient in gradients.items() if gradient is None or not gradient.any()] == []
        optimizer.step()
        losses.append(outputs.loss.item())
    assert losses[-1] < 0.95 * losses[0]


@pytest.mark.parametrize("backend", ["pwcnet", "dis", None])
def test_only_lucas_kanade_can_remove_the_camera(backend: str | None) -> None:
    with pytest.raises(ValueError, match="flow_remove_camera is for flow_backend='lucas_kanade' only"):
        tiny_config(flow_backend=backend, flow_remove_camera=True)
    assert not GFSalNetConfig.compact(flow_backend=backend).flow_remove_camera
    assert GFSalNetConfig.compact().flow_remove_camera


def test_pwcnet_belongs_to_the_model_and_stays_frozen(tmp_path: Path) -> None:
    model = tiny_model(flow_backend="pwcnet")
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert trained == sum(parameter.numel() for parameter in tiny_model().parameters())
    assert sum(parameter.numel() for parameter in model.flow.parameters()) == 9_374_274
    assert model.train() is model and not model.flow.training and model.streams.training
    before = {name: value.clone() for name, value in model.flow.state_dict().items()}
    frames, densities = torch.randn(1, 2, 3, 32, 48), torch.rand(1, 2, 32, 48)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=0.1)
    model(frames, saliency_labels=densities).loss.backward()
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in model.flow.state_dict().items())
    model.save_pretrained(tmp_path)
    loaded, report = GFSalNetForVideoSaliency.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    assert not any(parameter.requires_grad for parameter in loaded.flow.parameters())
    assert all(parameter.requires_grad for parameter in loaded.streams.parameters())
    with torch.no_grad():
        assert torch.equal(loaded(frames).saliency_maps, model.eval()(frames).saliency_maps)
    assert "flow.context.6.bias" in load_file(tmp_path / "model.safetensors")


def test_without_a_motion_stream_there_is_no_pwcnet() -> None:
    model = tiny_model(streams="appearance", flow_backend="pwcnet")
    assert model.flow is None and not any(name.startswith("flow.") for name in model.state_dict())


def test_missing_pwcnet_weights_are_initialised() -> None:
    model = tiny_model(flow_backend="pwcnet")
    kept = {name: value for name, value in model.state_dict().items() if not name.startswith("flow.")}
    loaded = GFSalNetForVideoSaliency.from_pretrained(None, config=model.config, state_dict=kept)
    for name, value in loaded.flow.state_dict().items():
        assert value.isfinite().all() and bool(value.any()) == name.endswith("weight")


@pytest.mark.parametrize("flow_pair", ["next", "previous"])
def test_flow_of_a_clip_is_that_of_its_pairs(flow_pair: str) -> None:
    model = tiny_model(flow_backend="pwcnet", flow_pair=flow_pair, flow_mean=[0.0] * 3, flow_std=[1.0] * 3)
    frames = (torch.rand(1, 3, 3, 50, 70) * 255).round() / 255
    encoded = [model.encode_for_flow(frame[None]) for frame in frames[0]]
    pairs = [(0, 1), (1, 2), (1, 2)] if flow_pair == "next" else [None, (1, 0), (2, 1)]
    images = torch.stack(
        [
            model.zero_flow_values(frames[0, 0])
            if pair is None
            else model.flow_values_between(encoded[pair[0]], encoded[pair[1]], (50, 70))[0]
            for pair in pairs
        ]
    )
    with torch.no_grad():
        expected, computed = model(frames, images[None]).motion_maps, model(frames).motion_maps
    torch.testing.assert_close(computed, expected, atol=1e-3, rtol=1e-3)


def test_flow_is_encoded_as_the_config_says() -> None:
    model = tiny_model(flow_max_magnitude=4.0, flow_mean=[0.2, 0.4, 0.6], flow_std=[0.1, 0.2, 0.5])
    flow = 3 * torch.randn(2, 3, 2, 8, 10)
    images = flow_to_image(flow, max_magnitude=4.0) / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (model.config.flow_mean, model.config.flow_std))
    torch.testing.assert_close(model.flow_values_from(flow), (images - mean) / std)
    floor = tiny_model(flow_min_magnitude=100.0)
    assert floor.flow_values_from(flow).std() < 0.3 * tiny_model().flow_values_from(flow).std()


def test_dis_is_asked_for_only_when_flow_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    model, frames = tiny_model(flow_backend="dis"), torch.randn(1, 2, 3, 32, 48)
    with torch.no_grad():
        assert model(frames, frames).saliency_maps.isfinite().all()
    with pytest.raises(ValueError, match="pip install opencv-python-headless"):
        model(frames)


def test_dis_flow_reaches_the_motion_stream() -> None:
    pytest.importorskip("cv2")
    model = tiny_model(flow_backend="dis")
    coarse = F.interpolate(torch.rand(1, 3, 12, 16), size=(72, 96), mode="bicubic")[0].clamp(0, 1)
    frames = torch.stack([coarse[:, :64, :80], coarse[:, 2:66, 3:83]])[None] * 2 - 1
    with torch.no_grad():
        moving, still = model(frames), model(frames[:, :1].expand(-1, 2, -1, -1, -1))
    assert not torch.allclose(moving.motion_maps[:, 0], still.motion_maps[:, 0], atol=1e-3)
