# SPDX-License-Identifier: Apache-2.0
"""SalFoM against tensors of the published code, its variants, and what all our models must be able to do."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from model_test_base import ModelTests
from safetensors.torch import load_file
from salfom_weights import GOLDEN, salfom_checkpoint
from seeded_weights import seeded_input, seeded_tensor
from tiny_models import TINY_SALFOM

from video_saliency import SalFoMConfig, SalFoMForVideoSaliency
from video_saliency.losses import correlation_coefficient, kl_minus_cc_loss
from video_saliency.models.salfom.convert_salfom import convert_salfom, salfom_name
from video_saliency.models.salfom.modeling_salfom import SalFoMDecoder, SalFoMTemporalTransformer, enlarge

TINY = {**TINY_SALFOM, "num_frames": 4}
THIRDS = [[[512, 1, 1], [256, 3, 1]], [[128, 1, 2], [64, 3, 2]], [[32, 2, 2], [16, 2, 2]]]  # temporal strides of 3


class TestSalFoM(ModelTests):
    model_class = SalFoMForVideoSaliency
    size = (32, 48)
    num_frames = 4
    num_maps = 1
    sizes = [(16, 16), (48, 32), (32, 80)]

    def tiny_config(self, **overrides):
        return SalFoMConfig(**{**TINY, **overrides})

    def test_backward_reaches_every_parameter(self) -> None:
        """All but what attention in windows of one step cannot feel: queries, keys and the bias table."""
        model = self.model(num_frames=16, tcfe_drop_path=0.0).train()
        model(**self.inputs_of(16), saliency_labels=self.labels()["saliency_labels"]).loss.backward()
        silent = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.any()]
        assert silent == [f"decoder.tcfe.2.blocks.{block}.attention.bias_table" for block in range(2)]
        values = model.decoder.tcfe[2].blocks[0].attention.qkv.weight.grad
        assert not values[:16].any() and values[16:].any()

    def inputs_of(self, frames: int) -> dict[str, torch.Tensor]:
        shape = (2, frames, 3, *self.size)
        return {"pixel_values_videos": torch.randn(shape, generator=torch.Generator().manual_seed(0))}

    def test_missing_weights_are_those_of_the_published_code_in_kind(self) -> None:
        model = self.model()
        attention = model.decoder.tcfe[0].blocks[0].attention
        assert 0.01 < attention.bias_table.std() < 0.04 and 0.01 < attention.qkv.weight.std() < 0.03
        assert not attention.qkv.bias.any() and (model.encoder.blocks[0].norm1.weight == 1).all()
        convolution = model.decoder.dfd[0][0].convolution.weight
        assert convolution.abs().max() <= convolution[0].numel() ** -0.5 + 1e-6


@pytest.mark.parametrize("case", ["even", "odd_padded", "single_token_window", "window4_shifted"])
@torch.no_grad()
def test_temporal_transformer_is_that_of_the_published_code(case):
    golden = load_file(GOLDEN / "swin_tiny.safetensors")
    in_channels, patch, heads, shape = {
        "even": (12, 2, 4, (2, 12, 8, 3, 5)),
        "odd_padded": (12, 2, 4, (1, 12, 9, 3, 4)),
        "single_token_window": (16, 4, 8, (1, 16, 4, 5, 6)),
        "window4_shifted": (16, 4, 8, (1, 16, 32, 2, 3)),
    }[case]
    transformer = SalFoMTemporalTransformer(in_channels, 16, patch, SalFoMConfig(tcfe_heads=heads)).eval()
    _load_seeded(transformer)
    name = {"odd_padded": "odd", "single_token_window": "single", "window4_shifted": "window4"}.get(case, case)
    features = seeded_input(f"salfom/swin/{name}", shape)
    tolerance = {"atol": 2e-5, "rtol": 1e-4}
    torch.testing.assert_close(transformer(features), golden[f"{case}.out"], **tolerance)

    embedded = golden[f"{case}.patch_embed"]
    batch, _, steps, height, width = embedded.shape
    tokens = embedded.permute(0, 3, 4, 2, 1).flatten(0, 2)
    for number in (0, 1):
        tokens = transformer.blocks[number](tokens)
        expected = golden[f"{case}.block_{number}_b_d_h_w_c"].permute(0, 2, 3, 1, 4).flatten(0, 2)
        torch.testing.assert_close(tokens, expected, **tolerance)
    expected = golden[f"{case}.eps_probe.block_0"]
    probe = 0.002 * seeded_input(f"salfom/swin/{name}/eps_probe", tuple(expected.shape))
    places = transformer.blocks[0](probe.permute(0, 2, 3, 1, 4).flatten(0, 2))
    torch.testing.assert_close(places, expected.permute(0, 2, 3, 1, 4).flatten(0, 2), **tolerance)


def _load_seeded(transformer: SalFoMTemporalTransformer) -> None:
    """Weights that depend on the published names."""
    parts = ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    names = ["patch_embed.proj.weight", "patch_embed.proj.bias"]
    for block in range(6):
        names += [f"layers.0.blocks.{block}.{part}.{kind}" for part in parts for kind in ("weight", "bias")]
        names.append(f"layers.0.blocks.{block}.attn.relative_position_bias_table")
    own = transformer.state_dict()
    state = {}
    for name in names:
        ours = salfom_name(f"transformer_1.{name}").removeprefix("decoder.tcfe.0.")
        state[ours] = seeded_tensor(name, tuple(own[ours].shape))
    transformer.load_state_dict(state)


def test_masks_of_shifted_windows():
    golden = load_file(GOLDEN / "swin_tiny.safetensors")
    for window, shift in ((2, 1), (4, 2)):
        transformer = SalFoMTemporalTransformer(4, 8, window, SalFoMConfig())
        attention = transformer.blocks[1].attention
        torch.nn.init.zeros_(attention.bias_table)
        mask = attention._scores_added(8, window, shift)[:, 0]
        # theirs has windows of time first, then the four places
        expected = golden[f"mask_d8_w{window}_s{shift}"].unflatten(0, (8 // window, 4))[:, 0]
        assert torch.equal(mask, expected)


@pytest.fixture(scope="module")
def published() -> SalFoMForVideoSaliency:
    """The decoder of the published model behind an encoder of one block."""
    model = SalFoMForVideoSaliency(SalFoMConfig(encoder_depth=1)).eval()
    state = convert_salfom(salfom_checkpoint(with_encoder=False))
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert unexpected == [] and {name.split(".")[0] for name in missing} == {"encoder"}
    return model


def record_branches(decoder: SalFoMDecoder, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the branches give in the forward that follows, by their names."""
    results = {}

    def recorded(name):
        branch = getattr(decoder, f"_{name}")

        def call(*inputs):
            results[name] = branch(*inputs)
            return results[name]

        return call

    for name in ("complementary", "dynamic", "static"):
        monkeypatch.setattr(decoder, f"_{name}", recorded(name))
    return results


