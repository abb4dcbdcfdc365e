# SPDX-License-Identifier: Apache-2.0
"""Saliency maps as pictures: a colour map, the overlay over a frame, and the contact sheet of a clip.

Maps are first cut into 256 levels, one for each colour of the table. The rest is left to Pillow's 8-bit look-up
tables, resizing and blending, which make an overlay in less time than array arithmetic does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

__all__ = ["COLOR_TABLE", "ContactSheet", "colorize", "overlay"]

SaliencyMap = np.ndarray | torch.Tensor

# What interpolation may add to a map in 0..1 without being taken for a map on another scale.
RANGE_TOLERANCE = 1e-3

OPACITY, OPACITY_EXPONENT = 0.6, 0.75

MAX_THUMBNAILS = 24
MAX_CELLS = 12
THUMBNAIL_AREA = 384 * 216
MAX_THUMBNAIL_SIDE = 560

# the look of a sheet, sizes in pixels
BEST_ASPECT = 1.5
MARGIN, GAP, PADDING = 28, 22, 8
HEADER_HEIGHT, CAPTION_HEIGHT = 44, 40
MIN_CELL_WIDTH, MIN_SHARED_HEADER = 208, 640
BAR_SIZE = (128, 12)
BACKGROUND, TEXT_COLOR, LABEL_COLOR = (18, 19, 24), (240, 240, 244), (150, 153, 164)


def _make_color_table() -> np.ndarray:
    """`(256, 3)` uint8: from near-black violet over red and orange to light yellow, in even steps of lightness.

    The path through OKLab is our choice: with lightness that only rises, the order of values survives in grey print
    and for colour-blind eyes. Conversion to sRGB: B. Ottosson, "A perceptual color space for image processing" (2020);
    what sRGB cannot show is clipped.
    """
    position = np.linspace(0, 1, 256)
    lightness = 0.13 + 0.82 * position
    hue = np.radians(np.interp(position, [0, 0.3, 0.6, 0.85, 1], [285, 335, 392, 435, 464]))
    chroma = np.interp(position, [0, 0.3, 0.55, 0.85, 1], [0.06, 0.17, 0.21, 0.17, 0.14])
    a, b = chroma * np.cos(hue), chroma * np.sin(hue)
    cone_roots = np.stack(
        [
            lightness + 0.3963377774 * a + 0.2158037573 * b,
            lightness - 0.1055613458 * a - 0.0638541728 * b,
            lightness - 0.0894841775 * a - 1.2914855480 * b,
        ]
    )
    to_linear_rgb = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = np.clip(to_linear_rgb @ cone_roots**3, 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(255 * encoded).astype(np.uint8).T


COLOR_TABLE = _make_color_table()


def colorize(saliency_map: SaliencyMap, *, size: tuple[int, int] | None = None) -> np.ndarray:
    """`(height, width, 3)` uint8 heat map: dark where the map is 0, light yellow where it is 1.

    Args:
        saliency_map: `(height, width)`, numpy or torch, values in 0..1 (a map divided by its maximum).
        size: `(height, width)` to enlarge or shrink to, bilinearly; the map's own if None.

    Raises:
        ValueError: for another shape, or values outside 0..1.
    """
    return np.array(_heat(_levels(saliency_map, size)))


def overlay(rgb: np.ndarray, saliency_map: SaliencyMap, *, opacity: float = OPACITY) -> np.ndarray:
    """`(height, width, 3)` uint8: the frame under a heat map that is the more opaque the higher the map is.

    Where the map is 0 the frame keeps its values exactly.

    Args:
        rgb: `(height, width, 3)` uint8; it is not changed.
        saliency_map: `(height, width)` of the frame, or of another size, which is then resized bilinearly; numpy or
            torch, values in 0..1 (a map divided by its maximum).
        opacity: of the heat map where the map is 1; 0..1.

    Raises:
        ValueError: for another shape or type, or values outside 0..1.
    """
    _check_rgb(rgb)
    if not 0 <= opacity <= 1:
        raise ValueError(f"opacity must lie in 0..1, got {opacity}")
    return np.array(_blend(rgb, _levels(saliency_map, (rgb.shape[0], rgb.shape[1])), opacity))


def _levels(saliency_map: SaliencyMap, size: tuple[int, int] | None) -> Image.Image:
    """The map as 8-bit grey picture of `size`, 255 where it is 1."""
    if isinstance(saliency_map, torch.Tensor):
        values = saliency_map.detach().to("cpu", torch.float32).numpy()
    else:
        values = np.asarray(saliency_map, dtype=np.float32)
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"a saliency map has the shape (height, width), got {tuple(values.shape)}")
    low, high = values.min(), values.max()
    if not (low >= -RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE):  # so that NaN is refused too
        raise ValueError(f"a map to be shown must lie in 0..1, got {low:.4g}..{high:.4g}: divide it by its maximum")
    scaled = values * np.float32(255)
    scaled += np.float32(0.5)
    levels = Image.fromarray(scaled.astype(np.uint8))  # RANGE_TOLERANCE is too small to wrap around
    return levels if size is None else levels.resize(size[::-1], Image.Resampling.BILINEAR)


def _heat(levels: Image.Image) -> Image.Image:
    heat = levels.copy()
    heat.putpalette(COLOR_TABLE.tobytes())
    return heat.convert("RGB")


def _blend(rgb: np.ndarray, levels: Image.Image, opacity: float) -> Image.Image:
    # opacity rises early, so that the fringe of a spot gets colour and not only shade: our choice
    position = np.linspace(0, 1, 256)
    mask = np.rint(255 * opacity * position**OPACITY_EXPONENT).astype(int).tolist()
    picture = Image.fromarray(rgb)
    picture.paste(_heat(levels), (0, 0), levels.point(mask))
    return picture


def _check_rgb(rgb: np.ndarray) -> None:
    if not isinstance(rgb, np.ndarray) or rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or not rgb.size:
        found = f"{rgb.dtype} {tuple(rgb.shape)}" if hasattr(rgb, "shape") else type(rgb).__name__
        raise ValueError(f"a frame must be a uint8 array of the shape (height, width, 3), got {found}")


class _Thumbnail(NamedTuple):
    frame_index: int
    time_s: float
    frame: np.ndarray  # (height, width, 3) uint8
    levels: np.ndarray  # (height, width) uint8, 255 where the map is 1


class ContactSheet:
    """One picture of at most 12 frames spread evenly over a clip of any length, collected while it streams by.

    Frames whose index is a multiple of `stride` are kept as thumbnails; when there are more than 24, `stride` doubles
    and every second one goes. So memory is bounded (8 MB), and the sheet depends only on the frames seen.

    Example:
        >>> import numpy as np
        >>> sheet = ContactSheet()
        >>> for frame_index in range(100):
        ...     if sheet.wants(frame_index):
        ...         rgb = np.full((90, 160, 3), frame_index, dtype=np.uint8)
        ...         sheet.add(frame_index, frame_index / 25, rgb, np.zeros((9, 16)))
        >>> sheet.stride
        8
        >>> sheet.render(title="grey.mp4").mode
        'RGB'
    """

    def __init__(self) -> None:
        self.stride = 1
        self._thumbnails: list[_Thumbnail] = []

    def wants(self, frame_index: int) -> bool:
        """Whether `add` would keep this frame: if not, there is no need to make its picture."""
        return frame_index % self.stride == 0

    def add(self, frame_index: int, time_s: float, rgb: np.ndarray, saliency_map: SaliencyMap) -> None:
        """Take a frame of the clip, `rgb` and `saliency_map` as for `overlay`; frames come in order.

        Raises:
            ValueError: for what `overlay` refuses, or a frame that is not behind the last one kept.
        """
        if not self.wants(frame_index):
            return
        _check_rgb(rgb)
        if self._thumbnails and frame_index <= self._thumbnails[-1].frame_index:
            raise ValueError(
                f"frame {frame_index} follows frame {self._thumbnails[-1].frame_index}: add them in order"
            )
        # the first frame decides, should the picture size change within a clip
        size = self._thumbnails[0].levels.shape if self._thumbnails else _thumbnail_size(*rgb.shape[:2])
        frame = Image.fromarray(rgb).resize(size[::-1], Image.Resampling.LANCZOS, reducing_gap=2.0)
        levels = _levels(saliency_map, (size[0], size[1]))
        self._thumbnails.append(_Thumbnail(int(frame_index), float(time_s), np.array(frame), np.array(levels)))
        while len(self._thumbnails) > MAX_THUMBNAILS:
            self.stride *= 2
            self._thumbnails = [kept for kept in self._thumbnails if self.wants(kept.frame_index)]

    def render(self, *, title: str | None = None) -> Image.Image:
        """The sheet as an RGB picture: cells in reading order, each a frame under its heat map, the map and the time.

        Args:
            title: one line at the top, such as the clip's name; shortened to fit.

        Raises:
            ValueError: if no frame was added.
        """
        if not self._thumbnails:
            raise ValueError("no frame was added to the contact sheet: the clip is empty")
        kept = len(self._thumbnails)
        chosen = np.rint(np.linspace(0, kept - 1, min(kept, MAX_CELLS))).astype(int)
        return _draw_sheet([self._thumbnails[index] for index in chosen], " ".join((title or "").split()))

    def state_dict(self) -> dict[str, np.ndarray]:
        """All that was collected, as arrays for `np.savez`: a sheet that loads it goes on from there."""
        shape = (len(self._thumbnails), *(self._thumbnails[0].levels.shape if self._thumbnails else (0, 0)))
        return {
            "stride": np.array(self.stride, dtype=np.int64),
            "frame_index": np.array([kept.frame_index for kept in self._thumbnails], dtype=np.int64),
            "time_s": np.array([kept.time_s for kept in self._thumbnails], dtype=np.float64),
            "frames": np.array([kept.frame for kept in self._thumbnails], np.uint8).reshape(*shape, 3),
            "levels": np.array([kept.levels for kept in self._thumbnails], np.uint8).reshape(shape),
        }

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Replace what was collected by what `state_dict` of another sheet returned.

        Raises:
            ValueError: if `state` is not complete.
        """
        missing = sorted({"stride", "frame_index", "time_s", "frames", "levels"} - set(state))
        if missing:
            raise ValueError(f"this is no state of a contact sheet: it lacks {missing}")
        self.stride = int(state["stride"])
        rows = zip(state["frame_index"], state["time_s"], state["frames"], state["levels"], strict=True)
        self._thumbnails = [_Thumbnail(int(index), float(time_s), *pictures) for index, time_s, *pictures in rows]


