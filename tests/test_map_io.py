# SPDX-License-Identifier: Apache-2.0
"""Float shards and 8-bit pictures of saliency maps."""

from __future__ import annotations

import time

import numpy as np
import pytest
from PIL import Image

from video_saliency import map_io
from video_saliency.map_io import MapPngWriter, MapShardWriter, map_to_uint8, read_map_shards

RNG = np.random.default_rng(0)
MAPS = RNG.random((10, 6, 8), dtype=np.float32)


def write_all(folder, maps=MAPS, flush_at=(), **options):
    writer = MapShardWriter(folder, **options)
    for index, saliency_map in enumerate(maps):
        if index in flush_at:
            writer.flush()
        writer.write(index, index / 25, saliency_map)
    writer.flush()
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_shards_round_trip(tmp_path):
    write_all(tmp_path, flush_at=(4, 7))
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"maps-{i:08d}.npz" for i in (0, 4, 7)]
    with np.load(tmp_path / "maps-00000004.npz") as shard:
        assert {name: (a.dtype, a.shape) for name, a in shard.items()} == {
            "frame_index": (np.int64, (3,)),
            "time_s": (np.float64, (3,)),
            "saliency_maps": (np.float32, (3, 6, 8)),
        }
    read = list(read_map_shards(tmp_path))
    assert [index for index, _, _ in read] == list(range(10))
    assert [time_s for _, time_s, _ in read] == [index / 25 for index in range(10)]
    assert np.array_equal([m for _, _, m in read], MAPS)


def test_shards_are_uncompressed_and_equal_input_gives_equal_bytes(tmp_path, monkeypatch):
    first = write_all(tmp_path / "first", flush_at=(5,))
    monkeypatch.setattr(time, "time", lambda: 2_000_000_000.0)
    monkeypatch.setattr(time, "localtime", lambda *_: time.gmtime(2_000_000_000))
    assert write_all(tmp_path / "second", flush_at=(5,)) == first
    assert MAPS[:5].tobytes() in first["maps-00000000.npz"]


def test_a_resumed_run_gives_equal_bytes(tmp_path):
    whole = write_all(tmp_path / "whole", flush_at=(4, 8))
    broken = MapShardWriter(tmp_path / "broken")
    for index in range(6):  # dies behind frame 5; the shard of frames 4 and 5 never came to be
        if index == 4:
            broken.flush()
        broken.write(index, index / 25, MAPS[index])
    again = MapShardWriter(tmp_path / "broken")
    for index in range(4, 10):
        if index == 8:
            again.flush()
        again.write(index, index / 25, MAPS[index])
    again.flush()
    assert {p.name: p.read_bytes() for p in (tmp_path / "broken").iterdir()} == whole


@pytest.mark.parametrize(
    ("limit", "sizes"),
    [
        (2**20, [10]),
        (4096 + 4 * (6 * 8 * 4 + 16), [4, 4, 2]),  # room for exactly four maps
        (4096 + 4 * (6 * 8 * 4 + 16) - 1, [3, 3, 3, 1]),
        (1, [1] * 10),  # a shard holds at least one map
    ],
)
def test_shards_stay_below_the_limit(tmp_path, limit, sizes):
    files = write_all(tmp_path, max_shard_bytes=limit)
    assert [len(np.load(tmp_path / name)["frame_index"]) for name in sorted(files)] == sizes
    if limit > 1:
        assert all(len(data) <= limit for data in files.values())


def test_the_default_limit_is_below_64_mib():
    assert map_io.MAX_SHARD_BYTES <= 64_000_000


def test_a_new_map_size_starts_a_new_shard_and_callers_may_reuse_their_array(tmp_path):
    writer = MapShardWriter(tmp_path)
    buffer = np.zeros((2, 3), dtype=np.float64)
    for index in range(3):
        buffer[:] = index
        writer.write(index, 0.0, buffer)
    writer.write(3, 0.0, np.full((4, 4), 3))
    writer.flush()
    writer.flush()  # nothing more to write
    read = [(index, m.shape, float(m.max())) for index, _, m in read_map_shards(tmp_path)]
    assert read == [(0, (2, 3), 0.0), (1, (2, 3), 1.0), (2, (2, 3), 2.0), (3, (4, 4), 3.0)]


