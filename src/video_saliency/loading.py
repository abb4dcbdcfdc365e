# SPDX-License-Identifier: Apache-2.0
"""Loading a model and its processor strictly, with errors that say what to do.

transformers fills missing weights with random ones and only logs it, and makes up a processor where none is saved.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, AutoProcessor
from transformers.utils import find_adapter_config_file, is_peft_available

from video_saliency.processing_video_saliency import VideoSaliencyProcessor
from video_saliency.weights_record import RECORD, Record, read_record, untrained_tensors

logger = logging.getLogger(__name__)

SHOWN_KEYS = 5


def load_config(name_or_path: str) -> Any:
    """The config of a model folder or Hub id, of an adapter that of its base model.

    Raises:
        ValueError: if there is none, or not one of a saliency model.
    """
    if Path(name_or_path).is_dir() and (base := _base_of_adapter(name_or_path)) is not None:
        return _config_of_base(name_or_path, base)
    _check_name(name_or_path)
    _check_folder(name_or_path, "config.json", "name a folder that save_pretrained wrote")
    try:
        config = _load(AutoConfig, name_or_path)
    except ValueError as error:
        # asked last, so that a Hub that cannot be reached is not tried twice
        lacks_config = "does not appear to have a file named config.json" in str(error.__cause__)
        base = _base_of_adapter(name_or_path) if lacks_config else None
        if base is None:
            raise
        return _config_of_base(name_or_path, base)
    if getattr(config, "window_spec", None) is None:
        raise ValueError(
            f"{name_or_path} is a {config.model_type} model, not one for video saliency: name another one"
        )
    return config


def load_model(name_or_path: str, *, config: Any = None) -> Any:
    """The model of a folder or Hub id with all of its weights, in evaluation mode.

    Warns if its record says that some of them were never trained.

    Args:
        name_or_path: folder or Hub id.
        config: to take in place of its own, for other settings with the same weights.

    Raises:
        ValueError: if it cannot be loaded, or weights are missing, unused or misshapen; the message names them.
    """
    load_config(name_or_path)
    options = {} if config is None else {"config": config}
    model, report = _load(AutoModel, name_or_path, output_loading_info=True, **options)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        keys = sorted(str(key) for key in report.get(kind) or ())
        if keys:
            more = f" and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else ""
            raise ValueError(
                f"the weights of {name_or_path} do not fit its config, {kind.replace('_', ' ')}: "
                f"{', '.join(keys[:SHOWN_KEYS])}{more}: save or download the model again"
            )
    warn_if_untrained(name_or_path)
    return model.eval()


def load_record(name_or_path: str) -> Record | None:
    """The record of where the weights of a folder or Hub id are from; of an adapter without one, that of its base.

    Warns if the Hub cannot be asked. Raises `ValueError` for a damaged record.
    """
    try:
        record = read_record(name_or_path)
        if record is None and (base := _base_of_adapter(name_or_path)) is not None:
            record = read_record(base)
    except OSError as error:
        logger.warning("whether %s has a record of its origin cannot be found out: %s", name_or_path, error)
        return None
    return record


def warn_if_untrained(name_or_path: str) -> None:
    """Log a warning if the record of a model folder or Hub id names tensors that nobody trained."""
    try:
        untrained = untrained_tensors(read_record(name_or_path))
    except (OSError, ValueError) as error:  # a model works without its record
        logger.debug("%s: %s", name_or_path, error)
        return
    if untrained:
        logger.warning(
            "%s was never trained as a whole: %d of its tensors, such as %s, hold random values, says its %s. "
            "Its maps mean nothing before they are trained",
            *(name_or_path, len(untrained), untrained[0], RECORD),
        )


def load_processor(name_or_path: str) -> VideoSaliencyProcessor:
    """The processor of a folder or Hub id. Raises `ValueError` if there is none."""
    _check_name(name_or_path)
    _check_folder(name_or_path, "processor_config.json", "save the processor beside the model")
    processor: VideoSaliencyProcessor = _load(AutoProcessor, name_or_path)
    return processor


def _base_of_adapter(name_or_path: str) -> str | None:
    """The base model that a folder or Hub id names if it holds an adapter of PEFT; `None` if it does not."""
    folder = Path(name_or_path)
    if not is_peft_available():
        if (folder / "adapter_config.json").exists():
            raise ValueError(f"{name_or_path} is an adapter, which needs peft: pip install peft")
        return None
    if (folder / "config.json").exists():
        return None
    try:
        file = find_adapter_config_file(name_or_path)
        return None if file is None else str(json.loads(Path(file).read_text())["base_model_name_or_path"])
    except (OSError, ValueError, KeyError):
        return None  # a repository that cannot be reached either: loading its config says why


def _config_of_base(adapter: str, base: str) -> Any:
    """The config of an adapter's base model. Raises `ValueError` if there is none."""
    try:
        if Path(base).is_absolute() and not Path(base).is_dir():  # nothing to ask the Hub for
            raise ValueError(f"there is no folder {base}")
        return load_config(base)
    except ValueError as error:
        raise ValueError(
            f"{adapter} is an adapter of the model {base!r}, which cannot be loaded: set base_model_name_or_path in "
            f"adapter_config.json to the folder or Hub id where its base model is now ({error})"
        ) from error


def _check_name(name_or_path: str) -> None:
    """Before the Hub is asked, which takes half a minute where it cannot be reached."""
    if "/" not in name_or_path and not Path(name_or_path).is_dir():
        raise ValueError(
            f"there is no folder {name_or_path!r} here, and a Hub id has the form ORG/NAME: check the model's name"
        )


def _check_folder(name_or_path: str, file: str, remedy: str) -> None:
    folder = Path(name_or_path)
    if folder.is_dir() and not (folder / file).exists():
        raise ValueError(f"{name_or_path} has no {file}: {remedy}")


def _load(auto_class: Any, name_or_path: str, **options: Any) -> Any:
    try:
        return auto_class.from_pretrained(name_or_path, **options)
    except torch.OutOfMemoryError:
        raise
    except (OSError, ValueError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())[:200]
        if Path(name_or_path).is_dir():
            raise ValueError(
                f"the model in {name_or_path} is damaged ({reason}): save or download it again"
            ) from error
        raise ValueError(
            f"cannot load the model {name_or_path!r}: it must be a folder or the id of a repository on the Hub that "
            f"you can reach ({reason})"
        ) from error
