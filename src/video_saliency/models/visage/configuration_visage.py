# SPDX-License-Identifier: Apache-2.0
# No `from __future__ import annotations` here: it would silently switch off the type checks of `strict`.
"""Configuration of ViSAGE."""

from typing import Any

from huggingface_hub.dataclasses import strict
from torch import nn

from video_saliency.saliency_config import SaliencyConfig

# of CLIP, as in the released code, although InternVideo2 was trained with ImageNet's
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

FUSIONS = ("logit", "mean", "max", "hybrid")
ACTIVATIONS = ("gelu_pytorch_tanh", "gelu")
COUNTS = (
    "backbone_dim",
    "backbone_depth",
    "backbone_heads",
    "backbone_table_frames",
    "patch_size",
    "image_size",
)
NUM_LEVELS = 4  # features that an expert reads by default

# of the released experts; the paper gives no rank
LORA = {"r": 64, "alpha": 128, "dropout": 0.05, "targets": ("qkv", "proj", "fc1", "fc2")}
EXPERT_1 = {
    "name": "expert1",
    "type": "modulated",
    "layers": None,
    "options": {"reduced_dim": 1024, "dim": 256, "temporal_modulation": True, "film": True, "centre_bias": True},
    "lora": LORA,
}
EXPERT_2 = {
    "name": "expert2",
    "type": "multiscale",
    "layers": None,
    "options": {"reduced_dim": 1024, "dim": 256, "temporal_gate": True, "auxiliary_loss_weights": (0.2, 0.15, 0.1)},
    "lora": LORA,
}


