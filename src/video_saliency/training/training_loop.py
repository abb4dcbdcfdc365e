# SPDX-License-Identifier: Apache-2.0
"""The training loop: one process or many, that can be killed at any moment and goes on with the same losses.

All that is random depends on seed, step and place in the step alone. So a run that goes on equals an unbroken one, and
two processes equal one with twice the accumulation.
"""

from __future__ import annotations

import contextlib
import logging
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType, ProjectConfiguration, gather_object
from torch.utils.data import DataLoader

from video_saliency.training.callbacks import JsonlTracker, ProgressBar, SamplePictures, TrainerCallback
from video_saliency.training.launch_checks import check_processes
from video_saliency.training.memory_remedy import remedy_for_memory
from video_saliency.training.optimization import AveragedWeights, Schedule, make_optimizer
from video_saliency.training.teachers import Teachers
from video_saliency.training.training_arguments import TrainingArguments
from video_saliency.training.training_batches import BatchPlan, StepSampler, derived_seed
from video_saliency.training.training_checkpoints import (
    MODEL,
    BestModels,
    CheckpointFolder,
    RunState,
    TrainingError,
    check_same_run,
    is_sharded,
    keep_trained_weights,
    run_record,
    whole_folder,
    write_run_record,
)
from video_saliency.training.training_data import (
    WindowDataset,
    choose_evenly,
    collate_windows,
    make_settings,
    open_sources,
)
from video_saliency.training.training_inputs import InputMaker
from video_saliency.training.training_model import adapt_model, open_model
from video_saliency.training.training_validation import ValidationResult, Validator
from video_saliency.training.truth_checks import check_selection, check_truth

logger = logging.getLogger(__name__)


