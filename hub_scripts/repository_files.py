# SPDX-License-Identifier: Apache-2.0
"""Which files of a folder may go to the Hub: those on a list, without pickles and without secrets."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from safetensors import SafetensorError, safe_open

LEFT_OUT = ("__pycache__", ".git", ".cache", ".DS_Store")  # never looked at, never sent
PICKLE_SUFFIXES = {".bin", ".ckpt", ".joblib", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth"}
PICKLE_STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")  # pickle protocols, torch.save
TEXT_SUFFIXES = {"", ".css", ".csv", ".html", ".json", ".md", ".py", ".toml", ".txt", ".yaml", ".yml"}
SECRETS: Mapping[str, re.Pattern[str]] = {
    "a token of the Hub": re.compile(r"\bhf_[A-Za-z0-9]{30,}\b"),
    "a token of GitHub": re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{30,})\b"),
    "an API key": re.compile(r"\bsk-[A-Za-z0-9_-]{20,}\b"),
    "a key of AWS": re.compile(r"\bAKIA[0-9A-Z]{16}\b"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
}

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
    ".eval_results/*.yaml",
)
ADAPTER_FILES = (
    "README.md",
    "LICENSE",
    "NOTICE.md",
    "adapter_config.json",
    "adapter_model.safetensors",
    "processor_config.json",
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


def checked_files(folder: Path, allowed: tuple[str, ...], needed: tuple[str, ...]) -> list[RepositoryFile]:
    """All files of `folder` in order of their names.

    Raises:
        ValueError: naming every file that is not allowed, could run code when loaded, or holds a secret; or what is
            missing.
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
    if path.suffix == ".safetensors":
        return _weights_complaint(path)
    with path.open("rb") as file:
        if file.read(4).startswith(PICKLE_STARTS):
            return "a pickle under another name"
    if path.suffix in TEXT_SUFFIXES:
        text = path.read_text(encoding="utf-8", errors="replace")
        for what, pattern in SECRETS.items():
            if pattern.search(text):
                return f"holds {what}: remove it, and revoke it where it was made"
    return None


def _weights_complaint(path: Path) -> str | None:
    try:
        with safe_open(path, framework="numpy") as weights:
            return None if list(weights.keys()) else "holds no weights"
    except SafetensorError as error:
        return f"no safetensors file ({error})"


def model_files(folder: Path) -> list[RepositoryFile]:
    """The checked files of a model or adapter repository.

    Raises:
        ValueError: as `checked_files`; for code that the config does not name, code that it names and is not there,
            shards that are missing, or an adapter whose base is a folder of this machine.
    """
    if (folder / "adapter_config.json").is_file():
        files = checked_files(folder, ADAPTER_FILES, ("README.md", "adapter_model.safetensors"))
        _check_base(folder)
        return files
    code = _named_code(folder)
    allowed = (*MODEL_FILES, "*.py") if code else MODEL_FILES
    needed = ("README.md", "config.json", "processor_config.json", "model*.safetensors", *sorted(code))
    files = checked_files(folder, allowed, (*needed, *_shards(folder)))
    _check_relative_imports(folder)
    return files


def _named_code(folder: Path) -> set[str]:
    """The code files that `config.json` and `processor_config.json` name."""
    named = set()
    for name in ("config.json", "processor_config.json"):
        if not (folder / name).is_file():
            continue
        config = json.loads((folder / name).read_text(encoding="utf-8"))
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


def _shards(folder: Path) -> set[str]:
    index = folder / "model.safetensors.index.json"
    return set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()) if index.is_file() else set()


def _check_base(folder: Path) -> None:
    base = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not base or not re.fullmatch(r"[\w.-]+/[\w.-]+", base) or Path(base).exists():
        raise ValueError(
            f"{folder} is not sent: its adapter stands on {base!r}, which nobody else has: write the Hub id of the "
            "base as base_model_name_or_path into adapter_config.json"
        )
