# SPDX-License-Identifier: Apache-2.0
"""The record of where a model's weights are from, `conversion.json`: written by `video-saliency convert`, kept by
training and export, and read for the terms of the weights and for what was never trained.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import metadata_load
from transformers.utils import cached_file

RECORD = "conversion.json"

Record = dict[str, Any]


def read_record(name_or_path: str) -> Record | None:
    """The record in a model folder or a repository on the Hub; `None` if it has none.

    Raises:
        ValueError: if it is damaged.
        OSError: if the Hub cannot be reached, and the cache does not know.
    """
    file = _file_of(name_or_path, RECORD)
    if file is None:
        return None
    try:
        record = json.loads(Path(file).read_text(encoding="utf-8"))
        sources = record["sources"].values()
        if not all(isinstance(source[key], str) for source in sources for key in ("title", "file", "sha256", "terms")):
            raise TypeError("a source lacks its title, file, hash or terms")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{RECORD} of {name_or_path} is damaged ({type(error).__name__}: {error}): convert or download it again"
        ) from error
    return dict(record)


def card_licence(name_or_path: str) -> str | None:
    """The licence in the front matter of a model's card; `None` without one.

    Raises:
        OSError: if the Hub cannot be reached, and the cache does not know.
    """
    file = _file_of(name_or_path, "README.md")
    try:
        licence = None if file is None else (metadata_load(file) or {}).get("license")
    except ValueError:  # a card without a head that can be read
        return None
    return licence if isinstance(licence, str) else None


def _file_of(name_or_path: str, name: str) -> str | None:
    if Path(name_or_path).is_dir():
        file = Path(name_or_path) / name
        return str(file) if file.is_file() else None
    found: str | None = cached_file(name_or_path, name, _raise_exceptions_for_missing_entries=False)
    return found


def record_licence(record: Mapping[str, Any]) -> str:
    """The Hub's identifier of the one licence that the sources name, or `other`."""
    licences = {source.get("licence") for source in record["sources"].values()} - {None}
    return str(licences.pop()) if len(licences) == 1 else "other"


def source_lines(record: Mapping[str, Any]) -> list[str]:
    """A Markdown list of the files that the weights are from, with their licences and terms."""
    lines = []
    for name, source in record["sources"].items():
        licence = source.get("licence") or "see its terms"
        lines.append(f"- {name}: {source['title']}, `{source['file']}` (SHA-256 `{source['sha256']}`): {licence}.")
        lines.append(f"  {source['terms']}")
    return lines


def untrained_tensors(record: Mapping[str, Any] | None) -> list[str]:
    """Names of the tensors that no file filled and nobody trained since."""
    return list(((record or {}).get("initialised") or {}).get("keys") or ())


def untrained_lines(record: Mapping[str, Any]) -> list[str]:
    """The section of a card that tells of tensors which nobody trained; no lines if there are none."""
    keys = untrained_tensors(record)
    if not keys:
        return []
    text = f"No file filled {len(keys)} tensors: they hold initial values (seed {record['initialised'].get('seed')})."
    return ["## Not trained", "", f"{text} Train the model before its maps are used."]


def with_untrained(record: Mapping[str, Any], is_untrained: Callable[[str], object]) -> Record:
    """The record with those names only, among the tensors that no file filled, that are untrained still."""
    kept = [key for key in untrained_tensors(record) if is_untrained(key)]
    others = {name: value for name, value in record.items() if name != "initialised"}
    return {**others, "initialised": {**record["initialised"], "keys": kept}} if kept else others


def join_records(records: Sequence[tuple[str, Record]]) -> Record | None:
    """One record of a model whose weights are from several models; `None` if no model has one.

    Args:
        records: name and record of each model, the one that gives the most first. Sources of one name and another
            file get their model's name, too.
    """
    if not records:
        return None
    joined: Record = {**records[0][1], "sources": dict(records[0][1]["sources"])}
    untrained = untrained_tensors(joined)
    for model, record in records[1:]:
        for name, source in record["sources"].items():
            known = joined["sources"].get(name)
            if known is None or known["sha256"] == source["sha256"]:
                joined["sources"][name] = source
            else:
                joined["sources"][f"{name} of {model}"] = source
        untrained += untrained_tensors(record)
    if untrained:
        first = next(record["initialised"] for _, record in records if untrained_tensors(record))
        joined["initialised"] = {**first, "keys": sorted(set(untrained))}
    return joined


__all__ = [
    "RECORD",
    "Record",
    "card_licence",
    "join_records",
    "read_record",
    "record_licence",
    "source_lines",
    "untrained_lines",
    "untrained_tensors",
    "with_untrained",
]
