# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from dataset_factory import SIZE, density, write_pictures
from still_data_factory import make_still_folder

from video_saliency.baselines import (
    BASELINES,
    BaselineFrame,
    CentreBias,
    CentreGaussian,
    HumanHalves,
    SpectralResidual,
    UniformBaseline,
    make_baseline,
)
from video_saliency.data import StillFixations
from video_saliency.data.base import SaliencyItem
from video_saliency.data.truth_files import PictureDensities
from video_saliency.scoring import StillAtSize
from video_saliency.training.default_scores import centre_bias


@pytest.mark.parametrize("name", [name for name in BASELINES if name not in ("centre_bias", "human_halves")])
@pytest.mark.parametrize("size", [(36, 64), (64, 36), (9, 10)])
def test_a_map_of_the_pictures_size(name: str, size: tuple[int, int]) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    baseline = make_baseline(name)
    saliency_map = baseline.predict(rgb)
    assert saliency_map.shape == size and saliency_map.dtype == np.float64
    assert np.isfinite(saliency_map).all() and saliency_map.min() >= 0 and saliency_map.max() > 0
    assert np.array_equal(baseline.predict(BaselineFrame(size, rgb=rgb)), saliency_map)


def test_uniform_and_gaussian() -> None:
    assert np.ptp(UniformBaseline().predict(BaselineFrame((4, 6)))) == 0
    gaussian = CentreGaussian(sigma=0.2).predict(BaselineFrame((41, 81)))
    assert np.unravel_index(gaussian.argmax(), gaussian.shape) == (20, 40)
    assert np.allclose(gaussian, gaussian[::-1, ::-1])
    # 8.2 rows and 16.2 columns are one sigma: the same share of either side
    assert np.interp(20 + 0.2 * 41, np.arange(41), gaussian[:, 40]) == pytest.approx(np.exp(-0.5), rel=0.01)
    assert np.interp(40 + 0.2 * 81, np.arange(81), gaussian[20]) == pytest.approx(np.exp(-0.5), rel=0.01)


def test_spectral_residual_finds_what_breaks_a_pattern() -> None:
    generator = np.random.default_rng(0)
    rows, columns = np.indices((96, 128))
    grey = 128 + 60 * np.sin(columns / 3.0) + generator.normal(0, 3, (96, 128))
    odd = slice(40, 52), slice(80, 92)
    grey[odd] = (128 + 60 * np.sin(rows / 3.0))[odd]
    rgb = np.repeat(grey[..., None], 3, axis=2).astype(np.uint8)
    saliency_map = SpectralResidual().predict(rgb)
    inside = saliency_map[34:58, 74:98].mean()
    assert inside > 3 * saliency_map[10:-10, 10:60].mean()
    assert np.ptp(SpectralResidual().predict(np.full((20, 30, 3), 7, dtype=np.uint8))) == 0


def test_centre_bias_is_the_mean_density(tmp_path) -> None:
    make_still_folder(tmp_path)
    stills, size = StillFixations(tmp_path, split="train"), (36, 48)
    items = [StillAtSize(stills, position, size) for position in range(len(stills))]
    fitted = make_baseline("centre_bias", items)
    assert fitted.predict(BaselineFrame((144, 192))).sum() == pytest.approx(1.0)
    expected = centre_bias(stills, size)
    of_size = CentreBias.fit(items, size=size)
    assert np.allclose(of_size.predict(BaselineFrame(size)), expected / expected.sum(), rtol=1e-5, atol=1e-9)
    larger = of_size.predict(BaselineFrame((72, 96)))
    assert larger.shape == (72, 96) and larger[:, :48].sum() < larger.sum()


def test_centre_bias_of_densities_alone(tmp_path) -> None:
    write_pictures(tmp_path, [f"{index + 1:04d}.png" for index in range(4)], map(density, range(4)))
    item = SaliencyItem("clip", "folder", "train", density_files=PictureDensities(tmp_path))
    expected = sum(density(index) / density(index).sum() for index in range(4)) / 4
    found = CentreBias.fit([item], size=SIZE).predict(BaselineFrame(SIZE))
    assert np.allclose(found, expected, atol=1e-12)
    assert np.allclose(
        CentreBias.fit([item], size=SIZE, frames_per_item=1).bias, density(0) / density(0).sum(), atol=1e-12
    )


POINTS = np.array([(3, 4), (3, 5), (10, 20), (11, 20), (20, 40), (21, 40)])
OBSERVERS = np.array([0, 0, 1, 1, 2, 2])


def test_human_halves_divide_the_observers() -> None:
    frame = BaselineFrame((24, 48), points=POINTS, observers=OBSERVERS, name="clip", frame_index=3)
    halves = HumanHalves()
    predicting, truth = halves.split(frame)
    assert len(predicting) == 2 and len(truth) == 4  # one observer of three predicts the other two
    together = np.concatenate([predicting, truth])
    assert sorted(map(tuple, together)) == sorted(map(tuple, POINTS))
    assert halves.predict(frame).argmax() // 48 in (3, 10, 11, 20, 21)
    assert all(np.array_equal(a, b) for a, b in zip(halves.split(frame), HumanHalves().split(frame), strict=True))
    divisions = {tuple(HumanHalves(seed).split(frame)[0][0]) for seed in range(20)}
    assert len(divisions) == 3
    alone = BaselineFrame((24, 48), points=POINTS[:2], observers=OBSERVERS[:2])
    assert not halves.predict(alone).any() and len(halves.split(alone)[1]) == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_baseline("centre"), "there is no baseline 'centre'"),
        (lambda: make_baseline("centre_bias"), "fitted to a training part"),
        (lambda: CentreBias.fit([]), "nothing to fit"),
        (lambda: CentreBias(np.zeros((3, 4))), "not all zero"),
        (lambda: CentreGaussian(sigma=0.0), "sigma must be positive"),
        (lambda: SpectralResidual().predict(BaselineFrame((4, 6))), "give the frame's `rgb`"),
        (lambda: HumanHalves().predict(BaselineFrame((4, 6))), "whose each fixation is"),
        (lambda: UniformBaseline().predict(np.zeros((4, 6))), "a picture has the shape"),
    ],
)
def test_wrong_input(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
