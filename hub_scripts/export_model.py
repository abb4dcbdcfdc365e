# SPDX-License-Identifier: Apache-2.0
"""Writes a complete model repository: config, safetensors, processor, card and licence notes, ready to be uploaded.

    python hub_scripts/export_model.py --output DIR [--model FOLDER_OR_ID] [--self-contained] [--max-shard-size 5GB]

A plain repository carries no code: who loads it imports `video_saliency` first. A self-contained one also carries the
code that it needs, and loads without the package, with `trust_remote_code=True`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flatten_code import flatten
from licence_notes import HEADING, RECORD, licence_notes
from make_cards import card_of_model, with_loading_note

from video_saliency.defaults import DEFAULT_MODEL
from video_saliency.loading import load_model, load_processor
from video_saliency.pipeline_video_saliency import VideoSaliencyPipeline

ROOT = Path(__file__).parent.parent
CARD, CONFIG, PROCESSOR, WEIGHTS = "README.md", "config.json", "processor_config.json", "model.safetensors"
TASK = "video-saliency"
RECORDS = (RECORD, "training.json", "scores.json", "speed.json")  # what is known of the origin of weights and figures
MAX_SHARD_SIZE = "5GB"


def export_model(
    name_or_path: str, output: Path, *, self_contained: bool = False, max_shard_size: str = MAX_SHARD_SIZE
) -> list[Path]:
    """Write the repository of a model; returns its files. The folder appears whole or not at all.

    Args:
        name_or_path: folder or Hub id of the model.
        output: a new or empty folder.
        self_contained: whether the code is written, too.
        max_shard_size: larger weights are split into files of this size at most, such as `"5GB"`.

    Raises:
        ValueError: if the model cannot be loaded or is an adapter, or `output` holds files already.
    """
    output = Path(os.path.abspath(output))
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output} is not empty: name a new folder, so that nothing of an older export stays behind")
    model, processor = load_model(name_or_path), load_processor(name_or_path)
    if hasattr(model, "peft_config"):
        raise ValueError(
            f"{name_or_path} is an adapter, and a whole model is exported: name the folder `merged` of a run with "
            "lora.merge=true, or one that video_saliency.training.lora.merge_adapter wrote; push_model.py sends the "
            "adapter as it is"
        )
    temporary = output.with_name(f".{output.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a killed run
    try:
        temporary.mkdir(parents=True)
        model.save_pretrained(temporary, max_shard_size=max_shard_size)
        processor.save_pretrained(temporary)
        _keep_stored_weights(Path(name_or_path), temporary)
        for record in RECORDS:
            if (Path(name_or_path) / record).is_file():
                shutil.copyfile(Path(name_or_path) / record, temporary / record)
        if self_contained:
            write_code(model, processor, temporary)
        write_texts(model, Path(name_or_path), temporary, self_contained)
        if output.exists():
            output.rmdir()  # it is empty
        os.replace(temporary, output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return sorted(output.iterdir())


def _keep_stored_weights(source: Path, folder: Path) -> None:
    """Take the file of a model in a folder itself, where one file it is: it may store weights in fewer bits."""
    if (source / WEIGHTS).is_file() and (folder / WEIGHTS).is_file():
        shutil.copyfile(source / WEIGHTS, folder / WEIGHTS)


def write_code(model: Any, processor: Any, folder: Path) -> None:
    """Write the flattened code and name it in the saved JSON files; the objects in memory are left as they are."""
    classes = {"AutoConfig": type(model.config), "AutoModel": type(model), "AutoProcessor": type(processor)}
    entries = [saved.__module__ for saved in classes.values()]
    companions = {VideoSaliencyPipeline.__module__: VideoSaliencyPipeline.__name__}
    files = flatten(entries, companions_of=type(model).__module__, companions=companions)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    references = {auto_class: _reference(saved) for auto_class, saved in classes.items()}
    # the Hub and `pipeline` know Auto classes of transformers only, so `AutoModel` and not one of ours
    pipelines = {TASK: {"impl": _reference(VideoSaliencyPipeline), "pt": ["AutoModel"], "type": "multimodal"}}
    _update(folder / CONFIG, auto_map=references, custom_pipelines=pipelines)
    _update(folder / PROCESSOR, auto_map={"AutoProcessor": references["AutoProcessor"]})


def write_texts(model: Any, source: Path, folder: Path, self_contained: bool) -> None:
    """Write the card, the licence of the code, and what is known of the licences of the weights."""
    notes = licence_notes(source, model.config.model_type)
    if (source / RECORD).is_file():  # a converted model: the card of its system, and where these weights are from
        card = card_of_model(model.config.model_type) + f"\n## These weights\n\n{notes.removeprefix(HEADING)}"
    elif (source / CARD).is_file():
        card = (source / CARD).read_text(encoding="utf-8")
    else:
        card = card_of_model(model.config.model_type)
    (folder / CARD).write_text(with_loading_note(card) if self_contained else card, encoding="utf-8")
    shutil.copyfile(ROOT / "LICENSE", folder / "LICENSE")
    (folder / "NOTICE.md").write_text(notes, encoding="utf-8")


def _reference(saved: type) -> str:
    return f"{saved.__module__.rsplit('.', 1)[-1]}.{saved.__name__}"


def _update(path: Path, **fields: Any) -> None:
    values = json.loads(path.read_text(encoding="utf-8")) | fields
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="a new or empty folder")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="folder or Hub id; default: the embedded model")
    parser.add_argument("--self-contained", action="store_true", help="write the code, too: loads without the package")
    parser.add_argument("--max-shard-size", default=MAX_SHARD_SIZE, help="split larger weights; default: %(default)s")
    options = parser.parse_args(arguments)
    try:
        files = export_model(
            options.model,
            options.output,
            self_contained=options.self_contained,
            max_shard_size=options.max_shard_size,
        )
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    for path in files:
        sys.stdout.write(f"{path.stat().st_size:12,d}  {path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
