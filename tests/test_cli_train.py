# SPDX-License-Identifier: Apache-2.0
"""`video-saliency train` on miniature data."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from huggingface_hub import ModelCard
from huggingface_hub.utils import filter_repo_objects
from training_factory import TINY_ENCODER, reset_accelerate
from typer.testing import CliRunner

from video_saliency import defaults
from video_saliency.cli.main import app
from video_saliency.defaults import DEFAULT_MODEL
from video_saliency.loading import load_model
from video_saliency.training import training_run
from video_saliency.training.smoke_data import write_smoke_clips
from video_saliency.training.training_run import RunOptions, read_arguments

RECIPES = Path(__file__).parents[1] / "examples" / "recipes"


@pytest.fixture(autouse=True)
def fresh_accelerate():
    reset_accelerate()
    yield
    reset_accelerate()


def train(*arguments: str | Path):
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    content = {
        "title": "a tiny model",
        "license": "apache-2.0",
        "model": {
            "architecture": "gfsalnet_saliency",
            "preset": "compact",
            "config": {"streams": "appearance", "encoder_config": TINY_ENCODER},
            "processor": {"size": {"height": 32, "width": 48}},
        },
        "data": {
            "train": [{"dataset": "folder", "split": "train"}],
            "validation": [{"dataset": "folder", "split": "val"}],
            "workers": 0,
        },
        "loop": {"steps": 2, "device": "cpu"},
        "record": {"log_every": 1, "progress_bar": False, "trackers": ["tensorboard"]},
    }
    path.write_text(json.dumps(content))  # JSON is YAML
    return path


def test_training_writes_a_model_with_its_card(recipe, tmp_path):
    clips = write_smoke_clips(tmp_path / "clips")
    result = train("--config", recipe, "--output", tmp_path / "run", "--root", clips, "--set", "loop.seed=4")
    assert result.exit_code == 0, result.output
    assert "2 steps" in result.output
    model = tmp_path / "run" / "model"
    load_model(str(model))
    card = ModelCard.load(model / "README.md")
    record = json.loads((model / "training.json").read_text())
    assert card.data.license == "apache-2.0" and card.data.library_name == "transformers"
    scores = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert scores == {name: round(record["scores"][name], 4) for name in ("cc", "sim", "nss", "auc_judd")}
    for text in ("a tiny model", "seed: 4", f"{record['scores']['cc']:.4f}", record["versions"]["torch"], "3 windows"):
        assert text in card.text or text in card.content, text
    assert str(tmp_path) not in card.content  # no folder of this machine
    assert card.data.datasets is None  # `folder` is none that others could find
    assert list((tmp_path / "run" / "trackers").rglob("events*"))
    assert list((tmp_path / "run" / "samples").rglob("*.png"))
    again = train("--config", recipe, "--output", tmp_path / "run", "--root", clips, "--set", "loop.seed=4")
    assert again.exit_code == 0, again.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--root folder=FOLDER"),
        (["--root", "dhf1k=/somewhere"], "the recipe has folder"),
        (["--set", "loop.epoch=3"], "loop.epoch is unknown"),
        (["--train", "folder"], "NAME=FOLDER or NAME:SPLIT=FOLDER"),
        (["--smoke"], "no section `smoke`"),
        (["--set", "model.architecture=tased"], "model.architecture 'tased' is unknown"),
        (["--set", "model.config.wings=2"], "model.config.wings is no field of GFSalNetConfig"),
        (["--set", "model.freeze=['(']"], "model.freeze: '(' is no regular expression"),
        (["--set", "model.first_gate=1"], "model.first_gate is for GFSalNet with two streams"),
        (["--set", "data="], "data must be a mapping, got None"),
        (["--set", "data.train="], "data.train must be"),
        (["--set", "data.train=[folder]"], "data.train[0] must be a mapping, got 'folder'"),
        (["--set", "record.trackers=[wand]"], "record.trackers: 'wand' is unknown"),
        (
            ["--set", "lora.enabled=true", "--push-to-hub", "me/model"],
            "the run starts from fresh weights: set lora.merge=true to upload the merged",
        ),
        (
            ["--model", "me/base", "--set", "lora.enabled=true", "--push-to-hub", "me/model"]
            + ["--set", "model.config={}", "--set", "model.first_gate=1"],
            "must name a base model there, and there is none, because model.first_gate change me/base: set "
            "lora.merge=true to upload the merged model, or upload the base first and start another run from it by "
            "--model ORG/NAME, without lora.base_model and without settings that change it",
        ),
        (
            ["--set", "lora={enabled: true, base_model: me/base}", "--push-to-hub", "me/model"],
            "lora.base_model: me/base is not what the adapters are trained on, because the run starts from fresh "
            "weights: set lora.merge=true",
        ),
        (
            ["--model", "default", "--set", "model.preset=null", "--set", "model.config={}"]
            + ["--set", "model.config.cc_loss_weight=0.25", "--push-to-hub", "me/model"]
            + ["--set", "lora={enabled: true, base_model: me/base}"],
            "because model.config.cc_loss_weight change default: set lora.merge=true",
        ),
        (
            ["--model", "default", "--set", "model.config={}", "--set", "model.preset=null", "--push-to-hub", "a/b"]
            + ["--set", "lora.enabled=true"],
            "upload the base first, then set lora.base_model=ID",
        ),
        (["--push-to-hub", "bad name!!"], "--push-to-hub 'bad name!!' is no repository ORG/NAME"),
        (["--push-to-hub", "a/b/c"], "--push-to-hub 'a/b/c' is no repository ORG/NAME"),
        (["--push-to-hub", "model"], "--push-to-hub 'model' names no owner: give ORG/NAME"),
    ],
)
def test_wrong_options_end_with_a_line(recipe, tmp_path, arguments, message):
    result = train("--config", recipe, "--output", tmp_path / "run", *arguments)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.freeze=[wings]", "model.freeze 'wings' matches no parameter"),
        ("model.freeze=['.*']", "everything is frozen"),
    ],
)
def test_patterns_that_fit_nothing_can_be_corrected(recipe, tmp_path, setting, message):
    clips = write_smoke_clips(tmp_path / "clips")
    command = ["--config", recipe, "--output", tmp_path / "run", "--root", clips]
    result = train(*command, "--set", setting)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.output.split())
    assert train(*command).exit_code == 0  # the folder belongs to no run yet


def test_settings_of_another_architecture_end_with_a_line(tmp_path):
    command = ["--config", RECIPES / "salfom.yaml", "--smoke", "--output", tmp_path]
    result = train(*command, "--set", "model.copy_appearance=true")
    assert result.exit_code == 2, result.output
    assert "model.copy_appearance is for GFSalNet with two streams" in " ".join(result.output.split())


def test_a_recipe_without_data_ends_with_a_line(recipe, tmp_path):
    recipe.write_text("data: null\nsmoke: {}\n")
    for options in ([], ["--smoke"]):
        result = train("--config", recipe, "--output", tmp_path / "run", *options)
        assert result.exit_code == 2, result.output
        assert "data must be a mapping, got None" in result.output


def test_a_model_that_does_not_fit_in_memory_ends_with_a_line(recipe, tmp_path, monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Accelerator, "prepare", fail)
    clips = write_smoke_clips(tmp_path / "clips")
    result = train("--config", recipe, "--output", tmp_path / "run", "--root", clips)
    assert result.exit_code == 1, result.output
    assert "the memory is too small for the model: train fewer weights" in result.output


def test_options_change_the_recipe(tmp_path, recipe):
    arguments = read_arguments(
        RunOptions(
            config=recipe,
            output=tmp_path,
            train=["folder:train=a", "dhf1k=b"],
            roots=["c"],
            model="me/base",
            settings=["optimizer.learning_rate=1e-5"],
        )
    )
    assert [(s.dataset, s.split, s.root) for s in arguments.data.train] == [
        ("folder", "train", "c"),
        ("dhf1k", None, "c"),
    ]
    assert arguments.data.validation[0].root == "c"
    assert arguments.model.name_or_path == "me/base" and arguments.optimizer.learning_rate == 1e-5


def test_the_embedded_model_is_called_default(tmp_path, recipe):
    by_option = read_arguments(RunOptions(config=recipe, output=tmp_path, model="default"))
    by_recipe = read_arguments(RunOptions(config=RECIPES / "own_clips.yaml", output=tmp_path))
    assert by_option.model.name_or_path == by_recipe.model.name_or_path == "default"


def own_clips(tmp_path: Path, *options: object) -> Path:
    """The model of one update of the embedded model on clips of our own, without validation data."""
    clips = write_smoke_clips(tmp_path / "clips")
    command = ["--config", RECIPES / "own_clips.yaml", "--output", tmp_path / "run", "--train", f"folder={clips}"]
    short = ["loop.steps=1", "loop.batch_size=1", "loop.device=cpu", "data.windows=1", "data.workers=0"]
    result = train(*command, *(word for setting in short for word in ("--set", setting)), *options)
    assert result.exit_code == 0, result.output
    return tmp_path / "run" / "model"


def test_own_clips_need_no_validation_data(tmp_path):
    assert "Not measured." in (own_clips(tmp_path) / "README.md").read_text()


def test_a_run_from_the_embedded_model_names_it_by_its_name(tmp_path, monkeypatch):
    folder = own_clips(tmp_path)
    card, text = ModelCard.load(folder / "README.md"), (folder / "README.md").read_text()
    assert card.data.base_model is None
    assert "Training started from `default`, the embedded model of video-saliency, whose terms hold." in text
    assert "name_or_path: default\n" in text and "default_model" not in text
    for path in (folder / "training.json", tmp_path / "run" / "run.json"):
        assert json.loads(path.read_text())["arguments"]["model"]["name_or_path"] == "default"
    shutil.copytree(DEFAULT_MODEL, tmp_path / "elsewhere")
    monkeypatch.setattr(defaults, "DEFAULT_MODEL", str(tmp_path / "elsewhere"))
    own_clips(tmp_path)  # goes on where the package lies in another place


def test_the_same_model_by_another_path_is_the_same(recipe, tmp_path, monkeypatch):
    clips = write_smoke_clips(tmp_path / "clips")
    command = ["--config", recipe, "--root", clips, "--set", "data.validation=[]"]
    assert train(*command, "--output", tmp_path / "first").exit_code == 0
    shutil.copytree(tmp_path / "first" / "model", tmp_path / "second")
    for name in ("first", "second"):  # a folder beside the run
        monkeypatch.chdir(tmp_path)
        start = tmp_path / "first" / "model" if name == "first" else "./second"
        changes = ["--set", f"model.weights_from={json.dumps({'streams.*': str(start)})}"]
        changes += ["--set", f"model.teachers={json.dumps([str(start)])}"]
        output = tmp_path / f"from_{name}"
        assert train(*command, *changes, "--model", start, "--output", output).exit_code == 0
        other = os.path.relpath(start, tmp_path) if name == "first" else tmp_path / "second"
        changes = [word.replace(str(start), str(other)) for word in changes]
        result = train(*command, *changes, "--model", other, "--output", output)
        assert result.exit_code == 0, result.output
    result = train(*command, *changes, "--model", tmp_path / "first" / "model", "--output", output)
    assert result.exit_code == 2 and "other settings (model.name_or_path)" in " ".join(result.output.split())


def test_a_recipe_of_another_model_says_so(tmp_path):
    clips = write_smoke_clips(tmp_path / "clips")
    command = ["--config", RECIPES / "gfsalnet_video.yaml", "--model", "default", "--train", f"folder={clips}"]
    result = train(*command, "--output", tmp_path / "run")
    assert result.exit_code == 2, result.output
    message = " ".join(result.output.split())
    assert "the recipe changes flow_backend, fusion" in message and "own_clips.yaml" in message


def test_clips_without_truth_are_refused(tmp_path):
    clips = write_smoke_clips(tmp_path / "clips")
    for name in ("maps", "fixations"):
        (clips / name).rename(tmp_path / name)
    command = ["--config", RECIPES / "own_clips.yaml", "--output", tmp_path / "run", "--train", f"folder={clips}"]
    result = train(*command)
    assert result.exit_code == 2, result.output
    assert "has neither maps nor fixations of its 5 clips with frames" in " ".join(result.output.split())


class FakeHub:
    """What `HfApi` is asked to do."""

    calls: list[tuple[str, dict]] = []

    def create_repo(self, repo_id, **options):
        self.calls.append(("create_repo", {"repo_id": repo_id, **options}))
        return f"https://huggingface.co/{repo_id}"

    def upload_folder(self, **options):
        files = sorted(path.name for path in Path(options["folder_path"]).iterdir())
        self.calls.append(("upload_folder", {**options, "files": files}))


@pytest.fixture
def hub(monkeypatch) -> list[tuple[str, dict]]:
    """The calls of a hub that takes everything."""
    monkeypatch.setattr(training_run, "HfApi", FakeHub)
    monkeypatch.setattr(FakeHub, "calls", [])
    return FakeHub.calls


def test_push_to_hub_uploads_the_merged_model_if_there_is_one(recipe, tmp_path, hub):
    clips = write_smoke_clips(tmp_path / "clips")
    command = ["--config", recipe, "--output", tmp_path / "run", "--root", clips, "--push-to-hub", "me/model"]
    result = train(*command, "--set", "lora={enabled: true, rank: 2, merge: true}")
    assert result.exit_code == 0, result.output
    uploaded = hub[-1][1]
    assert uploaded["folder_path"] == tmp_path / "run" / "merged"
    assert "model.safetensors" in uploaded["files"] and "adapter_config.json" not in uploaded["files"]
    use = 'pipeline("video-saliency", model="{}")'
    assert use.format("me/model") in (tmp_path / "run" / "merged" / "README.md").read_text()
    assert use.format("THIS_REPOSITORY") in (tmp_path / "run" / "model" / "README.md").read_text()


def test_an_adapter_is_uploaded_with_a_base_on_the_hub(recipe, tmp_path, hub):
    clips = write_smoke_clips(tmp_path / "clips")
    command = ["--config", recipe, "--root", clips, "--set", "data.validation=[]"]
    assert train(*command, "--output", tmp_path / "first").exit_code == 0
    command += ["--model", tmp_path / "first" / "model", "--output", tmp_path / "run", "--push-to-hub", "me/model"]
    result = train(*command, "--set", "lora={enabled: true, rank: 2, base_model: me/base}")
    assert result.exit_code == 0, result.output
    assert hub[-1][1]["folder_path"] == tmp_path / "run" / "model"
    assert "adapter_config.json" in hub[-1][1]["files"]


def test_push_to_hub_uploads_the_model_folder(tmp_path, hub):
    result = train(
        "--config", RECIPES / "gfsalnet_static.yaml", "--smoke", "--output", tmp_path, "--push-to-hub", "me/model"
    )
    assert result.exit_code == 0, result.output
    (first, created), (second, uploaded) = hub
    assert (first, second) == ("create_repo", "upload_folder")
    assert created["repo_id"] == uploaded["repo_id"] == "me/model" and created["exist_ok"]
    assert created["private"] is True
    assert 'pipeline("video-saliency", model="me/model")' in (tmp_path / "model" / "README.md").read_text()
    files = {"README.md", "config.json", "model.safetensors", "processor_config.json", "training.json"}
    assert set(uploaded["files"]) == files
    stale = {"adapter_config.json", "conversion.json", "scores.json", "speed.json", ".eval_results/dhf1k.yaml"}
    assert set(filter_repo_objects(stale | {"picture.jpg"}, allow_patterns=uploaded["delete_patterns"])) == stale
    others = {"optimizer.bin", "weights.pkl", "notes.txt", "modeling.py", ".env"}
    assert set(filter_repo_objects(files | others, allow_patterns=uploaded["allow_patterns"])) == files


def test_a_run_that_breaks_off_says_so(recipe, tmp_path):
    clips = write_smoke_clips(tmp_path / "clips")
    setting = ["--set", "optimizer.learning_rate=1e30", "--set", "loop.steps=20"]
    result = train("--config", recipe, "--output", tmp_path / "run", "--root", clips, *setting)
    assert result.exit_code == 1, result.output
    assert "the loss is no finite number at step" in result.output


def num_parameters(folder: Path) -> int:
    """Of the model that a folder loads as, with those of PEFT's adapters and without its copy of the decoder."""
    named = load_model(str(folder)).named_parameters()
    return sum(value.numel() for name, value in named if ".original_module." not in name)


