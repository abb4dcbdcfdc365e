# SPDX-License-Identifier: Apache-2.0
"""MATLAB files: older ones through SciPy, version 7.3 (which is HDF5) through h5py, both in the extra `data`."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

MASK_KEYS = ("I", "eyeMap")  # DHF1K, Hollywood-2 and UCF-Sports; the STAViS release
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
INSTALL = "install it with: pip install 'video-saliency[data]'"


class MissingPackageError(ImportError, ValueError):
    """An optional package is needed. A ValueError too, so that the command line shows it as one line."""


def is_version_73(path: Path) -> bool:
    """Whether a MATLAB file was saved with `-v7.3`.

    Raises:
        OSError: if the file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(520)
    return head.startswith(b"MATLAB 7.3") or HDF5_SIGNATURE in (head[:8], head[512:520])


def read_mask(path: Path) -> np.ndarray:
    """Where a mask file is above 0: bool `(height, width)`.

    The variable is called `I` or `eyeMap`, or is the only matrix in the file.

    Raises:
        MissingPackageError: if SciPy, or h5py for version 7.3, is not installed.
        ValueError: if there is no such variable, or the file is damaged.
        OSError: if the file cannot be read.
    """
    variables = read_variables(path)
    matrices = {name: value for name, value in variables.items() if _is_matrix(value)}
    key = next((key for key in MASK_KEYS if key in matrices), None)
    if key is None and len(matrices) == 1:
        key = next(iter(matrices))
    if key is None:
        raise ValueError(
            f"{path} has no mask: expected a matrix I or eyeMap, found {', '.join(variables) or 'nothing'}"
        )
    mask: np.ndarray = matrices[key] > 0
    return mask


def read_variables(path: Path) -> dict[str, Any]:
    """The variables of a MATLAB file by name: arrays with single dimensions dropped only in structs.

    A struct is an object with attributes, an array of structs an object array of them, a cell array an object array.

    Raises:
        as `read_mask`.
    """
    if is_version_73(path):
        return _guarded(path, lambda: _read_hdf5(path))
    try:
        from scipy.io import loadmat, matlab  # only for MATLAB files
    except ImportError as error:
        raise MissingPackageError(f"{path} is a MATLAB file, which needs SciPy: {INSTALL}") from error
    errors = (matlab.MatReadError, zlib.error)
    content = _guarded(path, lambda: loadmat(path, struct_as_record=False), errors)
    return {name: value for name, value in content.items() if not name.startswith("__")}


def read_field(path: Path, struct: str, field: str) -> np.ndarray:
    """A numeric field of a struct variable as float64, e.g. `Data.fixdata`.

    Raises:
        as `read_mask`.
    """
    value = read_variables(path).get(struct)
    if isinstance(value, np.ndarray) and value.dtype == object and value.size == 1:
        value = value.item()
    found = value.get(field) if isinstance(value, dict) else getattr(value, field, None)
    if found is None:
        raise ValueError(f"{path} has no {struct}.{field}: it is not the file that was expected")
    return np.asarray(found, dtype=np.float64)


def read_names(path: Path) -> list[str]:
    """The strings of the first cell array (or character matrix) of a file, in MATLAB's order.

    Raises:
        as `read_mask`.
    """
    for value in read_variables(path).values():
        array = np.asarray(value)
        if array.dtype == object:
            return [_text(entry) for entry in array.ravel(order="F")]
        if array.dtype.kind == "U":
            return [str(entry).strip() for entry in array.ravel(order="F")]
    raise ValueError(f"{path} has no list of names: it is not the file that was expected")


def _read_hdf5(path: Path) -> dict[str, Any]:
    try:
        import h5py  # only for MATLAB files of version 7.3
    except ImportError as error:
        raise MissingPackageError(f"{path} is a MATLAB file of version 7.3, which needs h5py: {INSTALL}") from error
    with h5py.File(path, "r") as file:
        return {name: _hdf5_value(h5py, file, file[name]) for name in file if not name.startswith("#")}


def _hdf5_value(h5py: Any, file: Any, node: Any) -> Any:
    if isinstance(node, h5py.Group):
        return {name: _hdf5_value(h5py, file, node[name]) for name in node}
    array = node[()]
    if isinstance(array, np.ndarray) and array.dtype == h5py.ref_dtype:
        cells = np.empty(array.shape, dtype=object)
        for place, reference in np.ndenumerate(array):
            cells[place] = _hdf5_value(h5py, file, file[reference])
        return cells.T
    if node.attrs.get("MATLAB_class") == b"char":
        return "".join(chr(code) for code in np.ravel(array))
    return np.asarray(array).T  # MATLAB stores columns first


def _guarded(
    path: Path, read: Callable[[], dict[str, Any]], errors: tuple[type[Exception], ...] = ()
) -> dict[str, Any]:
    """What `read` gives, its errors about the content of the file as one of ours."""
    damage: tuple[type[Exception], ...] = (OSError, ValueError, TypeError, LookupError, NotImplementedError, EOFError)
    try:
        return read()
    except (MissingPackageError, FileNotFoundError, PermissionError):
        raise
    except damage + errors as error:
        raise ValueError(f"{path} is a damaged MATLAB file ({error}): copy or download it again") from error


def _is_matrix(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.ndim == 2 and value.dtype.kind in "buif"


def _text(entry: Any) -> str:
    if isinstance(entry, np.ndarray):
        return "".join(str(part) for part in entry.ravel())
    return str(entry)
