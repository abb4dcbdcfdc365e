# SPDX-License-Identifier: Apache-2.0
"""Colour map, overlay and contact sheet."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch

from video_saliency.visualization import (
    COLOR_TABLE,
    MAX_CELLS,
    MAX_THUMBNAILS,
    OPACITY,
    ContactSheet,
    colorize,
    format_time,
    overlay,
)

BAD_MAPS = [
    pytest.param(np.zeros((2, 2, 1)), "shape", id="three dimensions"),
    pytest.param(torch.zeros(1, 2, 2), "shape", id="torch with a batch"),
    pytest.param(np.zeros((0, 2)), "shape", id="empty"),
    pytest.param(np.full((2, 2), 255.0), "divide it by its maximum", id="8-bit scale"),
    pytest.param(np.full((2, 2), -0.5), "0..1", id="negative"),
    pytest.param(np.array([[0.0, np.nan]]), "0..1", id="NaN"),
]
BAD_FRAMES = [
    pytest.param(np.zeros((4, 4), np.uint8), id="grey"),
    pytest.param(np.zeros((4, 4, 4), np.uint8), id="four channels"),
    pytest.param(np.zeros((4, 4, 3), np.float32), id="float"),
    pytest.param(np.zeros((0, 4, 3), np.uint8), id="empty"),
    pytest.param(torch.zeros(4, 4, 3, dtype=torch.uint8), id="torch"),
]


def luminance(colors: np.ndarray) -> np.ndarray:
    values = colors / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def picture(seed: int = 0, height: int = 36, width: int = 48) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def collect(indices, sheet: ContactSheet | None = None, height: int = 36, width: int = 48) -> ContactSheet:
    sheet = sheet or ContactSheet()
    for index in indices:
        saliency_map = np.full((6, 8), (index % 50) / 50, dtype=np.float32)
        sheet.add(index, index / 30, picture(index % 7, height, width), saliency_map)
    return sheet


def test_color_table_rises_in_luminance_from_dark_to_light():
    assert COLOR_TABLE.shape == (256, 3)
    assert COLOR_TABLE.dtype == np.uint8
    rising = luminance(COLOR_TABLE)
    assert (np.diff(rising) > 0).all()
    assert rising[0] < 0.01
    assert rising[-1] > 0.8


@pytest.mark.parametrize(
    ("value", "level"), [(0.0, 0), (1.0, 255), (0.5, 128), (1 / 255, 1), (0.49 / 255, 0), (-1e-4, 0), (1.0005, 255)]
)
def test_colorize_takes_the_nearest_of_256_colors(value, level):
    result = colorize(np.full((3, 5), value))
    assert result.shape == (3, 5, 3)
    assert result.dtype == np.uint8
    assert (result == COLOR_TABLE[level]).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_colorize_takes_torch_maps(dtype):
    values = torch.tensor([[0.0, 0.25], [0.5, 1.0]], dtype=dtype, requires_grad=True)
    assert np.array_equal(colorize(values), COLOR_TABLE[[[0, 64], [128, 255]]])


def test_colorize_resizes_with_pixel_centres_kept():
    enlarged = colorize(np.array([[0.0, 1.0]]), size=(2, 4))
    # centres of the four pixels lie at -0.25, 0.25, 0.75, 1.25 between those of the two cells
    assert np.array_equal(enlarged, COLOR_TABLE[[[0, 64, 191, 255]] * 2])


@pytest.mark.parametrize(("saliency_map", "message"), BAD_MAPS)
def test_bad_maps_are_refused(saliency_map, message):
    with pytest.raises(ValueError, match=message):
        colorize(saliency_map)
    with pytest.raises(ValueError, match=message):
        overlay(picture(), saliency_map)
    with pytest.raises(ValueError, match=message):
        ContactSheet().add(0, 0.0, picture(), saliency_map)


@pytest.mark.parametrize("rgb", BAD_FRAMES)
def test_bad_frames_are_refused(rgb):
    with pytest.raises(ValueError, match="uint8"):
        overlay(rgb, np.zeros((4, 4)))
    with pytest.raises(ValueError, match="uint8"):
        ContactSheet().add(0, 0.0, rgb, np.zeros((4, 4)))


@pytest.mark.parametrize("opacity", [-0.1, 1.1, float("nan")])
def test_opacity_outside_its_range_is_refused(opacity):
    with pytest.raises(ValueError, match="opacity"):
        overlay(picture(), np.zeros((4, 4)), opacity=opacity)


def test_overlay_leaves_the_picture_where_the_map_is_zero():
    rgb = picture()
    before = rgb.copy()
    saliency_map = np.zeros((36, 48), dtype=np.float32)
    saliency_map[10:20, 10:20] = 1
    result = overlay(rgb, saliency_map)
    assert result.shape == rgb.shape
    assert result.dtype == np.uint8
    assert result.flags.writeable
    assert np.array_equal(rgb, before)
    assert np.array_equal(result[saliency_map == 0], rgb[saliency_map == 0])
    assert (result[saliency_map == 1] != rgb[saliency_map == 1]).any(axis=-1).all()


def test_overlay_mixes_in_the_share_of_the_opacity():
    rgb = picture()
    mask = round(255 * OPACITY) / 255
    expected = rgb * (1 - mask) + COLOR_TABLE[255] * mask
    assert np.abs(overlay(rgb, np.ones((36, 48))) - expected).max() <= 1
    assert (overlay(rgb, np.ones((36, 48)), opacity=1) == COLOR_TABLE[255]).all()
    assert np.array_equal(overlay(rgb, np.ones((36, 48)), opacity=0), rgb)


def test_overlay_grows_more_opaque_with_the_map():
    ramp = np.linspace(0, 1, 256)[None].repeat(2, axis=0)
    on_black = overlay(np.zeros((2, 256, 3), np.uint8), ramp)[0].astype(int)
    on_white = overlay(np.full((2, 256, 3), 255, np.uint8), ramp)[0].astype(int)
    shines_through = (on_white - on_black).max(axis=-1)
    assert shines_through[0] == 255
    assert (np.diff(shines_through) <= 1).all()  # falls, up to rounding
    assert abs(shines_through[-1] - 255 * (1 - OPACITY)) <= 1


def test_overlay_enlarges_a_small_map():
    rgb = picture()
    small = torch.rand(9, 12, generator=torch.Generator().manual_seed(0))
    large = torch.nn.functional.interpolate(small[None, None], size=(36, 48), mode="bilinear")[0, 0]
    difference = overlay(rgb, small).astype(int) - overlay(rgb, large)
    assert np.abs(difference).max() <= 4  # the map is rounded to levels before instead of behind


def test_overlay_takes_a_frame_that_is_not_contiguous():
    rgb = picture()
    saliency_map = np.ones((36, 48), dtype=np.float32)
    assert np.array_equal(overlay(rgb[:, ::-1], saliency_map), overlay(rgb[:, ::-1].copy(), saliency_map))


@pytest.mark.parametrize(
    ("num_frames", "stride", "kept"),
    [(1, 1, 1), (24, 1, 24), (25, 2, 13), (48, 2, 24), (49, 4, 13), (185, 8, 24), (2000, 128, 16)],
)
def test_sheet_doubles_its_stride_and_stays_small(num_frames, stride, kept):
    sheet = ContactSheet()
    most = 0
    for index in range(num_frames):
        if sheet.wants(index):
            sheet.add(index, index / 30, picture(height=6, width=8), np.zeros((6, 8)))
            most = max(most, len(sheet.state_dict()["frames"]))
    assert most <= MAX_THUMBNAILS
    indices = sheet.state_dict()["frame_index"].tolist()
    assert (sheet.stride, len(indices)) == (stride, kept)
    assert indices == list(range(0, num_frames, stride))


def test_sheet_ignores_what_it_does_not_want():
    all_frames = collect(range(100))
    wanted = ContactSheet()
    for index in range(100):
        if wanted.wants(index):
            collect([index], wanted)
    assert all_frames.render().tobytes() == wanted.render().tobytes()
    assert not all_frames.wants(101)


def test_thumbnails_do_not_grow_with_the_frame():
    sizes = {collect([0], height=h, width=w).state_dict()["levels"].size for h, w in [(36, 64), (1080, 1920)]}
    assert len(sizes) == 1
    assert sizes.pop() <= 90_000


@pytest.mark.parametrize("killed_at", [0, 1, 24, 25, 60])
def test_resumed_sheet_equals_the_unbroken_one(killed_at):
    unbroken = collect(range(90))
    file = io.BytesIO()
    np.savez(file, **collect(range(killed_at)).state_dict())
    file.seek(0)
    resumed = ContactSheet()
    resumed.load_state_dict(dict(np.load(file, allow_pickle=False)))
    collect(range(killed_at, 90), resumed)
    assert resumed.render(title="a").tobytes() == unbroken.render(title="a").tobytes()
    states = unbroken.state_dict(), resumed.state_dict()
    assert all(np.array_equal(states[0][name], states[1][name]) for name in states[0] | states[1])


def test_incomplete_state_is_refused():
    state = collect(range(3)).state_dict()
    del state["levels"]
    with pytest.raises(ValueError, match="levels"):
        ContactSheet().load_state_dict(state)


def test_frames_out_of_order_are_refused():
    with pytest.raises(ValueError, match="in order"):
        collect([3, 3])


def test_empty_sheet_is_refused():
    with pytest.raises(ValueError, match="no frame"):
        ContactSheet().render()


def test_sheet_takes_a_frame_of_another_size():
    sheet = collect(range(2))
    collect([2], sheet, height=50, width=20)
    assert sheet.render().mode == "RGB"


@pytest.mark.parametrize(
    ("height", "width", "columns", "rows"),
    [
        pytest.param(480, 640, 4, 3, id="4:3"),
        pytest.param(540, 960, 4, 3, id="16:9"),
        pytest.param(960, 540, 6, 2, id="portrait"),
        pytest.param(200, 900, 3, 4, id="ultra-wide"),
    ],
)
def test_cells_form_a_full_grid_of_pleasant_shape(height, width, columns, rows):
    sheet = collect(range(MAX_CELLS), height=height, width=width)
    _, thumbnail_height, thumbnail_width = sheet.state_dict()["levels"].shape
    rendered = sheet.render()
    assert 1 <= rendered.width / rendered.height <= 2.3
    assert columns * thumbnail_width < rendered.width < (columns + 1) * thumbnail_width
    assert rows * thumbnail_height < rendered.height


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 500), (500, 2), (36, 48)])
@pytest.mark.parametrize("title", [None, "a name longer than the sheet is wide " * 4, "two\nlines", "\udcff"])
def test_odd_shapes_and_titles_are_laid_out(height, width, title):
    rendered = collect([0], height=height, width=width).render(title=title)
    margin = np.asarray(rendered)[:, -20:]
    assert (margin == margin[0, 0]).all()  # nothing sticks out


def test_sheet_shows_overlay_heat_map_and_color_bar():
    sheet = ContactSheet()
    sheet.add(0, 0.0, np.zeros((216, 384, 3), np.uint8), np.ones((4, 4)))
    pixels = np.asarray(sheet.render())
    on_black = overlay(np.zeros((1, 1, 3), np.uint8), np.ones((1, 1)))[0, 0]
    assert (pixels == on_black).all(axis=-1).sum() == 216 * 384
    heat = (pixels == COLOR_TABLE[255]).all(axis=-1)
    assert heat.sum() >= 72 * 128
    assert (pixels == COLOR_TABLE[100]).all(axis=-1).any()  # in the bar only


def test_time_stamps():
    cases = {0: "0:00.00", 3.2: "0:03.20", 59.996: "1:00.00", 61.5: "1:01.50", 3603.2: "1:00:03.20", 1 / 3: "0:00.33"}
    assert {time_s: format_time(time_s) for time_s in cases} == cases
