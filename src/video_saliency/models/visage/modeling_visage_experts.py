# SPDX-License-Identifier: Apache-2.0
"""The experts of ViSAGE: decoders that turn features of some backbone blocks into a map for each frame.

Features come shallow to deep, `(batch, channels, frames, rows, columns)`; "level" is their number in this order. Sizes
in comments are those of the released model, whose decoders have 256 channels.

A further expert is a subclass of [`ViSAGEExpert`] under a name of its own:

    @register_expert("mine")
    class MyExpert(ViSAGEExpert): ...

after which a config may say `{"name": "expert3", "type": "mine", "options": {...}}`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init

GROUPS = (32, 16, 8, 4, 2, 1)
MIN_HEAD_DIM = 64

ExpertT = TypeVar("ExpertT", bound="type[ViSAGEExpert]")
EXPERTS: dict[str, type[ViSAGEExpert]] = {}


class ExpertLogits(NamedTuple):
    """What an expert says about its clips, before the sigmoid.

    Attributes:
        maps: `(batch, frames, height, width)`.
        auxiliary: further maps of the same shape, one for each entry of the expert's `auxiliary_loss_weights`; empty
            unless they were asked for.
    """

    maps: torch.Tensor
    auxiliary: tuple[torch.Tensor, ...] = ()


class ViSAGEExpert(nn.Module, ABC):
    """Base of all experts.

    Convolutions, linear layers, norms and embeddings of `torch.nn` get their usual initial weights. A module with
    parameters of its own, or other initial values for what it holds, defines `init_weights()`, which comes first and
    fills them with the functions of `transformers.initialization`: these leave alone what was loaded.

    Args:
        backbone_dim: channels of the features and of the class token.
        num_levels: how many features there are.
        options: of the subclass, keyword-only, with defaults; what the config has as `options`.

    Attributes:
        auxiliary_loss_weights: weights of the losses of the auxiliary maps; empty for an expert that has none.
    """

    auxiliary_loss_weights: Sequence[float] = ()

    def __init__(self, backbone_dim: int, num_levels: int) -> None:
        super().__init__()
        self.backbone_dim, self.num_levels = backbone_dim, num_levels

    @abstractmethod
    def forward(
        self,
        features: Sequence[torch.Tensor],
        class_token: torch.Tensor,
        *,
        output_size: tuple[int, int],
        auxiliary: bool = False,
    ) -> ExpertLogits:
        """Logits of the maps.

        Args:
            features: one for each level, `(batch, backbone_dim, frames, rows, columns)`.
            class_token: of the deepest level, `(batch, backbone_dim)`, not normalised.
            output_size: height and width of the maps.
            auxiliary: whether the auxiliary maps are wanted.
        """


def register_expert(name: str) -> Callable[[ExpertT], ExpertT]:
    """A decorator that makes an expert class known under `name`, the `type` in a config.

    Raises:
        ValueError: for a name that another class has.
    """

    def register(expert_class: ExpertT) -> ExpertT:
        known = EXPERTS.setdefault(name, expert_class)
        # a module that is imported twice (remote code) may register its class again
        if known is not expert_class and known.__qualname__ != expert_class.__qualname__:
            raise ValueError(f"the expert type {name!r} is {known.__qualname__} already: choose another name")
        EXPERTS[name] = expert_class
        return expert_class

    return register


def make_expert(entry: dict[str, Any], backbone_dim: int) -> ViSAGEExpert:
    """The expert of a config's entry. Raises `ValueError` for an unknown type or option."""
    if entry["type"] not in EXPERTS:
        raise ValueError(
            f"expert {entry['name']!r} has the unknown type {entry['type']!r}: known are {', '.join(EXPERTS)}; import "
            "the module that registers it first"
        )
    try:
        return EXPERTS[entry["type"]](backbone_dim, len(entry["layers"]), **entry["options"])
    except TypeError as error:
        raise ValueError(
            f"options of expert {entry['name']!r} do not fit the type {entry['type']!r}: {error}"
        ) from error


