# SPDX-License-Identifier: Apache-2.0
"""Items: frames, densities and fixations that belong together, whatever the files count from."""

from __future__ import annotations

import json
import pickle
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from dataset_factory import SIZE, density, gaze, mask, picture, write_mat, write_pictures, write_truth_video
from PIL import Image
from video_factory import make_clip, make_sound

from video_saliency.data.base import SaliencyItem, listed
from video_saliency.data.frame_files import PictureFrames, VideoFrames
from video_saliency.data.truth_files import (
    GaussianDensities,
    MaskFiles,
    PictureDensities,
    PointListFile,
    VideoDensities,
)
from video_saliency.sources import open_source


def names_from(first: int, count: int, pattern: str = "{:04d}.png") -> list[str]:
    return [pattern.format(number) for number in range(first, first + count)]


def make_item(
    root: Path, count: int = 6, *, frames_from: int = 1, maps_from: int = 1, masks_from: int = 1, **options: object
) -> SaliencyItem:
    indices = range(count)
    write_pictures(root / "frames", names_from(frames_from, count), map(picture, indices))
    write_pictures(root / "maps", names_from(maps_from, count, "eyeMap_{:05d}.png"), map(density, indices))
    write_pictures(root / "masks", names_from(masks_from, count), (mask(i).astype(np.uint8) for i in indices))
    sources = {
        "frame_files": PictureFrames(root / "frames", Fraction(25)),
        "density_files": PictureDensities(root / "maps"),
        "fixation_files": MaskFiles(root / "masks"),
    }
    return SaliencyItem("clip", "test", "val", **{**sources, **options})


def check_annotations(item: SaliencyItem, count: int) -> None:
    seen = list(item.annotations())
    assert [frame.frame_index for frame in seen] == list(range(count))
    for index, frame in enumerate(seen):
        assert frame.density.dtype == np.uint8 and np.array_equal(frame.density, density(index))
        assert frame.fixations.dtype == bool and np.array_equal(frame.fixations, mask(index))
        assert frame.has_density and frame.has_fixations


@pytest.mark.parametrize(
    ("frames_from", "maps_from", "masks_from"),
    [(1, 1, 1), (0, 0, 0), (0, 1, 1), (1, 0, 1), (0, 1, 0), (3, 3, 3), (997, 997, 997)],
)
def test_files_are_paired_by_number(tmp_path: Path, frames_from: int, maps_from: int, masks_from: int) -> None:
    item = make_item(tmp_path, frames_from=frames_from, maps_from=maps_from, masks_from=masks_from)
    assert item.num_frames == 6 and item.frame_indices == range(6) and item.unmatched() == []
    check_annotations(item, 6)
    for index, rgb in enumerate(item.load_frames(range(6))):
        assert np.array_equal(rgb, picture(index))
    assert item.frame_name(2) == f"{frames_from + 2:04d}"
    assert item.size == item.frame_size == SIZE


def test_pairs_follow_names_not_positions(tmp_path: Path) -> None:
    item = make_item(tmp_path)
    (tmp_path / "maps" / "eyeMap_00002.png").unlink()
    (tmp_path / "masks" / "0005.png").unlink()
    Image.fromarray(density(9)).save(tmp_path / "maps" / "eyeMap_00009.png")
    frames = list(item.annotations())
    assert [frame.frame_index for frame in frames if frame.density is None] == [1]
    assert [frame.frame_index for frame in frames if frame.fixations is None] == [4]
    assert np.array_equal(frames[5].density, density(5))
    assert item.unmatched() == [
        "clip: no density for 1 frames (2)",
        "clip: no frame for 1 files of density (9)",
        "clip: no fixation mask for 1 frames (5)",
    ]
    assert item.num_matched(item.density_files) == item.num_matched(item.fixation_files) == 5


def test_a_first_map_that_is_missing_does_not_shift_the_rest(tmp_path: Path) -> None:
    item = make_item(tmp_path, frames_from=0, maps_from=0)
    (tmp_path / "maps" / "eyeMap_00000.png").unlink()
    frames = list(item.annotations())
    assert frames[0].density is None and np.array_equal(frames[1].density, density(1))


