# SPDX-License-Identifier: Apache-2.0
"""safetensors files written tensor by tensor, read by safetensors; and a large model converted in little memory."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import ViTConfig, ViTModel
from visage_weights import seeded, tiny_expert

from video_saliency.sharded_weights import stored_dtypes, write_shards

TENSORS = {
    "a.weight": torch.arange(12.0).reshape(3, 4),
    "a.count": torch.tensor(7),
    "b.weight": torch.linspace(-1, 1, 20, dtype=torch.float16).reshape(5, 4).T,
    "b.mask": torch.tensor([True, False, True]),
    "c.empty": torch.zeros(0, 3),
    "kept.scale": torch.tensor([1.0009765625, 3.0]),
    "d.bytes": torch.tensor([1, 2, 3], dtype=torch.uint8),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_one_file(tmp_path, dtype):
    dtypes = stored_dtypes(TENSORS, dtype, keep_float32=["kept", "nothing"])
    assert write_shards(tmp_path, TENSORS, dtypes) == ["model.safetensors"]
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    loaded = load_file(tmp_path / "model.safetensors")
    assert loaded.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        expected = tensor.to(dtype) if tensor.is_floating_point() and name != "kept.scale" else tensor
        assert loaded[name].dtype == expected.dtype and torch.equal(loaded[name], expected)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_shards_and_their_index(tmp_path):
    dtypes = stored_dtypes(TENSORS, torch.float32)
    files = write_shards(tmp_path, TENSORS, dtypes, max_shard_bytes=60)
    assert files == [f"model-{number:05}-of-00003.safetensors" for number in (1, 2, 3)]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == TENSORS.keys() and set(index["weight_map"].values()) == set(files)
    assert index["metadata"] == {"total_parameters": 41, "total_size": 12 * 4 + 8 + 20 * 4 + 3 + 8 + 3}
    loaded = {name: load_file(tmp_path / file)[name] for name, file in index["weight_map"].items()}
    assert all(torch.equal(loaded[name], tensor.to(dtypes[name])) for name, tensor in TENSORS.items())
    assert len(load_file(tmp_path / files[1])) == 1, "a tensor above the limit has a file to itself"


def test_transformers_reads_the_shards(tmp_path):
    config = ViTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32)
    model = ViTModel(config)
    tensors = model.state_dict()
    assert len(write_shards(tmp_path, tensors, stored_dtypes(tensors, torch.float32), max_shard_bytes=20_000)) > 2
    config.save_pretrained(tmp_path)
    loaded, report = ViTModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    assert all(torch.equal(value, tensors[name]) for name, value in loaded.state_dict().items())


def test_a_precision_without_a_name_is_refused(tmp_path):
    tensors = {"a": torch.zeros(2, dtype=torch.complex64)}
    with pytest.raises(ValueError, match=r"a is torch\.complex64, which safetensors files do not hold"):
        write_shards(tmp_path, tensors, stored_dtypes(tensors, torch.float32))


# in a process of its own: anonymous memory, so without what is mapped from files and can be dropped at any time
CONVERSION = """
import json, re, sys, threading
from pathlib import Path
import torch
from video_saliency.conversion import convert_checkpoint
from video_saliency.models.visage.convert_visage import CONVERTER

def anonymous():
    return 1024 * int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

class Watch(threading.Thread):
    def __init__(self):
        super().__init__(daemon=True)
        self.peak, self.done = 0, threading.Event()
    def run(self):
        while not self.done.wait(0.002):
            self.peak = max(self.peak, anonymous())

before, watch = anonymous(), Watch()
watch.start()
files = {name: path for name, path in zip(("backbone", "expert1"), sys.argv[2:4])}
convert_checkpoint(CONVERTER, files, sys.argv[4], config_file=sys.argv[5], dtype=getattr(torch, sys.argv[1]))
watch.done.set()
watch.join()
print(json.dumps({"before": before, "peak": watch.peak}))
"""


def large_backbone(path: Path, dim: int, depth: int) -> int:
    """An encoder of published names in float32; returns the bytes of its largest tensor."""
    ones = torch.ones(dim)
    tensors = {"cls_token": ones[None, None], "pos_embed": torch.zeros(1, 1 + 4 * 4, dim)}
    tensors |= {"patch_embed.proj.weight": torch.zeros(dim, 3, 1, 14, 14), "patch_embed.proj.bias": ones}
    # no two tensors share memory: they are as many bytes in the file
    for block in (f"blocks.{number}" for number in range(depth)):
        tensors |= {f"{block}.{name}": ones.clone() for name in ("norm1.weight", "norm2.weight", "attn.proj.bias")}
        tensors |= {f"{block}.attn.{name}_norm.weight": ones.clone() for name in "qk"}
        tensors |= {f"{block}.{name}.gamma": ones.clone() for name in ("ls1", "ls2")}
        tensors |= {f"{block}.attn.qkv.weight": torch.full((3 * dim, dim), 0.01)}
        tensors |= {f"{block}.attn.proj.weight": torch.full((dim, dim), 0.01)}
        tensors |= {f"{block}.mlp.fc1.weight": torch.full((4 * dim, dim), 0.01)}
        tensors |= {f"{block}.mlp.fc1.bias": torch.zeros(4 * dim), f"{block}.mlp.fc2.bias": ones.clone()}
        tensors |= {f"{block}.mlp.fc2.weight": torch.full((dim, 4 * dim), 0.01)}
    torch.save({"model": {f"vision_encoder.{name}": value for name, value in tensors.items()}}, path)
    return max(value.numel() * 4 for value in tensors.values())


def conversion_memory(folder: Path, dtype: str, *, dim: int, depth: int) -> dict[str, int]:
    """Bytes: of the file, of its largest tensor, and of anonymous memory that the conversion took."""
    largest = large_backbone(folder / "backbone.pt", dim, depth)
    expert = tiny_expert(1, lora=False)
    wide = {
        name: (*value.shape[:1], dim, *value.shape[2:]) for name, value in expert.items() if 96 in value.shape[1:2]
    }
    torch.save({**expert, **seeded(wide)}, folder / "expert1.pth")
    (folder / "config.json").write_text(json.dumps({"backbone_heads": 8}))
    arguments = [dtype, folder / "backbone.pt", folder / "expert1.pth", folder / "out", folder / "config.json"]
    command = [sys.executable, "-c", CONVERSION, *map(str, arguments)]
    result = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    size = (folder / "backbone.pt").stat().st_size
    return {"file": size, "largest": largest, "taken": result["peak"] - result["before"]}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="anonymous memory is read from Linux's /proc")
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_converting_a_large_file_takes_the_memory_of_a_tensor(tmp_path, dtype):
    found = conversion_memory(tmp_path, dtype, dim=1024, depth=60)
    shards = sum(path.stat().st_size for path in (tmp_path / "out").glob("*.safetensors"))
    shutil.rmtree(tmp_path)  # pytest would keep gigabytes
    print(", ".join(f"{name} {size / 2**20:.0f} MiB" for name, size in found.items()))
    assert found["file"] > 2.8e9
    assert found["taken"] < 4 * found["largest"] + 100 * 2**20
    assert shards == pytest.approx(found["file"] / (2 if dtype == "bfloat16" else 1), rel=0.01)
