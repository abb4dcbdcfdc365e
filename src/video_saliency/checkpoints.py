# SPDX-License-Identifier: Apache-2.0
"""Weights of other projects: reading their files, and fitting them strictly into a model.

A system's converter (`models/<name>/convert_<name>.py`) says which files it takes and how their names become ours; it
is a table of `Source`s around pure functions. `video_saliency.conversion` runs it.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PreTrainedConfig, PreTrainedModel

StateDict = dict[str, torch.Tensor]
SafeClass = type | tuple[type, str]  # with a name: what stands in for the class that files call so

WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "module")  # under which trainers put weights
PARALLEL_PREFIX = "module."  # torch.nn.DataParallel


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a file, and what else is known of it.

    Attributes:
        tensors: names as in the file, without the wrapper's and a `DataParallel` prefix; they may be mapped from disk.
        file_name: without its folder.
        sha256: of the whole file.
        wrapper: the entry that held the tensors, if they are not at the top.
        ignored_entries: entries beside the wrapper, such as an optimiser's state.
    """

    tensors: StateDict
    file_name: str
    sha256: str
    wrapper: str | None = None
    ignored_entries: tuple[str, ...] = ()


@dataclass(frozen=True)
class Terms:
    """Under which terms weights may be used.

    Attributes:
        text: for people.
        licence: the Hub's identifier for the card, if one licence is known to hold.
    """

    text: str
    licence: str | None = None


@dataclass(frozen=True)
class Source:
    """A kind of file that a converter takes.

    Attributes:
        title: what the file is, for help and messages.
        convert: a pure function from the file's names and layouts to those of the model below a place; names that it
            does not know stay as they are, so that they are reported as unused.
        places: from a config to the prefixes of the model's names below which the tensors belong; each gets a copy.
            The prefix `""` is the whole model, less what other sources fill.
        terms: of the file, given its converted tensors.
        dropped: patterns (`fnmatch`) of names in the file that the model has no use for.
        optional: patterns of our names that a file may lack: they keep their initial values.
        safe_classes: classes beside tensors that may be unpickled from the file, see `read_checkpoint`.
        part: a prefix. Where names in the file begin with it, they lose it, and all others are dropped: the file holds
            a larger model.
        fills: which of the model's names below a place the file is for. Default: all.
    """

    title: str
    convert: Callable[[StateDict], StateDict]
    places: Callable[[Any], Sequence[str]]
    terms: Callable[[StateDict], Terms]
    dropped: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    safe_classes: tuple[SafeClass, ...] = ()
    part: str = ""
    fills: Callable[[str], bool] = lambda name: True


@dataclass(frozen=True)
class Converter:
    """All that is particular about converting the weights of one system.

    Attributes:
        model_class: what the weights become.
        sources: by the name that the command line gives them; those of special places before those of the whole model.
        make_config: from the fields of the user's config file (`None`: no file) and each given source's converted
            tensors to the config. Raises `ValueError` for sources that do not go together.
        processor_settings: from the config to the arguments of the model's `VideoSaliencyProcessor`.
        resolve: for names that depend on the config: from a converted name below its place in the model, and all names
            of the model, to that of the model. Default: they are the same.
        required: sources without which the others are of no use.
    """

    model_class: type[PreTrainedModel]
    sources: Mapping[str, Source]
    make_config: Callable[[dict[str, Any] | None, Mapping[str, StateDict]], PreTrainedConfig]
    processor_settings: Callable[[Any], dict[str, Any]]
    resolve: Callable[[str, Container[str]], str] = lambda name, names: name
    required: tuple[str, ...] = ()


@dataclass
class Fit:
    """Where converted tensors go in a model, and what does not fit.

    Attributes:
        tensors: by the model's names.
        left_out: names that the file may lack and does.
        problems: one entry for each missing, unused or misshapen name.
    """

    tensors: StateDict = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    problems: dict[str, list[str]] = field(default_factory=lambda: {"missing": [], "unused": [], "misshapen": []})

    def describe_problems(self) -> str:
        """All of them in one line; empty if all is well."""
        return "; ".join(f"{kind}: {', '.join(names)}" for kind, names in self.problems.items() if names)


