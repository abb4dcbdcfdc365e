# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from video_saliency.optical_flow import align_flow_pairs, colour_wheel, flow_to_image

GOLDEN = load_file(Path(__file__).parent / "golden" / "gfsalnet" / "flow_image.safetensors")


def constant_flow(x: float, y: float, height: int = 2, width: int = 3) -> torch.Tensor:
    return torch.tensor([float(x), float(y)]).reshape(2, 1, 1).expand(2, height, width).clone()


def grey_levels_apart(image: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    assert image.dtype == torch.uint8 and image.shape == expected.shape
    return (image.int() - expected.int()).abs()


def test_wheel() -> None:
    assert torch.equal(colour_wheel().to(torch.uint8), GOLDEN["colour_wheel_rgb"])


def test_frame_maximum() -> None:
    assert grey_levels_apart(flow_to_image(GOLDEN["flow"]), GOLDEN["image_frame_max"]).max() <= 1


def test_fixed_maximum() -> None:
    apart = grey_levels_apart(flow_to_image(GOLDEN["flow"], max_magnitude=6.0), GOLDEN["image_fixed_radius_6"])
    on_the_edge = ((GOLDEN["flow"].norm(dim=1, keepdim=True) / 6 - 1).abs() < 1e-5).expand_as(apart)
    assert apart[~on_the_edge].max() <= 1


def test_compass() -> None:
    assert grey_levels_apart(flow_to_image(GOLDEN["compass_flow"]), GOLDEN["compass_image"]).max() <= 1


def test_zero_flow_is_white() -> None:
    assert torch.equal(flow_to_image(torch.zeros(1, 2, 4, 5)), GOLDEN["image_zero_flow"])
    assert (flow_to_image(-torch.zeros(1, 2, 4, 5)) == 255).all()


# what the four directions look like: right red, down yellow, left cyan-blue, up purple
@pytest.mark.parametrize(
    ("x", "y", "strong", "weak"),
    [(3, 0, [0], [1, 2]), (0, 3, [0, 1], [2]), (-3, 0, [2, 1], [0]), (0, -3, [2], [1])],
)
def test_directions(x: float, y: float, strong: list[int], weak: list[int]) -> None:
    red_green_blue = flow_to_image(constant_flow(x, y))[:, 0, 0]
    assert red_green_blue[strong].min() > red_green_blue[weak].max() + 80


def test_exactly_rightward_motion_is_the_first_entry_of_the_wheel() -> None:
    assert (
        grey_levels_apart(
            flow_to_image(constant_flow(3, 0))[:, 0, 0], torch.tensor([255, 0, 0], dtype=torch.uint8)
        ).max()
        <= 1
    )


def test_each_frame_has_its_own_maximum_but_a_fixed_one_is_shared() -> None:
    flow = torch.stack([constant_flow(1, 2), constant_flow(2, 4)])
    own = flow_to_image(flow)
    assert grey_levels_apart(own[0], own[1]).max() <= 1
    fixed = flow_to_image(flow, max_magnitude=8.0)
    assert fixed[0].float().mean() > fixed[1].float().mean() + 10  # slower is paler


def test_a_floor_keeps_noise_pale() -> None:
    noise = 0.02 * torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    assert flow_to_image(noise).min() < 100
    assert flow_to_image(noise, min_magnitude=1.0).min() > 230
    fast = constant_flow(5, 5)
    assert torch.equal(flow_to_image(fast, min_magnitude=1.0), flow_to_image(fast))


@pytest.mark.parametrize("unknown", [1e9, -1e9, float("nan"), float("inf")])
def test_unknown_pixels_are_black_and_do_not_count_for_the_maximum(unknown: float) -> None:
    flow = constant_flow(1, 2)
    expected = flow_to_image(flow)
    flow[1, 0, 0] = unknown
    image = flow_to_image(flow)
    assert not image[:, 0, 0].any()
    assert torch.equal(image[:, 1:], expected[:, 1:])


def test_leading_axes_and_precision() -> None:
    flow = torch.randn(2, 3, 2, 4, 5, generator=torch.Generator().manual_seed(0))
    images = flow_to_image(flow)
    assert images.shape == (2, 3, 3, 4, 5)
    assert torch.equal(images[1, 2], flow_to_image(flow[1, 2]))
    assert flow_to_image(flow.half()).shape == images.shape


@pytest.mark.parametrize(
    ("flow", "options", "message"),
    [
        (torch.zeros(3, 4, 5), {}, "height, width"),
        (torch.zeros(2, 4), {}, "height, width"),
        (torch.zeros(2, 4, 5, dtype=torch.int64), {}, "float"),
        (torch.zeros(2, 4, 5), {"max_magnitude": 0.0}, "positive"),
        (torch.zeros(2, 4, 5), {"min_magnitude": -1.0}, "at least 0"),
    ],
)
def test_flow_to_image_refuses(flow: torch.Tensor, options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        flow_to_image(flow, **options)


@pytest.mark.parametrize(
    ("flow_pair", "pairs", "expected"),
    [
        ("next", [1, 2, 3], [1, 2, 3, 3]),
        ("previous", [1, 2, 3], [0, 1, 2, 3]),
        ("next", [1], [1, 1]),
        ("previous", [1], [0, 1]),
        ("next", [], [0]),
        ("previous", [], [0]),
    ],
)
def test_align_flow_pairs(flow_pair: str, pairs: list[int], expected: list[int]) -> None:
    pair_flows = torch.tensor(pairs, dtype=torch.float32).reshape(1, -1, 1, 1, 1).expand(2, -1, 2, 4, 5)
    flows = align_flow_pairs(pair_flows, flow_pair)
    assert flows.shape == (2, len(pairs) + 1, 2, 4, 5)
    assert flows[1, :, 1, 3, 4].tolist() == expected


def test_align_flow_pairs_refuses() -> None:
    with pytest.raises(ValueError, match="'next' or 'previous'"):
        align_flow_pairs(torch.zeros(1, 2, 4, 5), "both")
    with pytest.raises(ValueError, match="frames - 1"):
        align_flow_pairs(torch.zeros(2, 4, 5), "next")
