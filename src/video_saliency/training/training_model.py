# SPDX-License-Identifier: Apache-2.0
"""The model of a training run: made or loaded, with adapters, and with what of it is trained."""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import AutoConfig, AutoModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from video_saliency.conversion import BASE_CONFIG_FIELDS
from video_saliency.defaults import named_model
from video_saliency.loading import load_config, load_model, load_processor, load_record
from video_saliency.processing_video_saliency import VideoSaliencyProcessor
from video_saliency.training.lora import add_lora, backbone_norms, plain_name, resolved_base, save_adapter
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
        changes: settings that made another model of the one in `name_or_path`, such as `model.weights_from`.
    """

    model: Any
    processor: VideoSaliencyProcessor
    arguments: TrainingArguments
    base: str | None = None
    record: Record | None = None
    start_licence: str | None = None
    changes: tuple[str, ...] = ()

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
    model, processor, fields = _load(wanted) if wanted.name_or_path else (*_make(wanted), [])
    _take_weights(model, wanted)
    _prepare_gfsalnet(model, wanted)
    sound = getattr(model.config, "audio_spec", None)
    processor.audio_settings = None if sound is None else sound.to_dict()  # the model may be another one now
    changes = (*(f"model.config.{name}" for name in fields), *weight_settings(wanted))
    record, licence = _joined_record(wanted), _licence(wanted)
    return TrainingModel(model, processor, arguments, record=record, start_licence=licence, changes=changes)


def changing_settings(wanted: ModelArguments) -> list[str]:
    """The settings that make another model of the one in `name_or_path`, see `TrainingModel`; loads no weights.

    Raises:
        ValueError: for a config that cannot be loaded, or that the recipe's fields do not fit.
    """
    settings = weight_settings(wanted)
    if settings or not wanted.config or not wanted.name_or_path:
        return settings
    _, fields = _changed_config(load_config(named_model(wanted.name_or_path)), wanted)
    return [f"model.config.{name}" for name in fields]


def weight_settings(wanted: ModelArguments) -> list[str]:
    """The settings that put other weights into a model, as a recipe names them."""
    settings = {
        "weights_from": bool(wanted.weights_from),
        "copy_appearance": wanted.copy_appearance,
        "first_gate": wanted.first_gate is not None,
    }
    return [f"model.{name}" for name, is_set in settings.items() if is_set]


def adapt_model(training: TrainingModel, output: Path, *, is_main: bool = True, is_new: bool = True) -> None:
    """Adds adapters, and takes what the recipe freezes out of training; what is trained becomes float32.

    Args:
        training: as `open_model` made it.
        output: folder of the run; a model that gets adapters is saved there first, as their base, unless it is the
            one in `name_or_path` unchanged.
        is_main: whether this process writes.
        is_new: whether a base that lies there already is of another run, and is replaced.

    Raises:
        ValueError: for patterns that match nothing, `lora.base_model` beside what makes another base, or
            `model.dtype` without the precision that joins its weights with the trained ones.
    """
    arguments = training.arguments
    if arguments.lora.enabled:
        base = _find_base(training, output / BASE_FOLDER, is_main=is_main, is_new=is_new)
        training.model, training.base = add_lora(training.model, arguments.lora, base=base), base
    _freeze(training)
    _hold_weights(training)
    if training.record is not None:
        held = _held_weights(training.model)
        training.record = with_untrained(training.record, lambda key: plain_name(key) in held)
    if arguments.loop.activation_checkpointing:
        _checkpoint_activations(training.network)


def _hold_weights(training: TrainingModel) -> None:
    """Holds what is trained in float32 and what is frozen in `model.dtype`.

    Batch normalisations stay float32: their statistics are, and weights of another type do not go with them.

    Raises:
        ValueError: for frozen weights in bfloat16 without mixed precision.
    """
    dtype = getattr(torch, training.arguments.model.dtype)
    is_frozen = not all(parameter.requires_grad for parameter in training.model.parameters())
    if is_frozen and dtype != torch.float32 and training.arguments.loop.precision == "no":
        raise ValueError(
            "model.dtype=bfloat16 holds frozen weights in bfloat16, and only mixed precision computes with them and "
            "with trained ones in float32: set loop.precision=bf16, or drop model.dtype"
        )
    norms = {name for name, module in training.model.named_modules() if isinstance(module, _BatchNorm)}
    for name, parameter in training.model.named_parameters():
        is_full = parameter.requires_grad or name.rpartition(".")[0] in norms
        parameter.data = parameter.data.to(torch.float32 if is_full else dtype)


def _find_base(training: TrainingModel, folder: Path, *, is_main: bool, is_new: bool) -> str:
    """Folder or Hub id of the model that gets adapters; it is written to `folder` if it lies nowhere yet.

    Raises:
        ValueError: if `lora.base_model` names a model that cannot be this one.
    """
    name, named = training.arguments.model.name_or_path, training.arguments.lora.base_model
    if name is not None and not training.changes:
        return resolved_base(name)
    if named is not None:
        origin = "it starts from fresh weights" if name is None else f"{', '.join(training.changes)} change {name}"
        raise ValueError(
            f"lora.base_model: {named} is not what these adapters are trained on, because {origin}: drop "
            f"lora.base_model, and the run writes their base to {folder}; to have it elsewhere, start another run "
            "from there, without these settings"
        )
    if is_main and (is_new or not folder.exists()):
        with whole_folder(folder) as temporary:
            training.save(temporary)
    return str(folder.resolve())


def _checkpoint_activations(network: Any) -> None:
    """Under its new name where transformers has it."""
    enable = getattr(network, "activation_checkpointing_enable", None) or network.gradient_checkpointing_enable
    enable()


def _make(wanted: ModelArguments) -> tuple[Any, VideoSaliencyProcessor]:
    """A model with fresh weights."""
    if wanted.architecture is None:
        raise ValueError("the recipe names no model: set model.architecture, or model.name_or_path")
    if wanted.architecture not in CONFIG_MAPPING:
        raise ValueError(f"model.architecture {wanted.architecture!r} is unknown")
    config = _named_config(CONFIG_MAPPING[wanted.architecture], wanted)
    _check_fields(config, wanted)
    return AutoModel.from_config(config), VideoSaliencyProcessor(**wanted.processor)


def _named_config(config_class: Any, wanted: ModelArguments) -> Any:
    """The config of a class, or of its preset, with the recipe's fields."""
    maker = config_class if wanted.preset is None else getattr(config_class, wanted.preset, None)
    if maker is None:
        raise ValueError(f"{config_class.__name__} has no preset {wanted.preset!r}")
    try:
        return maker(**wanted.config)
    except StrictDataclassError as error:
        raise ValueError(f"model.config: {' '.join(str(error).split())}") from error


