# SPDX-License-Identifier: Apache-2.0
"""Training windows: which frames, which truth, and that a sample depends on its key alone."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from dataset_factory import density, mask, picture, write_pictures
from PIL import Image
from video_factory import make_clip

from video_saliency.audio_windows import AudioSpec
from video_saliency.data import open_dataset, video_seeking
from video_saliency.flow_files import write_flow_file
from video_saliency.processing_video_saliency import VideoSaliencyProcessor
from video_saliency.training import sound_cache, training_validation
from video_saliency.training.smoke_data import write_smoke_clips, write_smoke_stills
from video_saliency.training.sound_cache import SoundCache
from video_saliency.training.still_augmentation import StillAugmentation
from video_saliency.training.training_arguments import DataArguments, DataSource, ValidationArguments
from video_saliency.training.training_batches import BatchPlan, SampleKey, StepSampler, derived_seed
from video_saliency.training.training_data import (
    WindowDataset,
    WindowSettings,
    choose_evenly,
    collate_windows,
    make_settings,
    open_sources,
    parse_augmentation,
)
from video_saliency.training.training_validation import Validator
from video_saliency.training.window_places import place_window
from video_saliency.windows import WindowSpec

SIZE = (36, 64)
CPU = SimpleNamespace(device=torch.device("cpu"))
PROCESSOR = VideoSaliencyProcessor(size={"height": 36, "width": 64})


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips of 12 and 5 pictures whose first pixel tells their number."""
    root = tmp_path_factory.mktemp("clips")
    for name, count in (("long", 12), ("short", 5)):
        names = [f"{index + 1:04d}.png" for index in range(count)]
        write_pictures(root / "frames" / name, names, map(picture, range(count)))
        write_pictures(root / "maps" / name, names, map(density, range(count)))
        write_pictures(root / "fixations" / name, names, (mask(i).astype(np.uint8) * 255 for i in range(count)))
    return root


def dataset(root: Path, spec: WindowSpec, **settings) -> WindowDataset:
    items = open_dataset("folder", root).items
    return WindowDataset(items, PROCESSOR, WindowSettings(**{"spec": spec, "size": SIZE, **settings}))


def shown(sample) -> list[int]:
    """Numbers of the frames in a sample, from their first pixels."""
    return [int(frame[0, 0, 0]) for frame in sample["frames"]]


@pytest.mark.parametrize(
    ("spec", "start", "frames", "described"),
    [
        (WindowSpec(num_frames=4), 3, (3, 4, 5, 6), (0, 1, 2, 3)),
        (WindowSpec(num_frames=4, output="last"), 2, (2, 3, 4, 5), (3,)),
        (WindowSpec(num_frames=4, output="middle"), 2, (2, 3, 4, 5), (2,)),
        (WindowSpec(num_frames=3, step=4), 1, (1, 5, 9), (0, 1, 2)),
        (WindowSpec(num_frames=3, step_seconds=0.2), 1, (1, 6, 11), (0, 1, 2)),  # 25 frames a second
        (WindowSpec(num_frames=15), 0, (*range(12), 11, 11, 11), tuple(range(15))),
        (WindowSpec(num_frames=15, tail_policy="cycle"), 0, (*range(12), 0, 1, 2), tuple(range(15))),
        (WindowSpec(num_frames=14, output="last"), 0, (0, 0, *range(12)), (13,)),
    ],
)
def test_frames_of_a_window(clips, spec, start, frames, described):
    item = open_dataset("folder", clips).item("long")
    assert place_window(item, spec, start) == (frames, described)


def test_a_sample_holds_the_frames_and_truth_of_its_window(clips):
    windows = dataset(clips, WindowSpec(num_frames=3, output="last"), windows=2, seed=5)
    assert len(windows) == 4
    for number in range(len(windows)):
        key = SampleKey(1, number)
        item, place = windows.place(key)
        sample = windows[key]
        assert shown(sample) == list(place.frames)
        assert sample["id"] == f"folder/{item.id} frames {place.frames[0]}..{place.frames[-1]}"
        expected = density(place.frames[-1]) / 255
        assert np.allclose(sample["saliency_labels"][0].numpy(), expected)
        assert np.array_equal(sample["fixation_labels"][0].numpy(), mask(place.frames[-1]))


