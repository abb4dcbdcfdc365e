# SPDX-License-Identifier: Apache-2.0
"""`video-saliency train`: a recipe and data in, a model folder with its card out."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Annotated

import typer

from video_saliency.cli.errors import RUN_BROKE_OFF, one_line_errors, show_error
from video_saliency.cli.predict import tell

NEEDED = ("accelerate", "peft", "yaml")


def train(
    config: Annotated[Path, typer.Option(help="Recipe, see examples/recipes.")],
    output: Annotated[Path, typer.Option(help="Folder of the run; one that stopped there is gone on with.")],
    root: Annotated[
        list[str] | None, typer.Option(help="Folder of a data set that the recipe names.", metavar="[NAME=]FOLDER")
    ] = None,
    train_on: Annotated[
        list[str] | None,
        typer.Option("--train", help="Data in place of the recipe's.", metavar="NAME[:SPLIT]=FOLDER"),
    ] = None,
    validation: Annotated[
        list[str] | None, typer.Option(help="Data in place of the recipe's.", metavar="NAME[:SPLIT]=FOLDER")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Folder, Hub id or 'default', the embedded model, to start from.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Change a single setting.", metavar="SECTION.NAME=VALUE")
    ] = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Try the recipe: a few steps of a tiny model on made-up data.")
    ] = False,
    push_to_hub: Annotated[
        str | None,
        typer.Option(
            help="Upload the trained model there; a new repository is private. With LoRA the adapter is sent, with "
            "lora.merge=true the merged model.",
            metavar="ORG/NAME",
        ),
    ] = None,
) -> None:
    """Train a model by a recipe. For several processes start examples/train.py with `accelerate launch`."""
    with one_line_errors():
        missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
        if missing:
            raise ValueError(f"training needs {', '.join(missing)}: pip install 'video-saliency[train]'")
        # optional extras: the other commands work without them
        from video_saliency.training.training_checkpoints import TrainingError
        from video_saliency.training.training_run import RunOptions, train_recipe

        logging.getLogger("video_saliency").setLevel(logging.INFO)
        options = RunOptions(
            config=config,
            output=output,
            roots=root or (),
            train=train_on or (),
            validation=validation or (),
            model=model,
            settings=settings or (),
            smoke=smoke,
            push_to_hub=push_to_hub,
        )
        try:
            state = train_recipe(options)
        except TrainingError as error:
            show_error(str(error))
            raise typer.Exit(RUN_BROKE_OFF) from error
        tell(f"{state.step:,} steps; model: {output / 'model'}")
