# SPDX-License-Identifier: Apache-2.0
"""The checks tell a model that follows motion from one that does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import echo_model

from video_saliency.predictor import VideoSaliencyPredictor
from video_saliency.training.motion_checks import clip_nss, decoy_clip, mover_gets_more, pan_clip

STILL = np.full((90, 120, 3), 60, np.uint8)
RED = np.zeros((14, 14, 3), np.uint8)
RED[..., 0] = 255


def red_sees() -> VideoSaliencyPredictor:
    """A model whose map is the red channel."""
    model, processor = echo_model()
    processor.size = {"height": 72, "width": 96}
    return VideoSaliencyPredictor(model, processor)


class Differences(VideoSaliencyPredictor):
    """A model whose map is the change since the frame before."""

    def stream(self, video: Any, **options: Any):
        previous = None
        for frame in super().stream(video, **options):
            current = frame.model_map.clone()
            frame.model_map = (current - (current if previous is None else previous)).abs()
            previous = current
            yield frame


def test_mover_and_decoy_are_where_the_clip_says():
    clip = decoy_clip(STILL, RED, velocity_xy=(2.0, 0.5), pan_xy=(1.0, 0.0))
    assert clip.frames.shape == (9, 72, 96, 3) and clip.frames.dtype == np.uint8
    for index, frame in enumerate(clip.frames):
        for centre in (clip.mover_xy[index], clip.decoy_xy[index]):
            column, row = (int(value) for value in centre)
            assert frame[row, column, 0] > 200
    np.testing.assert_allclose(np.diff(clip.decoy_xy, axis=0), [[-1.0, 0.0]] * 8)
    np.testing.assert_allclose(np.diff(clip.mover_xy, axis=0), [[1.0, 0.5]] * 8)
    assert (clip.mover_xy[:, 1] < clip.decoy_xy[:, 1]).all()
    below = decoy_clip(STILL, RED, mover_above=False)
    assert (below.mover_xy[:, 1] > below.decoy_xy[:, 1]).all()


def test_only_a_model_that_sees_motion_wins():
    sees_red = red_sees()
    differences = Differences(sees_red.model, sees_red.processor)
    for above in (True, False):
        clip = decoy_clip(STILL, RED, velocity_xy=(2.0, 0.0), mover_above=above)
        assert mover_gets_more(differences, clip)
    # the red channel has the same mass on both, so whatever it says does not follow the mover
    masses = [mover_gets_more(sees_red, decoy_clip(STILL, RED, mover_above=above)) for above in (True, False)]
    assert masses in ([True, False], [False, True], [False, False])


def test_fixations_move_with_the_picture():
    still = STILL.copy()
    still[40:48, 60:68, 0] = 255
    points = np.array([[64 / 120, 44 / 90]], np.float32)
    for pan_xy in ((0.0, 0.0), (2.0, -1.0)):
        clip, fixations = pan_clip(still, points, pan_xy=pan_xy)
        for frame, pixels in zip(clip, fixations, strict=True):
            assert frame[pixels[0, 0], pixels[0, 1], 0] > 200
        assert clip_nss(red_sees(), clip, fixations) > 5


def test_fixations_that_leave_the_picture_are_dropped():
    _, fixations = pan_clip(STILL, np.array([[0.0, 0.0]], np.float32), pan_xy=(0.0, 0.0))
    assert all(pixels.shape == (0, 2) for pixels in fixations)
    clip, _ = pan_clip(STILL, np.array([[0.5, 0.5]], np.float32), pan_xy=(0.0, 0.0))
    assert np.isnan(clip_nss(red_sees(), clip, fixations))


@pytest.mark.parametrize("pan", [0.0, 1.5])
def test_a_clip_is_the_still_seen_through_a_window(pan):
    still = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    clip, _ = pan_clip(still, np.zeros((0, 2), np.float32), pan_xy=(pan, 0.0), num_frames=3)
    assert torch.equal(torch.from_numpy(clip[1]), torch.from_numpy(still[4:36, 5:45]))