class Trainer:
    """A run, from its arguments to a model folder.

    Args:
        arguments: of the run.
        output: its folder; a run that stopped there is gone on with.
        callbacks: besides progress bar and pictures.

    Attributes:
        accelerator: of Accelerate.
        training: the model with its processor.
        state: step, best scores and so on.
        total_steps: of the run.

    Raises:
        ValueError: for arguments that do not fit each other, the data or the folder.
    """

    def __init__(
        self, arguments: TrainingArguments, output: Path, *, callbacks: Sequence[TrainerCallback] = ()
    ) -> None:
        self.arguments, self.output = arguments, output
        self.accelerator = make_accelerator(arguments, output)
        check_processes(self.accelerator.num_processes, wanted=arguments.loop.num_processes)
        self.state = RunState()
        with self.accelerator.main_process_first():
            self.training = open_model(arguments)
        self._open_data()
        self._adapt()
        self._prepare()
        self.callbacks = [SamplePictures(), *callbacks]
        if arguments.record.progress_bar:
            self.callbacks.append(ProgressBar())

    def _open_data(self) -> None:
        """Data sets, samples and their order."""
        arguments, loop = self.arguments, self.arguments.loop
        config = self.training.config
        computes_flow = getattr(self.training.network, "flow", None) is not None
        if arguments.data.synthetic_motion and not computes_flow:
            raise ValueError(
                "data.synthetic_motion makes pairs of frames for a motion stream, and this model computes no flow: "
                "drop it, or set streams and flow_backend in model.config of a GFSalNet"
            )
        settings = make_settings(
            arguments.data,
            config.window_spec,
            self.training.map_size,
            seed=loop.seed,
            flow_pair=config.flow_pair if computes_flow else None,
            audio=getattr(config, "audio_spec", None),
        )
        sigma = arguments.data.density_sigma
        train_items = open_sources(arguments.data.train)
        check_truth(train_items, config, density_sigma=sigma)
        self.dataset = WindowDataset(train_items, self.training.processor, settings)
        self.plan = BatchPlan(
            len(self.dataset), loop.batch_size, loop.accumulation, self.accelerator.num_processes, loop.seed
        )
        self.total_steps = loop.steps or loop.epochs * self.plan.steps_per_epoch
        items = choose_evenly(open_sources(arguments.data.validation), arguments.data.validation_clips)
        self.validator = None
        if not items and arguments.validation.patience is not None and self.accelerator.is_main_process:
            logger.warning(
                "there are no validation data: nothing stops the run early, whatever validation.patience says; give "
                "some by --validation NAME=FOLDER"
            )
        if items:
            check_selection(items, config, arguments.validation, density_sigma=sigma)
            self.validator = Validator(
                items,
                self.training,
                settings,
                windows=arguments.data.validation_windows,
                arguments=arguments.validation,
                batch_size=loop.batch_size,
                accelerator=self.accelerator,
            )

    def _adapt(self) -> None:
        """What is trained of the model. Its base and then the record are written when all else was found right."""
        is_main = self.accelerator.is_main_process
        world = {"samples in a step": self.plan.samples_per_step, "samples": self.plan.num_samples}
        record = run_record(self.arguments, world)
        is_known = check_same_run(self.output, record)
        self.accelerator.wait_for_everyone()  # nobody reads the record while it is made
        adapt_model(self.training, self.output, is_main=is_main, is_new=not is_known)
        if is_main:
            write_run_record(self.output, record)

    def _prepare(self) -> None:
        """Optimizer, averages and checkpoints around the model."""
        arguments, loop = self.arguments, self.arguments.loop
        optimizer = make_optimizer(self.training.model, arguments.optimizer)
        self.schedule = Schedule(
            arguments.optimizer, steps_per_epoch=self.plan.steps_per_epoch, total_steps=self.total_steps
        )
        self.model, self.optimizer = self.accelerator.prepare(self.training.model, optimizer)
        self.training.model = self.accelerator.unwrap_model(self.model)
        self.inputs = InputMaker(self.training, self.accelerator.device)
        wanted = arguments.model
        self.teachers = (
            Teachers(wanted.teachers, wanted.teacher_share, self.training, self.accelerator.device)
            if wanted.teachers
            else None
        )
        self.average = None
        self.accelerator.register_for_checkpointing(self.state)
        if loop.average_decay is not None:
            if is_sharded(self.accelerator):
                raise ValueError("loop.average_decay does not work with a model that is split over processes: drop it")
            self.average = AveragedWeights(
                self.training.model, loop.average_decay, ramp=loop.average_ramp, with_buffers=loop.average_buffers
            )
            self.accelerator.register_for_checkpointing(self.average)
        keep_trained_weights(self.accelerator)
        self.checkpoints = CheckpointFolder(self.output, self.accelerator, limit=arguments.record.checkpoint_limit)
        self.best = BestModels(self.output, self.accelerator)

    def train(self) -> RunState:
        """Runs all steps that remain, validates, and writes the model folder.

        Raises:
            ValueError: if the folder holds a run that is longer already.
            TrainingError: for a loss or gradient that is no number, memory that is too small, or a full disk.
        """
        if self.checkpoints.load_latest() is not None:
            self.best.hold(self._best_steps())
        if self.state.step > self.total_steps:
            raise ValueError(
                f"{self.output} holds a run of {self.state.step} steps, more than the {self.total_steps} asked for: "
                "name another --output, or raise loop.steps or loop.epochs"
            )
        self._start_trackers()
        for callback in self.callbacks:
            callback.on_start(self)
        try:
            with remedy_for_memory(self.arguments):
                self._run_steps()
                self._finish()
        finally:
            for callback in self.callbacks:
                callback.on_end(self)
        return self.state

    def close(self) -> None:
        """Ends trackers and the connection between processes; nothing can be done with the run behind it.

        gloo's threads let go of the last tensors with Python's lock in hand: a process that ends just then is aborted.
        The wrapped model ends those threads when it goes, but waits for them with the lock in its own hand, for ever
        then; Python's own reference waits without it, and so has to go last.
        """
        connection = torch.distributed.group.WORLD if torch.distributed.is_available() else None
        self.accelerator.end_training()
        self.model = self.training.model
        self.accelerator.free_memory()
        del connection

    def _run_steps(self) -> None:
        if self.state.is_stopped:
            return
        loader = self._loader()
        self.training.train_mode()
        while self.state.step < self.total_steps and not self.state.is_stopped:
            started = time.perf_counter()
            values = self._step([next(loader) for _ in range(self.arguments.loop.accumulation)])
            self.state.seconds += time.perf_counter() - started
            for callback in self.callbacks:
                callback.on_step(self, values)
            if self.state.step % self.arguments.record.log_every == 0:
                self.accelerator.log(values, step=self.state.step)
            if self._is_due(self.state.step):
                self._validate()
            if self.state.step % self.arguments.record.checkpoint_every == 0 or self.state.is_stopped:
                self._save_checkpoint()

    def _save_checkpoint(self) -> None:
        self.checkpoints.save(self.state.step)
        self.best.hold(self._best_steps())

    def _best_steps(self) -> list[int]:
        return [int(step) for _, step in self.state.best]

    def _loader(self) -> Iterator[dict[str, Any]]:
        """Batches of this process for all steps that remain; workers load ahead."""
        workers = self.arguments.data.workers
        sampler = StepSampler(self.plan, self.accelerator.process_index, first=self.state.step, last=self.total_steps)
        return iter(
            DataLoader(
                self.dataset,
                batch_sampler=sampler,
                num_workers=workers,
                collate_fn=collate_windows,
                pin_memory=self.accelerator.device.type == "cuda",
            )
        )

    def _step(self, batches: Sequence[dict[str, Any]]) -> dict[str, float]:
        """One update; returns its loss, mean over all processes, and rates."""
        step = self.state.step
        self.schedule.apply(self.optimizer, step)
        losses = []
        for number, batch in enumerate(batches):
            is_last = number == len(batches) - 1
            self.accelerator.sync_gradients = is_last
            place = number * self.accelerator.num_processes + self.accelerator.process_index
            torch.manual_seed(derived_seed(self.arguments.loop.seed, step, place))
            with contextlib.nullcontext() if is_last else self.accelerator.no_sync(self.model):
                with self.accelerator.autocast():
                    inputs = self.inputs.make(batch)
                    if self.teachers is not None:
                        inputs = self.teachers.teach(inputs)
                    loss = self.model(**inputs).loss
                self.accelerator.backward(loss)
            losses.append(loss.detach().float())
        gathered = self.accelerator.gather(torch.stack(losses)).tolist()
        if not all(math.isfinite(value) for value in gathered):
            self._stop_for("loss", batches, losses)
        values = {"loss": math.fsum(gathered) / len(gathered), "epoch": step / self.plan.steps_per_epoch}
        largest = self.arguments.optimizer.max_grad_norm
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), math.inf if largest is None else largest)
        if norm is not None:  # DeepSpeed may keep it to itself
            values["gradient_norm"] = float(norm)
            if not math.isfinite(values["gradient_norm"]):
                self._stop_for("gradient", batches, losses)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.state.step += 1
        if self.average is not None:
            self.average.update(self.training.model, self.state.step)
        for index, group in enumerate(self.optimizer.param_groups):
            values["learning_rate" if index == 0 else f"learning_rate_{index}"] = group["lr"]
        return values

    def _stop_for(self, what: str, batches: Sequence[dict[str, Any]], losses: Sequence[torch.Tensor]) -> None:
        """Ends a run whose loss or gradient is no finite number. Raises `TrainingError` with the windows in it."""
        own = [
            f"{'' if what == 'loss' else 'loss '}{float(loss)} for {', '.join(batch['id'])}"
            for loss, batch in zip(losses, batches, strict=True)
            if what != "loss" or not math.isfinite(float(loss))
        ]
        steps = self.checkpoints.steps()
        last, lock = "start", ""
        if steps:
            last = f"checkpoint of step {steps[-1]}"
            lock = " and name another --output: the run in this one keeps its settings"
        raise TrainingError(
            f"the {what} is no finite number at step {self.state.step + 1} (epoch "
            f"{self.state.step // self.plan.steps_per_epoch + 1}): {'; '.join(gather_object(own))}. Weights were not "
            f"changed by it. Look at these frames and their maps: if a file is damaged, mend it and give the same "
            f"command again, which goes on from the {last}. If they are in order the same command ends here again: "
            f"lower optimizer.learning_rate or set optimizer.max_grad_norm{lock}"
        )

    def _is_due(self, step: int) -> bool:
        """Whether to validate after this step."""
        arguments = self.arguments.validation
        if self.validator is None or step == self.total_steps:
            return self.validator is not None
        every = arguments.every * (self.plan.steps_per_epoch if arguments.unit == "epochs" else 1)
        return every > 0 and step % every == 0

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """The averaged weights in place of the model's own, if there are any."""
        with contextlib.nullcontext() if self.average is None else self.average.in_place(self.training.model):
            yield

    def _validate(self) -> None:
        """Scores, logs, keeps the model if it is among the best, and decides whether to stop."""
        if self.validator is None:
            return
        arguments = self.arguments.validation
        with self._averaged():
            result = self.validator.run(self.model)
            value = self.validator.value(result)
            is_kept = self.state.note(value, self.state.step, result.scores, keep=arguments.keep_best)
            if is_kept:
                self.best.keep(self._best_steps(), self.state.step, self._save_model)
            for callback in self.callbacks:
                callback.on_validation(self, result)
        self._log_validation(result)
        self.state.is_stopped = arguments.patience is not None and self.state.waiting >= arguments.patience
        self.training.train_mode()

    def _log_validation(self, result: ValidationResult) -> None:
        scores = {f"val_{name}": value for name, value in result.scores.items() if math.isfinite(value)}
        self.accelerator.log(scores, step=self.state.step)
        shown = ", ".join(f"{name.removeprefix('val_')} {value:.4f}" for name, value in scores.items())
        if self.accelerator.is_main_process:
            logger.info("step %d: %s (%d frames)", self.state.step, shown, result.num_frames)

    def _save_model(self, folder: Path) -> None:
        """Writes the model as it is now; all processes take part."""
        state = self.accelerator.get_state_dict(self.model) if is_sharded(self.accelerator) else None
        if self.accelerator.is_main_process:
            self.training.save(folder, state_dict=state)

    def _finish(self) -> None:
        """The model folder: the best one, or without validation the last one."""
        if not self.checkpoints.steps() or self.checkpoints.steps()[-1] != self.state.step:
            self._save_checkpoint()
        with self._averaged(), whole_folder(self.output / MODEL, self.accelerator) as temporary:
            best = self.best.path(int(self.state.best[0][1])) if self.state.best else None
            if best is None:
                self._save_model(temporary)
            elif self.accelerator.is_main_process:
                for path in best.iterdir():
                    shutil.copyfile(path, temporary / path.name)

    def _start_trackers(self) -> None:
        """Known now, because lines behind the checkpoint are removed from the log."""
        self.accelerator.log_with.append(JsonlTracker(self.output, step=self.state.step))
        self.accelerator.init_trackers("video_saliency", config=_flat(self.arguments.to_dict()))


