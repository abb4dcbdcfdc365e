# SPDX-License-Identifier: Apache-2.0
"""Sends the metric module for `evaluate` to the Hub, as a static Space.

    python hub_scripts/push_metric.py [FOLDER] --repo ORG/NAME [--push] [--public]

Without `--push` it lists the files and sends nothing. New Spaces are private.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi
from push_files import push_main
from repository_files import METRIC_FILES, RepositoryFile, checked_files

METRIC = Path(__file__).parent / "metrics" / "video_saliency_metrics"


def metric_files(folder: Path) -> list[RepositoryFile]:
    """The checked files of a metric. Raises `ValueError` if a file is missing, not allowed, or holds a secret."""
    module = f"{folder.resolve().name}.py"  # resolved, because `.` has no name
    return checked_files(folder, METRIC_FILES, ("README.md", "index.html", "requirements.txt", module))


def main(arguments: Sequence[str] | None = None, api: HfApi | None = None) -> int:
    return push_main(
        arguments,
        description=(__doc__ or "").splitlines()[0],
        read_files=metric_files,
        repo_type="space",
        space_sdk="static",
        default_folder=METRIC,
        api=api,
    )


if __name__ == "__main__":
    sys.exit(main())
