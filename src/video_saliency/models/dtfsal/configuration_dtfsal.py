# SPDX-License-Identifier: Apache-2.0
# No `from __future__ import annotations` here: it would silently switch off the type checks of `strict`.
"""Configuration of DTFSal."""

import math
from typing import Any

from huggingface_hub.dataclasses import strict

from video_saliency.audio_windows import AudioSpec
from video_saliency.saliency_config import SaliencyConfig

NUM_STAGES = 4
FEWEST_FRAMES = 4  # table 12's shortest clip; two frames after the patch embedding are one after the neck

PAPER_WINDOW = {"num_frames": 32, "output": "middle"}


@strict
class DTFSalConfig(SaliencyConfig):
    r"""
    Configuration of a [`DTFSalForVideoSaliency`]. The defaults are the paper's audio-visual model for 32 frames of
    224 x 384 (49,063,738 parameters); `audio=False` is its visual model DTFSal(V) (40,781,157). The authors have
    published no code. A field says "paper" where the paper states its value, "predecessor" where public code that the
    paper builds on has it (TMFI-Net: neck and decoders; DiffSal: encoders and sound), else it is our reading, with the
    reason.

    Args:
        audio: whether there is an audio branch with its fusion. `False`: DTFSal(V) of tables 1 and 8, whose last block
            feeds the last decoder directly.
        encoder_channels, encoder_depths, encoder_heads: of the four stages of the visual encoder. Default: MViTv2-S
            (our reading of the paper's MViTv2: it has the 35 M parameters of table 9, and DiffSal loads it). The
            other encoders of table 9, S3D and Video Swin-S, are not offered: both score 0.02 CC less there.
        encoder_input_size: frames, height and width of the clips that the encoder's weights were trained with; it
            sizes the stored tables of relative positions, which are interpolated for any other clip.
        stage_norms: whether each stage's output has a LayerNorm, off the trunk. Our reading: DiffSal has one per
            stage, and off the trunk the K400 weights keep their meaning; stage 4 has the encoder's own final norm.
        hidden_size: channels from the neck on (paper: 192).
        lateral_kernel, lateral_stride: of the neck's first convolutions, in time. Predecessor: 2 and 2. Eq. 2 writes
            T/2 behind them, but only T/4 = 8 frames let three decoder convolutions of stride 2 end at one.
        smoothing_kernel, smoothing_bias: of the neck's second convolutions. Predecessor: 1 x 3 x 3 without bias.
        token_blocks: the block of each stage, `"lteb"`, `"dltfb"` or `"none"` (table 3). Our reading of its best row:
            the first at stages 1 to 3, the second, which contains the first, at stage 4.
        num_tokens, token_size: learned tokens of a stage and their rows and columns. Our reading: 8 of 7 x 12, stage
            4's size; so the model comes closest to the paper's parameters (5 and 16 tokens are 0.2 and 0.5 M off).
        share_tokens: whether all stages use the same tokens and their convolution. Our reading: each has its own.
        token_weights: `"frame"`: each frame mixes the tokens by itself (eq. 5 writes E(t)); `"clip"`: all together.
        token_block_input: what eq. 8 multiplies, `"enhanced"`: the neck's output (our reading: the only feature
            defined there), or `"lateral"`: what the neck's first convolutions give.
        shift_groups, shift_padding, shift_axes: how the shift-based block moves its channels, in so many groups,
            by -2 to 2 cells for 5, one axis after the other, and what comes in at the border: `"zeros"` or `"cyclic"`.
            Our reading: the values of axial-shift MLPs, in the order of eq. 9 and 10.
        shift_conv: the convolution of eq. 9: `"depthwise"` 3 x 3 x 3 (our reading: that of axial-shift MLPs; the dense
            one would exceed the paper's parameters), `"spatial"` 1 x 3 x 3 or `"dense"` 3 x 3 x 3.
        shift_norm, shift_norm_eps: LN of eq. 10: `"channel"` at each position (our reading), or `"clip"` over all of
            a clip.
        audio_sampling_rate: of the sound in Hz (predecessor).
        audio_num_slices, audio_slice_frames, audio_hop_frames: log-mel slices of a clip (paper: 9), frames of 10 ms in
            each, and from one to the next (predecessor: 64 and 11; the paper's 11 ms must be 110 ms). Our reading:
            they are centred on the clip.
        audio_size: rows (time) and columns (mel) of a slice (paper: 112 x 192).
        audio_channels: of VGGish's four stages.
        freeze_audio_encoder: whether VGGish keeps its weights in training (predecessor).
        audio_hidden_size, audio_layers, audio_heads, audio_mlp_ratio: the transformer behind VGGish. Our reading: one
            layer of the model's width; with DiffSal's sizes the model would be 0.35 M larger than the paper's.
        fusion: `"amfb"` (paper), or table 4's `"concat"` and `"cross_attention"`.
        fusion_stages: stages with audio fusion, behind their block. Our reading: stage 4, whose 7 x 12 is the size of
            VGGish's map; fusion at all would cost 180 GMAC.
        fusion_heads: of the cross-attention; ours.
        audio_joining: how sound joins the picture in each stream of AMFB, `"concat"` (our reading: "audio-visual
            inputs are processed through three streams") or `"add"`, which leaves 1.7 M parameters less than the paper.
        local_kernel, global_kernel: of AMFB's streams. Our reading of "3D convolution": 1 x 3 x 3 and 1 x 5 x 5, as
            the third, deformable stream works on single frames.
        stream_weights: W of eq. 14 holds one number for each `"stream"` (our reading) or also `"channel"`.
        fusion_norm: norm of AMFB's streams, `"batch"` (paper, whose recipe has one clip a batch: it then normalises
            over that clip) or `"channel"`, a LayerNorm at each position.
        decoder: `"multi"` (paper), or table 5's `"single"` (the stages are enlarged and summed) and `"unet"`.
        decoder_channels: of the three decoder convolutions (predecessor; they have the parameters of table 5).
        decoder_frames: to which features are brought where their number does not shrink to 1 in the decoder, which
            holds for clips below 31 and above 62 frames (ours; table 12 leaves it open).
        kl_loss_weight, cc_loss_weight: the loss is `kl_loss_weight * KL - cc_loss_weight * CC` (paper: 1 and 1; tables
            13 and 14 also train with one of them).
        loss_epsilon: keeps the quotients of KL finite, whose maps are divided by their sums and not otherwise scaled
            (both predecessors).
        deep_supervision_weight: weight of each decoder's own loss beside that of the fused map. Our reading: 0, as
            eq. 19 has one map.
        training_strategy: which parts are trained (table 11): `"full"` (paper), or `"audio_fusion"`: only what joins
            the sound to a trained DTFSal(V); see [`DTFSalForVideoSaliency.freeze_for`].
        window: fields of a `WindowSpec`. Paper: 32 frames, each frame the target of a window of its own; our reading:
            its middle one, as in DiffSal. `{"num_frames": 32, "output": "last"}` is TMFI-Net's. Table 12 has 4 to 48.

    The recipe of the paper: DTFSal(V) is trained on DHF1K from K400 weights; then the whole model on the audio-visual
    sets from those (`DTFSalForVideoSaliency.from_pretrained(folder, audio=True)`). Adam, learning rate 1e-4, times 0.1
    every 3 epochs, at most 10 epochs, stopped after 3 without a better validation loss; one clip a batch. It does not
    say how frames are normalised: ImageNet's mean and deviation are our reading, and the processor's default.

    Example:

    ```python
    >>> from video_saliency import DTFSalConfig
    >>> DTFSalConfig().audio_spec.num_slices
    9
    >>> DTFSalConfig(audio=False).audio_spec is None
    True

    ```
    """

    model_type = "dtfsal_saliency"

    audio: bool = True
    encoder_channels: list | tuple = (96, 192, 384, 768)
    encoder_depths: list | tuple = (1, 2, 11, 2)
    encoder_heads: list | tuple = (1, 2, 4, 8)
    encoder_input_size: list | tuple = (16, 224, 224)
    stage_norms: bool = True
    hidden_size: int = 192
    lateral_kernel: int = 2
    lateral_stride: int = 2
    smoothing_kernel: list | tuple = (1, 3, 3)
    smoothing_bias: bool = False
    token_blocks: list | tuple = ("lteb", "lteb", "lteb", "dltfb")
    num_tokens: int = 8
    token_size: list | tuple = (7, 12)
    share_tokens: bool = False
    token_weights: str = "frame"
    token_block_input: str = "enhanced"
    shift_groups: int = 5
    shift_padding: str = "zeros"
    shift_axes: list | tuple = ("width", "height")
    shift_conv: str = "depthwise"
    shift_norm: str = "channel"
    shift_norm_eps: float | int = 1e-5
    audio_sampling_rate: int = 16000
    audio_num_slices: int = 9
    audio_slice_frames: int = 64
    audio_hop_frames: int = 11
    audio_size: list | tuple = (112, 192)
    audio_channels: list | tuple = (64, 128, 256, 512)
    freeze_audio_encoder: bool = True
    audio_hidden_size: int = 192
    audio_layers: int = 1
    audio_heads: int = 4
    audio_mlp_ratio: int = 4
    fusion: str = "amfb"
    fusion_stages: list | tuple = (4,)
    fusion_heads: int = 4
    audio_joining: str = "concat"
    local_kernel: list | tuple = (1, 3, 3)
    global_kernel: list | tuple = (1, 5, 5)
    stream_weights: str = "stream"
    fusion_norm: str = "batch"
    decoder: str = "multi"
    decoder_channels: list | tuple = (96, 48, 24)
    decoder_frames: int = 8
    kl_loss_weight: float | int = 1.0
    cc_loss_weight: float | int = 1.0
    loss_epsilon: float | int = 2.2204e-16
    deep_supervision_weight: float | int = 0.0
    training_strategy: str = "full"
    window: dict | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        # lists, as JSON has them, so that a loaded config equals the saved one
        for name, value in vars(self).copy().items():
            if isinstance(value, tuple):
                setattr(self, name, list(value))
        self._complete_window(**PAPER_WINDOW)
        super().__post_init__(**kwargs)
        self._check_choices()
        self._check_lists()
        self._check_numbers()

    @property
    def audio_spec(self) -> AudioSpec | None:
        """The slices of sound that belong to a window; `None` for the visual model."""
        return AudioSpec(**self._audio_fields()) if self.audio else None

    def _audio_fields(self) -> dict[str, Any]:
        names = ("sampling_rate", "num_slices", "slice_frames", "hop_frames", "size")
        return {name: getattr(self, f"audio_{name}") for name in names}

    def _check_choices(self) -> None:
        for name, choices in (
            ("token_weights", ("frame", "clip")),
            ("token_block_input", ("enhanced", "lateral")),
            ("shift_padding", ("zeros", "cyclic")),
            ("shift_conv", ("depthwise", "spatial", "dense")),
            ("shift_norm", ("channel", "clip")),
            ("fusion", ("amfb", "concat", "cross_attention")),
            ("audio_joining", ("concat", "add")),
            ("stream_weights", ("stream", "channel")),
            ("fusion_norm", ("batch", "channel")),
            ("decoder", ("multi", "single", "unet")),
            ("training_strategy", ("full", "audio_fusion")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}; got {getattr(self, name)!r}")
        for name, choices in (("token_blocks", ("lteb", "dltfb", "none")), ("shift_axes", ("width", "height"))):
            if not set(getattr(self, name)) <= set(choices):
                raise ValueError(f"{name} must hold {', '.join(choices)} only; got {getattr(self, name)}")
        if not self.shift_axes:
            raise ValueError("shift_axes must name an axis; for blocks without a shift put 'lteb' in token_blocks")
        if self.training_strategy == "audio_fusion" and not self.audio:
            raise ValueError("training_strategy='audio_fusion' trains nothing in a visual model: set audio=True")

    def _check_lists(self) -> None:
        for name, length in (
            ("encoder_channels", NUM_STAGES),
            ("encoder_depths", NUM_STAGES),
            ("encoder_heads", NUM_STAGES),
            ("token_blocks", NUM_STAGES),
            ("audio_channels", NUM_STAGES),
            ("encoder_input_size", 3),
            ("smoothing_kernel", 3),
            ("local_kernel", 3),
            ("global_kernel", 3),
            ("decoder_channels", 3),
            ("token_size", 2),
            ("audio_size", 2),
        ):
            values = getattr(self, name)
            if len(values) != length:
                raise ValueError(f"{name} must have {length} values, got {values}")
            if name != "token_blocks" and not all(isinstance(value, int) and value >= 1 for value in values):
                raise ValueError(f"{name} must have whole numbers of at least 1, got {values}")
        if any(width % heads for width, heads in zip(self.encoder_channels, self.encoder_heads, strict=True)):
            raise ValueError(
                f"encoder_channels ({self.encoder_channels}) must be multiples of encoder_heads ({self.encoder_heads})"
            )
        for name in ("smoothing_kernel", "local_kernel", "global_kernel"):
            if any(side % 2 == 0 for side in getattr(self, name)):
                raise ValueError(f"{name} must have odd sides, so that sizes are kept; got {getattr(self, name)}")
        stages = self.fusion_stages
        if not stages or len(set(stages)) < len(stages) or not set(stages) <= set(range(1, NUM_STAGES + 1)):
            raise ValueError(f"fusion_stages must be different stages from 1 to {NUM_STAGES}, got {stages}")
        if min(self.audio_size) < 2**NUM_STAGES:
            raise ValueError(
                f"audio_size must be at least 16 x 16, as VGGish halves it four times; got {self.audio_size}"
            )

    def _check_numbers(self) -> None:
        for name in (
            "hidden_size",
            "num_tokens",
            "audio_hidden_size",
            "audio_mlp_ratio",
            "lateral_kernel",
            "lateral_stride",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.audio_layers < 0:
            raise ValueError(f"audio_layers must be at least 0, got {self.audio_layers}")
        for name in ("loss_epsilon", "shift_norm_eps"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a finite number above 0, got {getattr(self, name)}")
        self._check_weights("kl_loss_weight", "cc_loss_weight", "deep_supervision_weight")
        if self.shift_groups % 2 == 0 or not 1 <= self.shift_groups <= self.hidden_size:
            raise ValueError(f"shift_groups must be odd and at most hidden_size, got {self.shift_groups}")
        if self.audio_joining == "add" and self.audio_hidden_size != self.hidden_size:
            raise ValueError("audio_joining='add' needs audio_hidden_size equal to hidden_size")
        for width, heads in (("audio_hidden_size", "audio_heads"), ("hidden_size", "fusion_heads")):
            if getattr(self, heads) < 1 or getattr(self, width) % getattr(self, heads):
                raise ValueError(f"{width} ({getattr(self, width)}) must be a multiple of {heads}")
        if not 8 <= self.decoder_frames < 16:
            raise ValueError(
                f"decoder_frames must be 8 to 15, which the decoder halves to 1; got {self.decoder_frames}"
            )
        AudioSpec(**self._audio_fields())  # checks them
        spec = self.window_spec
        if spec.num_frames < FEWEST_FRAMES or spec.output == "all":
            raise ValueError(
                f"window must have at least {FEWEST_FRAMES} frames and output='middle' or 'last', as a forward gives "
                f"one map; got {spec.num_frames} frames and output={spec.output!r}"
            )


__all__ = ["DTFSalConfig"]
