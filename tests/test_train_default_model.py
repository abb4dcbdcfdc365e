# SPDX-License-Identifier: Apache-2.0
"""The training script of the default model, on a dozen synthetic pictures and a tiny network."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from still_data_factory import make_still_folder
from transformers import AutoModel, AutoProcessor

import video_saliency

TINY_ENCODER = {
    "layer_type": "basic",
    "embedding_size": 8,
    "hidden_sizes": [8, 16, 24, 32],
    "depths": [1, 1, 1, 1],
}
SCRIPT = Path(__file__).parents[1] / "examples" / "train_default_model.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_default_model", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stills")
    make_still_folder(folder, num_images=15)
    return folder


def tiny_recipe(script: ModuleType, steps: int, fusion_steps: int = 0):
    return script.Recipe(
        steps=steps,
        fusion_steps=fusion_steps,
        batch_size=4,
        learning_rate=3e-3,
        warmup_steps=3,
        average_decay=0.8,
        height=48,
        width=64,
        cache_height=56,
        cache_width=72,
        config_overrides={"encoder_config": TINY_ENCODER},
        seed=0,
        teacher_seeds=[],
        centre_exponent=0.0,
    )


def test_a_short_run_learns_and_writes_a_model_that_loads(script: ModuleType, data: Path, tmp_path: Path) -> None:
    losses = script.run(data, tmp_path, tiny_recipe(script, steps=24, fusion_steps=12))
    assert len(losses) == 36
    assert np.mean(losses[19:24]) < np.mean(losses[:5]) - 0.1, "the appearance stream learns"
    assert np.mean(losses[-4:]) < np.mean(losses[24:28]), "the motion stream learns"

    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json",
        "model.safetensors",
        "processor_config.json",
        "scores.json",
        "README.md",
    }
    stored = load_file(tmp_path / "model.safetensors")
    assert {value.dtype for value in stored.values() if value.ndim > 1} == {torch.float16}
    model, processor = AutoModel.from_pretrained(tmp_path).eval(), AutoProcessor.from_pretrained(tmp_path)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert set(model.streams) == {"appearance", "motion"}
    inputs = processor(videos=np.full((2, 30, 40, 3), 128, np.uint8), return_tensors="pt")
    with torch.no_grad():
        maps = model(**inputs).saliency_maps
    assert maps.shape == (1, 2, 48, 64) and maps.min() >= 0 and torch.isfinite(maps).all()


def test_fusion_leaves_the_appearance_stream_as_it_is(script: ModuleType, data: Path) -> None:
    recipe = tiny_recipe(script, steps=3, fusion_steps=3)
    cache = script.StillCache.load(script.StillFixations(data, split="train"), recipe)
    trainer = script.Trainer(recipe)
    while trainer.step < recipe.steps:
        trainer.train_step(cache)
    before = {name: value.clone() for name, value in trainer.average.items()}
    trainer.start_fusion()
    motion = {name: value.clone() for name, value in trainer.model.streams["motion"].state_dict().items()}
    assert all(torch.equal(value, before[f"streams.appearance.{name}"]) for name, value in motion.items())
    trainer.train(cache)
    for averaged in (trainer.average, trainer.model.state_dict()):
        assert all(torch.equal(averaged[name], value) for name, value in before.items())
    changed = trainer.model.streams["motion"].state_dict()
    assert not all(torch.equal(value, motion[name]) for name, value in changed.items())


def test_scores_and_card_say_what_was_measured(script: ModuleType, data: Path, tmp_path: Path) -> None:
    left_out = tmp_path / "without left"
    script.run(data, left_out, tiny_recipe(script, steps=2), leave_out="left")
    others = json.loads((left_out / "scores.json").read_text())
    assert set(others["val"]) == {"all", "left"} and others["val"]["all"]["images"] > 3
    assert others["left_out"] == "left" and "motion" not in others
    assert "no motion stream" in (left_out / "README.md").read_text()

    output = tmp_path / "model"
    script.run(data, output, tiny_recipe(script, steps=2, fusion_steps=1), compare=[left_out / "scores.json"])
    scores = json.loads((output / "scores.json").read_text())
    assert set(scores["val"]) == {"all", "left", "right"} and scores["val"]["all"]["images"] == 3
    assert set(scores["val"]["all"]) == {"images", "nss", "cc", "auc_judd"}
    # A square anywhere: the mean of the training images is no good guess, yet better than none.
    assert 0.5 < scores["val_centre_bias"]["all"]["auc_judd"] < 1
    assert scores["recipe"]["steps"] == 2 and len(scores["data"]["sha256"]) == 64
    assert scores["motion"]["clips"] == 3 and 0 <= scores["motion"]["mover_wins_panning_camera"] <= 1

    card = ModelCard.load(output / "README.md")
    assert card.data.license == "apache-2.0" and card.data.library_name == "transformers"
    assert card.data.eval_results[0].metric_value == round(scores["val"]["all"]["nss"], 4)
    assert f"{scores['val']['all']['nss']:.3f}" in card.text and scores["data"]["sha256"] in card.text
    images, reference = others["val"]["all"]["images"], others["val_weightless"]["all"]["nss"]
    assert (
        f"| left ({images}) | 2 | 0 | plain | {{" in card.text
        and f"| {others['val']['all']['nss']:.3f} |" in card.text
    )
    assert f"centred Gaussian, no training) | {reference:.3f} |" in card.text
    slow = scores["slow_motion"]
    assert len(slow) == 4 and f"0.1 % {100 * slow['0.001']:.0f} %" in card.text
    assert "{{" not in card.text and "no gaze on video" in card.text

    speed = {"rows": {"flow": {"wall_s": 0.00125, "cpu_s": 0.0025}}, "machine": "a machine", "threads": 2}
    speed |= {"torch": "2.x", "repeats": 3, "maps_against_flow_and_network": 0.815, "overlay_maps_per_second": 31.2}
    speed |= {"network_gflop": 1.2, "flow_gflop": 0.01, "weights_sha256": "of other weights"}
    (output / "speed.json").write_text(json.dumps(speed))
    script.main(["--output", str(output), "--card-only"])
    assert "1.25" not in (output / "README.md").read_text()
    speed["weights_sha256"] = sha256((output / "model.safetensors").read_bytes()).hexdigest()
    (output / "speed.json").write_text(json.dumps(speed))
    script.main(["--output", str(output), "--card-only"])
    text = (output / "README.md").read_text()
    assert "| flow | 1.25 | 2.50 |" in text and "0.81 of the rate" in text and "31 maps a second" in text
    assert ModelCard.load(output / "README.md").data.eval_results == card.data.eval_results

    # scored again, and trained again, the rows of other runs stay
    script.main(["--output", str(output), "--measure-only", "--data", str(data)])
    again = json.loads((output / "scores.json").read_text())
    assert again["val"]["all"] == pytest.approx(scores["val"]["all"], abs=1e-4)  # threads may differ
    assert {**again, **{name: scores[name] for name in again if name.startswith(("val", "motion", "slow"))}} == scores
    script.run(data, output, tiny_recipe(script, steps=2))
    assert json.loads((output / "scores.json").read_text())["compared"] == scores["compared"]
    assert "Not measured." in (output / "README.md").read_text(), "the speed is that of the weights before"


def test_the_shipped_card_is_that_of_the_shipped_scores(script: ModuleType, tmp_path: Path) -> None:
    shipped = Path(video_saliency.DEFAULT_MODEL)
    for name in ("scores.json", "speed.json", "model.safetensors"):
        (tmp_path / name).write_bytes((shipped / name).read_bytes())
    script.main(["--output", str(tmp_path), "--card-only"])
    assert (tmp_path / "README.md").read_text() == (shipped / "README.md").read_text()
    assert "Not measured" not in (shipped / "README.md").read_text()


def test_the_same_seed_gives_the_same_file(script: ModuleType, data: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        script.run(data, tmp_path / name, tiny_recipe(script, steps=3, fusion_steps=2))
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "second"))
    assert first == second


def test_teachers_are_trained_first_and_their_maps_are_part_of_the_truth(script, data: Path, tmp_path: Path) -> None:
    recipe = replace(tiny_recipe(script, steps=3), teacher_seeds=[1, 2])
    cache = script.StillCache.load(script.StillFixations(data, split="train"), recipe)
    teachers = [script.Trainer(recipe.of_teacher(seed)) for seed in (1, 2)]
    for teacher in teachers:
        assert teacher.recipe.teacher_seeds == [] and len(teacher.train(cache)) == 3
    taught, alone = script.Trainer(recipe, teachers=teachers), script.Trainer(replace(recipe, teacher_seeds=[]))
    chosen = cache.images[:4], cache.densities[:4]
    (inputs, mixed), (same_inputs, truth) = (
        trainer._batch(*chosen, torch.Generator().manual_seed(0)) for trainer in (taught, alone)
    )
    pixels = inputs["pixel_values_videos"]
    assert torch.equal(pixels, same_inputs["pixel_values_videos"])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        maps = [teacher.model(pixels).saliency_maps[:, 0].float() for teacher in teachers]
    mean = sum(each / each.sum(dim=(1, 2), keepdim=True) for each in maps) / 2
    torch.testing.assert_close(mixed, 0.5 * mean + 0.5 * truth / truth.sum(dim=(1, 2), keepdim=True))

    script.run(data, tmp_path / "one", recipe)
    script.run(data, tmp_path / "alone", tiny_recipe(script, steps=3))
    one, alone_file = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "alone"))
    assert any(not torch.equal(one[name], value) for name, value in alone_file.items())
    scores = json.loads((tmp_path / "one" / "scores.json").read_text())
    assert scores["training"]["wall_s"]["teachers"] > 0
    card = (tmp_path / "one" / "README.md").read_text()
    assert "--teacher-seeds 1 2" in card and "50 % the mean map of 2 teachers" in card
    assert ", ".join(f"{scores['teachers'][seed]['nss']:.3f}" for seed in ("1", "2")) in card
    stills = script.StillFixations(data, split="val")
    for seed, teacher in zip(("1", "2"), taught.teachers, strict=True):
        expected = script.score_stills(script.predict_maps(teacher, taught.processor, stills), stills)["all"]
        assert scores["teachers"][seed] == pytest.approx(expected, abs=1e-6)
    assert "The target is the density of the recorded fixations." in (tmp_path / "alone" / "README.md").read_text()
    with pytest.raises(ValueError, match="needs teachers of the seeds"):
        script.Trainer(recipe, teachers=teachers[:1])


def test_a_run_killed_behind_its_teachers_does_not_train_them_again(script, data: Path, tmp_path: Path) -> None:
    recipe = replace(tiny_recipe(script, steps=3), teacher_seeds=[1, 2])
    whole = tmp_path / "whole"
    script.run(data, whole, recipe)
    cache = script.StillCache.load(script.StillFixations(data, split="train"), recipe)
    for seed in (1, 2):  # what such a run leaves behind
        file = tmp_path / f"run.pt.teacher{seed}"
        script.trained(script.Trainer(recipe.of_teacher(seed)), cache, file, checkpoint_every=100, resume=False)
    steps = []
    original = script.Trainer.train_step

    def counted(trainer, cache) -> float:
        steps.append(trainer.recipe.seed)
        return original(trainer, cache)

    script.Trainer.train_step = counted
    try:
        script.run(data, tmp_path / "resumed", recipe, checkpoint=tmp_path / "run.pt", resume=True)
    finally:
        script.Trainer.train_step = original
    assert steps == [0] * 3
    first, second = ((folder / "model.safetensors").read_bytes() for folder in (whole, tmp_path / "resumed"))
    assert first == second
    assert not list(tmp_path.glob("run.pt*"))


def test_networks_that_part_late_can_be_averaged(script: ModuleType, data: Path, tmp_path: Path) -> None:
    first = tiny_recipe(script, steps=6)
    second = replace(first, seed=1, shared_steps=4)
    cache = script.StillCache.load(script.StillFixations(data, split="train"), first)
    losses = [script.Trainer(recipe).train(cache) for recipe in (first, second)]
    assert losses[0][:4] == losses[1][:4] and losses[0][4:] != losses[1][4:]

    for recipe in (first, second):
        script.run(data, tmp_path / str(recipe.seed), recipe)
    script.run(data, tmp_path / "mean", second, average=[tmp_path / "0", tmp_path / "1"])
    states = [load_file(tmp_path / name / "model.safetensors") for name in ("0", "1", "mean")]
    kernels = [name for name, value in states[0].items() if value.ndim > 1]
    for name in kernels:
        zero, one, mean = (state[name].float() for state in states)
        torch.testing.assert_close(mean, (zero + one) / 2, atol=1e-3, rtol=1e-3)  # stored in float16
    assert any(not torch.equal(states[0][name], states[1][name]) for name in kernels)
    variances = [name for name in states[0] if name.endswith("running_var")]
    assert not all(torch.equal(states[2][name], (states[0][name] + states[1][name]) / 2) for name in variances)
    row = script.read_compared(tmp_path / "mean" / "scores.json")
    assert script.changes({**row, "config_overrides": {}}) == "mean weights of 2 networks that part after 4 steps"


def test_the_card_says_on_which_sets_training_did_not_pay(script: ModuleType) -> None:
    row = {
        "seed": 0,
        "config_overrides": {},
        "augmentation": "plain",
        "centre_exponent": 0,
        "teachers": 0,
        "averaged": 0,
    }
    best = {"scores": {"nss": 9.0}, "weightless": {"nss": 1.25}}
    rows = [
        {**row, "left_out": "near", "scores": {"nss": 2.0}, "weightless": {"nss": 1.5}},
        {**row, "left_out": "far", "scores": {"nss": 1.1}, "weightless": {"nss": 1.25}},
        {**row, "left_out": "far", **best, "seed": 1},
        {**row, "left_out": "far", **best, "augmentation": "strong"},
        {**row, "left_out": "far", **best, "config_overrides": {"contrast_branch": False}},
    ]
    recipe = asdict(script.Recipe(teacher_seeds=[0, 1], centre_exponent=0.25))
    assert script.compared_sentences(rows, recipe) == (
        "The network is, by NSS against the untrained map, worse on far (1.10 against 1.25) and better on near (2.00 "
        "against 1.50)."
    )
    rows.append({**rows[1], "teachers": 2, "centre_exponent": 0.25, "scores": {"nss": 1.2}})
    assert script.compared_sentences(rows, recipe) == (
        "A network made as this model was (2 teachers; maps times the Gaussian to the power 0.25) is, by NSS against "
        "the untrained map, worse on far (1.20 against 1.25)."
    )
    assert script.compared_sentences([], recipe) == ""


def test_a_set_that_is_not_there_is_refused(script: ModuleType, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must name one of left, right"):
        script.run(data, tmp_path, tiny_recipe(script, steps=1), leave_out="salicon")


@pytest.mark.parametrize("killed_at", [5, 9], ids=["appearance", "fusion"])
def test_a_killed_run_resumes_exactly(script: ModuleType, data: Path, tmp_path: Path, killed_at: int) -> None:
    recipe = tiny_recipe(script, steps=6, fusion_steps=4)
    stills = script.StillFixations(data, split="train")
    cache = script.StillCache.load(stills, recipe)

    class KilledError(Exception):
        pass

    whole, killed, resumed = (script.Trainer(recipe) for _ in range(3))
    expected = whole.train(cache)

    step, done = killed.train_step, []

    def killed_step(cache) -> float:
        if len(done) == killed_at:
            raise KilledError
        done.append(step(cache))
        return done[-1]

    killed.train_step = killed_step
    with pytest.raises(KilledError):
        killed.train(cache, checkpoint=tmp_path / "run.pt", checkpoint_every=2)
    resumed.load_checkpoint(tmp_path / "run.pt")
    assert (resumed.stage, resumed.step) == (("appearance", 4) if killed_at == 5 else ("fusion", 2))
    rest = resumed.train(cache)
    assert rest == expected[-len(rest) :] and len(rest) == (6 if killed_at == 5 else 2)
    assert [path.name for path in tmp_path.iterdir()] == ["run.pt"]
    for name, value in whole.average.items():
        assert torch.equal(value, resumed.average[name]), name

    with pytest.raises(ValueError, match="written with other options"):
        script.Trainer(tiny_recipe(script, steps=7)).load_checkpoint(tmp_path / "run.pt")
