# SPDX-License-Identifier: Apache-2.0
"""The model of a training run: made or loaded, with adapters, and with what of it is trained."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import AutoConfig, AutoModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from video_saliency.conversion import BASE_CONFIG_FIELDS
from video_saliency.loading import load_config, load_model, load_processor, load_record
from video_saliency.processing_video_saliency import VideoSaliencyProcessor
from video_saliency.training.lora import add_lora, backbone_norms, plain_name, save_adapter
from video_saliency.training.training_arguments import ModelArguments, TrainingArguments
from video_saliency.training.training_checkpoints import whole_folder
from video_saliency.weights_record import (
    RECORD,
    Record,
    card_licence,
    join_records,
    with_untrained,
)

BASE_FOLDER = "base"


@dataclass
class TrainingModel:
    """A model and what belongs to it.

    Attributes:
        model: the model, wrapped by PEFT if it has adapters.
        processor: of the model.
        arguments: as given.
        base: with adapters, the folder or Hub id of the model without.
        record: where the weights are from that it starts with, if that was recorded; it is saved with the model.
        start_licence: what the card of the model that it starts from names.
    """

    model: Any
    processor: VideoSaliencyProcessor
    arguments: TrainingArguments
    base: str | None = None
    record: Record | None = None
    start_licence: str | None = None

    @property
    def network(self) -> Any:
        """The model itself, without PEFT's wrapper."""
        return self.model if self.base is None else self.model.get_base_model()

    @property
    def config(self) -> Any:
        return self.network.config

    @property
    def map_size(self) -> tuple[int, int]:
        """(height, width) of the model's maps: those of its config, else of its input."""
        size = getattr(self.config, "output_size", None) or (
            self.processor.size["height"],
            self.processor.size["width"],
        )
        return int(size[0]), int(size[1])

    def train_mode(self) -> None:
        """Training mode, except for what the recipe holds still."""
        self.model.train()
        held = self.arguments.model
        for name, module in self.model.named_modules():
            plain = plain_name(name)
            if any(re.fullmatch(pattern, plain) for pattern in held.evaluation_mode):
                module.eval()
            is_norm = isinstance(module, _BatchNorm)
            if is_norm and held.frozen_batch_norm is not None and re.fullmatch(held.frozen_batch_norm, plain):
                module.eval()
        if self.base is not None:
            for norm in backbone_norms(self.model):
                norm.eval()

    def save(self, folder: Path, *, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """Writes a folder that loads by itself: a plain model, or an adapter."""
        folder.mkdir(parents=True, exist_ok=True)
        if self.base is None:
            self.model.save_pretrained(folder, state_dict=state_dict)
            self.processor.save_pretrained(folder)
        else:
            base = self.arguments.lora.base_model or self.base
            save_adapter(self.model, self.processor, folder, base=base, state_dict=state_dict)
        if self.record is not None:
            (folder / RECORD).write_text(json.dumps(self.record, indent=1) + "\n", encoding="utf-8")
        for path in folder.glob("*.safetensors"):
            path.chmod(0o644)  # safetensors makes files that only their owner can read


def build_model(arguments: TrainingArguments, output: Path) -> TrainingModel:
    """The model that a run trains: `open_model`, then `adapt_model`.

    Args:
        arguments: of the run.
        output: its folder, see `adapt_model`.

    Raises:
        ValueError: for a model that cannot be made or loaded, or patterns that match nothing.
    """
    training = open_model(arguments)
    adapt_model(training, output)
    return training


def open_model(arguments: TrainingArguments) -> TrainingModel:
    """The model as it is made or loaded, without adapters.

    Raises:
        ValueError: for a model that cannot be made or loaded.
    """
    torch.manual_seed(arguments.loop.seed)
    wanted = arguments.model
    model, processor = _load(wanted) if wanted.name_or_path else _make(wanted)
    _take_weights(model, wanted)
    _prepare_gfsalnet(model, wanted)
    return TrainingModel(model, processor, arguments, record=_joined_record(wanted), start_licence=_licence(wanted))


def adapt_model(training: TrainingModel, output: Path, *, is_main: bool = True, is_new: bool = True) -> None:
    """Adds adapters, and takes what the recipe freezes out of training; what is trained becomes float32.

    Args:
        training: as `open_model` made it.
        output: folder of the run; a fresh model that gets adapters is saved there first, as their base.
        is_main: whether this process writes.
        is_new: whether a base that lies there already is of another run, and is replaced.

    Raises:
        ValueError: for patterns that match nothing.
    """
    arguments, wanted = training.arguments, training.arguments.model
    if arguments.lora.enabled:
        base = wanted.name_or_path
        if base is None or (wanted.config and arguments.lora.base_model is None):
            folder = output / BASE_FOLDER
            base = str(folder.resolve())
            if is_main and (is_new or not folder.exists()):
                with whole_folder(folder) as temporary:
                    training.save(temporary)
        training.model, training.base = add_lora(training.model, arguments.lora, base=base), base
    _freeze(training)
    for parameter in training.model.parameters():
        dtype = torch.float32 if parameter.requires_grad else getattr(torch, wanted.dtype)
        parameter.data = parameter.data.to(dtype)
    if training.record is not None:
        held = _held_weights(training.model)
        training.record = with_untrained(training.record, lambda key: plain_name(key) in held)
    if arguments.loop.activation_checkpointing:
        _checkpoint_activations(training.network)


def _checkpoint_activations(network: Any) -> None:
    """Under its new name where transformers has it."""
    enable = getattr(network, "activation_checkpointing_enable", None) or network.gradient_checkpointing_enable
    enable()


def _make(wanted: ModelArguments) -> tuple[Any, VideoSaliencyProcessor]:
    """A model with fresh weights."""
    if wanted.architecture is None:
        raise ValueError("the recipe names no model: set model.architecture, or model.name_or_path")
    try:
        config_class = CONFIG_MAPPING[wanted.architecture]
    except KeyError as error:
        raise ValueError(f"model.architecture {wanted.architecture!r} is unknown") from error
    maker = config_class if wanted.preset is None else getattr(config_class, wanted.preset, None)
    if maker is None:
        raise ValueError(f"{config_class.__name__} has no preset {wanted.preset!r}")
    config = maker(**wanted.config)
    _check_fields(config, wanted)
    return AutoModel.from_config(config), VideoSaliencyProcessor(**wanted.processor)


def _load(wanted: ModelArguments) -> tuple[Any, VideoSaliencyProcessor]:
    """A model with the weights of a folder; fields of its config may be changed."""
    name = str(wanted.name_or_path)
    processor = load_processor(name)
    if wanted.processor:
        known = {
            key: getattr(processor, key) for key in ("size", "image_mean", "image_std", "rescale_factor", "resample")
        }
        processor = VideoSaliencyProcessor(**{**known, **wanted.processor})
    if not wanted.config:
        return load_model(name), processor
    before = load_config(name)
    fields = {key: value for key, value in before.to_dict().items() if key not in BASE_CONFIG_FIELDS}
    try:
        config = AutoConfig.for_model(before.model_type, **{**fields, **wanted.config})
    except ValueError as error:
        raise ValueError(
            f"the recipe changes {', '.join(sorted(wanted.config))} in the config of {name}, which does not fit it: "
            f"{error}. Take a recipe that leaves the config as it is, such as examples/recipes/own_clips.yaml, or "
            "start from a model that this recipe is for"
        ) from error
    _check_fields(config, wanted)
    if not wanted.new_layers and not wanted.weights_from:
        return load_model(name, config=config), processor
    model = AutoModel.from_config(config)
    state = load_model(name).state_dict()
    unused = sorted(set(state) - set(model.state_dict()))
    missing = sorted(set(model.state_dict()) - set(state))
    explained = [*wanted.new_layers, *wanted.weights_from]
    unexplained = [key for key in missing if not any(re.fullmatch(pattern, key) for pattern in explained)]
    if unused or unexplained:
        raise ValueError(
            f"{name} does not fit model.config: {len(unused)} weights are not used ({', '.join(unused[:3])}), "
            f"{len(unexplained)} are missing ({', '.join(unexplained[:3])}): name new ones in model.new_layers, or "
            "where they are in model.weights_from"
        )
    model.load_state_dict(state, strict=False)
    return model, processor


def _take_weights(model: Any, wanted: ModelArguments) -> None:
    """Fills parts of the model from other models."""
    for pattern, name in wanted.weights_from.items():
        state = {key: value for key, value in load_model(name).state_dict().items() if re.fullmatch(pattern, key)}
        if not state or set(state) - set(model.state_dict()):
            raise ValueError(f"model.weights_from: {name} has no weights {pattern!r} that the model has as well")
        model.load_state_dict(state, strict=False)


def _held_weights(model: nn.Module) -> set[str]:
    """Plain names of the parameters that training leaves as they are."""
    names = {True: set[str](), False: set[str]()}
    for name, parameter in model.named_parameters():
        names[parameter.requires_grad].add(plain_name(name))
    return names[False] - names[True]  # PEFT keeps the old weights of what it trains whole


def _joined_record(wanted: ModelArguments) -> Record | None:
    """The record of all weights that the model starts with."""
    records = []
    if wanted.name_or_path and (record := load_record(wanted.name_or_path)) is not None:
        filled = [*wanted.weights_from]  # from other models
        record = with_untrained(record, lambda key: not any(re.fullmatch(pattern, key) for pattern in filled))
        records.append((Path(wanted.name_or_path).name, record))
    for pattern, name in wanted.weights_from.items():
        if (record := load_record(name)) is not None:
            records.append((Path(name).name, with_untrained(record, re.compile(pattern).fullmatch)))
    return join_records(records)


def _licence(wanted: ModelArguments) -> str | None:
    try:
        return card_licence(wanted.name_or_path) if wanted.name_or_path else None
    except OSError:
        return None  # the record was asked for, too, and that was told


def _check_fields(config: Any, wanted: ModelArguments) -> None:
    """transformers keeps unknown fields as attributes: refuse them."""
    known = set(type(config)().to_dict())
    if unknown := sorted(set(wanted.config) - known):
        raise ValueError(f"model.config.{unknown[0]} is no field of {type(config).__name__}")


def _prepare_gfsalnet(model: Any, wanted: ModelArguments) -> None:
    is_two_streams = model.config.model_type == "gfsalnet_saliency" and len(model.streams) > 1
    for name, is_set in (("copy_appearance", wanted.copy_appearance), ("first_gate", wanted.first_gate is not None)):
        if is_set and not is_two_streams:
            raise ValueError(f"model.{name} is for GFSalNet with two streams, not for this {type(model).__name__}")
    if wanted.copy_appearance:
        model.copy_appearance_to_motion()
    if wanted.first_gate is not None:
        with torch.no_grad():
            model.fusion.projection.bias.fill_(wanted.first_gate)


def _freeze(training: TrainingModel) -> None:
    """Takes what the recipe freezes out of training.

    Raises:
        ValueError: if a pattern matches nothing, or nothing is left.
    """
    names = {name: plain_name(name) for name, _ in training.model.named_parameters()}
    for pattern in training.arguments.model.freeze:
        found = [name for name, plain in names.items() if re.fullmatch(pattern, plain)]
        if not found:
            raise ValueError(f"model.freeze {pattern!r} matches no parameter, such as {next(iter(names.values()))}")
        for name in found:
            training.model.get_parameter(name).requires_grad_(False)
    _check_modules(training)
    if not any(parameter.requires_grad for parameter in training.model.parameters()):
        raise ValueError("everything is frozen: nothing is left to be trained")


def _check_modules(training: TrainingModel) -> None:
    modules: dict[str, nn.Module] = {plain_name(name): module for name, module in training.model.named_modules()}
    for pattern in training.arguments.model.evaluation_mode:
        if not any(re.fullmatch(pattern, name) for name in modules):
            raise ValueError(f"model.evaluation_mode {pattern!r} matches no module")
    norms = [name for name, module in modules.items() if isinstance(module, _BatchNorm)]
    frozen = training.arguments.model.frozen_batch_norm
    if frozen is not None and not any(re.fullmatch(frozen, name) for name in norms):
        raise ValueError(f"model.frozen_batch_norm {frozen!r} matches none of {len(norms)} batch normalisations")


__all__ = ["TrainingModel", "adapt_model", "build_model", "open_model"]
