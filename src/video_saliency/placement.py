# SPDX-License-Identifier: Apache-2.0
"""Where a model is whose parts accelerate has put on several devices, or that wait on disk (`device_map`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

HOOK = "_hf_hook"  # accelerate's, on modules whose inputs and weights it brings to a device


def is_dispatched(model: Any) -> bool:
    """Whether accelerate places the parts of a model, so that it cannot be moved or cast as one."""
    return any(hasattr(module, HOOK) for module in model.modules())


def input_device(model: Any) -> torch.device:
    """The device for the inputs of a model: that where its first part runs."""
    device: torch.device = next(_execution_devices(model), None) or model.device
    return device


def check_placement(model: Any, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
    """Raises `ValueError` if a dispatched model would have to be moved to `device` or cast to `dtype`."""
    home = input_device(model)
    asked = home if device is None else torch.device(device)
    if asked.type != home.type or asked.index not in (None, home.index):
        raise ValueError(
            f"a model that was loaded with a device_map cannot be moved to {asked}, it runs from {home}: leave device "
            "away, or load the model without device_map"
        )
    if dtype not in (None, model.dtype):
        asked_dtype, own_dtype = (str(value).removeprefix("torch.") for value in (dtype, model.dtype))
        raise ValueError(
            f"a model that was loaded with a device_map cannot be cast to {asked_dtype}, it is {own_dtype}: load it "
            f'with dtype="{asked_dtype}"'
        )


def _execution_devices(model: Any) -> Iterator[torch.device]:
    """Those where parts of a dispatched model run, from outside to inside and front to back."""
    for module in model.modules():
        # weights that wait elsewhere are on no device: only the hook knows
        device = getattr(getattr(module, HOOK, None), "execution_device", None)
        if device is not None:
            yield torch.device(device)


__all__ = ["check_placement", "input_device", "is_dispatched"]