def resize(features: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """`(batch, channels, *size)` of the same contents; size is (frames, rows, columns)."""
    if tuple(features.shape[2:]) == tuple(size):
        return features
    return F.interpolate(features, size=tuple(size), mode="trilinear", align_corners=False)


def fold_frames(features: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """`(batch * frames, channels, *size)` from `(batch, channels, frames, rows, columns)`."""
    frames = features.transpose(1, 2).flatten(0, 1)
    return F.interpolate(frames, size=size, mode="bilinear", align_corners=False)


def pointwise(in_channels: int, out_channels: int, *, bias: bool = True) -> nn.Conv3d:
    """A convolution that mixes channels only."""
    return nn.Conv3d(in_channels, out_channels, kernel_size=1, bias=bias)


def group_norm(channels: int) -> nn.GroupNorm:
    """With the most of 32, 16, ... groups that divide the channels."""
    return nn.GroupNorm(next(groups for groups in GROUPS if channels % groups == 0), channels)


class ResidualBlock(nn.Module):
    """Two 3x3x3 convolutions, each with a norm, and a shortcut that is projected where the channels change."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        norm: Callable[[int], nn.Module],
        activation: Callable[[torch.Tensor], torch.Tensor],
    ) -> None:
        super().__init__()
        self.activation = activation
        self.conv1 = nn.Conv3d(in_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.norm1 = norm(out_channels)
        self.conv2 = nn.Conv3d(out_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.norm2 = norm(out_channels)
        self.shortcut = nn.Sequential()
        if in_channels != out_channels:
            self.shortcut.extend([pointwise(in_channels, out_channels, bias=False), norm(out_channels)])

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """`(batch, out_channels, frames, rows, columns)`."""
        hidden = self.activation(self.norm1(self.conv1(features)))
        return self.activation(self.norm2(self.conv2(hidden)) + self.shortcut(features))


class TemporalModulation(nn.Module):
    """How the channels of each frame are weighed, from the deepest features of the frames around it."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.attention = nn.Conv1d(channels, channels, kernel_size=3, padding=1)
        self.projection = pointwise(channels, dim)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """`(batch, dim, frames, 1, 1)`; behind the projection they are not bounded."""
        attention = self.attention(features.mean(dim=(-2, -1))).sigmoid()  # (batch, 1024, frames)
        return self.projection(attention[..., None, None])


class CentreBias(nn.Module):
    """Adds a Gaussian to logits: people look at the middle. It starts with the weight 0."""

    INITIAL = {"x": 0.0, "y": 0.0, "sigma": 0.5, "weight": 0.0}

    def __init__(self) -> None:
        super().__init__()
        # vectors of one number: FSDP refuses parameters without a dimension
        self.x = nn.Parameter(torch.empty(1))  # of the centre; -1 is the left edge, 1 the right one
        self.y = nn.Parameter(torch.empty(1))
        self.sigma = nn.Parameter(torch.empty(1))
        self.weight = nn.Parameter(torch.empty(1))
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initial values."""
        for name, value in self.INITIAL.items():
            init.constant_(getattr(self, name), value)

    def bias(self, height: int, width: int) -> torch.Tensor:
        """`(height, width)`, what is added."""
        rows = torch.linspace(-1, 1, height, device=self.x.device, dtype=self.x.dtype)[:, None]
        columns = torch.linspace(-1, 1, width, device=self.x.device, dtype=self.x.dtype)
        distance = (columns - self.x).square() + (rows - self.y).square()
        return self.weight * (-distance / (2 * self.sigma.square() + 1e-7)).exp()

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        """Shape as given, `(..., height, width)`."""
        return logits + self.bias(logits.shape[-2], logits.shape[-1])


class ZeroLinear(nn.Linear):
    """A linear layer that starts with zeros, so without effect."""

    @torch.no_grad()
    def init_weights(self) -> None:
        """Initial values."""
        init.zeros_(self.weight)
        init.zeros_(self.bias)


class ModulatedHead(nn.Module):
    """From features of a clip to logits, at full size."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, dim // 2, kernel_size=3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(dim // 2)
        self.conv2 = nn.Conv2d(dim // 2, 1, kernel_size=3, padding=1)

    def forward(self, features: torch.Tensor, output_size: tuple[int, int]) -> torch.Tensor:
        """`(batch, frames, *output_size)`."""
        frames = fold_frames(features, output_size)  # (batch * 20, 256, 224, 224)
        logits = self.conv2(F.relu(self.norm(self.conv1(frames))))  # (batch * 20, 1, 224, 224)
        return logits.squeeze(1).unflatten(0, (-1, features.shape[2]))


@register_expert("modulated")
class ModulatedExpert(ViSAGEExpert):
    """Expert 1: shallower features modulated by the deepest ones in time, FiLM by the class token, a centre bias.

    The deepest features are not part of the map; they reach it as modulation only.

    Args:
        backbone_dim, num_levels: see `ViSAGEExpert`.
        reduced_dim: channels to which features are reduced first.
        dim: channels of the decoder.
        temporal_modulation: whether there is modulation in time; without it the deepest features are not used.
        film: whether the class token scales and shifts the channels at the end. It starts without effect.
        centre_bias: whether a Gaussian in the middle is added to the logits.
    """

    def __init__(
        self,
        backbone_dim: int,
        num_levels: int,
        *,
        reduced_dim: int = 1024,
        dim: int = 256,
        temporal_modulation: bool = True,
        film: bool = True,
        centre_bias: bool = True,
    ) -> None:
        super().__init__(backbone_dim, num_levels)
        if num_levels < 2:
            raise ValueError(f"a 'modulated' expert reads two layers or more, got {num_levels}")
        if dim < 2 or reduced_dim < 1:
            raise ValueError(
                f"a 'modulated' expert needs dim of 2 or more, as its head halves it, and reduced_dim of 1 or more; "
                f"got {dim} and {reduced_dim}"
            )
        merged = num_levels - 1
        used = num_levels if temporal_modulation else merged
        self.reducers = nn.ModuleList(pointwise(backbone_dim, reduced_dim) for _ in range(used))
        self.modulation = TemporalModulation(reduced_dim, dim) if temporal_modulation else None
        self.projections = nn.ModuleList(pointwise(reduced_dim, dim) for _ in range(merged))
        self.blends = nn.ModuleList(
            ResidualBlock(dim if level == merged - 1 else 2 * dim, dim, nn.BatchNorm3d, F.relu)
            for level in range(merged)
        )
        self.film_gamma = ZeroLinear(backbone_dim, dim) if film else None
        self.film_beta = ZeroLinear(backbone_dim, dim) if film else None
        self.head = ModulatedHead(dim)
        self.centre_bias = CentreBias() if centre_bias else None

    def forward(
        self,
        features: Sequence[torch.Tensor],
        class_token: torch.Tensor,
        *,
        output_size: tuple[int, int],
        auxiliary: bool = False,
    ) -> ExpertLogits:
        """Logits; see `ViSAGEExpert`. There are no auxiliary maps."""
        reduced = [reducer(level) for reducer, level in zip(self.reducers, features, strict=False)]
        film = None
        if self.film_gamma is not None and self.film_beta is not None:
            film = self.film_gamma(class_token), self.film_beta(class_token)
        return ExpertLogits(self.decode(reduced, film, output_size))

    def decode(
        self,
        reduced: Sequence[torch.Tensor],
        film: tuple[torch.Tensor, torch.Tensor] | None,
        output_size: tuple[int, int],
    ) -> torch.Tensor:
        """Logits `(batch, frames, *output_size)` from reduced features and gamma, beta `(batch, dim)`."""
        modulation = None if self.modulation is None else self.modulation(reduced[-1])  # (batch, 256, 20, 1, 1)
        merged: torch.Tensor | None = None
        for level in reversed(range(len(self.projections))):
            branch = self.projections[level](reduced[level])  # (batch, 256, 20, 16, 16)
            if modulation is not None:
                branch = branch * modulation
            if merged is not None:
                branch = torch.cat([branch, resize(merged, branch.shape[2:])], dim=1)  # (batch, 512, 20, 16, 16)
            merged = self.blends[level](branch)  # (batch, 256, 20, 16, 16)
        assert merged is not None  # there are two levels at least
        if film is not None:
            gamma, beta = (value[:, :, None, None, None] for value in film)
            merged = merged * (1 + gamma) + beta
        logits = self.head(merged, output_size)
        return logits if self.centre_bias is None else self.centre_bias(logits)


class NormedProjection(nn.Module):
    """A mix of channels, normalised and activated."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = pointwise(in_channels, out_channels, bias=False)
        self.norm = group_norm(out_channels)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """`(batch, out_channels, frames, rows, columns)`."""
        return F.gelu(self.norm(self.conv(features)))


class TemporalGate(nn.Module):
    """Weighs the channels of each frame by a sigmoid of those around it."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(dim, dim, kernel_size=3, padding=1, groups=dim, bias=False)
        self.pointwise = nn.Conv1d(dim, dim, kernel_size=1)

    def gate(self, features: torch.Tensor) -> torch.Tensor:
        """`(batch, dim, frames, 1, 1)` in 0..1."""
        means = features.mean(dim=(-2, -1))
        return self.pointwise(self.depthwise(means)).sigmoid()[..., None, None]

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Shape as given, `(batch, dim, frames, rows, columns)`."""
        return features * self.gate(features)


class MultiScaleHead(nn.Module):
    """From features of a clip to logits; norms see the whole clip at the features' size, then single frames."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = max(dim // 2, MIN_HEAD_DIM)
        self.conv1 = nn.Conv3d(dim, hidden, kernel_size=3, padding=1, bias=False)
        self.norm1 = group_norm(hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, kernel_size=3, padding=1, bias=False)
        self.norm2 = group_norm(hidden)
        self.conv3 = nn.Conv2d(hidden, 1, kernel_size=3, padding=1)

    def forward(self, features: torch.Tensor, output_size: tuple[int, int]) -> torch.Tensor:
        """`(batch, frames, *output_size)`."""
        hidden = F.gelu(self.norm1(self.conv1(features)))  # (batch, 128, 20, 16, 16)
        frames = fold_frames(hidden, output_size)  # (batch * 20, 128, 224, 224)
        logits = self.conv3(F.gelu(self.norm2(self.conv2(frames))))  # (batch * 20, 1, 224, 224)
        return logits.squeeze(1).unflatten(0, (-1, features.shape[2]))


@register_expert("multiscale")
class MultiScaleExpert(ViSAGEExpert):
    """Expert 2: all levels fused from deep to shallow, with auxiliary maps from the deeper ones.

    Args:
        backbone_dim, num_levels: see `ViSAGEExpert`.
        reduced_dim: channels to which features are reduced first.
        dim: channels of the decoder.
        temporal_gate: whether the deepest features are gated in time.
        auxiliary_loss_weights: of the auxiliary maps of level 1, 2, 3 and so on; level 0 has the main map. Empty:
            there are no auxiliary heads.
    """

    def __init__(
        self,
        backbone_dim: int,
        num_levels: int,
        *,
        reduced_dim: int = 1024,
        dim: int = 256,
        temporal_gate: bool = True,
        auxiliary_loss_weights: Sequence[float] = (0.2, 0.15, 0.1),
    ) -> None:
        super().__init__(backbone_dim, num_levels)
        if dim < 1 or reduced_dim < 1:
            raise ValueError(
                f"a 'multiscale' expert needs dim and reduced_dim of 1 or more, got {dim} and {reduced_dim}"
            )
        if len(auxiliary_loss_weights) >= num_levels:
            raise ValueError(
                f"{num_levels} layers leave room for {num_levels - 1} auxiliary_loss_weights, got "
                f"{list(auxiliary_loss_weights)}"
            )
        self.auxiliary_loss_weights = list(auxiliary_loss_weights)
        self.reducers = nn.ModuleList(pointwise(backbone_dim, reduced_dim) for _ in range(num_levels))
        self.projections = nn.ModuleList(NormedProjection(reduced_dim, dim) for _ in range(num_levels))
        self.temporal_gate = TemporalGate(dim) if temporal_gate else nn.Identity()
        self.fusions = nn.ModuleList(
            ResidualBlock(dim if level == num_levels - 1 else 2 * dim, dim, group_norm, F.gelu)
            for level in range(num_levels)
        )
        self.refinements = nn.ModuleList(ResidualBlock(dim, dim, group_norm, F.gelu) for _ in range(2))
        self.head = MultiScaleHead(dim)
        self.auxiliary_heads = nn.ModuleList(MultiScaleHead(dim) for _ in self.auxiliary_loss_weights)

    def forward(
        self,
        features: Sequence[torch.Tensor],
        class_token: torch.Tensor,
        *,
        output_size: tuple[int, int],
        auxiliary: bool = False,
    ) -> ExpertLogits:
        """Logits; see `ViSAGEExpert`. The class token is not used."""
        reduced = [reducer(level) for reducer, level in zip(self.reducers, features, strict=True)]
        return self.decode(reduced, output_size, auxiliary=auxiliary)

    def decode(
        self, reduced: Sequence[torch.Tensor], output_size: tuple[int, int], *, auxiliary: bool = False
    ) -> ExpertLogits:
        """Logits from reduced features."""
        fused: list[torch.Tensor] = []  # deep to shallow
        for level in reversed(range(self.num_levels)):
            branch = self.projections[level](reduced[level])  # (batch, 256, 20, 16, 16)
            if fused:
                branch = torch.cat([branch, resize(fused[-1], branch.shape[2:])], dim=1)  # (batch, 512, 20, 16, 16)
            else:
                branch = self.temporal_gate(branch)
            fused.append(self.fusions[level](branch))  # (batch, 256, 20, 16, 16)
        refined = fused[-1]
        for block in self.refinements:
            refined = block(refined)
        further: tuple[torch.Tensor, ...] = ()
        if auxiliary:
            levels = fused[-2::-1]  # 1, 2, 3
            further = tuple(
                head(level, output_size) for head, level in zip(self.auxiliary_heads, levels, strict=False)
            )
        return ExpertLogits(self.head(refined, output_size), further)


__all__ = ["ExpertLogits", "ModulatedExpert", "MultiScaleExpert", "ViSAGEExpert", "make_expert", "register_expert"]
