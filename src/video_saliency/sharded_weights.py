# SPDX-License-Identifier: Apache-2.0
"""safetensors files of models that do not fit into memory twice: written tensor by tensor, cast on the way.

`safetensors.torch.save_file` needs all tensors of a file at once, in their final precision. Here one is held at a
time, so that weights which are mapped from disk go from file to file.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
MAX_SHARD_BYTES = 5_000_000_000  # of the tensors; the Hub's limit for a file is ten times as large
ALIGNMENT = 8  # of the first tensor, as the format asks for

# the format's names; what has none cannot be written
DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def stored_dtypes(
    tensors: Mapping[str, torch.Tensor], dtype: torch.dtype, *, keep_float32: Iterable[str] = ()
) -> dict[str, torch.dtype]:
    """In which precision each tensor is written: floating point ones in `dtype`, all others as they are.

    Args:
        tensors: by name.
        dtype: a floating point one.
        keep_float32: regular expressions; floating point tensors with a match in their name are written in float32 if
            `dtype` is smaller. transformers has them as `_keep_in_fp32_modules_strict`.
    """
    kept = [re.compile(pattern) for pattern in keep_float32] if dtype.itemsize < 4 else []

    def stored(name: str, tensor: torch.Tensor) -> torch.dtype:
        if not tensor.is_floating_point():
            return tensor.dtype
        return torch.float32 if any(pattern.search(name) for pattern in kept) else dtype

    return {name: stored(name, tensor) for name, tensor in tensors.items()}


def write_shards(
    folder: str | os.PathLike[str],
    tensors: Mapping[str, torch.Tensor],
    dtypes: Mapping[str, torch.dtype],
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> list[str]:
    """Write `model.safetensors`, or numbered shards and their index; returns the names of the files with tensors.

    Order is kept. At most one tensor is copied at a time; tensors that share memory are written once each.

    Args:
        folder: an existing one.
        tensors: by name, on any device, maybe mapped from disk.
        dtypes: in which each is written.
        max_shard_bytes: a larger file has a single tensor.

    Raises:
        ValueError: for a precision that the format does not know.
        OSError: if a file cannot be written.
    """
    sizes = {name: tensor.numel() * dtypes[name].itemsize for name, tensor in tensors.items()}
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    files = [
        WEIGHTS_NAME if len(shards) == 1 else f"model-{number + 1:05}-of-{len(shards):05}.safetensors"
        for number in range(len(shards))
    ]
    for file, names in zip(files, shards, strict=True):
        _write_file(Path(folder) / file, names, tensors, dtypes)
    if len(files) > 1:
        index = {
            "metadata": {
                "total_parameters": sum(tensor.numel() for tensor in tensors.values()),
                "total_size": sum(sizes.values()),
            },
            "weight_map": {name: file for file, names in zip(files, shards, strict=True) for name in names},
        }
        (Path(folder) / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return files


def _write_file(
    path: Path, names: Sequence[str], tensors: Mapping[str, torch.Tensor], dtypes: Mapping[str, torch.dtype]
) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    # the format wants no gaps, and readers want tensors that lie at multiples of their items' size
    ordered = sorted(names, key=lambda name: -dtypes[name].itemsize)
    end = 0
    for name in ordered:
        if dtypes[name] not in DTYPE_NAMES:
            raise ValueError(f"{name} is {dtypes[name]}, which safetensors files do not hold")
        shape = list(tensors[name].shape)
        start, end = end, end + math.prod(shape) * dtypes[name].itemsize
        header[name] = {"dtype": DTYPE_NAMES[dtypes[name]], "shape": shape, "data_offsets": [start, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % ALIGNMENT)
    with open(path, "wb") as file:
        file.write(len(encoded).to_bytes(8, "little"))
        file.write(encoded)
        for name in ordered:
            values = tensors[name].detach().to(device="cpu", dtype=dtypes[name]).contiguous()
            file.write(values.reshape(-1).view(torch.uint8).numpy().data)


__all__ = ["INDEX_NAME", "MAX_SHARD_BYTES", "WEIGHTS_NAME", "stored_dtypes", "write_shards"]
