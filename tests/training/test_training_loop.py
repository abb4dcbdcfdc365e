# SPDX-License-Identifier: Apache-2.0
"""A run survives being killed, equals itself over processes, and says why it stops."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.utils import LoggerType
from safetensors.torch import load_file
from torch.multiprocessing import ProcessExitedException
from training_factory import in_processes, losses, names_of_threads, run, tiny_arguments, tiny_content, with_validation

from video_saliency.training import launch_checks, training_loop
from video_saliency.training.callbacks import JsonlTracker, ProgressBar, TrainerCallback, read_log
from video_saliency.training.launch_checks import check_processes, processes_asked_for
from video_saliency.training.memory_remedy import memory_advice, remedy_for_memory
from video_saliency.training.recipe_files import merged
from video_saliency.training.training_arguments import TrainingArguments
from video_saliency.training.training_checkpoints import TrainingError, is_disk_full
from video_saliency.training.training_loop import Trainer
from video_saliency.training.training_run import RunOptions, train_recipe
from video_saliency.training.training_validation import Validator


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


class KillAt(TrainerCallback):
    """Ends its process at a step as the kernel would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, trainer, values):
        if trainer.state.step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def train(arguments: TrainingArguments, output: Path, *callbacks: TrainerCallback) -> None:
    """A run in a process of its own."""
    with contextlib.suppress(KeyboardInterrupt):  # from `StopAt`
        Trainer(arguments, output, callbacks=list(callbacks)).train()


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "model" / "model.safetensors")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "loop": {"average_decay": 0.9},
            "optimizer": {"schedule": "cosine", "warmup": 2, "max_grad_norm": 1.0},
            "data": {"workers": 1},
        },
    ],
    ids=["plain", "average, schedule, worker"],
)
def test_a_killed_run_goes_on_with_the_same_losses(data, tmp_path, changes):
    arguments = tiny_arguments(data, **changes)
    run(arguments, tmp_path / "unbroken")
    killed = tmp_path / "killed"
    with pytest.raises(ProcessExitedException, match="SIGKILL"):
        in_processes(1, train, arguments, killed, KillAt(5))
    assert sorted(path.name for path in (killed / "checkpoints").iterdir()) == ["step-00000002", "step-00000004"]

    run(arguments, killed)

    assert len(losses(killed)) == 6
    assert losses(killed) == losses(tmp_path / "unbroken")
    expected, found = weights(tmp_path / "unbroken"), weights(killed)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


