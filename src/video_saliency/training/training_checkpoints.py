# SPDX-License-Identifier: Apache-2.0
"""Checkpoints to go on from, and the best models: folders that appear under their names only when they are whole."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from safetensors import SafetensorError

from video_saliency.atomic_files import atomic_path
from video_saliency.defaults import DEFAULT_NAME, is_default_model, named_model
from video_saliency.training.training_arguments import TrainingArguments

logger = logging.getLogger(__name__)

CHECKPOINTS, BEST, MODEL, RECORD = "checkpoints", "best", "model", "run.json"
_NAME = re.compile(r"step-(\d{8})")
# what may differ between a run and the one that goes on with it: nothing that changes the losses of its updates;
# how the windows of an update are shared out is free as long as there are as many, see `world`
FREE_SETTINGS = (
    ("title",),
    ("license",),
    ("notes",),
    ("record",),
    ("data", "workers"),
    ("loop", "batch_size"),
    ("loop", "accumulation"),
    ("loop", "num_processes"),
    ("loop", "activation_checkpointing"),
    ("loop", "find_unused_parameters"),
    ("loop", "device"),
    ("lora", "merge"),
    ("lora", "base_model"),
)


class TrainingError(RuntimeError):
    """A run ended before its end; the message says why and what to do."""


@dataclass
class RunState:
    """Where a run is, besides weights and optimizer.

    Attributes:
        step: updates made.
        best: (score, step) of the best validations, best first.
        waiting: validations since the best one.
        scores: of the best validation.
        is_stopped: whether early stopping ended the run.
        seconds: spent in training steps.
    """

    step: int = 0
    best: list[list[float]] = field(default_factory=list)
    waiting: int = 0
    scores: dict[str, float] = field(default_factory=dict)
    is_stopped: bool = False
    seconds: float = 0.0

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)

    def note(self, score: float, step: int, scores: dict[str, float], *, keep: int) -> bool:
        """Takes a validation in; whether it is among the `keep` best."""
        if score != score:  # NaN: nothing could be scored
            self.waiting += 1
            return False
        is_best = not self.best or score > self.best[0][0]
        self.waiting = 0 if is_best else self.waiting + 1
        if is_best:
            self.scores = dict(scores)
        # of equal scores the earlier one is better
        self.best = sorted([*self.best, [score, step]], key=lambda entry: (-entry[0], entry[1]))[:keep]
        return [score, step] in self.best


class CheckpointFolder:
    """The checkpoints of a run.

    Args:
        root: folder of the run.
        accelerator: saves and loads; the processes of a run share the folder.
        limit: so many of the latest are kept.
    """

    def __init__(self, root: Path, accelerator: Accelerator, *, limit: int) -> None:
        self.home, self.accelerator, self.limit = root / CHECKPOINTS, accelerator, limit

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        return checkpoint_steps(self.home.parent)

    def save(self, step: int) -> None:
        """Writes a checkpoint, then removes those beyond the limit. The older ones stay whole if it fails.

        Raises:
            TrainingError: if the disk is full.
        """
        with whole_folder(self.home / step_name(step), self.accelerator) as temporary:
            self.accelerator.save_state(str(temporary))
        if self.accelerator.is_main_process:
            for old in self.steps()[: -self.limit]:
                remove_folder(self.home / step_name(old))
        self.accelerator.wait_for_everyone()

    def load_latest(self) -> int | None:
        """Goes back to the last complete checkpoint and returns its step; `None` without one."""
        steps = self.steps()
        if self.accelerator.is_main_process:
            remove_leftovers(self.home)
        self.accelerator.wait_for_everyone()
        if not steps:
            return None
        options = {} if is_sharded(self.accelerator) else {"strict": False}
        self.accelerator.load_state(str(self.home / step_name(steps[-1])), **options)
        return steps[-1]


def checkpoint_steps(root: Path) -> list[int]:
    """Steps of the complete checkpoints in the folder of a run, ascending."""
    home = root / CHECKPOINTS
    names = (_NAME.fullmatch(path.name) for path in home.iterdir()) if home.is_dir() else ()
    return sorted(int(name[1]) for name in names if name)


def keep_trained_weights(accelerator: Accelerator) -> None:
    """Checkpoints hold trained weights and buffers only: what is frozen is loaded from where it came from."""
    if is_sharded(accelerator):
        return

    def drop_frozen(models: list[Any], weights: list[dict[str, torch.Tensor]], folder: str) -> None:
        for model, state in zip(models, weights, strict=True):
            frozen = {name for name, value in model.named_parameters() if not value.requires_grad}
            for name in frozen & state.keys():
                del state[name]

    accelerator.register_save_state_pre_hook(drop_frozen)


def is_sharded(accelerator: Accelerator) -> bool:
    """Whether no process holds the whole model."""
    return accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)


def step_name(step: int) -> str:
    return f"step-{step:08d}"


@contextmanager
def whole_folder(target: Path, accelerator: Accelerator | None = None) -> Iterator[Path]:
    """A hidden folder to write to, which takes the name `target` when all processes are done with it.

    Raises:
        TrainingError: if the disk is full; what was written is removed again.
    """
    temporary = target.with_name(f".{target.name}.tmp")
    is_main = accelerator is None or accelerator.is_main_process

    def meet() -> None:
        if accelerator is not None:
            accelerator.wait_for_everyone()

    try:
        if is_main:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        meet()
        yield temporary
        meet()
        if is_main:
            _flush(temporary)
            if target.exists():
                remove_folder(target)
            os.replace(temporary, target)
            _flush_folder(target.parent)
        meet()
    except (OSError, RuntimeError, SafetensorError) as error:
        if not is_disk_full(error):
            raise
        shutil.rmtree(temporary, ignore_errors=True)
        raise TrainingError(
            f"the disk is full while writing {target}: the checkpoints before it are whole; free some space, then run "
            "the same command again"
        ) from error


def is_disk_full(error: BaseException) -> bool:
    """Whether a library failed for want of space; torch and safetensors tell it in words only."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return True
    if error.__context__ is not None and isinstance(error.__context__, OSError) and is_disk_full(error.__context__):
        return True
    words = ("no space left", "file too large", "disk quota", "file write failed", "unexpected pos", "enforce fail")
    message = str(error).lower()
    return "allocate memory" not in message and any(word in message for word in words)


