# SPDX-License-Identifier: Apache-2.0
"""Miniature training runs: a tiny GFSalNet on made-up clips, in this process or in new ones."""

from __future__ import annotations

import gc
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, GradientState
from torch.multiprocessing.spawn import start_processes

import video_saliency  # noqa: F401  # registers the models
from video_saliency.training.callbacks import read_log
from video_saliency.training.recipe_files import make_arguments, merged
from video_saliency.training.smoke_data import write_smoke_clips
from video_saliency.training.training_arguments import TrainingArguments
from video_saliency.training.training_loop import Trainer

TINY_ENCODER = {"layer_type": "basic", "embedding_size": 4, "hidden_sizes": [4, 6, 8, 10], "depths": [1, 1, 1, 1]}


def clips(folder: Path) -> Path:
    """Made-up clips in `folder`, once."""
    return folder if (folder / "splits.json").exists() else write_smoke_clips(folder)


def tiny_content(home: Path, /, **changes: Any) -> dict[str, Any]:
    """Sections of a recipe for a tiny appearance stream on clips of two frames."""
    root = str(clips(home))
    content: dict[str, Any] = {
        "model": {
            "architecture": "gfsalnet_saliency",
            "preset": "compact",
            "config": {"streams": "appearance", "encoder_config": TINY_ENCODER, "window": {"num_frames": 2}},
            "processor": {"size": {"height": 32, "width": 48}},
        },
        "data": {
            "train": [{"dataset": "folder", "split": "train", "root": root}],
            "windows": 4,
            "workers": 0,
            "augmentation": "plain",
        },
        "optimizer": {"learning_rate": 3e-3},
        "loop": {"steps": 6, "batch_size": 1, "accumulation": 2, "device": "cpu", "seed": 3},
        "validation": {"sample_maps": 0},
        "record": {"checkpoint_every": 2, "log_every": 1, "progress_bar": False},
    }
    return merged(content, changes)


def tiny_arguments(home: Path, /, **changes: Any) -> TrainingArguments:
    return make_arguments(tiny_content(home, **changes))


def with_validation(data: Path) -> dict[str, Any]:
    """A change that adds validation data."""
    return {"validation": [{"dataset": "folder", "split": "val", "root": str(clips(data))}], "validation_windows": 2}


def reset_accelerate() -> None:
    """Accelerate keeps its state for the life of a process."""
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def run(arguments: TrainingArguments, output: Path, **options: Any) -> Trainer:
    """A whole run in this process."""
    reset_accelerate()
    try:
        trainer = Trainer(arguments, output, **options)
        trainer.train()
        trainer.close()
    finally:
        reset_accelerate()
    return trainer


def losses(output: Path) -> dict[int, float]:
    """The logged loss of each step."""
    return {line["step"]: line["loss"] for line in read_log(output / "log.jsonl") if "loss" in line}


def in_processes(count: int, function: Callable[..., Any], *arguments: Any) -> None:
    """Calls a function of a test module in `count` new processes, joined as `accelerate launch` on CPUs joins them.

    They are spawned: locks and pools of threads that this process holds would not survive a fork.

    Raises:
        ProcessRaisedException: a process raised an error; its traceback is in the message.
        ProcessExitedException: a process ended in another way, told by `signal_name` and `exit_code`.
        TimeoutError: they did not end in five minutes.
    """
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    threads = max(1, torch.get_num_threads() // count)  # one process alone: as here, so that both round alike
    context = start_processes(
        _joined, (count, port, threads, function, arguments), nprocs=count, join=False, start_method="spawn"
    )
    deadline = time.monotonic() + 300
    try:
        while not context.join(timeout=max(0.0, deadline - time.monotonic())):
            if time.monotonic() >= deadline:
                raise TimeoutError(f"{function.__name__} did not end in five minutes")
    finally:
        for process in context.processes:
            process.kill()


def _joined(
    rank: int, count: int, port: int, threads: int, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(threads)
    os.environ.update(ACCELERATE_USE_CPU="true")
    if count > 1:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count))
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    try:
        function(*arguments)
    finally:  # as in `Trainer.close`, also where the function made no trainer, or did not close it
        if torch.distributed.is_initialized():
            connection = torch.distributed.group.WORLD
            torch.distributed.destroy_process_group()
            gc.collect()
            del connection


def names_of_threads() -> list[str]:
    """Of this process, those of C++ among them; on Linux."""
    return [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