def test_streams_and_random_access_agree_and_stop_early(tmp_path: Path) -> None:
    item = make_item(tmp_path)
    part = list(item.annotations(2, 5))
    assert [frame.frame_index for frame in part] == [2, 3, 4]
    loaded = zip(item.load_densities([4, 2]), item.load_fixations([4, 2]), strict=True)
    for index, (values, fixations) in zip([4, 2], loaded, strict=True):
        assert np.array_equal(values, density(index)) and np.array_equal(fixations, mask(index))
    for wanted in ([6], [-1]):
        for load in (item.load_frames, item.load_densities, item.load_fixations):
            with pytest.raises(IndexError, match="clip has the frames 0 to 5"):
                list(load(wanted))


def test_listing_and_counting_decode_nothing(tmp_path: Path) -> None:
    item = make_item(tmp_path)
    for path in tmp_path.rglob("*.png"):
        path.write_text("no picture")
    assert item.num_frames == 6 and item.unmatched() == [] and item.frame_rate == 25
    with pytest.raises(ValueError, match="is no picture that can be read"):
        next(item.annotations())
    with pytest.raises(ValueError, match="is no picture that can be read"):
        list(item.load_frames([0]))


def test_frames_come_as_a_source_for_the_predictor(tmp_path: Path) -> None:
    item = make_item(tmp_path, 12, max_frames=10)
    source = open_source(item.source())
    assert (source.num_frames, source.size, source.can_rewind) == (10, SIZE, True)
    frames = list(source.frames())
    assert [frame.index for frame in frames] == list(range(10))
    assert frames[3].time == Fraction(3, 25) == item.frame_time(3) and frames[3].nbytes == 0
    assert np.array_equal(frames[9].to_rgb(), picture(9))
    assert len(list(item.annotations())) == 10 and item.unmatched() == []
    with pytest.raises(IndexError):
        next(item.load_densities([10]))


def test_the_sound_comes_along(tmp_path: Path) -> None:
    assert make_item(tmp_path / "mute").source().sound is None
    samples = np.sin(np.arange(16_000) / 5, dtype=np.float32)[None] / 2
    path = make_sound(tmp_path / "sound.wav", samples, 16_000)
    source = open_source(make_item(tmp_path / "heard", audio_path=path).source())
    blocks = list(source.sound(16_000))
    assert blocks[0][0] == 0
    np.testing.assert_allclose(np.concatenate([block for _, block in blocks], axis=1), samples, atol=1e-4)


def test_a_video_with_truth_in_pictures_and_points(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "v.mp4", 6, width=SIZE[1], height=SIZE[0], rate=30, pictures=map(picture, range(6)))
    points = [[list(gaze(index))] * 2 for index in range(5)] + [[]]
    (tmp_path / "points.json").write_text(json.dumps(points))
    item = make_item(tmp_path, frame_files=VideoFrames(path), fixation_files=PointListFile(tmp_path / "points.json"))
    frames = list(item.annotations())
    assert all(np.array_equal(frame.density, density(index)) for index, frame in enumerate(frames))
    assert [frame.fixations.tolist() for frame in frames] == points
    assert frames[0].fixations.dtype == np.int64 and frames[0].fixations.shape == (2, 2)
    assert frames[5].fixations.shape == (0, 2) and not frames[5].has_fixations
    assert item.frame_rate == 30 and item.size == SIZE
    decoded = [frame.to_rgb() for frame in item.frames()]
    assert all(np.array_equal(a, b) for a, b in zip(item.load_frames([5, 0]), (decoded[5], decoded[0]), strict=True))
    assert [frame.index for frame in item.frames(4)] == [4, 5]
    assert item.frame_name(5) == "eyeMap_00006"