def remove_folder(folder: Path) -> None:
    """Removes a folder; a kill in the middle leaves a hidden one, which the next run removes."""
    doomed = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(doomed, ignore_errors=True)
    os.replace(folder, doomed)
    shutil.rmtree(doomed)


def remove_leftovers(home: Path) -> None:
    """Removes what killed runs left half written."""
    for path in home.glob(".step-*") if home.is_dir() else ():
        shutil.rmtree(path, ignore_errors=True)


def run_record(arguments: TrainingArguments, world: dict[str, Any]) -> dict[str, Any]:
    """What a run was told, and what else decides about its losses, such as samples in a step; JSON types.

    Folders are named from the root of the file system, for the same data or model may be given by another path; the
    embedded model, which lies elsewhere in another installation, is `default`.
    """
    record: dict[str, Any] = json.loads(json.dumps({"arguments": arguments.to_dict(), "world": world}))
    data = record["arguments"]["data"]
    for place in (*data["train"], *data["validation"], data):
        for name in place.keys() & {"root", "clips", "flow_root"}:
            place[name] = None if place[name] is None else str(Path(place[name]).resolve())
    model, lora = record["arguments"]["model"], record["arguments"]["lora"]
    for place, name in ((model, "name_or_path"), (lora, "base_model")):
        place[name] = None if place[name] is None else _model_place(named_model(place[name]))
    model["weights_from"] = {pattern: _model_place(name) for pattern, name in model["weights_from"].items()}
    model["teachers"] = [_model_place(name) for name in model["teachers"]]
    return record