def read_checkpoint(path: str | os.PathLike[str], *, safe_classes: Iterable[SafeClass] = ()) -> Checkpoint:
    """The tensors of a safetensors file (by its suffix), or else of one that `torch.save` wrote.

    Pickled files are loaded with `weights_only`, and mapped from disk where their format allows it.

    Args:
        path: the file.
        safe_classes: classes beside tensors that may be unpickled; `(class, "module.Name")` for one that stands in for
            a class of another program, which need not be installed.

    Raises:
        ValueError: if it is no such file, holds no tensors, or code instead of tensors.
        FileNotFoundError: if there is none.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder: name the file with the weights in it")
    digest = file_sha256(path)
    content = _load_safetensors(path) if path.suffix == ".safetensors" else _load_pickle(path, tuple(safe_classes))
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{path} holds a {type(content).__name__}, not a state dict: save the model's state_dict()")
    wrapper = None
    if not all(isinstance(value, torch.Tensor) for value in content.values()):
        wrapper = next((name for name in WRAPPERS if isinstance(content.get(name), dict)), None)
    ignored = tuple(sorted(str(name) for name in content if name != wrapper)) if wrapper else ()
    tensors = content[wrapper] if wrapper else content
    others = [str(name) for name, value in tensors.items() if not isinstance(value, torch.Tensor)]
    if others or not tensors:
        raise ValueError(
            f"{path} holds entries that are not tensors ({', '.join(others) or 'none at all'}): a state dict is "
            f"expected, at the top or under one of {', '.join(WRAPPERS)}"
        )
    tensors = {str(name): value.detach() for name, value in tensors.items()}
    if all(name.startswith(PARALLEL_PREFIX) for name in tensors):
        tensors = {name.removeprefix(PARALLEL_PREFIX): value for name, value in tensors.items()}
    return Checkpoint(tensors, path.name, digest, wrapper, ignored)


def _load_safetensors(path: Path) -> Any:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file, or a damaged one ({error})") from error


def _load_pickle(path: Path, safe_classes: tuple[SafeClass, ...]) -> Any:
    is_mappable = zipfile.is_zipfile(path)  # the form of torch.save since 1.6
    try:
        with torch.serialization.safe_globals(list(safe_classes)):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_mappable)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, LookupError, AttributeError) as error:
        if named := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise ValueError(
                f"{path} holds {named[1]} beside tensors: only tensors are loaded, because other objects could run "
                "code; save the state_dict() alone in the program that made it"
            ) from error
        # torch's own words are about its settings, not about the file
        raise ValueError(
            f"{path} is no checkpoint of torch or safetensors, or a damaged one: name the file with the weights, or "
            "download it again"
        ) from error


def file_sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def rename(tensors: StateDict, new_name: Callable[[str], str]) -> StateDict:
    """The tensors under new names. Raises `ValueError` if two names become one."""
    renamed: StateDict = {}
    for name, tensor in tensors.items():
        if new_name(name) in renamed:
            raise ValueError(f"two entries of the file are the same weight, {new_name(name)}; one of them is {name}")
        renamed[new_name(name)] = tensor
    return renamed


def take_part(tensors: StateDict, prefix: str) -> tuple[StateDict, list[str]]:
    """The tensors under `prefix`, without it, and the names of the others; all tensors as they are if none has it."""
    if not any(name.startswith(prefix) for name in tensors):
        return tensors, []
    kept = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    return kept, [name for name in tensors if not name.startswith(prefix)]


def drop(tensors: StateDict, patterns: Sequence[str]) -> tuple[StateDict, list[str]]:
    """The tensors whose names fit no pattern, and the names of the others."""
    dropped = [name for name in tensors if _fits(name, patterns)]
    return {name: tensor for name, tensor in tensors.items() if name not in dropped}, dropped


def fit(
    converted: StateDict, expected: Mapping[str, Sequence[int]], places: Sequence[str], *, optional: Sequence[str] = ()
) -> Fit:
    """Puts converted tensors in their places and compares names and shapes.

    Args:
        converted: by names below a place.
        expected: names and shapes of the model, those left out that other sources fill.
        places: prefixes of the model's names. Each but the first gets copies: two streams must not share memory.
        optional: patterns of names, below a place, that may be missing.
    """
    result = Fit()
    for number, place in enumerate(places):
        shapes = {name.removeprefix(place): tuple(expected[name]) for name in expected if name.startswith(place)}
        for name, shape in shapes.items():
            if name not in converted:
                (result.left_out if _fits(name, optional) else result.problems["missing"]).append(place + name)
            elif tuple(converted[name].shape) != shape:
                found = list(converted[name].shape)
                result.problems["misshapen"].append(f"{place}{name} is {found} and should be {list(shape)}")
            else:
                tensor = converted[name]
                result.tensors[place + name] = tensor if number == 0 else tensor.clone()
        if number == 0:
            result.problems["unused"] += [name for name in converted if name not in shapes]
    return result


def _fits(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


__all__ = [
    "Checkpoint",
    "Converter",
    "Fit",
    "SafeClass",
    "Source",
    "StateDict",
    "Terms",
    "drop",
    "file_sha256",
    "fit",
    "read_checkpoint",
    "rename",
    "take_part",
]