@pytest.mark.parametrize("has_adapter", [False, True])
def test_cards_count_what_lies_in_their_folder_and_name_no_folders(recipe, tmp_path, has_adapter):
    clips = write_smoke_clips(tmp_path / "clips")
    command = ["--config", recipe, "--root", clips, "--set", "data.validation=[]"]
    first = tmp_path / "first"
    assert train(*command, "--output", first).exit_code == 0
    settings = {"model.teachers": [str(first / "model")]}
    if has_adapter:
        settings["lora"] = {"enabled": True, "merge": True, "rank": 2, "base_model": str(first / "model")}
    else:
        settings["model.weights_from"] = {r"streams\.appearance\.trunk\..*": str(first / "model")}
    changes = [word for name, value in settings.items() for word in ("--set", f"{name}={json.dumps(value)}")]
    result = train(*command, "--output", tmp_path / "run", "--model", first / "model", *changes)
    assert result.exit_code == 0, result.output
    for name in ("model", "merged") if has_adapter else ("model",):
        folder = tmp_path / "run" / name
        record = json.loads((folder / "training.json").read_text())
        assert record["parameters"] == num_parameters(folder)
        card = (folder / "README.md").read_text()
        assert f"{num_parameters(folder):,} parameters" in card and 'model="THIS_REPOSITORY"' in card
        assert f"{record['trained_parameters']:,} {'were' if name == 'merged' else 'of them'} trained" in card
        for file in ("README.md", "training.json"):
            assert str(tmp_path) not in (folder / file).read_text()
        assert record["arguments"]["model"]["teachers"] == ["model"]
        if has_adapter:
            assert record["arguments"]["lora"]["base_model"] == "model"
        else:
            assert record["arguments"]["model"]["weights_from"] == {r"streams\.appearance\.trunk\..*": "model"}
    if has_adapter:
        assert num_parameters(tmp_path / "run" / "merged") == num_parameters(first / "model")