def _load(wanted: ModelArguments) -> tuple[Any, VideoSaliencyProcessor, list[str]]:
    """A model with the weights of a folder; fields of its config may be changed, their names come last."""
    name = named_model(str(wanted.name_or_path))
    before = load_config(name)
    _check_architecture(before, wanted)
    processor = load_processor(name)
    if wanted.processor:
        own = {key: getattr(processor, key) for key in inspect.signature(VideoSaliencyProcessor).parameters}
        processor = VideoSaliencyProcessor(**{**own, **wanted.processor})
    config, changed = _changed_config(before, wanted)
    if not changed:
        return _load_plain(name), processor, []
    if not wanted.new_layers and not wanted.weights_from:
        return _load_plain(name, config=config), processor, changed
    model = AutoModel.from_config(config)
    _fill(model, _load_plain(name).state_dict(), wanted)
    return model, processor, changed


def _changed_config(before: Any, wanted: ModelArguments) -> tuple[Any, list[str]]:
    """The config of a loaded model with the recipe's fields, and the names of those that differ then."""
    fields = _fields(before)
    try:
        config = AutoConfig.for_model(before.model_type, **{**fields, **wanted.config})
    except (ValueError, StrictDataclassError) as error:
        raise ValueError(
            f"the recipe changes {', '.join(sorted(wanted.config))} in the config of {wanted.name_or_path}, which "
            f"does not fit it: {' '.join(str(error).split())}. Take a recipe that leaves the config as it is, such as "
            "examples/recipes/own_clips.yaml, or start from a model that this recipe is for"
        ) from error
    _check_fields(config, wanted)
    _check_preset(config, wanted)
    return config, sorted(key for key, value in _fields(config).items() if wanted.config and value != fields.get(key))


