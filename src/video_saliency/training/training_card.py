# SPDX-License-Identifier: Apache-2.0
"""The card of a trained model: data, recipe, versions and scores, all taken from the run."""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import accelerate
import peft
import torch
import transformers
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from video_saliency.atomic_files import atomic_path
from video_saliency.data.catalog import dataset_info
from video_saliency.defaults import DEFAULT_NAME, is_default_model, named_model
from video_saliency.training.training_arguments import DataSource
from video_saliency.version import __version__
from video_saliency.weights_record import RECORD as WEIGHTS_RECORD
from video_saliency.weights_record import record_licence, source_lines, untrained_lines

if TYPE_CHECKING:
    from video_saliency.training.training_loop import Trainer

logger = logging.getLogger(__name__)

RECORD = "training.json"
PLACEHOLDER = "THIS_REPOSITORY"  # which the scripts that send models fill in
PEFT_LAYER = re.compile(r"\.lora_[AB]\.default\.")  # ViSAGE's own adapters bear the names of its experts
TEMPLATE = """---
{{ card_data }}
---

# {{ title }}

{{ architecture }}, {{ parameters }} parameters{{ trained }}.
It predicts where people look in video:

```python
from transformers import pipeline
import video_saliency

pipe = pipeline("video-saliency", model="{{ model_id }}")
maps = pipe("clip.mp4")["saliency_maps"]
```

{{ notes }}

## Scores

{{ scores }}

## Data

{{ data }}

## Licence

{{ licence }}

## Recipe

{{ steps }} updates of {{ samples_per_step }} windows ({{ processes }} processes), {{ hours }} hours in training steps.

```yaml
{{ recipe }}
```

Written by video-saliency {{ versions.video_saliency }} with torch {{ versions.torch }}, transformers
{{ versions.transformers }}, accelerate {{ versions.accelerate }}, peft {{ versions.peft }} and Python
{{ versions.python }}.
"""


def write_training_card(
    folder: Path, trainer: Trainer, *, is_smoke: bool = False, model_id: str | None = None
) -> None:
    """Writes `README.md` and `training.json` into a model folder.

    Args:
        folder: of the model.
        trainer: whose run it was.
        is_smoke: a run on miniature data; its numbers are not shown, because they mean nothing.
        model_id: by which users load the model; `None`: not known yet.
    """
    record = training_record(trainer, is_smoke=is_smoke, is_merged=_is_merged(trainer, folder))
    with atomic_path(folder / RECORD) as temporary:
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    arguments, training = trainer.arguments, trainer.training
    data = ModelCardData(
        license=_licence(trainer),
        library_name="transformers",
        tags=["video-saliency", "saliency", "eye-tracking"],
        base_model=_hub_id(arguments.lora.base_model) or _hub_id(arguments.model.name_or_path),
        datasets=None if is_smoke else _published_names(arguments.data.train),
        metrics=list(arguments.validation.metrics),
        model_name=arguments.title,
        eval_results=None if is_smoke else _eval_results(trainer, record["scores"]),
    )
    card = ModelCard.from_template(
        data,
        template_str=TEMPLATE,
        title=arguments.title,
        architecture=type(training.network).__name__,
        parameters=f"{record['parameters']:,}",
        trained=_trained_sentence(trainer, folder, record["trained_parameters"]),
        model_id=model_id or PLACEHOLDER,
        notes=arguments.notes.strip(),
        scores="Miniature data: no scores." if is_smoke else _score_table(record),
        licence=_licence_text(trainer),
        data="Miniature data, made up." if is_smoke else _data_lines(trainer),
        steps=f"{record['steps']:,}",
        samples_per_step=trainer.plan.samples_per_step,
        processes=trainer.plan.num_processes,
        hours=f"{record['seconds'] / 3600:.2f}",
        recipe=yaml.safe_dump(
            _without_folders(arguments.to_dict()), sort_keys=False, allow_unicode=True, width=110
        ).strip(),
        versions=record["versions"],
    )
    with atomic_path(folder / "README.md") as temporary:
        card.save(temporary)


def training_record(trainer: Trainer, *, is_smoke: bool, is_merged: bool = False) -> dict[str, Any]:
    """What a card says, JSON types; `is_merged`: of the model that the adapters are merged in."""
    parameters = trainer.training.model.parameters()
    scores = {name: value for name, value in trainer.state.scores.items() if math.isfinite(value)}
    return {
        "is_smoke": is_smoke,
        "arguments": _without_folders(trainer.arguments.to_dict()),
        "steps": trainer.state.step,
        "selected_step": int(trainer.state.best[0][1]) if trainer.state.best else trainer.state.step,
        "scores": {} if is_smoke else scores,
        "seconds": trainer.state.seconds,
        "train_windows": trainer.plan.num_samples,
        "parameters": _num_parameters(trainer, is_merged=is_merged),
        "trained_parameters": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        "versions": {
            "video_saliency": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "accelerate": accelerate.__version__,
            "peft": peft.__version__,
            "python": platform.python_version(),
        },
    }


def _eval_results(trainer: Trainer, scores: dict[str, float]) -> list[EvalResult] | None:
    names = [name for name in trainer.arguments.validation.metrics if name in scores]
    sources = trainer.arguments.data.validation
    if not names or not sources:
        return None
    return [
        EvalResult(
            task_type="video-saliency",
            dataset_type=sources[0].dataset,
            dataset_name=", ".join(_source_name(source) for source in sources),
            dataset_split=sources[0].split or "all",
            metric_type=name,
            metric_name=name.upper().replace("_", "-"),
            metric_value=round(scores[name], 4),
        )
        for name in names
    ]


