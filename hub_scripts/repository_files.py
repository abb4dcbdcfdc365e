# SPDX-License-Identifier: Apache-2.0
"""Which files of a folder may go to the Hub: those on a list, without pickles and without secrets."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError, safe_open
from transformers import CONFIG_MAPPING, AutoModel

from video_saliency.loading import SHOWN_KEYS, load_config, load_processor
from video_saliency.sharded_weights import INDEX_NAME, WEIGHTS_NAME

GLOB_CHARACTERS = "*?[]"
LEFT_OUT = ("__pycache__", ".git", ".cache", ".DS_Store")  # never looked at, never sent
PICKLE_SUFFIXES = {".bin", ".ckpt", ".joblib", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth"}
PICKLE_STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")  # pickle protocols, torch.save
TEXT_SUFFIXES = {"", ".css", ".csv", ".html", ".json", ".md", ".py", ".toml", ".txt", ".yaml", ".yml"}
# a secret may follow an underscore, which \b takes for a letter
START = r"(?<![A-Za-z0-9])"
NAME_OF_SECRET = r"[A-Z0-9_]*(?:API_KEY|SECRET|TOKEN|PASSWORD)[\"']?\s*[:=]\s*"
SECRETS: Mapping[str, re.Pattern[str]] = {
    what: re.compile(rf"{START}(?:{pattern})")
    for what, pattern in {
        "a token of the Hub": r"hf_[A-Za-z0-9]{30,}",
        "a token of GitHub": r"gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,}",
        "a token of GitLab": r"glpat-[\w-]{20,}",
        "a token of Slack": r"xox[abeoprs]-[A-Za-z0-9-]{10,}",
        "an API key": r"sk-[\w-]{20,}|[rs]k_(?:live|test)_[A-Za-z0-9]{16,}|AIza[\w-]{35}",
        "a key of AWS": r"AKIA[0-9A-Z]{16}",
        "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
        # quoted, with a digit, which prose rarely has, and not the path of a file that holds the secret
        "a key or password": rf"{NAME_OF_SECRET}[\"']+(?![.~]*/)(?=[^\s\"']*\d)[\w+/.-]{{16,}}",
        "an address with a password": r"[a-z][a-z0-9+.-]*://[^\s/:@\"'<>]+:[^\s/@\"'<>]+@",
    }.items()
}
# Not in code, where a value without quotes is a name; elsewhere one with a dot, a bracket or a slash is code or a path
UNQUOTED_SECRET = re.compile(rf"{START}{NAME_OF_SECRET}(?=[\w+-]*\d)[\w+-]{{16,}}(?![\w+./()\[\]{{}}-])")

EVAL_RESULTS = ".eval_results/*.yaml"
MODEL_FILES = (
    "README.md",
    "LICENSE",
    "NOTICE.md",
    "config.json",
    "processor_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "conversion.json",
    "training.json",
    "scores.json",
    "speed.json",
    EVAL_RESULTS,
)
ADAPTER_FILES = (
    "README.md",
    "LICENSE",
    "NOTICE.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "processor_config.json",
    "conversion.json",
    "training.json",
    "scores.json",
)
SPACE_FILES = ("README.md", "LICENSE", "*.py", "requirements.txt", "friday.mp4")
METRIC_FILES = ("README.md", "LICENSE", "*.py", "index.html", "requirements.txt")


@dataclass(frozen=True)
class RepositoryFile:
    """A file to be sent: its path in the repository and its size in bytes."""

    path: str
    size: int


def check_repository_id(name: str) -> None:
    """Raises `ValueError` for anything but `ORG/NAME` in the characters that the Hub allows."""
    try:
        if name.count("/") != 1:
            raise ValueError("it needs one slash, between the owner and the name")
        validate_repo_id(name)
    except ValueError as error:
        raise ValueError(f"{name!r} is no repository: write ORG/NAME ({error})") from error


def checked_files(folder: Path, allowed: tuple[str, ...], needed: tuple[str, ...]) -> list[RepositoryFile]:
    """All files of `folder` in order of their names.

    Raises:
        ValueError: naming every file that is not allowed, could run code when loaded, is damaged or holds a secret; or
            what is missing.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: name the one that holds the repository")
    paths = [path for path in sorted(folder.rglob("*")) if not path.is_dir() or path.is_symlink()]
    paths = [path for path in paths if not set(path.relative_to(folder).parts) & set(LEFT_OUT)]
    complaints = [
        f"{path.relative_to(folder).as_posix()}: {complaint}"
        for path in paths
        if (complaint := _complaint(path, path.relative_to(folder).as_posix(), allowed))
    ]
    names = {path.relative_to(folder).as_posix() for path in paths}
    complaints += [f"{name} is missing" for name in needed if not any(fnmatch(found, name) for found in names)]
    if complaints:
        raise ValueError(f"{folder} is not sent: " + "; ".join(complaints))
    return [RepositoryFile(path.relative_to(folder).as_posix(), path.stat().st_size) for path in paths]


