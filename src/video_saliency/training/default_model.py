# SPDX-License-Identifier: Apache-2.0
"""How the embedded model is trained: its appearance on still images, then its sense of motion on made-up pairs.

The three steps are GFSalNet's (paper, section IV-B): the appearance stream is trained on still images, its weights are
copied into the motion stream, and the fusion is trained on motion. No gaze on video is used here, so the third step
leaves the appearance stream as it is and learns on synthetic motion only (our choice).
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from video_saliency.data import StillFixations, fixation_density
from video_saliency.models.gfsalnet.configuration_gfsalnet import GFSalNetConfig
from video_saliency.models.gfsalnet.modeling_gfsalnet import GFSalNetForVideoSaliency
from video_saliency.processing_video_saliency import VideoSaliencyProcessor
from video_saliency.training.still_augmentation import StillAugmentation, augment_stills
from video_saliency.training.synthetic_motion import SyntheticMotion, synthetic_pairs
from video_saliency.training.teachers import mix_densities

logger = logging.getLogger(__name__)

STAGES = ("appearance", "fusion")
STATISTICS_BATCHES = 40  # after which the statistics of normalisation layers are known
FIRST_GATE = 3.0  # before its sigmoid: motion has to earn its weight, stills keep their maps
LOSS = {"cc_loss_weight": 0.5, "nss_loss_weight": 0.0}  # KL + 0.5 (1 - CC)


@dataclass(frozen=True)
class Recipe:
    """All that determines the result, besides the data, the number of threads and the versions."""

    steps: int = 2500
    fusion_steps: int = 600
    seed: int = 3
    batch_size: int = 16
    learning_rate: float = 2e-3
    fusion_learning_rate: float = 1e-3
    weight_decay: float = 0.02
    warmup_steps: int = 150
    average_decay: float = 0.998
    precision: str = "bfloat16"  # of the convolutions while training
    # The truth is blurred by this share of the height: sharper than in scoring, which helps NSS.
    sigma_share: float = 1 / 32
    height: int = 144
    width: int = 192
    cache_height: int = 168  # the pictures are kept a little larger than the input, for the crops
    cache_width: int = 224
    augmentation: dict[str, float] = field(default_factory=lambda: asdict(StillAugmentation()))
    motion: dict[str, float] = field(default_factory=lambda: asdict(SyntheticMotion()))
    config_overrides: dict[str, Any] = field(default_factory=dict)
    # Appearance streams trained with these seeds stand in for a part of the truth: the mean of several networks knows
    # more than the few people who looked at a picture.
    teacher_seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    teacher_share: float = 0.5
    # Set in the finished model, see `GFSalNetConfig`: chosen by scores on sets that were left out of training.
    centre_exponent: float = 0.25
    # So many steps draw the random numbers of seed 0: networks that part only then lie close enough to be averaged.
    shared_steps: int = 0

    @property
    def size(self) -> tuple[int, int]:
        return self.height, self.width

    def of_teacher(self, seed: int) -> Recipe:
        """The recipe of the appearance stream of one teacher."""
        return replace(self, seed=seed, fusion_steps=0, teacher_seeds=[])


@dataclass
class StillCache:
    """The training pictures in memory, small and 8-bit, with densities at half the input size."""

    images: torch.Tensor  # uint8 (images, 3, cache height, cache width)
    densities: torch.Tensor  # float (images, height / 2, width / 2)

    @classmethod
    def load(cls, stills: StillFixations, recipe: Recipe) -> StillCache:
        shrink = VideoSaliencyProcessor(size={"height": recipe.cache_height, "width": recipe.cache_width})
        images = [shrink.resize_frames(stills.load_image(index)[None]) for index in range(len(stills))]
        size = (recipe.height // 2, recipe.width // 2)
        sigma = recipe.sigma_share * size[0]
        points = [stills.fixation_points(index, size) for index in range(len(stills))]
        densities = torch.stack([fixation_density(entry, size, sigma=sigma) for entry in points])
        return cls(torch.cat(images).contiguous(), densities)


class Trainer:
    """Model, optimizer and averaged weights at some step; can be written to a file and read back exactly.

    Args:
        recipe: what is done.
        teachers: finished trainers, one for each of the recipe's `teacher_seeds`; their averaged weights teach.

    Raises:
        ValueError: if there is not one teacher for each seed.
    """

    def __init__(self, recipe: Recipe, *, teachers: Sequence[Trainer] = ()) -> None:
        self.recipe = recipe
        if [teacher.recipe.seed for teacher in teachers] != list(recipe.teacher_seeds):
            raise ValueError(f"the recipe needs teachers of the seeds {recipe.teacher_seeds}, in this order")
        self.teachers = [teacher.averaged_model() for teacher in teachers]
        self.processor = VideoSaliencyProcessor(size={"height": recipe.height, "width": recipe.width})
        self.seconds = dict.fromkeys(STAGES, (0.0, 0.0))  # wall and CPU
        self._start("appearance")

    def _start(self, stage: str) -> None:
        """A new model for a stage, before its first step."""
        torch.manual_seed(0 if self.recipe.shared_steps else self.recipe.seed)
        streams = "appearance" if stage == "appearance" else "both"
        config = GFSalNetConfig.compact(**{**LOSS, **self.recipe.config_overrides, "streams": streams})
        self.model = GFSalNetForVideoSaliency(config).to(memory_format=torch.channels_last)
        if stage == "fusion":
            self.model.streams["appearance"].requires_grad_(False)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        # Biases and the scales of normalisation layers are not pulled to zero.
        decayed = [parameter for parameter in trained if parameter.ndim > 1]
        others = [parameter for parameter in trained if parameter.ndim <= 1]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": self.recipe.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ]
        )
        self.average = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.stage, self.step = stage, 0

    def start_fusion(self) -> None:
        """Both streams begin with the averaged weights of the appearance stage; the first keeps them."""
        appearance = self.average
        self._start("fusion")
        own = self.model.state_dict()
        own.update(appearance)
        self.model.load_state_dict(own)
        self.model.copy_appearance_to_motion()
        with torch.no_grad():
            self.model.fusion.projection.bias.fill_(FIRST_GATE)
        self.average = {name: value.clone() for name, value in self.model.state_dict().items()}

    @property
    def num_steps(self) -> int:
        """Steps of the present stage."""
        return self.recipe.steps if self.stage == "appearance" else self.recipe.fusion_steps

    def learning_rate(self) -> float:
        """Linear warm-up, then half a cosine down to zero."""
        recipe = self.recipe
        peak = recipe.learning_rate if self.stage == "appearance" else recipe.fusion_learning_rate
        warm_up = min(1.0, (self.step + 1) / recipe.warmup_steps)
        return peak * warm_up * 0.5 * (1 + math.cos(math.pi * self.step / self.num_steps))

    def train_step(self, cache: StillCache) -> float:
        """One update; returns the loss. Its randomness depends on seed, stage and step alone: a resumed run agrees."""
        recipe, num_images = self.recipe, len(cache.images)
        stage_number = STAGES.index(self.stage)
        seed = 0 if self.step < recipe.shared_steps else recipe.seed
        generator = torch.Generator().manual_seed((seed * 2 + stage_number) * 1_000_003 + self.step)
        torch.manual_seed((seed * 2 + stage_number) * 1_000_003 + self.step)  # dropout, if the model has any
        epoch, batch = divmod(self.step, num_images // recipe.batch_size)
        order = np.random.default_rng((seed, stage_number, epoch)).permutation(num_images)
        chosen = order[batch * recipe.batch_size : (batch + 1) * recipe.batch_size]
        inputs, densities = self._batch(cache.images[chosen], cache.densities[chosen], generator)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self.model.train()
        if self.stage == "fusion":
            self.model.streams["appearance"].eval()  # its normalisation statistics are kept as well
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bfloat16"):
            loss = self.model(**inputs, saliency_labels=densities[:, None]).loss
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        self._update_average()
        return loss.item()

    def _batch(
        self, images: torch.Tensor, densities: torch.Tensor, generator: torch.Generator
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Inputs of the model, each picture a clip of one frame, and densities at its size."""
        recipe, augmentation = self.recipe, StillAugmentation(**self.recipe.augmentation)
        if self.stage == "appearance":
            frames, truth = augment_stills(
                images, densities, recipe.size, generator=generator, augmentation=augmentation
            )
            pixels = self._normalize(frames)
            return {"pixel_values_videos": pixels}, self._taught(pixels, truth)
        before, frames, truth = synthetic_pairs(
            images,
            densities,
            recipe.size,
            generator=generator,
            motion=SyntheticMotion(**recipe.motion),
            augmentation=augmentation,
        )
        # 8-bit, as frames of a video are
        encoded = [self.model.encode_for_flow(clip.round() / 255) for clip in (frames, before)]
        flow = self.model.flow_values_between(encoded[0], encoded[1], recipe.size)
        flow = flow.contiguous(memory_format=torch.channels_last)
        return {"pixel_values_videos": self._normalize(frames), "flow_values": flow[:, None]}, truth

    @torch.no_grad()
    def _taught(self, pixels: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        """The truth, mixed with the mean of the teachers' maps as densities; as it is without teachers."""
        if not self.teachers:
            return truth
        with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.precision == "bfloat16"):
            maps = torch.stack([teacher(pixels).saliency_maps[:, 0].float() for teacher in self.teachers])
        return mix_densities(truth, maps, self.recipe.teacher_share)

    def averaged_model(self) -> GFSalNetForVideoSaliency:
        """The model as it will be saved, for inference; this trainer cannot go on afterwards."""
        self.model.load_state_dict(self.average)
        return self.model.eval().requires_grad_(False)

    @torch.no_grad()
    def take_mean(self, states: Sequence[dict[str, torch.Tensor]], cache: StillCache) -> None:
        """Makes the mean of the weights of several appearance streams this trainer's result.

        Means and variances of the normalisation layers do not average: they are measured again on augmented training
        pictures. (Izmailov et al., "Averaging weights leads to wider optima and better generalization", UAI 2018.)
        """
        mean = {
            name: torch.stack([state[name].float() for state in states]).mean(dim=0).to(value.dtype)
            for name, value in self.model.state_dict().items()
        }
        self.model.load_state_dict(mean)
        self.model.train()
        for module in self.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
                module.momentum = None  # plain mean of all batches
        generator = torch.Generator().manual_seed(self.recipe.seed)
        for _ in range(STATISTICS_BATCHES):
            chosen = torch.randperm(len(cache.images), generator=generator)[: self.recipe.batch_size]
            inputs, _ = self._batch(cache.images[chosen], cache.densities[chosen], generator)
            self.model(**inputs)
        self.average = {name: value.clone() for name, value in self.model.state_dict().items()}

    def _normalize(self, frames: torch.Tensor) -> torch.Tensor:
        return self.processor.normalize_frames(frames).contiguous(memory_format=torch.channels_last)[:, None]

    def _update_average(self) -> None:
        # Early weights are forgotten quickly: the decay grows to its final value.
        decay = min(self.recipe.average_decay, (1 + self.step) / (10 + self.step))
        for name, value in self.model.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - decay)
            else:
                self.average[name].copy_(value)

    def train(self, cache: StillCache, *, checkpoint: Path | None = None, checkpoint_every: int = 100) -> list[float]:
        """Runs all steps that remain, of both stages; returns their losses."""
        losses: list[float] = []
        while True:
            if self.step >= self.num_steps:
                if self.stage == "fusion" or self.recipe.fusion_steps == 0:
                    return losses
                self.start_fusion()
            started = time.perf_counter(), time.process_time()
            losses.append(self.train_step(cache))
            wall, cpu = self.seconds[self.stage]
            self.seconds[self.stage] = (
                wall + time.perf_counter() - started[0],
                cpu + time.process_time() - started[1],
            )
            if self.step % 50 == 0:
                mean = np.mean(losses[-50:])
                logger.info("%s step %d: loss %.4f, %.0f s", self.stage, self.step, mean, wall)
            if checkpoint is not None and self.step % checkpoint_every == 0:
                self.save_checkpoint(checkpoint)

    def save_checkpoint(self, path: Path) -> None:
        """Writes everything that a run needs to go on, atomically."""
        state = {
            "recipe": asdict(self.recipe),
            "stage": self.stage,
            "step": self.step,
            "seconds": self.seconds,
            "model": self.model.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        torch.save(state, partial)
        os.replace(partial, path)

    def load_checkpoint(self, path: Path) -> None:
        """Goes on where a checkpoint was written.

        Raises:
            ValueError: if it was written with another recipe.
        """
        state = torch.load(path, weights_only=True)
        if state["recipe"] != asdict(self.recipe):
            raise ValueError(f"{path} was written with other options, {state['recipe']}: repeat them or drop --resume")
        self._start(state["stage"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average = state["average"]
        self.step, self.seconds = state["step"], state["seconds"]


__all__ = ["Recipe", "StillCache", "Trainer"]
