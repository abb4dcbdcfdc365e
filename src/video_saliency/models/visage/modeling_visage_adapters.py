# SPDX-License-Identifier: Apache-2.0
"""Low-rank adapters of PEFT inside one backbone: one for each expert, switched between passes.

The adapted layers are PEFT's own, so that weights have PEFT's names: `blocks.0.attn.qkv.base_layer.weight` beside
`blocks.0.attn.qkv.lora_A.<adapter>.weight`. PEFT is needed only for models that have adapters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import nn

ADAPTABLE = (nn.Linear, nn.Conv3d)  # the kinds of layers in a backbone that an adapter may be for
PARTS = ("lora_A", "lora_B")  # what is multiplied with a layer's input, and what follows
PEFT_PREFIX = "base_model.model."  # of names in PEFT's files
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def load_peft() -> ModuleType:
    """The package, which takes long to import. Raises `ValueError` where it is not installed."""
    try:
        import peft
    except ImportError as error:
        raise ValueError(
            "this model has LoRA adapters, which need the package peft: pip install 'video-saliency[train]'"
        ) from error
    return peft


def adapted_layers(backbone: nn.Module) -> Iterator[tuple[str, Any]]:
    """Name and layer of all that have adapters."""
    # told by their parts: the class is PEFT's, which may not be there
    return ((name, module) for name, module in backbone.named_modules() if hasattr(module, "lora_A"))


def adaptable_layers(backbone: nn.Module) -> dict[str, Any]:
    """The layers that may have adapters, by name, without what adapters have made of them."""
    adapted = dict(adapted_layers(backbone))
    layers = {
        path: module
        for path, module in backbone.named_modules()
        if isinstance(module, ADAPTABLE) and not any(path.startswith(f"{other}.") for other in adapted)
    }
    return {**layers, **{path: layer.get_base_layer() for path, layer in adapted.items()}}


def target_layers(backbone: nn.Module, targets: Sequence[str]) -> dict[str, Any]:
    """Those of the adaptable layers whose names end like `targets`, by name.

    Raises:
        ValueError: for a target that is the end of no layer's name.
    """
    layers = adaptable_layers(backbone)
    for target in targets:
        if not any(f".{path}".endswith(f".{target}") for path in layers):
            known = sorted({path.rpartition(".")[2] for path in layers})
            raise ValueError(
                f"no layer of the backbone has a name that ends in the LoRA target {target!r}: choose from "
                f"{', '.join(known)}"
            )
    return {path: layer for path, layer in layers.items() if f".{path}".endswith(tuple(f".{end}" for end in targets))}


def shortest_targets(backbone: nn.Module, settings: Any, prefix: str = "") -> list[str]:
    """The shortest ends of names that mean the layers of an adapter and no others, such as `qkv` and `attn.proj`.

    Args:
        backbone: with or without adapters.
        settings: PEFT's, whose `target_modules` may be names or a regular expression.
        prefix: of the backbone's names in the model.
    """
    is_target = load_peft().tuners.tuners_utils.check_target_module_exists
    layers = adaptable_layers(backbone)
    paths = [path for path in layers if is_target(settings, f"{prefix}{path}")]
    others = [f".{path}" for path in layers if path not in paths]
    targets = set()
    for path in paths:
        parts = path.split(".")
        ends = [".".join(parts[-count:]) for count in range(1, len(parts) + 1)]
        targets.add(next((end for end in ends if not any(other.endswith(f".{end}") for other in others)), path))
    return sorted(targets)


def add_adapter(backbone: nn.Module, name: str, lora: Mapping[str, Any]) -> None:
    """Adapters of this name in all layers that `lora["targets"]` names, in float32, without effect at first.

    Raises:
        ValueError: for a target that no layer has.
    """
    peft = load_peft()
    target_layers(backbone, lora["targets"])
    trained = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    config = peft.LoraConfig(
        r=lora["r"],
        lora_alpha=lora["alpha"],
        lora_dropout=lora["dropout"],
        bias="none",
        target_modules=list(lora["targets"]),
    )
    peft.inject_adapter_in_model(config, backbone, adapter_name=name)
    del backbone.peft_config  # left by PEFT, which would warn at the next adapter
    for parameter in trained:  # PEFT freezes all that is no adapter; here the model decides
        parameter.requires_grad_(True)
    for _, layer in adapted_layers(backbone):
        layer.train(backbone.training)  # PEFT's new modules are in training mode, whatever the model's is
        for part in PARTS:
            if name in getattr(layer, part):
                module = getattr(layer, part)[name]
                module.adapter_part = part  # for `_init_weights`, which is asked for single modules
                module.float().requires_grad_(True)


def remove_adapter(backbone: nn.Module, name: str) -> None:
    """Takes the adapters of this name away; layers without any are themselves again."""
    for path, layer in list(adapted_layers(backbone)):
        if name in layer.lora_A:
            with _same_training(layer):
                layer.set_adapter([])
                layer.delete_adapter(name)
        if not layer.lora_A:
            parent, _, child = path.rpartition(".")
            setattr(backbone.get_submodule(parent), child, layer.get_base_layer())


def switch_adapter(backbone: nn.Module, name: str | None) -> None:
    """Makes the adapters of this name those that run, or none; what is trained stays as it is."""
    for _, layer in adapted_layers(backbone):
        # PEFT's own setters switch training along with use, but gradients of one adapter may be due when another one
        # runs; and no graph can be made of a change of `requires_grad`
        layer._disable_adapters = name is None
        if name is not None:
            layer._active_adapter = [name]


@contextmanager
def _same_training(layer: Any) -> Iterator[None]:
    """PEFT switches training along with use; here what is trained stays as it is."""
    trained = [(value, value.requires_grad) for part in PARTS for value in getattr(layer, part).parameters()]
    yield
    for value, flag in trained:
        value.requires_grad_(flag)


def merge_adapter(backbone: nn.Module, name: str) -> None:
    """Adds the adapters of this name to the weights of their layers, and takes them away.

    Raises:
        ValueError: for weights that are not float32: in half precision most of what an adapter adds is rounded away.
    """
    for path, layer in adapted_layers(backbone):
        if layer.get_base_layer().weight.dtype != torch.float32:
            raise ValueError(
                f"adapters are merged in float32, but {path} is {layer.get_base_layer().weight.dtype}: load the model "
                'with dtype="float32" first'
            )
    for _, layer in adapted_layers(backbone):
        if name in layer.lora_A:
            layer.merge(safe_merge=True, adapter_names=[name])
            layer.merged_adapters.clear()  # it stays so
    remove_adapter(backbone, name)


def adapter_shapes(backbone: nn.Module, lora: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[int, ...]]:
    """Names, as in PEFT's files, and shapes of the weights that an adapter with these settings has.

    Args:
        backbone: with or without adapters.
        lora: `r` and `targets`, see the config.
        prefix: of the backbone's names in the model.

    Raises:
        ValueError: for a target that no layer has.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for path, layer in target_layers(backbone, lora["targets"]).items():
        # not of the weight, which is packed where the model is quantised
        if isinstance(layer, nn.Linear):
            inputs, outputs, kernel = layer.in_features, layer.out_features, ()
        else:
            inputs, outputs, kernel = layer.in_channels, layer.out_channels, layer.kernel_size
        name = f"{PEFT_PREFIX}{prefix}{path}"
        shapes[f"{name}.lora_A.weight"] = (lora["r"], inputs, *kernel)
        shapes[f"{name}.lora_B.weight"] = (outputs, lora["r"], *[1] * len(kernel))
    return shapes


def adapter_weights(backbone: nn.Module, name: str, prefix: str = "") -> dict[str, torch.Tensor]:
    """The weights of one adapter, under the names that they have in PEFT's files.

    Args:
        backbone: with adapters.
        name: of the adapter.
        prefix: of the backbone's names in the model.
    """
    return {
        f"{PEFT_PREFIX}{prefix}{path}.{part}.weight": getattr(layer, part)[name].weight
        for path, layer in adapted_layers(backbone)
        for part in PARTS
        if name in getattr(layer, part)
    }


__all__ = [
    "ADAPTER_CONFIG",
    "ADAPTER_WEIGHTS",
    "PEFT_PREFIX",
    "adaptable_layers",
    "adapted_layers",
    "adapter_shapes",
    "adapter_weights",
    "add_adapter",
    "load_peft",
    "merge_adapter",
    "remove_adapter",
    "shortest_targets",
    "switch_adapter",
    "target_layers",
]
