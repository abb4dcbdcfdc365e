# SPDX-License-Identifier: Apache-2.0
"""Which samples are seen when, by which process: a plan that depends on the seed alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

SEED_STRIDE = 1_000_003  # keys of neighbouring seeds do not meet


def derived_seed(seed: int, epoch: int, number: int) -> int:
    """The seed of torch for one sample of an epoch, or one place in a step: below 2^63, whatever the run's seed is."""
    return ((seed * SEED_STRIDE + epoch) * SEED_STRIDE + number) % 2**63


class SampleKey(NamedTuple):
    """Which sample: its epoch, from 0, and its number in the data."""

    epoch: int
    number: int


@dataclass(frozen=True)
class BatchPlan:
    """Which samples each process sees in each forward, the same in all for equal products of processes and forwards.

    Attributes:
        num_samples: in an epoch.
        batch_size, accumulation, num_processes: as in `LoopArguments`.
        seed: of the order.
    """

    num_samples: int
    batch_size: int
    accumulation: int
    num_processes: int
    seed: int

    @property
    def samples_per_step(self) -> int:
        return self.batch_size * self.accumulation * self.num_processes

    @property
    def steps_per_epoch(self) -> int:
        """Whole steps; samples that are left over come in another epoch, whose order is another one."""
        return max(1, self.num_samples // self.samples_per_step)

    def keys(self, step: int) -> list[SampleKey]:
        """All samples of a step. With less data than a step needs they are repeated."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng((self.seed, epoch)).permutation(self.num_samples)
        first = place * self.samples_per_step
        return [SampleKey(epoch, int(order[(first + i) % self.num_samples])) for i in range(self.samples_per_step)]

    def of_process(self, step: int, forward: int, process: int) -> list[SampleKey]:
        """Samples of one forward in one process."""
        start = (forward * self.num_processes + process) * self.batch_size
        return self.keys(step)[start : start + self.batch_size]


class StepSampler(Sampler[list[SampleKey]]):
    """Batches of keys of one process, from step `first` up to `last`."""

    def __init__(self, plan: BatchPlan, process: int, *, first: int, last: int) -> None:
        self.plan, self.process, self.first, self.last = plan, process, first, last

    def __len__(self) -> int:
        return max(0, self.last - self.first) * self.plan.accumulation

    def __iter__(self) -> Iterator[list[SampleKey]]:
        for step in range(self.first, self.last):
            for forward in range(self.plan.accumulation):
                yield self.plan.of_process(step, forward, self.process)


__all__ = ["BatchPlan", "SampleKey", "StepSampler", "derived_seed"]
