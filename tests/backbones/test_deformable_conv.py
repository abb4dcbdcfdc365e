# SPDX-License-Identifier: Apache-2.0
"""Deformable convolution against stored outputs, plain convolution, numeric gradients and torchvision's operation."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from dtfsal_weights import GOLDEN
from safetensors.torch import load_file
from seeded_weights import seeded_input, seeded_tensor

from video_saliency.backbones import deformable_conv
from video_saliency.backbones.deformable_conv import deformable_conv2d

STORED = load_file(GOLDEN / "deformable_conv.safetensors")
CASES = json.loads((GOLDEN / "deformable_conv.json").read_text())


@pytest.fixture
def without_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deformable_conv, "_torchvision_operation", lambda: None)


@pytest.fixture
def fresh_search() -> Iterator[None]:
    """What was found out about torchvision is forgotten before, and what a test made up of it afterwards."""
    real = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "torchvision"}
    _forget_torchvision()
    yield
    _forget_torchvision()
    sys.modules.update(real)


def _forget_torchvision() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    deformable_conv._torchvision_operation.cache_clear()


def arguments(name: str, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    case = CASES[name]
    values = {
        "pictures": seeded_input(f"deform.{name}.input", tuple(case["input"])),
        "offset": case["offset_scale"] * seeded_input(f"deform.{name}.offset", tuple(case["offset"])),
        "weight": seeded_tensor(f"deform.{name}.weight", tuple(case["weight"])),
    }
    if case.get("offset_rounded"):
        values["offset"] = values["offset"].round()
    if case["bias"]:
        values["bias"] = seeded_tensor(f"deform.{name}.bias", (case["weight"][0],))
    if case.get("mask"):
        values["mask"] = torch.sigmoid(seeded_input(f"deform.{name}.mask", tuple(case["mask"])))
    if name == "clip":  # frames become pictures
        for key in ("pictures", "offset"):
            values[key] = values[key].transpose(1, 2).flatten(0, 1)
    settings = {key: tuple(case[key]) for key in ("stride", "padding", "dilation") if key in case}
    return {key: value.to(dtype) for key, value in values.items()} | settings


def random_arguments(dtype: torch.dtype = torch.float64, **settings: Any) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype)

    return {
        "pictures": normal(2, 4, 5, 6),
        "offset": normal(2, 18, 5, 6),
        "weight": normal(3, 4, 3, 3),
        "bias": normal(3),
        "padding": 1,
        **settings,
    }


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 2e-7)])
def test_outputs_equal_the_stored_ones(name, dtype, atol, without_torchvision):
    output = deformable_conv2d(**arguments(name, dtype))
    stored = STORED[f"{name}.output"].to(dtype)
    if name == "clip":
        stored = stored.transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(output, stored, atol=atol, rtol=0)


@pytest.mark.parametrize("settings", [{}, {"stride": 2}, {"dilation": 2, "padding": 2}, {"stride": (1, 2)}])
def test_without_offsets_it_is_a_convolution(settings, without_torchvision):
    inputs = random_arguments(**settings)
    pictures, weight, bias = inputs.pop("pictures"), inputs.pop("weight"), inputs.pop("bias")
    del inputs["offset"]
    expected = F.conv2d(pictures, weight, bias, **inputs)
    offset = pictures.new_zeros(2, 18, *expected.shape[2:])
    torch.testing.assert_close(deformable_conv2d(pictures, offset, weight, bias, **inputs), expected)


def test_gradients(without_torchvision):
    inputs = random_arguments()
    settings = {"padding": inputs.pop("padding")}
    mask = torch.rand(2, 9, 5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    values = [value.requires_grad_() for value in (*inputs.values(), mask)]

    def function(*values: torch.Tensor) -> torch.Tensor:
        return deformable_conv2d(*values[:-1], mask=values[-1], **settings)

    assert torch.autograd.gradcheck(function, values, fast_mode=True)


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (5, 1)])
def test_a_side_of_one_cell(size, without_torchvision):
    pictures = torch.ones(1, 1, *size)
    offset = torch.zeros(1, 2, *size)
    offset[:, 0] = 0.25  # down
    output = deformable_conv2d(pictures, offset, torch.ones(1, 1, 1, 1))
    # the last row is met by three quarters
    expected = torch.ones(1, 1, *size)
    expected[:, :, -1] = 0.75
    torch.testing.assert_close(output, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_samples_in_float32(dtype, without_torchvision):
    inputs = random_arguments(dtype)
    exact = {key: value.float() if isinstance(value, torch.Tensor) else value for key, value in inputs.items()}
    output = deformable_conv2d(**inputs)
    assert output.dtype == dtype
    assert torch.equal(output, deformable_conv2d(**exact).to(dtype))


def test_torchvision_is_used_where_it_is_installed(tmp_path, monkeypatch, fresh_search):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").touch()
    source = """
def deform_conv2d(input, offset, weight, bias=None, stride=(1, 1), padding=(0, 0), dilation=(1, 1), mask=None):
    assert (stride, padding, dilation) == ((1, 1), (1, 1), (1, 1))
    return input + offset.mean() + weight.mean() + bias.mean() + mask.mean()
"""
    (tmp_path / "torchvision" / "ops.py").write_text(source)
    fake(tmp_path, monkeypatch)
    inputs = random_arguments(mask=torch.ones(2, 9, 5, 6))
    expected = inputs["pictures"] + sum(inputs[name].mean() for name in ("offset", "weight", "bias", "mask"))
    torch.testing.assert_close(deformable_conv2d(**inputs), expected)


def test_a_torchvision_that_cannot_be_imported_is_passed_by(tmp_path, monkeypatch, fresh_search):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("raise RuntimeError('operator does not exist')\n")
    fake(tmp_path, monkeypatch)
    assert deformable_conv2d(**random_arguments()).shape == (2, 3, 5, 6)


def fake(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(folder))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"offset": torch.zeros(2, 17, 5, 6)}, "a multiple of 18"),
        ({"offset": torch.zeros(2, 18, 5, 5)}, r"18, 5, 6\)"),
        ({"offset": torch.zeros(2, 54, 5, 6)}, "groups that divide 4 channels"),
        ({"mask": torch.zeros(2, 8, 5, 6)}, "mask must be"),
        ({"weight": torch.zeros(3, 3, 3, 3)}, "does not fit 4 channels"),
    ],
)
def test_shapes_that_do_not_go_together_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        deformable_conv2d(**random_arguments(**changes))
