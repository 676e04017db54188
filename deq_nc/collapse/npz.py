"""Collapse of features saved by any framework: one .npz file in, one Collapse out."""

from __future__ import annotations

import os
import zipfile
import zlib
from typing import BinaryIO

import numpy as np

from .measure import Collapse, measure

REQUIRED = {"features": "[N, D]", "labels": "[N]", "weights": "[K, D]"}
OPTIONAL = {"bias": "[K]", "majority": "[K] bool", "mask": "[N] bool"}


def measure_npz(path: str | os.PathLike) -> Collapse:
    """`measure` of an .npz: features [N, D], labels [N], weights [K, D], perhaps bias, majority [K], mask [N].

    K is the number of rows of weights. Raises FileNotFoundError, and ValueError for a file that is not an .npz, that
    would need pickle, or lacks a key; otherwise as `measure`.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(
            f"{path}: no such file. Write one with numpy.savez(path, features=..., labels=..., ...)."
        )
    with open(path, "rb") as file:  # opened here: np.load leaves a broken file open
        arrays = _read_all(file, path)
    if arrays["weights"].ndim != 2:
        raise ValueError(f"{path}: weights: expected shape [K, D], got {list(arrays['weights'].shape)}.")
    return measure(**arrays, num_classes=len(arrays["weights"]))


def _read_all(file: BinaryIO, path: str | os.PathLike) -> dict[str, np.ndarray]:
    try:
        archive = np.load(file, allow_pickle=False)
    except (zipfile.BadZipFile, EOFError, OSError, ValueError) as error:
        raise ValueError(f"{path}: not an .npz archive. Write it with numpy.savez.") from error
    if not hasattr(archive, "files"):
        raise ValueError(f"{path}: expected an .npz archive, got a single array. Use numpy.savez.")
    missing = [f"{key} {shape}" for key, shape in REQUIRED.items() if key not in archive.files]
    if missing:
        found = ", ".join(archive.files) or "nothing"
        raise ValueError(f"{path}: missing {', '.join(missing)}; found {found}. Save them under these names.")
    return {key: _read(archive, key, path) for key in (*REQUIRED, *OPTIONAL) if key in archive.files}


def _read(archive: np.lib.npyio.NpzFile, key: str, path: str | os.PathLike) -> np.ndarray:
    try:
        return archive[key]
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise ValueError(f"{path}: {key} is damaged ({error}). Write the file again.") from error
    except ValueError as error:
        if "pickle" not in str(error).lower():
            raise ValueError(f"{path}: {key} is damaged ({error}). Write the file again.") from error
        raise ValueError(
            f"{path}: {key} would need pickle, which can run code; refused. Save a plain array."
        ) from error
