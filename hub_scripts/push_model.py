# SPDX-License-Identifier: Apache-2.0
"""Sends a model or adapter repository, as `export_model.py` or PEFT wrote it, to the Hub.

    python hub_scripts/push_model.py FOLDER --repo ORG/NAME [--push] [--public]

Without `--push` it lists the files and sends nothing. New repositories are private. Refused are files that do not
belong to such a repository, pickles, files with secrets, and repositories that could not be loaded again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from huggingface_hub import HfApi
from push_files import push_main
from repository_files import model_files


def main(arguments: Sequence[str] | None = None, api: HfApi | None = None) -> int:
    description = (__doc__ or "").splitlines()[0]
    return push_main(arguments, description=description, read_files=model_files, repo_type="model", api=api)


if __name__ == "__main__":
    sys.exit(main())