def _complaint(path: Path, name: str, allowed: tuple[str, ...]) -> str | None:
    if path.is_symlink():
        return "a link: put the file itself there"
    if path.suffix.lower() in PICKLE_SUFFIXES:
        return "may hold pickled code: save weights as safetensors"
    # fnmatch lets * match a slash: compare part by part
    if not any(
        len(parts := Path(name).parts) == len(pattern := Path(entry).parts) and all(map(fnmatch, parts, pattern))
        for entry in allowed
    ):
        return "not a file of such a repository: remove it"
    if set(name) & set(GLOB_CHARACTERS):
        return f"a name with one of {GLOB_CHARACTERS}, which the upload would take for a pattern: rename it"
    if path.suffix == ".safetensors":
        return _weights_complaint(path)
    with path.open("rb") as file:
        if file.read(4).startswith(PICKLE_STARTS):
            return "a pickle under another name"
    if path.suffix in TEXT_SUFFIXES:
        return _text_complaint(path)
    return None


def _text_complaint(path: Path) -> str | None:
    text = path.read_text(encoding="utf-8", errors="replace")
    if secret := _secret_in(text, is_code=path.suffix == ".py"):
        return secret
    if path.suffix == ".json":
        try:
            json.loads(text)
        except ValueError as error:
            return f"no JSON file ({error}): write it again"
    return None


def _secret_in(text: str, *, is_code: bool = False) -> str | None:
    found = next((what for what, pattern in SECRETS.items() if pattern.search(text)), None)
    if found is None and not is_code and UNQUOTED_SECRET.search(text):
        found = "a key or password"
    return None if found is None else f"holds {found}: remove it, and revoke it where it was made"


def _weights_complaint(path: Path) -> str | None:
    try:
        with safe_open(path, framework="numpy") as weights:
            if not list(weights.keys()):
                return "holds no weights"
            return _secret_in(json.dumps(weights.metadata() or {}))
    except SafetensorError as error:
        return f"no safetensors file ({error})"


def model_files(folder: Path) -> list[RepositoryFile]:
    """The checked files of a model or adapter repository.

    Raises:
        ValueError: as `checked_files`; for a config or processor that does not load, weights that are not those of the
            config, shards that are missing or beside the point, code that the config does not name, code that it names
            and is not there, or an adapter whose base is a folder of this machine.
    """
    if (folder / "adapter_config.json").is_file():
        files = checked_files(folder, ADAPTER_FILES, ("README.md", "adapter_model.safetensors"))
        _check_base(folder)
        return files
    code = _named_code(folder)
    allowed = (*MODEL_FILES, "*.py") if code else MODEL_FILES
    needed = ("README.md", "config.json", "processor_config.json", *sorted(code), *sorted(_weight_names(folder)))
    files = checked_files(folder, allowed, needed)
    _check_relative_imports(folder)
    _check_weight_files(folder)
    _check_model(folder)
    return files


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path.parent} is not sent: {path.name} is no JSON file ({error}): write it again"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path.parent} is not sent: {path.name} holds no JSON object: write it again")
    return content


