# SPDX-License-Identifier: Apache-2.0
"""Weights for GFSalNet: a ResNet for both streams, PWC-Net for the flow, or a whole model.

ResNet files have the names of torchvision (`resnet50-0676ba61.pth` is closest to the paper's "pre-trained ResNet-50")
or of transformers. Batch norms count their batches in `num_batches_tracked`; files older than that counter lack it,
and it stays 0: it matters only to batch norms without momentum, of which there are none here.

PWC-Net files have the names of its PyTorch port by Simon Niklaus, as stored (`moduleExtractor...`) or as its present
code spells them (`netExtractor...`), or those of NVIDIA's own PyTorch file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from video_saliency.checkpoints import Converter, Source, StateDict, Terms, rename
from video_saliency.models.gfsalnet.configuration_gfsalnet import GFSalNetConfig
from video_saliency.models.gfsalnet.modeling_gfsalnet import GFSalNetForVideoSaliency

FLOW_PREFIX = "flow."
NUMBERS = ("One", "Two", "Thr", "Fou", "Fiv", "Six")  # as the PWC-Net port spells them
COUNTERS = "*num_batches_tracked"

RESNET_TERMS = Terms(
    "The terms of the file's publisher hold. microsoft/resnet-50 is Apache-2.0. torchvision is BSD-3-Clause; it says "
    "of its weights that they may carry terms derived from their training data, here ImageNet."
)
PWCNET_TERMS = Terms(
    "The published PWC-Net weights (NVIDIA's, and their port by Simon Niklaus) are licensed CC BY-NC-SA 4.0: "
    "non-commercial use only, name the source, pass on under the same terms. A model that holds them is bound by it.",
    licence="cc-by-nc-sa-4.0",
)
CHECKPOINT_TERMS = Terms("The terms of whoever trained the checkpoint hold; GFSalNet's authors name none for theirs.")

_TORCHVISION_STEM = {"conv1": "convolution", "bn1": "normalization"}
_TORCHVISION_BLOCK = re.compile(r"layer([1-4])\.(\d+)\.(conv|bn)(\d)\.(.+)")
_TORCHVISION_SHORTCUT = re.compile(r"layer([1-4])\.(\d+)\.downsample\.([01])\.(.+)")
_NVIDIA_LAYERS = {"a": 0, "aa": 1, "b": 2}
_NVIDIA_LAYERS_OF_LEVEL_6 = {"aa": 0, "a": 1, "b": 2}
_NVIDIA_DECODER_LAYERS = {"predict_flow": "predict", "deconv": "upsample_flow", "upfeat": "upsample_features"}


def resnet_name(name: str) -> str:
    """Our name, which is that of `transformers.ResNetModel`, of a ResNet weight in either layout."""
    stem, _, rest = name.partition(".")
    if stem in _TORCHVISION_STEM:
        return f"embedder.embedder.{_TORCHVISION_STEM[stem]}.{rest}"
    if match := _TORCHVISION_BLOCK.fullmatch(name):
        stage, block, kind, number, rest = match.groups()
        part = "convolution" if kind == "conv" else "normalization"
        return f"encoder.stages.{int(stage) - 1}.layers.{block}.layer.{int(number) - 1}.{part}.{rest}"
    if match := _TORCHVISION_SHORTCUT.fullmatch(name):
        stage, block, number, rest = match.groups()
        part = "convolution" if number == "0" else "normalization"
        return f"encoder.stages.{int(stage) - 1}.layers.{block}.shortcut.{part}.{rest}"
    return name.removeprefix("resnet.")  # of models with a head in transformers


def convert_resnet(tensors: StateDict) -> StateDict:
    """The weights of a ResNet file by the names of our trunk."""
    return rename(tensors, resnet_name)


def pwcnet_name(name: str) -> str:
    """Our name of a PWC-Net weight in any of the three spellings; other names stay."""
    # `net` stands where the file says `module`, at the start of each part
    spelled = re.sub(r"(?<![^.])net(?=[A-Z])", "module", name)
    if match := re.fullmatch(r"moduleExtractor\.module(\w{3})\.([024])\.(weight|bias)", spelled):
        return f"pyramid.{NUMBERS.index(match[1])}.{int(match[2]) // 2}.{match[3]}" if match[1] in NUMBERS else name
    if match := re.fullmatch(r"moduleRefiner\.moduleMain\.(\d+)\.(weight|bias)", spelled):
        return f"context.{int(match[1]) // 2}.{match[2]}"
    if match := re.fullmatch(r"module(\w{3})\.module(Upflow|Upfeat|\w{3}\.0)\.(weight|bias)", spelled):
        return _port_decoder_name(*match.groups()) or name
    return _nvidia_name(name)


def _port_decoder_name(level: str, layer: str, kind: str) -> str | None:
    """Our name of a decoder's weight in the port's spelling; decoders count from the coarsest level, 6."""
    if level not in NUMBERS[1:]:
        return None
    decoder = f"decoders.{5 - NUMBERS.index(level)}"
    if layer.startswith("Up"):
        return f"{decoder}.upsample_{'flow' if layer == 'Upflow' else 'features'}.{kind}"
    number = layer.removesuffix(".0")
    if number not in NUMBERS:
        return None
    return f"{decoder}.predict.{kind}" if number == "Six" else f"{decoder}.dense.{NUMBERS.index(number)}.{kind}"


def _nvidia_name(name: str) -> str:
    """Our name of a weight in NVIDIA's file; other names stay."""
    if match := re.fullmatch(r"conv([1-6])(a|aa|b)\.0\.(weight|bias)", name):
        order = _NVIDIA_LAYERS_OF_LEVEL_6 if match[1] == "6" else _NVIDIA_LAYERS
        return f"pyramid.{int(match[1]) - 1}.{order[match[2]]}.{match[3]}"
    if match := re.fullmatch(r"conv([2-6])_([0-4])\.0\.(weight|bias)", name):
        return f"decoders.{6 - int(match[1])}.dense.{match[2]}.{match[3]}"
    if match := re.fullmatch(r"(predict_flow|deconv|upfeat)([2-6])\.(weight|bias)", name):
        # what enlarges the flow of a level belongs to the next finer one
        decoder = 6 - int(match[2]) + (match[1] != "predict_flow")
        return f"decoders.{decoder}.{_NVIDIA_DECODER_LAYERS[match[1]]}.{match[3]}"
    if match := re.fullmatch(r"dc_conv([1-7])(?:\.0)?\.(weight|bias)", name):
        return f"context.{int(match[1]) - 1}.{match[2]}"
    return name


