# SPDX-License-Identifier: Apache-2.0
"""Train the variants of a paper's ablation and print its table, with the paper's own numbers beside ours.

    python examples/ablate.py --table examples/ablations/gfsalnet.yaml --root ucf_sports=UCF --output runs/ablation
    python examples/ablate.py --table examples/ablations/salfom.yaml --smoke --output /tmp/ablation

Each row shows the best scores of its run on the validation data. Where those data have chosen among several updates, a
line below the table says so. A table that broke off goes on when the same command is given again. On miniature data
(`--smoke`) no numbers are printed: they would mean nothing.
"""

from __future__ import annotations

import argparse
import logging
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

import video_saliency  # noqa: F401  # registers the models
from video_saliency.training.recipe_files import merged, read_recipe
from video_saliency.training.training_checkpoints import TrainingError
from video_saliency.training.training_run import RunOptions, read_arguments, train_recipe

logger = logging.getLogger("ablate")


@dataclass(frozen=True)
class Row:
    """A variant: what it changes in the recipe, and in its miniature form, and the paper's scores."""

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    smoke: dict[str, Any] = field(default_factory=dict)
    paper: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class AblationTable:
    """A table of a paper."""

    title: str
    recipe: Path
    metrics: list[str]
    rows: list[Row]
    data: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> AblationTable:
        """The table in a YAML file. Raises `ValueError` for another content, `OSError` if it cannot be read."""
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            if not isinstance(content, dict):
                raise TypeError("no mapping")
            rows = [Row(**row) for row in content.pop("rows")]
            return cls(recipe=path.parent / content.pop("recipe"), rows=rows, **content)
        except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())
            raise ValueError(f"{path} is no table such as those in examples/ablations: {reason}") from error

    def recipe_of(self, row: Row) -> dict[str, Any]:
        """The whole recipe of a variant, its miniature form included."""
        content = merged(read_recipe(self.recipe), {"data": self.data} if self.data else {})
        content = merged(merged(content, row.changes), {"validation": {"metrics": self.metrics}})
        plain, miniature = read_recipe(self.recipe), read_recipe(self.recipe, smoke=True)
        changed = {name: part for name, part in miniature.items() if part != plain.get(name)}
        without = {**changed.get("validation", {}), "metrics": self.metrics}
        return {**content, "smoke": merged(merged({**changed, "validation": without}, row.changes), row.smoke)}


def run_options(table: AblationTable, row: Row, options: argparse.Namespace) -> RunOptions:
    """The run of a variant, whose recipe is written."""
    home = options.output / re.sub(r"\W+", "_", row.name).strip("_").lower()
    home.mkdir(parents=True, exist_ok=True)
    recipe = home / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(table.recipe_of(row), sort_keys=False), encoding="utf-8")
    return RunOptions(
        config=recipe,
        output=home,
        roots=options.roots,
        train=options.train,
        validation=options.validation,
        settings=options.settings,
        smoke=options.smoke,
    )


def run_row(table: AblationTable, row: Row, options: argparse.Namespace) -> dict[str, float]:
    """Trains a variant and returns its best scores."""
    return train_recipe(run_options(table, row, options)).scores


def selection_note(table: AblationTable, options: argparse.Namespace) -> str:
    """On which data the update was chosen that a row shows; empty if only the last one was scored."""
    arguments = read_arguments(run_options(table, table.rows[0], options))
    validation, sources = arguments.validation, arguments.data.validation
    if not sources or not validation.every:
        return ""
    names = ", ".join(f"{source.dataset} {source.split or ''}".strip() for source in sources)
    measure = "lowest loss" if validation.select_by == "loss" else f"best {validation.select_by}"
    note = f"Each row shows the update with the {measure} on {names}, the data that is scored"
    if any("test" in (source.split or "") for source in sources):
        return f"{note}: test data, so the scores are better than on data that chose nothing."
    return f"{note}."


def print_table(table: AblationTable, scores: dict[str, dict[str, float]], *, is_smoke: bool, note: str = "") -> None:
    """One row a variant and a note below; of a miniature run it says only that the variant runs."""
    shown = Table(title=f"{table.title}{' (miniature data: no scores)' if is_smoke else ''}", title_justify="left")
    for header in ("", *table.metrics, *(f"{name}, paper" for name in table.metrics)):
        shown.add_column(header, justify="right" if header else "left")
    for row in table.rows:
        own = ["runs" if is_smoke else f"{scores[row.name].get(name, math.nan):.3f}" for name in table.metrics]
        paper = [f"{value:.3f}" for value in row.paper]
        shown.add_row(row.name, *own, *paper, *["-"] * (len(table.metrics) - len(paper)))
    console = Console(width=160 if not sys.stdout.isatty() else None)
    console.print(shown)
    if note and not is_smoke:
        console.print(note)


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--table", type=Path, required=True, help="see examples/ablations")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--root", action="append", default=[], dest="roots", metavar="[NAME=]FOLDER")
    parser.add_argument("--train", action="append", default=[], metavar="NAME[:SPLIT]=FOLDER")
    parser.add_argument("--validation", action="append", default=[], metavar="NAME[:SPLIT]=FOLDER")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="SECTION.NAME=VALUE")
    parser.add_argument("--smoke", action="store_true", help="tiny models on made-up data")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_options(arguments)
    logging.basicConfig(level=logging.WARNING)
    try:
        table = AblationTable.read(options.table)
        note = selection_note(table, options)
        scores = {row.name: run_row(table, row, options) for row in table.rows}
    except (ValueError, OSError, TrainingError) as error:
        sys.exit(f"error: {error}")
    print_table(table, scores, is_smoke=options.smoke, note=note)


if __name__ == "__main__":
    main()
