# SPDX-License-Identifier: Apache-2.0
"""Published score tables, each with its source and protocol, to be read beside one's own scores.

The tables are JSON files in the folder `leaderboards` of the package, one for each paper.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

LEADERBOARDS = Path(__file__).parents[1] / "leaderboards"


@dataclass(frozen=True)
class PublishedTable:
    """Scores that a paper reports for one part of a data set.

    Attributes:
        source: paper and table.
        dataset: name as in `DATASETS`.
        split: as there; empty if the part has no name there.
        part: what was scored, in words.
        protocol: how, in words, as far as it is known.
        preset: the preset that is nearest to it.
        rows: model to metric to score.
    """

    source: str
    dataset: str
    split: str
    part: str
    protocol: str
    preset: str
    rows: Mapping[str, Mapping[str, float]]


@lru_cache(maxsize=1)
def published_tables() -> tuple[PublishedTable, ...]:
    """All tables that come with the package."""
    tables = []
    for path in sorted(LEADERBOARDS.glob("*.json")):
        paper = json.loads(path.read_text(encoding="utf-8"))
        tables += [_table(paper["paper"], entry) for entry in paper["tables"]]
    return tuple(tables)


def tables_for(dataset: str, split: str | None = None) -> list[PublishedTable]:
    """The tables of a data set, those of the same split first."""
    found = [table for table in published_tables() if table.dataset == dataset]
    return sorted(found, key=lambda table: table.split != (split or ""))


def _table(paper: str, entry: dict[str, Any]) -> PublishedTable:
    entry = dict(entry)
    columns = entry.pop("columns")
    rows = {
        name: {column: value for column, value in zip(columns, values, strict=True) if value is not None}
        for name, values in entry.pop("rows").items()
    }
    table = entry.pop("table")
    return PublishedTable(source=f"{paper}; {table}", rows=rows, **entry)