def _model_place(name: str) -> str:
    """A model's folder from the root of the file system, `default`, or its Hub id."""
    if not Path(name).is_dir():
        return name
    return DEFAULT_NAME if is_default_model(name) else str(Path(name).resolve())


def check_same_run(root: Path, own: dict[str, Any]) -> bool:
    """Whether the folder `root` is that of the run with the record `own`.

    It is not if it holds no record, or nothing that training made: then other settings may be tried in it.

    Raises:
        ValueError: for a folder with another run.
    """
    path = root / RECORD
    if not path.exists() or not (checkpoint_steps(root) or (root / MODEL).exists()):
        return False
    before = json.loads(path.read_text(encoding="utf-8"))
    different = sorted(_differences(_deciding(before), _deciding(own), ""))
    if different:
        raise ValueError(
            f"{root} holds a run with other settings ({', '.join(different)}): name another --output, or repeat "
            "its command"
        )
    return True


def write_run_record(root: Path, own: dict[str, Any]) -> None:
    """Makes `root` the folder of a run."""
    root.mkdir(parents=True, exist_ok=True)
    with atomic_path(root / RECORD) as temporary:
        temporary.write_text(json.dumps(own, indent=1) + "\n", encoding="utf-8")


def _deciding(content: dict[str, Any]) -> dict[str, Any]:
    arguments = {name: dict(part) if isinstance(part, dict) else part for name, part in content["arguments"].items()}
    for *sections, name in FREE_SETTINGS:
        place = arguments[sections[0]] if sections else arguments
        place.pop(name, None)
    if arguments["optimizer"]["schedule"] != "cosine":  # the others do not look at the end: a run may become longer
        for name in ("steps", "epochs"):
            arguments["loop"].pop(name, None)
    return {**arguments, "world": content["world"]}


def _differences(before: Any, now: Any, place: str) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for name in {*before, *now}:
            yield from _differences(before.get(name), now.get(name), f"{place}.{name}" if place else name)
    elif before != now:
        yield place


def _flush(folder: Path) -> None:
    """Makes sure that files are on the disk before the folder gets its name: power may fail."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    if os.name == "posix":  # elsewhere folders cannot be opened
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class BestModels:
    """The models of the best validations, as folders that load by themselves.

    Args:
        root: folder of the run.
        accelerator: of the run.

    Attributes:
        held: steps of the models that the last checkpoint names: a run that goes on from it needs them.
    """

    def __init__(self, root: Path, accelerator: Accelerator) -> None:
        self.home, self.accelerator = root / BEST, accelerator
        self.held: set[int] = set()

    def path(self, step: int) -> Path:
        return self.home / step_name(step)

    def keep(self, steps: list[int], step: int, save: Callable[[Path], None]) -> None:
        """Saves the model of `step`, and removes those that neither `steps` nor the last checkpoint name."""
        with whole_folder(self.path(step), self.accelerator) as temporary:
            save(temporary)
        self._prune({*steps, *self.held})

    def hold(self, steps: list[int]) -> None:
        """To be called when a checkpoint that names `steps` was saved or loaded: all other models are removed."""
        self.held = set(steps)
        self._prune(self.held)

    def _prune(self, steps: set[int]) -> None:
        if self.accelerator.is_main_process:
            for path in self.home.glob("step-*"):
                name = _NAME.fullmatch(path.name)
                if name and int(name[1]) not in steps:
                    remove_folder(path)
            remove_leftovers(self.home)
        self.accelerator.wait_for_everyone()


__all__ = [
    "BestModels",
    "CheckpointFolder",
    "RunState",
    "TrainingError",
    "check_same_run",
    "checkpoint_steps",
    "is_disk_full",
    "keep_trained_weights",
    "run_record",
    "whole_folder",
    "write_run_record",
]
