# SPDX-License-Identifier: Apache-2.0
# No `from __future__ import annotations` here: it would silently switch off the type checks of `strict`.
"""Configuration of SalFoM."""

from math import prod
from typing import Any

from huggingface_hub.dataclasses import strict

from video_saliency.saliency_config import SaliencyConfig

COUNTS = ("encoder_dim", "encoder_depth", "tcfe_depth", "tcfe_heads")
BRANCHES = ("sfd", "tcfe", "dfd")  # in the order in which the fusion stacks them


@strict
class SalFoMConfig(SaliencyConfig):
    r"""
    Configuration of a [`SalFoMForVideoSaliency`]. The defaults are the published model (Moradi et al., "SalFoM:
    Dynamic Saliency Prediction with Video Foundation Models", ICPR 2024; the layers as in the authors' code):
    UMT-L/16, 16 frames of 224 x 224, without the parameters of the released file that its forward never uses.

    The paper's recipe: KL - CC on the map of the last frame, Adam at 1e-5 for all parameters, encoder included, with
    default betas, no weight decay and no schedule, batches of one clip, early stopping on the validation CC (the paper
    gives no patience). `examples/recipes/salfom.yaml` has it in full.

    Of the ten rows of the paper's Table 3, nine are fields: the whole model, UMT-L and UMT-B with 8 frames
    (`num_frames`, [`SalFoMConfig.umt_base`]) and six sets of `branches`; `examples/ablations/salfom.yaml` has them.
    The row with Video Swin-S as the encoder, lowest in CC, NSS and SIM, is not offered: nobody says at which of its
    stages the decoder reads and how wide it then is. transformers has no Video Swin. torchvision has one, `swin3d_s`,
    but this package does not require torchvision and its tests run without it, and the forward there gives classes,
    not the features that a decoder needs.

    Args:
        encoder_dim, encoder_depth, encoder_heads, encoder_mlp_ratio: of the UMT encoder. Default: UMT-L; UMT-B has
            768, 12 and 12 (the paper's Table 3), see [`SalFoMConfig.umt_base`].
        patch_size: side of its patches in pixels.
        num_frames: frames in a window: 16 (published), 8 (Table 3) or 4. The decoder halves time until one step is
            left, so that fewer frames need fewer temporal strides (our choice: of the decoder for 8 frames nothing was
            published). More frames need larger strides in `dfd_layers` and, where TCFE and DFD are added, larger
            temporal patches in `tcfe_layers`: behind each stage but the last both must have equally many steps.
        branches: which of the decoder's branches there are (Table 3): `"tcfe"` (transformers over time), `"dfd"`
            (dynamic features, 3-d convolutions), `"sfd"` (static features, time collapsed first). A sum whose source
            is missing is left out.
        tcfe_layers: `[channels, temporal patch, enlargement of the result]` of each transformer. The last one takes
            whatever time is left (4 steps of 16 frames).
        tcfe_depth, tcfe_heads: blocks of each, and heads.
        tcfe_drop_path: largest rate of stochastic depth in training, rising linearly over the blocks of each.
        dfd_layers: for each stage its convolutions as `[channels, temporal stride, enlargement]`. A stride of 2 turns
            to 1 once a single step is left.
        sfd_layers: for each stage its convolutions as `[channels, enlargement]`.
        fusion_channels: of the convolutions behind the branches, before the last one to a single map.
        kl_loss_weight, cc_loss_weight: the loss is the first times KL less the second times CC; 1 and 1 (paper).
        window: fields of a `WindowSpec`. Default: 16 frames, a map for the last one, every frame, and the paper's rule
            for the first 15 frames: time is reversed, as in TASED-Net, which needs 31 frames; `"head_policy":
            "repeat"` is the rule of the script that SalFoM's authors name.

    Example:

    ```python
    >>> from video_saliency import SalFoMConfig
    >>> SalFoMConfig().window_spec.num_frames
    16
    >>> SalFoMConfig.umt_base(num_frames=8).encoder_dim
    768

    ```
    """

    model_type = "salfom_saliency"

    encoder_dim: int = 1024
    encoder_depth: int = 24
    encoder_heads: int = 16
    encoder_mlp_ratio: float | int = 4.0
    patch_size: int = 16
    num_frames: int = 16
    branches: list | tuple = BRANCHES
    tcfe_layers: list | tuple = ((256, 2, 1), (64, 2, 4), (16, 4, 4))
    tcfe_depth: int = 6
    tcfe_heads: int = 8
    tcfe_drop_path: float | int = 0.2
    dfd_layers: list | tuple = (((512, 1, 1), (256, 2, 1)), ((128, 1, 2), (64, 2, 2)), ((32, 2, 2), (16, 2, 2)))
    sfd_layers: list | tuple = (
        ((512, 1), (256, 1), (256, 1)),
        ((128, 1), (64, 2), (64, 2)),
        ((32, 1), (16, 2), (16, 2)),
    )
    fusion_channels: list | tuple = (32, 16)
    kl_loss_weight: float | int = 1.0
    cc_loss_weight: float | int = 1.0
    window: dict | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        # lists, as JSON has them, so that a loaded config equals the saved one
        self.branches, self.fusion_channels = list(self.branches), list(self.fusion_channels)
        self.tcfe_layers = [list(layer) for layer in self.tcfe_layers]
        for name in ("dfd_layers", "sfd_layers"):
            setattr(self, name, [[list(layer) for layer in stage] for stage in getattr(self, name)])
        self._complete_window(num_frames=self.num_frames, output="last", head_policy="reverse")
        super().__post_init__(**kwargs)
        self._check_numbers()
        self._check_window()
        self._check_branches()
        self._check_steps()

    @classmethod
    def umt_base(cls, **overrides: Any) -> "SalFoMConfig":
        """The paper's smaller variant (Table 3): UMT-B/16, by default with 8 frames; any field may be overridden."""
        fields = {"encoder_dim": 768, "encoder_depth": 12, "encoder_heads": 12, "num_frames": 8}
        return cls(**{**fields, **overrides})

    def _check_numbers(self) -> None:
        for name, layers in (
            ("tcfe_layers", self.tcfe_layers),
            ("dfd_layers", [layer for stage in self.dfd_layers for layer in stage]),
            ("sfd_layers", [layer for stage in self.sfd_layers for layer in stage]),
            ("fusion_channels", [self.fusion_channels]),
            *((name, [[getattr(self, name)]]) for name in COUNTS),
        ):
            if any(value < 1 for layer in layers for value in layer):
                raise ValueError(f"{name} must hold numbers of at least 1, got {getattr(self, name)}")
        if not self.encoder_mlp_ratio > 0:
            raise ValueError(f"encoder_mlp_ratio must be above 0, got {self.encoder_mlp_ratio}")
        if not 0 <= self.tcfe_drop_path < 1:
            raise ValueError(
                f"tcfe_drop_path must be at least 0 and below 1, as the last block would never be kept; got "
                f"{self.tcfe_drop_path}"
            )
        if self.encoder_heads < 1 or self.encoder_dim % self.encoder_heads:
            raise ValueError(
                f"encoder_heads ({self.encoder_heads}) must divide encoder_dim ({self.encoder_dim}): set it in "
                "the config, also to convert weights of less than 64 channels, which do not tell their heads"
            )

    def _check_window(self) -> None:
        longest = prod(layer[1] for stage in self.dfd_layers for layer in stage)
        if not 4 <= self.num_frames <= longest or self.num_frames & (self.num_frames - 1):
            raise ValueError(
                f"num_frames must be 4, 8, ... up to {longest}, the product of the temporal strides in dfd_layers; "
                f"got {self.num_frames}; for more frames enlarge strides there, and in all stages but the last the "
                "temporal patches in tcfe_layers with them"
            )
        spec = self.window_spec
        if spec.num_frames != self.num_frames or spec.output != "last":
            raise ValueError(
                f"window must have num_frames={self.num_frames}, as the config, and output='last': the model "
                f"describes the last frame; got {spec.num_frames} and {spec.output!r}"
            )

    def _check_branches(self) -> None:
        if (
            not self.branches
            or len(set(self.branches)) < len(self.branches)
            or not set(self.branches) <= set(BRANCHES)
        ):
            raise ValueError(f"branches must name some of {', '.join(BRANCHES)}, each once; got {self.branches}")
        stages = len(self.tcfe_layers)
        if len(self.dfd_layers) != stages or len(self.sfd_layers) != stages:
            raise ValueError("tcfe_layers, dfd_layers and sfd_layers must have one entry for each stage, as many each")
        for channels, _, _ in self.tcfe_layers:
            if channels % self.tcfe_heads:
                raise ValueError(f"tcfe_heads ({self.tcfe_heads}) must divide the channels of tcfe_layers, {channels}")
        scales = {
            "tcfe": [layer[2] for layer in self.tcfe_layers],
            "dfd": [prod(layer[2] for layer in stage) for stage in self.dfd_layers],
            "sfd": [prod(layer[1] for layer in stage) for stage in self.sfd_layers],
        }
        for name, scale in scales.items():
            if prod(scale) != self.patch_size or scale != scales["dfd"]:
                raise ValueError(
                    f"enlargements of {name}_layers are {scale} a stage: they must be those of dfd_layers, "
                    f"{scales['dfd']}, with the product {self.patch_size}, the patch size"
                )
        ends = zip(self.tcfe_layers, self.dfd_layers, self.sfd_layers, strict=True)
        for stage, (theta, phi, gamma) in enumerate(ends):
            if stage < stages - 1 and not theta[0] == phi[-1][0] == gamma[-1][0]:
                raise ValueError(
                    f"stage {stage + 1} ends with {theta[0]} channels in tcfe_layers, {phi[-1][0]} in dfd_layers and "
                    f"{gamma[-1][0]} in sfd_layers: they are added there, so make them equal"
                )

    def _check_steps(self) -> None:
        """Branches are added behind all stages but the last, so they must have as many time steps there."""
        tcfe = dfd = self.num_frames
        stages = zip(self.tcfe_layers[:-1], self.dfd_layers[:-1], strict=True)
        for stage, ((_, patch, _), layers) in enumerate(stages, start=1):
            tcfe = -(-tcfe // patch)
            for _, stride, _ in layers:
                dfd //= min(stride, dfd)
            if {"tcfe", "dfd"} <= set(self.branches) and tcfe != dfd:
                raise ValueError(
                    f"of {self.num_frames} frames stage {stage} leaves {tcfe} steps in tcfe_layers and {dfd} in "
                    "dfd_layers: they are added there, so make its temporal patch and the product of its temporal "
                    "strides equal"
                )
            if {"sfd", "dfd"} <= set(self.branches) and dfd & (dfd - 1):
                raise ValueError(
                    f"stage {stage} leaves {dfd} steps in dfd_layers, which SFD cannot halve to one: make the "
                    "temporal strides powers of two"
                )


__all__ = ["BRANCHES", "SalFoMConfig"]
