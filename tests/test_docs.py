# SPDX-License-Identifier: Apache-2.0
"""The examples in docstrings and in the README run, and the README's commands exist."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest

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


def test_readme_python_blocks_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip.mp4").symlink_to(ROOT / "examples" / "friday.mp4")
    blocks = readme_blocks("python")
    assert blocks
    scope: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), scope)  # noqa: S102
    assert scope["result"]["saliency_maps"].ndim == 3


def test_readme_make_targets_exist_and_ci_calls_its_test_command():
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = set(re.findall(r"make ([a-z-]+)", "\n".join(readme_blocks("bash"))))
    assert {"demo", "test"} <= named <= targets
    assert re.search(r"^make test$", (ROOT / ".ci" / "run").read_text(), flags=re.MULTILINE)
    first_screen = (ROOT / "README.md").read_text().splitlines()[:25]
    assert "make demo" in "\n".join(first_screen)
    assert "make test" in "\n".join(first_screen)