def test_samples_depend_on_their_key_alone(clips):
    settings = {"windows": 3, "augmentation": StillAugmentation()}
    first, second = (dataset(clips, WindowSpec(num_frames=2), **settings) for _ in range(2))
    for key in (SampleKey(0, 4), SampleKey(7, 1)):
        second[SampleKey(3, 2)]  # what was asked for before does not matter
        for name, value in first[key].items():
            assert value == second[key][name] if name == "id" else torch.equal(value, second[key][name])
    places = {first.place(SampleKey(epoch, 0))[1].frames for epoch in range(20)}
    assert len(places) > 5


def test_changed_pictures_keep_their_truth(clips):
    """The bright square is where the density is, whatever was cropped and mirrored."""
    plain = StillAugmentation(grey=0, blur=0, noise=0, contrast=0, brightness=0, letterbox=0)
    windows = dataset(clips, WindowSpec(num_frames=2), windows=8, augmentation=plain)
    distances = []
    for number in range(len(windows)):
        sample = windows[SampleKey(0, number)]
        for frame, label in zip(sample["frames"], sample["saliency_labels"], strict=True):
            if label.max() > 0.9:  # the square was not cropped away
                brightest = np.unravel_index(int(frame[0].float().argmax()), SIZE)
                peak = np.unravel_index(int(label.argmax()), SIZE)
                distances.append(np.abs(np.subtract(brightest, peak)).max())
    assert len(distances) > 8
    assert np.mean(np.array(distances) <= 4) > 0.8


def test_a_flip_moves_frames_maps_and_fixations(clips):
    still, flipped = (dataset(clips, WindowSpec(num_frames=2), windows=6, augmentation=a) for a in (None, "flip"))
    seen = set()
    for number in range(12):
        before, after = still[SampleKey(0, number)], flipped[SampleKey(0, number)]
        is_flipped = not torch.equal(before["frames"], after["frames"])
        seen.add(is_flipped)
        for name in ("frames", "saliency_labels", "fixation_labels"):
            assert torch.equal(before[name].flip(-1) if is_flipped else before[name], after[name])
    assert seen == {True, False}


def test_all_windows_and_even_windows(clips):
    every = dataset(clips, WindowSpec(num_frames=4), windows="all")
    assert [every.place(SampleKey(0, n))[1].frames[0] for n in range(len(every))] == [0, 4, 8, 0]
    even = dataset(clips, WindowSpec(num_frames=4), windows=3, is_random=False)
    assert [even.place(SampleKey(9, n))[1].frames[0] for n in range(len(even))] == [0, 4, 8, 0, 0, 1]


@pytest.mark.parametrize(("pair", "step"), [("next", 1), ("previous", -1)])
def test_single_frames_bring_their_neighbour(clips, pair, step):
    windows = dataset(clips, WindowSpec(), windows="all", flow_pair=pair)
    for number in range(12):
        sample = windows[SampleKey(0, number)]
        assert int(sample["neighbours"][0, 0, 0, 0]) == min(max(number + step, 0), 11)


def test_frames_of_a_video_are_sought(tmp_path, monkeypatch):
    monkeypatch.setattr(video_seeking, "_decode_pictures", lambda *_: pytest.fail("decoded from the start"))
    (tmp_path / "videos").mkdir()
    flat = (np.full((*SIZE, 3), 4 * index, dtype=np.uint8) for index in range(60))
    make_clip(tmp_path / "videos" / "clip.mp4", 60, width=64, height=36, rate=30, pictures=flat)
    windows = dataset(tmp_path, WindowSpec(num_frames=3, step_seconds=0.2), windows=4)
    sample = windows[SampleKey(0, 3)]
    _, place = windows.place(SampleKey(0, 3))
    assert np.diff(place.frames).tolist() == [6, 6]
    assert sample["frames"].float().mean(dim=(1, 2, 3)).tolist() == pytest.approx([4 * i for i in place.frames], abs=4)
    assert sample["saliency_labels"].sum() == 0 and "fixation_labels" not in sample


def test_stills_become_still_clips_and_moving_pairs(tmp_path):
    write_smoke_stills(tmp_path)
    items = open_sources([DataSource("stills", "train", str(tmp_path))])
    settings = {"size": SIZE, "density_sigma": 1 / 16, "cache_stills": True}
    clip = WindowDataset(items, PROCESSOR, WindowSettings(WindowSpec(num_frames=3), **settings))[SampleKey(0, 0)]
    assert torch.equal(clip["frames"][0], clip["frames"][2])
    assert clip["saliency_labels"].shape == (3, *SIZE)
    pairs = WindowDataset(items, PROCESSOR, WindowSettings(WindowSpec(), synthetic_motion=True, **settings))
    sample = pairs[SampleKey(0, 0)]
    assert sample["frames"].shape == sample["neighbours"].shape == (1, 3, *SIZE)
    assert not torch.equal(sample["frames"], sample["neighbours"])
    assert torch.equal(pairs[SampleKey(0, 0)]["frames"], sample["frames"])  # from the cache


