# SPDX-License-Identifier: Apache-2.0
"""`video-saliency score`: predictions, a model or a baseline against a data set, under a named protocol."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from video_saliency.baselines import BASELINES, CentreBias, make_baseline
from video_saliency.cli.devices import pick_device, pick_dtype
from video_saliency.cli.errors import one_line_errors
from video_saliency.cli.predict import progress_bar, tell
from video_saliency.data import SaliencyDataset, open_dataset
from video_saliency.data.catalog import dataset_info
from video_saliency.defaults import DEFAULT_NAME, named_model
from video_saliency.metrics.presets import ALIASES, PRESETS
from video_saliency.predictor import VideoSaliencyPredictor
from video_saliency.scoring import (
    BaselineMaps,
    DatasetScorer,
    FolderMaps,
    MapSource,
    ModelMaps,
    ScoreReport,
    score_dataset,
    tables_for,
    training_split,
)

FRAMES_FORMATS = ("auto", "csv", "parquet")


def score(
    predictions: Annotated[
        str,
        typer.Option(
            help=f"Folder with maps (NPZ, PNG or videos), a model (folder, Hub id or '{DEFAULT_NAME}'), or one of "
            f"{', '.join(BASELINES)}.",
            metavar="DIR|MODEL|BASELINE",
        ),
    ],
    dataset: Annotated[str, typer.Option(help="Data set, see `video-saliency data list`.", metavar="NAME")],
    root: Annotated[Path, typer.Option(help="Folder of the data set.")],
    output: Annotated[Path, typer.Option(help="Folder for the tables; a run that stopped there is gone on with.")],
    split: Annotated[str | None, typer.Option(help="Part of the data set. Default: the whole.")] = None,
    clips: Annotated[Path | None, typer.Option(help="Text file with the names of the only clips wanted.")] = None,
    preset: Annotated[str, typer.Option(help=f"Protocol: {', '.join((*PRESETS, *ALIASES))}.")] = "mit",
    metrics: Annotated[str | None, typer.Option(help="With commas between. Default: what the truth allows.")] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Print published scores beside these.")] = False,
    workers: Annotated[int | None, typer.Option(help="Threads that score. Default: one for each core.")] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Leave out frames and clips without a prediction.")
    ] = False,
    frames_format: Annotated[
        str, typer.Option(help="Table of frames: csv, parquet, or auto (Parquet if pyarrow is there).")
    ] = "auto",
    device: Annotated[str, typer.Option(help="Of a model: auto, cpu, cuda, cuda:1, mps.")] = "auto",
    dtype: Annotated[str | None, typer.Option(help="Of a model: float32, bfloat16 or float16.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Of a model: windows in one forward.")] = None,
) -> None:
    """Score saliency maps against what people looked at: per frame, per video and over all."""
    with one_line_errors():
        if frames_format not in FRAMES_FORMATS:
            raise ValueError(f"--frames-format must be one of {', '.join(FRAMES_FORMATS)}, got {frames_format!r}")
        names = None if clips is None else clips.read_text(encoding="utf-8").split()
        data = open_dataset(dataset, root, split=split, clips=names)
        source = _open_source(predictions, data, device=device, dtype=dtype, batch_size=batch_size)
        if isinstance(source, FolderMaps) and output.resolve().is_relative_to(source.root.resolve()):
            raise ValueError(f"--output {output} lies in the folder of predictions: name another one")
        scorer = _make_scorer(data, preset, metrics, workers, allow_missing)
        output.mkdir(parents=True, exist_ok=True)
        with progress_bar(data.name, len(data), 0) as advance:
            report = score_dataset(
                source,
                scorer,
                output,
                card=_card(predictions, data),
                frames_format=frames_format,  # type: ignore[arg-type]
                progress=advance,
            )
        print_report(report, f"{predictions} on {data.name}{f', {split}' if split else ''}")
        if compare:
            print_comparison(report, data.name, split)
        tell(f"tables: {output}")


def _make_scorer(
    data: SaliencyDataset, preset: str, metrics: str | None, workers: int | None, allow_missing: bool
) -> DatasetScorer:
    names = None if metrics is None else [name.strip() for name in metrics.split(",") if name.strip()]
    needs_bias = bool({"ig", "ig_density"}.intersection(names or ()))
    return DatasetScorer(
        data.items,
        preset,
        metrics=names,
        centre_bias=_fit_centre_bias(data) if needs_bias else None,
        workers=(os.cpu_count() or 1) if workers is None else workers,
        allow_missing=allow_missing,
    )


def _card(predictions: str, data: SaliencyDataset) -> dict[str, str]:
    """What the model index says of model and data, and where the data are."""
    return {
        "model_name": Path(predictions).name,
        "dataset_type": data.name,
        "dataset_name": dataset_info(data.name).title,
        "dataset_split": data.split or "",
        "root": str(data.root.resolve()),
    }


def _open_source(
    predictions: str, data: SaliencyDataset, *, device: str, dtype: str | None, batch_size: int | None
) -> MapSource:
    if predictions in BASELINES:
        if predictions == "centre_bias":
            return BaselineMaps(_fit_centre_bias(data), predictions)
        return BaselineMaps(make_baseline(predictions), predictions)
    if Path(predictions).is_dir() and not (Path(predictions) / "config.json").exists():
        return FolderMaps(predictions)
    if Path(predictions).is_file():
        raise ValueError(f"{predictions} is a file: name the folder with the maps of all clips, or a model")
    predictor = VideoSaliencyPredictor.from_pretrained(
        named_model(predictions),
        device=pick_device(device),
        dtype=pick_dtype(dtype),
        batch_size=batch_size,
    )
    return ModelMaps(predictor, "embedded default" if predictions == DEFAULT_NAME else predictions)


def _fit_centre_bias(data: SaliencyDataset) -> CentreBias:
    """Of the training part that belongs to the split."""
    return CentreBias.fit(
        open_dataset(data.name, data.root, split=training_split(dataset_info(data.name), data.split))
    )


def print_report(report: ScoreReport, title: str) -> None:
    """A row for each metric: its averages, the protocol's marked, and how many frames are undefined."""
    averages, undefined = report.averages(), report.num_undefined()
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for average in averages:
        table.add_column(f"mean over {average}{' *' if average == report.average else ''}", justify="right")
    table.add_column("undefined frames", justify="right")
    for name in report.metrics:
        table.add_row(name, *(_cell(scores[name]) for scores in averages.values()), f"{undefined[name]:,}")
    Console().print(table)
    frames = sum(count for _, _, count in report.videos)
    missing = f"; {report.num_missing:,} left out without a prediction" if report.num_missing else ""
    protocol = report.settings["protocol"]["name"]
    tell(f"{len(report.videos):,} items, {frames:,} frames{missing}; * as protocol {protocol} averages")


