# SPDX-License-Identifier: Apache-2.0
"""Low-rank adapters through PEFT: where they go in each architecture, and adapter folders that load by themselves.

The backbone gets adapters, everything behind it is trained whole and saved with them.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from video_saliency.defaults import named_model
from video_saliency.loading import load_config, load_model, load_processor, load_record
from video_saliency.training.training_arguments import LoraArguments
from video_saliency.weights_record import RECORD, with_untrained

CONTAINERS = (nn.ModuleList, nn.ModuleDict)  # PEFT refuses to save these whole


@dataclass(frozen=True)
class LoraTargets:
    """Where adapters go, as regular expressions matched against whole module names.

    Attributes:
        modules: the adapted layers.
        backbone: the modules that keep their own weights; all others are trained whole.
    """

    modules: str
    backbone: str


LORA_TARGETS = {
    # as the released experts, whose adapters are in all modules named qkv, proj, fc1 and fc2
    "visage_saliency": LoraTargets(
        r"backbone\.(patch_embed\.proj|blocks\.\d+\.(attn\.(qkv|proj)|mlp\.(fc1|fc2)))", r"backbone"
    ),
    # our choice: all linear layers of the attention and the MLP of each block
    "dtfsal_saliency": LoraTargets(
        r"encoder\.blocks\.\d+\.(attention\.(qkv|output)|mlp\.(fc1|fc2))", r"encoder|audio_encoder"
    ),
    # our choice: all convolutions of both trunks, and nothing of the decoder, whose layers are convolutions as well
    "gfsalnet_saliency": LoraTargets(
        r"streams\.(appearance|motion)\.trunk\..*\.convolution",
        r"streams\.(appearance|motion)\.trunk|flow",
    ),
    # our choice: as for DTFSal
    "salfom_saliency": LoraTargets(
        r"encoder\.blocks\.\d+\.(attention\.(query|key|value|output)|mlp\.(fc1|fc2))", r"encoder"
    ),
}


def lora_targets(model_type: str) -> LoraTargets:
    """Where adapters go in an architecture. Raises `ValueError` for one that is not known here."""
    if model_type not in LORA_TARGETS:
        raise ValueError(
            f"there is no list of LoRA targets for {model_type}: it has one for {', '.join(sorted(LORA_TARGETS))}"
        )
    return LORA_TARGETS[model_type]


def decoder_modules(model: nn.Module, backbone: str) -> list[str]:
    """Names of the largest modules with weights that hold nothing of the backbone, and are no plain lists.

    Raises:
        ValueError: for a weight that lies beside the backbone in no module of its own.
    """
    pattern = re.compile(backbone)
    backbone_names = [name for name, _ in model.named_modules() if pattern.fullmatch(name)]
    if not backbone_names:
        raise ValueError(f"no module of the model matches the backbone {backbone!r}")
    found: list[str] = []

    def visit(module: nn.Module, name: str) -> None:
        if pattern.fullmatch(name) or not any(True for _ in module.parameters()):
            return
        holds_backbone = any(entry.startswith(f"{name}." if name else "") for entry in backbone_names)
        if not holds_backbone and not isinstance(module, CONTAINERS):
            found.append(name)
            return
        if own := [key for key, _ in module.named_parameters(recurse=False)]:
            raise ValueError(
                f"{name or 'the model'} holds the weights {own} beside its backbone: LoRA cannot save them"
            )
        for key, child in module.named_children():
            visit(child, f"{name}.{key}" if name else key)

    visit(model, "")
    return found


def add_lora(model: Any, arguments: LoraArguments, *, base: str) -> PeftModel:
    """The model with adapters; only they and the decoder are trained.

    Args:
        model: of an architecture in `LORA_TARGETS`.
        arguments: rank and so on.
        base: folder or Hub id of the model as it is, which the adapter names.

    Raises:
        ValueError: if nothing matches.
    """
    targets = lora_targets(model.config.model_type)
    modules = arguments.targets or targets.modules
    decoder = decoder_modules(model, targets.backbone)
    base = resolved_base(base)
    model.name_or_path = base
    config = LoraConfig(
        r=arguments.rank,
        lora_alpha=arguments.alpha,
        lora_dropout=arguments.dropout,
        bias="none",
        target_modules=modules,
        modules_to_save=decoder,
        base_model_name_or_path=base,
    )
    adapted = get_peft_model(model, config)
    _check_trained(adapted, decoder)
    return adapted


def _check_trained(model: PeftModel, decoder: list[str]) -> None:
    """PEFT finds modules by the end of their names: make sure that it found these and no others."""
    marked = ".modules_to_save."
    found = {
        name.split(marked)[0] for name, value in model.named_parameters() if value.requires_grad and marked in name
    }
    expected = {f"base_model.model.{name}" for name in decoder}
    if found != expected:
        raise ValueError(f"PEFT trains other modules than asked for: {sorted(found ^ expected)}")


def plain_name(name: str) -> str:
    """A parameter's or module's name as it is without PEFT and wrappers of parallel training."""
    name = re.sub(r"^(module\.)?(base_model\.model\.)?", "", name)
    return re.sub(r"\.(modules_to_save\.default|original_module|base_layer)(?=\.|$)", "", name)


def backbone_norms(model: nn.Module) -> list[_BatchNorm]:
    """Batch normalisations outside of what the adapter saves: their statistics must not move."""
    return [
        module
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and ".modules_to_save." not in name
    ]


def resolved_base(base: str) -> str:
    """As an adapter names its base: a folder by its absolute path, which is valid wherever the adapter is loaded."""
    folder = Path(named_model(base))
    return str(folder.resolve()) if folder.is_dir() else base


def save_adapter(model: PeftModel, processor: Any, folder: Path, *, base: str, **options: Any) -> None:
    """Writes adapter, decoder and processor; `AutoModel.from_pretrained` and `pipeline` load the folder.

    No config beside them: with one, transformers would look for whole weights here.

    Args:
        model: as `add_lora` made it.
        processor: of the model.
        folder: to write to.
        base: folder or Hub id of the base model, which is loaded first; see `resolved_base`.
        options: of `PeftModel.save_pretrained`.
    """
    model.save_pretrained(str(folder), **options)
    processor.save_pretrained(folder)
    path = folder / "adapter_config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["base_model_name_or_path"] = resolved_base(base)
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def merge_adapter(adapter: str | Path, output: Path, *, base: str | None = None) -> None:
    """Writes a plain model folder with the adapters added to the weights of their layers.

    The record of the weights' origin comes along: the adapter's, or else that of its base, less what the adapter holds
    whole.

    Args:
        adapter: folder or Hub id that `save_adapter` wrote.
        output: a new folder.
        base: folder or Hub id of the base model. Default: what the adapter names.

    Raises:
        ValueError: if base or adapter cannot be loaded.
    """
    if base is None:
        base = adapter_base(adapter)
        load_config(str(adapter))  # says what to do about a base that is gone
    model = PeftModel.from_pretrained(load_model(base), str(adapter))
    whole = tuple(f"{name}." for name in model.peft_config["default"].modules_to_save or ())
    merged = model.merge_and_unload()
    merged.save_pretrained(output)
    load_processor(str(adapter)).save_pretrained(output)
    record = load_record(str(adapter)) or load_record(base)
    if record is not None:
        record = with_untrained(record, lambda key: not key.startswith(whole))
        (output / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def adapter_base(adapter: str | Path) -> str:
    """The base model that an adapter names. Raises `ValueError` if it is none."""
    try:
        config = PeftConfig.from_pretrained(str(adapter))
    except (ValueError, OSError) as error:
        raise ValueError(f"{adapter} is no adapter: name a folder or Hub id with adapter_config.json") from error
    return str(config.base_model_name_or_path)


__all__ = [
    "LORA_TARGETS",
    "LoraTargets",
    "add_lora",
    "adapter_base",
    "decoder_modules",
    "merge_adapter",
    "resolved_base",
    "save_adapter",
]
