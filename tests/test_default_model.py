# SPDX-License-Identifier: Apache-2.0
"""The embedded model itself: would somebody notice if a new file were worse than the one before?

The stored maps are those of the shipped weights: after training anew, write them again with
`python tests/test_default_model.py` and look at them.
"""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

import video_saliency  # noqa: F401  # registers the Auto classes
from video_saliency.defaults import DEFAULT_MODEL
from video_saliency.predictor import VideoSaliencyPredictor
from video_saliency.training.motion_checks import decoy_clip, mover_gets_more
from video_saliency.video_io import read_frames

CLIP = Path(__file__).parents[1] / "examples" / "friday.mp4"
STORED = Path(__file__).parent / "golden" / "default_model" / "friday_maps.npz"
STORED_FRAMES = (0, 40, 80, 120, 160)
TOLERANCE = 0.02  # of the maximum: threads, versions of torch and other processors stay well below


@pytest.fixture(scope="module")
def predictor() -> VideoSaliencyPredictor:
    return VideoSaliencyPredictor.from_pretrained(DEFAULT_MODEL)


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    """Frames of the example clip, far apart."""
    return [frame.to_rgb() for frame in islice(read_frames(CLIP), 0, 180, 30)]


def stored_frames_of(predictor: VideoSaliencyPredictor) -> np.ndarray:
    """Maps of the stored frames at model size, each divided by its maximum, `(5, 144, 192)`."""
    frames = islice(predictor.stream(CLIP), STORED_FRAMES[-1] + 1)
    maps = [frame.model_map / frame.model_map.max() for frame in frames if frame.frame_index in STORED_FRAMES]
    return torch.stack(maps).numpy()


def correlation(first: torch.Tensor, second: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])


def test_maps_of_the_example_clip_are_the_stored_ones(predictor):
    with np.load(STORED) as arrays:
        stored = arrays["maps"].astype(np.float32)
    assert np.abs(stored_frames_of(predictor) - stored).max() < TOLERANCE


def test_the_shipped_scores_hold_the_bars():
    """What the card says: better than a small network without a motion stream, and moved by motion."""
    scores = json.loads((Path(DEFAULT_MODEL) / "scores.json").read_text())
    assert scores["val"]["all"]["nss"] >= 1.95
    assert scores["val"]["all"]["cc"] >= 0.69
    assert scores["val"]["all"]["auc_judd"] >= 0.855
    for dataset, row in scores["val"].items():
        assert all(row[name] > scores["val_centre_bias"][dataset][name] for name in ("nss", "cc", "auc_judd"))
    motion = scores["motion"]
    assert motion["mover_wins_still_camera"] >= 0.95 and motion["mover_wins_panning_camera"] >= 0.9
    assert motion["nss_panning_camera"] >= 0.98 * motion["nss_still_camera"]


@pytest.mark.parametrize("pan_xy", [(0.0, 0.0), (5.0, 1.0)], ids=["still camera", "panning camera"])
def test_a_mover_beats_the_same_thing_at_rest(predictor, pictures, pan_xy):
    """Cut-outs of one frame on another, above and below, to the left and to the right: all are won."""
    wins = []
    for index, picture in enumerate(pictures):
        other = pictures[index - 1]
        cut_out = other[60 + 30 * index : 140 + 30 * index, 200 + 40 * index : 290 + 40 * index]
        clip = decoy_clip(
            picture,
            cut_out,
            mover_above=index % 2 == 0,
            velocity_xy=(8.0 if index % 3 else -8.0, 2.0),
            pan_xy=pan_xy,
            num_frames=6,
        )
        wins.append(mover_gets_more(predictor, clip))
    assert all(wins)


def test_a_pan_changes_nothing_but_the_place(predictor, pictures):
    """The map of a picture under a panning camera is that of the still picture: its flow is the camera's."""
    for picture in pictures:
        panned = np.stack([picture[40:440, 20 + 8 * step : 500 + 8 * step] for step in range(5)])
        last = list(predictor.stream(panned))[-1].model_map
        still = next(iter(predictor.stream(panned[-1:]))).model_map
        assert correlation(last, still) > 0.97


def test_flipped_pictures_have_flipped_maps(predictor, pictures):
    """Never exactly, for convolutions with stride 2 are not symmetric, but nearly."""
    for picture in pictures:
        maps = [next(iter(predictor.stream(view[None]))).model_map for view in (picture, picture[:, ::-1].copy())]
        assert correlation(maps[0], maps[1].flip(-1)) > 0.9


def test_a_still_is_a_clip_of_one_frame(predictor, pictures, tmp_path):
    Image.fromarray(pictures[0]).save(tmp_path / "still.png")
    (still,) = predictor.stream(tmp_path / "still.png")
    (clip,) = predictor.stream(pictures[0][None])
    assert torch.equal(still.model_map, clip.model_map)
    model, processor = AutoModel.from_pretrained(DEFAULT_MODEL).eval(), AutoProcessor.from_pretrained(DEFAULT_MODEL)
    with torch.no_grad():
        direct = model(**processor(videos=pictures[0][None])).saliency_maps[0, 0]
    torch.testing.assert_close(still.model_map, direct, rtol=1e-4, atol=1e-5)
    repeated = list(predictor.stream(np.repeat(pictures[0][None], 3, axis=0)))
    torch.testing.assert_close(repeated[-1].model_map, still.model_map, rtol=1e-4, atol=1e-5)


def test_nobody_looks_at_the_bars_of_a_film(predictor, pictures):
    film = np.stack(pictures[:4])
    film[:, :60] = film[:, -60:] = 0
    for frame in predictor.stream(film, normalize="sum"):
        assert frame.saliency_map[:50].sum() + frame.saliency_map[-50:].sum() < 0.05


@pytest.mark.parametrize("value", [0, 255])
def test_empty_frames_have_a_map_around_the_middle(predictor, value):
    clip = np.full((3, 120, 160, 3), value, np.uint8)
    for frame in predictor.stream(clip, normalize="sum"):
        assert torch.isfinite(frame.saliency_map).all()
        assert frame.saliency_map[30:90, 40:120].sum() > 0.3  # a quarter of the picture


def test_a_cut_shows_at_once_and_leaves_nothing_behind(predictor, pictures):
    """Two shots: around the cut each frame has nearly the map of the frame alone."""
    clip = np.stack([pictures[0]] * 3 + [pictures[5][:, ::-1].copy()] * 3)
    for frame in predictor.stream(clip):
        alone = next(iter(predictor.stream(clip[frame.frame_index][None]))).model_map
        assert correlation(frame.model_map, alone) > 0.95


@pytest.mark.parametrize("aim", [0, 255], ids=["black", "white"])
def test_a_quick_fade_is_no_motion(predictor, pictures, aim):
    """From the picture to black or white within eight frames: each frame has nearly the map of the frame alone."""
    for picture in pictures[::2]:
        shares = np.arange(6)[:, None, None, None] / 8
        clip = np.round(picture * (1 - shares) + aim * shares).astype(np.uint8)
        for frame in predictor.stream(clip):
            alone = next(iter(predictor.stream(clip[frame.frame_index][None]))).model_map
            assert correlation(frame.model_map, alone) > 0.98


def write_stored_maps() -> None:
    STORED.parent.mkdir(parents=True, exist_ok=True)
    maps = stored_frames_of(VideoSaliencyPredictor.from_pretrained(DEFAULT_MODEL))
    np.savez_compressed(STORED, maps=maps.astype(np.float16), frames=np.array(STORED_FRAMES))


if __name__ == "__main__":
    write_stored_maps()
