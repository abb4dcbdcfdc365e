# SPDX-License-Identifier: Apache-2.0
"""Where the embedded default model lies, and its name."""

from __future__ import annotations

from pathlib import Path

DEFAULT_MODEL = str(Path(__file__).parent / "default_model")
DEFAULT_NAME = "default"


def named_model(name: str) -> str:
    """Folder or Hub id of a model that a user names: `default` is the embedded one, `./default` a folder called so."""
    return DEFAULT_MODEL if name == DEFAULT_NAME else name


def is_default_model(folder: str) -> bool:
    """Whether this is the folder of the embedded model, by whatever path."""
    return Path(folder).resolve() == Path(DEFAULT_MODEL).resolve()
