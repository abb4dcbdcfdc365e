# SPDX-License-Identifier: Apache-2.0
"""Writes a complete model repository: config, safetensors, processor, card and licence notes, ready to be uploaded.

    python hub_scripts/export_model.py --output DIR [--model FOLDER_OR_ID] [--self-contained] [--max-shard-size 5GB]
        [--repository ORG/NAME]

A plain repository carries no code: who loads it imports `video_saliency` first. A self-contained one also carries the
code that it needs, and loads without the package, with `trust_remote_code=True`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from card_texts import with_loading_note, with_repository, without_loading_note
from flatten_code import flatten
from huggingface_hub import snapshot_download
from licence_notes import licence_notes
from make_cards import OwnModel, card_of_model
from repository_files import ADAPTER_FILES, EVAL_RESULTS, MODEL_FILES, check_repository_id
from safetensors import safe_open

from video_saliency.defaults import DEFAULT_NAME, named_model
from video_saliency.loading import load_model, load_processor
from video_saliency.pipeline_video_saliency import VideoSaliencyPipeline
from video_saliency.sharded_weights import DTYPE_NAMES, INDEX_NAME, WEIGHTS_NAME, write_shards
from video_saliency.weights_record import RECORD, read_record

ROOT = Path(__file__).parent.parent
CARD, CONFIG, PROCESSOR, TRAINING = "README.md", "config.json", "processor_config.json", "training.json"
TASK = "video-saliency"
RECORDS = (RECORD, TRAINING, "scores.json", "speed.json")  # what is known of the origin of weights and figures
MAX_SHARD_SIZE = "5GB"
UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}


def export_model(
    name_or_path: str,
    output: Path,
    *,
    self_contained: bool = False,
    max_shard_size: str = MAX_SHARD_SIZE,
    repository: str | None = None,
) -> list[Path]:
    """Write the repository of a model; returns its files. The folder appears whole or not at all.

    Args:
        name_or_path: folder or Hub id of the model.
        output: a new or empty folder.
        self_contained: whether the code is written, too.
        max_shard_size: larger weights are split into files of this size at most, such as `"5GB"`.
        repository: `ORG/NAME` that the card names. Default: `push_model.py` fills in the one that it sends to.

    Raises:
        ValueError: if the model cannot be loaded or is an adapter, `output` holds files already, or a size or name has
            another form.
    """
    output = Path(os.path.abspath(output))
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output} is not empty: name a new folder, so that nothing of an older export stays behind")
    shard_bytes = parse_size(max_shard_size)
    if repository is not None:
        check_repository_id(repository)
    source = model_folder(name_or_path)
    if (source / "adapter_config.json").is_file() and not (source / CONFIG).is_file():
        raise ValueError(
            f"{name_or_path} is an adapter, and a whole model is exported: name the folder `merged` of a run with "
            "lora.merge=true, or one that video_saliency.training.lora.merge_adapter wrote; push_model.py sends the "
            "adapter as it is"
        )
    model, processor = load_model(str(source)), load_processor(str(source))
    temporary = output.with_name(f".{output.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a killed run
    try:
        temporary.mkdir(parents=True)
        write_weights(model, source, temporary, shard_bytes)
        processor.save_pretrained(temporary)
        copy_records(source, temporary)
        if self_contained:
            write_code(model, processor, temporary)
        write_texts(OwnModel(model.config, processor.size, read_record(str(source))), source, temporary)
        finish_card(temporary / CARD, self_contained, repository)
        if output.exists():
            output.rmdir()  # it is empty
        os.replace(temporary, output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return sorted(output.iterdir())


def parse_size(text: str) -> int:
    """Bytes of a size such as `5GB`. Raises `ValueError` for another form."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(KB|MB|GB)", text)
    if match is None:
        raise ValueError(f"{text!r} is no size: write a number and KB, MB or GB, such as {MAX_SHARD_SIZE}")
    return int(float(match[1]) * UNITS[match[2]])


def model_folder(name_or_path: str) -> Path:
    """The folder of a model, downloaded if a Hub id is meant: its records and its card are needed as well.

    Raises:
        ValueError: if there is no such folder and no such repository that can be reached.
    """
    if Path(name_or_path).is_dir():
        return Path(name_or_path)
    try:
        check_repository_id(name_or_path)
    except ValueError as error:
        raise ValueError(f"there is no folder {name_or_path!r} here, and a Hub id has the form ORG/NAME") from error
    try:
        return Path(snapshot_download(name_or_path, allow_patterns=[*MODEL_FILES, *ADAPTER_FILES]))
    except OSError as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"cannot download the model {name_or_path!r}: it must be a folder or the id of a repository on the Hub "
            f"that you can reach ({reason})"
        ) from error


