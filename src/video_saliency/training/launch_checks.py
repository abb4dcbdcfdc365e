# SPDX-License-Identifier: Apache-2.0
"""Whether as many processes run as the launcher was asked for."""

from __future__ import annotations

import os

import psutil


def check_processes(num_processes: int, *, wanted: int | None = None) -> None:
    """Makes sure that as many processes run as were asked for.

    `accelerate launch --cpu --num_processes 2` starts a single one and says nothing; its command line tells.

    Args:
        num_processes: that run.
        wanted: that the recipe asks for; `None` for what the launcher was asked for.

    Raises:
        ValueError: if there are others than asked for.
    """
    wanted = wanted or processes_asked_for()
    if wanted is not None and wanted != num_processes:
        raise ValueError(
            f"{wanted} processes were asked for and {num_processes} runs: `accelerate launch --cpu` starts one only; "
            f"on CPUs use ACCELERATE_USE_CPU=true torchrun --standalone --nproc_per_node {wanted} SCRIPT ..., on GPUs "
            "a configuration of examples/accelerate"
        )


def processes_asked_for() -> int | None:
    """The `--num_processes` of the `accelerate launch` that started this process; `None` without one."""
    try:
        words = psutil.Process(os.getppid()).cmdline()
    except psutil.Error:
        return None
    if "launch" not in words or not any("accelerate" in word for word in words):
        return None
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, _, value = word.replace("-", "_").partition("=")
        if name == "__num_processes":
            number = value or following
            return int(number) if number.isdigit() else None
    return None


__all__ = ["check_processes", "processes_asked_for"]
