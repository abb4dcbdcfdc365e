# SPDX-License-Identifier: Apache-2.0
"""Entry point of the `video-saliency` command: its sub-commands, and errors as one line and an exit code.

Exit codes: 0 all done; 1 a run broke off (video truncated, disk full), what was finished is kept; 2 wrong input. Of
several clips the others are still predicted, and the largest code counts.
"""

from __future__ import annotations

import logging
from typing import Annotated

import typer
from transformers.utils import logging as transformers_logging

from video_saliency.cli.convert import convert
from video_saliency.cli.data import data_app
from video_saliency.cli.info import info
from video_saliency.cli.predict import predict
from video_saliency.cli.score import score
from video_saliency.cli.train import train
from video_saliency.version import __version__

app = typer.Typer(
    help="Predict where people look in video.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(predict)
app.command()(info)
app.command()(score)
app.command()(convert)
app.command()(train)
app.add_typer(data_app, name="data")


def show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Predict where people look in video."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
