# SPDX-License-Identifier: Apache-2.0
"""The examples in docstrings, and the code and commands of the README, run."""

from __future__ import annotations

import doctest
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dataset_factory import density, gaze, make_dhf1k, write_pictures
from PIL import Image
from released_files import write_released_files
from training_factory import reset_accelerate
from transformers import AutoModel
from typer.testing import CliRunner
from video_factory import make_clip

from video_saliency.cli.main import app
from video_saliency.loading import load_model

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "video_saliency"
MODULES = sorted(
    ".".join(("video_saliency", *path.relative_to(SOURCE).with_suffix("").parts))
    for path in SOURCE.rglob("*.py")
    if ">>>" in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    failed, tried = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert tried > 0
    assert failed == 0


def blocks_of(name: str, language: str) -> list[str]:
    text = (ROOT / name).read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def commands_of(name: str) -> list[list[str]]:
    """The words of each line of a document's bash blocks."""
    lines = "\n".join(blocks_of(name, "bash")).splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def test_readme_python_blocks_run_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    scopes: list[dict[str, object]] = []
    for block in blocks_of("README.md", "python"):
        scopes.append({})  # each block by itself, as a reader copies it
        exec(compile(block, "README.md", "exec"), scopes[-1])  # noqa: S102
    (prediction,) = (scope for scope in scopes if "result" in scope)
    assert prediction["result"]["saliency_maps"].ndim == 3
    (training,) = (scope for scope in scopes if "adapted" in scope)
    gradients = [value.grad for value in training["adapted"].parameters() if value.requires_grad]
    assert gradients and all(gradient is not None for gradient in gradients)
    AutoModel.from_pretrained(tmp_path / "adapter")


# what makes a command go through quickly; all that the README has stays in it
SHORT = ["loop.epochs=1", "loop.device=cpu", "data.workers=0", "data.validation_windows=1", "validation.sample_maps=0"]
SHORT_TRAINING = [f"--set={setting}" for setting in (*SHORT, "record.progress_bar=false")]
LAUNCH = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--cpu", "--num_processes", "1"]
NOT_RUN = ("make", "source", "hf", "pip", "python spaces/video-saliency/app.py")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the README's commands find: a short clip, clips of one's own, a data set, files with released weights."""
    home = tmp_path_factory.mktemp("readme")
    (home / "examples").mkdir()
    for name in ("recipes", "train.py"):
        (home / "examples" / name).symlink_to(ROOT / "examples" / name)
    make_clip(home / "examples" / "friday.mp4", num_frames=4, audio="aac")
    for name in ("my_clips", "other_clips"):
        (home / name / "videos").mkdir(parents=True)
        make_clip(home / name / "videos" / "park.mp4", num_frames=4, width=64, height=36)
        write_pictures(home / name / "maps" / "park", [f"{n:04d}.png" for n in range(1, 5)], map(density, range(4)))
        (home / name / "fixations").mkdir()
        (home / name / "fixations" / "park.json").write_text(json.dumps([[gaze(index)] for index in range(4)]))
    make_dhf1k(home / "DHF1K", {1: 6, 601: 6})
    write_released_files(home)
    return home


def run_command(words: list[str]) -> None:
    """Run a line of the README in the present folder, with what makes it short."""
    line = " ".join(words)
    if words[:2] == ["accelerate", "launch"]:
        command = [*LAUNCH, *words[2:], *SHORT_TRAINING]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
        assert done.returncode == 0, (line, done.stderr[-2000:])
    elif words[0] == "python":
        assert importlib.import_module(Path(words[1]).stem).main(words[2:]) == 0, line
    else:
        extra: list[str] = []
        if words[1] == "convert":
            extra = ["--config", f"{words[2]}.json"]
        elif words[1] == "train":
            extra = SHORT_TRAINING
            reset_accelerate()
        result = CliRunner().invoke(app, [*words[1:], *extra])
        is_partial = words[1:4] == ["data", "check", "dhf1k"]  # it has two clips, and the exit code says so
        assert result.exit_code == int(is_partial), (line, result.output)


def test_readme_commands_run(workspace, monkeypatch, capsys):
    """All commands run in the order of the README, on miniature data and weights, with settings that shorten training.

    Not run here: `make`, `source`, `pip` and `hf`, which change the environment or ask the Hub; the Space's app.py,
    which `tests/test_space.py` starts. `accelerate launch` gets `--cpu --num_processes 1`. Weights are small files by
    the names of the released ones, with a config that fits them: files of full size are in the tests of each model.
    """
    monkeypatch.chdir(workspace)
    monkeypatch.syspath_prepend(str(ROOT / "hub_scripts"))
    commands = [words for words in commands_of("README.md") if not " ".join(words).startswith(NOT_RUN)]
    assert {words[0] for words in commands} == {"video-saliency", "accelerate", "python"}
    subcommands = {words[1] for words in commands if words[0] == "video-saliency"}
    assert subcommands == {"predict", "info", "convert", "train", "data", "score"}
    try:
        for words in commands:
            run_command(words)
    finally:
        reset_accelerate()
    assert "nothing was sent" in capsys.readouterr().out
    written = {path.name for path in (workspace / "out" / "friday").iterdir()}
    assert {"overlay.mp4", "maps", "png", "saliency.csv", "sheet.png"} <= written
    for name in ("run", "run_salfom", "run_several"):
        load_model(str(workspace / name / "model"))
        assert (workspace / name / "log.jsonl").is_file() and (workspace / name / "checkpoints").is_dir()
    for name in ("scores", "my_scores"):
        assert (workspace / name / "model_index.yaml").is_file()


def test_readme_tells_whole_models_from_starts_of_training(workspace, monkeypatch):
    monkeypatch.chdir(workspace)
    for words in commands_of("README.md"):
        if words[:2] == ["video-saliency", "convert"]:
            output = workspace / words[words.index("--output") + 1]
            if not output.exists():
                run_command(words)
            record = json.loads((output / "conversion.json").read_text())
            assert bool(record["initialised"]["keys"]) == output.name.endswith("_start"), output.name


def test_own_clips_with_adapters_leave_a_whole_model(workspace, monkeypatch):
    """What the README says of `run/merged`."""
    monkeypatch.chdir(workspace)
    (words,) = (words for words in commands_of("README.md") if "examples/recipes/own_clips.yaml" in words)
    run_command([*words[:-1], "run_lora", "--set=lora.enabled=true", "--set=lora.merge=true"])
    reset_accelerate()
    assert (workspace / "run_lora" / "model" / "adapter_config.json").is_file()
    assert not hasattr(load_model(str(workspace / "run_lora" / "merged")), "peft_config")


def test_scripts_that_make_the_embedded_model_take_these_options(monkeypatch, capsys):
    """CONTRIBUTING's two commands need the public sets of stills: their options are checked here, their work is tested
    on miniature copies in tests of their own."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    commands = [words for words in commands_of("CONTRIBUTING.md") if words[0] == "python"]
    assert [Path(words[1]).stem for words in commands] == ["prepare_stills", "train_default_model"]
    for words in commands:
        with pytest.raises(SystemExit) as stop:
            importlib.import_module(Path(words[1]).stem).main(["--help"])
        assert stop.value.code == 0
        known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
        assert {word for word in words if word.startswith("--")} <= known


def test_readme_picture_and_links_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", text) if "://" not in target]
    assert "examples/friday_sheet.jpg" in targets
    headings = re.findall(r"^#+ (.*)", text, flags=re.MULTILINE)
    anchors = {re.sub(r"[^a-z ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    missing = [name for name in targets if not (name[1:] in anchors if name[0] == "#" else (ROOT / name).is_file())]
    assert missing == []
    with Image.open(ROOT / "examples" / "friday_sheet.jpg") as picture:
        assert picture.width == 1100 and picture.height > 400


def test_readme_make_targets_exist_and_workflows_call_those_of_ci():
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"make ([a-z-]+)", "\n".join(blocks_of("README.md", "bash"))))
    assert {"demo", "test"} <= named <= targets
    first_screen = "\n".join((ROOT / "README.md").read_text().splitlines()[:25])
    assert "make demo" in first_screen and "make test" in first_screen
    called = re.findall(r"^make ([a-z-]+)", (ROOT / ".ci" / "run").read_text(), flags=re.MULTILINE)
    assert "test" in called and set(called) <= targets
    for name, steps in (("ci", [f"make {target}" for target in called]), ("release", ["make release"])):
        jobs = yaml.safe_load((ROOT / ".github" / "workflows" / f"{name}.yml").read_text())["jobs"]
        assert list(jobs) == [name]  # nothing is done twice
        assert [step["run"] for step in jobs[name]["steps"] if "run" in step] == steps
        assert jobs[name]["env"]["REQUIRE_CHROMIUM"] == "1"  # the browser test would skip itself without
