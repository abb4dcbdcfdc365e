# SPDX-License-Identifier: Apache-2.0
"""What happens beside the training itself: a log in lines of JSON, a progress bar, pictures of predictions."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.tracking import GeneralTracker, on_main_process
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from video_saliency.atomic_files import atomic_path

if TYPE_CHECKING:
    from video_saliency.training.training_loop import Trainer
    from video_saliency.training.training_validation import ValidationResult

LOG_FILE, SAMPLES = "log.jsonl", "samples"


class TrainerCallback:
    """Is told what happens. Derive from it and override what is wanted; runs in every process."""

    def on_start(self, trainer: Trainer) -> None:
        """Before the first step."""

    def on_step(self, trainer: Trainer, values: dict[str, float]) -> None:
        """After each update, with its loss and rates."""

    def on_validation(self, trainer: Trainer, result: ValidationResult) -> None:
        """After each validation."""

    def on_end(self, trainer: Trainer) -> None:
        """After the last step, or when the run breaks off."""


class JsonlTracker(GeneralTracker):
    """An Accelerate tracker that appends lines of JSON to a file.

    Args:
        folder: where `log.jsonl` lies.
        step: lines of later steps are removed first: a run that goes on writes them again.
    """

    name = "jsonl"
    requires_logging_directory = False
    main_process_only = True

    def __init__(self, folder: Path, *, step: int = 0) -> None:
        super().__init__()
        self.path = folder / LOG_FILE
        self._cut(step)

    @property
    def tracker(self) -> Path:
        return self.path

    @on_main_process
    def _cut(self, step: int) -> None:
        kept = [line for line in read_log(self.path) if line["step"] <= step]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(self.path) as temporary:
            temporary.write_text(text, encoding="utf-8")

    @on_main_process
    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """The settings lie in `run.json`."""
        del values

    @on_main_process
    def log(self, values: dict[str, Any], step: int | None = None, **options: Any) -> None:
        """Appends a line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; one that a killed run left unfinished is dropped."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


class ProgressBar(TrainerCallback):
    """Steps, the loss and the last validation, on stderr of the main process."""

    def __init__(self) -> None:
        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        )
        self.score = ""

    def on_start(self, trainer: Trainer) -> None:
        self.progress.disable = not (trainer.accelerator.is_main_process and sys.stderr.isatty())
        self.progress.start()
        self.task = self.progress.add_task("training", total=trainer.total_steps, completed=trainer.state.step)

    def on_step(self, trainer: Trainer, values: dict[str, float]) -> None:
        text = f"loss {values['loss']:.4f}{self.score}"
        self.progress.update(self.task, completed=trainer.state.step, description=text)

    def on_validation(self, trainer: Trainer, result: ValidationResult) -> None:
        name = trainer.arguments.validation.select_by
        self.score = f"  {name} {result.scores[name]:.4f}"

    def on_end(self, trainer: Trainer) -> None:
        self.progress.stop()


class SamplePictures(TrainerCallback):
    """After each validation a folder `samples/step-…` with frame, people's density and prediction side by side."""

    def on_validation(self, trainer: Trainer, result: ValidationResult) -> None:
        count = trainer.arguments.validation.sample_maps
        if not count or trainer.validator is None:
            return
        pictures = trainer.validator.sample_pictures(trainer.model, count)  # in all processes
        if trainer.accelerator.is_main_process:
            folder = trainer.output / SAMPLES / f"step-{trainer.state.step:08d}"
            folder.mkdir(parents=True, exist_ok=True)
            for name, picture in pictures:
                file_name = re.sub(r"[^\w.-]+", "_", name)
                picture.save(folder / f"{file_name}.png")


__all__ = ["JsonlTracker", "ProgressBar", "SamplePictures", "TrainerCallback", "read_log"]
