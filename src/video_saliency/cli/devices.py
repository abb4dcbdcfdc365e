# SPDX-License-Identifier: Apache-2.0
"""What `--device` and `--dtype` name, with errors that say what to do."""

from __future__ import annotations

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(name: str) -> torch.device:
    """The device named, or for `auto` the first accelerator there is, else the CPU. Raises `ValueError` if absent."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device {name!r} is not usable here ({reason}): use --device cpu or auto") from error
    return device


def pick_dtype(name: str | None) -> torch.dtype | None:
    """The torch dtype named, `None` for the model's own. Raises `ValueError` for an unknown name."""
    if name is None:
        return None
    if name not in DTYPES:
        raise ValueError(f"dtype {name!r} is unknown: use one of {', '.join(DTYPES)}")
    return DTYPES[name]