class KillWhileSaving(TrainerCallback):
    """Ends its process in the middle of writing the checkpoint of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, trainer, values):
        if trainer.state.step == self.step:
            trainer.accelerator.save_state = self.die_in_the_middle

    def die_in_the_middle(self, folder):
        Path(folder, "model.safetensors").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(data, tmp_path):
    arguments = tiny_arguments(data)
    with pytest.raises(ProcessExitedException, match="SIGKILL"):
        in_processes(1, train, arguments, tmp_path, KillWhileSaving(4))
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {"step-00000002", ".step-00000004.tmp"}
    run(arguments, tmp_path)
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {"step-00000004", "step-00000006"}
    assert sorted(losses(tmp_path)) == [1, 2, 3, 4, 5, 6]


def test_two_processes_equal_one_with_twice_the_accumulation(data, tmp_path):
    alone = tiny_arguments(data, loop={"accumulation": 4})
    together = tiny_arguments(data, loop={"accumulation": 2, "num_processes": 2})
    run(alone, tmp_path / "one")

    in_processes(2, train, together, tmp_path / "two", StopAt(4))
    assert list(losses(tmp_path / "two")) == [1, 2, 3]
    in_processes(2, train, together, tmp_path / "two")
    in_processes(2, train, together, tmp_path / "two again")

    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert two == losses(tmp_path / "two again")  # a run that goes on is exact with two processes as well
    assert list(one) == list(two) == [1, 2, 3, 4, 5, 6]
    assert list(two.values()) == pytest.approx(list(one.values()), abs=1e-5)
    assert two[6] != two[1]


def validate_with_one_batch(arguments: TrainingArguments, output: Path) -> None:
    """A run whose validation is one batch; then each process has other statistics, and a batch."""
    trainer = Trainer(arguments, output)
    trainer.train()
    process = trainer.accelerator.process_index
    for buffer in trainer.training.model.buffers():
        buffer.add_(process)
    trainer.validator.batch_size = 2
    again = trainer.validator.run(trainer.model)
    record = {"first": trainer.state.scores, "again": again.scores, "frames": again.num_frames}
    (output / f"process-{process}.json").write_text(json.dumps(record))
    if sys.platform == "linux":
        assert "pt_gloo_runloop" in names_of_threads()
        trainer.close()
        assert "pt_gloo_runloop" not in names_of_threads()  # it could abort this process at its end


def test_two_processes_validate_one_batch(data, tmp_path):
    arguments = tiny_arguments(
        data,
        data=with_validation(data),
        loop={"steps": 1, "batch_size": 4},  # two windows of each of two clips
        validation={"sample_maps": 1},
    )
    in_processes(2, validate_with_one_batch, arguments, tmp_path)
    records = [json.loads((tmp_path / f"process-{process}.json").read_text()) for process in (0, 1)]
    assert records[0] == records[1] and records[0]["frames"] == 8
    assert records[0]["again"] == pytest.approx(records[0]["first"], abs=1e-5)  # by the statistics that are saved
    assert len(list((tmp_path / "samples").rglob("*.png"))) == 1


class StopAt(TrainerCallback):
    """Ends a run in all processes at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, trainer, values):
        if trainer.state.step == self.step:
            raise KeyboardInterrupt


def test_only_the_newest_checkpoints_are_kept(data, tmp_path):
    arguments = tiny_arguments(data, record={"checkpoint_every": 1, "checkpoint_limit": 3})
    run(arguments, tmp_path)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000004", "step-00000005", "step-00000006"]


def test_a_full_disk_leaves_the_checkpoint_before_it_whole(data, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    class FullDisk(TrainerCallback):
        def on_step(self, trainer, values):
            if trainer.state.step == 3:
                resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, before[1]))

    arguments = tiny_arguments(data)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(TrainingError, match="disk is full.*run the same command again"):
            run(arguments, tmp_path, callbacks=[FullDisk()])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]
    run(arguments, tmp_path)
    assert sorted(losses(tmp_path)) == [1, 2, 3, 4, 5, 6]


def test_a_loss_that_is_no_number_names_the_batch(data, tmp_path):
    class Poison(TrainerCallback):
        def on_step(self, trainer, values):
            if trainer.state.step == 3:
                with torch.no_grad():
                    next(trainer.training.model.parameters()).fill_(torch.nan)

    with pytest.raises(TrainingError, match=r"step 4 .*nan for folder/clip_\d frames \d+\.\.\d+.*step 2"):
        run(tiny_arguments(data), tmp_path, callbacks=[Poison()])


@pytest.mark.parametrize("largest", [None, 1.0])
def test_a_gradient_that_is_no_number_does_not_reach_the_weights(data, tmp_path, largest):
    class PoisonGradient(TrainerCallback):
        def on_step(self, trainer, values):
            if trainer.state.step == 3:
                parameter = next(value for value in trainer.training.model.parameters() if value.requires_grad)
                parameter.register_hook(lambda gradient: gradient * torch.nan)

    arguments = tiny_arguments(data, optimizer={"max_grad_norm": largest}, record={"checkpoint_every": 1})
    message = r"the gradient is no finite number at step 4 .*loss 0?\d\.\d+ for folder/clip_\d frames .*step 3"
    with pytest.raises(TrainingError, match=message):
        run(arguments, tmp_path, callbacks=[PoisonGradient()])
    run(arguments, tmp_path)
    assert all(value.isfinite().all() for value in weights(tmp_path).values())


