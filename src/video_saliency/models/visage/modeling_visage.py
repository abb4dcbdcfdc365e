# SPDX-License-Identifier: Apache-2.0
"""ViSAGE: a frozen video foundation model, experts with adapters of their own on it, and the fusion of their maps.

The winner of the NTIRE 2026 challenge on video saliency in CC and SIM. Where paper and released code differ, this is
the code, whose weights are public; `configuration_visage.py` says what else can be switched. Precision is that of the
code, too: the backbone may be half precision, adapters and experts are float32, and so is the fusion, which the
authors do on 8-bit pictures.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init

from video_saliency.backbones.internvideo2 import InternVideo2Encoder, InternVideo2Features, init_internvideo2_weights
from video_saliency.losses import visage_loss
from video_saliency.modeling_outputs import VideoSaliencyOutput
from video_saliency.models.visage.configuration_visage import ViSAGEConfig
from video_saliency.models.visage.modeling_visage_adapters import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    PEFT_PREFIX,
    adaptable_layers,
    adapted_layers,
    adapter_shapes,
    adapter_weights,
    add_adapter,
    load_peft,
    merge_adapter,
    remove_adapter,
    shortest_targets,
    switch_adapter,
)
from video_saliency.models.visage.modeling_visage_experts import ViSAGEExpert, make_expert

BACKBONE_PREFIX = "backbone."
HALF_PRECISION = (torch.bfloat16, torch.float16)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)  # the norms that transformers leaves alone


@dataclass
class ViSAGEOutput(VideoSaliencyOutput):
    """Maps of a batch of clips, all in float32 and in 0..1.

    Attributes:
        loss: scalar, only with labels: the sum of the experts' losses. Experts are trained by themselves, the fused
            map takes no part.
        logits: `(batch, frames, height, width)`, of `saliency_maps`; in `[log(e / (1 - e)), log((1 - e) / e)]` with
            the config's `fusion_epsilon` e, unless there is one expert alone.
        saliency_maps: `(batch, frames, height, width)`, the fused maps.
        hidden_states: the features that were read, pass by pass and shallow to deep, `(batch, channels, frames, rows,
            columns)`. Experts without an adapter share one pass.
        expert_maps: `(batch, frames, experts, height, width)`, in the order of the config's `running_experts`.
        auxiliary_maps: `(batch, frames, heads, height, width)`, expert by expert, from the level behind the
            shallowest to the deepest one; only on request.
    """

    expert_maps: torch.Tensor | None = None
    auxiliary_maps: torch.Tensor | None = None


def fuse_experts(
    logits: Sequence[torch.Tensor],
    weights: Sequence[float],
    *,
    fusion: str = "logit",
    epsilon: float = 1e-6,
    threshold: float = 0.4,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and maps in 0..1 of several experts fused, float32, of the shape of each of `logits`.

    Args:
        logits: one tensor for each expert, any shape.
        weights: of each in means, scaled to the sum 1. The released alpha is `(alpha, 1 - alpha)`.
        fusion: `"logit"`: the mean of logits, each of a map clipped to `[epsilon, 1 - epsilon]`; `"mean"`, `"max"`;
            `"hybrid"`: the maximum where the mean is above `threshold`, else the mean.
        epsilon, threshold: see above.

    Raises:
        ValueError: for an unknown `fusion`.
    """
    bound = math.log((1 - epsilon) / epsilon)
    clipped = [values.float().clamp(-bound, bound) for values in logits]
    shares = [weight / sum(weights) for weight in weights]
    if fusion == "logit":
        fused = torch.stack([share * values for share, values in zip(shares, clipped, strict=True)]).sum(dim=0)
        return fused, fused.sigmoid()
    maps = torch.stack([values.float().sigmoid() for values in logits])
    mean = torch.stack([share * values for share, values in zip(shares, maps, strict=True)]).sum(dim=0)
    if fusion == "mean":
        fused_maps = mean
    elif fusion == "max":
        fused_maps = maps.amax(dim=0)
    elif fusion == "hybrid":
        fused_maps = torch.where(mean > threshold, maps.amax(dim=0), mean)
    else:
        raise ValueError(f"fusion must be 'logit', 'mean', 'max' or 'hybrid', got {fusion!r}")
    return fused_maps.logit(epsilon), fused_maps


