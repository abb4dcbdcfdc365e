# SPDX-License-Identifier: Apache-2.0
"""The examples in docstrings and in the README run, and the README's commands exist."""

from __future__ import annotations

import doctest
import importlib
import re
import shlex
from pathlib import Path

import pytest
import yaml
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner
from video_factory import make_clip

from video_saliency.cli.main import app

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


def readme_blocks(language: str) -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def readme_commands(program: str) -> list[list[str]]:
    """The arguments of each line of the README's bash blocks that calls `program`."""
    lines = "\n".join(readme_blocks("bash")).splitlines()
    commands = [shlex.split(line, comments=True) for line in lines]
    return [words[len(program.split()) :] for words in commands if words[: len(program.split())] == program.split()]


def test_readme_python_blocks_run_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip.mp4").symlink_to(ROOT / "examples" / "friday.mp4")
    scopes: list[dict[str, object]] = []
    for block in readme_blocks("python"):
        scopes.append({})  # each block by itself, as a reader copies it
        exec(compile(block, "README.md", "exec"), scopes[-1])  # noqa: S102
    (prediction,) = (scope for scope in scopes if "result" in scope)
    assert prediction["result"]["saliency_maps"].ndim == 3
    (training,) = (scope for scope in scopes if "adapted" in scope)
    gradients = [value.grad for value in training["adapted"].parameters() if value.requires_grad]
    assert gradients and all(gradient is not None for gradient in gradients)


def test_readme_commands_of_the_package_run(tmp_path, monkeypatch):
    """Those on the example clip really run; of the others, which need data or weights, the options are checked."""
    monkeypatch.chdir(tmp_path)
    make_clip(tmp_path / "clip.mp4", num_frames=4, audio="aac")
    commands = readme_commands("video-saliency")
    assert {words[0] for words in commands} == {"predict", "info", "convert", "train", "data", "score"}
    program = get_command(app)
    for words in commands:
        if words[0] in ("predict", "info"):
            result = CliRunner().invoke(app, words)
            assert result.exit_code == 0, (words, result.output)
        else:
            command, rest = program, words
            while hasattr(command, "commands"):
                command, rest = command.commands[rest[0]], rest[1:]
            command.make_context(words[0], list(rest))  # raises for an unknown or a missing option
    assert {"overlay.mp4", "maps", "png", "saliency.csv", "sheet.png"} <= {
        path.name for path in (tmp_path / "out" / "clip").iterdir()
    }


def test_readme_scripts_take_these_options(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT / "hub_scripts"))
    for script in ("export_model", "push_model"):
        (words,) = readme_commands(f"python hub_scripts/{script}.py")
        assert importlib.import_module(script).main(words) == 0, capsys.readouterr().err
    assert "nothing was sent" in capsys.readouterr().out
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    for script in ("prepare_stills", "train_default_model"):
        (words,) = readme_commands(f"python examples/{script}.py")
        with pytest.raises(SystemExit) as stop:
            importlib.import_module(script).main(["--help"])
        assert stop.value.code == 0
        known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
        assert {word for word in words if word.startswith("--")} <= known
    (words,) = readme_commands("accelerate launch examples/train.py")
    assert importlib.import_module("train").parse(words).config.parts[:2] == ("examples", "recipes")
    for recipe in re.findall(r"examples/recipes/\S+", (ROOT / "README.md").read_text(encoding="utf-8")):
        assert (ROOT / recipe).is_file()


def test_readme_picture_and_links_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", text) if "://" not in target]
    assert "examples/friday_sheet.jpg" in targets
    assert [target for target in targets if not (ROOT / target).is_file()] == []
    with Image.open(ROOT / "examples" / "friday_sheet.jpg") as picture:
        assert picture.width == 1100 and picture.height > 400


def test_readme_make_targets_exist_and_ci_calls_its_test_command():
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"make ([a-z-]+)", "\n".join(readme_blocks("bash"))))
    assert {"demo", "test"} <= named <= targets
    assert re.search(r"^make test$", (ROOT / ".ci" / "run").read_text(), flags=re.MULTILINE)
    for workflow in (ROOT / ".github" / "workflows").glob("*.yml"):
        text = workflow.read_text()
        called = set(re.findall(r"run: make ([a-z-]+)", text)) | set(re.findall(r"target: \[(.*)\]", text))
        assert set(re.findall(r"[a-z-]+", " ".join(called))) <= targets
    # the browser test would skip itself without the variable
    release = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())["jobs"]["release"]
    assert [step["run"] for step in release["steps"] if "run" in step] == ["make release"]
    assert release["env"]["REQUIRE_CHROMIUM"] == "1"
    first_screen = (ROOT / "README.md").read_text().splitlines()[:25]
    assert "make demo" in "\n".join(first_screen)
    assert "make test" in "\n".join(first_screen)