def print_comparison(report: ScoreReport, dataset: str, split: str | None) -> None:
    """Ours above the rows of each published table of the data set, with its protocol."""
    tables = tables_for(dataset, split)
    if not tables:
        tell(f"no published scores of {dataset} are known here")
    protocol = report.settings["protocol"]["name"]
    for published in tables:
        columns = list(dict.fromkeys(name for row in published.rows.values() for name in row))
        table = Table(title=published.source, title_justify="left")
        table.add_column("")
        for name in columns:
            table.add_column(name, justify="right")
        ours = report.overall(published_average(published.preset))
        cells = (_cell(ours[name]) if name in ours else "" for name in columns)
        table.add_row(f"ours ({protocol})", *cells, end_section=True)
        for name, row in published.rows.items():
            table.add_row(name, *(_cell(row[column]) if column in row else "" for column in columns))
        Console().print(table)
        tell(f"  scored there: {published.part}")
        tell(f"  protocol there: {published.protocol}; nearest preset: {published.preset}")
        if protocol != published.preset:
            tell(f"  not the protocol of this run ({protocol}): compare with --preset {published.preset}")


def published_average(preset: str) -> str:
    """How the protocol of a published table averages."""
    return PRESETS[preset].average


def _cell(score: float) -> str:
    return "-" if math.isnan(score) else f"{score:.3f}"