@pytest.mark.parametrize("maps_from", [0, 1])
def test_truth_of_a_video_may_count_from_0_or_1(tmp_path: Path, maps_from: int) -> None:
    path = make_clip(tmp_path / "v.mp4", 6, width=SIZE[1], height=SIZE[0])
    check_annotations(make_item(tmp_path, maps_from=maps_from, frame_files=VideoFrames(path)), 6)
    check_annotations(make_item(tmp_path, maps_from=maps_from, frame_files=None), 6)


def test_a_density_video_that_is_too_short(tmp_path: Path) -> None:
    path = write_truth_video(tmp_path / "truth.mp4", [density(i, SIZE, 876, np.uint16) for i in range(4)])
    item = make_item(tmp_path, density_files=VideoDensities(path))
    frames = list(item.annotations())
    assert [frame.density is None for frame in frames] == [False] * 4 + [True] * 2
    assert np.array_equal(frames[3].density, density(3, SIZE, 876, np.uint16))
    sought = list(item.load_densities([5, 1, 3]))
    assert sought[0] is None and np.array_equal(sought[1], density(1, SIZE, 876, np.uint16))
    assert item.unmatched() == ["clip: the density video has 4 frames of 6"]
    assert item.num_matched(item.density_files) == 4


def test_points_in_another_order_are_noticed(tmp_path: Path) -> None:
    (tmp_path / "points.json").write_text(json.dumps([[[column, row]] for row, column in [(35, 63)] * 6]))
    item = make_item(tmp_path, fixation_files=PointListFile(tmp_path / "points.json"))
    with pytest.raises(ValueError, match=r"outside the 36 x 64 .* frame; rows and columns are mixed up"):
        next(item.annotations())
    (tmp_path / "points.json").write_text(json.dumps([[[100, 100]]] * 7))
    with pytest.raises(ValueError, match="belongs to another clip or size"):
        next(item.annotations())


@pytest.mark.parametrize(
    "content", ["{", "[[1, 2]]", "[[[1, 2, 3]]]", '[[["a", "b"]]]', "[[[1.5, 2]]]", "[[[1, NaN]]]"]
)
def test_point_files_that_are_not_lists_of_points(tmp_path: Path, content: str) -> None:
    (tmp_path / "points.json").write_text(content)
    with pytest.raises(ValueError, match="points"):
        PointListFile(tmp_path / "points.json").load(0)


def test_densities_from_fixations(tmp_path: Path) -> None:
    item = make_item(tmp_path, density_files=GaussianDensities(2.0))
    for index, frame in enumerate(item.annotations()):
        assert frame.density.dtype == np.float32 and frame.density.sum() == pytest.approx(1, abs=1e-5)
        assert frame.density[gaze(index)] > 0.9 * frame.density.max()
    (tmp_path / "masks" / "0003.png").unlink()
    frames = list(item.annotations())
    assert frames[2].density is None and frames[2].fixations is None and not frames[2].has_density
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(tmp_path / "masks" / "0003.png")
    frame = list(item.annotations())[2]
    assert not frame.has_fixations and not frame.has_density and not frame.density.any()


def test_stills_are_clips_of_one_frame(tmp_path: Path) -> None:
    make_item(tmp_path, 1)
    item = SaliencyItem(
        "still",
        "test",
        "val",
        PictureFrames(tmp_path / "frames" / "0001.png"),
        PictureDensities(tmp_path / "maps" / "eyeMap_00001.png"),
        MaskFiles(tmp_path / "masks" / "0001.png"),
    )
    assert item.num_frames == 1 and item.frame_rate is None and item.frame_name(0) == "0001"
    check_annotations(item, 1)
    assert np.array_equal(next(item.load_frames([0])), picture(0))


def test_items_without_frames_or_truth(tmp_path: Path) -> None:
    item = make_item(tmp_path, density_files=None, fixation_files=None)
    assert [(frame.density, frame.fixations) for frame in item.annotations()] == [(None, None)] * 6
    without = make_item(tmp_path, frame_files=None)
    assert without.frame_size is None and without.size == SIZE and without.frame_rate is None
    for use in (without.source, lambda: list(without.frames()), lambda: without.load_frames([0])):
        with pytest.raises(ValueError, match="clip of test has no frames"):
            use()
    nothing = SaliencyItem("nothing", "test", "val")
    assert nothing.num_frames == 0 and nothing.size is None and list(nothing.annotations()) == []


