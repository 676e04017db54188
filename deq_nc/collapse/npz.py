"""Collapse of features saved by any framework: one .npz file in, one Collapse out."""

from __future__ import annotations

import os
from typing import Any

import jax.numpy as jnp

from deq_nc.npz import Header, Npz, NpzError, free_memory

from .measure import Collapse, measure

# Letters of the shape, and what numpy or jax call the kinds of numbers.
EXPECTED = {
    "features": ("ND", (jnp.floating,), "floating point"),
    "labels": ("N", (jnp.integer,), "integers"),
    "weights": ("KD", (jnp.floating,), "floating point"),
    "bias": ("K", (jnp.floating,), "floating point"),
    "majority": ("K", (jnp.bool_,), "booleans"),
    "mask": ("N", (jnp.bool_, jnp.integer), "booleans"),
}
REQUIRED = ("features", "labels")
COPIES = 3  # of what the file holds: as it was read, on the device, and chunks of a pass
TABLES = 40  # bytes a pair of classes: some ten [K, K] tables of float32


def measure_npz(path: str | os.PathLike) -> Collapse:
    """`measure` of an .npz: features [N, D], labels [N], perhaps weights [K, D], bias, majority [K], mask [N].

    K is the number of rows of weights, else of majority, else one more than the largest label. Raises
    FileNotFoundError, and NpzError (a ValueError), before an array is read, for what `deq_nc.npz.Npz` refuses, a key
    that is missing, and shapes, dtypes and sizes that cannot be measured; otherwise as `measure`.
    """
    file = Npz(path)
    if missing := [f"{key} {_shape(key)}" for key in REQUIRED if key not in file]:
        found = ", ".join(name if name.isidentifier() else repr(name) for name in list(file)[:20]) or "nothing"
        raise NpzError(f"{path}: missing {', '.join(missing)}; found {found}. Save them under these names.")
    headers = {key: file.headers[key] for key in EXPECTED if key in file}
    sizes: dict[str, int] = {}
    for key, header in headers.items():
        _check(path, key, header, sizes)
    need = COPIES * sum(header.nbytes for header in headers.values()) + TABLES * sizes.get("K", 0) ** 2
    if need > (free := free_memory()):
        raise NpzError(
            f"{path}: expected arrays to measure in {free / 1e9:.1f} GB of memory, got some that take {need / 1e9:.3g} "
            "GB. Save fewer rows, or use deq_nc.collapse.measure_stream."
        )
    arrays = {key: file[key] for key in headers}
    classes = sizes.get("K") or int(arrays["labels"].max(initial=0, where=arrays.get("mask", True))) + 1
    if classes > max(sizes["N"], 2) and "K" not in sizes:
        raise NpzError(f"{path}: labels: expected 0..K-1 with K <= N = {sizes['N']}, got {classes - 1}. Renumber them.")
    try:
        given: dict[str, Any] = {"weights": None, **arrays}
        return measure(**given, num_classes=max(classes, 2))
    except ValueError as error:
        raise NpzError(f"{path}: {error}") from error


def _shape(key: str) -> str:
    return f"[{', '.join(EXPECTED[key][0])}]"


def _check(path: str | os.PathLike, key: str, header: Header, sizes: dict[str, int]) -> None:
    """NpzError where a header is not what `key` must be beside the sizes N, D, K known so far; adds to them."""
    letters, kinds, words = EXPECTED[key]
    shape = header.shape
    if header.dtype.hasobject:
        raise NpzError(f"{path}: {key} would need pickle, which can run code; refused. Save a plain array.")
    if not header.plain or not any(jnp.issubdtype(header.dtype, kind) for kind in kinds):
        raise NpzError(f"{path}: {key}: expected {words}, got {header.dtype}. Convert them first.")
    if len(shape) != len(letters) or any(sizes.setdefault(a, n) != n for a, n in zip(letters, shape)):
        known = ", ".join(f"{a} = {sizes[a]}" for a in letters if a in sizes)
        known = f" with {known}" if known and len(shape) == len(letters) else ""
        turned = " Pass weights.T." if key == "weights" and shape[:1] == (sizes["D"],) else ""
        raise NpzError(f"{path}: {key}: expected shape {_shape(key)}{known}, got {list(shape)}.{turned}")
