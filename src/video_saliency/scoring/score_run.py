# SPDX-License-Identifier: Apache-2.0
"""A scoring run over a data set that can be interrupted: what is finished of it stays on disk.

The rows of each finished item lie in `<output>/.partial` until all are there; then the tables are made from them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from video_saliency.atomic_files import atomic_path
from video_saliency.scoring.map_sources import MapSource, check_complete
from video_saliency.scoring.score_files import (
    FramesFormat,
    ScoreReport,
    read_frame_table,
    read_item_rows,
    write_frame_table,
    write_item_rows,
    write_report,
)
from video_saliency.scoring.scorer import DatasetScorer, ScoredFrame
from video_saliency.version import __version__

PARTIAL = ".partial"


def score_dataset(
    source: MapSource,
    scorer: DatasetScorer,
    output: Path,
    *,
    card: dict[str, str] | None = None,
    frames_format: FramesFormat = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> ScoreReport:
    """Score all items, write the tables, and return the report; goes on where an interrupted run stopped.

    Args:
        source: the predictions.
        scorer: items, protocol and metrics.
        output: folder for `frames.csv` (or `.parquet`), `videos.csv`, `overall.csv`, `scores.json` and
            `model_index.yaml`.
        card: for the model index: `model_name`, `dataset_type`, `dataset_name`, `dataset_split`.
        frames_format: of the table of frames; `"auto"` writes Parquet if pyarrow is there.
        progress: called with (items done, items in all).

    Raises:
        ValueError: if the folder holds a run with other settings, predictions are missing, or as `score_item`.
    """
    settings = run_settings(source, scorer, card or {})
    work = output / PARTIAL
    _check_before(output, settings)
    if (finished := _read_finished(scorer, output, settings)) is not None:
        return finished
    if not scorer.allow_missing:
        check_complete(source, scorer.items)
    work.mkdir(parents=True, exist_ok=True)
    _write_json(work / "settings.json", settings)
    with scorer:
        for position in range(len(scorer.items)):
            part = _part(work, position)
            if not part.exists():
                write_item_rows(part, scorer.metrics, scorer.score_item(position, source))
            if progress is not None:
                progress(position + 1, len(scorer.items))
    return _finish(scorer, output, settings, card or {}, frames_format)


def run_settings(source: MapSource, scorer: DatasetScorer, card: dict[str, str]) -> dict[str, Any]:
    """All that decides about the scores, JSON types; the number of workers does not."""
    bias = None if scorer.centre_bias is None else hashlib.sha256(scorer.centre_bias.bias.tobytes()).hexdigest()[:16]
    settings = {
        **source.settings,
        "dataset": card.get("dataset_type", ""),
        "split": card.get("dataset_split", ""),
        "root": card.get("root", ""),
        "items": _digest([f"{item.id}\0{item.num_frames}" for item in scorer.items]),
        "protocol": asdict(scorer.protocol),
        "metrics": list(scorer.metrics),
        "baseline of information gain": bias,
        "allow_missing": scorer.allow_missing,
        "version": __version__,
    }
    content: dict[str, Any] = json.loads(json.dumps(settings))  # tuples become lists, as in a file
    return content


def _finish(
    scorer: DatasetScorer, output: Path, settings: dict[str, Any], card: dict[str, str], frames_format: FramesFormat
) -> ScoreReport:
    work = output / PARTIAL
    parts = [(item.id, item.split, _part(work, position)) for position, item in enumerate(scorer.items)]
    rows = ((name, frame) for name, _, part in parts for frame in read_item_rows(part))
    report = _make_report(scorer, settings, rows)
    table = write_frame_table(output, scorer.metrics, parts, frames_format=frames_format)
    for other in {"frames.csv", "frames.parquet"} - {table.name}:
        (output / other).unlink(missing_ok=True)
    defaults = {"model_name": "model", "dataset_type": "dataset", "dataset_name": "dataset", "dataset_split": ""}
    write_report(output, report, defaults | card)
    shutil.rmtree(work)
    return report


def _make_report(
    scorer: DatasetScorer, settings: dict[str, Any], rows: Iterable[tuple[str, ScoredFrame]]
) -> ScoreReport:
    """Averages of the rows, (item, frame) each."""
    report = ScoreReport(settings, scorer.metrics, scorer.protocol.accumulator(), average=scorer.protocol.average)
    splits = {item.id: item.split for item in scorer.items}
    counts = dict.fromkeys(splits, 0)
    for name, frame in rows:
        report.accumulator.add(name, frame.scores, split=splits[name])
        counts[name] += 1
    report.videos = [(name, splits[name], count) for name, count in counts.items()]
    wanted = sum(len(scorer.frames_of(position)) for position in range(len(scorer.items)))
    report.num_missing = wanted - sum(counts.values())
    return report


def _read_finished(scorer: DatasetScorer, output: Path, settings: dict[str, Any]) -> ScoreReport | None:
    """The report of a run that was finished before, from its table of frames; `None` if there is none."""
    tables = [path for path in (output / "frames.parquet", output / "frames.csv") if path.exists()]
    if (output / PARTIAL).exists() or not (output / "scores.json").exists() or not tables:
        return None
    return _make_report(scorer, settings, read_frame_table(tables[0]))


def _check_before(output: Path, settings: dict[str, Any]) -> None:
    """Refuses a folder with a run of other settings, finished or not."""
    for path in (output / PARTIAL / "settings.json", output / "scores.json"):
        if not path.exists():
            continue
        before = json.loads(path.read_text(encoding="utf-8"))
        before = before if path.name == "settings.json" else before["settings"]
        different = sorted(key for key in {*before, *settings} if before.get(key) != settings.get(key))
        if different:
            raise ValueError(
                f"{output} holds a run with other settings ({', '.join(different)}): name another --output, or remove "
                "that folder"
            )


def _part(work: Path, position: int) -> Path:
    return work / f"item-{position:06d}.csv"


def _digest(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
