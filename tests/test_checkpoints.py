# SPDX-License-Identifier: Apache-2.0
"""Files with weights in all the forms in which people keep them, and what does not fit a model."""

from __future__ import annotations

import hashlib
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from video_saliency.checkpoints import drop, fit, read_checkpoint, rename

TENSORS = {"layer.weight": torch.arange(6.0).reshape(2, 3), "layer.bias": torch.ones(2, dtype=torch.float16)}


class Settings:
    """What a program might save beside its weights."""

    rate = 0.1


def saved(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


@pytest.mark.parametrize(
    ("content", "options"),
    [
        (TENSORS, {}),
        (OrderedDict(TENSORS), {"_use_new_zipfile_serialization": False}),
        ({f"module.{name}": value for name, value in TENSORS.items()}, {}),
        ({name: torch.nn.Parameter(value) for name, value in TENSORS.items()}, {}),
    ],
    ids=["zip", "old form", "data parallel", "parameters"],
)
def test_state_dicts(tmp_path, content, options):
    path = saved(tmp_path / "weights.pth", content, **options)
    checkpoint = read_checkpoint(path)
    assert list(checkpoint.tensors) == list(TENSORS)
    for name, value in checkpoint.tensors.items():
        assert torch.equal(value, TENSORS[name]) and value.dtype == TENSORS[name].dtype and not value.requires_grad
    assert (checkpoint.file_name, checkpoint.wrapper, checkpoint.ignored_entries) == ("weights.pth", None, ())
    assert checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_safetensors(tmp_path):
    save_file(TENSORS, tmp_path / "weights.safetensors")
    checkpoint = read_checkpoint(tmp_path / "weights.safetensors")
    assert all(torch.equal(checkpoint.tensors[name], value) for name, value in TENSORS.items())


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict", "model_state", "model", "module"])
def test_a_trainers_file(tmp_path, wrapper):
    content = {"epoch": 3, wrapper: TENSORS, "optimizer": {"state": {}}}
    checkpoint = read_checkpoint(saved(tmp_path / "last.pt", content))
    assert list(checkpoint.tensors) == list(TENSORS)
    assert (checkpoint.wrapper, checkpoint.ignored_entries) == (wrapper, ("epoch", "optimizer"))


def test_a_class_that_is_named_may_be_beside_the_weights(tmp_path):
    path = saved(tmp_path / "a.pt", {"state_dict": TENSORS, "settings": Settings()})
    with pytest.raises(ValueError, match="Settings beside tensors: only tensors are loaded"):
        read_checkpoint(path)
    assert list(read_checkpoint(path, safe_classes=[Settings]).tensors) == list(TENSORS)


def test_a_whole_pickled_model_is_refused(tmp_path):
    path = saved(tmp_path / "a.pt", torch.nn.Linear(2, 3))
    with pytest.raises(ValueError, match=r"Linear beside tensors.*save the state_dict\(\) alone"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list"),
        ({}, "not a state dict"),
        ({**TENSORS, "epoch": 3}, r"not tensors \(epoch\)"),
        ({"state_dict": {}}, "none at all"),
        ({"state_dict": {"layer": {"weight": torch.ones(1)}}}, r"not tensors \(layer\)"),
    ],
)
def test_other_contents_are_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read_checkpoint(saved(tmp_path / "a.pth", content))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("damage", ["empty", "text", "cut"])
def test_damaged_files_are_refused(tmp_path, suffix, damage):
    path = tmp_path / f"a{suffix}"
    if damage == "cut":
        large = {"weight": torch.zeros(2000)}
        save_file(large, path) if suffix == ".safetensors" else torch.save(large, path)
        path.write_bytes(path.read_bytes()[:4000])
    else:
        path.write_bytes(b"no weights " * 50 if damage == "text" else b"")
    with pytest.raises(ValueError, match="or a damaged one") as error:
        read_checkpoint(path)
    assert "PyTorch" not in str(error.value), "torch's own words are not about the file"


def test_plain_pickles_folders_and_missing_files_are_refused(tmp_path):
    (tmp_path / "a.pth").write_bytes(pickle.dumps(Settings()))
    with pytest.raises(ValueError, match="no checkpoint of torch or safetensors"):
        read_checkpoint(tmp_path / "a.pth")
    with pytest.raises(ValueError, match="is a folder: name the file"):
        read_checkpoint(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path / "missing.pth")


def test_fit_lists_every_problem():
    expected = {"a.weight": [2, 3], "a.bias": [2], "a.count": [], "b.weight": [2, 3], "b.bias": [2], "b.count": []}
    result = fit({"weight": torch.zeros(3, 3), "scale": torch.ones(1)}, expected, ["a.", "b."], optional=["*count"])
    assert result.problems == {
        "missing": ["a.bias", "b.bias"],
        "unused": ["scale"],
        "misshapen": [f"{place}.weight is [3, 3] and should be [2, 3]" for place in "ab"],
    }
    assert result.left_out == ["a.count", "b.count"]
    assert result.describe_problems() == (
        "missing: a.bias, b.bias; unused: scale; misshapen: a.weight is [3, 3] and should be [2, 3], b.weight is "
        "[3, 3] and should be [2, 3]"
    )


def test_each_place_gets_weights_of_its_own():
    converted = {"weight": torch.ones(2)}
    result = fit(converted, {"a.weight": [2], "b.weight": [2]}, ["a.", "b."])
    assert result.describe_problems() == ""
    result.tensors["b.weight"].zero_()
    assert torch.equal(result.tensors["a.weight"], torch.ones(2))


def test_drop_and_rename():
    kept, dropped = drop({"fc.weight": torch.ones(1), "layer.fc.weight": torch.ones(1)}, ["fc.*"])
    assert (list(kept), dropped) == (["layer.fc.weight"], ["fc.weight"])
    assert list(rename(kept, str.upper)) == ["LAYER.FC.WEIGHT"]
    with pytest.raises(ValueError, match="same weight, A; one of them is a"):
        rename({"A": torch.ones(1), "a": torch.ones(1)}, str.upper)