def dictate(monkeypatch, *scores):
    """The validations of a run give these scores."""
    remaining = iter(scores)
    monkeypatch.setattr(Validator, "value", lambda self, result: next(remaining))


def test_a_run_finds_the_best_models_of_its_checkpoint_again(data, tmp_path, monkeypatch):
    """Scores after the kill may be a little smaller: then the model of before is the best one."""
    every_step = {"every": 1, "unit": "steps", "keep_best": 1}
    arguments = tiny_arguments(data, data=with_validation(data), validation=every_step)
    dictate(monkeypatch, 0.1, 0.5, 0.6)
    with pytest.raises(KeyboardInterrupt):
        run(arguments, tmp_path, callbacks=[StopAt(4)])
    assert (tmp_path / "best" / "step-00000002").is_dir()
    dictate(monkeypatch, 0.49, 0.0, 0.0, 0.0)
    trainer = run(arguments, tmp_path)
    assert trainer.state.best == [[0.5, 2]]
    assert [path.name for path in (tmp_path / "best").iterdir()] == ["step-00000002"]
    best = load_file(tmp_path / "best" / "step-00000002" / "model.safetensors")
    assert all(torch.equal(best[name], value) for name, value in weights(tmp_path).items())


def test_too_little_memory_is_no_full_disk():
    message = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"
    assert not is_disk_full(RuntimeError(message))
    assert is_disk_full(RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"))


def test_another_recipe_in_the_same_folder_is_refused(data, tmp_path):
    run(tiny_arguments(data, loop={"steps": 2}), tmp_path)
    with pytest.raises(ValueError, match=r"other settings \(optimizer.learning_rate\)"):
        run(tiny_arguments(data, loop={"steps": 2}, optimizer={"learning_rate": 1e-5}), tmp_path)


def test_a_folder_without_checkpoints_is_free_for_other_settings(data, tmp_path, monkeypatch):
    monkeypatch.setattr(training_loop.InputMaker, "make", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError()))
    with pytest.raises(TrainingError, match="the memory is too small"):
        run(tiny_arguments(data, loop={"steps": 2}), tmp_path)
    monkeypatch.undo()
    changed = tiny_arguments(data, loop={"steps": 2, "precision": "bf16"}, optimizer={"learning_rate": 1e-5})
    assert run(changed, tmp_path).state.step == 2
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(ValueError, match=r"other settings \(loop.precision, optimizer.learning_rate\)"):
        run(tiny_arguments(data, loop={"steps": 2}), tmp_path)  # its model is not overwritten


def test_the_advice_for_a_loss_that_is_no_number(data, tmp_path):
    """Another folder where there is a checkpoint, else the same one."""
    wild = {"optimizer": {"learning_rate": 1e30}}
    with pytest.raises(TrainingError, match=r"from the start\. .*optimizer.max_grad_norm$"):
        run(tiny_arguments(data, **wild), tmp_path / "a")
    with pytest.raises(TrainingError, match="the same command again.* the same command ends here again"):
        run(tiny_arguments(data, **wild), tmp_path / "a")
    assert run(tiny_arguments(data), tmp_path / "a").state.step == 6

    early = {**wild, "record": {"checkpoint_every": 1}}
    with pytest.raises(TrainingError, match=r"from the checkpoint of step 1\. .* name another --output"):
        run(tiny_arguments(data, **early), tmp_path / "b")
    with pytest.raises(ValueError, match=r"other settings \(optimizer.learning_rate\): name another --output"):
        run(tiny_arguments(data, record={"checkpoint_every": 1}), tmp_path / "b")