def _weight_names(folder: Path) -> set[str]:
    """The files with weights that there must be: one, or those of the index."""
    if not (folder / INDEX_NAME).is_file():
        return {WEIGHTS_NAME}
    weight_map = _read_json(folder / INDEX_NAME).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{folder} is not sent: {INDEX_NAME} names no weights: export the model again")
    return set(map(str, weight_map.values()))


def _check_weight_files(folder: Path) -> None:
    """Refuse files with weights that loading would not read, and an index that tells another story than its files."""
    names = _weight_names(folder)
    if others := sorted(path.name for path in folder.glob("*.safetensors") if path.name not in names):
        raise ValueError(
            f"{folder} is not sent: {', '.join(others)} is none of the weights in {', '.join(sorted(names))}: remove "
            "it, or export the model again"
        )
    if (folder / INDEX_NAME).is_file():  # else the one file holds all
        stated = _read_json(folder / INDEX_NAME)["weight_map"]
        found = {key: name for name in names for key in _shapes(folder / name)}
        if different := sorted(key for key in {*stated, *found} if stated.get(key) != found.get(key)):
            raise ValueError(
                f"{folder} is not sent: {INDEX_NAME} and its files disagree about {_listed(different)}: "
                "export the model again"
            )


def _check_model(folder: Path) -> None:
    """Load config and processor strictly, and compare the weights by names and shapes; no weight is read.

    A repository with its own code whose system this package does not know is left to its code.
    """
    if _named_code(folder) and _read_json(folder / "config.json").get("model_type") not in CONFIG_MAPPING:
        return
    config = load_config(str(folder))
    load_processor(str(folder))
    with torch.device("meta"):
        expected = {name: tuple(value.shape) for name, value in AutoModel.from_config(config).state_dict().items()}
    found = {key: shape for name in _weight_names(folder) for key, shape in _shapes(folder / name).items()}
    problems = {
        "missing": sorted(set(expected) - set(found)),
        "unused": sorted(set(found) - set(expected)),
        "misshapen": sorted(key for key in set(found) & set(expected) if found[key] != expected[key]),
    }
    told = [f"{kind}: {_listed(keys)}" for kind, keys in problems.items() if keys]
    if told:
        raise ValueError(
            f"{folder} is not sent: its weights do not fit its config.json, {'; '.join(told)}: export the model again"
        )


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    with safe_open(path, framework="numpy") as weights:
        return {key: tuple(weights.get_slice(key).get_shape()) for key in weights.keys()}  # noqa: SIM118


def _listed(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else ""
    return ", ".join(keys[:SHOWN_KEYS]) + more


def _named_code(folder: Path) -> set[str]:
    """The code files that `config.json` and `processor_config.json` name."""
    named = set()
    for name in ("config.json", "processor_config.json"):
        if not (folder / name).is_file():
            continue
        config = _read_json(folder / name)
        references = [entry["impl"] for entry in config.get("custom_pipelines", {}).values()]
        for entry in config.get("auto_map", {}).values():  # of tokenizers a pair, the second of which may be null
            references += [reference for reference in entry if reference] if isinstance(entry, list) else [entry]
        named |= {f"{reference.rsplit('.', 1)[0]}.py" for reference in references if "--" not in reference}
    return named


def _check_relative_imports(folder: Path) -> None:
    for path in folder.glob("*.py"):
        for module in re.findall(r"^\s*from \.(\w+) import", path.read_text(encoding="utf-8"), flags=re.MULTILINE):
            if not (folder / f"{module}.py").is_file():
                raise ValueError(f"{folder} is not sent: {path.name} needs {module}.py: export the model again")


def _check_base(folder: Path) -> None:
    base = _read_json(folder / "adapter_config.json").get("base_model_name_or_path")
    if not base or not re.fullmatch(r"[\w.-]+/[\w.-]+", base) or Path(base).exists():
        raise ValueError(
            f"{folder} is not sent: its adapter stands on {base!r}, which nobody else has: write the Hub id of the "
            "base as base_model_name_or_path into adapter_config.json"
        )