def make_accelerator(arguments: TrainingArguments, output: Path) -> Accelerator:
    """The Accelerator of a run.

    With DeepSpeed the size of a batch is told to it: it sees no data loader of Accelerate.

    Raises:
        ValueError: for a tracker that is unknown or not installed.
    """
    loop = arguments.loop
    _check_trackers(arguments.record.trackers)
    accelerator = Accelerator(
        cpu=loop.device == "cpu",
        mixed_precision=loop.precision,
        gradient_accumulation_steps=loop.accumulation,
        log_with=list(arguments.record.trackers) or None,
        project_config=ProjectConfiguration(project_dir=str(output), logging_dir=str(output / "trackers")),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=loop.find_unused_parameters)],
    )
    if accelerator.state.deepspeed_plugin is not None:
        settings = accelerator.state.deepspeed_plugin.deepspeed_config
        settings["train_micro_batch_size_per_gpu"] = loop.batch_size
    return accelerator


def _check_trackers(names: Sequence[str]) -> None:
    """Accelerate warns of a missing tracker and trains without it."""
    known = [str(tracker.value) for tracker in LoggerType]
    available = [*(str(tracker.value) for tracker in get_available_trackers()), LoggerType.ALL.value]
    for name in names:
        if name not in known:
            raise ValueError(f"record.trackers: {name!r} is unknown: choose from {', '.join(known)}")
        if name not in available:
            raise ValueError(f"record.trackers: {name} is not installed: pip install {name}")


def _flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one mapping of plain values, as trackers want them."""
    flat: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value if isinstance(value, int | float | str | bool) else str(value)
    return flat


__all__ = ["Trainer", "make_accelerator"]