def test_a_run_goes_on_with_the_same_windows_shared_out_in_another_way(data, tmp_path):
    still = {"model": {"frozen_batch_norm": ".*"}}
    run(tiny_arguments(data, **still), tmp_path / "unbroken")
    with pytest.raises(KeyboardInterrupt):
        run(tiny_arguments(data, **still), tmp_path / "other", callbacks=[StopAt(4)])
    with pytest.raises(ValueError, match=r"other settings \(world.samples in a step\)"):
        run(tiny_arguments(data, **still, loop={"accumulation": 1}), tmp_path / "other")
    two = tiny_arguments(data, **still, loop={"accumulation": 1, "num_processes": 2})
    in_processes(2, train, two, tmp_path / "other")
    expected, found = losses(tmp_path / "unbroken"), losses(tmp_path / "other")
    assert list(found) == list(expected) == [1, 2, 3, 4, 5, 6]
    assert list(found.values()) == pytest.approx(list(expected.values()), abs=1e-5)


def test_the_same_data_by_another_path_are_the_same(data, tmp_path, monkeypatch):
    run(tiny_arguments(data, loop={"steps": 2}), tmp_path / "run")
    root = tiny_arguments(data).data.train[0].root
    monkeypatch.chdir(data.parent)
    relative = {"dataset": "folder", "split": "train", "root": os.path.relpath(root)}
    assert not Path(relative["root"]).is_absolute()
    assert run(tiny_arguments(data, data={"train": [relative]}, loop={"steps": 2}), tmp_path / "run").state.step == 2
    monkeypatch.chdir(tmp_path)  # and the record does not depend on where the run was started
    assert run(tiny_arguments(data, loop={"steps": 2}), tmp_path / "run").state.step == 2


def test_a_run_may_become_longer_where_its_rates_do_not_look_at_its_end(data, tmp_path):
    run(tiny_arguments(data, loop={"steps": 6}), tmp_path / "whole")
    run(tiny_arguments(data, loop={"steps": 3}), tmp_path / "longer")
    assert run(tiny_arguments(data, loop={"steps": 6}), tmp_path / "longer").state.step == 6
    assert losses(tmp_path / "longer") == losses(tmp_path / "whole")
    with pytest.raises(ValueError, match="holds a run of 6 steps, more than the 3 asked for"):
        run(tiny_arguments(data, loop={"steps": 3}), tmp_path / "longer")
    cosine = {"optimizer": {"schedule": "cosine"}}
    run(tiny_arguments(data, **cosine, loop={"steps": 1}), tmp_path / "cosine")
    with pytest.raises(ValueError, match=r"other settings \(loop.steps\)"):
        run(tiny_arguments(data, **cosine, loop={"steps": 2}), tmp_path / "cosine")


def test_settings_that_do_not_change_the_losses_may_change(data, tmp_path):
    run(tiny_arguments(data, loop={"steps": 2}), tmp_path)
    trainer = run(tiny_arguments(data, loop={"steps": 2}, record={"checkpoint_limit": 1}), tmp_path)
    assert trainer.state.step == 2


def test_early_stopping(data, tmp_path, monkeypatch):
    every_step = {"every": 1, "unit": "steps", "patience": 2}
    arguments = tiny_arguments(data, data=with_validation(data), validation=every_step)
    dictate(monkeypatch, 0.2, 0.3, 0.3, 0.1)
    trainer = run(arguments, tmp_path)
    assert trainer.state.is_stopped and trainer.state.step == 4
    assert trainer.state.best == [[0.3, 2]]
    assert run(arguments, tmp_path).state.step == 4  # and it stays stopped


def test_the_best_models_are_kept(data, tmp_path):
    arguments = tiny_arguments(
        data,
        data=with_validation(data),
        optimizer={"learning_rate": 0.0},
        validation={"every": 1, "unit": "steps", "keep_best": 2, "sample_maps": 1},
    )
    trainer = run(arguments, tmp_path)
    kept = sorted(path.name for path in (tmp_path / "best").iterdir())
    assert kept == sorted(f"step-{int(step):08d}" for _, step in trainer.state.best)
    assert len(kept) == 2
    best = load_file(tmp_path / "best" / f"step-{int(trainer.state.best[0][1]):08d}" / "model.safetensors")
    assert all(torch.equal(best[name], value) for name, value in weights(tmp_path).items())
    pictures = list((tmp_path / "samples").rglob("*.png"))
    assert len(pictures) == trainer.state.step


