# SPDX-License-Identifier: Apache-2.0
"""Over a clip each frame is read and encoded once, whatever computes the flow."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from tiny_models import tiny_gfsalnet

from video_saliency.predictor import VideoSaliencyPredictor


def frames_of(clip: torch.Tensor, handed_out: list[int]) -> Iterator[torch.Tensor]:
    for number, frame in enumerate(clip):
        handed_out.append(number)
        yield frame


@pytest.mark.parametrize("flow_pair", ["next", "previous"])
@pytest.mark.parametrize("backend", ["lucas_kanade", "pwcnet"])
def test_each_frame_is_read_and_encoded_once_and_gives_the_flow_of_pairs(monkeypatch, backend, flow_pair):
    model, processor = tiny_gfsalnet(flow_backend=backend, flow_pair=flow_pair, flow_remove_camera=False)
    clip = torch.randint(0, 256, (7, 40, 60, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    encoded, handed_out, encode = [], [], model.flow.encode
    with monkeypatch.context() as patch:
        patch.setattr(model.flow, "encode", lambda frames: encoded.append(len(frames)) or encode(frames))
        source = {"frames": frames_of(clip, handed_out), "fps": 25}
        maps = torch.stack(
            [frame.model_map for frame in VideoSaliencyPredictor(model, processor, batch_size=3).stream(source)]
        )
    assert sum(encoded) == 7 and handed_out == list(range(7))

    pixels = processor.resize_frames(clip).float() / 255
    alone = [model.encode_for_flow(frame[None]) for frame in pixels]
    pairs = [(index, index + 1) for index in range(6)]
    if flow_pair == "previous":
        pairs = [(end, start) for start, end in pairs]
    flow = [model.flow_values_between(alone[start], alone[end], (32, 48))[0] for start, end in pairs]
    still = model.zero_flow_values(pixels[0])
    flow = [*flow, flow[-1]] if flow_pair == "next" else [still, *flow]
    with torch.inference_mode():
        values = processor.normalize_frames(processor.resize_frames(clip))[None]
        expected = model(values, torch.stack(flow)[None]).saliency_maps[0]
    torch.testing.assert_close(maps, expected, atol=2e-3, rtol=2e-3)
