# SPDX-License-Identifier: Apache-2.0
"""Which changes of a model its digest tells, and what it reads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import tiny_gfsalnet, tiny_visage

from video_saliency.model_digest import model_digest


class OneTensor:
    """A model with a single tensor."""

    config = tiny_gfsalnet(streams="appearance")[0].config

    def __init__(self, tensor: torch.Tensor, name: str = "weight") -> None:
        self.tensors = {name: tensor}

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self.tensors


PROCESSOR = tiny_gfsalnet(streams="appearance")[1]


def digest(tensor: torch.Tensor, **options: Any) -> str:
    return model_digest(OneTensor(tensor, **options), PROCESSOR)


def test_every_tensor_counts() -> None:
    model, processor = tiny_visage(lora=True)
    before = model_digest(model, processor)
    assert len(before) == 16 and before == model_digest(*tiny_visage(lora=True))
    assert before != model_digest(tiny_visage(seed=1, lora=True)[0], processor)
    for value in model.state_dict().values():
        old = value.clone()
        value.add_(1)
        assert model_digest(model, processor) != before
        value.copy_(old)
    assert model_digest(model, processor) == before


def test_names_shapes_precision_settings_and_each_value_of_small_tensors_count() -> None:
    tensor = torch.randn(91, 90, generator=torch.Generator().manual_seed(0))
    known = {digest(tensor), digest(tensor, name="other"), digest(tensor.view(90, 91)), digest(tensor.int())}
    known |= {digest(torch.tensor(value)) for value in (True, 1.0, 1)}
    assert len(known) == 7
    for place in (0, 4097, -1):
        changed = tensor.clone()
        changed.view(-1)[place] += 1e-3
        known.add(digest(changed))
    assert len(known) == 10
    assert digest(tensor.T.contiguous().T) == digest(tensor), "where values lie in memory does not count"
    other = tiny_gfsalnet(streams="appearance")[1]
    other.size = {"height": 64, "width": 64}
    assert model_digest(OneTensor(tensor), other) != digest(tensor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_large_tensors_are_not_read_whole(dtype: torch.dtype) -> None:
    """Of a thousand times more than fits any memory, every column of a matrix is still seen."""
    huge = torch.zeros(1, dtype=dtype).expand(2**45)
    assert digest(huge) != digest(torch.ones(1, dtype=dtype).expand(2**45))
    matrix = torch.zeros(4096, 4096, dtype=dtype)
    seen = sum(digest(changed_column(matrix, column)) != digest(matrix) for column in range(0, 4096, 512))
    assert seen == 8


def changed_column(matrix: torch.Tensor, column: int) -> torch.Tensor:
    changed = matrix.clone()
    changed[:, column : column + 8] = 1
    return changed


def test_weights_on_disk_have_no_digest() -> None:
    with pytest.raises(ValueError, match="load it without device_map"):
        digest(torch.empty(2, device="meta"))
