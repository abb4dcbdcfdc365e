# SPDX-License-Identifier: Apache-2.0
"""Sends the Gradio Space to the Hub.

    python hub_scripts/push_space.py [FOLDER] --repo ORG/NAME [--push] [--public]

Without `--push` it lists the files and sends nothing. New Spaces are private.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import HfApi
from push_files import push_main
from repository_files import SPACE_FILES, RepositoryFile, checked_files

ROOT = Path(__file__).parent.parent
SPACE = ROOT / "spaces" / "video-saliency"
EXAMPLE_CLIP = ROOT / "examples" / "friday.mp4"


@contextmanager
def with_example_clip(folder: Path) -> Iterator[Path]:
    """A copy of the Space's folder that also holds the example clip, which lies elsewhere in this repository."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: name that of the Space")
    with TemporaryDirectory() as temporary:
        copy = Path(temporary) / "space"
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("__pycache__"), symlinks=True)
        shutil.copyfile(EXAMPLE_CLIP, copy / EXAMPLE_CLIP.name)
        yield copy


def space_files(folder: Path) -> list[RepositoryFile]:
    """The checked files of a Space. Raises `ValueError` if a file is missing, not allowed, or holds a secret."""
    return checked_files(folder, SPACE_FILES, ("README.md", "app.py", "requirements.txt"))


def main(arguments: Sequence[str] | None = None, api: HfApi | None = None) -> int:
    return push_main(
        arguments,
        description=(__doc__ or "").splitlines()[0],
        read_files=space_files,
        repo_type="space",
        space_sdk="gradio",
        default_folder=SPACE,
        api=api,
        prepared=with_example_clip,
    )


if __name__ == "__main__":
    sys.exit(main())