def _thumbnail_size(height: int, width: int) -> tuple[int, int]:
    """`(height, width)` of about the same area whatever the shape of the frame, so that all sheets weigh the same."""
    scale = min(math.sqrt(THUMBNAIL_AREA / (height * width)), MAX_THUMBNAIL_SIDE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


class _Layout(NamedTuple):
    """Sizes in pixels of a sheet and its parts."""

    frame: tuple[int, int]  # height, width
    heat: tuple[int, int]  # height, width
    cell: tuple[int, int]  # height, width
    columns: int
    top: int  # where the cells begin
    sheet: tuple[int, int]  # height, width


def _plan(num_cells: int, frame: tuple[int, int], with_title: bool) -> _Layout:
    """The layout whose number of columns brings the sheet closest to its best shape with the fewest empty cells."""
    heat = (max(1, round(frame[0] / 3)), max(1, round(frame[1] / 3)))
    cell = (frame[0] + PADDING + max(heat[0], CAPTION_HEIGHT), max(frame[1], MIN_CELL_WIDTH))

    def size(columns: int) -> tuple[int, int]:
        rows = math.ceil(num_cells / columns)
        return rows * (cell[0] + GAP) - GAP + 2 * MARGIN, columns * (cell[1] + GAP) - GAP + 2 * MARGIN

    def cost(columns: int) -> float:
        height, width = size(columns)
        empty = -num_cells % columns
        return abs(math.log(width / height / BEST_ASPECT)) + empty / num_cells

    columns = min(range(1, num_cells + 1), key=cost)
    height, width = size(columns)
    # title and colour bar share a line where it is long enough for both
    lines = 2 if with_title and width < MIN_SHARED_HEADER else 1
    header = lines * HEADER_HEIGHT
    return _Layout(frame, heat, cell, columns, MARGIN + header, (height + header, width))


def _draw_sheet(thumbnails: list[_Thumbnail], title: str) -> Image.Image:
    height, width = thumbnails[0].levels.shape
    layout = _plan(len(thumbnails), (height, width), bool(title))
    sheet = Image.new("RGB", layout.sheet[::-1], BACKGROUND)
    _draw_header(sheet, title, layout.top)
    for number, thumbnail in enumerate(thumbnails):
        row, column = divmod(number, layout.columns)
        left = MARGIN + column * (layout.cell[1] + GAP)
        _draw_cell(sheet, thumbnail, (left, layout.top + row * (layout.cell[0] + GAP)), layout)
    return sheet


def _draw_header(sheet: Image.Image, title: str, top: int) -> None:
    """The title at the left and the colour bar at the right, or below it where there is no room."""
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=15)
    middle = top - HEADER_HEIGHT // 2 - 6
    right = sheet.width - MARGIN
    draw.text((right, middle), "high", LABEL_COLOR, font, anchor="rm")
    bar_left = right - round(font.getlength("high")) - 8 - BAR_SIZE[0]
    bar = np.linspace(0, 255, BAR_SIZE[0]).astype(np.uint8)[None].repeat(BAR_SIZE[1], axis=0)
    sheet.paste(_heat(Image.fromarray(bar)), (bar_left, middle - BAR_SIZE[1] // 2))
    draw.text((bar_left - 8, middle), "low", LABEL_COLOR, font, anchor="rm")
    if not title:
        return
    font = ImageFont.load_default(size=22)
    shared = top == MARGIN + HEADER_HEIGHT
    room = (bar_left - 60 if shared else right) - MARGIN
    while font.getlength(title) > room:
        title = title.removesuffix("...")[:-1] + "..."
    draw.text((MARGIN, middle if shared else middle - HEADER_HEIGHT), title, TEXT_COLOR, font, anchor="lm")


def _draw_cell(sheet: Image.Image, thumbnail: _Thumbnail, corner: tuple[int, int], layout: _Layout) -> None:
    """The overlay, and below it the caption at the left and the small heat map at the right."""
    left, top = corner
    levels = Image.fromarray(thumbnail.levels)
    sheet.paste(_blend(thumbnail.frame, levels, OPACITY), corner)
    below = top + layout.frame[0] + PADDING
    heat = _heat(levels.resize(layout.heat[::-1], Image.Resampling.BILINEAR))
    sheet.paste(heat, (left + layout.cell[1] - layout.heat[1], below))

    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=16)
    stamp, number = format_time(thumbnail.time_s), f"frame {thumbnail.frame_index}"
    room = layout.cell[1] - layout.heat[1] - PADDING
    if font.getlength(f"{stamp} · {number}") <= room:
        draw.text((left, below), stamp, TEXT_COLOR, font)
        draw.text((left + font.getlength(stamp), below), f" · {number}", LABEL_COLOR, font)
    else:
        draw.text((left, below), stamp, TEXT_COLOR, font)
        draw.text((left, below + 22), number, LABEL_COLOR, ImageFont.load_default(size=13))


def format_time(time_s: float) -> str:
    """Minutes, seconds and hundredths, `0:03.20`, with hours only where there are some: `1:00:03.20`."""
    minutes, hundredths = divmod(round(time_s * 100), 6000)
    seconds = f"{hundredths // 100:02d}.{hundredths % 100:02d}"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds}" if hours else f"{minutes}:{seconds}"
