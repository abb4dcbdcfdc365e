# SPDX-License-Identifier: Apache-2.0
"""From files with weights of other projects to a model folder of ours, with a record of where everything is from."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Container, Mapping, Sized
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from video_saliency.checkpoints import (
    Checkpoint,
    Converter,
    Fit,
    Source,
    StateDict,
    Terms,
    drop,
    fit,
    read_checkpoint,
    rename,
    take_part,
)
from video_saliency.processing_video_saliency import VideoSaliencyProcessor
from video_saliency.sharded_weights import stored_dtypes, write_shards
from video_saliency.version import __version__
from video_saliency.weights_record import RECORD, record_licence, untrained_lines

BASE_CONFIG_FIELDS = {"architectures", "dtype", "model_type", "transformers_version"}  # of any saved config


@dataclass
class _Given:
    """A source with its file."""

    source: Source
    checkpoint: Checkpoint
    tensors: StateDict
    dropped: list[str]
    terms: Terms
    fit: Fit | None = None

    def record(self) -> dict[str, Any]:
        assert self.fit is not None
        return {
            "title": self.source.title,
            "file": self.checkpoint.file_name,
            "sha256": self.checkpoint.sha256,
            "keys": len(self.checkpoint.tensors),
            "tensors_in_model": len(self.fit.tensors),
            "wrapper": self.checkpoint.wrapper,
            "ignored_entries": list(self.checkpoint.ignored_entries),
            "dropped_keys": self.dropped,
            "optional_keys_left_at_initial_values": self.fit.left_out,
            "licence": self.terms.licence,
            "terms": self.terms.text,
        }


def convert_checkpoint(
    converter: Converter,
    files: Mapping[str, str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    config_file: str | os.PathLike[str] | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> dict[str, Any]:
    """Write a model folder with the weights of `files`; returns its record, which is also written, `conversion.json`.

    The folder holds config, safetensors, processor, record and a card; it appears whole or not at all. What no file
    fills keeps the model's own initial values, drawn with `seed`, and is named in the record.

    Files of `torch.save` are mapped from disk and written tensor by tensor: a model of any size needs memory for its
    largest tensor, and for what no file fills.

    Args:
        converter: of the system.
        files: a file for each of some of the converter's sources, by name.
        output: a new or empty folder.
        config_file: JSON with fields of the model's config. Default: what the converter makes of the sources.
        dtype: in which weights are stored.
        seed: for what no file fills.

    Raises:
        ValueError: for unknown or missing sources, files that are none, weights that do not fit (every missing,
            unused and misshapen name is listed), or an output folder with files in it.
        OSError: if a file cannot be read or the folder not be written.
    """
    output = Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output} is not empty: name a new folder, so that nothing of an older run stays behind")
    fields = None if config_file is None else _read_config_fields(converter, Path(config_file))
    _check_sources(converter, files)
    given = {name: _read_source(converter, name, file) for name, file in files.items()}
    config = converter.make_config(fields, {name: entry.tensors for name, entry in given.items()})
    state, expected = _fit_all(converter, given, config)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # weights that are mapped from disk stay there: they are cast when they are written
        model = converter.model_class.from_pretrained(
            None, config=config, state_dict=dict(state), dtype=_load_dtype(state, expected)
        )
    left_out = {name for entry in given.values() if entry.fit is not None for name in entry.fit.left_out}
    initial = sorted(set(expected) - set(state) - left_out)
    record = {
        "converted_by": f"video-saliency {__version__}",
        "model_type": config.model_type,
        "dtype": str(dtype).removeprefix("torch."),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "sources": {name: entry.record() for name, entry in given.items()},
        "initialised": {"seed": seed, "keys": initial},
    }
    _write_folder(output, model, VideoSaliencyProcessor(**converter.processor_settings(config)), record, dtype)
    return record


def _read_config_fields(converter: Converter, path: Path) -> dict[str, Any]:
    """The fields of a config file. Raises `ValueError` for one of another model, or with fields that there are not."""
    config_class: Any = converter.model_class.config_class
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON file: {error}") from error
    if not isinstance(fields, dict) or fields.get("model_type", config_class.model_type) != config_class.model_type:
        raise ValueError(f"{path} is no config of a {config_class.model_type} model")
    unknown = sorted(set(fields) - set(config_class().to_dict()) - BASE_CONFIG_FIELDS)
    if unknown:
        raise ValueError(f"{path} has fields that {config_class.__name__} does not know: {', '.join(unknown)}")
    return fields


def _check_sources(converter: Converter, names: Collection[str]) -> None:
    """Raises `ValueError` for sources that there are not, and without those that there must be."""
    for name in names:
        if name not in converter.sources:
            raise ValueError(f"unknown source {name!r}: use one of {', '.join(converter.sources)}")
    if not names:
        raise ValueError(f"no source: give at least one of {', '.join(f'{name}=FILE' for name in converter.sources)}")
    for name in converter.required:
        if name not in names:
            raise ValueError(
                f"without the source {name} ({converter.sources[name].title}) the model would hold random weights, "
                f"with which the rest is of no use: add {name}=FILE"
            )


def _read_source(converter: Converter, name: str, file: str | os.PathLike[str]) -> _Given:
    source = converter.sources[name]
    checkpoint = read_checkpoint(file, safe_classes=source.safe_classes)
    kept, others = take_part(checkpoint.tensors, source.part)
    kept, dropped = drop(kept, source.dropped)
    try:
        tensors = source.convert(kept)
    except ValueError as error:
        raise ValueError(f"{name}={file}: {error}") from error
    return _Given(source, checkpoint, tensors, dropped + others, source.terms(tensors))


def _fit_all(converter: Converter, given: Mapping[str, _Given], config: Any) -> tuple[StateDict, dict[str, list[int]]]:
    """All tensors by the model's names, and names and shapes of the whole model."""
    with torch.device("meta"):
        expected = {name: list(value.shape) for name, value in converter.model_class(config).state_dict().items()}
    open_names, state, complaints = dict(expected), StateDict(), []
    for name, source in converter.sources.items():  # in their order: special places first
        if name not in given:
            continue
        entry, places = given[name], source.places(config)
        if not places:
            raise ValueError(f"{name}={entry.checkpoint.file_name}: a model of this config has no place for it")
        tensors = rename(entry.tensors, partial(_resolved, converter, places[0], expected))
        wanted = {
            key: shape
            for key, shape in open_names.items()
            if any(key.startswith(place) and source.fills(key.removeprefix(place)) for place in places)
        }
        entry.fit = fit(tensors, wanted, places, optional=source.optional)
        if problems := entry.fit.describe_problems():
            complaints.append(f"{name}={entry.checkpoint.file_name} does not fit the model; {problems}")
        state |= entry.fit.tensors
        for filled in (*entry.fit.tensors, *entry.fit.left_out):
            open_names.pop(filled, None)
    if complaints:
        raise ValueError(". ".join(complaints))
    return state, expected


