# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_test_base import ModelTests
from safetensors.torch import load_file
from seeded_weights import seeded_input
from torch import nn
from transformers import initialization as init
from visage_reference import TAG, reference_model
from visage_weights import tiny_clip

from video_saliency.losses import visage_loss
from video_saliency.map_io import map_to_uint8
from video_saliency.models.visage.configuration_visage import ViSAGEConfig
from video_saliency.models.visage.modeling_visage import ViSAGEForVideoSaliency, ViSAGEOutput, fuse_experts
from video_saliency.models.visage.modeling_visage_experts import (
    EXPERTS,
    CentreBias,
    ExpertLogits,
    ViSAGEExpert,
    register_expert,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "visage"
LARGE = ("loss", (2, 4, 224, 224), 3.0)  # name, shape and threshold of the reference labels
SMALL = {"reduced_dim": 12, "dim": 8}
TINY = {
    "backbone_dim": 32,
    "backbone_depth": 4,
    "backbone_heads": 2,
    "backbone_drop_path": 0.0,
    "image_size": 28,
    "backbone_table_frames": 2,
    "window": {"num_frames": 3},
    "experts": [
        {"name": "first", "type": "modulated", "options": SMALL},
        {"name": "second", "type": "multiscale", "options": SMALL},
    ],
}


@cache
def golden(name: str) -> torch.Tensor:
    return load_file(GOLDEN / "experts.safetensors")[name]


@cache
def loss_values() -> dict[str, Any]:
    return json.loads((GOLDEN / "losses.json").read_text())


def tiny_config(**overrides: Any) -> ViSAGEConfig:
    return ViSAGEConfig(**{**TINY, **overrides})


def tiny_model(seed: int = 0, **overrides: Any) -> ViSAGEForVideoSaliency:
    """Parameters that start at zero, and hide what comes before them, get other values."""
    torch.manual_seed(seed)
    model = ViSAGEForVideoSaliency(tiny_config(**overrides)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.any() or name.endswith("scale"):
                parameter.normal_(std=0.3)
    return model


def frames_of(count: int) -> torch.Tensor:
    """The reference clips with this many frames as a model takes them."""
    return tiny_clip(count).transpose(1, 2)


class TestViSAGE(ModelTests):
    model_class = ViSAGEForVideoSaliency
    size = (28, 28)
    num_frames = 3
    sizes = [(14, 14), (28, 42), (56, 56)]

    def tiny_config(self, **overrides: Any) -> ViSAGEConfig:
        return tiny_config(**{"freeze_backbone": False, **overrides})

    def model(self, seed: int = 0, **overrides: Any) -> ViSAGEForVideoSaliency:
        return tiny_model(seed, **{"freeze_backbone": False, **overrides})


@cache
def reference_labels(name: str, shape: tuple[int, ...], threshold: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Densities and fixations `(batch, frames, height, width)`; the last frame of the last clip has neither."""
    batch, frames, height, width = shape
    densities = (seeded_input(f"{TAG}.{name}.target", (batch, 1, *shape[1:]))[:, 0] * 0.25 + 0.3).clamp(0, 1)
    points = seeded_input(f"{TAG}.{name}.fix", (batch * frames, 1, height, width)) > threshold
    fixations = nn.functional.max_pool2d(points.float(), 3, stride=1, padding=1).reshape(shape)
    densities[-1, -1] = fixations[-1, -1] = 0
    return densities, fixations


@cache
def reference_run() -> tuple[ViSAGEOutput, dict[str, torch.Tensor]]:
    """Outputs of the reference model for its clips of four frames, and what flows between its modules."""
    model = reference_model()
    seen: dict[str, torch.Tensor] = {}
    modules = dict(model.experts.named_modules())
    for name, module in modules.items():
        if not list(module.children()) or name.count(".") > 1:
            module.register_forward_hook(lambda _, inputs, output, name=name: seen.update({name: output}))
            module.register_forward_pre_hook(lambda _, inputs, name=name: seen.update({f"{name} input": inputs[0]}))
    # with several threads oneDNN takes a convolution whose rounding, 2e-5, is beyond the tolerance; without it: 1.6e-6
    with torch.no_grad(), torch.backends.mkldnn.flags(enabled=False):
        densities, fixations = reference_labels(*LARGE)
        labels = {"saliency_labels": densities, "fixation_labels": fixations}
        outputs = model(frames_of(4), output_auxiliary_maps=True, **labels)
        gate = modules["expert2.temporal_gate"]
        seen["expert2 gate"] = gate.gate(seen["expert2.projections.3"])
    return outputs, seen


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        ("e1.attn_weight", "expert1.modulation.projection input"),
        ("e1.attn_map", "expert1.modulation.projection"),
        ("e1.gamma", "expert1.film_gamma"),
        ("e1.beta", "expert1.film_beta"),
        ("e1.conv17", "expert1.blends.2"),
        ("e1.blend11", "expert1.blends.1"),
        ("e1.blend5", "expert1.blends.0"),
        ("e1.reduced3", "expert1.reducers.3"),
        ("e2.p23_proj", "expert2.projections.3"),
        ("e2.gate", "expert2 gate"),
        ("e2.p23", "expert2.fusions.3"),
        ("e2.p17", "expert2.fusions.2"),
        ("e2.p11", "expert2.fusions.1"),
        ("e2.p5", "expert2.fusions.0"),
        ("e2.refined", "expert2.refinements.1"),
        ("e2.reduced0", "expert2.reducers.0"),
    ],
)
def test_decoders_equal_the_reference(entry: str, name: str) -> None:
    torch.testing.assert_close(reference_run()[1][name], golden(entry), atol=1e-5, rtol=1e-5)


def test_heads_equal_the_reference() -> None:
    seen = reference_run()[1]
    logits = seen["expert1.head.conv2"][:1, :, ::4, ::4]
    torch.testing.assert_close(logits, golden("e1.head_logits"), atol=1e-5, rtol=1e-5)
    activated = nn.functional.gelu(seen["expert2.head.norm1"])
    torch.testing.assert_close(activated, golden("e2.pre_2d"), atol=1e-5, rtol=1e-5)


def test_maps_equal_the_reference() -> None:
    outputs = reference_run()[0]
    assert outputs.expert_maps.shape == (2, 4, 2, 224, 224)
    for index, name in enumerate(("e1", "e2")):
        maps = outputs.expert_maps[:, :, index]
        torch.testing.assert_close(maps[..., ::4, ::4], golden(f"{name}.map")[:, 0], atol=5e-6, rtol=0)
        torch.testing.assert_close(maps[0, 0], golden(f"{name}.map_full_b0t0"), atol=5e-6, rtol=0)
    assert outputs.auxiliary_maps.shape == (2, 4, 3, 224, 224)
    for index, name in enumerate(("p11", "p17", "p23")):
        maps = outputs.auxiliary_maps[:, :, index, ::8, ::8]
        torch.testing.assert_close(maps, golden(f"e2.aux_{name}")[:, 0], atol=5e-6, rtol=0)


@pytest.mark.parametrize(
    ("fusion", "alpha"),
    [("logit", 0.5), ("mean", 0.5), ("max", 0.5), ("hybrid", 0.5), ("logit", 0.3), ("mean", 0.3)],
)
def test_fused_maps_equal_the_reference(fusion: str, alpha: float) -> None:
    maps = reference_run()[0].expert_maps
    _, fused = fuse_experts(maps.logit().unbind(2), (alpha, 1 - alpha), fusion=fusion)
    expected = golden(f"fused.{fusion}_a{round(100 * alpha)}")[:, 0]
    torch.testing.assert_close(fused[..., ::8, ::8], expected, atol=5e-6, rtol=0)
    if (fusion, alpha) == ("logit", 0.5):
        torch.testing.assert_close(reference_run()[0].saliency_maps, fused, atol=5e-6, rtol=0)


def test_challenge_pictures_equal_the_reference() -> None:
    """Of one expert, and of the authors' ensemble of 8-bit pictures."""
    maps = reference_run()[0].expert_maps[0, 0]
    pictures = [map_to_uint8(values.numpy(), quantize="truncate", scale="unit") for values in maps]
    logits = [torch.from_numpy(picture / 255).logit(1e-6) for picture in pictures]
    fused = fuse_experts(logits, (0.5, 0.5))[1]
    fused_picture = map_to_uint8(fused.numpy(), quantize="truncate", scale="unit")
    for picture, name in ((pictures[0], "png.e1_frame0"), (fused_picture, "png.fused_logit_frame0")):
        difference = np.abs(picture[::2, ::2].astype(int) - golden(name).numpy())
        assert difference.max() <= 1 and (difference > 0).mean() < 0.002


def test_six_frames_equal_the_reference() -> None:
    with torch.no_grad():
        maps = reference_model()(frames_of(6)).expert_maps
    for index, name in enumerate(("e1_t6.map", "e2_t6.map")):
        torch.testing.assert_close(maps[:, :, index, ::8, ::8], golden(name)[:, 0], atol=5e-6, rtol=0)


def test_large_layer_scales_equal_the_reference() -> None:
    model = reference_model(gain=1.0, active_experts=["expert1"])
    with torch.no_grad():
        maps = model(frames_of(4)[:1]).saliency_maps
    torch.testing.assert_close(maps[..., ::8, ::8], golden("gain.e1.map")[:, 0], atol=5e-5, rtol=0)


def test_half_precision_backbone_equals_the_reference(tmp_path: Path) -> None:
    reference_model(active_experts=["expert1"]).save_pretrained(tmp_path)
    model = ViSAGEForVideoSaliency.from_pretrained(tmp_path, dtype="bfloat16")
    with torch.no_grad():
        maps = model(frames_of(4)[:1]).saliency_maps
        coarse = reference_model(active_experts=["expert1"])(frames_of(4)[:1]).saliency_maps
    distance = (maps[..., ::8, ::8] - golden("bf16.e1.map")[:, 0]).abs().max()
    assert distance < 1e-3  # half precision itself costs 1.5e-3
    assert (maps - coarse).abs().max() > 1e-4


@pytest.mark.parametrize("film", [True, False])
def test_first_decoder_equals_the_reference(film: bool) -> None:
    expert = reference_model().experts["expert1"]
    gamma, beta = (0.3 * seeded_input(f"{TAG}.dec.{name}", (1, 16)) for name in ("gamma", "beta"))
    with torch.no_grad():
        maps = expert.decode(pyramid(), (gamma, beta) if film else None, (224, 224)).sigmoid()
    expected = golden("dec1.map" if film else "dec1.map_nofilm")[:, 0]
    torch.testing.assert_close(maps[..., ::8, ::8], expected, atol=5e-6, rtol=0)


def test_second_decoder_equals_the_reference() -> None:
    expert = reference_model().experts["expert2"]
    with torch.no_grad():
        outputs = expert.decode(pyramid(), (56, 84), auxiliary=True)
    torch.testing.assert_close(outputs.maps.sigmoid(), golden("dec2.map_56x84")[:, 0], atol=5e-6, rtol=0)
    deepest = outputs.auxiliary[-1].sigmoid()[..., ::2, ::2]
    torch.testing.assert_close(deepest, golden("dec2.aux_p23_56x84")[:, 0], atol=5e-6, rtol=0)


def pyramid() -> list[torch.Tensor]:
    sizes = [(8, 12), (8, 12), (4, 6), (4, 6)]
    return [seeded_input(f"{TAG}.dec.f{level}", (1, 32, 3, *size)) for level, size in enumerate(sizes)]


def test_centre_bias_equals_the_reference() -> None:
    bias = CentreBias()
    assert not bias.bias(5, 7).any()
    with torch.no_grad():
        for name, value in {"x": 0.1, "y": -0.2, "sigma": 0.5, "weight": 0.7}.items():
            getattr(bias, name).fill_(value)
        torch.testing.assert_close(bias.bias(56, 84), golden("center_bias.plain_56x84"), atol=1e-6, rtol=0)
        seeded = reference_model().experts["expert1"].centre_bias.bias(224, 224)[::4, ::4]
    torch.testing.assert_close(seeded, golden("e1.center_bias"), atol=1e-5, rtol=1e-5)


TERMS = {"kl_weight": 0.0, "cc_weight": 0.0, "sim_weight": 0.0, "bce_weight": 0.0, "nss_weight": 0.0}


@pytest.mark.parametrize("expert", [0, 1])
def test_losses_equal_the_reference(expert: int) -> None:
    maps = reference_run()[0].expert_maps[:, :, expert]
    densities, fixations = reference_labels(*LARGE)
    expected = loss_values()["loss_224"]
    assert densities.mean().item() == pytest.approx(expected["target_mean"], rel=1e-5)
    assert fixations.sum().item() == expected["fix_sum"]
    expected = expected[f"e{expert + 1}"]
    for term in ("kl", "cc", "sim", "bce", "nss"):
        value = visage_loss(maps, densities, fixations, **{**TERMS, f"{term}_weight": 1.0})
        assert value.item() == pytest.approx(expected[term], rel=2e-5, abs=1e-6)
    unweighted = visage_loss(maps, densities, **{**TERMS, "bce_weight": 1.0})
    assert unweighted.item() == pytest.approx(expected["bce_unweighted"], rel=2e-5)
    assert visage_loss(maps, densities, fixations).item() == pytest.approx(expected["total_default"], rel=2e-5)
    without = visage_loss(maps, densities)
    assert without.item() == pytest.approx(expected["total_default_no_fixations"], rel=2e-5)


def test_the_models_loss_equals_the_reference() -> None:
    expected = loss_values()["loss_224"]
    total = expected["e1"]["total_default"] + expected["e2_stage1_total"]
    assert reference_run()[0].loss.item() == pytest.approx(total, rel=2e-5)


def test_auxiliary_maps_take_part_in_the_loss_where_the_config_says_so() -> None:
    model, densities = tiny_model(), torch.rand(1, 3, 28, 28)
    inputs = {"pixel_values_videos": torch.randn(1, 3, 3, 28, 28), "saliency_labels": densities}
    with torch.no_grad():
        with_all = model(**inputs, output_auxiliary_maps=True)
        model.config.auxiliary_losses = False
        without = model(**inputs)
    assert without.auxiliary_maps is None
    main = sum(visage_loss(maps, densities) for maps in with_all.expert_maps.unbind(2))
    torch.testing.assert_close(without.loss, main)
    terms = [visage_loss(maps, densities, bce_weight=0.0) for maps in with_all.auxiliary_maps.unbind(2)]
    further = sum(weight * term for weight, term in zip((0.2, 0.15, 0.1), terms, strict=True))
    torch.testing.assert_close(with_all.loss, main + further)


def test_auxiliary_losses_equal_the_reference() -> None:
    maps, (densities, _) = reference_run()[0].auxiliary_maps, reference_labels(*LARGE)
    for index, name in enumerate(("p11", "p17", "p23")):
        value = visage_loss(maps[:, :, index], densities, bce_weight=0.0).item()
        assert value == pytest.approx(loss_values()["loss_224"]["e2_aux_dense_only"][name], rel=2e-5)


@pytest.mark.parametrize(("nss_weight", "entry"), [(0.0, "grad_total"), (1.0, "grad_total_nss1")])
def test_gradients_of_the_loss_equal_the_reference(nss_weight: float, entry: str) -> None:
    expected = loss_values()["loss_small"]
    maps = seeded_input(f"{TAG}.loss_small.pred", (2, 1, 3, 24, 32))[:, 0].sigmoid().requires_grad_()
    densities, fixations = reference_labels("loss_small", (2, 3, 24, 32), 2.0)
    loss = visage_loss(maps, densities, fixations, nss_weight=nss_weight)
    loss.backward()
    assert loss.item() == pytest.approx(expected["total_default"] + nss_weight * expected["nss"], rel=2e-5)
    assert visage_loss(maps, densities, bce_weight=0.0).item() == pytest.approx(expected["e2_dense_only"], rel=2e-5)
    torch.testing.assert_close(maps.grad, golden(f"loss_small.{entry}")[:, 0], atol=1e-7, rtol=1e-4)


def test_loss_works_under_autocast_and_checks_shapes() -> None:
    maps, densities = torch.rand(2, 3, 8, 9), torch.rand(2, 3, 8, 9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = visage_loss(maps, densities)
    assert loss.dtype == torch.float32 and loss.isfinite()
    with pytest.raises(ValueError, match="bring labels to the size of the maps first"):
        visage_loss(maps, densities[..., :8])


def test_fusion_of_extreme_maps_stays_finite() -> None:
    certain, opposed = torch.full((2, 2), 1e4), torch.full((2, 2), -1e4)
    logits, maps = fuse_experts([certain, opposed, opposed], (1, 1, 2), epsilon=1e-6)
    bound = math.log((1 - 1e-6) / 1e-6)
    torch.testing.assert_close(logits, torch.full((2, 2), -bound / 2))
    torch.testing.assert_close(maps, logits.sigmoid())
    for fusion, expected in (("mean", 0.25), ("max", 1.0), ("hybrid", 0.25)):
        logits, maps = fuse_experts([certain, opposed, opposed], (1, 1, 2), fusion=fusion)
        assert logits.isfinite().all() and torch.equal(maps, torch.full((2, 2), expected))
    assert fuse_experts([certain, opposed], (1, 1), fusion="hybrid")[1][0, 0] == 1  # the mean is above 0.4
    with pytest.raises(ValueError, match="fusion must be"):
        fuse_experts([certain], (1,), fusion="median")


@pytest.mark.parametrize("fusion", ["logit", "mean", "max", "hybrid"])
def test_fused_logits_are_those_of_the_maps(fusion: str) -> None:
    with torch.no_grad():
        outputs = tiny_model(fusion=fusion, fusion_weights=[0.3, 0.7])(torch.randn(1, 3, 3, 28, 28))
    torch.testing.assert_close(outputs.logits.sigmoid(), outputs.saliency_maps)
    assert outputs.saliency_maps.dtype == outputs.expert_maps.dtype == torch.float32


ABLATIONS = {
    "expert 1 without centre bias": ("modulated", {"centre_bias": False}, {"centre_bias"}),
    "expert 1 without FiLM": ("modulated", {"film": False}, {"film_gamma", "film_beta"}),
    "expert 1 without temporal modulation": ("modulated", {"temporal_modulation": False}, {"modulation"}),
    "expert 2 without temporal gate": ("multiscale", {"temporal_gate": False}, {"temporal_gate"}),
    "expert 2 without auxiliary heads": ("multiscale", {"auxiliary_loss_weights": []}, {"auxiliary_heads"}),
}


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablations_of_the_paper_can_be_trained(name: str) -> None:
    kind, options, parts = ABLATIONS[name]
    full = {key.split(".")[2] for key in tiny_model().state_dict() if key.startswith(f"experts.{_tiny_name(kind)}")}
    entry = {"name": "only", "type": kind, "options": {**SMALL, **options}}
    model = tiny_model(experts=[entry]).train()
    assert full - {key.split(".")[2] for key in model.state_dict() if key.startswith("experts.")} == parts
    outputs = model(torch.randn(2, 3, 3, 28, 28), saliency_labels=torch.rand(2, 3, 28, 28))
    outputs.loss.backward()
    without = [key for key, value in model.experts.named_parameters() if value.grad is None or not value.grad.any()]
    assert without == []
    assert outputs.saliency_maps.shape == (2, 3, 28, 28) and outputs.expert_maps.shape[2] == 1


def _tiny_name(kind: str) -> str:
    return next(entry["name"] for entry in TINY["experts"] if entry["type"] == kind)


def test_one_expert_alone_and_weights_of_all() -> None:
    model, frames = tiny_model(fusion_weights=[0.2, 0.8]), torch.randn(1, 3, 3, 28, 28)
    with torch.no_grad():
        both = model(frames)
        model.config.active_experts = ["second"]
        alone = model(frames)
    assert torch.equal(alone.saliency_maps, both.expert_maps[:, :, 1])
    assert torch.equal(alone.expert_maps, both.expert_maps[:, :, 1:])
    expected = fuse_experts(both.expert_maps.logit().unbind(2), (0.2, 0.8))[1]
    torch.testing.assert_close(both.saliency_maps, expected)


def test_experts_without_adapters_share_one_pass() -> None:
    model, passes = tiny_model(), []
    model.backbone.register_forward_hook(lambda *_: passes.append(1))
    with torch.no_grad():
        outputs = model(torch.randn(1, 3, 3, 28, 28), output_hidden_states=True)
    assert passes == [1] and len(outputs.hidden_states) == 4
    assert outputs.hidden_states[0].shape == (1, 32, 3, 2, 2)


def test_attention_written_out_gives_the_same(tmp_path: Path) -> None:
    model, frames = tiny_model(), torch.randn(1, 3, 3, 28, 28)
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        for name in ("sdpa", "eager"):
            loaded = ViSAGEForVideoSaliency.from_pretrained(tmp_path, attn_implementation=name)
            assert loaded.config._attn_implementation == name
            torch.testing.assert_close(loaded(frames).saliency_maps, model(frames).saliency_maps)


def test_maps_of_any_size_from_config_or_call() -> None:
    model, frames = tiny_model(output_size=[20, 30]), torch.randn(1, 3, 3, 28, 28)
    with torch.no_grad():
        assert model(frames).saliency_maps.shape == (1, 3, 20, 30)
        assert model(frames, output_size=(9, 7)).saliency_maps.shape == (1, 3, 9, 7)
    assert ViSAGEConfig().output_size is None and ViSAGEConfig().image_size == 224


def test_the_backbone_is_frozen_unless_the_config_says_otherwise(tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path)
    for frozen in (model.train(), ViSAGEForVideoSaliency.from_pretrained(tmp_path).train()):
        assert not any(parameter.requires_grad for parameter in frozen.backbone.parameters())
        assert all(parameter.requires_grad for parameter in frozen.experts.parameters())
        assert frozen.backbone.blocks[0].training  # stochastic depth is on
    assert all(parameter.requires_grad for parameter in tiny_model(freeze_backbone=False).parameters())


@pytest.fixture
def edge_expert() -> Iterator[str]:
    """An expert that somebody else wrote, on two layers, with an auxiliary map of its own."""

    @register_expert("edges")
    class EdgeExpert(ViSAGEExpert):
        auxiliary_loss_weights = (0.5,)

        def __init__(self, backbone_dim: int, num_levels: int, *, kernel: int = 3) -> None:
            super().__init__(backbone_dim, num_levels)
            self.mix = nn.Conv3d(num_levels * backbone_dim, 2, kernel, padding=kernel // 2)

        def forward(self, features, class_token, *, output_size, auxiliary=False):
            mixed = self.mix(torch.cat(list(features), dim=1))
            size = (mixed.shape[2], *output_size)
            maps, further = nn.functional.interpolate(mixed, size=size, mode="trilinear").unbind(1)
            return ExpertLogits(maps, (further,) if auxiliary else ())

    yield "edges"
    del EXPERTS["edges"]


def test_a_third_expert_from_outside(edge_expert: str, tmp_path: Path) -> None:
    entry = {"name": "third", "type": edge_expert, "layers": [1, 2], "options": {"kernel": 1}}
    model = tiny_model(experts=[*TINY["experts"], entry]).train()
    frames, densities = torch.randn(1, 3, 3, 28, 28), torch.rand(1, 3, 28, 28)
    outputs = model(frames, saliency_labels=densities, output_auxiliary_maps=True)
    assert outputs.expert_maps.shape == (1, 3, 3, 28, 28)
    assert outputs.auxiliary_maps.shape == (1, 3, 4, 28, 28)
    outputs.loss.backward()
    assert model.experts["third"].mix.weight.grad.any()
    model.eval().save_pretrained(tmp_path)
    loaded = ViSAGEForVideoSaliency.from_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(loaded(frames).saliency_maps, model(frames).saliency_maps)
    with pytest.raises(ValueError, match="is .*EdgeExpert already: choose another name"):
        register_expert("edges")(type("Other", (ViSAGEExpert,), {}))
    with pytest.raises(ValueError, match="options of expert 'third' do not fit"):
        ViSAGEForVideoSaliency(tiny_config(experts=[{**entry, "options": {"size": 3}}]))


def test_an_expert_without_parameters(tmp_path: Path) -> None:
    """Such as a fixed prior; it takes float32, whatever the backbone is in."""
    seen = []

    @register_expert("prior")
    class PriorExpert(ViSAGEExpert):
        def forward(self, features, class_token, *, output_size, auxiliary=False):
            seen.extend([*features, class_token])
            return ExpertLogits(features[0].new_full((len(class_token), features[0].shape[2], *output_size), 2.0))

    try:
        model = tiny_model(experts=[*TINY["experts"], {"name": "prior", "type": "prior"}])
        frames = torch.randn(1, 3, 3, 28, 28)
        for some in (model, model.bfloat16()):
            with torch.no_grad():
                maps = some(frames.to(some.dtype)).expert_maps
            assert torch.equal(maps[:, :, 2], torch.full((1, 3, 28, 28), 2.0).sigmoid())
        assert {value.dtype for value in seen} == {torch.float32}
        model.save_pretrained(tmp_path)
        assert list(ViSAGEForVideoSaliency.from_pretrained(tmp_path).experts) == ["first", "second", "prior"]
    finally:
        del EXPERTS["prior"]


def test_active_experts_are_checked_where_they_are_changed_later() -> None:
    model, frames = tiny_model(), torch.zeros(1, 3, 3, 28, 28)
    for names in (["nope"], ["first", "nope"], []):
        model.config.active_experts = names
        with pytest.raises(ValueError, match="active_experts must name some of first, second; got"):
            model(frames)
    model.config.active_experts = ["second"]
    assert model(frames).expert_maps.shape[2] == 1


@pytest.fixture
def expert_of_many_kinds() -> Iterator[str]:
    """An expert that holds layers of kinds that ours have not, and layers with initial values of their own."""

    class ConstantConv(nn.Conv3d):
        def init_weights(self) -> None:
            init.constant_(self.weight, 0.5)
            init.constant_(self.bias, 0.25)

    class Pair(nn.Module):
        """No tensors of its own, but a rule for those that it holds."""

        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(2, 2), nn.Linear(2, 2)

        def init_weights(self) -> None:
            init.constant_(self.right.weight, 3.0)

    @register_expert("many")
    class ManyExpert(ViSAGEExpert):
        def __init__(self, backbone_dim: int, num_levels: int) -> None:
            super().__init__(backbone_dim, num_levels)
            self.layer_norm, self.batch_norm, self.linear = nn.LayerNorm(4), nn.BatchNorm1d(4), nn.Linear(4, 4)
            self.instance_norm, self.bare_norm = nn.InstanceNorm3d(4, affine=True), nn.InstanceNorm3d(4)
            self.transposed = nn.ConvTranspose2d(4, 6, 3)
            self.embedding, self.attention = nn.Embedding(5, 4), nn.MultiheadAttention(4, 2)
            self.constant, self.pair = ConstantConv(1, 1, 1), Pair()

        def forward(self, features, class_token, *, output_size, auxiliary=False):
            raise NotImplementedError

    yield "many"
    del EXPERTS["many"]


def test_weights_that_are_missing_get_the_initial_values_of_their_kind(
    expert_of_many_kinds: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(experts=[{"name": "only", "type": expert_of_many_kinds}])
    state = {name: value for name, value in tiny_model().state_dict().items() if name.startswith("backbone")}
    state["experts.only.pair.left.weight"] = torch.full((2, 2), 7.0)
    empty_like = torch.empty_like
    monkeypatch.setattr(torch, "empty_like", lambda *args, **kwargs: empty_like(*args, **kwargs).fill_(-77))
    loaded = ViSAGEForVideoSaliency.from_pretrained(None, config=config, state_dict=state)
    expert: Any = loaded.experts["only"]
    untouched = [name for name, value in expert.state_dict().items() if (value == -77).any()]
    assert not untouched
    for norm in (expert.layer_norm, expert.batch_norm, expert.instance_norm):
        assert (norm.weight == 1).all() and not norm.bias.any()
    bound = 1 / math.sqrt(6 * 9)  # of PyTorch, from the outputs where a convolution is transposed
    assert bound / 2 < expert.transposed.weight.abs().max() <= bound and expert.transposed.bias.any()
    assert 0 < expert.embedding.weight.std() < 0.1
    assert expert.constant.weight.item() == 0.5 and expert.constant.bias.item() == 0.25
    assert (expert.pair.right.weight == 3).all() and (expert.pair.left.weight == 7).all()


def test_an_unknown_expert_type_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown type 'magic': known are modulated, multiscale"):
        ViSAGEForVideoSaliency(tiny_config(experts=[{"name": "a", "type": "magic"}]))


def test_loads_on_automatic_devices(tmp_path: Path) -> None:
    model, frames = tiny_model(), torch.randn(1, 3, 3, 28, 28)
    model.save_pretrained(tmp_path)
    for options in ({}, {"dtype": "bfloat16"}):
        loaded = ViSAGEForVideoSaliency.from_pretrained(tmp_path, device_map="auto", **options)
        assert all(parameter.dtype == torch.float32 for parameter in loaded.experts.parameters())
        assert loaded.dtype == (torch.bfloat16 if options else torch.float32)
        with torch.no_grad():
            maps = loaded(frames.to(loaded.dtype)).saliency_maps
        torch.testing.assert_close(maps, model(frames).saliency_maps, atol=0.02 if options else 1e-6, rtol=0)


@pytest.mark.parametrize("cast", ["half", "bfloat16"])
def test_half_precision_is_for_the_backbone_alone(cast: str) -> None:
    model, dtype = tiny_model(), {"half": torch.float16, "bfloat16": torch.bfloat16}[cast]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    assert getattr(model, cast)() is model
    for name, value in model.state_dict().items():
        if name.startswith("experts.") or "position_table" in name:
            assert torch.equal(value, state[name]) and value.dtype == state[name].dtype, name
        else:
            assert value.dtype == dtype, name


def test_the_released_model_in_full_size() -> None:
    with torch.device("meta"):
        model = ViSAGEForVideoSaliency(
            ViSAGEConfig(experts=[{**entry, "lora": None} for entry in ViSAGEConfig().experts])
        )
    count = sum(parameter.numel() for parameter in model.backbone.parameters())
    assert count == 5_905_251_200
    assert model.config.window_spec.to_dict() == {
        **{"num_frames": 20, "step": 1, "step_seconds": 0.2, "hop": None},
        **{"output": "all", "head_policy": "repeat", "tail_policy": "repeat"},
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"backbone_heads": 5}, "must divide backbone_dim"),
        ({"backbone_heads": 0}, "backbone_heads must be 1 or more"),
        ({"backbone_table_frames": 0}, "backbone_table_frames must be 1 or more"),
        ({"patch_size": 0}, "patch_size must be 1 or more"),
        ({"backbone_drop_path": 1.0}, "backbone_drop_path must be 0 or more and less than 1"),
        ({"backbone_drop_path": -0.1}, "backbone_drop_path must be 0 or more and less than 1"),
        ({"image_size": 30}, "must be a multiple of patch_size"),
        ({"backbone_activation": "relu"}, "backbone_activation must be one of"),
        ({"window": {"output": "last"}}, "output='all'"),
        ({"window": {"frames": 8}}, "fields of WindowSpec only"),
        ({"experts": []}, "experts must have names"),
        ({"experts": [{"name": "a b", "type": "modulated"}]}, "experts must have names"),
        ({"experts": [{"name": "keys", "type": "modulated"}]}, r"attributes of .*ModuleDict.* rename keys"),
        ({"experts": [{"name": "lora_A", "type": "modulated"}]}, "begin with lora_, .* rename lora_A"),
        ({"experts": [{"name": "type", "type": "modulated"}]}, "attributes of .*ModuleDict"),
        ({"experts": [{"name": "training", "type": "modulated"}]}, "attributes of .*ModuleDict"),
        ({"experts": [{"type": "modulated"}]}, "an expert has name and type"),
        ({"experts": [{"name": "a", "type": "modulated", "size": 3}]}, "an expert has name and type"),
        ({"experts": [{"name": "a", "type": "modulated", "layers": [3, 1]}]}, "rising block numbers from 0 to 3"),
        ({"experts": [{"name": "a", "type": "modulated", "layers": [3, 4]}]}, "rising block numbers from 0 to 3"),
        ({"experts": [{"name": "a", "type": "modulated", "lora": {"rank": 3}}]}, "may have r, alpha"),
        ({"experts": [{"name": "a", "type": "modulated", "lora": {"r": 0}}]}, "r of at least 1"),
        ({"active_experts": ["third"]}, "active_experts must name some of first, second"),
        ({"active_experts": []}, "active_experts must name some of first, second"),
        ({"fusion": "median"}, "fusion must be one of"),
        ({"fusion_weights": [1.0]}, "fusion_weights must be 2 numbers"),
        ({"fusion_weights": [0.0, 1.0], "active_experts": ["first"]}, "have the weight 0"),
        ({"fusion_epsilon": 0.6}, "fusion_epsilon must lie between"),
        ({"output_size": [3]}, "output_size must be"),
        ({"output_size": [0, 3]}, "output_size must be"),
    ],
)
def test_wrong_configs_say_what_to_do(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_config(**fields)


def test_wrong_inputs_say_what_to_do() -> None:
    model, frames = tiny_model(), torch.zeros(1, 3, 3, 28, 28)
    for inputs, message in (
        ({}, "pixel_values_videos must be"),
        ({"pixel_values_videos": frames[0]}, "pixel_values_videos must be"),
        ({"pixel_values_videos": frames[..., :20]}, "cannot be cut into patches"),
        ({"pixel_values_videos": frames, "fixation_labels": frames[:, :, 0]}, "need saliency_labels"),
        *(
            (
                {"pixel_values_videos": frames, "output_size": size},
                "output_size must be .rows, columns., each 1 or more",
            )
            for size in (28, 0, (), (28,), (0, 3), (3, -1), (1, 2, 3))
        ),
    ):
        with pytest.raises(ValueError, match=message):
            model(**inputs)
    for kind, options, message in (
        ("modulated", {"dim": 1}, "needs dim of 2 or more"),
        ("modulated", {"reduced_dim": 0}, "reduced_dim of 1 or more"),
        ("multiscale", {"dim": 0}, "needs dim and reduced_dim of 1 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            ViSAGEForVideoSaliency(tiny_config(experts=[{"name": "a", "type": kind, "options": options}]))
    for options in ({"auxiliary_loss_weights": [0.1] * 4}, {"dim": 8.5}):
        with pytest.raises((ValueError, TypeError)):
            ViSAGEForVideoSaliency(tiny_config(experts=[{"name": "a", "type": "multiscale", "options": options}]))