@torch.no_grad()
def test_decoder_is_that_of_the_published_code(published, monkeypatch):
    golden = load_file(GOLDEN / "decoder.safetensors")
    tokens = 5 * seeded_input("salfom/decoder/tokens", (2, 192, 1024))
    features = tokens.transpose(1, 2).unflatten(-1, (16, 4, 3))
    decoder = published.decoder
    results = record_branches(decoder, monkeypatch)
    logits = decoder(features)
    torch.testing.assert_close(logits, golden["logits"][:, 0], atol=5e-5, rtol=0)
    torch.testing.assert_close(logits.sigmoid(), golden["map"], atol=1e-5, rtol=0)
    thetas, phis, gamma = results["complementary"], results["dynamic"], results["static"]
    low = decoder.tcfe[1](thetas[0])
    for name, value in {
        "y_t_1": thetas[0][:1],
        "y_t_2": low,
        "y_t_3": decoder.tcfe[2](enlarge(low, 4)),
        "y_2": phis[0][:1],
        "y_4": phis[1][:1, :, :, ::2, ::2],
        "y_6": phis[2][:1, :, 0, ::4, ::4],
        "y_t_3_up": thetas[2][:1, :, 0, ::4, ::4],
        "y_2D_9": gamma[:1, :, ::4, ::4],
    }.items():
        torch.testing.assert_close(
            value, golden[name], atol=1e-4, rtol=0, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.slow
@torch.no_grad()
def test_the_whole_published_model(monkeypatch):
    golden = load_file(GOLDEN / "full.safetensors")
    model = SalFoMForVideoSaliency(SalFoMConfig()).eval()
    model.load_state_dict(convert_salfom(salfom_checkpoint()))
    results = record_branches(model.decoder, monkeypatch)
    video = seeded_input("salfom/full/video", (1, 3, 16, 224, 224)).transpose(1, 2)
    outputs = model(video, output_hidden_states=True)
    rows = [0, 1, 13, 14, 195, 196, 1567, 3135]
    for block in (0, 11, 23):
        tokens = outputs.hidden_states[block].permute(0, 1, 3, 4, 2).flatten(1, 3)
        torch.testing.assert_close(tokens[0, rows], golden[f"tokens.block_{block}"].view(8, -1), atol=1e-4, rtol=0)
    torch.testing.assert_close(outputs.logits[0, 0], golden["logits"].squeeze(), atol=1e-4, rtol=0)
    torch.testing.assert_close(outputs.saliency_maps[0, 0], golden["map"].squeeze(), atol=2e-5, rtol=0)
    features = outputs.hidden_states[-1].transpose(1, 2)
    thetas, phis, gamma = results["complementary"], results["dynamic"], results["static"]
    for name, value in {
        "y": features[0, ::32, ::5, ::3, ::3],
        "y_t_1": thetas[0][0, ::8, :, ::3, ::3],
        "y_t_2_up": thetas[1][0, ::8, :, ::7, ::7],
        "y_t_3_up": thetas[2][0, :, 0, ::8, ::8],
        "y_2": phis[0][0, ::8, :, ::3, ::3],
        "y_4": phis[1][0, ::8, :, ::7, ::7],
        "y_6": phis[2][0, :, 0, ::8, ::8],
        "y_2D_9": gamma[0, :, ::8, ::8],
    }.items():
        expected = golden[f"slice.{name}"]
        torch.testing.assert_close(value, expected, atol=1e-4, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


def test_parameters_of_the_published_model():
    with torch.device("meta"):
        model = SalFoMForVideoSaliency(SalFoMConfig())
    count = sum(parameter.numel() for parameter in model.parameters())
    # the released 402,945,443 without positions, classifier and the parameters that nothing uses
    unused = 3_211_264 + 412_048 + 2 * (256 + 64 + 16) + (64 * 64 * 3 + 64) + 3
    assert count == 402_945_443 - unused


@pytest.mark.parametrize("branches", [c for n in (1, 2, 3) for c in combinations(["tcfe", "dfd", "sfd"], n)])
def test_branches_of_table_3(branches):
    torch.manual_seed(0)
    model = SalFoMForVideoSaliency(SalFoMConfig(**TINY, branches=branches)).eval()
    maps = model(torch.randn(1, 4, 3, 32, 32)).saliency_maps
    assert maps.shape == (1, 1, 32, 32) and maps.std() > 0
    maps.sum().backward()
    names = {name.split(".")[1] for name, value in model.named_parameters() if name.startswith("decoder.")}
    expected = {"fusion", *branches} | ({"collapse"} if "sfd" in branches else set())
    assert names == expected
    assert model.decoder.fusion[0].in_channels == 8 * len(branches)
    if "sfd" in branches:
        assert len(model.decoder.collapse) == (3 if "dfd" in branches else 1)


@pytest.mark.parametrize(("frames", "depths"), [(4, (2, 1, 0)), (8, (3, 2, 1)), (16, (4, 3, 2))])
def test_window_lengths(frames, depths):
    model = SalFoMForVideoSaliency(SalFoMConfig(**{**TINY, "num_frames": frames})).eval()
    assert tuple(len(collapse.convolutions) for collapse in model.decoder.collapse) == depths
    with torch.no_grad():
        assert model(torch.randn(1, frames, 3, 32, 32)).saliency_maps.shape == (1, 1, 32, 32)


@pytest.mark.parametrize(
    ("strides", "patches"),
    [
        (((1, 2), (1, 2), (2, 4)), (2, 2, 4)),
        (((2, 2), (1, 2), (2, 2)), (4, 2, 4)),
        (((1, 2), (2, 2), (2, 2)), (2, 4, 4)),
    ],
)
def test_more_frames(strides, patches):
    """32 need a stride more, and unless it is in the last stage a larger temporal patch."""
    dfd = [
        [[w, s, e] for (w, _, e), s in zip(*both, strict=True)]
        for both in zip(TINY["dfd_layers"], strides, strict=True)
    ]
    tcfe = [[width, patch, scale] for (width, _, scale), patch in zip(TINY["tcfe_layers"], patches, strict=True)]
    fields = {**TINY, "num_frames": 32, "dfd_layers": dfd}
    with torch.no_grad():
        maps = SalFoMForVideoSaliency(SalFoMConfig(**{**fields, "tcfe_layers": tcfe}))(torch.randn(1, 32, 3, 32, 32))
        assert maps.saliency_maps.shape == (1, 1, 32, 32)
        # without TCFE nothing has to have as many steps as DFD
        visual = SalFoMForVideoSaliency(SalFoMConfig(**fields, branches=["dfd", "sfd"]))
        assert visual(torch.randn(1, 32, 3, 32, 32)).saliency_maps.shape == (1, 1, 32, 32)
    if tcfe != TINY["tcfe_layers"]:
        with pytest.raises(ValueError, match="make its temporal patch and the product of its temporal strides equal"):
            SalFoMConfig(**fields)


def test_umt_base_of_table_3():
    with torch.device("meta"):
        model = SalFoMForVideoSaliency(SalFoMConfig.umt_base())
        maps = model(torch.empty(1, 8, 3, 224, 224)).saliency_maps
    assert maps.shape == (1, 1, 224, 224)
    assert len(model.encoder.blocks) == 12 and model.decoder.collapse[0].convolutions[0].in_channels == 768


@torch.no_grad()
def test_embedded_frames_give_the_same_maps():
    torch.manual_seed(0)
    model = SalFoMForVideoSaliency(SalFoMConfig(**TINY)).eval()
    frames = torch.randn(6, 3, 32, 48)
    embedded = torch.cat([model.embed_frames(frame[None]) for frame in frames])
    for start in (0, 2):
        window = slice(start, start + 4)
        whole, shared = model(frames[None, window]), model(frame_embeddings=embedded[None, window])
        torch.testing.assert_close(shared.saliency_maps, whole.saliency_maps, atol=1e-6, rtol=0)


def test_stochastic_depth_is_that_of_the_published_code():
    model = SalFoMForVideoSaliency(SalFoMConfig(**{**TINY, "tcfe_depth": 6}))
    rates = [block.drop_path for block in model.decoder.tcfe[1].blocks]
    assert rates == pytest.approx([0, 0.04, 0.08, 0.12, 0.16, 0.2])
    block = model.decoder.tcfe[1].blocks[5].train()
    tokens = torch.randn(400 * 3, 2, 8)
    torch.manual_seed(0)
    branch = block._dropped(tokens, 3).view(400, -1)
    kept = branch.abs().amax(dim=1) > 0
    assert 0.7 < kept.float().mean() < 0.9
    torch.testing.assert_close(branch[kept], tokens.view(400, -1)[kept] / 0.8)
    assert block.eval()._dropped(tokens, 3) is tokens


def test_attention_is_the_one_asked_for(tmp_path, monkeypatch):
    torch.manual_seed(0)
    SalFoMForVideoSaliency(SalFoMConfig(**TINY)).save_pretrained(tmp_path)
    frames = torch.randn(1, 4, 3, 32, 48)
    calls, real = [], F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or real(*a, **k))
    logits, counts = {}, {}
    for name in ("sdpa", "eager"):
        model = SalFoMForVideoSaliency.from_pretrained(tmp_path, attn_implementation=name).eval()
        calls.clear()
        with torch.no_grad():
            logits[name] = model(frames).logits
        counts[name] = len(calls)
    assert counts["sdpa"] == counts["eager"] + TINY["encoder_depth"]
    torch.testing.assert_close(logits["sdpa"], logits["eager"], atol=1e-5, rtol=1e-4)


def test_loss_weights():
    model = SalFoMForVideoSaliency(SalFoMConfig(**TINY, kl_loss_weight=0.0, cc_loss_weight=2.0)).eval()
    frames, truth = torch.randn(1, 4, 3, 32, 48), torch.rand(1, 1, 32, 48)
    with torch.no_grad():
        outputs = model(frames, saliency_labels=truth)
    expected = -2 * correlation_coefficient(outputs.saliency_maps, truth).item()
    assert outputs.loss.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("case", "shape", "expected"), [("a", (2, 24, 32), 0.20457536), ("b", (1, 224, 224), 0.25024199)]
)
def test_loss_is_that_of_the_published_script(case, shape, expected):
    name = f"salfom/loss/{case}"
    prediction = seeded_input(f"{name}/pred", shape)
    truth = (0.6 * prediction + 0.8 * seeded_input(f"{name}/gt", shape)).relu() / 4
    assert kl_minus_cc_loss(prediction.sigmoid(), truth).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_frames": 12}, "num_frames must be 4, 8, ... up to 16"),
        ({"num_frames": 2}, "num_frames must be 4, 8, ... up to 16"),
        ({"num_frames": 32}, "num_frames must be 4, 8, ... up to 16.* the temporal patches in tcfe_layers"),
        ({"tcfe_layers": [[256, 4, 1], [64, 2, 4], [16, 4, 4]]}, "stage 1 leaves 4 steps in tcfe_layers and 8 in dfd"),
        ({"tcfe_layers": [[256, 2, 1], [64, 8, 4], [16, 4, 4]]}, "stage 2 leaves 1 steps in tcfe_layers and 4 in dfd"),
        ({"branches": ["dfd", "sfd"], "dfd_layers": THIRDS}, "stage 1 leaves 5 steps .* powers of two"),
        ({"tcfe_layers": [[256, 2, 1], [64, 0, 4], [16, 4, 4]]}, "tcfe_layers must hold numbers of at least 1"),
        ({"dfd_layers": [[[256, 0, 16]]]}, "dfd_layers must hold numbers of at least 1"),
        ({"tcfe_drop_path": 1.0}, "tcfe_drop_path must be at least 0 and below 1"),
        ({"tcfe_drop_path": -0.1}, "tcfe_drop_path must be at least 0 and below 1"),
        ({"encoder_heads": 0}, "must divide encoder_dim"),
        ({"tcfe_heads": 0}, "tcfe_heads must hold numbers of at least 1"),
        ({"tcfe_depth": 0}, "tcfe_depth must hold numbers of at least 1"),
        ({"encoder_dim": 0}, "encoder_dim must hold numbers of at least 1"),
        ({"encoder_depth": -1}, "encoder_depth must hold numbers of at least 1"),
        ({"encoder_mlp_ratio": 0.0}, "encoder_mlp_ratio must be above 0, got 0.0"),
        ({"fusion_channels": [0]}, r"fusion_channels must hold numbers of at least 1, got \[0\]"),
        ({"window": {"num_frames": 8}}, "window must have num_frames=16"),
        ({"window": {"output": "all"}}, "describes the last frame"),
        ({"window": {"frames": 8}}, "fields of WindowSpec only"),
        ({"branches": []}, "branches must name some of"),
        ({"branches": ["dfd", "dfd"]}, "each once"),
        ({"branches": ["swin"]}, "branches must name some of"),
        ({"encoder_heads": 7}, "must divide encoder_dim"),
        ({"tcfe_heads": 5}, "must divide the channels"),
        ({"patch_size": 14}, "the product 14"),
        ({"tcfe_layers": [[256, 2, 4], [64, 2, 1], [16, 4, 4]]}, "must be those of dfd_layers"),
        ({"tcfe_layers": [[128, 2, 1], [64, 2, 4], [16, 4, 4]]}, "stage 1 ends with 128 channels"),
        ({"sfd_layers": [[[256, 16]]]}, "as many each"),
    ],
)
def test_wrong_configs_say_what_to_do(fields, message):
    with pytest.raises(ValueError, match=message):
        SalFoMConfig(**fields)


def test_wrong_inputs_say_what_to_do():
    model = SalFoMForVideoSaliency(SalFoMConfig(**TINY)).eval()
    frames = torch.zeros(1, 4, 3, 32, 32)
    for inputs, message in (
        ({}, "one of them"),
        ({"pixel_values_videos": frames, "frame_embeddings": frames}, "one of them"),
        ({"pixel_values_videos": frames[:, :3]}, "cut clips of any length"),
        ({"pixel_values_videos": frames[..., :30]}, "cannot be cut into patches"),
        ({"frame_embeddings": frames}, "frame_embeddings must be"),
        ({"pixel_values_videos": frames, "fixation_labels": frames[:, :1, 0]}, "need saliency_labels"),
    ):
        with pytest.raises(ValueError, match=message):
            model(**inputs)


def test_golden_files_are_there():
    assert {path.name for path in Path(GOLDEN).iterdir()} >= {"decoder.safetensors", "full.safetensors"}