def _score_table(record: dict[str, Any]) -> str:
    scores = {name: value for name, value in record["scores"].items() if name != "loss"}
    if not scores:
        return "Not measured."
    lines = [f"| {' | '.join(scores)} |", "|" + " --- |" * len(scores)]
    lines.append("| " + " | ".join(f"{value:.4f}" for value in scores.values()) + " |")
    arguments = record["arguments"]
    return "\n".join(lines) + (
        f"\n\nOn {arguments['data']['validation_windows']} evenly spaced windows of each clip of the validation data, "
        f"protocol {arguments['validation']['protocol']}, mean over clips; of update {record['selected_step']:,}, "
        "which was chosen by them. `video-saliency score` scores whole clips."
    )


def _data_lines(trainer: Trainer) -> str:
    data = trainer.arguments.data
    lines = [
        f"- training: {', '.join(_source_name(source) for source in data.train)}; {len(trainer.dataset):,} windows"
    ]
    if data.validation:
        lines.append(f"- validation: {', '.join(_source_name(source) for source in data.validation)}")
    return "\n".join(lines)


def _licence(trainer: Trainer) -> str | None:
    """For the front matter: what holds of the weights that training started from goes before what the recipe says."""
    wanted, record = trainer.arguments.license, trainer.training.record
    if record is None:
        return wanted or trainer.training.start_licence
    bound = record_licence(record)
    if bound == "other":
        return wanted or bound
    if wanted not in (None, bound):
        logger.warning(
            "license: the recipe says %s, but the weights it starts from are %s: so is the card", wanted, bound
        )
    return bound


def _licence_text(trainer: Trainer) -> str:
    training, wanted = trainer.training, trainer.arguments.model
    if training.record is not None:
        lines = [f"Training started from weights with these origins and terms, which `{WEIGHTS_RECORD}` records:", ""]
        lines += source_lines(training.record)
        if untrained := untrained_lines(training.record):
            lines += ["", *untrained]
        return "\n".join(lines)
    start = [] if wanted.name_or_path is None else [named_model(wanted.name_or_path)]
    starts = [*start, *wanted.weights_from.values()]
    if not starts:
        named = trainer.arguments.license
        return (
            f"All weights were trained from random ones. The recipe names {f'`{named}`' if named else 'no licence'}."
        )
    names = ", ".join(_model_name(name) for name in starts)
    card = f" Its card names `{training.start_licence}`." if training.start_licence else ""
    return f"Training started from {names}, whose terms hold.{card}"


def _num_parameters(trainer: Trainer, *, is_merged: bool) -> int:
    """Of the model that a folder loads as: without PEFT's untouched copy of the decoder, without merged adapters."""
    has_adapters = trainer.training.base is not None
    return sum(
        parameter.numel()
        for name, parameter in trainer.training.model.named_parameters()
        if not (has_adapters and ".original_module." in name) and not (is_merged and PEFT_LAYER.search(name))
    )


def _is_merged(trainer: Trainer, folder: Path) -> bool:
    return trainer.arguments.lora.enabled and not (folder / "adapter_config.json").exists()


def _trained_sentence(trainer: Trainer, folder: Path, trained: int) -> str:
    rank = trainer.arguments.lora.rank
    if _is_merged(trainer, folder):
        return f"; {trained:,} were trained, those of low-rank adapters of rank {rank} included, which are merged in"
    sentence = f", {trained:,} of them trained"
    if not trainer.arguments.lora.enabled:
        return sentence
    return f"{sentence}; an adapter of rank {rank} with its decoder, which loads with its base model"


def _source_name(source: DataSource) -> str:
    return f"{dataset_info(source.dataset).title}{f', {source.split}' if source.split else ''}"


def _model_name(name: str) -> str:
    """A model in words: a folder by its own name only."""
    if is_default_model(name):
        return f"`{DEFAULT_NAME}`, the embedded model of video-saliency"
    return Path(name).name if Path(name).exists() else name


def _published_names(sources: Sequence[DataSource]) -> list[str] | None:
    """Data sets for the front matter: a folder of the user's own is none that others could find."""
    return sorted({source.dataset for source in sources if dataset_info(source.dataset).publisher}) or None


def _hub_id(name: str | None) -> str | None:
    return None if name is None or Path(named_model(name)).exists() else name


def _without_folders(content: dict[str, Any]) -> dict[str, Any]:
    """A card names no folders of one machine: data have none, models only the name of theirs."""
    data = dict(content["data"])
    for name in ("train", "validation"):
        data[name] = [{**source, "root": None, "clips": None} for source in data[name]]
    named = {name: _without_path(content[name]) for name in ("model", "lora")}
    return {**content, "data": {**data, "flow_root": None}, **named}


def _without_path(value: Any) -> Any:
    """Paths within nested settings as their last name; a Hub id stays what it is."""
    if isinstance(value, dict):
        return {name: _without_path(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_without_path(part) for part in value]
    if not isinstance(value, str) or not (os.path.isabs(value) or os.path.exists(value)):
        return value
    return DEFAULT_NAME if is_default_model(value) else Path(value).name


__all__ = ["write_training_card"]