def _resolved(converter: Converter, place: str, names: Container[str], key: str) -> str:
    """The name that a converted tensor has below its place in this very model."""
    return converter.resolve(place + key, names).removeprefix(place)


def _load_dtype(state: Mapping[str, torch.Tensor], expected: Sized) -> torch.dtype:
    """The precision in which nothing is copied, where all weights are given in one; else float32, to draw others."""
    found = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
    return found.pop() if len(found) == 1 and len(state) == len(expected) else torch.float32


def _write_folder(
    output: Path, model: Any, processor: VideoSaliencyProcessor, record: dict[str, Any], dtype: torch.dtype
) -> None:
    """The folder under a hidden name first, so that it appears whole or not at all."""
    output = Path(os.path.abspath(output))
    temporary = output.with_name(f".{output.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a killed run
    try:
        temporary.mkdir(parents=True)
        tensors = model.state_dict()
        kept = model._keep_in_fp32_modules_strict or ()
        write_shards(temporary, tensors, stored_dtypes(tensors, dtype, keep_float32=kept))
        model.config.architectures, model.config.dtype = [type(model).__name__], record["dtype"]
        model.config.save_pretrained(temporary)
        processor.save_pretrained(temporary)
        (temporary / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        (temporary / "README.md").write_text(model_card(record), encoding="utf-8")
        if output.exists():
            output.rmdir()  # it is empty
        os.replace(temporary, output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def model_card(record: Mapping[str, Any]) -> str:
    """The card of a converted model: what it is made of, and under which terms."""
    lines = [
        "---",
        f"license: {record_licence(record)}",
        "tags:",
        "- video-saliency",
        "---",
        f"# {record['model_type']}, converted weights",
        "",
        f"{record['parameters']:,} parameters in {record['dtype']}, made by `video-saliency convert` "
        f"({record['converted_by']}). `{RECORD}` lists every key that was dropped or left at its initial value.",
        "",
        "| source | file | SHA-256 | tensors of the file | tensors in the model |",
        "|---|---|---|---|---|",
    ]
    for name, source in record["sources"].items():
        numbers = f"{source['keys']} | {source['tensors_in_model']}"
        lines.append(f"| {name}: {source['title']} | {source['file']} | `{source['sha256']}` | {numbers} |")
    lines += ["", "## Terms", ""]
    lines += [f"- {name}: {source['terms']}" for name, source in record["sources"].items()]
    if untrained := untrained_lines(record):
        lines += ["", *untrained]
    lines += ["", "## Use", "", "```python", "import video_saliency", "from transformers import AutoModel", ""]
    lines += ['model = AutoModel.from_pretrained("THIS_FOLDER")', "```", ""]
    return "\n".join(lines)


__all__ = ["convert_checkpoint", "model_card"]