def convert_pwcnet(tensors: StateDict) -> StateDict:
    """The weights of a PWC-Net file by the names of `PWCNetFlow`."""
    return rename(tensors, pwcnet_name)


def make_config(fields: dict[str, Any] | None, tensors: Mapping[str, StateDict]) -> GFSalNetConfig:
    """The config of the model that the sources make: the paper's, with PWC-Net if its weights are among them.

    Args:
        fields: what the user's config file says; `None` without one.
        tensors: of each given source, by our names.

    Raises:
        ValueError: if config and sources disagree about PWC-Net.
    """
    holds_flow = "flow" in tensors or _holds_flow(tensors.get("model", {}))
    config = GFSalNetConfig(**{**({"flow_backend": "pwcnet"} if holds_flow else {}), **(fields or {})})
    wants_flow = config.flow_backend == "pwcnet" and config.streams != "appearance"
    if holds_flow and not wants_flow:
        raise ValueError(
            f"a config with flow_backend={config.flow_backend!r} and streams={config.streams!r} has no place for "
            "PWC-Net's weights: set flow_backend to 'pwcnet' and keep the motion stream, or leave the weights away"
        )
    if wants_flow and not holds_flow:
        raise ValueError("the config says flow_backend='pwcnet', which needs PWC-Net's weights: add flow=FILE")
    return config


def _holds_flow(tensors: StateDict) -> bool:
    return any(name.startswith(FLOW_PREFIX) for name in tensors)


def processor_settings(config: GFSalNetConfig) -> dict[str, Any]:
    """The paper's input size; the normalisation that the config names for flow images holds for frames as well."""
    return {"size": {"height": 480, "width": 640}, "image_mean": config.flow_mean, "image_std": config.flow_std}


def _stream_names(config: GFSalNetConfig) -> tuple[str, ...]:
    return ("appearance", "motion") if config.streams == "both" else (config.streams,)


CONVERTER = Converter(
    model_class=GFSalNetForVideoSaliency,
    sources={
        "backbone": Source(
            title="ResNet of each stream, torchvision or transformers names",
            convert=convert_resnet,
            places=lambda config: [f"streams.{name}.trunk." for name in _stream_names(config)],
            terms=lambda tensors: RESNET_TERMS,
            dropped=("fc.weight", "fc.bias", "classifier.1.weight", "classifier.1.bias"),  # the ImageNet heads
            optional=(COUNTERS,),
        ),
        "flow": Source(
            title="PWC-Net, names of the port by Niklaus or of NVIDIA",
            convert=convert_pwcnet,
            places=lambda config: [FLOW_PREFIX],
            terms=lambda tensors: PWCNET_TERMS,
            dropped=("deconv2.weight", "deconv2.bias"),  # NVIDIA's file has it, its network does not use it
        ),
        "model": Source(
            title="state dict of a GFSalNetForVideoSaliency, or what of it the other sources leave",
            convert=dict,
            places=lambda config: [""],
            terms=lambda tensors: (
                Terms(f"{CHECKPOINT_TERMS.text} {PWCNET_TERMS.text}", PWCNET_TERMS.licence)
                if _holds_flow(tensors)
                else CHECKPOINT_TERMS
            ),
            optional=(COUNTERS,),
        ),
    },
    make_config=make_config,
    processor_settings=processor_settings,
)

__all__ = ["CONVERTER", "convert_pwcnet", "convert_resnet"]
