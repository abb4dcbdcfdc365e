# SPDX-License-Identifier: Apache-2.0
"""Writes a plain model repository: config, safetensors, processor and card, ready to be uploaded.

    python hub_scripts/export_model.py --output DIR [--model FOLDER_OR_ID]

The repository carries no code: who loads it imports `video_saliency` first.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from video_saliency.defaults import DEFAULT_MODEL
from video_saliency.loading import load_model, load_processor

CARD = "README.md"


def export_model(name_or_path: str, output: Path) -> list[Path]:
    """Write the model, its processor and, from a folder that has one, its card; returns the files.

    Raises:
        ValueError: if the model cannot be loaded, or `output` holds files already.
    """
    if output.exists() and any(output.iterdir()):
        raise ValueError(f"{output} is not empty: name a new folder, so that nothing of an older export stays behind")
    model, processor = load_model(name_or_path), load_processor(name_or_path)
    model.save_pretrained(output)
    processor.save_pretrained(output)
    card = Path(name_or_path) / CARD
    if card.is_file():
        shutil.copyfile(card, output / CARD)
    return sorted(output.iterdir())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="a new or empty folder")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="folder or Hub id; default: the embedded model")
    options = parser.parse_args(arguments)
    try:
        files = export_model(options.model, options.output)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    for path in files:
        sys.stdout.write(f"{path.stat().st_size:10,d}  {path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
