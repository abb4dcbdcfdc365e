# SPDX-License-Identifier: Apache-2.0
"""The files of a scoring run: tables of frames, of videos and over all, JSON, and a block for a model card."""

from __future__ import annotations

import csv
import importlib.util
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import EvalResult, ModelCardData

from video_saliency.atomic_files import atomic_path
from video_saliency.metrics import ScoreAccumulator
from video_saliency.metrics.accumulators import AVERAGES
from video_saliency.scoring.scorer import ScoredFrame

FramesFormat = Literal["auto", "parquet", "csv"]

METRIC_TITLES = {
    "auc_judd": "AUC-Judd",
    "auc_borji": "AUC-Borji",
    "auc": "AUC",
    "sauc": "s-AUC",
    "nss": "NSS",
    "cc": "CC",
    "sim": "SIM",
    "kld": "KL",
    "ig": "IG",
}


@dataclass
class ScoreReport:
    """What a scoring run found.

    Attributes:
        settings: all that decided about the scores.
        metrics: names in their order.
        accumulator: averages over frames and videos, and counts of undefined frames.
        videos: name, split and number of scored frames of each item, in order.
        average: how the protocol averages.
        num_missing: frames left out because they had no prediction.
    """

    settings: dict[str, Any]
    metrics: tuple[str, ...]
    accumulator: ScoreAccumulator
    videos: list[tuple[str, str, int]] = field(default_factory=list)
    average: str = "frames"
    num_missing: int = 0

    def overall(self, average: str | None = None) -> dict[str, float]:
        """Score of each metric over all, NaN if nothing is defined; averaged as the protocol does, or as asked."""
        found = self.accumulator.overall(average or self.average)  # type: ignore[arg-type]
        return {name: found.get(name, math.nan) for name in self.metrics}

    def num_undefined(self) -> dict[str, int]:
        """Frames without a score, for each metric."""
        found = self.accumulator.num_undefined()
        return {name: found.get(name, 0) for name in self.metrics}

    def averages(self) -> dict[str, dict[str, float]]:
        """`overall` over frames and over videos; over splits as well if there are several."""
        several = len({split for _, split, _ in self.videos}) > 1
        return {name: self.overall(name) for name in AVERAGES if name != "splits" or several}

    def to_dict(self) -> dict[str, Any]:
        """JSON types; undefined scores are null."""
        return {
            "settings": self.settings,
            "average": self.average,
            "videos": len(self.videos),
            "frames": sum(count for _, _, count in self.videos),
            "missing_frames": self.num_missing,
            "overall": {name: _without_nan(scores) for name, scores in self.averages().items()},
            "undefined_frames": self.num_undefined(),
        }


def write_item_rows(path: Path, metrics: Sequence[str], frames: Iterable[ScoredFrame]) -> int:
    """Write the rows of one item, whole or not at all; returns how many. Numbers keep all their digits."""
    count = 0
    with atomic_path(path) as temporary, open(temporary, "w", encoding="ascii", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["frame", *metrics])
        for frame in frames:
            writer.writerow([frame.frame_index, *(_number(frame.scores[name]) for name in metrics)])
            count += 1
    return count


def read_item_rows(path: Path) -> Iterator[ScoredFrame]:
    """What `write_item_rows` wrote."""
    with open(path, encoding="ascii", newline="") as file:
        reader = csv.reader(file)
        metrics = next(reader)[1:]
        for row in reader:
            scores = (float(cell) if cell else math.nan for cell in row[1:])
            yield ScoredFrame(int(row[0]), dict(zip(metrics, scores, strict=True)))


def write_frame_table(
    folder: Path,
    metrics: Sequence[str],
    parts: Iterable[tuple[str, str, Path]],
    *,
    frames_format: FramesFormat = "auto",
) -> Path:
    """Join the rows of all items, `(name, split, file)` each, to `frames.parquet` or `frames.csv`; returns the file.

    Columns: video, split, frame (from 0), then a column for each metric, empty where it is undefined. One item is in
    memory at a time.

    Raises:
        ValueError: for `"parquet"` without pyarrow.
    """
    is_there = importlib.util.find_spec("pyarrow") is not None
    if frames_format == "parquet" and not is_there:
        raise ValueError("Parquet needs pyarrow: pip install pyarrow, or choose csv")
    if is_there and frames_format != "csv":
        return _write_parquet(folder / "frames.parquet", metrics, parts)
    path = folder / "frames.csv"
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["video", "split", "frame", *metrics])
        for name, split, part in parts:
            for frame in read_item_rows(part):
                scores = (_number(frame.scores[metric]) for metric in metrics)
                writer.writerow([name, split, frame.frame_index, *scores])
    return path


