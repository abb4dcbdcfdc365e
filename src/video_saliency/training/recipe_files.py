# SPDX-License-Identifier: Apache-2.0
"""Recipes of training, read strictly.

A recipe is a YAML file with one mapping for each section of `TrainingArguments`, and a mapping `smoke` of what a run
on miniature data changes. An unknown name or a value of the wrong kind is an error that names its place.
"""

from __future__ import annotations

import dataclasses
import re
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from video_saliency.training.training_arguments import TrainingArguments

SMOKE = "smoke"


def read_recipe(path: str | Path, *, smoke: bool = False) -> dict[str, Any]:
    """The sections of a recipe file; with `smoke` those of its run on miniature data.

    Raises:
        ValueError: if it is not YAML, no mapping, or has no section `smoke` where that is asked for.
        FileNotFoundError: if there is no such file.
    """
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_RecipeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold the sections of a recipe, such as `model:` and `data:`")
    miniature = content.pop(SMOKE, None)
    if not smoke:
        return content
    if not isinstance(miniature, dict):
        raise ValueError(f"{path} has no section `smoke`: it cannot be tried on miniature data")
    return merged(content, miniature)


def make_arguments(content: Mapping[str, Any]) -> TrainingArguments:
    """The arguments of a recipe's sections.

    Raises:
        ValueError: for an unknown name, or a value of the wrong kind.
    """
    arguments: TrainingArguments = _build(TrainingArguments, content, "")
    return arguments


def merged(content: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`content` with `changes`: mappings are joined, but an empty one empties; anything else is replaced."""
    result = dict(content)
    for name, value in changes.items():
        old = result.get(name)
        result[name] = (
            merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) and value else value
        )
    return result


def changed(content: Mapping[str, Any], setting: str) -> dict[str, Any]:
    """`content` with one setting of the command line, such as `loop.epochs=3`.

    Raises:
        ValueError: for another form.
    """
    name, separator, text = setting.partition("=")
    if not separator or not name:
        raise ValueError(f"a setting looks like loop.epochs=3, got {setting!r}")
    try:
        value: Any = yaml.load(text, Loader=_RecipeLoader)
    except yaml.YAMLError as error:
        raise ValueError(f"the value of {name} is not YAML: {text!r}") from error
    for part in reversed(name.split(".")):
        value = {part: value}
    return merged(content, value)


class _RecipeLoader(yaml.SafeLoader):
    """YAML as in its version 1.2: `1e-4` is a number, and `no` is text, as in `loop.precision=no`."""


BOOLEAN = "tag:yaml.org,2002:bool"
_RecipeLoader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in resolvers if tag != BOOLEAN or first in "tTfF"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_RecipeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def _build(kind: Any, value: Any, place: str) -> Any:
    """`value` as `kind`: a dataclass from a mapping, lists of them, or a plain value that is checked."""
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, Mapping):
            raise ValueError(f"{place or 'a recipe'} must be a mapping, got {value!r}")
        hints = get_type_hints(kind)
        if unknown := sorted(set(value) - set(hints)):
            raise ValueError(
                f"{place + '.' if place else ''}{unknown[0]} is unknown: choose from {', '.join(sorted(hints))}"
            )
        prefix = f"{place}." if place else ""
        make: Any = kind
        try:
            return make(**{name: _build(hints[name], part, f"{prefix}{name}") for name, part in value.items()})
        except TypeError as error:
            raise ValueError(f"{place or 'the recipe'} is incomplete: {error}") from error
    if get_origin(kind) in (Union, types.UnionType):
        if value is None and type(None) in get_args(kind):
            return None
        fitting = [part for part in get_args(kind) if part is not type(None) and _fits(part, value)]
        return _build(fitting[0] if fitting else get_args(kind)[0], value, place)
    if not _fits(kind, value):
        wanted = f"one of {', '.join(map(str, get_args(kind)))}" if get_origin(kind) is Literal else _name(kind)
        raise ValueError(f"{place} must be {wanted}, got {value!r}")
    if get_origin(kind) is list:
        return [_build(get_args(kind)[0], part, f"{place}[{index}]") for index, part in enumerate(value)]
    return float(value) if kind is float else value


def _fits(kind: Any, value: Any) -> bool:
    origin = get_origin(kind)
    if origin is Literal:
        return value in get_args(kind)
    if kind is Any or dataclasses.is_dataclass(kind):
        return True
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, (list, tuple) if origin is list else origin or kind)


def _name(kind: Any) -> str:
    return {int: "a whole number", float: "a number", str: "text", bool: "true or false"}.get(kind, str(kind))


__all__ = ["changed", "make_arguments", "merged", "read_recipe"]
