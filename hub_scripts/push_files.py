# SPDX-License-Identifier: Apache-2.0
"""What the three push scripts share: the list of what would be sent, and the sending."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from card_texts import with_repository
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from repository_files import (
    ADAPTER_FILES,
    METRIC_FILES,
    MODEL_FILES,
    SPACE_FILES,
    RepositoryFile,
    check_repository_id,
)

# huggingface_hub does not name the errors of its HTTP client, and has changed that client
CONNECTION_ERRORS = tuple(
    importlib.import_module(name).TransportError for name in ("httpx", "httpx2") if importlib.util.find_spec(name)
)

CARD = "README.md"
# files of an older state that would not fit to those that are sent: all that any of the scripts sends, and their kinds
STALE = sorted(
    {*MODEL_FILES, *ADAPTER_FILES, *SPACE_FILES, *METRIC_FILES}
    | {"*.py", "*.safetensors", "*.safetensors.index.json", "*_config.json"}
)


def push(
    api: HfApi,
    folder: Path,
    files: Sequence[RepositoryFile],
    repo_id: str,
    *,
    repo_type: str,
    space_sdk: str | None = None,
    public: bool = False,
) -> tuple[str, bool]:
    """Make the repository if there is none, and send the files; returns its address and whether anything was new.

    What is there already is not sent again, neither after an interruption nor when nothing changed. Code, weights and
    records of an older state that are not among the files are deleted in the same commit.
    """
    address = api.create_repo(repo_id, repo_type=repo_type, private=not public, space_sdk=space_sdk, exist_ok=True)
    repo_id = address.repo_id  # the Hub has the last word on it: repositories are renamed
    before = api.repo_info(repo_id, repo_type=repo_type).sha
    api.upload_folder(
        repo_id=repo_id,
        folder_path=folder,
        repo_type=repo_type,
        allow_patterns=[file.path for file in files],
        delete_patterns=STALE,
        commit_message="Upload by the push script of video-saliency",
    )
    return str(address), api.repo_info(repo_id, repo_type=repo_type).sha != before


@contextmanager
def with_name(
    folder: Path, files: Sequence[RepositoryFile], repo_id: str
) -> Iterator[tuple[Path, Sequence[RepositoryFile]]]:
    """A folder and its files whose card gives the repository's name; where it lacked it, one of links to the files."""
    card = folder / CARD
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    named = with_repository(text, repo_id)
    if named == text:
        yield folder, files
        return
    with TemporaryDirectory() as temporary:
        for file in files:
            link = Path(temporary) / file.path
            link.parent.mkdir(exist_ok=True)
            if file.path != CARD:
                _link_or_copy(folder / file.path, link)
        (Path(temporary) / CARD).write_text(named, encoding="utf-8")
        yield Path(temporary), [replace(file, size=(Path(temporary) / file.path).stat().st_size) for file in files]


def _link_or_copy(source: Path, link: Path) -> None:
    try:
        link.symlink_to(source.resolve())
    except OSError:  # not every system lets everybody make links
        shutil.copyfile(source, link)


def push_main(
    arguments: Sequence[str] | None,
    *,
    description: str,
    read_files: Callable[[Path], list[RepositoryFile]],
    repo_type: str,
    space_sdk: str | None = None,
    default_folder: Path | None = None,
    api: HfApi | None = None,
    prepared: Callable[[Path], AbstractContextManager[Path]] = nullcontext,
) -> int:
    """The command line of a push script; returns its exit code.

    Args:
        arguments: of the command line; `None` takes those of the process.
        description: of the script.
        read_files: from the folder to its checked files.
        repo_type, space_sdk: of the repository.
        default_folder: if the folder need not be named.
        api: how to reach the Hub; by default as the environment says.
        prepared: from the named folder to the one that is sent.
    """
    parser = argparse.ArgumentParser(description=description)
    if default_folder is None:
        parser.add_argument("folder", type=Path)
    else:
        parser.add_argument("folder", type=Path, nargs="?", default=default_folder, help="default: %(default)s")
    parser.add_argument("--repo", required=True, metavar="ORG/NAME", help="repository on the Hub")
    parser.add_argument("--push", action="store_true", help="send; without it the files are only listed")
    parser.add_argument("--public", action="store_true", help="make a new repository public; default: private")
    options = parser.parse_args(arguments)
    try:
        check_repository_id(options.repo)
        with prepared(options.folder) as found, with_name(found, read_files(found), options.repo) as (folder, files):
            return _list_or_push(folder, options, files, api or HfApi(), repo_type, space_sdk)
    except (HfHubHTTPError, *CONNECTION_ERRORS) as error:
        reason = " ".join(str(error).split())[:300]
        sys.stderr.write(
            f"error: {options.repo} was not sent: {reason}. Log in (hf auth login), check the connection, "
        )
        sys.stderr.write("then run the same command: it goes on where it stopped\n")
        return 1
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2


def _list_or_push(
    folder: Path,
    options: argparse.Namespace,
    files: Sequence[RepositoryFile],
    api: HfApi,
    repo_type: str,
    space_sdk: str | None,
) -> int:
    for file in files:
        sys.stdout.write(f"{file.size:14,d}  {file.path}\n")
    total = f"{len(files)} files, {sum(file.size for file in files):,} bytes"
    if not options.push:
        sys.stdout.write(f"{total}: nothing was sent; add --push to send them to {options.repo}\n")
        return 0
    address, is_new = push(
        api, folder, files, options.repo, repo_type=repo_type, space_sdk=space_sdk, public=options.public
    )
    sys.stdout.write(f"{total}: {address} {'is up to date' if is_new else 'was up to date, no commit was made'}\n")
    return 0
