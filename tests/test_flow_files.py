# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from video_saliency.flow_files import read_flow_file, write_flow_file
from video_saliency.optical_flow import flow_to_image
from video_saliency.processing_video_saliency import VideoSaliencyProcessor

# 2 x 1 pixels by hand: (u, v) of each pixel in turn
BYTES = b"PIEH" + struct.pack("<ii", 2, 1) + struct.pack("<ffff", 1.5, -2.0, 0.25, 4.0)


def test_bytes_by_hand(tmp_path):
    path = tmp_path / "a.flo"
    path.write_bytes(BYTES)
    flow = read_flow_file(path)
    np.testing.assert_array_equal(flow, np.array([[[1.5, 0.25]], [[-2.0, 4.0]]], dtype=np.float32))
    assert flow.dtype == np.float32 and flow.flags.writeable
    write_flow_file(tmp_path / "b.flo", flow)
    assert (tmp_path / "b.flo").read_bytes() == BYTES
    assert struct.unpack("<f", BYTES[:4])[0] == 202021.25


@pytest.mark.parametrize("dtype", [np.float32, np.float64, ">f4"])
def test_what_is_written_is_read(tmp_path, dtype):
    flow = np.random.default_rng(0).normal(size=(2, 5, 7)).astype(dtype)
    write_flow_file(tmp_path / "a.flo", flow)
    np.testing.assert_array_equal(read_flow_file(tmp_path / "a.flo"), flow.astype(np.float32))
    assert [path.name for path in tmp_path.iterdir()] == ["a.flo"]


def test_a_clips_files_become_flow_images(tmp_path):
    flows = np.random.default_rng(1).normal(size=(3, 2, 12, 16)).astype(np.float32)
    flows[0, :, 0, 0] = 1e10  # unknown
    for index, flow in enumerate(flows):
        write_flow_file(tmp_path / f"{index}.flo", flow)
    stacked = np.stack([read_flow_file(tmp_path / f"{index}.flo") for index in range(3)])
    processor = VideoSaliencyProcessor(
        size={"height": 12, "width": 16}, image_mean=[0.0] * 3, image_std=[1.0] * 3, rescale_factor=1.0
    )
    clip = torch.zeros(3, 12, 16, 3, dtype=torch.uint8)
    images = processor(videos=clip, flow=stacked)["flow_values"][0]
    assert torch.equal(images, flow_to_image(torch.from_numpy(flows)).float())
    assert not images[0, :, 0, 0].any(), "unknown flow is black"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no .flo file"),
        (b"PIEH\x01", "no .flo file"),
        (b"HEIP" + BYTES[4:], "no .flo file"),
        (struct.pack(">f", 202021.25) + BYTES[4:], "no .flo file"),
        (BYTES[:4] + struct.pack("<ii", 0, 1), "says 0 x 1"),
        (BYTES[:4] + struct.pack("<ii", 2, -1) + BYTES[12:], "says 2 x -1"),
        (BYTES[:4] + struct.pack("<ii", 2**30, 2**30), "says 1073741824 x"),
        (BYTES[:-1], "take 28 bytes, it has 27"),
        (BYTES + b"\0", "take 28 bytes, it has 29"),
    ],
)
def test_what_is_no_flow_file_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "bad.flo"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_flow_file(path)


@pytest.mark.parametrize(
    "flow", [np.zeros((3, 4, 5)), np.zeros((4, 5)), np.zeros((2, 0, 5)), np.zeros((2, 4, 5), dtype=np.int32)]
)
def test_what_is_no_flow_is_not_written(tmp_path, flow):
    with pytest.raises(ValueError, match="must be float"):
        write_flow_file(tmp_path / "a.flo", flow)
    assert not list(tmp_path.iterdir())
