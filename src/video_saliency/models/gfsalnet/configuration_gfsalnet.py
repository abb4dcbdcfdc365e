# SPDX-License-Identifier: Apache-2.0
# No `from __future__ import annotations` here: it would silently switch off the type checks of `strict`.
"""Configuration of GFSalNet."""

import math
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig, ResNetConfig

from video_saliency.saliency_config import SaliencyConfig

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

TRUNK_STRIDE = 32  # of the last ResNet stage
FIRST_STAGE_STRIDE = 4


@strict
class GFSalNetConfig(SaliencyConfig):
    r"""
    Configuration of a [`GFSalNetForVideoSaliency`]. The defaults are the full model of the paper (Kocak, Erdem and
    Erdem, "A Gated Fusion Network for Dynamic Saliency Prediction", arXiv 2102.07682) for 640 x 480 input, 74,952,631
    parameters; where the paper is silent the comment at a field says what we read into it. [`GFSalNetConfig.compact`]
    gives our small model.

    Args:
        encoder_config: a `transformers.ResNetConfig` (or its dict) with four stages, the trunk of each stream.
            Default: ResNet-50 (paper).
        streams: `"both"` (paper), or only `"appearance"` or `"motion"` (the paper's ablations).
        fusion: `"gated"` (paper, eq. 1-3) or `"conv"`, one static 1x1 convolution (the paper's ablation).
        standardize_frames: whether each frame is brought to mean 0 and deviation 1 first (ours), so that dark or faint
            pictures are seen as others are.
        normalize_appearance: whether the appearance map is divided by its mean before fusion (ours): a stream trained
            alone may give each picture another scale, and the gate has to weigh its map against that of motion.
        spatial_attention, channel_attention, multi_level: the blocks that the paper switches off in its ablation.
        channel_attention_reduction: how much narrower the hidden layer of the channel-wise attention is (paper: 4).
        main_deconv, multi_level_deconv, head_deconv: transposed convolutions as `[channels, kernel, stride, padding]`,
            each followed by a ReLU. The paper names only the 96 channels at which the first two meet.
            Rules: `kernel - 2 * padding == stride`; main strides * head strides = 32; multi-level strides * head
            strides = 4; the last head layer has 1 channel.
        output_activation: last step of each stream, `"relu"` (paper) or `"softplus"` (ours: its gradient cannot die,
            so that a model can be trained from scratch).
        contrast_branch: whether a map of low-level contrasts is added before that activation (ours).
        centre_prior: whether a learned low-resolution map is enlarged and added before that activation (ours).
        centre_prior_size: rows and columns of that map.
        centre_exponent: the maps are multiplied by a Gaussian in the middle, its deviation a quarter of each side, to
            this power (ours): people look at the middle, and what a model learned elsewhere may not tell it how much.
            0: they are not (paper).
        flow_pair: `"next"`: the flow of a frame leads to its successor (our reading of the paper: only so is it
            aligned with the frame), the last frame repeats its predecessor's; `"previous"`: it leads to its
            predecessor (causal), the first frame's is zero. A trained motion stream is tied to one of them.
        flow_backend: what computes the flow of frames that come without: `"lucas_kanade"` (ours, no weights),
            `"pwcnet"` (paper: PWC-Net, whose weights then belong to the model and stay frozen), `"dis"` (OpenCV's
            dense inverse search, where OpenCV is installed), or `None` for zero flow: the caller supplies it. A
            trained motion stream is tied to its flow, so to this and the next three fields.
        flow_remove_camera: whether the motion of the camera is taken out of the flow that the backend computes;
            `"lucas_kanade"` only.
        flow_max_magnitude, flow_min_magnitude: how flow becomes colour, see `flow_to_image`; lengths in pixels of the
            model's input. `None`: the longest vector of each frame gets full colour (our reading of the paper).
        flow_mean, flow_std: normalisation of flow images in 0..1, RGB. It must be that of the processor, which is
            ImageNet's by default: the model needs it to make flow images, and to read the frames for its flow.
        kl_loss_weight, nss_loss_weight, cc_loss_weight: see `video_saliency.losses`; 1, 0.1 (paper) and 0.
        window: fields of a `WindowSpec`: one frame at a time (paper).

    Example:

    ```python
    >>> from video_saliency import GFSalNetConfig
    >>> GFSalNetConfig(streams="appearance").encoder_config.depths
    (3, 4, 6, 3)
    >>> GFSalNetConfig.compact().flow_pair
    'previous'

    ```
    """

    model_type = "gfsalnet_saliency"
    sub_configs_defaults = {"encoder_config": ResNetConfig}

    encoder_config: dict | PreTrainedConfig | None = None
    streams: str = "both"
    fusion: str = "gated"
    standardize_frames: bool = False
    normalize_appearance: bool = False
    spatial_attention: bool = True
    channel_attention: bool = True
    channel_attention_reduction: int = 4
    multi_level: bool = True
    # Our reading: product 8 from stride 32 to 4; kernels are multiples of the stride, which avoids checkerboards.
    main_deconv: list | tuple = ((256, 4, 2, 1), (64, 8, 4, 2))
    # Our reading: the multi-level block is at the meeting size already, the layers halve its 256 channels to 32.
    multi_level_deconv: list | tuple = ((128, 3, 1, 1), (64, 3, 1, 1), (32, 3, 1, 1))
    # Our reading: full size in one step.
    head_deconv: list | tuple = ((1, 8, 4, 2),)
    output_activation: str = "relu"
    contrast_branch: bool = False
    centre_prior: bool = False
    centre_prior_size: list | tuple = (9, 12)
    centre_exponent: float | int = 0.0
    flow_pair: str = "next"
    flow_backend: str | None = "lucas_kanade"
    flow_remove_camera: bool = False
    flow_max_magnitude: float | int | None = None
    flow_min_magnitude: float | int = 0.0
    flow_mean: list | tuple = IMAGENET_MEAN
    flow_std: list | tuple = IMAGENET_STD
    kl_loss_weight: float | int = 1.0
    nss_loss_weight: float | int = 0.1
    cc_loss_weight: float | int = 0.0
    window: dict | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        # lists, as JSON has them, so that a loaded config equals the saved one
        for name in ("main_deconv", "multi_level_deconv", "head_deconv"):
            setattr(self, name, [list(layer) for layer in getattr(self, name)])
        for name in ("centre_prior_size", "flow_mean", "flow_std"):
            setattr(self, name, list(getattr(self, name)))
        self._complete_window()
        super().__post_init__(**kwargs)
        self._check_choices()
        self._check_encoder()
        self._check_deconvolutions()

    @classmethod
    def compact(cls, **overrides: Any) -> "GFSalNetConfig":
        """Our small model for 144 x 192 input and a CPU; any field may be overridden.

        A ResNet with basic blocks (32, 64, 128, 192 channels, two blocks per stage) and a narrow decoder. To train
        from scratch: standardised frames, softplus, a contrast branch, a centre prior. For its motion: an appearance
        map of mean 1, and causal flow of what moves by itself, in full colour from 1.5 pixels a frame on. Two streams
        have 4.7 M parameters.
        """
        fields = {
            "encoder_config": {
                "layer_type": "basic",
                "embedding_size": 32,
                "hidden_sizes": [32, 64, 128, 192],
                "depths": [2, 2, 2, 2],
            },
            "main_deconv": [[64, 4, 2, 1], [32, 8, 4, 2]],
            "multi_level_deconv": [[32, 3, 1, 1], [24, 3, 1, 1], [16, 3, 1, 1]],
            "output_activation": "softplus",
            "centre_prior": True,
            "contrast_branch": True,
            "standardize_frames": True,
            "normalize_appearance": True,
            "flow_pair": "previous",
            "flow_remove_camera": overrides.get("flow_backend", "lucas_kanade") == "lucas_kanade",
            "flow_min_magnitude": 1.5,
        }
        return cls(**{**fields, **overrides})

    def _check_choices(self) -> None:
        for name, choices in (
            ("streams", ("both", "appearance", "motion")),
            ("fusion", ("gated", "conv")),
            ("output_activation", ("relu", "softplus")),
            ("flow_pair", ("next", "previous")),
            ("flow_backend", ("lucas_kanade", "pwcnet", "dis", None)),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}; got {getattr(self, name)!r}")
        if self.channel_attention_reduction < 1:
            raise ValueError(f"channel_attention_reduction must be at least 1, got {self.channel_attention_reduction}")
        sides = self.centre_prior_size
        if len(sides) != 2 or not all(isinstance(side, int) and side >= 1 for side in sides):
            raise ValueError(f"centre_prior_size must be [rows, columns], got {sides}")
        if not 0 <= self.centre_exponent < math.inf:
            raise ValueError(f"centre_exponent must be 0 (off) or more, got {self.centre_exponent}")
        largest = self.flow_max_magnitude
        if not (largest is None or largest > 0) or not 0 <= self.flow_min_magnitude < math.inf:  # NaN is neither
            raise ValueError(
                "flow_max_magnitude must be above 0 (or None), flow_min_magnitude at least 0, got "
                f"{self.flow_max_magnitude} and {self.flow_min_magnitude}"
            )
        if self.flow_remove_camera and self.flow_backend != "lucas_kanade":
            raise ValueError(
                f"flow_remove_camera is for flow_backend='lucas_kanade' only, got {self.flow_backend!r}: the others "
                "give flow with the camera's motion, so leave flow_remove_camera=False"
            )
        if (
            len(self.flow_mean) != 3
            or len(self.flow_std) != 3
            or not all(0 < value < math.inf for value in self.flow_std)
        ):
            raise ValueError("flow_mean and flow_std must have three values (RGB) each, flow_std above 0")
        if not all(map(math.isfinite, self.flow_mean)):
            raise ValueError(f"flow_mean must have finite values, got {self.flow_mean}")
        self._check_weights("kl_loss_weight", "nss_loss_weight", "cc_loss_weight")

    def _check_encoder(self) -> None:
        encoder: Any = self.encoder_config  # a ResNetConfig by now
        if len(encoder.hidden_sizes) != 4 or len(encoder.depths) != 4:
            raise ValueError(
                f"encoder_config must have four stages, got hidden_sizes {encoder.hidden_sizes} and depths "
                f"{encoder.depths}: the decoder reads strides 4, 8, 16 and 32"
            )
        if encoder.downsample_in_first_stage:
            raise ValueError("encoder_config must keep downsample_in_first_stage=False: stage 1 has to have stride 4")

    def _check_deconvolutions(self) -> None:
        for name in ("main_deconv", "multi_level_deconv", "head_deconv"):
            layers = getattr(self, name)
            if not layers or any(len(layer) != 4 for layer in layers):
                raise ValueError(f"{name} must list at least one [channels, kernel, stride, padding], got {layers}")
            if not all(isinstance(number, int) for layer in layers for number in layer):
                raise ValueError(f"{name} must hold whole numbers, got {layers}")
            for channels, kernel, stride, padding in layers:
                if min(channels, kernel, stride) < 1 or padding < 0 or kernel - 2 * padding != stride:
                    raise ValueError(
                        f"{name} has {[channels, kernel, stride, padding]}: a layer must enlarge by its stride "
                        "exactly, so take kernel - 2 * padding = stride, for instance kernel 4, stride 2, padding 1"
                    )
        if self.head_deconv[-1][0] != 1:
            raise ValueError(f"the last layer of head_deconv must have 1 channel, got {self.head_deconv[-1][0]}")
        main, multi_level, head = (
            math.prod(layer[2] for layer in layers)
            for layers in (self.main_deconv, self.multi_level_deconv, self.head_deconv)
        )
        if main * head != TRUNK_STRIDE:
            raise ValueError(
                f"strides of main_deconv ({main}) times those of head_deconv ({head}) must be {TRUNK_STRIDE} to reach "
                f"the input size: main strides must multiply to {TRUNK_STRIDE}/{head}"
            )
        if self.multi_level and multi_level * head != FIRST_STAGE_STRIDE:
            raise ValueError(
                f"strides of multi_level_deconv ({multi_level}) times those of head_deconv ({head}) must be "
                f"{FIRST_STAGE_STRIDE} to meet the main branch: change one of them, or set multi_level=False"
            )


__all__ = ["GFSalNetConfig"]
