# SPDX-License-Identifier: Apache-2.0
"""Optimizers with rates for groups of parameters, schedules that depend on the step alone, and averaged weights."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from video_saliency.training.lora import plain_name
from video_saliency.training.training_arguments import OptimizerArguments


def make_optimizer(model: nn.Module, arguments: OptimizerArguments) -> torch.optim.Optimizer:
    """The optimizer of all trained parameters; each of its groups holds its largest rate as `peak`.

    Raises:
        ValueError: if a group's pattern is found in no name.
    """
    groups: dict[tuple[int, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        plain = plain_name(name)
        matching = (index for index, group in enumerate(arguments.groups) if re.search(group.pattern, plain))
        decays = arguments.decay_vectors or parameter.ndim > 1
        groups.setdefault((next(matching, -1), decays), []).append(parameter)
    found = {index for index, _ in groups}
    for index, group in enumerate(arguments.groups):
        if index not in found:
            raise ValueError(f"optimizer.groups[{index}]: no trained parameter has {group.pattern!r} in its name")
    settings = []
    for (index, decays), parameters in sorted(groups.items()):
        rate, decay = arguments.learning_rate, arguments.weight_decay
        if index >= 0:
            group = arguments.groups[index]
            rate = group.learning_rate
            decay = decay if group.weight_decay is None else group.weight_decay
        settings.append({"params": parameters, "lr": rate, "peak": rate, "weight_decay": decay if decays else 0.0})
    kind = torch.optim.Adam if arguments.name == "adam" else torch.optim.AdamW
    return kind(
        settings, lr=arguments.learning_rate, betas=(arguments.betas[0], arguments.betas[1]), eps=arguments.epsilon
    )


class Schedule:
    """The share of its largest rate that a group has at a step.

    Args:
        arguments: which schedule.
        steps_per_epoch: updates in an epoch.
        total_steps: updates in all.
    """

    def __init__(self, arguments: OptimizerArguments, *, steps_per_epoch: int, total_steps: int) -> None:
        self.arguments, self.total_steps = arguments, total_steps
        per_unit = {"steps": 1, "epochs": steps_per_epoch}
        self.warmup_steps = round(arguments.warmup * per_unit[arguments.warmup_unit])
        self.step_every = arguments.step_every * per_unit[arguments.step_unit]

    def rate(self, step: int, peak: float) -> float:
        """The learning rate at a step, counted from 0.

        The warm-up ends at the peak. The cosine begins there and reaches its end behind the last step.
        """
        arguments = self.arguments
        if step < self.warmup_steps:
            share = step / self.warmup_steps
            return peak * (arguments.warmup_start + (1 - arguments.warmup_start) * share)
        if arguments.schedule == "step":
            return float(peak * arguments.step_factor ** (step // self.step_every))
        if arguments.schedule == "cosine":
            share = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
            low = arguments.final_learning_rate
            return low + (peak - low) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
        return peak

    def apply(self, optimizer: Any, step: int) -> None:
        """Sets the rates of all groups for a step."""
        for group in optimizer.param_groups:
            group["lr"] = self.rate(step, group["peak"])


class AveragedWeights:
    """An exponential average of the trained parameters, in float32.

    Args:
        model: whose parameters are averaged.
        decay: share of the average that an update keeps.
        ramp: keep less at first: (1 + step) / (10 + step) until that exceeds `decay`.
        with_buffers: average floating-point buffers as well.
    """

    def __init__(self, model: nn.Module, decay: float, *, ramp: bool = False, with_buffers: bool = False) -> None:
        self.decay, self.ramp, self.with_buffers = decay, ramp, with_buffers
        self.values = {name: value.detach().clone() for name, value in self._current(model).items()}

    def update(self, model: nn.Module, step: int) -> None:
        """Takes the weights in after update number `step`, counted from 1."""
        decay = min(self.decay, (1 + step) / (10 + step)) if self.ramp else self.decay
        for name, value in self._current(model).items():
            self.values[name].lerp_(value.detach().to(self.values[name].dtype), 1 - decay)

    @contextlib.contextmanager
    def in_place(self, model: nn.Module) -> Iterator[None]:
        """The model holds the averages inside of the context, and its own weights again behind it."""
        current = self._current(model)
        own = {name: value.detach().clone() for name, value in current.items()}
        try:
            for name, value in current.items():
                value.data.copy_(self.values[name])
            yield
        finally:
            for name, value in current.items():
                value.data.copy_(own[name])

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self.values

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        for name, value in self.values.items():
            value.copy_(state[name])

    def _current(self, model: nn.Module) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {
            name: value for name, value in model.named_parameters() if value.requires_grad
        }
        if self.with_buffers:
            found |= {name: value for name, value in model.named_buffers() if value.is_floating_point()}
        return found


__all__ = ["AveragedWeights", "Schedule", "make_optimizer"]
