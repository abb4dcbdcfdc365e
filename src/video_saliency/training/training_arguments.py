# SPDX-License-Identifier: Apache-2.0
"""What a training run is told: the sections of a recipe, see `recipe_files`, as dataclasses."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

LARGEST_SEED = 2**63 - 1
# smallest value, largest one (`None`: any finite one), and whether the smallest is outside; a value `None` stands for
# what its setting says
RANGES: dict[str, tuple[float, float | None, bool]] = {
    "model.teacher_share": (0, 1, False),
    "lora.rank": (1, None, False),
    "lora.alpha": (1, None, False),
    "data.validation_windows": (1, None, False),
    "data.validation_clips": (1, None, False),
    "data.density_sigma": (0, 1, True),
    "data.fixation_radius": (0, None, False),
    "data.workers": (0, None, False),
    "optimizer.learning_rate": (0, None, False),
    "optimizer.weight_decay": (0, None, False),
    "optimizer.epsilon": (0, None, True),
    "optimizer.max_grad_norm": (0, None, True),
    "optimizer.step_every": (1, None, False),
    "optimizer.step_factor": (0, None, True),
    "optimizer.warmup": (0, None, False),
    "optimizer.warmup_start": (0, 1, False),
    "optimizer.final_learning_rate": (0, None, False),
    "loop.epochs": (1, None, False),
    "loop.steps": (1, None, False),
    "loop.batch_size": (1, None, False),
    "loop.accumulation": (1, None, False),
    "loop.seed": (0, LARGEST_SEED, False),
    "loop.num_processes": (1, None, False),
    "validation.every": (0, None, False),
    "validation.patience": (1, None, False),
    "validation.keep_best": (1, None, False),
    "validation.sample_maps": (0, None, False),
    "record.checkpoint_every": (1, None, False),
    "record.checkpoint_limit": (1, None, False),
    "record.log_every": (1, None, False),
}


@dataclass(frozen=True)
class DataSource:
    """A data set, or a part of it.

    Attributes:
        dataset: name, see `video_saliency.data.DATASETS`; `folder` is a plain folder, `stills` a prepared one.
        split: the part; `None` for all.
        root: its folder. Recipes leave it open, the command line fills it in.
        clips: a text file with the names of the only clips wanted.
    """

    dataset: str
    split: str | None = None
    root: str | None = None
    clips: str | None = None


@dataclass(frozen=True)
class ModelArguments:
    """Which model is trained, and what of it.

    Attributes:
        architecture: `model_type` of a model of this package; not needed with `name_or_path`.
        name_or_path: folder or Hub id to start from, or `default`, the embedded model. `None`: fresh
            weights.
        preset: name of a constructor of the config class, such as `compact`; `None` for the class itself.
        config: fields of the config.
        new_layers: with `name_or_path`, regular expressions of the weights that it may lack; they start fresh.
        weights_from: regular expressions of weights that come from another folder or Hub id: `{pattern: folder}`.
        processor: fields of the `VideoSaliencyProcessor` of a fresh model.
        dtype: in which frozen weights are held, batch normalisations excepted; what is trained is float32 always.
            `"bfloat16"` needs `loop.precision="bf16"`.
        copy_appearance: GFSalNet: start the motion stream with the weights of the appearance stream.
        first_gate: GFSalNet: the gate's bias at the start; `None` leaves it at 0.
        freeze: regular expressions of parameters that are not trained.
        evaluation_mode: regular expressions of modules that stay in evaluation mode.
        frozen_batch_norm: regular expression of the batch normalisations that keep their statistics.
        teachers: folders or Hub ids of models of the same input, whose mean map stands in for a part of the truth.
        teacher_share: that part, 0 to 1.
    """

    architecture: str | None = None
    name_or_path: str | None = None
    preset: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    new_layers: list[str] = field(default_factory=list)
    weights_from: dict[str, str] = field(default_factory=dict)
    processor: dict[str, Any] = field(default_factory=dict)
    dtype: Literal["float32", "bfloat16"] = "float32"
    copy_appearance: bool = False
    first_gate: float | None = None
    freeze: list[str] = field(default_factory=list)
    evaluation_mode: list[str] = field(default_factory=list)
    frozen_batch_norm: str | None = None
    teachers: list[str] = field(default_factory=list)
    teacher_share: float = 0.5


@dataclass(frozen=True)
class LoraArguments:
    """Low-rank adapters in the backbone, through PEFT; the decoder is trained whole.

    Attributes:
        enabled: whether there are any.
        rank, alpha, dropout: of the adapters; updates are scaled by alpha / rank.
        targets: regular expression of the adapted modules, matched against the whole name; `None`: the architecture's.
        merge: write a plain model with the adapters merged in, beside the adapter.
        base_model: what the adapter names as its base; `None`: where it was loaded from. Needed before an upload.
    """

    enabled: bool = False
    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    targets: str | None = None
    merge: bool = False
    base_model: str | None = None


@dataclass(frozen=True)
class DataArguments:
    """What is trained on, and how windows are cut.

    Attributes:
        train, validation: data sets; several are joined.
        windows: windows of each clip in an epoch, at random places; `"all"`: one after the other from its start.
        short_clips: how training clips that are shorter than a window go on: `"repeat"` the last frame, or `"cycle"`
            from the first one; `None`: as the model's window says, which rules validation and inference. Not for
            models that describe the last frame: there the first one is repeated in front.
        validation_windows: evenly spaced windows of each clip.
        validation_clips: at most so many clips, evenly chosen; `None` for all.
        density_sigma: densities are Gaussians of this share of the height, above 0 to 1, at the fixations; `None`: the
            data's own.
        fixation_radius: a fixation marks a square of this radius in pixels of the model's maps.
        augmentation: `None`, `"flip"`, `"plain"`, `"strong"`, or fields of a `StillAugmentation`.
        synthetic_motion: stills become pairs of frames with made-up motion.
        flow_root: folder with a folder of `.flo` files for each clip; `None`: the model computes its flow.
        cache_stills: keep shrunk stills in memory.
        workers: processes that load data; 0 loads in the training process.
    """

    train: list[DataSource] = field(default_factory=list)
    validation: list[DataSource] = field(default_factory=list)
    windows: int | str = 1
    short_clips: Literal["repeat", "cycle"] | None = None
    validation_windows: int = 4
    validation_clips: int | None = None
    density_sigma: float | None = None
    fixation_radius: int = 0
    augmentation: str | dict[str, Any] | None = None
    synthetic_motion: bool = False
    flow_root: str | None = None
    cache_stills: bool = False
    workers: int = 2


@dataclass(frozen=True)
class RateGroup:
    """Parameters with a learning rate of their own.

    Attributes:
        pattern: regular expression, searched for in the parameter's name.
        learning_rate: theirs.
        weight_decay: theirs; `None` for the common one.
    """

    pattern: str
    learning_rate: float
    weight_decay: float | None = None


@dataclass(frozen=True)
class OptimizerArguments:
    """How weights are changed.

    Attributes:
        name: of the optimizer.
        learning_rate: of all parameters outside `groups`; the largest of the schedule.
        groups: the first group whose pattern is found in a name counts.
        weight_decay: of all parameters; of matrices and kernels only with `decay_vectors=False`.
        decay_vectors: whether biases and scales decay, too.
        betas, epsilon: of Adam.
        max_grad_norm: gradients are scaled down to this norm; `None`: they are not.
        schedule: `"step"` multiplies by `step_factor` every `step_every`.
        step_every, step_unit, step_factor: of that schedule.
        warmup: length of the linear rise at the start, in `warmup_unit`.
        warmup_unit: steps are updates of the weights.
        warmup_start: share of the rate at the first step.
        final_learning_rate: where the cosine ends.
    """

    name: Literal["adam", "adamw"] = "adamw"
    learning_rate: float = 1e-4
    groups: list[RateGroup] = field(default_factory=list)
    weight_decay: float = 0.0
    decay_vectors: bool = True
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    epsilon: float = 1e-8
    max_grad_norm: float | None = None
    schedule: Literal["constant", "cosine", "step"] = "constant"
    step_every: int = 1
    step_unit: Literal["steps", "epochs"] = "epochs"
    step_factor: float = 0.1
    warmup: float = 0
    warmup_unit: Literal["steps", "epochs"] = "steps"
    warmup_start: float = 0.0
    final_learning_rate: float = 0.0


@dataclass(frozen=True)
class LoopArguments:
    """How long, in what portions and in what precision.

    Attributes:
        epochs: passes through the data; not used with `steps`.
        steps: updates of the weights; `None`: as `epochs` says.
        batch_size: windows in one forward of one process.
        accumulation: forwards of each process before an update: batch_size * accumulation * processes windows in all.
            A run may go on with the same product of other factors; batch normalisation that is trained sees
            batch_size windows at a time all the same.
        seed: of the order of the data, of all their changes, of fresh weights and of dropout; 0 to 2^63 - 1.
        precision: `"bf16"` computes in bfloat16 what autocast allows.
        activation_checkpointing: compute activations again in the backward pass instead of keeping them.
        average_decay: of an exponential average of the trained weights, which is what is validated and saved; 0 to
            below 1.
        average_ramp: the average forgets early weights faster.
        average_buffers: whether statistics of batch normalisation are averaged as well, else they are the last ones.
        device: `"auto"` takes the first accelerator.
        num_processes: refuse to run with another number; `None` for any.
        find_unused_parameters: for models of which a forward may leave parameters out.
    """

    epochs: int = 1
    steps: int | None = None
    batch_size: int = 1
    accumulation: int = 1
    seed: int = 0
    precision: Literal["no", "bf16"] = "no"
    activation_checkpointing: bool = False
    average_decay: float | None = None
    average_ramp: bool = False
    average_buffers: bool = False
    device: Literal["auto", "cpu"] = "auto"
    num_processes: int | None = None
    find_unused_parameters: bool = False


@dataclass(frozen=True)
class ValidationArguments:
    """When and how the model is scored while it is trained.

    Attributes:
        every: in `unit`; 0 only at the end.
        unit: steps are updates of the weights.
        protocol: preset of `video_saliency.metrics`.
        metrics: names in that preset.
        select_by: the metric by which models are compared, or `loss`, that of the validation data.
        patience: stop after so many validations, 1 or more, without a better one; `None`: never.
        keep_best: so many of the best models are kept on disk.
        sample_maps: so many predictions are written as pictures.
    """

    every: int = 1
    unit: Literal["steps", "epochs"] = "epochs"
    protocol: str = "mit"
    metrics: list[str] = field(default_factory=lambda: ["cc", "sim", "nss", "auc_judd"])
    select_by: str = "cc"
    patience: int | None = None
    keep_best: int = 1
    sample_maps: int = 4


@dataclass(frozen=True)
class RecordArguments:
    """What is written down on the way.

    Attributes:
        checkpoint_every: steps between checkpoints to go on from.
        checkpoint_limit: so many of the latest are kept.
        log_every: steps between lines of the log and values for the trackers.
        trackers: names that Accelerate knows, such as `tensorboard` or `wandb`; `log.jsonl` is always written.
        progress_bar: show one.
    """

    checkpoint_every: int = 500
    checkpoint_limit: int = 2
    log_every: int = 10
    trackers: list[str] = field(default_factory=list)
    progress_bar: bool = True


@dataclass(frozen=True)
class TrainingArguments:
    """All sections of a recipe.

    Attributes:
        title: what the recipe is, in a line.
        license: of the trained model, for its card.
        notes: for its card.
    """

    title: str = "a model of video saliency"
    license: str | None = None
    notes: str = ""
    model: ModelArguments = field(default_factory=ModelArguments)
    lora: LoraArguments = field(default_factory=LoraArguments)
    data: DataArguments = field(default_factory=DataArguments)
    optimizer: OptimizerArguments = field(default_factory=OptimizerArguments)
    loop: LoopArguments = field(default_factory=LoopArguments)
    validation: ValidationArguments = field(default_factory=ValidationArguments)
    record: RecordArguments = field(default_factory=RecordArguments)

    def __post_init__(self) -> None:
        self._check_ranges()
        self._check_patterns()
        betas = self.optimizer.betas
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"optimizer.betas must be two numbers from 0 to below 1, got {betas}")
        windows = self.data.windows
        if windows != "all" and (not isinstance(windows, int) or windows < 1):
            raise ValueError(f"data.windows must be at least 1, or 'all', got {windows!r}")
        if self.validation.select_by not in (*self.validation.metrics, "loss"):
            raise ValueError(
                f"validation.select_by must be loss or one of validation.metrics, got {self.validation.select_by!r}"
            )

    def _check_ranges(self) -> None:
        for place, (low, high, is_open) in RANGES.items():
            section, name = place.split(".")
            value = getattr(getattr(self, section), name)
            if value is None:
                continue
            is_above = value > low if is_open else value >= low  # NaN is neither
            if not is_above or not (value < math.inf if high is None else value <= high):
                raise ValueError(f"{place} must be {_range_words(value, low, high, is_open=is_open)}, got {value}")
        for place, value in (("loop.average_decay", self.loop.average_decay), ("lora.dropout", self.lora.dropout)):
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"{place} must be 0 to below 1, got {value}")
        for index, group in enumerate(self.optimizer.groups):
            for name, value in (("learning_rate", group.learning_rate), ("weight_decay", group.weight_decay)):
                if value is not None and not 0 <= value < math.inf:
                    words = _range_words(value, 0, None, is_open=False)
                    raise ValueError(f"optimizer.groups[{index}].{name} must be {words}, got {value}")

    def _check_patterns(self) -> None:
        model = self.model
        patterns: dict[str, Sequence[str | None]] = {
            "model.freeze": model.freeze,
            "model.evaluation_mode": model.evaluation_mode,
            "model.new_layers": model.new_layers,
            "model.weights_from": list(model.weights_from),
            "model.frozen_batch_norm": [model.frozen_batch_norm],
            "lora.targets": [self.lora.targets],
            "optimizer.groups": [group.pattern for group in self.optimizer.groups],
        }
        for place, pattern in ((place, pattern) for place, found in patterns.items() for pattern in found):
            try:
                re.compile(pattern or "")
            except (re.error, TypeError) as error:
                raise ValueError(f"{place}: {pattern!r} is no regular expression: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """JSON types; `make_arguments(arguments.to_dict()) == arguments`."""
        return dataclasses.asdict(self)


def _range_words(value: float, low: float, high: float | None, *, is_open: bool) -> str:
    """What `value`, which is outside of it, must be."""
    if high is None and value == math.inf:
        return "finite"
    if high is not None:
        return f"above {low}, at most {high}" if is_open else f"{low} to {high}"
    return f"above {low}" if is_open else f"at least {low}"


__all__ = [
    "DataArguments",
    "DataSource",
    "LoopArguments",
    "LoraArguments",
    "ModelArguments",
    "OptimizerArguments",
    "RateGroup",
    "RecordArguments",
    "TrainingArguments",
    "ValidationArguments",
]
