# SPDX-License-Identifier: Apache-2.0
"""`video-saliency data`: which data sets can be read, and whether a folder holds one completely."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from video_saliency.cli.errors import RUN_BROKE_OFF, one_line_errors
from video_saliency.data import DATASETS, CheckReport, check_dataset
from video_saliency.data.dataset_info import DatasetInfo, SplitInfo

INCOMPLETE = RUN_BROKE_OFF

data_app = typer.Typer(help="List and check data sets with human fixations.", no_args_is_help=True)


@data_app.command("list")
def list_datasets() -> None:
    """List the known data sets: their splits, the layout of their folders and where the owners publish them."""
    console = Console()
    for info in DATASETS.values():
        console.print(f"[bold]{info.name}[/bold]: {info.title}", highlight=False)
        for split, known in info.splits.items():
            console.print(f"  {split:14}{describe_split(info, known)}", highlight=False, soft_wrap=True)
        for title, text in (("layout", info.layout), ("published at", info.publisher)):
            if text:
                console.print(f"  {title:14}{text}", highlight=False, markup=False, soft_wrap=True)


@data_app.command("check")
def check(
    name: Annotated[str, typer.Argument(help="Data set, see `video-saliency data list`.", metavar="NAME")],
    root: Annotated[Path, typer.Option(help="Folder of the data set.")],
    split: Annotated[str | None, typer.Option(help="Part of it. Default: each of its splits in turn.")] = None,
    clips: Annotated[Path | None, typer.Option(help="Text file with the names of the only clips wanted.")] = None,
    show: Annotated[int, typer.Option(help="Problems to list of each split.")] = 20,
) -> None:
    """Count what is in a folder beside what should be. Exit code 0: complete; 1: not; 2: wrong input."""
    with one_line_errors():
        names = None if clips is None else clips.read_text(encoding="utf-8").split()
        reports = check_dataset(name, root, split=split, clips=names)
    for report in reports:
        print_report(report, show)
    if not all(report.is_complete for report in reports):
        raise typer.Exit(INCOMPLETE)


def print_report(report: CheckReport, num_problems: int) -> None:
    """A table of counts, then notes and problems."""
    console = Console()
    table = Table(title=f"{report.dataset}, {report.split}", title_justify="left")
    table.add_column("")
    for column in ("found", "expected", "missing"):
        table.add_column(column, justify="right")
    for row in report.rows:
        expected = "unknown" if row.expected is None else f"{row.expected:,}"
        table.add_row(row.what, f"{row.found:,}", expected, f"{row.missing:,}" if row.missing else "")
    console.print(table)
    lines = [f"note: {note}" for note in report.notes] + report.problems[:num_problems]
    if len(report.problems) > num_problems:
        lines.append(f"... and {len(report.problems) - num_problems:,} more problems (--show)")
    for line in lines:
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
    origin = DATASETS[report.dataset].origin
    console.print("complete" if report.is_complete else f"incomplete; {origin}", markup=False, soft_wrap=True)


def describe_split(info: DatasetInfo, split: SplitInfo) -> str:
    """Counts of a split in words."""
    if split.refusal:
        return f"{split.items} {info.unit}; {split.refusal}"
    parts = [
        f"{split.items or 'any number of'} {info.unit}" if split.items is None else f"{split.items:,} {info.unit}"
    ]
    parts += [f"of {split.videos:,} videos"] if split.videos is not None else []
    parts += [f"{split.frames:,} frames"] if split.frames is not None and info.unit != "images" else []
    return ", ".join(parts) + ("" if split.has_truth else "; truth withheld")