def test_items_travel_to_other_processes(tmp_path: Path) -> None:
    item = make_item(tmp_path)
    assert item.num_frames == 6  # what was found is kept
    copy = pickle.loads(pickle.dumps(item))
    assert copy == item
    check_annotations(copy, 6)


@pytest.mark.parametrize(
    ("suffix", "values", "expected"),
    [
        (".png", [0, 1, 255], [False, True, True]),
        (".jpg", [0, 100, 200], [False, False, True]),
    ],
)
def test_what_counts_as_fixated(tmp_path: Path, suffix: str, values: list[int], expected: list[bool]) -> None:
    grey = np.repeat(np.array(values, np.uint8), 8)[None].repeat(8, axis=0)
    Image.fromarray(grey).save(tmp_path / f"1{suffix}")
    found = MaskFiles(tmp_path).load(1)
    assert found.dtype == bool and found[4, [4, 12, 20]].tolist() == expected
    assert MaskFiles(tmp_path).size() == (8, 24)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "I;16"])
def test_masks_of_any_kind_of_picture(tmp_path: Path, mode: str) -> None:
    found = mask(3)
    if mode == "I;16":
        image = Image.fromarray(found.astype(np.uint16))
    elif mode == "P":
        image = Image.fromarray(found.astype(np.uint8), mode="P")
        image.putpalette([0, 0, 0, 0, 0, 1])
    else:
        image = Image.fromarray(found.astype(np.uint8) * 255).convert(mode)
    image.save(tmp_path / "1.png")
    assert np.array_equal(MaskFiles(tmp_path).load(1), found)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_densities_keep_their_depth(tmp_path: Path, dtype: type) -> None:
    values = density(2, peak=np.iinfo(dtype).max, dtype=dtype)
    Image.fromarray(values).save(tmp_path / "1.png")
    found = PictureDensities(tmp_path).load(1)
    assert found.dtype == dtype and np.array_equal(found, values)


def test_picture_masks_go_before_matlab_files(tmp_path: Path) -> None:
    write_mat(tmp_path / "0001.mat", I=mask(0).astype(np.uint8))
    assert np.array_equal(MaskFiles(tmp_path).load(1), mask(0)) and MaskFiles(tmp_path).size() == SIZE
    Image.fromarray(mask(1)).save(tmp_path / "0001.png")
    (tmp_path / "0002.mat").write_bytes(b"")
    assert MaskFiles(tmp_path / "0001.png").size() == SIZE
    assert np.array_equal(MaskFiles(tmp_path / "0001.mat").load(1), mask(0))


def test_long_lists_are_cut_in_messages() -> None:
    assert listed([1, 2]) == "1, 2" and listed(list(range(7))) == "0, 1, 2, 3, 4 and 2 more"


def test_resampled_frames(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "v.mp4", 8, width=SIZE[1], height=SIZE[0], rate=24, pictures=map(picture, range(8)))
    item = SaliencyItem("v", "test", "val", VideoFrames(path, Fraction(30)))
    source_frames = list(VideoFrames(path).load(range(8)))
    expected = [0, 1, 1, 2, 3, 4, 5, 5, 6, 7]
    assert item.num_frames == 10 and item.frame_rate == 30
    frames = list(item.frames())
    assert [frame.index for frame in frames] == list(range(10)) and frames[9].time == Fraction(9, 30)
    for index, frame in zip(expected, frames, strict=True):
        assert np.array_equal(frame.to_rgb(), source_frames[index])
    for index, rgb in zip(expected[::-1], item.load_frames(range(9, -1, -1)), strict=True):
        assert np.array_equal(rgb, source_frames[index])
    assert [frame.index for frame in item.frames(7)] == [7, 8, 9] and frames[0].nbytes > 0
