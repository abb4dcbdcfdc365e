# SPDX-License-Identifier: Apache-2.0
"""From a recipe file to a model folder with its card: what the script and the command line run."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from huggingface_hub.utils import HFValidationError, validate_repo_id

from video_saliency.defaults import named_model
from video_saliency.training.callbacks import TrainerCallback
from video_saliency.training.lora import merge_adapter
from video_saliency.training.memory_remedy import remedy_for_memory
from video_saliency.training.recipe_files import changed, make_arguments, merged, read_recipe
from video_saliency.training.smoke_data import write_smoke_clips, write_smoke_stills
from video_saliency.training.training_arguments import TrainingArguments
from video_saliency.training.training_card import write_training_card
from video_saliency.training.training_checkpoints import MODEL, RunState, whole_folder
from video_saliency.training.training_loop import Trainer
from video_saliency.training.training_model import changing_settings
from video_saliency.weights_record import RECORD

logger = logging.getLogger(__name__)

MERGED, SMOKE_DATA = "merged", "smoke_data"
# what a run writes into the folder of its model, and nothing that could run code when it is loaded
MODEL_FILES = (
    "README.md",
    "training.json",
    RECORD,
    "config.json",
    "processor_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "adapter_config.json",
    "adapter_model.safetensors",
)
SCORE_FILES = ("scores.json", "speed.json", ".eval_results/*.yaml")  # of an older model


@dataclass(frozen=True)
class RunOptions:
    """What the command line says besides the recipe.

    Attributes:
        config: the recipe.
        output: folder of the run.
        roots: `NAME=FOLDER` for the data sets that the recipe names, or one `FOLDER` for all.
        train, validation: `NAME=FOLDER` or `NAME:SPLIT=FOLDER` in place of the recipe's data sets.
        model: folder, Hub id or `default` (the embedded model) to start from, in place of the recipe's.
        settings: single settings, such as `loop.epochs=3`.
        smoke: try the recipe on miniature data, with its miniature model.
        push_to_hub: repository `ORG/NAME` to upload the model to; a new one is private. With `lora.merge` the merged
            model is sent, which loads by itself, else the adapter.
    """

    config: Path
    output: Path
    roots: Sequence[str] = ()
    train: Sequence[str] = ()
    validation: Sequence[str] = ()
    model: str | None = None
    settings: Sequence[str] = ()
    smoke: bool = False
    push_to_hub: str | None = None


def read_arguments(options: RunOptions) -> TrainingArguments:
    """The recipe with what the command line changes.

    Raises:
        ValueError: for anything unknown or of another form.
    """
    content = read_recipe(options.config, smoke=options.smoke)
    _check_data(content)
    if options.smoke:
        content = merged(content, {"data": _smoke_sources(content, options.output)})
    for name, texts in (("train", options.train), ("validation", options.validation)):
        if texts:
            content = merged(content, {"data": {name: [_source(text) for text in texts]}})
    if options.model is not None:
        content = merged(content, {"model": {"name_or_path": options.model}})
    for setting in options.settings:
        content = changed(content, setting)
    _check_data(content)
    content = merged(content, {"data": _with_roots(content.get("data", {}), options.roots)})
    arguments = make_arguments(content)
    _check_upload(arguments, options)
    return arguments


def train_recipe(options: RunOptions, *, callbacks: Sequence[TrainerCallback] = ()) -> RunState:
    """Trains as the recipe says; the model with its card lies in `output/model` then.

    Raises:
        ValueError: for wrong options or data.
        TrainingError: if the run broke off; the same call goes on with it.
    """
    arguments = read_arguments(options)
    try:
        with remedy_for_memory(arguments, is_placing=True):
            trainer = Trainer(arguments, options.output, callbacks=callbacks)
        try:
            state = trainer.train()
            _complete(trainer, options)
            trainer.accelerator.wait_for_everyone()
        finally:
            trainer.close()
    finally:
        # where no trainer came to be; a process that ends with the connection open may be aborted by its threads
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    return state


def _complete(trainer: Trainer, options: RunOptions) -> None:
    """Card, merged model and upload, by the main process."""
    arguments = trainer.arguments
    if trainer.accelerator.is_main_process:
        folder, is_merged = options.output / MODEL, _is_merged(arguments)
        model_id = None if is_merged else options.push_to_hub
        write_training_card(folder, trainer, is_smoke=options.smoke, model_id=model_id)
        if is_merged:
            with whole_folder(options.output / MERGED) as temporary:
                merge_adapter(folder, temporary, base=trainer.training.base)
                write_training_card(temporary, trainer, is_smoke=options.smoke, model_id=options.push_to_hub)
            folder = options.output / MERGED
        if options.push_to_hub is not None:
            push_folder(folder, options.push_to_hub)


def push_folder(folder: Path, repository: str) -> str:
    """Uploads a model folder and returns its address; files that are there already are skipped.

    What an older model left there goes in the same commit: its files, and scores that are not of the new one.

    Args:
        folder: that loads by itself; only `MODEL_FILES` of it are sent.
        repository: name on the Hub, such as `someone/model`; it is made, private, if it is not there.
    """
    api = HfApi()
    address = api.create_repo(repository, repo_type="model", private=True, exist_ok=True)
    api.upload_folder(
        folder_path=folder,
        repo_id=repository,
        repo_type="model",
        commit_message="Upload a trained model",
        allow_patterns=list(MODEL_FILES),
        delete_patterns=[*MODEL_FILES, *SCORE_FILES],
    )
    logger.info("uploaded to %s", address)
    return str(address)


def _check_data(content: dict[str, Any]) -> None:
    """Makes sure that the data have their form before folders are filled in. Raises `ValueError`."""
    make_arguments({"data": content.get("data", {})})


def _is_merged(arguments: TrainingArguments) -> bool:
    """Whether a plain model with the adapters merged in is written, which then is the one to upload."""
    return arguments.lora.enabled and arguments.lora.merge


def _check_upload(arguments: TrainingArguments, options: RunOptions) -> None:
    """Before hours of training, not after them."""
    if options.push_to_hub is None:
        return
    try:
        validate_repo_id(options.push_to_hub)
    except HFValidationError as error:
        raise ValueError(f"--push-to-hub {options.push_to_hub!r} is no repository ORG/NAME: {error}") from error
    if "/" not in options.push_to_hub:
        raise ValueError(f"--push-to-hub {options.push_to_hub!r} names no owner: give ORG/NAME")
    if arguments.lora.enabled and not arguments.lora.merge:
        _check_base_on_hub(arguments)


def _check_base_on_hub(arguments: TrainingArguments) -> None:
    """An adapter on the Hub must name its base model there. Raises `ValueError` if it cannot, or does not."""
    name, named = arguments.model.name_or_path, arguments.lora.base_model
    changes = [] if name is None else changing_settings(arguments.model)
    if name is None or changes:
        origin = "the run starts from fresh weights" if name is None else f"{', '.join(changes)} change {name}"
        wrong = f"lora.base_model: {named} is not what the adapters are trained on" if named else "there is none"
        raise ValueError(
            f"an adapter on the Hub must name a base model there, and {wrong}, because {origin}: set lora.merge=true "
            "to upload the merged model, or upload the base first and start another run from it by --model ORG/NAME, "
            "without lora.base_model and without settings that change it"
        )
    if Path(named_model(named or name)).exists():
        raise ValueError(
            "an adapter on the Hub must name a base model there: upload the base first, then set "
            "lora.base_model=ID, or set lora.merge=true to upload the merged model"
        )


def _source(text: str) -> dict[str, Any]:
    name, separator, root = text.partition("=")
    if not separator:
        raise ValueError(f"a data set looks like NAME=FOLDER or NAME:SPLIT=FOLDER, got {text!r}")
    dataset, _, split = name.partition(":")
    return {"dataset": dataset, "split": split or None, "root": root}


def _with_roots(data: dict[str, Any], roots: Sequence[str]) -> dict[str, Any]:
    """The data sets with the folders of the command line."""
    folders = dict(root.partition("=")[::2] if "=" in root else ("", root) for root in roots)
    known = {source.get("dataset") for name in ("train", "validation") for source in data.get(name, ())}
    if unknown := sorted(set(folders) - known - {""}):
        raise ValueError(
            f"--root {unknown[0]}=...: the recipe has {', '.join(sorted(map(str, known))) or 'no data set'}"
        )
    result = {}
    for name in ("train", "validation"):
        result[name] = [
            {**source, "root": folders.get(source.get("dataset", ""), folders.get("")) or source.get("root")}
            for source in data.get(name, ())
        ]
    return result


def _smoke_sources(content: dict[str, Any], output: Path) -> dict[str, Any]:
    """Miniature data of the kind that the recipe names: stills for stills, else clips."""
    home = output / SMOKE_DATA
    data = content.get("data", {})
    wants_stills = any(source.get("dataset") in ("stills", "salicon") for source in data.get("train", ()))
    folder = home / ("stills" if wants_stills else "clips")
    if not folder.exists():
        # several processes may come here at once, and all write the same: the first one counts
        home.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=home))
        (write_smoke_stills if wants_stills else write_smoke_clips)(temporary)
        try:
            os.replace(temporary, folder)
        except OSError:
            shutil.rmtree(temporary)
            if not folder.exists():
                raise
    name = "stills" if wants_stills else "folder"
    return {
        "train": [{"dataset": name, "split": "train", "root": str(folder)}],
        "validation": [{"dataset": name, "split": "val", "root": str(folder)}],
    }


__all__ = ["RunOptions", "push_folder", "read_arguments", "train_recipe"]