class ViSAGEPreTrainedModel(PreTrainedModel):
    """Weight initialisation and what transformers wants to know of the model."""

    config_class = ViSAGEConfig
    base_model_prefix = "visage"
    main_input_name = "pixel_values_videos"
    input_modalities = ("video",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["InternVideo2Block", "InternVideo2PatchEmbed", "ModulatedExpert", "MultiScaleExpert"]
    # these stay float32 when the backbone is loaded in half precision
    _keep_in_fp32_modules_strict = ["experts", "lora_A", "lora_B", "position_table"]

    @torch.no_grad()
    def _init_weights(self, module: Any) -> None:
        """Modules that define `init_weights` by it, convolutions as PyTorch has them, adapters as PEFT has them.

        The backbone and other linear layers by its rule, all else as transformers has it.
        """
        part = getattr(module, "adapter_part", None)
        if part == "lora_B":
            init.zeros_(module.weight)
        elif module is not self and hasattr(module, "init_weights"):
            module.init_weights()
        elif part == "lora_A" or isinstance(module, CONVOLUTIONS):
            init.kaiming_uniform_(module.weight, a=math.sqrt(5))
            if module.bias is not None:
                bound = module.weight[0].numel() ** -0.5
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, INSTANCE_NORMS) and module.affine:
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif not init_internvideo2_weights(module):
            super()._init_weights(module)

    def _initialize_weights(self, module: Any, is_custom_code: bool = False) -> None:
        # outside of transformers, modules without tensors of their own pass for loaded: they are not asked for
        # `init_weights`, which here may fill what they hold
        if hasattr(module, "init_weights"):
            tensors = [*module.parameters(), *module.buffers()]
            is_custom_code = all(getattr(value, "_is_hf_initialized", False) for value in tensors)
        super()._initialize_weights(module, is_custom_code)