@strict
class ViSAGEConfig(SaliencyConfig):
    r"""
    Configuration of a [`ViSAGEForVideoSaliency`]. The defaults are the released model (first in CC and SIM at the
    NTIRE 2026 challenge on video saliency; where paper and code differ, this is the code): InternVideo2-6B, 20 frames
    of 224 x 224 at 5 frames a second, two experts with adapters of rank 64, fused in logit space with equal weights.

    Args:
        backbone_dim, backbone_depth, backbone_heads, backbone_mlp_ratio: of the InternVideo2 encoder.
        backbone_activation: `"gelu_pytorch_tanh"`, that of the fused layers on which the released experts were
            trained, or `"gelu"` (erf), for experts that were trained on the plain layers.
        backbone_drop_path: largest rate of stochastic depth in training, rising linearly over the blocks.
        backbone_table_frames: frames that the stored position table is for; it is interpolated to those of a clip.
        patch_size: side of a patch in pixels.
        image_size: side in pixels of the frames that the stored position table is for; it is interpolated to others.
        freeze_backbone: whether the backbone's own weights stay as they are; adapters are trained in any case.
        experts: one dict for each expert, with the keys

            - `name`: letters, digits and underscores, unique: `experts.<name>` in the weights, and of its adapter. Not
              an attribute of `torch.nn.ModuleDict`, such as `type`, nor with `lora_` at its start.
            - `type`: of a registered expert class, see `register_expert`: `"modulated"`, `"multiscale"`.
            - `layers`: blocks of the backbone (0-based, rising) whose outputs it reads. Default: four, evenly spread.
            - `options`: keyword arguments of the class. Those of the paper's ablations (Table 3) are
              `temporal_modulation`, `film` and `centre_bias` of `"modulated"`, and of `"multiscale"` `temporal_gate`,
              and `auxiliary_loss_weights`, an empty list of which leaves the auxiliary heads away.
            - `lora`: its adapter, with the keys `r`, `alpha`, `dropout` and `targets` (ends of module names in the
              backbone); `{}` takes the released values, `None` (Table 3: stage 1 only) is no adapter.
        active_experts: names of those that run. Default: all. One name is "expert alone" of Table 4.
        fusion: of the experts' maps: `"logit"` (released), the mean of logits; `"mean"` (Table 4: map fusion);
            `"max"`; or `"hybrid"`, the maximum where the mean is above `fusion_threshold`, else the mean.
        fusion_weights: of each expert in means, scaled to the sum 1; the released alpha is `[alpha, 1 - alpha]`.
            Default: equal (released: alpha 0.5).
        fusion_epsilon: maps are clipped to `[epsilon, 1 - epsilon]` before their logits are fused.
        fusion_threshold: of `"hybrid"`.
        output_size: rows and columns of the maps. Default: those of the input, so 224 x 224 of the released model.
        output_auxiliary_maps: whether a forward gives out the auxiliary maps, without being asked.
        auxiliary_losses: whether auxiliary maps take part in the loss; the authors train them in stage 1 only.
        kl_loss_weight, cc_loss_weight, sim_loss_weight, bce_loss_weight, nss_loss_weight: of the terms of
            `video_saliency.losses.visage_loss`; those of the released code.
        window: fields of a `WindowSpec`. Default: 20 frames, 0.2 s apart; the last frame is repeated at the end.

    Raises:
        ValueError: for values that do not fit together; the message says what to change.

    Example:

    ```python
    >>> from video_saliency import ViSAGEConfig
    >>> config = ViSAGEConfig()
    >>> [expert["name"] for expert in config.experts], config.experts[0]["layers"]
    (['expert1', 'expert2'], [11, 23, 35, 47])
    >>> config.window_spec.num_frames, config.window_spec.step_seconds
    (20, 0.2)

    ```
    """

    model_type = "visage_saliency"

    backbone_dim: int = 3200
    backbone_depth: int = 48
    backbone_heads: int = 25
    backbone_mlp_ratio: float | int = 4.0
    backbone_activation: str = "gelu_pytorch_tanh"
    backbone_drop_path: float | int = 0.3
    backbone_table_frames: int = 4
    patch_size: int = 14
    image_size: int = 224
    freeze_backbone: bool = True
    experts: list | tuple | None = None
    active_experts: list | tuple | None = None
    fusion: str = "logit"
    fusion_weights: list | tuple | None = None
    fusion_epsilon: float | int = 1e-6
    fusion_threshold: float | int = 0.4
    output_size: list | tuple | None = None
    output_auxiliary_maps: bool = False
    auxiliary_losses: bool = True
    kl_loss_weight: float | int = 10.0
    cc_loss_weight: float | int = 2.0
    sim_loss_weight: float | int = 1.0
    bce_loss_weight: float | int = 1.0
    nss_loss_weight: float | int = 0.0
    window: dict | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        # lists, as JSON has them, so that a loaded config equals the saved one
        for name in ("active_experts", "fusion_weights", "output_size"):
            if getattr(self, name) is not None:
                setattr(self, name, list(getattr(self, name)))
        experts = (EXPERT_1, EXPERT_2) if self.experts is None else self.experts
        self.experts = [self._whole_expert(dict(expert)) for expert in experts]
        self._complete_window(num_frames=20, step_seconds=0.2)
        super().__post_init__(**kwargs)
        self._check_backbone()
        self._check_experts()
        self._check_fusion()

    @property
    def expert_names(self) -> list[str]:
        """Of all experts, in their order."""
        return [expert["name"] for expert in self.experts or ()]

    @property
    def running_experts(self) -> list[str]:
        """Names of the experts that a forward runs, in their order.

        Raises `ValueError` for `active_experts` that are not there, or none.
        """
        active = self.expert_names if self.active_experts is None else self.active_experts
        if not active or set(active) - set(self.expert_names):
            raise ValueError(
                f"active_experts must name some of {', '.join(self.expert_names)}; got {self.active_experts}"
            )
        return [name for name in self.expert_names if name in active]

    def expert(self, name: str) -> dict[str, Any]:
        """The entry of an expert. Raises `ValueError` for an unknown name."""
        for expert in self.experts or ():
            if expert["name"] == name:
                return expert
        raise ValueError(f"there is no expert {name!r}: this model has {', '.join(self.expert_names)}")

    def _whole_expert(self, expert: dict[str, Any]) -> dict[str, Any]:
        """The entry with defaults filled in, JSON types only."""
        if set(expert) - set(EXPERT_1) or not {"name", "type"} <= set(expert):
            raise ValueError(
                f"an expert has name and type, and may have layers, options and lora; got {sorted(expert)}"
            )
        layers = expert.get("layers")
        if layers is None:
            layers = [self.backbone_depth * (level + 1) // NUM_LEVELS - 1 for level in range(NUM_LEVELS)]
        lora = expert.get("lora")
        if lora is not None:
            if set(lora) - set(LORA):
                raise ValueError(f"lora of expert {expert['name']!r} may have {', '.join(LORA)}; got {sorted(lora)}")
            lora = _as_json({**LORA, **lora})
        options = _as_json(expert.get("options") or {})
        return {
            "name": expert["name"],
            "type": expert["type"],
            "layers": list(layers),
            "options": options,
            "lora": lora,
        }

    def _check_backbone(self) -> None:
        for field in COUNTS:
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be 1 or more, got {getattr(self, field)}")
        if not 0 <= self.backbone_drop_path < 1:
            raise ValueError(
                f"backbone_drop_path must be 0 or more and less than 1, where no branch is left; got "
                f"{self.backbone_drop_path}"
            )
        if self.backbone_dim % self.backbone_heads:
            raise ValueError(f"backbone_heads ({self.backbone_heads}) must divide backbone_dim ({self.backbone_dim})")
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size ({self.image_size}) must be a multiple of patch_size ({self.patch_size})")
        if self.backbone_activation not in ACTIVATIONS:
            raise ValueError(
                f"backbone_activation must be one of {', '.join(ACTIVATIONS)}; got {self.backbone_activation!r}"
            )
        if self.window_spec.output != "all":
            raise ValueError(f"window must have output='all': each frame gets a map; got {self.window_spec.output!r}")

    def _check_experts(self) -> None:
        names = self.expert_names
        if not names or len(set(names)) < len(names) or not all(name.isidentifier() for name in names):
            raise ValueError(
                f"experts must have names of letters, digits and underscores, each another one; got {names}"
            )
        if taken := [name for name in names if hasattr(nn.ModuleDict(), name) or name.startswith("lora_")]:
            raise ValueError(
                "experts cannot have names of attributes of torch.nn.ModuleDict, which holds them, or names that "
                f"begin with lora_, as PEFT's do: rename {', '.join(taken)}"
            )
        for expert in self.experts or ():
            layers = expert["layers"]
            if not layers or layers != sorted(set(layers)) or layers[0] < 0 or layers[-1] >= self.backbone_depth:
                raise ValueError(
                    f"layers of expert {expert['name']!r} must be rising block numbers from 0 to "
                    f"{self.backbone_depth - 1}; got {layers}"
                )
            lora = expert["lora"]
            if lora is not None and (lora["r"] < 1 or not 0 <= lora["dropout"] < 1 or not lora["targets"]):
                raise ValueError(
                    f"lora of expert {expert['name']!r} must have r of at least 1, dropout in 0..1 and some targets; "
                    f"got {lora}"
                )

    def _check_fusion(self) -> None:
        running = self.running_experts  # raises for wrong ones
        if self.fusion not in FUSIONS:
            raise ValueError(f"fusion must be one of {', '.join(FUSIONS)}; got {self.fusion!r}")
        weights = self.fusion_weights
        if weights is not None and (len(weights) != len(self.expert_names) or min(weights) < 0 or not sum(weights)):
            raise ValueError(
                f"fusion_weights must be {len(self.expert_names)} numbers of 0 or more, one for each expert and not "
                f"all 0; got {weights}"
            )
        shares = dict(zip(self.expert_names, weights or [1.0] * len(self.expert_names), strict=True))
        if not sum(shares[name] for name in running):
            raise ValueError(f"active_experts {self.active_experts} have the weight 0 in fusion_weights {weights}")
        if not 0 < self.fusion_epsilon < 0.5:
            raise ValueError(f"fusion_epsilon must lie between 0 and 0.5, got {self.fusion_epsilon}")
        if self.output_size is not None and (len(self.output_size) != 2 or min(self.output_size) < 1):
            raise ValueError(f"output_size must be [rows, columns], got {self.output_size}")


def _as_json(value: Any) -> Any:
    """Copies of dicts, and lists for tuples."""
    if isinstance(value, dict):
        return {key: _as_json(entry) for key, entry in value.items()}
    return [_as_json(entry) for entry in value] if isinstance(value, (list, tuple)) else value


__all__ = ["CLIP_MEAN", "CLIP_STD", "ViSAGEConfig"]