def test_equal_names_in_two_sources_are_two_items(tmp_path, monkeypatch):
    first, second = (write_smoke_stills(tmp_path / name) for name in "ab")
    for path in (second / "images").glob("*.png"):
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    items = open_sources([DataSource("stills", "train", str(root)) for root in (first, second)])
    settings = WindowSettings(WindowSpec(), SIZE, density_sigma=1 / 16, cache_stills=True)
    windows = WindowDataset(items, PROCESSOR, settings)
    half = len(windows) // 2
    for number in range(half):
        one, other = (windows[SampleKey(0, number + offset)]["frames"] for offset in (0, half))
        assert torch.equal(other, 255 - one)

    training = SimpleNamespace(processor=PROCESSOR, config=SimpleNamespace(window_spec=WindowSpec()))
    monkeypatch.setattr(training_validation, "InputMaker", lambda *_: None)
    arguments = ValidationArguments(metrics=["nss"], select_by="nss")
    validator = Validator(items, training, settings, windows=1, arguments=arguments, batch_size=1, accelerator=CPU)
    predicted = np.random.default_rng(0).random((1, *SIZE)).astype(np.float32)
    rows = [row for number in range(2 * half) for row in validator._score(SampleKey(0, number), predicted)]
    assert validator._averages(rows, []).num_clips == 2 * half


def test_short_clips_go_on_as_the_data_say_in_training_and_as_the_window_says_in_validation(clips, monkeypatch):
    options = {"seed": 0, "flow_pair": None, "audio": None}
    settings = make_settings(DataArguments(short_clips="cycle"), WindowSpec(num_frames=7), SIZE, **options)
    assert make_settings(DataArguments(), WindowSpec(num_frames=7), SIZE, **options).spec == WindowSpec(num_frames=7)
    items = [open_dataset("folder", clips).item("short")]
    assert shown(WindowDataset(items, PROCESSOR, settings)[SampleKey(0, 0)]) == [0, 1, 2, 3, 4, 0, 1]

    training = SimpleNamespace(processor=PROCESSOR, config=SimpleNamespace(window_spec=WindowSpec(num_frames=7)))
    monkeypatch.setattr(training_validation, "InputMaker", lambda *_: None)
    arguments = ValidationArguments()
    validator = Validator(items, training, settings, windows=1, arguments=arguments, batch_size=1, accelerator=CPU)
    assert shown(validator.dataset[SampleKey(0, 0)]) == [0, 1, 2, 3, 4, 4, 4]


@pytest.mark.parametrize("choice", ["cycle", "repeat"])
def test_models_of_the_last_frame_have_no_choice_for_short_clips(choice):
    spec = WindowSpec(num_frames=7, output="last")
    with pytest.raises(ValueError, match=f"data.short_clips={choice} does nothing .* leave it out"):
        make_settings(DataArguments(short_clips=choice), spec, SIZE, seed=0, flow_pair=None, audio=None)


def test_derived_seeds_are_what_they_were_and_never_overflow():
    assert derived_seed(3, 2, 5) == (3 * 1_000_003 + 2) * 1_000_003 + 5
    assert len({derived_seed(2**63 - 1 - seed, 0, 0) for seed in range(5)}) == 5
    torch.Generator().manual_seed(derived_seed(2**63 - 1, 10**6, 10**9))


def test_flow_files_are_mirrored_with_the_frames(clips, tmp_path):
    for name, count in (("long", 12), ("short", 5)):
        (tmp_path / name).mkdir()
        for index in range(count):
            flow = np.zeros((2, *SIZE), np.float32)
            flow[0], flow[1] = 3.0, index
            write_flow_file(tmp_path / name / f"{index + 1:04d}.flo", flow)
    windows = dataset(clips, WindowSpec(), windows="all", augmentation="flip", flow_root=tmp_path)
    directions = set()
    for number in range(12):
        flow = windows[SampleKey(0, number)]["flow"]
        assert (flow[0, 1] == number).all()
        directions.add(float(flow[0, 0, 0, 0]))
    assert directions == {3.0, -3.0}


