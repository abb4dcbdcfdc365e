# SPDX-License-Identifier: Apache-2.0
"""Whether as many processes run as the launcher was asked for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import psutil
import yaml
from accelerate.commands.config import default_config_file


def check_processes(num_processes: int, *, wanted: int | None = None) -> None:
    """Makes sure that as many processes run as were asked for.

    `accelerate launch --cpu --num_processes 2` starts a single one and says nothing, and so does a configuration with
    `use_cpu: true`; its command line tells.

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
    """The number of processes that the `accelerate launch` which started this process was told; `None` without one.

    That is its `--num_processes`, else the one in the file of its `--config_file`, else the one in the file that
    `accelerate config` writes, which it reads without `--cpu`.
    """
    try:
        launcher = psutil.Process(os.getppid())
        words, home = launcher.cmdline(), Path(launcher.cwd())
    except psutil.Error:
        return None
    if "launch" not in words or not any("accelerate" in word for word in words):
        return None
    if (number := _option(words, "--num_processes")) is not None:
        return int(number) if number.isdigit() else None
    if (file := _option(words, "--config_file")) is not None:
        return _number_in(home / file)
    return None if "--cpu" in words else _number_in(Path(default_config_file))


def _option(words: Sequence[str], wanted: str) -> str | None:
    """The value of an option in a command line."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, separator, value = word.partition("=")
        if name.startswith("--") and name[2:].replace("-", "_") == wanted[2:]:
            return value if separator else following
    return None


def _number_in(path: Path) -> int | None:
    """`num_processes` of an Accelerate configuration, which may be JSON; `None` if it says nothing."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    number = content.get("num_processes") if isinstance(content, dict) else None
    return number if isinstance(number, int) else None


__all__ = ["check_processes", "processes_asked_for"]