def _fields(config: Any) -> dict[str, Any]:
    """What a config of this kind says of its model."""
    return {key: value for key, value in config.to_dict().items() if key not in BASE_CONFIG_FIELDS}


def _load_plain(name: str, **options: Any) -> Any:
    """A model without adapters: with them it would be saved as an adapter, without the weights trained here."""
    model = load_model(name, **options)
    if getattr(model, "peft_config", None):
        raise ValueError(
            f"model.name_or_path: {name} is an adapter: start from the merged model, which its run writes with "
            "lora.merge=true"
        )
    return model


def _check_architecture(config: Any, wanted: ModelArguments) -> None:
    if wanted.architecture not in (None, config.model_type):
        raise ValueError(
            f"the recipe trains a {wanted.architecture} model (model.architecture), and {wanted.name_or_path} is a "
            f"{config.model_type} model: start from another one, or take a recipe for that one"
        )


def _check_preset(config: Any, wanted: ModelArguments) -> None:
    """A loaded model keeps its config: what the preset stands for must be in it. Raises `ValueError`."""
    if wanted.preset is None:
        return
    own, plain, expected = _fields(config), _fields(type(config)()), _fields(_named_config(type(config), wanted))
    different = [name for name, value in expected.items() if value not in (plain.get(name), own.get(name))]
    if different:
        raise ValueError(
            f"model.preset {wanted.preset!r} is not what {wanted.name_or_path} was made with, which differs in "
            f"{', '.join(different)}: set model.preset=null to train it as it is, or start from another one"
        )


def _fill(model: Any, state: dict[str, torch.Tensor], wanted: ModelArguments) -> None:
    """Loads the weights of another config; only those that the recipe explains may be missing."""
    unused = sorted(set(state) - set(model.state_dict()))
    missing = sorted(set(model.state_dict()) - set(state))
    explained = [*wanted.new_layers, *wanted.weights_from]
    unexplained = [key for key in missing if not any(re.fullmatch(pattern, key) for pattern in explained)]
    if unused or unexplained:
        raise ValueError(
            f"{wanted.name_or_path} does not fit model.config: {len(unused)} weights are not used "
            f"({', '.join(unused[:3])}), {len(unexplained)} are missing ({', '.join(unexplained[:3])}): name new ones "
            "in model.new_layers, or where they are in model.weights_from"
        )
    model.load_state_dict(state, strict=False)


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
    if wanted.name_or_path and (record := load_record(named_model(wanted.name_or_path))) is not None:
        filled = [*wanted.weights_from]  # from other models
        record = with_untrained(record, lambda key: not any(re.fullmatch(pattern, key) for pattern in filled))
        records.append((Path(wanted.name_or_path).name, record))
    for pattern, name in wanted.weights_from.items():
        if (record := load_record(name)) is not None:
            records.append((Path(name).name, with_untrained(record, re.compile(pattern).fullmatch)))
    return join_records(records)


def _licence(wanted: ModelArguments) -> str | None:
    try:
        return card_licence(named_model(wanted.name_or_path)) if wanted.name_or_path else None
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


__all__ = ["TrainingModel", "adapt_model", "build_model", "changing_settings", "open_model"]
