# SPDX-License-Identifier: Apache-2.0
"""`video-saliency convert`: files with weights of other projects in, a model folder out. Downloads nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from video_saliency.checkpoints import Converter
from video_saliency.cli.devices import pick_dtype
from video_saliency.cli.errors import one_line_errors
from video_saliency.conversion import convert_checkpoint
from video_saliency.models.dtfsal.convert_dtfsal import CONVERTER as DTFSAL
from video_saliency.models.gfsalnet.convert_gfsalnet import CONVERTER as GFSALNET
from video_saliency.models.salfom.convert_salfom import CONVERTER as SALFOM
from video_saliency.models.visage.convert_visage import CONVERTER as VISAGE
from video_saliency.weights_record import RECORD

CONVERTERS: dict[str, Converter] = {"dtfsal": DTFSAL, "gfsalnet": GFSALNET, "salfom": SALFOM, "visage": VISAGE}

MANY = 20  # names in a line


def _sources_help() -> str:
    lines = [
        f"{system}: {', '.join(f'{name} ({source.title})' for name, source in converter.sources.items())}"
        for system, converter in CONVERTERS.items()
    ]
    return f"A .pt, .pth or .safetensors file, as name=FILE; may be given several times. {'. '.join(lines)}."


def convert(
    system: Annotated[str, typer.Argument(help=f"One of {', '.join(CONVERTERS)}.")],
    source: Annotated[list[str], typer.Option(help=_sources_help(), metavar="NAME=FILE")],
    output: Annotated[Path, typer.Option(help="A new or empty folder.")],
    config: Annotated[Path | None, typer.Option(help="JSON with fields of the model's config.")] = None,
    dtype: Annotated[str, typer.Option(help="In which weights are stored: float32, bfloat16 or float16.")] = "float32",
    seed: Annotated[int, typer.Option(help="For weights that no file fills.")] = 0,
) -> None:
    """Make a model folder of weights that you have: strictly, with a record of their origin and terms."""
    with one_line_errors():
        if system not in CONVERTERS:
            raise ValueError(f"unknown system {system!r}: use one of {', '.join(CONVERTERS)}")
        files = parse_sources(source)
        record = convert_checkpoint(
            CONVERTERS[system],
            files,
            output,
            config_file=config,
            dtype=pick_dtype(dtype) or torch.float32,
            seed=seed,
        )
    report(record, output)


def parse_sources(entries: list[str]) -> dict[str, Path]:
    """The files by the names of their sources. Raises `ValueError` for other forms and names given twice."""
    files: dict[str, Path] = {}
    for entry in entries:
        name, equals, file = entry.partition("=")
        if not (name and equals and file):
            raise ValueError(f"--source {entry!r}: write name=FILE, for instance backbone=resnet50.pth")
        if name in files:
            raise ValueError(f"--source {name} is given twice: name one file for it")
        files[name] = Path(file)
    return files


def _listed(names: list[str]) -> str:
    """All names, or the first ones of many."""
    if len(names) <= MANY:
        return ", ".join(names)
    return f"{', '.join(names[:MANY])} and {len(names) - MANY} more; {RECORD} has them all"


def report(record: dict[str, Any], output: Path) -> None:
    """Print what was made, of what, and under which terms."""
    console = Console()

    def tell(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=True, markup=False)

    tell(f"{output}: {record['model_type']}, {record['parameters']:,} parameters; see its {RECORD}")
    for name, entry in record["sources"].items():
        tell(f"  {name}: {entry['file']}, {entry['keys']} tensors, {entry['tensors_in_model']} in the model")
        if entry["dropped_keys"]:
            tell(f"    dropped: {_listed(entry['dropped_keys'])}")
        if entry["ignored_entries"]:
            tell(f"    beside the weights, not read: {', '.join(entry['ignored_entries'])}")
        tell(f"    {entry['terms']}")
    if record["initialised"]["keys"]:
        count = len(record["initialised"]["keys"])
        tell(f"  {count} tensors are in no file and hold initial values: train the model before its maps are used")