def test_sound_belongs_to_the_window(tmp_path):
    write_smoke_clips(tmp_path)
    spec = AudioSpec(num_slices=2, slice_frames=16, hop_frames=4, size=(16, 32))
    windows = dataset(tmp_path, WindowSpec(num_frames=4), windows="all", audio=spec)
    samples = [windows[SampleKey(0, number)] for number in range(6)]
    assert samples[0]["audio_values"].shape == (2, 1, 16, 32)
    frames = json.loads((tmp_path / "fixations" / "clip_1.json").read_text())
    columns = [np.mean([frames[index][0][1] for index in range(4 * n, 4 * n + 4)]) for n in range(1, 5)]
    loudness = [float(sample["audio_values"].max()) for sample in samples[1:5]]
    assert np.corrcoef(columns, np.exp(loudness))[0, 1] > 0.9


def test_sounds_are_decoded_once_as_long_as_there_is_room(tmp_path, monkeypatch):
    decoded = []

    def decode(path, rate):
        decoded.append(path.name)
        return iter([(0.0, np.zeros((1, 1000), np.float32))])

    monkeypatch.setattr(sound_cache, "read_audio", lambda path, rate: decode(Path(path), rate))
    names = [f"{number}.wav" for number in range(20)]
    cache = SoundCache()
    for name in names * 2:
        assert len(cache.read(Path(name), 16_000)[0]) == 1000
    assert decoded == names
    decoded.clear()
    small = SoundCache(limit=9000)  # two sounds
    for name in "abacab":
        small.read(Path(name), 16_000)
    assert decoded == ["a", "b", "c", "b"]
    assert len(SoundCache(limit=1).read(Path("a"), 16_000)[0]) == 1000


def test_damaged_files_name_the_sample(clips, tmp_path):
    for name in ("frames", "maps"):
        (tmp_path / name / "bad").mkdir(parents=True)
    (tmp_path / "frames" / "bad" / "0001.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"folder/bad frames 0\.\.0"):
        dataset(tmp_path, WindowSpec())[SampleKey(0, 0)]


def test_every_sample_is_seen_once_in_an_epoch_by_any_number_of_processes():
    seen = {}
    for processes, accumulation in ((1, 4), (2, 2), (4, 1)):
        plan = BatchPlan(50, 3, accumulation, processes, seed=2)
        assert plan.steps_per_epoch == 4
        steps = [
            [
                key
                for forward in range(accumulation)
                for p in range(processes)
                for key in plan.of_process(step, forward, p)
            ]
            for step in range(5)
        ]
        seen[processes] = steps
        numbers = [key.number for step in steps[:4] for key in step]
        assert len(set(numbers)) == 48
        assert {key.epoch for key in steps[4]} == {1}
    assert seen[1] == seen[2] == seen[4]


def test_the_sampler_goes_on_at_a_step_and_repeats_few_samples():
    plan = BatchPlan(3, 2, 2, 1, seed=0)
    every = list(StepSampler(plan, 0, first=0, last=6))
    assert every[4:] == list(StepSampler(plan, 0, first=2, last=6))
    assert len(StepSampler(plan, 0, first=2, last=6)) == 8
    assert {key.number for batch in every[:2] for key in batch} == {0, 1, 2}


def test_collated_samples(clips):
    windows = dataset(clips, WindowSpec(num_frames=2))
    batch = collate_windows([windows[SampleKey(0, 0)], windows[SampleKey(0, 1)]])
    assert batch["frames"].shape == (2, 2, 3, *SIZE) and batch["frames"].dtype == torch.uint8
    assert len(batch["id"]) == 2


def test_sources_without_a_folder_and_unknown_augmentations():
    with pytest.raises(ValueError, match="--root dhf1k=FOLDER"):
        open_sources([DataSource("dhf1k")])
    assert parse_augmentation("strong") == StillAugmentation.strong()
    assert parse_augmentation({"grey": 0.5}).grey == 0.5
    for wrong in ("weak", {"greyness": 1}):
        with pytest.raises(ValueError, match="augmentation"):
            parse_augmentation(wrong)


def test_choose_evenly(clips):
    items = open_dataset("folder", clips).items
    assert [item.id for item in choose_evenly(items * 3, 2)] == ["long", "short"]
    assert choose_evenly(items, None) == items
