# SPDX-License-Identifier: Apache-2.0
"""What to do when the memory is too small."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from video_saliency.training.training_arguments import TrainingArguments
from video_saliency.training.training_checkpoints import TrainingError

SMALLER_MODEL = "train fewer weights (lora.enabled, model.freeze), or split the model: examples/accelerate/fsdp2.yaml"
NEW_RUN = "; if there are checkpoints in --output already, name another one: other numbers are another run"


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
    """Which setting to change first; with the first two a run goes on from its last checkpoint."""
    loop = arguments.loop
    if loop.batch_size > 1:
        # a divisor, so that an update has as many windows as before
        part = next(size for size in range(loop.batch_size // 2, 0, -1) if loop.batch_size % size == 0)
        return (
            f"lower loop.batch_size from {loop.batch_size} to {part} and raise loop.accumulation from "
            f"{loop.accumulation} to {loop.accumulation * loop.batch_size // part}, so that each update sees the same "
            "windows; the run goes on with that in the same --output"
        )
    if not loop.activation_checkpointing:
        return (
            "set loop.activation_checkpointing=true: slower, the same numbers; the run goes on with that in the same "
            "--output"
        )
    if loop.precision == "no":
        return f"set loop.precision=bf16{NEW_RUN}"
    return f"{SMALLER_MODEL}{NEW_RUN}"


__all__ = ["memory_advice", "remedy_for_memory"]
