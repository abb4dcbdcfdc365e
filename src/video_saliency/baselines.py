# SPDX-License-Identifier: Apache-2.0
"""Models without weights that any score is to be read against: a floor (uniform, centre bias) and a ceiling (people).

All are called alike, `baseline.predict(frame) -> map`:

    >>> import numpy as np
    >>> picture = np.zeros((6, 8, 3), dtype=np.uint8)
    >>> [make_baseline(name).predict(picture).shape for name in ("uniform", "centre_gaussian", "spectral_residual")]
    [(6, 8), (6, 8), (6, 8)]
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from video_saliency.data.densities import fixated_points, fixation_density
from video_saliency.metrics.resizing import gaussian_blur, resize_map

GRID_HEIGHT = 144  # of a fitted centre bias; it is smooth, so that no more is needed
FRAMES_PER_ITEM = 50  # of each training clip: neighbouring frames tell nothing new about the centre
RESIDUAL_WIDTH = 64  # of the picture that spectral residual works on, as in the paper
RESIDUAL_SIGMA = 2.5  # as in the authors' published lines of MATLAB; the text of the paper has 8
AMPLITUDE_FLOOR = 1e-6  # of the largest one: drawn pictures lack frequencies, and one zero would outweigh all else
SMALLEST_SIDE = 8  # a blurred picture needs some rows


@dataclass(frozen=True)
class BaselineFrame:
    """What a baseline may look at.

    Attributes:
        size: height and width of the map wanted.
        rgb: the picture, uint8 `(height, width, 3)`, of any size.
        points: fixations, (row, column) pixels of a picture of `size`, int `(N, 2)`.
        observers: who made each of them, `(N,)`.
        name: of the clip; random choices depend on it and on `frame_index`.
        frame_index: 0-based number in the clip.
    """

    size: tuple[int, int]
    rgb: np.ndarray | None = None
    points: np.ndarray | None = None
    observers: np.ndarray | None = None
    name: str = ""
    frame_index: int = 0


class Baseline(Protocol):
    """A model without weights. `needs` says what of a frame it looks at: `"rgb"`, `"observers"`, or nothing."""

    needs: str

    def predict(self, frame: BaselineFrame | np.ndarray) -> np.ndarray:
        """The map `(height, width)`, float64 and non-negative, of a frame or of a picture `(height, width, 3)`."""


class UniformBaseline:
    """Every pixel alike. Scores that need a map that varies (NSS, CC) are undefined for it."""

    needs = ""

    def predict(self, frame: BaselineFrame | np.ndarray) -> np.ndarray:
        """See `Baseline`."""
        return np.ones(_as_frame(frame).size)


class CentreGaussian:
    """A Gaussian in the middle, stretched to the shape of the picture.

    Args:
        sigma: as a share of height and of width; a quarter is our choice.
    """

    needs = ""

    def __init__(self, sigma: float = 0.25) -> None:
        if not sigma > 0:
            raise ValueError(f"sigma must be positive, got {sigma}: it is a share of height and width")
        self.sigma = sigma

    def predict(self, frame: BaselineFrame | np.ndarray) -> np.ndarray:
        """See `Baseline`."""
        height, width = _as_frame(frame).size
        column, row = (
            np.exp(-0.5 * (((np.arange(length) + 0.5) / length - 0.5) / self.sigma) ** 2) for length in (height, width)
        )
        gaussian: np.ndarray = column[:, None] * row
        return gaussian


class CentreBias:
    """Where people look whatever is shown: the mean density of the frames of a training part.

    Args:
        bias: the mean density `(height, width)`; `CentreBias.fit` computes it.
    """

    needs = ""

    def __init__(self, bias: np.ndarray) -> None:
        if bias.ndim != 2 or not (np.isfinite(bias).all() and bias.min() >= 0 and bias.max() > 0):
            raise ValueError("a centre bias must be (height, width), finite, non-negative and not all zero")
        self.bias = bias.astype(np.float64)

    @classmethod
    def fit(
        cls, items: Iterable[Any], *, size: tuple[int, int] | None = None, frames_per_item: int = FRAMES_PER_ITEM
    ) -> CentreBias:
        """The mean density over the items, every frame of which counts the same.

        Args:
            items: of a training part, with `num_frames`, `size`, `load_fixations` and `load_densities`.
            size: height and width of the mean. Default: 144 rows, and columns as the first item's shape has it.
            frames_per_item: frames of each clip that are looked at, evenly spread.

        Raises:
            ValueError: if no frame has fixations or a density.
        """
        total: np.ndarray | None = None
        for item in items:
            indices = _spread(item.num_frames, frames_per_item)
            for density in _densities(item, indices, size):
                size = density.shape[0], density.shape[1]
                total = density if total is None else total + density
        if total is None:
            raise ValueError("there is nothing to fit a centre bias to: no training frame has fixations or a density")
        return cls(total / total.sum())

    def predict(self, frame: BaselineFrame | np.ndarray) -> np.ndarray:
        """See `Baseline`."""
        return resize_map(self.bias, _as_frame(frame).size, method="bilinear")


class SpectralResidual:
    """What is unexpected in the picture's spectrum.

    Hou and Zhang, "Saliency Detection: A Spectral Residual Approach", CVPR 2007: the log amplitude spectrum of the
    picture, 64 pixels wide, less its 3 x 3 mean; transformed back with the old phase, squared and blurred.

    Args:
        sigma: of the final blur, in pixels of the small picture.
    """

    needs = "rgb"

    def __init__(self, sigma: float = RESIDUAL_SIGMA) -> None:
        self.sigma = sigma

    def predict(self, frame: BaselineFrame | np.ndarray) -> np.ndarray:
        """See `Baseline`. Uniform for a picture of one colour.

        Raises:
            ValueError: without a picture.
        """
        frame = _as_frame(frame)
        if frame.rgb is None:
            raise ValueError("spectral residual looks at the picture: give the frame's `rgb`")
        grey = frame.rgb.mean(axis=2)
        if grey.min() == grey.max():
            return np.ones(frame.size)
        height = max(SMALLEST_SIDE, round(RESIDUAL_WIDTH * grey.shape[0] / grey.shape[1]))
        spectrum = np.fft.fft2(resize_map(grey, (height, RESIDUAL_WIDTH)))
        amplitude = np.abs(spectrum)
        log_amplitude = np.log(np.maximum(amplitude, AMPLITUDE_FLOOR * amplitude.max()))
        residual = log_amplitude - _mean_3x3(log_amplitude)
        salient = np.abs(np.fft.ifft2(np.exp(residual + 1j * np.angle(spectrum)))) ** 2
        return resize_map(gaussian_blur(salient, self.sigma), frame.size, method="bilinear")


class HumanHalves:
    """What half of the observers looked at, as a prediction for the other half: what people know about each other.

    The observers of each frame are divided at random by the seed, the clip's name and the frame's number; of an odd
    number the larger half is the truth.

    Args:
        seed: of the division.
        sigma: of the Gaussian at each fixation in pixels; `None` for a 24th of the height.
    """

    needs = "observers"

    def __init__(self, seed: int = 0, *, sigma: float | None = None) -> None:
        self.seed, self.sigma = seed, sigma

    def predict(self, frame: BaselineFrame | np.ndarray) -> np.ndarray:
        """Density of the first half's fixations, all zero if nobody is in it.

        Raises:
            ValueError: if it is not known who looked where.
        """
        frame = _as_frame(frame)
        return fixation_density(self.split(frame)[0], frame.size, sigma=self.sigma).double().numpy()

    def split(self, frame: BaselineFrame) -> tuple[np.ndarray, np.ndarray]:
        """Fixations `(N, 2)` of the half that predicts and of the half that is the truth.

        Raises:
            ValueError: if it is not known who looked where.
        """
        if frame.points is None or frame.observers is None:
            raise ValueError(
                "human half-against-half needs to know whose each fixation is, and this data set does not tell: use "
                "a prepared folder of stills whose fixations.npz has the array `observer`"
            )
        everyone = np.unique(frame.observers)
        generator = np.random.default_rng([self.seed, zlib.crc32(frame.name.encode()), frame.frame_index])
        predicting = generator.permutation(everyone)[: len(everyone) // 2]
        is_first = np.isin(frame.observers, predicting)
        return frame.points[is_first], frame.points[~is_first]


# names as on the command line; centre_bias is fitted, see `make_baseline`
BASELINES: dict[str, Callable[..., Baseline]] = {
    "uniform": UniformBaseline,
    "centre_gaussian": CentreGaussian,
    "centre_bias": CentreBias.fit,
    "spectral_residual": SpectralResidual,
    "human_halves": HumanHalves,
}


def make_baseline(name: str, train_items: Iterable[Any] | None = None) -> Baseline:
    """The baseline of a name in `BASELINES`.

    Args:
        name: of the baseline.
        train_items: items of a training part, which `"centre_bias"` is fitted to.

    Raises:
        ValueError: unknown name, or `"centre_bias"` without items.
    """
    if name not in BASELINES:
        raise ValueError(f"there is no baseline {name!r}: use one of {', '.join(BASELINES)}")
    if name != "centre_bias":
        return BASELINES[name]()
    if train_items is None:
        raise ValueError("centre_bias is fitted to a training part: pass its items, or use centre_gaussian")
    return CentreBias.fit(train_items)


def _as_frame(frame: BaselineFrame | np.ndarray) -> BaselineFrame:
    if isinstance(frame, BaselineFrame):
        return frame
    if frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"a picture has the shape (height, width, 3), got {frame.shape}: or pass a BaselineFrame")
    return BaselineFrame((frame.shape[0], frame.shape[1]), rgb=frame)


def _spread(num_frames: int, wanted: int) -> Sequence[int]:
    """At most `wanted` frame numbers, evenly spread from the first one on."""
    step = max(1, -(-num_frames // wanted))
    return range(0, num_frames, step)


def _densities(item: Any, indices: Sequence[int], size: tuple[int, int] | None) -> Iterable[np.ndarray]:
    """Densities with sum 1 of the frames that somebody is known to have looked at, on one grid."""
    if item.fixation_files is not None and item.size is not None:
        height, width = item.size
        size = size or _grid(item.size)
        for fixations in item.load_fixations(indices):
            if fixations is None:
                continue
            points = fixated_points(fixations)
            if len(points):
                # by the middles of the pixels
                scaled = (2 * points + 1) * np.array(size) // (2 * np.array([height, width]))
                yield fixation_density(scaled, size).double().numpy()
        return
    for density in item.load_densities(indices):
        if density is not None and density.any():
            size = size or _grid(density.shape)
            small = np.maximum(resize_map(density, size), 0.0)
            yield small / small.sum()


def _grid(size: tuple[int, ...]) -> tuple[int, int]:
    return GRID_HEIGHT, max(1, round(GRID_HEIGHT * size[1] / size[0]))


def _mean_3x3(values: np.ndarray) -> np.ndarray:
    """Mean over each pixel and its neighbours, the border repeated."""
    height, width = values.shape
    padded = np.pad(values, 1, mode="edge")
    neighbours = [padded[i : i + height, j : j + width] for i in range(3) for j in range(3)]
    mean: np.ndarray = np.mean(neighbours, axis=0)
    return mean


__all__ = [
    "BASELINES",
    "Baseline",
    "BaselineFrame",
    "CentreBias",
    "CentreGaussian",
    "HumanHalves",
    "SpectralResidual",
    "UniformBaseline",
    "make_baseline",
]