class ViSAGEForVideoSaliency(ViSAGEPreTrainedModel):
    """ViSAGE with any number of experts.

    The backbone is there once. Each expert with an adapter runs it once more, with this adapter.

    Example:

    ```python
    >>> import torch
    >>> from video_saliency import ViSAGEConfig, ViSAGEForVideoSaliency
    >>> small = {"reduced_dim": 8, "dim": 8}
    >>> config = ViSAGEConfig(
    ...     backbone_dim=32, backbone_depth=4, backbone_heads=2, image_size=28,
    ...     experts=[{"name": "first", "type": "modulated", "options": small},
    ...              {"name": "second", "type": "multiscale", "options": small}],
    ... )
    >>> model = ViSAGEForVideoSaliency(config).eval()
    >>> outputs = model(torch.zeros(1, 5, 3, 28, 28))
    >>> outputs.saliency_maps.shape, outputs.expert_maps.shape
    (torch.Size([1, 5, 28, 28]), torch.Size([1, 5, 2, 28, 28]))

    ```
    """

    def __init__(self, config: ViSAGEConfig) -> None:
        super().__init__(config)
        self.backbone = InternVideo2Encoder(
            hidden_size=config.backbone_dim,
            depth=config.backbone_depth,
            heads=config.backbone_heads,
            mlp_ratio=config.backbone_mlp_ratio,
            patch_size=config.patch_size,
            image_size=config.image_size,
            num_frames=config.backbone_table_frames,
            drop_path_rate=config.backbone_drop_path,
            hidden_act=config.backbone_activation,
        )
        entries = config.experts or ()
        self.experts = nn.ModuleDict({entry["name"]: make_expert(entry, config.backbone_dim) for entry in entries})
        for entry in entries:
            if entry["lora"] is not None:
                add_adapter(self.backbone, entry["name"], entry["lora"])
        # transformers takes the precision of weights that wait on disk from here
        for value in self._kept_in_float32().values():
            if value.dtype in HALF_PRECISION:
                value.data = value.data.float()
        self.post_init()
        self.train(self.training)

    def train(self, mode: bool = True) -> ViSAGEForVideoSaliency:
        """Sets the mode; the backbone's own weights stay frozen if the config says so.

        Frozen or not, the backbone is in training mode with the rest: stochastic depth is on in both stages of the
        authors' training.
        """
        super().train(mode)
        if self.config.freeze_backbone:
            # here, not once for all: loading a checkpoint makes every parameter trainable again, then calls this
            adapters = {id(value) for _, layer in adapted_layers(self.backbone) for value in _parts(layer)}
            for parameter in self.backbone.parameters():
                if id(parameter) not in adapters:
                    parameter.requires_grad_(False)
        return self

    def to(self, *args: Any, **kwargs: Any) -> ViSAGEForVideoSaliency:
        """Moves and casts as always, but half precision is for the backbone alone, as when a model is loaded in it."""
        kept = {name: value.data for name, value in self._kept_in_float32().items()}
        super().to(*args, **kwargs)
        if self.dtype in HALF_PRECISION:
            for name, value in self._kept_in_float32().items():
                value.data = kept[name].to(value.device)
        return self

    def half(self, *args: Any) -> ViSAGEForVideoSaliency:
        """As `to(torch.float16)`."""
        return self.to(torch.float16)

    def bfloat16(self) -> ViSAGEForVideoSaliency:
        """As `to(torch.bfloat16)`."""
        return self.to(torch.bfloat16)

    def get_input_embeddings(self) -> nn.Module:
        """The embedding of patches; adapters under activation checkpointing ask for it."""
        return self.backbone.patch_embed

    def forward(
        self,
        pixel_values_videos: torch.Tensor | None = None,
        *,
        output_size: Sequence[int] | None = None,
        saliency_labels: torch.Tensor | None = None,
        fixation_labels: torch.Tensor | None = None,
        output_auxiliary_maps: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> ViSAGEOutput | tuple[torch.Tensor, ...]:
        """A map for each frame, from each expert and fused.

        Args:
            pixel_values_videos: `(batch, frames, 3, height, width)` normalised RGB (CLIP's mean and deviation), any
                number of frames, sides that the patch size divides.
            output_size: height and width of the maps. Default: as the config says, or else those of the input.
            saliency_labels: true densities `(batch, frames, *output_size)` in 0..1, scaled by 255 as the pictures of
                the data set are; with them a loss is returned.
            fixation_labels: fixation maps, same shape; where they are above 0, errors count more.
            output_auxiliary_maps: whether to return the auxiliary maps. Default: as the config says.
            output_hidden_states: whether to return the features. Default: as the config says.
            return_dict: `False` returns a tuple. Default: as the config says.

        Raises:
            ValueError: for an input or `output_size` of the wrong shape, or fixations without densities.
        """
        config = self.config
        if output_auxiliary_maps is None:
            output_auxiliary_maps = config.output_auxiliary_maps
        if output_hidden_states is None:
            output_hidden_states = config.output_hidden_states
        if return_dict is None:
            return_dict = config.return_dict
        if fixation_labels is not None and saliency_labels is None:
            raise ValueError("fixation_labels need saliency_labels beside them: the loss is mostly about densities")
        frames = self._checked(pixel_values_videos)
        size = self._output_size(frames, output_size)

        with_auxiliary = output_auxiliary_maps or (saliency_labels is not None and config.auxiliary_losses)
        logits, auxiliary, hidden_states = self._run_experts(frames, size, with_auxiliary, output_hidden_states)
        names = config.running_experts
        fused_logits, maps = self._fuse([logits[name] for name in names])
        further = [values.sigmoid() for name in names for values in auxiliary[name]] if output_auxiliary_maps else []
        output = ViSAGEOutput(
            loss=self._loss(logits, auxiliary, saliency_labels, fixation_labels),
            logits=fused_logits,
            saliency_maps=maps,
            hidden_states=hidden_states or None,
            expert_maps=torch.stack([logits[name].sigmoid() for name in names], dim=2),
            auxiliary_maps=torch.stack(further, dim=2) if further else None,
        )
        return output if return_dict else output.to_tuple()

    def _checked(self, frames: torch.Tensor | None) -> torch.Tensor:
        """The frames, of the right shape."""
        if frames is None or frames.ndim != 5 or frames.shape[2] != 3:
            shape = None if frames is None else tuple(frames.shape)
            raise ValueError(f"pixel_values_videos must be (batch, frames, 3, height, width), got {shape}")
        return frames

    def _output_size(self, frames: torch.Tensor, output_size: Sequence[int] | None) -> tuple[int, int]:
        """Height and width of the maps."""
        size: Any = self.config.output_size if output_size is None else output_size
        if size is None:
            return frames.shape[3], frames.shape[4]
        if not isinstance(size, Sequence) or len(size) != 2 or min(size) < 1:
            raise ValueError(f"output_size must be (rows, columns), each 1 or more, got {size}")
        return size[0], size[1]

    def _run_experts(
        self, frames: torch.Tensor, size: tuple[int, int], with_auxiliary: bool, with_features: bool
    ) -> tuple[dict[str, torch.Tensor], dict[str, tuple[torch.Tensor, ...]], tuple[torch.Tensor, ...]]:
        """Logits `(batch, frames, *size)` and auxiliary ones of each expert, and the features if they are wanted."""
        logits: dict[str, torch.Tensor] = {}
        auxiliary: dict[str, tuple[torch.Tensor, ...]] = {}
        hidden_states: tuple[torch.Tensor, ...] = ()
        for adapter, names in self._passes().items():
            features = self._features(frames, adapter, names)
            for name in names:
                outputs = self._run_expert(name, features, size, with_auxiliary)
                logits[name] = outputs.maps.float().to(frames.device)
                auxiliary[name] = tuple(maps.float().to(frames.device) for maps in outputs.auxiliary)
            if with_features:
                hidden_states += tuple(feature for feature, _ in features.values())
        return logits, auxiliary, hidden_states

    def use_adapter(self, expert: str | None) -> None:
        """Makes the adapter of one expert that of the backbone, or none; a forward switches by itself.

        Raises:
            ValueError: for an expert that is not there or has no adapter.
        """
        if expert is not None and self.config.expert(expert)["lora"] is None:
            raise ValueError(f"expert {expert!r} has no adapter: use_adapter(None) is the backbone as it is")
        # adapters that somebody else put on a model without own ones are left alone
        if any(entry["lora"] is not None for entry in self.config.experts):
            switch_adapter(self.backbone, expert)

    def add_expert_adapter(self, expert: str, **lora: Any) -> None:
        """Gives an expert an adapter, which has no effect until it is trained (stage 2 of the authors' training).

        Args:
            expert: name of one that has none.
            lora: `r`, `alpha`, `dropout` and `targets`, see the config. Default: the released values.

        Raises:
            ValueError: for an unknown expert or setting, an expert with an adapter, or weights that wait on disk.
        """
        if self.config.expert(expert)["lora"] is not None:
            raise ValueError(f"expert {expert!r} has an adapter already")
        self._check_at_hand("added")
        experts = self._experts_with(expert, lora)
        add_adapter(self.backbone, expert, next(entry["lora"] for entry in experts if entry["name"] == expert))
        self.config.experts = experts

    def keep_experts(self, names: Sequence[str]) -> None:
        """Takes all other experts away, with their adapters.

        Those that are kept keep their weights in the fusion, unless these are all 0: then they count equally.

        Raises:
            ValueError: for an unknown name, or none.
        """
        if not names:
            raise ValueError(f"name an expert to keep, some of {', '.join(self.config.expert_names)}")
        kept = [self.config.expert(name) for name in dict.fromkeys(names)]
        shares = dict(zip(self.config.expert_names, self._weights(), strict=True))
        given = [shares[entry["name"]] for entry in kept]
        weights = given if self.config.fusion_weights is not None and len(kept) > 1 and any(given) else None
        # checked before anything is taken away
        config = self._changed_config(experts=kept, active_experts=None, fusion_weights=weights)
        for entry in self.config.experts:
            if entry["name"] not in config.expert_names:
                del self.experts[entry["name"]]
                if entry["lora"] is not None:
                    remove_adapter(self.backbone, entry["name"])
        for field in ("experts", "active_experts", "fusion_weights"):
            setattr(self.config, field, getattr(config, field))

    def merge_adapter(self) -> None:
        """Adds the adapter of the only expert to the backbone's weights, in float32.

        The model then is one without adapters, which needs no PEFT and runs a little faster.

        Raises:
            ValueError: for a model with several experts, whose adapters cannot be in one set of weights, one without
                an adapter, half precision, or weights that wait on disk.
        """
        if len(self.config.experts) != 1:
            raise ValueError(
                f"only one adapter can be merged into the weights that all experts share: choose one of "
                f"{', '.join(self.config.expert_names)} with keep_experts first"
            )
        (entry,) = self.config.experts
        if entry["lora"] is None:
            raise ValueError(f"expert {entry['name']!r} has no adapter to merge")
        self._check_at_hand("merged")
        merge_adapter(self.backbone, entry["name"])
        entry["lora"] = None

    def save_expert_adapter(self, expert: str, folder: str | Path) -> None:
        """Writes the adapter of one expert as PEFT does: `adapter_config.json` and `adapter_model.safetensors`.

        `PeftModel.from_pretrained` puts it on this model without adapters; `load_expert_adapter` on an expert.

        Raises:
            ValueError: for an expert that is not there or has no adapter, or weights that wait on disk.
        """
        lora = self.config.expert(expert)["lora"]
        if lora is None:
            raise ValueError(f"expert {expert!r} has no adapter to save")
        self._check_at_hand("saved")
        Path(folder).mkdir(parents=True, exist_ok=True)
        load_peft().LoraConfig(
            r=lora["r"],
            lora_alpha=lora["alpha"],
            lora_dropout=lora["dropout"],
            target_modules=rf"backbone\.(.*\.)?({'|'.join(map(re.escape, lora['targets']))})",
            base_model_name_or_path=self.name_or_path,
            inference_mode=True,
        ).save_pretrained(str(folder))
        weights = adapter_weights(self.backbone, expert, BACKBONE_PREFIX)
        tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
        save_file(tensors, Path(folder) / ADAPTER_WEIGHTS, metadata={"format": "pt"})

    @torch.no_grad()
    def load_expert_adapter(self, expert: str, folder: str | Path) -> None:
        """Reads an adapter into an expert, in place of its own if it has one.

        The folder is one that `save_expert_adapter` wrote, or the result of a training run with adapters, which holds
        the expert as well: it is read, too. So experts that were trained alone become one model.

        Raises:
            ValueError: if the folder holds no adapter, one for other layers, or another expert, or for a model whose
                weights wait on disk; the model then is as it was.
        """
        before = self.config.expert(expert)["lora"]
        self._check_at_hand("loaded")
        lora, tensors, decoder = self._read_adapter(expert, folder)
        experts = self._experts_with(expert, lora)
        expected = adapter_shapes(self.backbone, lora, BACKBONE_PREFIX)
        found = {name: tuple(value.shape) for name, value in tensors.items()}
        if different := sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name)):
            name = different[0]
            raise ValueError(
                f"{folder} does not hold the weights of this adapter, it differs in {name}: its shape is "
                f"{found.get(name)} and must be {expected.get(name)}"
            )
        if before is not None:
            remove_adapter(self.backbone, expert)
        add_adapter(self.backbone, expert, lora)
        self.config.experts = experts
        for name, value in adapter_weights(self.backbone, expert, BACKBONE_PREFIX).items():
            value.copy_(tensors[name])
        if decoder:
            self.experts[expert].load_state_dict(decoder)

    def _check_at_hand(self, done: str) -> None:
        """Raises `ValueError` where weights of the backbone wait on disk or in memory for their turn."""
        if any(value.is_meta for value in self.backbone.parameters()):
            raise ValueError(
                f"adapters of weights that wait on disk or in memory cannot be {done}: load the model without "
                "device_map first"
            )

    def _read_adapter(
        self, expert: str, folder: str | Path
    ) -> tuple[dict[str, Any], dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Settings and weights of an adapter in a folder, and the weights of an expert if there is one."""
        for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
            if not (Path(folder) / name).is_file():
                raise ValueError(f"{folder} has no {name}: name a folder that save_expert_adapter or a training wrote")
        settings = load_peft().LoraConfig.from_pretrained(str(folder))
        tensors = load_file(Path(folder) / ADAPTER_WEIGHTS)
        decoder = self._take_decoder(tensors, expert, folder)
        if not tensors or settings.use_dora or settings.use_rslora:
            raise ValueError(f"{folder} is no plain LoRA adapter of a ViSAGE backbone")
        if settings.rank_pattern or settings.alpha_pattern:
            raise ValueError(
                f"{folder} has a rank_pattern or alpha_pattern, but the adapter of an expert has one r and one alpha "
                "for all layers: train it without"
            )
        paths = {name.split(BACKBONE_PREFIX, 1)[-1].rsplit(".", 2)[0] for name in tensors}
        if missing := sorted(paths - set(adaptable_layers(self.backbone))):
            raise ValueError(f"{folder} adapts layers that the backbone lacks, such as {missing[0]}")
        targets = shortest_targets(self.backbone, settings, BACKBONE_PREFIX)
        before = self.config.expert(expert)["lora"]
        if before is not None and set(before["targets"]) == set(targets):
            targets = before["targets"]
        lora = {"r": settings.r, "alpha": settings.lora_alpha, "dropout": settings.lora_dropout, "targets": targets}
        return lora, tensors, decoder

    def _take_decoder(
        self, tensors: dict[str, torch.Tensor], expert: str, folder: str | Path
    ) -> dict[str, torch.Tensor]:
        """Takes the weights of an expert out of an adapter's, under whatever name; none where there is no expert."""
        pattern = re.compile(rf"{re.escape(PEFT_PREFIX)}experts\.([^.]+)\.(.+)")
        found = {name: match for name in tensors if (match := pattern.fullmatch(name))}
        if len(names := {match[1] for match in found.values()}) > 1:
            raise ValueError(f"{folder} holds the experts {', '.join(sorted(names))}: an adapter is of a single one")
        decoder = {match[2]: tensors.pop(name) for name, match in found.items()}
        expected = {name: value.shape for name, value in self.experts[expert].state_dict().items()}
        if decoder and {name: value.shape for name, value in decoder.items()} != expected:
            wrong = [name for name in expected if name not in decoder or decoder[name].shape != expected[name]]
            wrong += sorted(set(decoder) - set(expected))
            raise ValueError(f"{folder} holds another expert than {expert!r} is, it differs in {wrong[0]}")
        return decoder

    def _kept_in_float32(self) -> dict[str, torch.Tensor]:
        """Parameters and buffers that half precision is not for, by name."""
        return {
            name: value
            for name, value in [*self.named_parameters(), *self.named_buffers()]
            if value.is_floating_point() and not set(self._keep_in_fp32_modules_strict).isdisjoint(name.split("."))
        }

    def _experts_with(self, expert: str, lora: dict[str, Any]) -> list[dict[str, Any]]:
        """The config's experts with these settings of an adapter, checked and complete."""
        entries = [{**entry, "lora": lora} if entry["name"] == expert else entry for entry in self.config.experts]
        return self._changed_config(experts=entries).experts

    def _changed_config(self, **fields: Any) -> Any:
        """A copy of the config with other fields, checked and complete."""
        return type(self.config)(**{**self.config.to_dict(), **fields})

    def _passes(self) -> dict[str | None, list[str]]:
        """The running experts by the adapter that the backbone has for them; those without share a pass."""
        passes: dict[str | None, list[str]] = {}
        for name in self.config.running_experts:
            adapter = name if self.config.expert(name)["lora"] is not None else None
            passes.setdefault(adapter, []).append(name)
        return passes

    def _features(
        self, frames: torch.Tensor, adapter: str | None, names: Sequence[str]
    ) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
        """Features and class token behind each block that the experts read."""
        self.use_adapter(adapter)
        layers = sorted({layer for name in names for layer in self.config.expert(name)["layers"]})
        found = self._run_backbone(frames.transpose(1, 2), adapter, layers)
        return dict(zip(layers, zip(found.features, found.class_tokens, strict=True), strict=True))

    def _run_backbone(self, pixels: torch.Tensor, adapter: str | None, layers: list[int]) -> InternVideo2Features:
        """One pass. What is recomputed later, for gradients, is recomputed with the adapter of this pass."""
        backbone: Any = self.backbone
        recomputes = backbone.gradient_checkpointing and self.training
        if recomputes:
            checkpoint = backbone._gradient_checkpointing_func

            def checkpoint_with_adapter(function: Callable[..., Any], *inputs: Any) -> Any:
                def run(*inputs: Any) -> Any:
                    self.use_adapter(adapter)
                    return function(*inputs)

                return checkpoint(run, *inputs)

            backbone._gradient_checkpointing_func = checkpoint_with_adapter
        try:
            features: InternVideo2Features = backbone(
                pixels, layers, attn_implementation=self.config._attn_implementation
            )
        finally:
            if recomputes:
                backbone._gradient_checkpointing_func = checkpoint
        return features

    def _run_expert(
        self,
        name: str,
        features: dict[int, tuple[torch.Tensor, torch.Tensor]],
        size: tuple[int, int],
        auxiliary: bool,
    ) -> Any:
        expert: ViSAGEExpert = self.experts[name]  # type: ignore[assignment]
        dtype = next((value.dtype for value in expert.parameters()), torch.float32)
        layers = self.config.expert(name)["layers"]
        return expert(
            [features[layer][0].to(dtype) for layer in layers],
            features[layers[-1]][1].to(dtype),
            output_size=size,
            auxiliary=auxiliary,
        )

    def _weights(self) -> list[float]:
        """Of all experts in means."""
        return self.config.fusion_weights or [1.0] * len(self.config.experts)

    def _fuse(self, logits: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        if len(logits) == 1:
            return logits[0], logits[0].sigmoid()
        weights = dict(zip(self.config.expert_names, self._weights(), strict=True))
        return fuse_experts(
            logits,
            [weights[name] for name in self.config.running_experts],
            fusion=self.config.fusion,
            epsilon=self.config.fusion_epsilon,
            threshold=self.config.fusion_threshold,
        )

    def _loss(
        self,
        logits: dict[str, torch.Tensor],
        auxiliary: dict[str, tuple[torch.Tensor, ...]],
        densities: torch.Tensor | None,
        fixations: torch.Tensor | None,
    ) -> torch.Tensor | None:
        """Of each expert, summed: the loss of its map, and those of auxiliary maps, without BCE and fixations."""
        if densities is None:
            return None
        config = self.config
        weights = {
            "kl_weight": config.kl_loss_weight,
            "cc_weight": config.cc_loss_weight,
            "sim_weight": config.sim_loss_weight,
        }
        loss = densities.new_zeros((), dtype=torch.float32)
        for name, values in logits.items():
            further = {"bce_weight": config.bce_loss_weight, "nss_weight": config.nss_loss_weight}
            loss = loss + visage_loss(values.sigmoid(), densities, fixations, **weights, **further)
            if config.auxiliary_losses:
                shares: Any = self.experts[name].auxiliary_loss_weights
                for share, maps in zip(shares, auxiliary[name], strict=True):
                    loss = loss + share * visage_loss(maps.sigmoid(), densities, **weights, bce_weight=0.0)
        return loss


def _parts(layer: Any) -> list[nn.Parameter]:
    """The adapters' weights of a layer."""
    return [*layer.lora_A.parameters(), *layer.lora_B.parameters()]


__all__ = ["ViSAGEForVideoSaliency", "ViSAGEOutput", "ViSAGEPreTrainedModel", "fuse_experts"]