def _write_parquet(path: Path, metrics: Sequence[str], parts: Iterable[tuple[str, str, Path]]) -> Path:
    # optional, and slow to import
    import pyarrow
    from pyarrow import parquet

    names = [("video", pyarrow.string()), ("split", pyarrow.string()), ("frame", pyarrow.int32())]
    schema = pyarrow.schema(names + [(metric, pyarrow.float64()) for metric in metrics])
    with atomic_path(path) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
        for name, split, part in parts:
            rows = [
                {"video": name, "split": split, "frame": frame.frame_index, **_without_nan(frame.scores)}
                for frame in read_item_rows(part)
            ]
            writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))
    return path


def read_frame_table(path: Path) -> Iterator[tuple[str, ScoredFrame]]:
    """Video and scores of each row of a table that `write_frame_table` wrote."""
    if path.suffix == ".parquet":
        from pyarrow import parquet  # optional, and slow to import

        rows = (row for batch in parquet.ParquetFile(path).iter_batches() for row in batch.to_pylist())
        for row in rows:
            yield row.pop("video"), _from_row(row)
        return
    with open(path, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield row.pop("video"), _from_row(row)


def _from_row(row: dict[str, Any]) -> ScoredFrame:
    cells = {name: cell for name, cell in row.items() if name not in ("split", "frame")}
    scores = {name: math.nan if cell in ("", None) else float(cell) for name, cell in cells.items()}
    return ScoredFrame(int(row["frame"]), scores)


def write_report(folder: Path, report: ScoreReport, card: dict[str, str]) -> None:
    """Write `videos.csv`, `overall.csv`, `model_index.yaml` and, last, `scores.json`.

    Args:
        folder: where to.
        report: what was found.
        card: `model_name`, `dataset_type`, `dataset_name` and `dataset_split` for the model card.
    """
    _write_csv(folder / "videos.csv", _video_rows(report))
    _write_csv(folder / "overall.csv", _overall_rows(report))
    with atomic_path(folder / "model_index.yaml") as path:
        path.write_text(model_index(report, card), encoding="utf-8")
    with atomic_path(folder / "scores.json") as path:
        path.write_text(json.dumps(report.to_dict(), indent=1) + "\n", encoding="utf-8")


def model_index(report: ScoreReport, card: dict[str, str]) -> str:
    """The `model-index` block of a model card, YAML: the protocol's average of each defined metric."""
    results = [
        EvalResult(
            task_type="video-saliency",
            task_name="Video saliency prediction",
            dataset_type=card["dataset_type"],
            dataset_name=card["dataset_name"],
            dataset_split=card["dataset_split"] or None,
            metric_type=name,
            metric_name=METRIC_TITLES.get(name, name),
            metric_value=round(score, 6),
            metric_config=f"protocol {report.settings['protocol']['name']}, mean over {report.average}",
        )
        for name, score in report.overall().items()
        if not math.isnan(score)
    ]
    if not results:
        return "# no score is defined\n"
    return ModelCardData(model_name=card["model_name"], eval_results=results).to_yaml() + "\n"


def _video_rows(report: ScoreReport) -> Iterator[list[Any]]:
    undefined = [f"{name}_undefined" for name in report.metrics]
    yield ["video", "split", "frames", *report.metrics, *undefined]
    means = report.accumulator.videos()
    counts = {entry["video"]: entry["metrics"] for entry in report.accumulator.state_dict()["videos"]}
    for video, split, num_frames in report.videos:
        scores = [_number(means.get(video, {}).get(name, math.nan)) for name in report.metrics]
        numbers = [counts[video][name]["num_undefined"] if video in counts else 0 for name in report.metrics]
        yield [video, split, num_frames, *scores, *numbers]


def _overall_rows(report: ScoreReport) -> Iterator[list[Any]]:
    yield ["average", "of_the_protocol", "videos", "frames", *report.metrics]
    size = [len(report.videos), sum(count for _, _, count in report.videos)]
    for name, scores in report.averages().items():
        is_protocols = "yes" if name == report.average else "no"
        yield [name, is_protocols, *size, *(_number(scores[metric]) for metric in report.metrics)]
    yield ["undefined frames", "", *size, *report.num_undefined().values()]


def _write_csv(path: Path, rows: Iterator[list[Any]]) -> None:
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def _number(score: float) -> str:
    """All digits, so that reading it gives the same number; empty for NaN."""
    return "" if math.isnan(score) else repr(float(score))


def _without_nan(scores: dict[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(score) else float(score) for name, score in scores.items()}