def write_weights(model: Any, source: Path, folder: Path, shard_bytes: int) -> None:
    """Write config and weights, each weight in as many bits as the source stores: the model may run in more."""
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    whole = source / WEIGHTS_NAME
    if whole.is_file() and whole.stat().st_size <= shard_bytes:
        shutil.copyfile(whole, folder / WEIGHTS_NAME)
        return
    tensors, stored = model.state_dict(), stored_dtypes_of(source)
    dtypes = {name: stored.get(name, tensor.dtype) for name, tensor in tensors.items()}
    write_shards(folder, tensors, dtypes, max_shard_bytes=shard_bytes)


def stored_dtypes_of(folder: Path) -> dict[str, torch.dtype]:
    """In which precision the safetensors files of a model store each weight."""
    files = {WEIGHTS_NAME}
    if not (folder / WEIGHTS_NAME).is_file() and (folder / INDEX_NAME).is_file():
        files = set(json.loads((folder / INDEX_NAME).read_text(encoding="utf-8"))["weight_map"].values())
    by_name = {name: dtype for dtype, name in DTYPE_NAMES.items()}
    found = {}
    for file in files:
        if (folder / file).is_file():
            with safe_open(folder / file, framework="pt") as weights:
                found |= {name: by_name[weights.get_slice(name).get_dtype()] for name in weights.keys()}  # noqa: SIM118
    return found


def copy_records(source: Path, folder: Path) -> None:
    """What is known of the model's origin and of its scores goes along with it."""
    paths = [source / name for name in RECORDS] + sorted(source.glob(EVAL_RESULTS))
    for path in paths:
        if path.is_file():
            target = folder / path.relative_to(source)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, target)


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


def write_texts(own: OwnModel, source: Path, folder: Path) -> None:
    """Write the card, the licence of the code, and what is known of the licences of the weights.

    A trained model keeps the card that training wrote. A converted one gets that of its system, with its own facts,
    in place of the short one that `video-saliency convert` wrote.
    """
    card = None
    is_converted = own.record is not None and not (source / TRAINING).is_file()
    if (source / CARD).is_file() and not is_converted:
        card = (source / CARD).read_text(encoding="utf-8")
    (folder / CARD).write_text(card_of_model(own) if card is None else card, encoding="utf-8")
    shutil.copyfile(ROOT / "LICENSE", folder / "LICENSE")
    (folder / "NOTICE.md").write_text(licence_notes(own.config.model_type, own.record, card), encoding="utf-8")


def finish_card(path: Path, self_contained: bool, repository: str | None) -> None:
    """Say how the repository loads, and what it is called if that is known."""
    text = path.read_text(encoding="utf-8")
    text = with_loading_note(text) if self_contained else without_loading_note(text)
    path.write_text(text if repository is None else with_repository(text, repository), encoding="utf-8")


def _reference(saved: type) -> str:
    return f"{saved.__module__.rsplit('.', 1)[-1]}.{saved.__name__}"


def _update(path: Path, **fields: Any) -> None:
    values = json.loads(path.read_text(encoding="utf-8")) | fields
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="a new or empty folder")
    model_help = f"folder, Hub id or '{DEFAULT_NAME}', the embedded model; default: %(default)s"
    parser.add_argument("--model", default=DEFAULT_NAME, help=model_help)
    parser.add_argument("--self-contained", action="store_true", help="write the code, too: loads without the package")
    parser.add_argument("--max-shard-size", default=MAX_SHARD_SIZE, help="split larger weights; default: %(default)s")
    parser.add_argument("--repository", metavar="ORG/NAME", help="name that the card gives; push_model.py fills it in")
    options = parser.parse_args(arguments)
    try:
        files = export_model(
            named_model(options.model),
            options.output,
            self_contained=options.self_contained,
            max_shard_size=options.max_shard_size,
            repository=options.repository,
        )
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    for path in files:
        sys.stdout.write(f"{path.stat().st_size:12,d}  {path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