def test_training_learns(data, tmp_path):
    arguments = tiny_arguments(
        data,
        data={**with_validation(data), "augmentation": "flip"},
        loop={"steps": 60, "accumulation": 2},
        optimizer={"learning_rate": 1e-2},
        validation={"every": 0},
        record={"checkpoint_every": 1000},
    )
    trainer = run(arguments, tmp_path)
    values = list(losses(tmp_path).values())
    assert sum(values[-10:]) < 0.8 * sum(values[:10])
    assert trainer.state.scores["cc"] > 0.2


@pytest.mark.parametrize("changes", [{"precision": "bf16"}, {"activation_checkpointing": True}])
def test_options_of_the_loop(data, tmp_path, changes):
    trainer = run(tiny_arguments(data, loop={**changes, "steps": 2}), tmp_path)
    run(tiny_arguments(data, loop={"steps": 2}), tmp_path / "plain")
    assert list(losses(tmp_path).values()) == pytest.approx(list(losses(tmp_path / "plain").values()), rel=0.05)
    assert all(parameter.dtype == torch.float32 for parameter in trainer.training.model.parameters())


class Watch(TrainerCallback):
    """Types of the outputs of one layer of the backbone, and the norm of each gradient that is used."""

    def __init__(self) -> None:
        self.dtypes: list[torch.dtype] = []
        self.norms: list[float] = []

    def on_start(self, trainer):
        network = trainer.training.network
        trunk = network.streams["appearance"].trunk
        layer = [module for module in trunk.modules() if isinstance(module, torch.nn.Conv2d)][-1]
        layer.register_forward_hook(lambda module, inputs, output: self.dtypes.append(output.dtype))
        step = trainer.optimizer.step

        def watched_step() -> None:
            gradients = [value.grad for value in network.parameters() if value.grad is not None]
            self.norms.append(float(torch.nn.utils.get_total_norm(gradients)))
            step()

        trainer.optimizer.step = watched_step


@pytest.mark.parametrize(
    ("changes", "dtype", "calls"),
    [
        ({}, torch.float32, 4),
        ({"loop": {"precision": "bf16"}}, torch.bfloat16, 4),
        ({"loop": {"activation_checkpointing": True}}, torch.float32, 8),  # once more in each backward pass
    ],
    ids=["plain", "bf16", "activation checkpointing"],
)
def test_what_a_layer_computes(data, tmp_path, changes, dtype, calls):
    watch = Watch()
    run(tiny_arguments(data, **merged({"loop": {"steps": 2}}, changes)), tmp_path, callbacks=[watch])
    assert watch.dtypes == [dtype] * calls


def test_gradients_are_scaled_down(data, tmp_path):
    free, limited = Watch(), Watch()
    run(tiny_arguments(data), tmp_path / "free", callbacks=[free])
    largest = min(free.norms) / 2
    run(tiny_arguments(data, optimizer={"max_grad_norm": largest}), tmp_path / "limited", callbacks=[limited])
    assert limited.norms == pytest.approx([largest] * 6, rel=1e-3)
    lines = [line["gradient_norm"] for line in read_log(tmp_path / "limited" / "log.jsonl")]
    assert lines[0] == pytest.approx(free.norms[0], rel=1e-5)  # the log tells the norm before


def test_the_progress_bar_shows_steps_and_loss(data, tmp_path):
    arguments = tiny_arguments(
        data, data=with_validation(data), loop={"steps": 3}, record={"progress_bar": True}, validation={"every": 0}
    )
    trainer = run(arguments, tmp_path)
    bar = next(callback for callback in trainer.callbacks if isinstance(callback, ProgressBar))
    (task,) = bar.progress.tasks
    assert (task.completed, task.total) == (3, 3)
    assert task.description == f"loss {losses(tmp_path)[3]:.4f}"
    assert bar.score == f"  cc {trainer.state.scores['cc']:.4f}"


