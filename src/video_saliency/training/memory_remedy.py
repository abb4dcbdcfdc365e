# SPDX-License-Identifier: Apache-2.0
"""What to do when the memory is too small."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch

from video_saliency.training.training_arguments import TrainingArguments
from video_saliency.training.training_checkpoints import TrainingError

SMALLER_MODEL = "train fewer weights (lora.enabled, model.freeze), or split the model: examples/accelerate/fsdp2.yaml"


@contextlib.contextmanager
def remedy_for_memory(arguments: TrainingArguments, *, is_placing: bool = False) -> Iterator[None]:
    """Turns an exhausted memory into a message that names the setting to lower.

    Args:
        arguments: of the run.
        is_placing: whether the model is only put in its place, so that smaller batches do not help.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        words = str(error).lower()
        is_memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not is_memory and "can't allocate memory" not in words and "out of memory" not in words:
            raise
        if is_placing:
            raise TrainingError(f"the memory is too small for the model: {SMALLER_MODEL}") from error
        raise TrainingError(f"the memory is too small: {memory_advice(arguments)}") from error


def memory_advice(arguments: TrainingArguments) -> str:
    """Which setting to lower first."""
    loop = arguments.loop
    if loop.batch_size > 1:
        half = max(1, loop.batch_size // 2)
        factor = math.ceil(loop.batch_size / half)
        return (
            f"lower loop.batch_size from {loop.batch_size} to {half} and raise loop.accumulation from "
            f"{loop.accumulation} to {loop.accumulation * factor}, which gives the same updates"
        )
    if not loop.activation_checkpointing:
        return "set loop.activation_checkpointing=true: slower, the same numbers"
    if loop.precision == "no":
        return "set loop.precision=bf16"
    return SMALLER_MODEL


__all__ = ["memory_advice", "remedy_for_memory"]
