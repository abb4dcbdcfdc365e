# SPDX-License-Identifier: Apache-2.0
"""Errors as one line on stderr and an exit code, instead of a traceback."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

import torch
import typer
from huggingface_hub.errors import StrictDataclassError

RUN_BROKE_OFF = 1
WRONG_INPUT = 2
# a config's field of a wrong type is a StrictDataclassError
EXPECTED_ERRORS = (ValueError, OSError, torch.OutOfMemoryError, StrictDataclassError)


def describe_error(error: Exception) -> tuple[str, int]:
    """What to tell the user about an expected error, and the exit code."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        where = f" while writing {error.filename}" if error.filename else ""
        return (
            f"the disk is full{where}: free some space, then run the same command again (predict: with --resume)",
            RUN_BROKE_OFF,
        )
    if isinstance(error, (FileExistsError, NotADirectoryError)):
        return f"{error.filename} is a file where a folder is needed: name another --output", WRONG_INPUT
    if isinstance(error, OSError) and error.errno == errno.EROFS:
        return f"{error.filename} lies on a disk that cannot be written: name another --output", WRONG_INPUT
    if isinstance(error, torch.OutOfMemoryError):
        return "the device's memory is too small: use a smaller --batch-size, or --device cpu", RUN_BROKE_OFF
    if isinstance(error, OSError) and not error.filename:  # ours: the message says what to do
        return str(error), WRONG_INPUT if isinstance(error, (PermissionError, FileNotFoundError)) else RUN_BROKE_OFF
    if isinstance(error, PermissionError):
        return f"no permission for {error.filename}: change its access rights or choose another place", WRONG_INPUT
    if isinstance(error, FileNotFoundError):
        return f"{error.filename} does not exist: check the path", WRONG_INPUT
    if isinstance(error, OSError):
        return str(error), RUN_BROKE_OFF
    return " ".join(str(error).split()), WRONG_INPUT


def show_error(message: str) -> None:
    typer.echo(f"error: {message}", err=True)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn expected errors of the body into a line and an exit; let programming errors through."""
    try:
        yield
    except EXPECTED_ERRORS as error:
        message, code = describe_error(error)
        show_error(message)
        raise typer.Exit(code) from error
