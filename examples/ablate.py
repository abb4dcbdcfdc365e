# SPDX-License-Identifier: Apache-2.0
"""Train the variants of a paper's ablation and print its table, with the paper's own numbers beside ours.

    python examples/ablate.py --table examples/ablations/gfsalnet.yaml --root ucf_sports=UCF --output runs/ablation
    python examples/ablate.py --table examples/ablations/salfom.yaml --smoke --output /tmp/ablation

The papers start from encoders that were trained before: give yours with `--encoder FOLDER`; each table says which.

Each row shows the best scores of its run on the validation data. Where those data have chosen among several updates, a
line below the table says so. A table that broke off goes on when the same command is given again. On miniature data
(`--smoke`) no numbers are printed: they would mean nothing.
"""

from __future__ import annotations

import argparse
import json
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
from video_saliency.training.training_arguments import TrainingArguments
from video_saliency.training.training_checkpoints import TrainingError
from video_saliency.training.training_run import RunOptions, read_arguments, train_recipe

logger = logging.getLogger("ablate")


@dataclass(frozen=True)
class Row:
    """A variant: what it changes in the recipe, and in its miniature form, and the paper's scores.

    `encoder` names one of its own, for a variant that cannot start from the encoder of the others.
    """

    name: str
    encoder: str = ""
    changes: dict[str, Any] = field(default_factory=dict)
    smoke: dict[str, Any] = field(default_factory=dict)
    paper: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class AblationTable:
    """A table of a paper; `encoder`: which weights come from the folder of `--encoder`, a regular expression."""

    title: str
    recipe: Path
    metrics: list[str]
    rows: list[Row]
    data: dict[str, Any] = field(default_factory=dict)
    encoder: str | None = None

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
    """The run of a variant, whose recipe is written into its folder."""
    home = options.output / re.sub(r"\W+", "_", row.name).strip("_").lower()
    home.mkdir(parents=True, exist_ok=True)
    recipe = home / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(table.recipe_of(row), sort_keys=False), encoding="utf-8")
    folder = encoders(table, options.encoders).get(row.encoder)
    start = [] if folder is None else [f"model.weights_from={json.dumps({table.encoder: folder})}"]
    return RunOptions(
        config=recipe,
        output=home,
        roots=options.roots,
        train=options.train,
        validation=options.validation,
        settings=[*start, *options.settings],
        smoke=options.smoke,
    )


def encoders(table: AblationTable, texts: Sequence[str]) -> dict[str, str]:
    """Folder of each encoder, by its name in the rows, the common one by "". Raises `ValueError` for other names."""
    found = dict(text.partition("=")[::2] if "=" in text else ("", text) for text in texts)
    names = {row.encoder for row in table.rows}
    if found and table.encoder is None:
        raise ValueError("--encoder: the table does not say which weights an encoder has")
    if unknown := sorted(set(found) - names):
        own = ", ".join(f"{name}=FOLDER" for name in sorted(names) if name)
        raise ValueError(f"--encoder {unknown[0]}=...: the table takes FOLDER{f' and {own}' if own else ''}")
    return found


def is_fresh(arguments: TrainingArguments, table: AblationTable) -> bool:
    """Whether a variant starts with random weights in its encoder: those that the recipe itself names are others."""
    recipe = read_recipe(table.recipe).get("model", {})
    known = recipe.get("weights_from", {})
    return arguments.model.name_or_path is None and set(arguments.model.weights_from) <= set(known)


def check_start(row: Row, arguments: TrainingArguments, table: AblationTable) -> None:
    """Raises `ValueError` for a backbone that is random and stays so: the rows would differ by chance alone."""
    model = arguments.model
    if is_fresh(arguments, table) and model.config.get("freeze_backbone", model.architecture == "visage_saliency"):
        raise ValueError(
            f"{row.name}: the backbone is frozen and would keep random weights: give the folder of a trained one by "
            "--encoder FOLDER; the recipe says how to make it"
        )


def chosen_rows(table: AblationTable, options: argparse.Namespace) -> list[Row]:
    """The variants that are run: where encoders are given, those that have theirs."""
    given = encoders(table, options.encoders)
    for row in table.rows:
        if given and row.encoder not in given:
            own = f"its own encoder by --encoder {row.encoder}=FOLDER"
            remedy = own if row.encoder else "the encoder of the other rows by --encoder FOLDER"
            logger.warning("%s is left out: give %s", row.name, remedy)
    return [row for row in table.rows if not given or row.encoder in given]


def protocol_of(arguments: TrainingArguments, table: AblationTable) -> str:
    """How the scores came about, for the title."""
    start = "; encoders from random weights, unlike the paper's" if is_fresh(arguments, table) else ""
    windows = arguments.data.validation_windows
    return f"{windows} validation windows a clip, protocol {arguments.validation.protocol}{start}"


def selection_note(arguments: TrainingArguments) -> str:
    """On which data the update was chosen that a row shows; empty if only the last one was scored."""
    validation, sources = arguments.validation, arguments.data.validation
    if not sources or not validation.every:
        return ""
    names = ", ".join(f"{source.dataset} {source.split or ''}".strip() for source in sources)
    measure = "lowest loss" if validation.select_by == "loss" else f"best {validation.select_by}"
    note = f"Each row shows the update with the {measure} on {names}, the data that is scored"
    if any("test" in (source.split or "") for source in sources):
        return f"{note}: test data, so the scores are better than on data that chose nothing."
    return f"{note}."


def print_table(
    table: AblationTable,
    scores: dict[str, dict[str, float]],
    *,
    is_smoke: bool,
    protocol: str = "",
    note: str = "",
) -> None:
    """One row a variant and a note below; of a miniature run it says only that the variant runs."""
    remarks = [protocol] if protocol else []
    remarks += ["miniature data: no scores"] if is_smoke else []
    title = f"{table.title} ({'; '.join(remarks)})" if remarks else table.title
    shown = Table(title=title, title_justify="left")
    for header in ("", *table.metrics, *(f"{name}, paper" for name in table.metrics)):
        shown.add_column(header, justify="right" if header else "left")
    for row in table.rows:
        found = scores.get(row.name)  # none of a variant that was left out
        own = ["runs" if is_smoke else f"{(found or {}).get(name, math.nan):.3f}" for name in table.metrics]
        own = own if found is not None else ["-"] * len(table.metrics)
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
    encoder = "start from its encoder; NAME= for a row with one of its own"
    parser.add_argument(
        "--encoder", action="append", default=[], dest="encoders", metavar="[NAME=]FOLDER", help=encoder
    )
    parser.add_argument("--smoke", action="store_true", help="tiny models on made-up data")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse_options(arguments)
    logging.basicConfig(level=logging.WARNING)
    try:
        table = AblationTable.read(options.table)
        runs = {row.name: run_options(table, row, options) for row in chosen_rows(table, options)}
        settings = {name: read_arguments(run) for name, run in runs.items()}
        for row in table.rows:
            if row.name in settings and not options.smoke:
                check_start(row, settings[row.name], table)
        scores = {name: train_recipe(run).scores for name, run in runs.items()}
    except (ValueError, OSError, TrainingError) as error:
        sys.exit(f"error: {error}")
    first = next(iter(settings.values()))
    protocol, note = protocol_of(first, table), selection_note(first)
    print_table(table, scores, is_smoke=options.smoke, protocol=protocol, note=note)


if __name__ == "__main__":
    main()