def test_a_kill_while_the_log_is_cut_leaves_the_log(data, tmp_path, monkeypatch):
    run(tiny_arguments(data, loop={"steps": 2}), tmp_path)
    before = (tmp_path / "log.jsonl").read_text()

    def die(path, text, **options):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", die)
    with pytest.raises(KeyboardInterrupt):
        JsonlTracker(tmp_path, step=1)
    assert (tmp_path / "log.jsonl").read_text() == before


def test_trackers_that_are_missing_are_named(data, tmp_path, monkeypatch):
    monkeypatch.setattr(training_loop, "get_available_trackers", lambda: [LoggerType.TENSORBOARD])
    with pytest.raises(ValueError, match="wandb is not installed: pip install wandb"):
        run(tiny_arguments(data, record={"trackers": ["tensorboard", "wandb"]}), tmp_path)
    with pytest.raises(ValueError, match="'wand' is unknown: choose from .*wandb"):
        run(tiny_arguments(data, record={"trackers": ["wand"]}), tmp_path)


def test_seeds_reproduce(data, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(tiny_arguments(data, loop={"steps": 2, "seed": seed}), tmp_path / name)
    assert losses(tmp_path / "a") == losses(tmp_path / "b") != losses(tmp_path / "c")


@pytest.mark.parametrize("seed", [20_260_101, 2**63 - 1])
def test_large_seeds(data, tmp_path, seed):
    run(tiny_arguments(data, loop={"steps": 1, "seed": seed}), tmp_path / "a")
    run(tiny_arguments(data, loop={"steps": 1, "seed": seed - 1}), tmp_path / "b")
    assert losses(tmp_path / "a") != losses(tmp_path / "b")


def test_patience_without_validation_data_stops_nothing_and_says_so(data, tmp_path, caplog):
    one_step = {"loop": {"steps": 1}, "validation": {"patience": 2}}
    assert run(tiny_arguments(data, **one_step), tmp_path / "without").state.step == 1
    warning = "there are no validation data: nothing stops the run early"
    assert [warning in record.getMessage() for record in caplog.records].count(True) == 1
    caplog.clear()
    run(tiny_arguments(data, **one_step, data=with_validation(data)), tmp_path / "with")
    assert warning not in caplog.text


def test_memory_errors_name_the_setting_to_lower(data):
    arguments = tiny_arguments(data, loop={"batch_size": 4, "accumulation": 3})
    with (
        pytest.raises(
            TrainingError, match="lower loop.batch_size from 4 to 2 and raise loop.accumulation from 3 to 6"
        ),
        remedy_for_memory(arguments),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with (
        pytest.raises(TrainingError, match="activation_checkpointing=true"),
        remedy_for_memory(tiny_arguments(data)),
    ):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")
    with (
        pytest.raises(TrainingError, match="too small for the model: train fewer weights"),
        remedy_for_memory(arguments, is_placing=True),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(RuntimeError, match="another error"), remedy_for_memory(arguments):
        raise RuntimeError("another error")
    smallest = tiny_arguments(data, loop={"activation_checkpointing": True, "precision": "bf16"})
    assert "lora.enabled" in memory_advice(smallest)
    odd = tiny_arguments(data, loop={"batch_size": 9, "accumulation": 2})
    assert "from 9 to 3 and raise loop.accumulation from 2 to 6," in memory_advice(odd)


def advised(message: str) -> dict[str, str]:
    """The settings of the loop that a message tells to change, with their new values."""
    changes = re.findall(r"loop\.(\w+)(?: from \d+ to |=)(\w+)", message)
    return {name: yaml.safe_load(value) for name, value in changes}


class OutOfMemoryAt(TrainerCallback):
    """The device is full after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, trainer, values):
        if trainer.state.step == self.step:
            trainer.inputs.make = self.fail

    def fail(self, batch):
        raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"batch_size": 2, "accumulation": 1}, {"batch_size": 1, "accumulation": 2}),
        ({"batch_size": 1, "accumulation": 2}, {"activation_checkpointing": True}),
    ],
)
def test_the_advice_for_memory_makes_the_run_go_on(data, tmp_path, before, after):
    """With the same windows in each update, and so the losses of a run that had the memory."""
    still = {"model": {"frozen_batch_norm": ".*"}}  # batch normalisation would tell one window from two
    run(tiny_arguments(data, **still, loop=before), tmp_path / "enough")
    with pytest.raises(TrainingError, match="the memory is too small") as caught:
        run(tiny_arguments(data, **still, loop=before), tmp_path / "less", callbacks=[OutOfMemoryAt(3)])
    assert advised(str(caught.value)) == after
    assert list(losses(tmp_path / "less")) == [1, 2, 3]

    trainer = run(tiny_arguments(data, **still, loop={**before, **advised(str(caught.value))}), tmp_path / "less")

    assert trainer.state.step == 6
    expected, found = losses(tmp_path / "enough"), losses(tmp_path / "less")
    assert list(found) == list(expected)
    assert list(found.values()) == pytest.approx(list(expected.values()), rel=1e-4)


def test_made_up_motion_is_refused_where_nothing_sees_it(data, tmp_path):
    with pytest.raises(ValueError, match=r"data.synthetic_motion .*computes no flow: drop it"):
        run(tiny_arguments(data, data={"synthetic_motion": True}), tmp_path)


def start_wrongly(recipe: Path, output: Path) -> None:
    with pytest.raises(ValueError, match="3 processes were asked for and 2 run"):
        train_recipe(RunOptions(recipe, output))
    assert not torch.distributed.is_initialized()


def test_processes_that_are_refused_close_their_connection(data, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(tiny_content(data, loop={"num_processes": 3})))
    in_processes(2, start_wrongly, recipe, tmp_path / "run")


def test_another_number_of_processes_than_asked_for_is_refused():
    with pytest.raises(ValueError, match="2 processes were asked for and 1 runs.*torchrun"):
        check_processes(1, wanted=2)
    assert processes_asked_for() is None


CPU_CONFIG = "compute_environment: LOCAL_MACHINE\ndistributed_type: 'NO'\nuse_cpu: true\nnum_processes: 2\n"


def accelerate_launch(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """`accelerate launch` of a script that checks its processes, with `folder/hf` as HF_HOME."""
    script = folder / "script.py"
    load = f"import runpy; found = runpy.run_path({launch_checks.__file__!r})"
    script.write_text(f"{load}\nprint('asked', found['processes_asked_for']())\nfound['check_processes'](1)")
    launch = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    environment["HF_HOME"] = str(folder / "hf")
    command = [*launch, *options, str(script)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, timeout=300)


@pytest.mark.parametrize(
    "options", [["--cpu", "--num_processes", "2"], ["--config_file", "cpu.yaml"], ["--config-file=cpu.yaml"]]
)
def test_accelerate_launch_on_cpus_is_noticed(tmp_path, options):
    """Its real command line: it starts one process, whatever is asked for."""
    (tmp_path / "cpu.yaml").write_text(CPU_CONFIG)
    output = accelerate_launch(tmp_path, *options)
    assert "asked 2" in output.stdout.splitlines(), output.stderr[-2000:]
    assert output.stdout.count("asked") == 1
    assert "2 processes were asked for and 1 runs" in output.stderr


@pytest.mark.parametrize(("options", "asked"), [([], "2"), (["--cpu"], "None"), (["--num_processes", "1"], "1")])
def test_the_file_of_accelerate_config_is_noticed(tmp_path, options, asked):
    """`accelerate launch` reads it by itself, but not with `--cpu`."""
    (tmp_path / "hf" / "accelerate").mkdir(parents=True)
    (tmp_path / "hf" / "accelerate" / "default_config.yaml").write_text(CPU_CONFIG)
    output = accelerate_launch(tmp_path, *options)
    assert output.stdout.splitlines() == [f"asked {asked}"], output.stderr[-2000:]
    assert ("2 processes were asked for and 1 runs" in output.stderr) == (asked == "2")