def test_a_failed_shard_leaves_no_file(tmp_path, monkeypatch):
    def fail(file, header):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(map_io.npy_format, "write_array_header_1_0", fail)
    writer = MapShardWriter(tmp_path)
    writer.write(0, 0.0, MAPS[0])
    with pytest.raises(OSError, match="No space left"):
        writer.flush()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        ([(0, np.zeros(4))], r"shape \(height, width\)"),
        ([(0, np.zeros((2, 2, 1)))], r"shape \(height, width\)"),
        ([(1, np.zeros((2, 2))), (1, np.zeros((2, 2)))], "in order"),
    ],
)
def test_wrong_maps_are_refused(tmp_path, calls, message):
    writer = MapShardWriter(tmp_path)
    with pytest.raises(ValueError, match=message):
        for index, saliency_map in calls:
            writer.write(index, 0.0, saliency_map)


def test_reading_a_folder_without_shards_says_so(tmp_path):
    (tmp_path / ".maps-00000000.tmp.npz").write_bytes(b"left by a killed run")
    with pytest.raises(ValueError, match="holds no map shards"):
        next(read_map_shards(tmp_path))


@pytest.mark.parametrize(
    ("values", "quantize", "expected"),
    [
        ([0.0, 0.5, 1.0], "round", [0, 128, 255]),  # 127.5 goes to the even neighbour
        ([0.0, 0.5, 1.0], "truncate", [0, 127, 255]),
        ([0.0, 3.0, 4.0], "round", [0, 191, 255]),  # the maximum becomes 255, whatever the scale
        ([0.0, 0.0, 0.0], "round", [0, 0, 0]),
        ([7.0, 7.0, 7.0], "truncate", [255, 255, 255]),
        ([0.0, 1e-30, 2e-30], "truncate", [0, 127, 255]),
        ([0.0, 0.5, 1.0], "raise", [0, 128, 255]),
        ([0.01, 100.1 / 255, 1.0], "raise", [3, 101, 255]),
        ([0.0, 0.0, 0.0], "raise", [0, 0, 0]),
    ],
)
def test_map_to_uint8(values, quantize, expected):
    assert map_to_uint8(np.array([values]), quantize=quantize).tolist() == [expected]


@pytest.mark.parametrize("bad", [[[np.nan, 1.0]], [[np.inf, 1.0]], [[-0.1, 1.0]], [1.0, 2.0]])
def test_map_to_uint8_refuses(bad):
    with pytest.raises(ValueError, match="finite and non-negative"):
        map_to_uint8(np.array(bad))


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ["eyeMap_00001.png", "eyeMap_00002.png"]),
        ({"first_number": 0}, ["eyeMap_00000.png", "eyeMap_00001.png"]),
        ({"pattern": "%d.png"}, ["1.png", "2.png"]),
    ],
)
def test_pictures(tmp_path, options, names):
    writer = MapPngWriter(tmp_path / "png", **options)
    for index in range(2):
        writer.write(index, index / 25, MAPS[index])
    assert sorted(path.name for path in (tmp_path / "png").iterdir()) == names
    with Image.open(tmp_path / "png" / names[1]) as image:
        assert image.mode == "L"
        assert np.array_equal(np.asarray(image), map_to_uint8(MAPS[1]))


def test_pictures_are_atomic_and_equal(tmp_path, monkeypatch):
    writer = MapPngWriter(tmp_path, quantize="truncate")
    writer.write(0, 0.0, MAPS[0])
    before = (tmp_path / "eyeMap_00001.png").read_bytes()
    writer.write(0, 0.0, MAPS[0])
    assert (tmp_path / "eyeMap_00001.png").read_bytes() == before

    def fail(self, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        writer.write(0, 0.0, MAPS[1])
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("eyeMap_00001.png", before)]


@pytest.mark.parametrize(
    "options",
    [{"pattern": "map.png"}, {"pattern": "%d_%d.png"}, {"pattern": "../%d.png"}, {"pattern": "%d.jpg"}]
    + [{"quantize": "floor"}],
)
def test_png_options_are_checked(tmp_path, options):
    with pytest.raises(ValueError, match="must be"):
        MapPngWriter(tmp_path, **options)
