# SPDX-License-Identifier: Apache-2.0
"""Train a video saliency model by a recipe, on one process or many.

    accelerate launch examples/train.py --config examples/recipes/salfom.yaml --root dhf1k=DHF1K --output runs/salfom
    accelerate launch --config_file examples/accelerate/fsdp2.yaml examples/train.py ...
    python examples/train.py --config examples/recipes/gfsalnet_video.yaml --smoke --output /tmp/smoke

A run that was killed goes on when the same command is given again. `video-saliency train` takes the same options.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import video_saliency  # noqa: F401  # registers the models
from video_saliency.training.training_checkpoints import TrainingError
from video_saliency.training.training_run import RunOptions, train_recipe


def parse(arguments: Sequence[str] | None = None) -> RunOptions:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", type=Path, required=True, help="a recipe, see examples/recipes")
    parser.add_argument("--output", type=Path, required=True, help="folder of the run")
    parser.add_argument("--root", action="append", default=[], dest="roots", metavar="[NAME=]FOLDER")
    parser.add_argument("--train", action="append", default=[], metavar="NAME[:SPLIT]=FOLDER")
    parser.add_argument("--validation", action="append", default=[], metavar="NAME[:SPLIT]=FOLDER")
    parser.add_argument("--model", metavar="FOLDER|ID|default", help="start from this model")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="SECTION.NAME=VALUE")
    parser.add_argument("--smoke", action="store_true", help="a few steps of a tiny model on made-up data")
    upload = "upload the trained model, with lora.merge=true the merged one; a new repository is private"
    parser.add_argument("--push-to-hub", metavar="ORG/NAME", help=upload)
    return RunOptions(**vars(parser.parse_args(arguments)))


def main(arguments: Sequence[str] | None = None) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        state = train_recipe(parse(arguments))
    except (ValueError, OSError, TrainingError) as error:
        sys.exit(f"error: {error}")
    logging.info("done after %d steps", state.step)


if __name__ == "__main__":
    main()
